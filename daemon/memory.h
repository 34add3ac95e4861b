/* SPDX-License-Identifier: MIT */
/*
 * How much memory there is for us: the host's, or what its cgroups leave of it.
 * Both versions of cgroups, and every ancestor: the least bound holds.
 */
#ifndef BB_DAEMON_MEMORY_H
#define BB_DAEMON_MEMORY_H

#include <stdint.h>

/*
 * root: "" but in tests, where it is a directory that holds proc/ and sys/.
 * Return: bytes; 0 where the host's own figures cannot be read.
 */
uint64_t bb_memory_total(const char *root);
/* Free, or to be had without swapping. */
uint64_t bb_memory_available(const char *root);

#endif
