/* SPDX-License-Identifier: MIT */
/*
 * What a directory would cost: a transport in front of another that asks a
 * directory server who has the page before each READ goes out, as systems do
 * whose pointers are not addresses. For the benchmark alone: BlueBridge has no
 * directory, and where BB_TEST_DIRECTORY is not set nothing of this exists.
 *
 * BB_TEST_DIRECTORY="ADDRESS PORT" names the server (scripts/bench/directory.c).
 * The question and the answer are one datagram each. The directory is told of a
 * page when it is written; one that it does not know all the same is entered by
 * a second question.
 */
#ifndef BB_DAEMON_DIRECTORY_H
#define BB_DAEMON_DIRECTORY_H

#include <stdint.h>

struct bb_net_shared;
struct bb_transport;

/* In host byte order: asker and server are of one build. */
struct bb_directory_msg {
	uint64_t id;
	uint64_t ptr;
	uint16_t home;	/* with ptr the name of the page */
	uint16_t owner; /* answer: who has it; question: 0, or whom to enter */
	uint32_t pad;
};

/*
 * *out: inner itself where nothing was asked for, else the new transport, which
 * inner belongs to then. Return: 0 or -errno.
 */
int bb_directory_new(struct bb_transport **out, struct bb_net_shared *sh, struct bb_transport *inner);

#endif
