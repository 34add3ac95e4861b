/* SPDX-License-Identifier: MIT */
/* See inject.h. */
#include "net/inject.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "log.h"

#define HELD_MAX 64
#define HELD_BYTES 8192
#define HOLD_NS 1000000ULL /* at most; others overtake meanwhile */

struct held {
	bool used;
	unsigned int after; /* packets that overtake it */
	uint64_t due;
	struct bb_sock_packet p;
	uint8_t data[HELD_BYTES];
};

struct bb_inject {
	unsigned int drop, dup, delay; /* percent */
	uint64_t rng;
	unsigned int nheld;
	struct held held[HELD_MAX];
};

static uint64_t next_random(struct bb_inject *i)
{
	/* splitmix64 (Steele, Lea, Flood, 2014). */
	uint64_t z = i->rng += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static bool chance(struct bb_inject *i, unsigned int percent)
{
	return percent && next_random(i) % 100 < percent;
}

static int parse(struct bb_inject *i, const char *text)
{
	while (*text) {
		size_t name = strcspn(text, "=");
		unsigned long v;
		char *end;

		if (text[name] != '=')
			return -EINVAL;
		v = strtoul(text + name + 1, &end, 10);
		if (end == text + name + 1 || (*end && *end != ','))
			return -EINVAL;
		if (name == 4 && !strncmp(text, "seed", name))
			i->rng = v;
		else if (v > 100)
			return -EINVAL;
		else if (name == 4 && !strncmp(text, "drop", name))
			i->drop = (unsigned int)v;
		else if (name == 3 && !strncmp(text, "dup", name))
			i->dup = (unsigned int)v;
		else if (name == 5 && !strncmp(text, "delay", name))
			i->delay = (unsigned int)v;
		else
			return -EINVAL;
		text = *end ? end + 1 : end;
	}
	return 0;
}

int bb_inject_new(struct bb_inject **out, uint32_t salt)
{
	const char *text = getenv("BB_TEST_NET");
	struct bb_inject *i;

	*out = NULL;
	if (!text || !*text)
		return 0;
	i = calloc(1, sizeof(*i));
	if (!i)
		return -ENOMEM;
	if (parse(i, text)) {
		bb_warn("BB_TEST_NET=%s is not understood: no faults are injected; it is like drop=5,dup=5,delay=5,seed=1",
			text);
		free(i);
		return 0;
	}
	i->rng ^= (uint64_t)salt << 32;
	*out = i;
	return 0;
}

void bb_inject_free(struct bb_inject *i)
{
	free(i);
}

static bool hold(struct bb_inject *i, const struct bb_sock_packet *p)
{
	struct held *h;

	if (i->nheld == HELD_MAX || p->len > HELD_BYTES)
		return false;
	for (h = i->held; h->used; h++)
		;
	h->used = true;
	h->after = 1 + (unsigned int)(next_random(i) % 8);
	h->due = bb_now_ns() + HOLD_NS;
	h->p = *p;
	h->p.data = h->data;
	memcpy(h->data, p->data, p->len);
	i->nheld++;
	return true;
}

static void release(struct bb_inject *i, bool packet, bb_inject_fn fn, void *arg)
{
	const uint64_t now = i->nheld ? bb_now_ns() : 0;

	for (unsigned int k = 0; i->nheld && k < HELD_MAX; k++) {
		struct held *h = &i->held[k];

		if (!h->used)
			continue;
		if (packet && h->after)
			h->after--;
		if (h->after && now < h->due)
			continue;
		fn(arg, &h->p);
		h->used = false;
		i->nheld--;
	}
}

void bb_inject_packet(struct bb_inject *i, const struct bb_sock_packet *p, bb_inject_fn fn, void *arg)
{
	if (chance(i, i->drop))
		return;
	if (chance(i, i->delay) && hold(i, p))
		return;
	fn(arg, p);
	if (chance(i, i->dup))
		fn(arg, p);
	release(i, true, fn, arg);
}

void bb_inject_poll(struct bb_inject *i, bb_inject_fn fn, void *arg)
{
	release(i, false, fn, arg);
}

uint64_t bb_inject_next(const struct bb_inject *i)
{
	uint64_t next = ~0ULL;

	for (unsigned int k = 0; i->nheld && k < HELD_MAX; k++)
		if (i->held[k].used && i->held[k].due < next)
			next = i->held[k].due;
	return next;
}
