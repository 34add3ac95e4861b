/* SPDX-License-Identifier: MIT */
/*
 * Taking pages out on kernels that cannot move them (no UFFDIO_MOVE: before 6.8).
 *
 * Theory of operation
 * -------------------
 * Copying a page and then discarding it (MADV_DONTNEED) would lose what is
 * stored between the two, and write protection cannot mend that: it stops the
 * program, but not a device, or a system call, that holds the page pinned. The
 * kernel has one operation that discards a page only where nobody has changed
 * it and nobody else holds it: reclaim of a page that was given to MADV_FREE.
 * MADV_PAGEOUT does it at once, swap or no swap. So, for a batch:
 *
 *	touch		a store of what is there makes the page this process's own
 *	vmsplice	a pipe takes a reference to each page; nothing is copied
 *	MADV_FREE	from here on a store, or the end of a pin, marks it dirty
 *	read		the pipe's reference is used up by copying the page out
 *	MADV_PAGEOUT	drops the page if it is clean and nobody's but ours
 *
 * The copy is made after the mark was cleared, so a page that is dropped is
 * equal to its copy. While the pipe holds it the kernel cannot drop it before
 * the copy is made. It has to be our own by then: a page that was shared with a
 * forked child would be copied on the next store, and the pipe hold the old one
 * while the new one is dropped. That the child has gone is not enough, for the
 * kernel finds that out only when it is stored to. No fork comes in between
 * (fork.c takes the lock), and no merging of equal pages (no_merging). Swapping out
 * could, in the instant between the first two steps, on a device that wants stable
 * writes (zram) and is not done with the page: it was stored to just then, so that
 * only a reclaim that is told to take even such pages does it.
 *
 * What remains was stored to, is pinned, or was in the kernel's hands: it stays.
 * It is made dirty first, or the kernel could drop it later; and that by a futex
 * operation (OR of 0), for this is the one store that fails on a missing page
 * instead of waiting for us, its own pager.
 *
 * The kernel looks at references in this order since 5.18 ("mm: fix race between
 * MADV_FREE reclaim and blkdev direct IO read"), and since 5.19 a page that is a
 * process's own stays so through swap, but for that.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <bluebridge/kernel.h>

#include "fds.h"
#include "log.h"
#include "private.h"

#ifndef PR_GET_MEMORY_MERGE /* Linux 6.4 */
#define PR_GET_MEMORY_MERGE 68
#endif

#define TRIES 20

static int pipe_in = -1, pipe_out = -1;

int bb_touch(uintptr_t at)
{
	static uint32_t nobody; /* waits here */

	return syscall(SYS_futex, &nobody, FUTEX_WAKE_OP_PRIVATE, 0, NULL, at,
		       FUTEX_OP(FUTEX_OP_OR, 0, FUTEX_OP_CMP_EQ, 0x7ff)) < 0
		       ? -errno
		       : 0;
}

static void pipe_close(void)
{
	bb_fd_close(pipe_in);
	bb_fd_close(pipe_out);
	pipe_in = pipe_out = -1;
}

