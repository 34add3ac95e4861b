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

#include "real.h"
#include "region.h"

#define EXPORT __attribute__((visibility("default")))
#define COLD __attribute__((noinline, cold))

#ifndef MADV_POPULATE_WRITE /* Linux 5.14 */
#define MADV_POPULATE_WRITE 23
#endif
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

static int fail(int e)
{
	errno = e;
	return -1;
}

static int from_region(int ret)
{
	return ret < 0 ? fail(-ret) : ret;
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

/*
 * The kernel's part of a range that reaches over the edge comes first; the
 * region's follows whatever became of it. Return: 0, or -1 and the first errno.
 */
#define ON_BOTH(addr, len, real_call, region_call)                                                                     \
	do {                                                                                                           \
		uintptr_t at_ = (uintptr_t)(addr), end_ = at_ + (len);                                                 \
		struct cut c_ = cut_of(at_, len);                                                                      \
		int keep_ = errno, first_ = 0, ret_;                                                                   \
		if (at_ < c_.a && real_call(addr, c_.a - at_) < 0)                                                     \
			first_ = errno;                                                                                \
		if (c_.b < end_ && real_call((void *)c_.b, end_ - c_.b) < 0)                                           \
			first_ = first_ ? first_ : errno;                                                              \
		ret_ = region_call((void *)c_.a, c_.b - c_.a);                                                         \
		if (ret_ < 0 && !first_)                                                                               \
			first_ = -ret_;                                                                                \
		errno = first_ ? first_ : keep_;                                                                       \
		return first_ ? -1 : 0;                                                                                \
	} while (0)

static COLD int munmap_ours(void *addr, size_t len)
{
	size_t rounded = len;

	if (!well_formed((uintptr_t)addr, &rounded))
		return bb_real.munmap(addr, len); /* knows what to say */
	ON_BOTH(addr, rounded, bb_real.munmap, bb_region_munmap);
}

EXPORT int munmap(void *addr, size_t len)
{
	return touches_region(addr, len) ? munmap_ours(addr, len) : bb_real.munmap(addr, len);
}

static COLD int madvise_ours(void *addr, size_t len, int advice)
{
	size_t rounded = len;

	if (!well_formed((uintptr_t)addr, &rounded))
		return bb_real.madvise(addr, len, advice);
#define real_madvise(a, n) bb_real.madvise(a, n, advice)
#define region_madvise(a, n) bb_region_madvise(a, n, advice)
	ON_BOTH(addr, rounded, real_madvise, region_madvise);
}

EXPORT int madvise(void *addr, size_t len, int advice)
{
	return touches_region(addr, len) ? madvise_ours(addr, len, advice) : bb_real.madvise(addr, len, advice);
}

EXPORT int posix_madvise(void *addr, size_t len, int advice)
{
	int keep = errno, ret;

	/* POSIX's does not destroy anything, the kernel's of this number does; so does glibc ignore it. */
	if (advice == POSIX_MADV_DONTNEED)
		return 0;
	ret = madvise(addr, len, advice) < 0 ? errno : 0;
	errno = keep;
	return ret;
}

static COLD int mprotect_ours(void *addr, size_t len, int prot)
{
	size_t rounded = len;

	if (!well_formed((uintptr_t)addr, &rounded))
		return bb_real.mprotect(addr, len, prot);
#define real_mprotect(a, n) bb_real.mprotect(a, n, prot)
#define region_mprotect(a, n) bb_region_mprotect(a, n, prot)
	ON_BOTH(addr, rounded, real_mprotect, region_mprotect);
}

EXPORT int mprotect(void *addr, size_t len, int prot)
{
	return touches_region(addr, len) ? mprotect_ours(addr, len, prot) : bb_real.mprotect(addr, len, prot);
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
