/* SPDX-License-Identifier: MIT */
/*
 * Finds the functions that we stand before, once and eagerly: a lazy dlsym
 * inside malloc deadlocks or recurses as soon as dlsym itself allocates.
 *
 * Theory of operation
 * -------------------
 * bb_real starts out with stand-ins, so that the hot paths need no check. An
 * allocating stand-in resolves everything and passes the call on; if it is
 * called while that goes on (dlsym allocates, another thread allocates), it
 * serves the call from a small static arena and never waits: whoever waits for
 * the resolver may hold the loader's lock that the resolver needs. The
 * stand-ins of the mmap family and of the descriptors go to the kernel.
 */
#include "private.h"
#include "real.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096UL

/* --- the arena ------------------------------------------------------------ */

char bb_early[BB_EARLY_SIZE] __attribute__((aligned(64)));
static _Atomic size_t early_top;

void *bb_early_alloc(size_t size, size_t align)
{
	size_t old = atomic_load(&early_top), at;

	if (align < 16)
		align = 16;
	if (size > BB_EARLY_SIZE || align > PAGE)
		goto full;
	do {
		/* The size lies in the word before the block. */
		at = (((uintptr_t)bb_early + old + 16 + align - 1) & ~(align - 1)) - (uintptr_t)bb_early;
		if (at + size > BB_EARLY_SIZE)
			goto full;
	} while (!atomic_compare_exchange_weak(&early_top, &old, at + size));
	memcpy(bb_early + at - sizeof(size), &size, sizeof(size));
	return bb_early + at;
full:
	errno = ENOMEM;
	return NULL;
}

size_t bb_early_usable(const void *p)
{
	size_t size;

	memcpy(&size, (const char *)p - sizeof(size), sizeof(size));
	return size;
}

/* --- stand-ins ------------------------------------------------------------ */

static _Atomic int stage;
enum { UNRESOLVED, RESOLVING, RESOLVED };

/* Can the call be passed on? */
static bool ready(void)
{
	/* An allocator on top registers its fork handlers at its first call: ours come before. */
	(void)bb_fork_init();
	if (atomic_load(&stage) == UNRESOLVED)
		bb_real_init();
	return atomic_load(&stage) == RESOLVED;
}

static void *early_malloc(size_t size)
{
	return ready() ? bb_real.malloc(size) : bb_early_alloc(size, 16);
}

static void early_free(void *p)
{
	/* What was allocated elsewhere and is freed while we resolve is lost: a few bytes, once. */
	if (p && ready())
		bb_real.free(p);
}

static void *early_calloc(size_t n, size_t size)
{
	size_t bytes;

	if (ready())
		return bb_real.calloc(n, size);
	if (__builtin_mul_overflow(n, size, &bytes))
		bytes = SIZE_MAX;
	return bb_early_alloc(bytes, 16);
}

static void *early_realloc(void *p, size_t size)
{
	if (ready())
		return bb_real.realloc(p, size);
	if (!p)
		return bb_early_alloc(size, 16);
	errno = ENOMEM;
	return NULL;
}

static void *early_memalign(size_t align, size_t size)
{
	if (ready())
		return bb_real.memalign(align, size);
	if (!align || align & (align - 1)) {
		errno = EINVAL;
		return NULL;
	}
	return bb_early_alloc(size, align);
}

static int early_posix_memalign(void **p, size_t align, size_t size)
{
	int keep = errno;
	void *q;

	if (ready())
		return bb_real.posix_memalign(p, align, size);
	if (!align || align % sizeof(void *) || align & (align - 1))
		return EINVAL;
	q = bb_early_alloc(size, align);
	errno = keep;
	if (!q)
		return ENOMEM;
	*p = q;
	return 0;
}

static void *early_aligned_alloc(size_t align, size_t size)
{
	return ready() ? bb_real.aligned_alloc(align, size) : early_memalign(align, size);
}

static void *early_valloc(size_t size)
{
	return ready() ? bb_real.valloc(size) : bb_early_alloc(size, PAGE);
}

static void *early_pvalloc(size_t size)
{
	return ready() ? bb_real.pvalloc(size) : bb_early_alloc((size + PAGE - 1) & ~(PAGE - 1), PAGE);
}

static size_t early_usable(void *p)
{
	return p && ready() ? bb_real.malloc_usable_size(p) : 0;
}

static void *kernel_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	(void)bb_fork_init();
	return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, off);
}

static int kernel_munmap(void *addr, size_t len)
{
	return (int)syscall(SYS_munmap, addr, len);
}

static void *kernel_mremap(void *old, size_t oldlen, size_t newlen, int flags, ...)
{
	void *to = NULL;
	va_list ap;

	va_start(ap, flags);
	if (flags & MREMAP_FIXED)
		to = va_arg(ap, void *);
	va_end(ap);
	return (void *)syscall(SYS_mremap, old, oldlen, newlen, flags, to);
}

