/* SPDX-License-Identifier: MIT */
/*
 * The mmap family. New anonymous private memory, readable and writable and of
 * at least BB_MIN bytes, comes from the global region; all else from the
 * kernel. Calls on ranges of the region go to the region, calls that reach
 * over its edge are cut there.
 *
 * Decisions, all on the side of "never silently wrong":
 * - Only the flags of a plain allocation are taken (an allow-list, so that a
 *   flag of a kernel to come is not misread). PROT_NONE reservations are not:
 *   who reserves wants to place things itself.
 * - A hint is ignored, as mmap may; but below 4 GiB it is honoured by going to
 *   the kernel, since who asks for low memory stores pointers in 32 bits.
 * - MAP_POPULATE asks for the pages at once, without a promise (as in mmap(2)).
 * - mremap that would move memory over the region's edge is refused (ENOMEM).
 *   A file mapping that grows stays where it is: we cannot tell what it is.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>

#include <bluebridge/kernel.h>

#include "real.h"
#include "region.h"

#define EXPORT __attribute__((visibility("default")))
#define COLD __attribute__((noinline, cold))

#define FLAGS_OURS (MAP_NORESERVE | MAP_POPULATE | MAP_NONBLOCK)
#define LOW_HINT (1ULL << 32)

/* The part of [addr, addr + len) in the region; the rest is before and after. */
struct cut {
	uintptr_t a, b;
};

/* Whole pages, page-aligned, not past the end of the address space? Rounds *len. */
static bool well_formed(uintptr_t addr, size_t *len)
{
	size_t n = (*len + BB_PAGE_MASK) & ~BB_PAGE_MASK;

	if (addr & BB_PAGE_MASK || !n || addr + n < addr)
		return false;
	*len = n;
	return true;
}

static inline bool touches_region(const void *addr, size_t len)
{
	uintptr_t a = (uintptr_t)addr;

	/* In the region, or before it by less than len. */
	return a - bb_region_base < bb_region_size || bb_region_base - a < (bb_region_size ? len : 0);
}

static struct cut cut_of(uintptr_t addr, size_t len)
{
	uintptr_t end = bb_region_base + bb_region_size;
	struct cut c = {.a = addr, .b = addr + len};

	if (c.a < bb_region_base)
		c.a = bb_region_base;
	if (c.b > end)
		c.b = end;
	return c;
}

/* --- mmap ----------------------------------------------------------------- */

static COLD void *mmap_fixed(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	uintptr_t at = (uintptr_t)addr;
	size_t rounded = len;
	struct cut c;
	void *p;

	if (!well_formed(at, &rounded) || off & (off_t)BB_PAGE_MASK)
		return bb_real.mmap(addr, len, prot, flags, fd, off);
	c = cut_of(at, rounded);
	if (at < c.a) {
		p = bb_real.mmap(addr, c.a - at, prot, flags, fd, off);
		if (p == MAP_FAILED)
			return p;
	}
	if (c.b < at + rounded) {
		p = bb_real.mmap((void *)c.b, at + rounded - c.b, prot, flags, fd, off + (off_t)(c.b - at));
		if (p == MAP_FAILED)
			return p;
	}
	p = bb_region_mmap_fixed((void *)c.a, c.b - c.a, prot, flags, flags & MAP_ANONYMOUS ? -1 : fd,
				 off + (int64_t)(c.a - at));
	return p == MAP_FAILED ? p : addr;
}

static COLD void *mmap_big(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	size_t rounded = len;
	void *p;

	if ((flags & ~FLAGS_OURS) != (MAP_PRIVATE | MAP_ANONYMOUS) || prot != (PROT_READ | PROT_WRITE))
		goto real;
	if (off & (off_t)BB_PAGE_MASK || len > PTRDIFF_MAX || !well_formed(0, &rounded))
		goto real;
	if (addr && (uintptr_t)addr < LOW_HINT)
		goto real;
	p = bb_region_alloc(rounded, BB_PAGE_SIZE, BB_RA_ZERO | BB_RA_MMAP);
	if (!p)
		goto real;
	if (flags & MAP_POPULATE && !(flags & MAP_NONBLOCK))
		bb_region_madvise(p, rounded, MADV_POPULATE_WRITE);
	return p;
real:
	return bb_real.mmap(addr, len, prot, flags, fd, off);
}

EXPORT void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	/* MAP_FIXED_NOREPLACE on the region earns EEXIST: it is reserved. */
	if (flags & MAP_FIXED) {
		if (!(flags & MAP_FIXED_NOREPLACE) && touches_region(addr, len))
			return mmap_fixed(addr, len, prot, flags, fd, off);
	} else if (bb_region_wants(len)) {
		return mmap_big(addr, len, prot, flags, fd, off);
	}
	return bb_real.mmap(addr, len, prot, flags, fd, off);
}

