/* SPDX-License-Identifier: MIT */
/*
 * Keeps the program's hands off our descriptors; see fds.h. Shells, sshd,
 * Python's subprocess and daemons close "everything from 3 on": without this a
 * program would cut its own memory off.
 *
 * dup2 onto a hidden number is refused (EBADF, what the kernel says of numbers
 * beyond the limit) rather than served by moving ours away: other threads use
 * the number without a lock. Who gets at a hidden descriptor by a raw system
 * call is beyond our reach.
 */
#include "fds.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "real.h"

#define EXPORT __attribute__((visibility("default")))
/* A higher one would make the kernel's table, which fork copies, larger than it is worth. */
#define HIGH_MAX (1u << 16)

static _Atomic int hidden[BB_FDS_MAX]; /* number + 1; 0: free */
/* No hidden descriptor is below; only ever falls. Most calls stop here. */
static _Atomic int lowest = INT_MAX;

static bool is_hidden(int fd)
{
	if (fd < atomic_load_explicit(&lowest, memory_order_relaxed))
		return false;
	for (int i = 0; i < BB_FDS_MAX; i++)
		if (atomic_load(&hidden[i]) == fd + 1)
			return true;
	return false;
}

/* The smallest hidden descriptor from fd on; UINT_MAX: none. */
static unsigned int next_hidden(unsigned int fd)
{
	unsigned int best = UINT_MAX;

	for (int i = 0; i < BB_FDS_MAX; i++) {
		int h = atomic_load(&hidden[i]);

		if (h && (unsigned int)h - 1 >= fd && (unsigned int)h - 1 < best)
			best = (unsigned int)h - 1;
	}
	return best;
}

static int record(int fd)
{
	int low = atomic_load(&lowest);

	for (int i = 0; i < BB_FDS_MAX; i++) {
		int none = 0;

		if (!atomic_compare_exchange_strong(&hidden[i], &none, fd + 1))
			continue;
		while (fd < low && !atomic_compare_exchange_weak(&lowest, &low, fd))
			;
		return 0;
	}
	return -ENFILE;
}

int bb_fd_hide(int fd)
{
	struct rlimit lim = {.rlim_cur = 1024};
	int keep = errno, high, ret;

	getrlimit(RLIMIT_NOFILE, &lim);
	if (lim.rlim_cur > HIGH_MAX)
		lim.rlim_cur = HIGH_MAX;
	/* The kernel takes the next free number from there on. */
	high = lim.rlim_cur > 4 * BB_FDS_MAX ? (int)lim.rlim_cur - 2 * BB_FDS_MAX : (int)lim.rlim_cur / 2;
	high = fcntl(fd, F_DUPFD_CLOEXEC, high);
	if (high < 0) {
		ret = -errno;
		if (ret != -EMFILE && ret != -EINVAL)
			goto out;
		fcntl(fd, F_SETFD, FD_CLOEXEC);
		high = fd;
	}
	ret = record(high);
	if (ret < 0) {
		if (high != fd)
			syscall(SYS_close, high);
		goto out;
	}
	if (high != fd)
		syscall(SYS_close, fd);
	ret = high;
out:
	errno = keep;
	return ret;
}

void bb_fd_close(int fd)
{
	int keep = errno;

	if (fd < 0)
		return;
	for (int i = 0; i < BB_FDS_MAX; i++) {
		int h = fd + 1;

		if (atomic_compare_exchange_strong(&hidden[i], &h, 0))
			break;
	}
	syscall(SYS_close, fd);
	errno = keep;
}

/* --- the program's side --------------------------------------------------- */

static int not_open(void)
{
	errno = EBADF;
	return -1;
}

EXPORT int close(int fd)
{
	return __builtin_expect(is_hidden(fd), 0) ? not_open() : bb_real.close(fd);
}

EXPORT int dup2(int from, int to)
{
	return is_hidden(from) || is_hidden(to) ? not_open() : bb_real.dup2(from, to);
}

EXPORT int dup3(int from, int to, int flags)
{
	if (from != to && !(flags & ~O_CLOEXEC) && (is_hidden(from) || is_hidden(to)))
		return not_open();
	return bb_real.dup3(from, to, flags);
}

EXPORT int close_range(unsigned int first, unsigned int last, int flags)
{
	unsigned int h = next_hidden(first);

	if (first > last || h > last || h == UINT_MAX)
		return bb_real.close_range(first, last, flags);
	/* Around ours, one gap at a time; a bad flag is refused at the first. */
	for (;;) {
		if (h > last || h == UINT_MAX)
			return bb_real.close_range(first, last, flags);
		if (h > first && bb_real.close_range(first, h - 1, flags) < 0)
			return -1;
		if (h == last)
			return 0;
		first = h + 1;
		h = next_hidden(first);
	}
}

EXPORT void closefrom(int low)
{
	struct rlimit lim = {.rlim_cur = 1024};
	int keep = errno;

	if (low < 0)
		low = 0;
	if (bb_real.closefrom && next_hidden((unsigned int)low) == UINT_MAX) {
		bb_real.closefrom(low);
		return;
	}
	/* The C library's would close ours: it does not come by our close_range. */
	if (close_range((unsigned int)low, UINT_MAX, 0) < 0) {
		/* Linux before 5.9. */
		getrlimit(RLIMIT_NOFILE, &lim);
		for (int fd = low; fd >= 0 && (rlim_t)fd < lim.rlim_cur; fd++)
			close(fd);
	}
	errno = keep;
}
