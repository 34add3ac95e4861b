/* SPDX-License-Identifier: MIT */
/*
 * Makes the AF_XDP socket of the pager that asks for pages (net/xsk.h), has the
 * device's program lead answers to it, and takes it back. The steer thread's,
 * which has the rights for it and looks at the device now and then.
 */
#ifndef BB_DAEMON_SOCKETS_H
#define BB_DAEMON_SOCKETS_H

#include "steer/pins.h"

struct bb_xsk;

struct bb_sockets {
	const char *dev;
	const char *dir;	/* of the device's pins */
	int fd;			/* to ask for the device's address */
	int map;		/* bb_xsk; -1: not open */
	struct bb_xsk *x;	/* there is one for a device's queue; NULL: none */
	unsigned int user;	/* whose it is */
	unsigned int ifindex;
	uint8_t mac[6];
	bool led;		/* answers are led to it */
	uint64_t again_at;	/* after a failure */
	int said;		/* that failure */
};

void bb_sockets_init(struct bb_sockets *s, const char *dev, const char *dir);
/* attached: are the pins there? Call it twice a second. Return: milliseconds until it should be called again. */
int bb_sockets_look(struct bb_sockets *s, bool attached);
/* The pins are others now. */
void bb_sockets_forget(struct bb_sockets *s);
/* Once their users have ended. */
void bb_sockets_fini(struct bb_sockets *s);

#endif