static int pipe_new(void)
{
	int fd[2], r;

	pipe_close(); /* the parent's, in a fork child: its pages are not ours */
	if (pipe2(fd, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	/* Where it may not be larger the batches are smaller. */
	(void)fcntl(fd[1], F_SETPIPE_SZ, (int)(BB_DISCARD_MAX * BB_PAGE_SIZE));
	r = bb_fd_hide(fd[0]);
	pipe_out = r < 0 ? fd[0] : r;
	r = bb_fd_hide(fd[1]);
	pipe_in = r < 0 ? fd[1] : r;
	return 0;
}

/* How many of v[0..n) follow each other in memory. */
static unsigned int run_of(const struct iovec *v, unsigned int n)
{
	unsigned int k = 1;

	while (k < n && (uintptr_t)v[k].iov_base == (uintptr_t)v[k - 1].iov_base + BB_PAGE_SIZE)
		k++;
	return k;
}

static void advise_all(const struct iovec *v, unsigned int n, int advice)
{
	for (unsigned int i = 0, k; i < n; i += k) {
		k = run_of(v + i, n - i);
		/* Locked memory is refused: it stays, like all that is not gone in the end. */
		(void)bb_sys_madvise(v[i].iov_base, (size_t)k << BB_PAGE_SHIFT, advice);
	}
}

/* The flag is set before the kernel is asked to protect, and stays. */
static bool is_protected(uintptr_t at)
{
	return bb_rg.xp[bb_page_of(at) / BB_EXTENT_PAGES] & (BB_XP_PROT | BB_XP_FOREIGN);
}

/* PR_SET_MEMORY_MERGE makes all memory mergeable, that which is registered too. */
static void no_merging(const uintptr_t *page, unsigned int n)
{
	struct iovec v[BB_DISCARD_MAX];

	if (prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) <= 0)
		return;
	for (unsigned int i = 0; i < n; i++)
		v[i] = (struct iovec){ (void *)page[i], BB_PAGE_SIZE };
	advise_all(v, n, MADV_UNMERGEABLE);
}

/* Nothing is there, and that is why it could not be touched. */
static bool is_missing(uintptr_t at, int err)
{
	int has = bb_page_has_content(at);

	/* Without /proc: where nothing else can have refused the store. */
	return has < 0 ? err == -EFAULT && bb_region_has((void *)at) && !is_protected(at) : !has;
}

/*
 * Makes pages our own, and lets the pipe take hold of them, one by one: between the
 * two nothing may come that makes a page shared again. Return: of how many it has.
 * Those that are not there are EMPTY.
 */
static unsigned int hold(const uintptr_t *page, unsigned int n, enum bb_discarded *out, struct iovec *v,
			 unsigned char *at)
{
	unsigned int held = 0;

	for (unsigned int i = 0; i < n; i++) {
		int r = bb_touch(page[i]);

		if (r < 0) {
			if (is_missing(page[i], r))
				out[i] = BB_DISCARD_EMPTY;
			continue;
		}
		v[held] = (struct iovec){ (void *)page[i], BB_PAGE_SIZE };
		/* Not to be read, or the pipe is full: it stays. */
		if (vmsplice(pipe_in, v + held, 1, SPLICE_F_NONBLOCK) != BB_PAGE_SIZE)
			continue;
		at[held++] = (unsigned char)i;
	}
	return held;
}

/* Copies what the pipe holds to the staging places, and lets go of it. Return: of how many, all but for a fault. */
static unsigned int copy_out(const unsigned char *at, unsigned int n, uint8_t *to)
{
	struct iovec v[BB_DISCARD_MAX];
	unsigned int done = 0;

	for (unsigned int i = 0; i < n; i++)
		v[i] = (struct iovec){ to + ((size_t)at[i] << BB_PAGE_SHIFT), BB_PAGE_SIZE };
	while (done < n) {
		ssize_t r = readv(pipe_out, v + done, (int)(n - done));

		if (r <= 0)
			break;
		done += (unsigned int)((size_t)r >> BB_PAGE_SHIFT);
		if (r & BB_PAGE_MASK)
			break; /* the pipe holds that page still */
	}
	return done;
}

void bb_discard(const uintptr_t *page, unsigned int n, uint8_t *to, enum bb_discarded *out)
{
	struct iovec v[BB_DISCARD_MAX];
	unsigned char at[BB_DISCARD_MAX];
	uint64_t pm[BB_DISCARD_MAX];
	unsigned int k, copied;

	for (unsigned int i = 0; i < n; i++)
		out[i] = BB_DISCARD_STAYS;
	no_merging(page, n);
	k = hold(page, n, out, v, at);
	if (!k)
		return;
	advise_all(v, k, MADV_FREE);
	/* What was not copied the pipe holds: it is there until it has been made dirty below. */
	copied = copy_out(at, k, to);
	advise_all(v, copied, MADV_PAGEOUT);
	for (unsigned int i = 0, run; i < k; i += run) {
		run = run_of(v + i, k - i);
		if (!bb_pagemap_look((uintptr_t)v[i].iov_base, pm + i, run))
			memset(pm + i, 0xff, run * sizeof(*pm));
	}
	for (unsigned int i = 0; i < k; i++) {
		bool gone = !(pm[i] & BB_PM_CONTENT);

		/* What cannot be touched has been dropped just now. */
		if (!gone && bb_touch((uintptr_t)v[i].iov_base) < 0)
			gone = !bb_pagemap_look((uintptr_t)v[i].iov_base, pm + i, 1) || !(pm[i] & BB_PM_CONTENT);
		if (gone && i < copied)
			out[at[i]] = BB_DISCARD_GONE;
	}
	if (copied < k)
		(void)pipe_new();
}

void bb_discard_split(uintptr_t extent)
{
	/* Advice for half of a huge page makes the kernel split it, which nobody may hold then. */
	(void)bb_sys_madvise((void *)extent, BB_EXTENT_SIZE / 2, MADV_COLD);
}

static bool new_enough(void)
{
	struct utsname u;
	unsigned int major, minor;

	return uname(&u) == 0 && sscanf(u.release, "%u.%u", &major, &minor) == 2 &&
	       (major > 5 || (major == 5 && minor >= 19));
}

/* Does it work here (a sandbox may refuse any of the calls)? One page is dropped, one that is held stays. */
static bool works(void)
{
	size_t len = 4 * BB_PAGE_SIZE;
	uint8_t *m = bb_sys_mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	enum bb_discarded out[2] = { BB_DISCARD_STAYS, BB_DISCARD_GONE };
	int hold_fd[2];
	bool ok = false;

	if (m == MAP_FAILED)
		return false;
	(void)bb_sys_munlock(m, len); /* mlockall */
	if (pipe2(hold_fd, O_CLOEXEC | O_NONBLOCK) == 0) {
		uintptr_t page[2] = { (uintptr_t)m, (uintptr_t)m + BB_PAGE_SIZE };
		struct iovec held = { m + BB_PAGE_SIZE, BB_PAGE_SIZE };
		struct uffdio_register reg = { .range = { page[0], 2 * BB_PAGE_SIZE },
					       .mode = UFFDIO_REGISTER_MODE_MISSING };

		memset(m, 0x5a, 2 * BB_PAGE_SIZE);
		/* Registered: a store fails on what is missing. A load would wait for ever. */
		if (ioctl(bb_rg.uffd, UFFDIO_REGISTER, &reg) == 0 &&
		    vmsplice(hold_fd[1], &held, 1, SPLICE_F_NONBLOCK) == BB_PAGE_SIZE) {
			bb_discard(page, 2, m + 2 * BB_PAGE_SIZE, out);
			ok = out[0] == BB_DISCARD_GONE && out[1] == BB_DISCARD_STAYS && m[2 * BB_PAGE_SIZE] == 0x5a &&
			     bb_touch(page[0]) == -EFAULT && bb_touch(page[1]) == 0;
		}
		bb_sys_close(hold_fd[0]);
		bb_sys_close(hold_fd[1]);
	}
	bb_sys_munmap(m, len);
	return ok;
}

int bb_discard_start(void)
{
	int r = pipe_new();

	if (r < 0)
		return r;
	/* A new page may be in another CPU's hands, where this thread was a moment ago. */
	for (unsigned int i = 0; i < TRIES && new_enough(); i++)
		if (works())
			return 0;
	pipe_close(); /* so all stays */
	return -EOPNOTSUPP;
}
