/* SPDX-License-Identifier: MIT */
/*
 * What userfaultfd can do here and for whom, for bbctl doctor. Pure looking:
 * nothing is registered and nothing stays open. It depends on libc alone, so
 * that a program other than bbd can link it.
 */
#ifndef BB_DAEMON_PAGER_PROBE_H
#define BB_DAEMON_PAGER_PROBE_H

#include <stdbool.h>

#define BB_UFFD_DEVICE "/dev/userfaultfd"
#define BB_UFFD_SYSCTL "vm.unprivileged_userfaultfd"

/* In the order in which libbb.so tries them. */
enum bb_uffd_way {
	BB_UFFD_BY_DEVICE = 0,
	BB_UFFD_BY_SYSCALL,
	BB_UFFD_USER_MODE, /* faults of the program itself alone, none of the kernel's */
	BB_UFFD_NONE,
};

struct bb_uffd_probe {
	enum bb_uffd_way way;	/* for the caller, with its rights */
	int error;		/* BB_UFFD_NONE: why, an errno */
	bool move, poison, thread_id;
	bool device_for_all;	/* any user may open BB_UFFD_DEVICE */
	int unprivileged;	/* BB_UFFD_SYSCTL: 0, 1, or -1: there is none */
};

void bb_uffd_probe(struct bb_uffd_probe *p);

#endif
