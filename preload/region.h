/* SPDX-License-Identifier: MIT */
/*
 * The global region of this program, as the interposed functions see it
 * (malloc.c, mmap.c). All of it is thread-safe; none of it allocates by malloc;
 * errno is preserved unless a call says otherwise.
 *
 * bb_region_has() is the one comparison that tells whose a pointer is.
 */
#ifndef BB_PRELOAD_REGION_H
#define BB_PRELOAD_REGION_H

#include <bluebridge/gptr.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

extern uintptr_t bb_region_base, bb_region_size; /* 0, 0 until the first use */
extern size_t bb_region_min;			 /* BB_MIN; SIZE_MAX: all is passed through */

static inline bool bb_region_has(const void *p)
{
	return (uintptr_t)p - bb_region_base < bb_region_size;
}

/* Should an allocation of this size go to the region? Cheap; no side effect. */
static inline bool bb_region_wants(size_t bytes)
{
	return bytes >= bb_region_min;
}

#define BB_RA_ZERO 0x1	/* the memory must read as zeros (calloc, mmap) */
#define BB_RA_MMAP 0x2	/* made by mmap: freed by munmap, not by free */

/*
 * bytes is rounded up to pages; align is a power of two, at least a page (0:
 * a page). Return: the memory, or NULL where the region cannot take it; the
 * caller then uses the real function. Never fails for want of a daemon: the
 * memory is then plain local memory.
 */
void *bb_region_alloc(size_t bytes, size_t align, unsigned int flags);

/*
 * free(p). p must be what bb_region_alloc returned; anything else aborts with
 * a message, as the C library does for a bad free.
 */
void bb_region_free(void *p);

/* Usable bytes of the block that starts at p; 0: no block starts there. */
size_t bb_region_usable(const void *p);

/*
 * realloc within the region. Return: the new place, or NULL where the region
 * has no room (the old block is untouched). newsize > 0; it may be below BB_MIN
 * (then it shrinks in place).
 */
void *bb_region_realloc(void *p, size_t newsize);

/* The mmap family on ranges wholly inside of the region. Return: 0 or -errno. */
int bb_region_munmap(void *addr, size_t len);
int bb_region_madvise(void *addr, size_t len, int advice);
int bb_region_mprotect(void *addr, size_t len, int prot);
/* mmap(MAP_FIXED) over part of the region: anonymous (fd < 0) or a file. Return: addr or MAP_FAILED with errno. */
void *bb_region_mmap_fixed(void *addr, size_t len, int prot, int flags, int fd, int64_t off);
/* mremap of a range inside of the region. Return: the new address or MAP_FAILED with errno. */
void *bb_region_mremap(void *old, size_t oldlen, size_t newlen, int flags, void *newaddr);

#endif
