/* SPDX-License-Identifier: MIT */
/*
 * The functions that we stand before. Resolved eagerly, once, by
 * bb_real_init(); calls that come before (the loader's own, or those that
 * dlsym makes) are served from a small static arena (bb_early_*).
 */
#ifndef BB_PRELOAD_REAL_H
#define BB_PRELOAD_REAL_H

#include <stddef.h>
#include <sys/types.h>

struct bb_real {
	void *(*malloc)(size_t);
	void (*free)(void *);
	void *(*calloc)(size_t, size_t);
	void *(*realloc)(void *, size_t);
	int (*posix_memalign)(void **, size_t, size_t);
	void *(*aligned_alloc)(size_t, size_t);
	void *(*memalign)(size_t, size_t);
	void *(*valloc)(size_t);
	void *(*pvalloc)(size_t);
	size_t (*malloc_usable_size)(void *);
	void *(*mmap)(void *, size_t, int, int, int, off_t);
	int (*munmap)(void *, size_t);
	void *(*mremap)(void *, size_t, size_t, int, ...);
	int (*madvise)(void *, size_t, int);
	int (*mprotect)(void *, size_t, int);
	int (*close)(int);
	int (*dup2)(int, int);
	int (*dup3)(int, int, int);
	int (*close_range)(unsigned int, unsigned int, int);
	void (*closefrom)(int);
};

/* Callable at any time: until resolved, the members are stand-ins that resolve or make do. */
extern struct bb_real bb_real;

/*
 * Idempotent, thread-safe, async-signal-unsafe. A second thread that comes
 * while the first resolves returns at once: the stand-ins serve it.
 */
void bb_real_init(void);

/* --- the early arena ------------------------------------------------------ */

#define BB_EARLY_SIZE (64u << 10)
extern char bb_early[BB_EARLY_SIZE];

/* Is p from the arena? It is never given back: its free is a no-op. */
static inline int bb_early_has(const void *p)
{
	return (size_t)((const char *)p - bb_early) < BB_EARLY_SIZE;
}

/* Zeroed memory; align is a power of two. Return: NULL with ENOMEM where the arena is full. */
void *bb_early_alloc(size_t size, size_t align);
/* Usable bytes of a block of the arena. */
size_t bb_early_usable(const void *p);

#endif
