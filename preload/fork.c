/* SPDX-License-Identifier: MIT */
/*
 * fork(2). While nothing is paged the kernel's own copy-on-write is all there
 * is to do. Once the program is attached its paged extents are MADV_DONTFORK:
 * a child that goes on to exec never notices, and one that touches the
 * parent's paged memory dies by SIGSEGV rather than read zeros. Such a child
 * takes new memory from the C library, and what it frees of the region is
 * simply left: the books belong to the parent.
 */
#include <errno.h>
#include <pthread.h>

#include "fds.h"
#include "log.h"
#include "private.h"

static void prepare(void)
{
	bb_lock(&bb_rg.lock);
}

static void parent(void)
{
	bb_unlock(&bb_rg.lock);
}

static void child(void)
{
	bb_unlock(&bb_rg.lock);
	if (bb_rg.attached != BB_ATTACHED && bb_rg.attached != BB_ALONE)
		return;
	/* The parent's books are shared memory: leave them alone. */
	bb_rg.attached = BB_CHILD;
	bb_rg.helper_runs = false;
	bb_region_min = SIZE_MAX;
	/* bbd takes the end of the socket for the end of the program. */
	bb_fd_close(bb_rg.sock);
	bb_fd_close(bb_rg.uffd);
	bb_fd_close(bb_rg.memfd);
	bb_fd_close(bb_rg.kick);
}

int bb_fork_init(void)
{
	return -pthread_atfork(prepare, parent, child);
}