static int kernel_madvise(void *addr, size_t len, int advice)
{
	return (int)syscall(SYS_madvise, addr, len, advice);
}

static int kernel_mprotect(void *addr, size_t len, int prot)
{
	return (int)syscall(SYS_mprotect, addr, len, prot);
}

static int kernel_close(int fd)
{
	return (int)syscall(SYS_close, fd);
}

static int kernel_dup3(int from, int to, int flags)
{
	return (int)syscall(SYS_dup3, from, to, flags);
}

static int kernel_dup2(int from, int to)
{
#ifdef SYS_dup2
	return (int)syscall(SYS_dup2, from, to);
#else
	return kernel_dup3(from, to, 0);
#endif
}

static int kernel_close_range(unsigned int first, unsigned int last, int flags)
{
#ifdef SYS_close_range
	return (int)syscall(SYS_close_range, first, last, flags);
#else
	errno = ENOSYS;
	return -1;
#endif
}

/* fds.c takes closefrom apart itself where this is NULL. */
struct bb_real bb_real = {
	.malloc = early_malloc,
	.free = early_free,
	.calloc = early_calloc,
	.realloc = early_realloc,
	.posix_memalign = early_posix_memalign,
	.aligned_alloc = early_aligned_alloc,
	.memalign = early_memalign,
	.valloc = early_valloc,
	.pvalloc = early_pvalloc,
	.malloc_usable_size = early_usable,
	.mmap = kernel_mmap,
	.munmap = kernel_munmap,
	.mremap = kernel_mremap,
	.madvise = kernel_madvise,
	.mprotect = kernel_mprotect,
	.close = kernel_close,
	.dup2 = kernel_dup2,
	.dup3 = kernel_dup3,
	.close_range = kernel_close_range,
	.closefrom = NULL,
};

/* --- where another libc or allocator lacks a function --------------------- */

static void *lacking_memalign(size_t align, size_t size)
{
	void *p = NULL;
	int e;

	if (align && !(align & (align - 1)) && align < sizeof(void *))
		align = sizeof(void *);
	e = bb_real.posix_memalign(&p, align, size);
	if (e)
		errno = e;
	return e ? NULL : p;
}

static void *lacking_aligned_alloc(size_t align, size_t size)
{
	return bb_real.memalign(align, size);
}

static void *lacking_valloc(size_t size)
{
	return bb_real.memalign(PAGE, size);
}

static void *lacking_pvalloc(size_t size)
{
	if (size > SIZE_MAX - PAGE) {
		errno = ENOMEM;
		return NULL;
	}
	return bb_real.memalign(PAGE, (size + PAGE - 1) & ~(PAGE - 1));
}

static void die(const char *name)
{
	static const char text[] = "libbb: error: no library after libbb.so defines the function ";
	static const char hint[] = "; is the program linked statically against its C library?\n";
	ssize_t ret;

	ret = write(STDERR_FILENO, text, sizeof(text) - 1);
	ret = write(STDERR_FILENO, name, strlen(name));
	ret = write(STDERR_FILENO, hint, sizeof(hint) - 1);
	(void)ret;
	abort();
}

static void *need(const char *name)
{
	void *f = dlsym(RTLD_NEXT, name);

	if (!f)
		die(name);
	return f;
}

static void *want(const char *name, void *instead)
{
	void *f = dlsym(RTLD_NEXT, name);

	return f ? f : instead;
}

void bb_real_init(void)
{
	struct bb_real r;
	int keep = errno, expect = UNRESOLVED;

	if (!atomic_compare_exchange_strong(&stage, &expect, RESOLVING))
		return;
	r.malloc = need("malloc");
	r.free = need("free");
	r.calloc = need("calloc");
	r.realloc = need("realloc");
	r.posix_memalign = need("posix_memalign");
	r.memalign = want("memalign", lacking_memalign);
	r.aligned_alloc = want("aligned_alloc", lacking_aligned_alloc);
	r.valloc = want("valloc", lacking_valloc);
	r.pvalloc = want("pvalloc", lacking_pvalloc);
	r.malloc_usable_size = need("malloc_usable_size");
	r.mmap = want("mmap", kernel_mmap);
	r.munmap = want("munmap", kernel_munmap);
	r.mremap = want("mremap", kernel_mremap);
	r.madvise = want("madvise", kernel_madvise);
	r.mprotect = want("mprotect", kernel_mprotect);
	r.close = want("close", kernel_close);
	r.dup2 = want("dup2", kernel_dup2);
	r.dup3 = want("dup3", kernel_dup3);
	r.close_range = want("close_range", kernel_close_range);
	r.closefrom = want("closefrom", NULL);
	/* Another thread sees each pointer either old or new; both serve it. */
	bb_real = r;
	atomic_store(&stage, RESOLVED);
	errno = keep;
}
