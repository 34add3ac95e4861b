/* SPDX-License-Identifier: MIT */
/*
 * See adopt.h. An entry is filled in before its state leaves FREE, and becomes
 * FREE before it is filled in again, so that it makes sense at every instruction.
 *
 * Lock order: ours, then the home's.
 */
#include "net/adopt.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include <bluebridge/gptr.h>

#include "home/home.h"
#include "keep/keep.h"

struct key {
	uint64_t ptr;
	uint64_t node;
};

struct slot {
	struct key key;
	struct bb_adopt_entry *kept;
	UT_hash_handle hh;
};

struct bb_adopt {
	pthread_mutex_t lock;
	struct bb_adopt_entry *kept; /* BB_ADOPTED_MAX */
	struct slot *all;
	uint32_t top; /* entries from here on are free */
};

#define KEPT_BYTES (BB_ADOPTED_MAX * sizeof(struct bb_adopt_entry))

static uint32_t state_of(const struct bb_adopt_entry *e)
{
	return __atomic_load_n(&e->state, __ATOMIC_ACQUIRE);
}

static void set_state(struct bb_adopt_entry *e, enum bb_adopt_state state)
{
	__atomic_store_n(&e->state, (uint32_t)state, __ATOMIC_RELEASE);
}

static struct slot *find(struct bb_adopt *a, uint16_t node, uint64_t ptr)
{
	const struct key key = { .ptr = ptr & ~(BB_EXTENT_SIZE - 1), .node = node };
	struct slot *s;

	HASH_FIND(hh, a->all, &key, sizeof(key), s);
	return s;
}

static int add(struct bb_adopt *a, struct bb_adopt_entry *kept)
{
	struct slot *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->key = (struct key){ .ptr = kept->ptr, .node = kept->node };
	s->kept = kept;
	HASH_ADD(hh, a->all, key, sizeof(s->key), s);
	if (!s->hh.tbl) {
		free(s);
		return -ENOMEM;
	}
	if (a->top <= (uint32_t)(kept - a->kept))
		a->top = (uint32_t)(kept - a->kept) + 1;
	return 0;
}

/* What was killed between its create here and its entry, or in a copy. */
static void drop_orphans(struct bb_adopt *a, struct bb_home *home)
{
	struct bb_home_extent x;
	struct slot *s, *next;

	for (uint32_t i = 0; bb_home_next(home, &i, &x);) {
		bool known = false;

		if (!x.adopted)
			continue;
		HASH_ITER(hh, a->all, s, next)
			known |= s->kept->local == x.ptr;
		if (!known)
			bb_home_drop(home, x.ptr);
	}
}

int bb_adopt_new(struct bb_adopt **out, struct bb_home *home, struct bb_keep *keep)
{
	struct bb_adopt *a = calloc(1, sizeof(*a));
	bool found;
	int fd, ret;

	if (!a)
		return -ENOMEM;
	fd = bb_keep_memory(keep, "net.adopted", KEPT_BYTES, &found);
	if (fd < 0) {
		free(a);
		return fd;
	}
	a->kept = mmap(NULL, KEPT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ret = a->kept == MAP_FAILED ? -errno : 0;
	close(fd);
	if (ret) {
		free(a);
		return ret;
	}
	pthread_mutex_init(&a->lock, NULL);
	for (uint32_t i = 0; i < BB_ADOPTED_MAX; i++) {
		struct bb_adopt_entry *e = &a->kept[i];

		if (state_of(e) == BB_ADOPT_COPYING)
			set_state(e, BB_ADOPT_FREE);
		if (state_of(e) == BB_ADOPT_FREE)
			continue;
		ret = add(a, e);
		if (ret) {
			bb_adopt_free(a);
			return ret;
		}
	}
	if (home)
		drop_orphans(a, home);
	*out = a;
	return 0;
}

void bb_adopt_free(struct bb_adopt *a)
{
	struct slot *s, *next;

	if (!a)
		return;
	HASH_ITER(hh, a->all, s, next) {
		HASH_DEL(a->all, s);
		free(s);
	}
	munmap(a->kept, KEPT_BYTES);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

bool bb_adopt_find(struct bb_adopt *a, uint16_t node, uint64_t ptr, struct bb_adopt_entry *out)
{
	struct slot *s;

	pthread_mutex_lock(&a->lock);
	s = find(a, node, ptr);
	if (s)
		*out = *s->kept;
	pthread_mutex_unlock(&a->lock);
	return s;
}

int bb_adopt_add(struct bb_adopt *a, const struct bb_adopt_entry *e)
{
	int ret = -ENOSPC;

	pthread_mutex_lock(&a->lock);
	if (find(a, e->node, e->ptr)) {
		ret = -EEXIST;
		goto out;
	}
	for (uint32_t i = 0; i < BB_ADOPTED_MAX; i++) {
		struct bb_adopt_entry *kept = &a->kept[i];

		if (state_of(kept) != BB_ADOPT_FREE)
			continue;
		*kept = *e;
		kept->state = BB_ADOPT_FREE;
		ret = add(a, kept);
		if (!ret)
			set_state(kept, (enum bb_adopt_state)e->state);
		break;
	}
out:
	pthread_mutex_unlock(&a->lock);
	return ret;
}

void bb_adopt_set(struct bb_adopt *a, uint16_t node, uint64_t ptr, enum bb_adopt_state state)
{
	struct slot *s;

	pthread_mutex_lock(&a->lock);
	s = find(a, node, ptr);
	if (s)
		set_state(s->kept, state);
	pthread_mutex_unlock(&a->lock);
}

void bb_adopt_remove(struct bb_adopt *a, uint16_t node, uint64_t ptr)
{
	struct slot *s;

	pthread_mutex_lock(&a->lock);
	s = find(a, node, ptr);
	if (s) {
		set_state(s->kept, BB_ADOPT_FREE);
		HASH_DEL(a->all, s);
		free(s);
	}
	pthread_mutex_unlock(&a->lock);
}

bool bb_adopt_next(struct bb_adopt *a, uint32_t *i, struct bb_adopt_entry *out)
{
	bool found = false;

	pthread_mutex_lock(&a->lock);
	for (; !found && *i < a->top; ++*i) {
		if (state_of(&a->kept[*i]) == BB_ADOPT_FREE)
			continue;
		*out = a->kept[*i];
		found = true;
	}
	pthread_mutex_unlock(&a->lock);
	return found;
}

unsigned int bb_adopt_count(struct bb_adopt *a)
{
	unsigned int n;

	pthread_mutex_lock(&a->lock);
	n = HASH_COUNT(a->all);
	pthread_mutex_unlock(&a->lock);
	return n;
}
