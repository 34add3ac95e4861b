/* SPDX-License-Identifier: MIT */
/*
 * The transport to the home in this process. A request is answered before
 * submit() returns, but for one that needs a new slab which is still being
 * made (BUSY): it is done when that is there. A page read is the home's own
 * memory, held until ->done has returned.
 */
#include "net/transport.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "clock.h"
#include "home/home.h"
#include "net/peers.h"

#define RETRY_NS 1000000ULL

struct local {
	struct bb_transport t;
	struct bb_net_shared *sh;
	struct bb_home *home;
	struct bb_home_who who;
	uint32_t boot;
	struct bb_net_req *waiting; /* for a slab */
	uint64_t retry_at;
};

static uint8_t write_pages(struct local *l, struct bb_net_req *r)
{
	for (uint32_t i = 0; i < r->npages; i++) {
		void *data;
		uint8_t st = bb_home_get(l->home, l->who, r->pages[i].ptr, BB_PAGE_SIZE, true, &data);

		if (st != BB_ST_OK) {
			r->failed = (uint16_t)i;
			return st;
		}
		memcpy(data, r->pages[i].data, BB_PAGE_SIZE);
		bb_home_put(l->home, r->pages[i].ptr, BB_PAGE_SIZE, true);
	}
	return BB_ST_OK;
}

static uint8_t create(struct local *l, struct bb_net_req *r, uint32_t n)
{
	uint8_t st = BB_ST_NOSPACE;

	for (r->nptrs = 0; r->nptrs < n; r->nptrs++) {
		st = bb_home_create(l->home, l->who, r->flags, &r->ptrs[r->nptrs]);
		if (st != BB_ST_OK)
			break;
	}
	return r->nptrs ? BB_ST_OK : st;
}

static uint8_t alloc_write(struct local *l, struct bb_net_req *r)
{
	uint8_t st = create(l, r, 1);
	void *data;

	if (st != BB_ST_OK)
		return st;
	st = bb_home_get(l->home, l->who, r->ptrs[0], BB_PAGE_SIZE, true, &data);
	if (st != BB_ST_OK)
		return st;
	memcpy(data, r->pages[0].data, BB_PAGE_SIZE);
	bb_home_put(l->home, r->ptrs[0], BB_PAGE_SIZE, true);
	return BB_ST_OK;
}

static void end(struct local *l, struct bb_net_req *r, uint8_t status)
{
	r->t_recv = bb_now_ns();
	bb_req_end(l->sh, r, status);
}

static void read_pages(struct local *l, struct bb_net_req *r)
{
	const uint64_t ptr = r->ptr; /* ->done may use the request again */
	const uint32_t len = r->len;
	void *data;
	uint8_t st = bb_home_get(l->home, l->who, ptr, len, false, &data);

	if (st != BB_ST_OK)
		return end(l, r, st);
	r->data = data;
	end(l, r, BB_ST_OK);
	bb_home_put(l->home, ptr, len, false);
}

/* CREATE or ALLOC_WRITE. Return: false where it has to wait. */
static bool make(struct local *l, struct bb_net_req *r, uint64_t now)
{
	uint8_t st = r->cmd == BB_CMD_CREATE ? create(l, r, r->len) : alloc_write(l, r);

	if (st == BB_ST_BUSY && now < r->deadline)
		return false;
	end(l, r, st);
	return true;
}

static int submit(struct bb_transport *t, struct bb_net_req *r)
{
	struct local *l = (struct local *)t; /* its first member */
	const bool makes = r->cmd == BB_CMD_CREATE || r->cmd == BB_CMD_ALLOC_WRITE;

	r->t_sent = bb_now_ns();
	r->new_boot = l->boot;
	if (r->boot != l->boot && (r->boot || !makes)) {
		end(l, r, BB_ST_BOOT);
		return 0;
	}
	if (!l->home) {
		end(l, r, makes ? BB_ST_NOSPACE : BB_ST_BOUNDS);
		return 0;
	}
	switch (r->cmd) {
	case BB_CMD_READ:
	case BB_CMD_READ_RUN:
		read_pages(l, r);
		break;
	case BB_CMD_WRITE:
		end(l, r, write_pages(l, r));
		break;
	case BB_CMD_CREATE:
	case BB_CMD_ALLOC_WRITE:
		if (!make(l, r, r->t_sent)) {
			DL_APPEND2(l->waiting, r, t.prev, t.next);
			l->retry_at = r->t_sent + RETRY_NS;
		}
		break;
	case BB_CMD_UPDATE: /* from us to us nothing moves */
		end(l, r, BB_ST_COMMAND);
		break;
	default:
		end(l, r, bb_home_delete(l->home, l->who, r->ptr));
	}
	return 0;
}

static void flush(struct bb_transport *t)
{
}

static int poll_local(struct bb_transport *t)
{
	struct local *l = (struct local *)t;
	struct bb_net_req *r, *next, *waiting = l->waiting;
	int n = 0;
	uint64_t now;

	if (!waiting)
		return 0;
	now = bb_now_ns();
	if (now < l->retry_at)
		return 0;
	l->retry_at = now + RETRY_NS;
	l->waiting = NULL; /* ->done may submit others */
	DL_FOREACH_SAFE2(waiting, r, next, t.next) {
		DL_DELETE2(waiting, r, t.prev, t.next);
		if (make(l, r, now))
			n++;
		else
			DL_APPEND2(l->waiting, r, t.prev, t.next);
	}
	return n;
}

static int no_fd(struct bb_transport *t)
{
	return -1;
}

static uint64_t next_timer(struct bb_transport *t)
{
	const struct local *l = (const struct local *)t;

	return l->waiting ? l->retry_at : ~0ULL;
}

static void local_free(struct bb_transport *t)
{
	struct local *l = (struct local *)t;

	while (l->waiting) {
		struct bb_net_req *r = l->waiting;

		DL_DELETE2(l->waiting, r, t.prev, t.next);
		end(l, r, BB_ST_TIMEOUT);
	}
	free(l);
}

int bb_local_new(struct bb_transport **out, struct bb_net_shared *sh, struct bb_peers *peers, struct bb_home *home)
{
	const struct bb_peers_config *cfg = bb_peers_config(peers);
	struct local *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->t = (struct bb_transport){
		.name = "local",
		.submit = submit,
		.flush = flush,
		.poll = poll_local,
		.fd = no_fd,
		.next = next_timer,
		.free = local_free,
	};
	l->sh = sh;
	l->home = home;
	l->who = (struct bb_home_who){ .tenant = cfg->tenant, .node = cfg->node };
	l->boot = cfg->boot;
	*out = &l->t;
	return 0;
}