EXPORT void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t off)
{
	_Static_assert(sizeof(off_t) == sizeof(off64_t), "64-bit file offsets");
	return mmap(addr, len, prot, flags, fd, off);
}

/* --- calls on ranges ------------------------------------------------------ */

enum call { MUNMAP, MADVISE, MPROTECT };

/* Return: 0, or -1 with errno. */
static int call_real(enum call call, uintptr_t addr, size_t len, int arg)
{
	switch (call) {
	case MUNMAP:
		return bb_real.munmap((void *)addr, len);
	case MADVISE:
		return bb_real.madvise((void *)addr, len, arg);
	case MPROTECT:
		break;
	}
	return bb_real.mprotect((void *)addr, len, arg);
}

/* Return: 0 or -errno. */
static int call_region(enum call call, uintptr_t addr, size_t len, int arg)
{
	switch (call) {
	case MUNMAP:
		return bb_region_munmap((void *)addr, len);
	case MADVISE:
		return bb_region_madvise((void *)addr, len, arg);
	case MPROTECT:
		break;
	}
	return bb_region_mprotect((void *)addr, len, arg);
}

/*
 * Some of the range is the region's. Every part of it is called whatever became
 * of the others, as the kernel does over holes; the first error is reported.
 */
static COLD int call_both(enum call call, void *addr, size_t len, int arg)
{
	uintptr_t at = (uintptr_t)addr, end;
	int keep = errno, error = 0, ret;
	struct cut c;

	if (!well_formed(at, &len))
		return call_real(call, at, len, arg); /* knows what to say */
	end = at + len;
	c = cut_of(at, len);
	if (at < c.a && call_real(call, at, c.a - at, arg) < 0)
		error = errno;
	ret = call_region(call, c.a, c.b - c.a, arg);
	if (ret < 0 && !error)
		error = -ret;
	if (c.b < end && call_real(call, c.b, end - c.b, arg) < 0 && !error)
		error = errno;
	errno = error ? error : keep;
	return error ? -1 : 0;
}

EXPORT int munmap(void *addr, size_t len)
{
	return touches_region(addr, len) ? call_both(MUNMAP, addr, len, 0) : bb_real.munmap(addr, len);
}

EXPORT int madvise(void *addr, size_t len, int advice)
{
	return touches_region(addr, len) ? call_both(MADVISE, addr, len, advice) : bb_real.madvise(addr, len, advice);
}

EXPORT int posix_madvise(void *addr, size_t len, int advice)
{
	int keep = errno, ret;

	/* The kernel's advice of this number destroys, POSIX's does not: glibc ignores it, and so do we. */
	if (advice == POSIX_MADV_DONTNEED)
		return 0;
	ret = madvise(addr, len, advice) < 0 ? errno : 0;
	errno = keep;
	return ret;
}

EXPORT int mprotect(void *addr, size_t len, int prot)
{
	return touches_region(addr, len) ? call_both(MPROTECT, addr, len, prot) : bb_real.mprotect(addr, len, prot);
}

/* --- mremap --------------------------------------------------------------- */

static bool inside(const void *addr, size_t len)
{
	return bb_region_has(addr) && len <= bb_region_base + bb_region_size - (uintptr_t)addr;
}

/* Old or new range has to do with the region. */
static COLD void *mremap_ours(void *old, size_t oldlen, size_t newlen, int flags, void *to)
{
	size_t o = oldlen, n = newlen;

	if (flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP) || !well_formed((uintptr_t)old, &o) ||
	    !well_formed(0, &n) || (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) && !(flags & MREMAP_MAYMOVE)) ||
	    (flags & MREMAP_DONTUNMAP && o != n) || (flags & MREMAP_FIXED && !well_formed((uintptr_t)to, &n))) {
		errno = EINVAL;
		return MAP_FAILED;
	}
	if (!inside(old, o) || (flags & MREMAP_FIXED && !inside(to, n))) {
		errno = ENOMEM;
		return MAP_FAILED;
	}
	return bb_region_mremap(old, o, n, flags, to);
}

EXPORT void *mremap(void *old, size_t oldlen, size_t newlen, int flags, ...)
{
	void *to = NULL;
	va_list ap;

	/* A new address may be a hint for MREMAP_DONTUNMAP too; the kernel reads it always. */
	va_start(ap, flags);
	if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))
		to = va_arg(ap, void *);
	va_end(ap);
	if (touches_region(old, oldlen) || (flags & MREMAP_FIXED && touches_region(to, newlen)))
		return mremap_ours(old, oldlen, newlen, flags, to);
	return bb_real.mremap(old, oldlen, newlen, flags, to);
}
