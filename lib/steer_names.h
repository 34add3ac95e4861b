/* SPDX-License-Identifier: MIT */
/* Names of what the BPF programs share (steer.h), for people, scripts and paths. */
#ifndef BB_LIB_STEER_NAMES_H
#define BB_LIB_STEER_NAMES_H

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "read"; NULL where the protocol has no such command. */
const char *bb_cmd_name(unsigned int cmd);
/* A name or a number. Return: 0 to 127, or -EINVAL. */
int bb_cmd_parse(const char *s);

/* "forward"; NULL where there is none. */
const char *bb_action_name(unsigned int action);
/* Return: enum bb_action, or -EINVAL. */
int bb_action_parse(const char *s);

/* Of the counters that are no commands' (enum bb_steer_count): "ndp", "drop_tag"; NULL where there is none. */
const char *bb_steer_count_name(unsigned int which);

/*
 * The name of a device's directory below BB_STEER_FS: nINODE:DEV, where a dot of
 * DEV is a colon. bpffs allows no dot in names, the kernel no colon in those of
 * devices. dev NULL: the maps that the ports of a namespace's switch share, nINODE.
 * netns: the inode of its file, st_ino. Return: 0 or -ENAMETOOLONG.
 */
int bb_steer_dir(char *buf, size_t size, uint64_t netns, const char *dev);
/* The other way; dev is "" for a switch's maps. Return: is it such a name? */
bool bb_steer_dir_parse(const char *name, uint64_t *netns, char dev[IF_NAMESIZE]);

#endif
