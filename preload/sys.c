/* SPDX-License-Identifier: MIT */
/*
 * The kernel, called directly. The interposed mmap family must not be met by
 * our own bookkeeping, and the C library's wrappers may be somebody else's.
 * Return: the result, or -errno (pointers: MAP_FAILED with errno kept as it
 * was); errno is never changed.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <bluebridge/kernel.h>

#include "private.h"

void *bb_sys_mmap(void *addr, size_t len, int prot, int flags, int fd, int64_t off)
{
	int keep = errno;
	void *p = (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, off);

	errno = keep;
	return p;
}

static int neg_errno(long r, int keep)
{
	int e = errno;

	errno = keep;
	return r < 0 ? -e : (int)r;
}

int bb_sys_munmap(void *addr, size_t len)
{
	int keep = errno;

	return neg_errno(syscall(SYS_munmap, addr, len), keep);
}

int bb_sys_madvise(void *addr, size_t len, int advice)
{
	int keep = errno;

	return neg_errno(syscall(SYS_madvise, addr, len, advice), keep);
}

int bb_sys_munlock(void *addr, size_t len)
{
	int keep = errno;

	return neg_errno(syscall(SYS_munlock, addr, len), keep);
}

int bb_sys_mprotect(void *addr, size_t len, int prot)
{
	int keep = errno;

	return neg_errno(syscall(SYS_mprotect, addr, len, prot), keep);
}

void *bb_sys_mremap(void *old, size_t oldlen, size_t newlen, int flags, void *newaddr)
{
	int keep = errno;
	void *p = (void *)syscall(SYS_mremap, old, oldlen, newlen, flags, newaddr);

	errno = keep;
	return p;
}

void bb_futex_wait(_Atomic uint32_t *word, uint32_t value, uint64_t timeout_ns)
{
	struct timespec ts = {
		.tv_sec = (time_t)(timeout_ns / 1000000000ULL),
		.tv_nsec = (long)(timeout_ns % 1000000000ULL),
	};
	int keep = errno;

	syscall(SYS_futex, word, FUTEX_WAIT, value, &ts, NULL, 0);
	errno = keep;
}

void bb_futex_wake(_Atomic uint32_t *word, int n)
{
	int keep = errno;

	syscall(SYS_futex, word, FUTEX_WAKE, n, NULL, NULL, 0);
	errno = keep;
}

void bb_sys_close(int fd)
{
	int keep = errno;

	syscall(SYS_close, fd);
	errno = keep;
}

void bb_sys_slice(uint64_t ns)
{
	struct bb_sched_attr a = { .size = sizeof(a) };
	int keep = errno;

	if (syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0) == 0 && a.policy == SCHED_OTHER) {
		a.size = sizeof(a);
		a.runtime = ns;
		syscall(SYS_sched_setattr, 0, &a, 0);
	}
	errno = keep;
}

void bb_sys_pause(unsigned int *looks)
{
	const struct timespec ts = { 0, 20000 };
	int keep = errno;

	/* Not the library's nanosleep, which is a point of cancellation: a lock may be held. */
	if (++*looks < 64)
		sched_yield();
	else
		syscall(SYS_nanosleep, &ts, NULL);
	errno = keep;
}
