/* SPDX-License-Identifier: MIT */
/*
 * The pinned maps of one device, and bpf(2), which nobody else in bbd calls
 * (`make lint`). By the system call rather than libbpf: what is needed of it is
 * a dozen lines, and libbpf would bring an ELF reader into the daemon.
 */
#ifndef BB_DAEMON_PINS_H
#define BB_DAEMON_PINS_H

#include <bluebridge/steer.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

struct bb_pins {
	int slabs, count;		/* descriptors; -1 while closed */
	struct bb_steer_cfg *cfg;	/* mapped; NULL while closed */
	int policy;
	int over, nodes, adopted, dev;	/* -1: of an older bbload, no extent can move */
	struct stat seen[2];		/* the pins of bb_cfg and bb_slabs, as they were opened */
};

/*
 * Opens the maps in the directory. Return: 0; -ENOENT where nothing, or not
 * all, is attached; another -errno with why filled in.
 */
int bb_pins_open(struct bb_pins *p, const char *dir, char *why, size_t size);
void bb_pins_close(struct bb_pins *p);
/* Are the pins in the directory still those that were opened? */
bool bb_pins_same(const struct bb_pins *p, const char *dir);

/* A map for a slab, all zeros. Return: fd or -errno. */
int bb_pins_new_slab(void);
/* Puts a slab's map under its index, if it is not there yet. Return: 0 or -errno. */
int bb_pins_put_slab(const struct bb_pins *p, uint32_t index, int fd);
/* Takes out all slabs below cfg->bytes but those whose index says so. */
void bb_pins_clear_slabs(const struct bb_pins *p, const uint8_t *stays);

/* --- what moved; only where over is not -1 --- */

/* Sets one, or takes it away where value is NULL; the count in bb_cfg stays right. Return: 0 or -errno. */
int bb_pins_override(const struct bb_pins *p, const struct bb_over_key *key, const struct bb_over *value);
int bb_pins_node(const struct bb_pins *p, uint16_t node, const struct bb_node *n);
int bb_pins_adopted(const struct bb_pins *p, const struct bb_adopted_key *key, const struct bb_adopted *value);
/* What bbload says of the device. Return: 0 or -errno. */
int bb_pins_dev(const struct bb_pins *p, struct bb_dev *out);
/* Copies of all entries, to be freed. Return: how many. */
uint32_t bb_pins_overrides(const struct bb_pins *p, struct bb_over_key **keys, struct bb_over **values);
uint32_t bb_pins_all_adopted(const struct bb_pins *p, struct bb_adopted_key **keys, struct bb_adopted **values);

/* The map of AF_XDP sockets. Return: fd or -errno: a bbload that is older has none. */
int bb_pins_open_sockets(const char *dir);
int bb_pins_put_socket(int map, uint32_t user, int fd);

/* Adds up a counter over the CPUs. Return: its value, 0 where there is none. */
uint64_t bb_pins_count(const struct bb_pins *p, uint32_t which);

#endif
