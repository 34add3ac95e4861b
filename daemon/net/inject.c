/* SPDX-License-Identifier: MIT */
/*
 * See inject.h.
 *
 * Theory of operation
 * -------------------
 * The rules are the process's. Every socket has a copy, and takes a new one
 * when their generation has changed; packets that it holds then still come.
 * What is counted, the N of nth=N too, is counted over all sockets.
 *
 * Lock order: the one lock here is held alone, while rules are copied.
 */
#include "net/inject.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <bluebridge/gptr.h>
#include <bluebridge/wire.h>

#include "clock.h"
#include "log.h"
#include "net/hello.h"

#define HELD_MAX 128
#define HELD_BYTES 8192
#define MS 1000000ULL
#define IP_UDP 48 /* what an MTU counts and a UDP socket does not show */

static struct {
	pthread_mutex_t lock;
	struct bb_inject_rules rules;
	char text[BB_INJECT_TEXT];
	uint64_t set_at;
	_Atomic uint32_t generation; /* 0: not enabled */
	_Atomic uint64_t seen, done[BB_INJECT_WHATS], matched[BB_INJECT_RULES];
} the = { .lock = PTHREAD_MUTEX_INITIALIZER };

struct held {
	bool used;
	unsigned int after; /* packets that overtake it; 0: time alone counts */
	uint64_t due;
	struct bb_sock_packet p;
	uint8_t data[HELD_BYTES];
};

struct bb_inject {
	uint32_t generation, salt;
	struct bb_inject_rules rules;
	uint64_t set_at, rng;
	unsigned int nheld;
	uint8_t changed[HELD_BYTES];
	struct held held[HELD_MAX];
};

/* What a packet is, as rules see it. */
struct kind {
	enum bb_inject_dir dir;
	int cmd;
	uint32_t node, bytes;
};

/* --- of the whole process --------------------------------------------------- */

bool bb_inject_enabled(void)
{
	return atomic_load(&the.generation) != 0;
}

/* The lock is held. */
static int set(const char *text)
{
	struct bb_inject_rules rules;
	int ret = bb_inject_parse(&rules, text);

	if (ret)
		return ret;
	the.rules = rules;
	the.set_at = bb_now_ns();
	memcpy(the.text, text, strlen(text) + 1);
	atomic_store(&the.seen, 0);
	for (int i = 0; i < BB_INJECT_WHATS; i++)
		atomic_store(&the.done[i], 0);
	for (int i = 0; i < BB_INJECT_RULES; i++)
		atomic_store(&the.matched[i], 0);
	atomic_fetch_add(&the.generation, 1);
	return 0;
}

int bb_inject_set(const char *text)
{
	int ret = -ENOENT;

	pthread_mutex_lock(&the.lock);
	if (bb_inject_enabled())
		ret = set(text);
	pthread_mutex_unlock(&the.lock);
	return ret;
}

void bb_inject_stats(struct bb_inject_stats *out)
{
	pthread_mutex_lock(&the.lock);
	memcpy(out->text, the.text, sizeof(out->text));
	pthread_mutex_unlock(&the.lock);
	out->seen = atomic_load(&the.seen);
	for (int i = 0; i < BB_INJECT_WHATS; i++)
		out->done[i] = atomic_load(&the.done[i]);
}

static void copy_rules(struct bb_inject *i)
{
	pthread_mutex_lock(&the.lock);
	i->generation = atomic_load(&the.generation);
	i->rules = the.rules;
	i->set_at = the.set_at;
	pthread_mutex_unlock(&the.lock);
	i->rng = i->rules.seed ^ (uint64_t)i->salt << 32;
}

int bb_inject_new(struct bb_inject **out, uint32_t salt)
{
	const char *text = getenv("BB_TEST_NET");
	struct bb_inject *i;
	int ret = 0;

	*out = NULL;
	if (!text || !*text)
		return 0;
	pthread_mutex_lock(&the.lock);
	if (!bb_inject_enabled() || strcmp(text, the.text))
		ret = set(text);
	pthread_mutex_unlock(&the.lock);
	if (ret) {
		bb_warn("BB_TEST_NET=%s is not understood: no faults are injected; it is like drop=5,dup=5,delay=5,seed=1",
			text);
		return 0;
	}
	i = calloc(1, sizeof(*i));
	if (!i)
		return -ENOMEM;
	i->salt = salt;
	copy_rules(i);
	*out = i;
	return 0;
}

void bb_inject_free(struct bb_inject *i)
{
	free(i);
}

/* --- packets ---------------------------------------------------------------- */

