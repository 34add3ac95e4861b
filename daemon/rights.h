/* SPDX-License-Identifier: MIT */
/*
 * The least rights: what bbd gives up once it runs, thread by thread.
 *
 *	thread	  effective capabilities	system calls
 *	main	  CAP_NET_ADMIN with routes	all but a few (it starts an upgrade)
 *	server	  CAP_NET_ADMIN with routes	allow-list
 *	pager	  none				allow-list
 *	control	  none				allow-list
 *	mover	  none				a pager's
 *	scrubber  none				allow-list
 *	rdma	  none				allow-list, with the home's calls and a verbs
 *					device's ioctls; where there is one, server,
 *					pager, mover and control may make these too
 *	steer	  CAP_BPF, CAP_PERFMON, and	allow-list, the only one with bpf
 *		  with xdp CAP_NET_RAW, CAP_IPC_LOCK
 *
 * Names of peers are looked up in threads that the server starts: they have its
 * rights. Main only waits, and sees no byte from outside. It keeps CAP_NET_ADMIN among
 * its permitted ones unless bbd is embedded, CAP_NET_BIND_SERVICE for a port
 * below 1024, and what steer has where there is one: the bbd that follows by an
 * upgrade in place can have no more. (CAP_PERFMON: without it the kernel makes
 * maps twice as large, against Spectre; no call that it opens is on the list.)
 * Pointer addresses need none: IPV6_FREEBIND and IPV6_PKTINFO are free.
 *
 * A call outside of a thread's list is refused with EPERM and named once on
 * standard error; bbd goes on, because it holds other hosts' memory and because
 * a new C library must not take a cluster down. Calls that only an intruder
 * makes (execve, ptrace, mount, ...) end bbd with status BB_RIGHTS_EXIT.
 */
#ifndef BB_DAEMON_RIGHTS_H
#define BB_DAEMON_RIGHTS_H

#include <stdbool.h>
#include <stdint.h>

#define BB_RIGHTS_EXIT 3

enum bb_role {
	BB_ROLE_MAIN,
	BB_ROLE_CONTROL,
	BB_ROLE_PAGER,
	BB_ROLE_SERVER,
	BB_ROLE_SCRUBBER,
	BB_ROLE_STEER,
	BB_ROLE_RDMA,
	BB_ROLE_MAX,
};

struct bb_rights_config {
	bool filter;	/* of system calls */
	bool routes;	/* CAP_NET_ADMIN goes on being used */
	bool network;	/* not embedded */
	bool low_port;	/* below 1024 */
	bool kernel;	/* maps of BPF programs are filled */
	bool xdp;	/* and AF_XDP sockets made */
	bool store;	/* slabs are files, made as they are needed */
	bool rdma;	/* a NIC is driven through /dev/infiniband: bb_rights_rdma() sets it */
	bool names;	/* of peers, to be looked up while it runs */
};

/* By main, before other threads: what is of the whole process. Says what could not be done. */
void bb_rights_start(const struct bb_rights_config *cfg);

/*
 * By each thread, first thing; by main, last thing before it waits. Does
 * nothing where bb_rights_start was not called (tests).
 */
void bb_rights_thread(enum bb_role role);
/* Its capabilities alone. */
void bb_rights_drop(enum bb_role role);
/* From now on threads may drive a NIC: it was found. Before any of them is filtered. */
void bb_rights_rdma(void);
/*
 * The same, with fn(arg) called between: without capabilities, with all system calls.
 * For files that the kernel lets only those credentials write to that opened them
 * (/dev/infiniband/rdma_cm).
 */
void bb_rights_thread_with(enum bb_role role, void (*fn)(void *arg), void *arg);

/* "on", or "off (WHY)". */
const char *bb_rights_filter(void);
/* Calls refused so far, and the name of the last. */
uint64_t bb_rights_refused(const char **last);

/* --- filter.c: for rights.c ------------------------------------------------ */

/* Fills in the names of system calls and takes SIGSYS. */
void bb_filter_start(void);
/* Filters the calling thread. Return: 0 or -errno. */
int bb_filter_thread(enum bb_role role, const struct bb_rights_config *cfg);
uint64_t bb_filter_refused(const char **last);

#endif
