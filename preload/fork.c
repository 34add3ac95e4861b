/* SPDX-License-Identifier: MIT */
/*
 * fork(2).
 *
 * Theory of operation
 * -------------------
 * While nothing is paged the kernel's own copy-on-write is all there is to do.
 *
 * Once the program is attached its memory is MADV_DONTFORK, so that a raw
 * clone(2) that bypasses us leaves the child without it (SIGSEGV) rather than
 * with zeros. fork() passes through the handlers here: before, the allocator
 * and the helper come to rest, bbd finishes the fills under way and starts
 * nothing new (FREEZE), and the memory is made inheritable. In the child the
 * resident pages are then the kernel's copy-on-write; for the others the child
 * takes a copy of the page words, opens a userfaultfd of its own, and attaches
 * as a child of the parent's region: home memory is read by both, and each
 * writes elsewhere from then on. bbd lets the parent go on when the child has
 * attached (or has failed to: the freeze has a deadline).
 *
 * A child that cannot attach loses sight of the paged memory, loudly: its
 * mapping is made inaccessible.
 *
 * Lock order: as in private.h; both locks are held across the fork.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <bluebridge/local.h>

#include "log.h"
#include "private.h"

static uint64_t token; /* of the freeze under way; 0: none */

static int tell(uint32_t op)
{
	struct bb_msg m = { .magic = BB_MSG_MAGIC, .op = op };

	return send(bb_rg.sock, &m, sizeof(m), MSG_NOSIGNAL) == sizeof(m) ? 0 : -EPIPE;
}

static void inherit(int advice)
{
	(void)bb_sys_madvise((void *)bb_rg.base, (size_t)bb_rg.rw_top << BB_EXTENT_SHIFT, advice);
}

static void prepare(void)
{
	struct bb_region *g = &bb_rg;
	struct bb_msg m = { 0 };
	int keep = errno;

	bb_lock(&g->lock);
	token = 0;
	if (g->attached != BB_ATTACHED)
		return;
	bb_lock(&g->evicting);
	if (tell(BB_MSG_FREEZE) < 0 || bb_sock_read(g->sock, &m, sizeof(m)) < 0 || m.magic != BB_MSG_MAGIC ||
	    !m.token) {
		bb_warn("fork: bbd does not answer: the child will not see memory that is paged");
	} else {
		token = m.token;
		inherit(MADV_DOFORK);
	}
	errno = keep;
}

static void parent(void)
{
	struct bb_region *g = &bb_rg;
	int keep = errno;

	if (g->attached == BB_ATTACHED) {
		if (token)
			inherit(MADV_DONTFORK);
		bb_unlock(&g->evicting);
	}
	bb_unlock(&g->lock);
	errno = keep;
}

static void child(void)
{
	struct bb_region *g = &bb_rg;
	int keep = errno;

	if (g->attached == BB_ATTACHED || g->attached == BB_ALONE) {
		bool was = g->attached == BB_ATTACHED;

		g->helper_runs = false;
		if (was)
			bb_unlock(&g->evicting);
		if (!was || !token || bb_attach_child(token) < 0) {
			/* The books are the parent's: see region.c, BB_CHILD. */
			g->attached = BB_CHILD;
			bb_region_min = SIZE_MAX;
			for (uint32_t e = 0; e < g->rw_top; e++)
				if (bb_xstate(e) != BB_X_LOCAL)
					(void)bb_sys_mprotect((void *)bb_addr_of((uint64_t)e * BB_EXTENT_PAGES),
							      BB_EXTENT_SIZE, PROT_NONE);
		}
	}
	bb_unlock(&g->lock);
	errno = keep;
}

int bb_fork_init(void)
{
	return -pthread_atfork(prepare, parent, child);
}