static uint64_t next_random(struct bb_inject *i)
{
	/* splitmix64 (Steele, Lea, Flood, 2014). */
	uint64_t z = i->rng += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static void count(enum bb_inject_what what)
{
	atomic_fetch_add_explicit(&the.done[what], 1, memory_order_relaxed);
}

static bool chance(struct bb_inject *i, const struct bb_inject_rule *r, enum bb_inject_what what)
{
	return r->percent[what] && next_random(i) % 100 < r->percent[what];
}

static struct kind kind_of(const struct bb_sock_packet *p)
{
	struct kind k = { .dir = BB_INJECT_HELLO, .cmd = BB_CMD_HELLO, .bytes = (uint32_t)p->len + IP_UDP };
	struct bb_gptr from, to;
	struct bb_hello h;

	if (bb_gptr_decode(&p->from.sin6_addr, &from) && from.cmd & BB_CMD_REPLY) {
		k.dir = BB_INJECT_REPLY;
		k.cmd = from.cmd & BB_CMD_MASK;
		k.node = from.node;
	} else if (bb_gptr_decode(&p->to, &to) && to.cmd != BB_CMD_HELLO) {
		k.dir = BB_INJECT_REQUEST;
		k.cmd = to.cmd & BB_CMD_MASK;
		k.node = bb_gptr_decode(&p->from.sin6_addr, &from) ? from.node : 0;
	} else if (p->len >= sizeof(struct bb_hdr) &&
		   !bb_hello_decode(&h, p->data + sizeof(struct bb_hdr), p->len - sizeof(struct bb_hdr))) {
		k.node = h.node;
	}
	return k;
}

static bool applies(const struct bb_inject *i, unsigned int n, const struct kind *k, uint64_t now)
{
	const struct bb_inject_rule *r = &i->rules.rule[n];
	const uint64_t from = i->set_at + r->after_ms * MS;

	if ((r->dir && r->dir != k->dir) || (r->cmd >= 0 && r->cmd != k->cmd) || (r->node && r->node != k->node) ||
	    (r->over && k->bytes <= r->over))
		return false;
	if (now < from || (r->for_ms && now >= from + r->for_ms * MS))
		return false;
	return !r->nth || atomic_fetch_add(&the.matched[n], 1) + 1 == r->nth;
}

/* Return: false where there is no room: it is not held then. */
static bool hold(struct bb_inject *i, const struct bb_sock_packet *p, unsigned int after, uint64_t due)
{
	struct held *h;

	if (i->nheld == HELD_MAX || p->len > HELD_BYTES)
		return false;
	for (h = i->held; h->used; h++)
		;
	h->used = true;
	h->after = after;
	h->due = due;
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
		bool overtaken = false;

		if (!h->used)
			continue;
		if (packet && h->after)
			overtaken = !--h->after;
		if (!overtaken && now < h->due)
			continue;
		fn(arg, &h->p);
		h->used = false;
		i->nheld--;
	}
}

static void flip(struct bb_inject *i, const struct bb_inject_rule *r, struct bb_sock_packet *p)
{
	uint64_t bit;

	if (!p->len || p->len > HELD_BYTES)
		return;
	bit = (r->bit < 0 ? next_random(i) : (uint64_t)r->bit) % (p->len * 8);
	if (p->data != i->changed)
		memcpy(i->changed, p->data, p->len);
	i->changed[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	p->data = i->changed;
	count(BB_INJECT_CORRUPT);
}

/* One rule. Return: how often the packet comes now; 0 where it was taken away. */
static unsigned int apply(struct bb_inject *i, const struct bb_inject_rule *r, struct bb_sock_packet *p, uint64_t now)
{
	const uint64_t later = now + r->ms * MS;

	if (chance(i, r, BB_INJECT_DROP)) {
		count(BB_INJECT_DROP);
		return 0;
	}
	if (chance(i, r, BB_INJECT_CORRUPT))
		flip(i, r, p);
	if (chance(i, r, BB_INJECT_DELAY) && hold(i, p, 0, later)) {
		count(BB_INJECT_DELAY);
		return 0;
	}
	if (chance(i, r, BB_INJECT_REORDER) && hold(i, p, 1 + (unsigned int)(next_random(i) % 8), later)) {
		count(BB_INJECT_REORDER);
		return 0;
	}
	if (chance(i, r, BB_INJECT_AGAIN) && hold(i, p, 0, later))
		count(BB_INJECT_AGAIN);
	if (!chance(i, r, BB_INJECT_DUP))
		return 1;
	count(BB_INJECT_DUP);
	return 2;
}

void bb_inject_packet(struct bb_inject *i, const struct bb_sock_packet *packet, bb_inject_fn fn, void *arg)
{
	struct bb_sock_packet p = *packet;
	unsigned int times = 1;
	struct kind k;
	uint64_t now;

	if (atomic_load_explicit(&the.generation, memory_order_relaxed) != i->generation)
		copy_rules(i);
	atomic_fetch_add_explicit(&the.seen, 1, memory_order_relaxed);
	if (i->rules.n) {
		now = bb_now_ns();
		k = kind_of(&p);
		for (unsigned int n = 0; n < i->rules.n && times; n++)
			if (applies(i, n, &k, now))
				times *= apply(i, &i->rules.rule[n], &p, now);
	}
	for (; times; times--)
		fn(arg, &p);
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
