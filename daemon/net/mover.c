/* SPDX-License-Identifier: MIT */
/*
 * See mover.h.
 *
 * Theory of operation
 * -------------------
 * A move: UPDATE BEGIN, a local extent of the same owner, its entry COPYING, all
 * pages by READ_RUN, COMMITTING, UPDATE COMMIT, the sessions' numbers, SERVING.
 * Up to COMMITTING nothing has happened that would not end by itself: the home's
 * lease, and here the entry, which the next bbd forgets. From COMMITTING on only
 * the home knows whose the extent is: it is asked until it says so, by this bbd
 * or the next, and until then its owner hears BUSY from whichever of us it
 * reaches. A home that has started anew since (another boot) has given up all
 * that it lent; what came from it is let go.
 *
 * One request at a time, but for the pages. Each ends by a deadline.
 */
#include "net/mover.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <unistd.h>

#include "clock.h"
#include "home/home.h"
#include "log.h"
#include "net/adopt.h"
#include "net/net.h"
#include "net/peers.h"
#include "net/server.h"
#include "rights.h"
#include "wire.h"

#define INDEX 0x100u /* in the pointer of our own address; pagers' are below 64 */
#define ASK_NS 1000000000ULL
/* Within the home's lease, so that a COMMIT is hardly ever in vain. */
#define COPY_NS (BB_HOME_LEASE_NS - 2 * ASK_NS)
#define TICK_MS 1000
#define RUNS ((BB_EXTENT_PAGES + BB_RUN_PAGES_MAX - 1) / BB_RUN_PAGES_MAX)

struct copy {
	struct bb_net_req req;
	struct bb_mover *m;
	uint64_t at; /* in the extent */
};

struct bb_mover {
	struct bb_mover_config cfg;
	struct bb_net *net;
	pthread_t thread;
	int wake;

	/* Of the thread. */
	unsigned int open;	/* requests under way */
	uint8_t status;		/* of a copy: the first that failed */
	struct bb_home_who owner;
	uint64_t local;
	struct copy copy[RUNS];
	uint8_t reply[BB_UPDATE_REPLY_MAX];
	uint32_t replied;

	pthread_mutex_t lock;	/* of what follows */
	bool stop;
	struct bb_move_info info;
};

static bool stopped(struct bb_mover *m)
{
	bool stop;

	pthread_mutex_lock(&m->lock);
	stop = m->stop;
	pthread_mutex_unlock(&m->lock);
	return stop;
}

/* --- requests ------------------------------------------------------------------ */

/* Until all that is open has ended, which it does by its deadline. */
static void finish(struct bb_mover *m)
{
	struct pollfd p = { .fd = bb_net_fd(m->net), .events = POLLIN };

	bb_net_flush(m->net);
	while (m->open) {
		uint64_t now, next;

		bb_net_poll(m->net);
		if (!m->open)
			break;
		now = bb_now_ns();
		next = bb_net_next(m->net);
		poll(&p, p.fd >= 0, next <= now ? 0 : next - now > 50000000ULL ? 50 : (int)((next - now) / 1000000) + 1);
	}
}

static void asked(struct bb_net_req *r)
{
	struct bb_mover *m = r->user;

	m->replied = 0;
	if (r->status == BB_ST_OK && r->paylen <= sizeof(m->reply)) {
		memcpy(m->reply, r->data, r->paylen);
		m->replied = r->paylen;
	}
	m->open--;
}

/* UPDATE. Return: its status. */
static uint8_t ask(struct bb_mover *m, uint16_t node, uint32_t boot, uint64_t ptr, enum bb_update op, uint32_t token)
{
	struct bb_net_req r = {
		.cmd = BB_CMD_UPDATE, .node = node, .boot = boot, .ptr = ptr, .len = op, .token = token,
		.deadline = bb_now_ns() + ASK_NS, .done = asked, .user = m,
	};

	m->open++;
	bb_net_submit(m->net, &r);
	finish(m);
	return r.status;
}

static void copied(struct bb_net_req *r)
{
	struct copy *c = r->user;
	struct bb_mover *m = c->m;
	uint8_t st = r->status;
	void *to;

	m->open--;
	if (st == BB_ST_OK)
		st = bb_home_get(m->cfg.home, m->owner, m->local + c->at, r->len, true, &to);
	if (st == BB_ST_OK) {
		memcpy(to, r->data, r->len);
		bb_home_put(m->cfg.home, m->local + c->at, r->len, true);
	} else if (m->status == BB_ST_OK) {
		m->status = st;
	}
}

/* All pages. Return: enum bb_status. */
static uint8_t copy(struct bb_mover *m, uint16_t node, uint32_t boot, uint64_t ptr)
{
	const uint64_t deadline = bb_now_ns() + COPY_NS;

	m->status = BB_ST_OK;
	for (unsigned int i = 0; i < RUNS; i++) {
		struct copy *c = &m->copy[i];
		const uint64_t left = BB_EXTENT_SIZE - (uint64_t)i * BB_RUN_PAGES_MAX * BB_PAGE_SIZE;

		c->m = m;
		c->at = BB_EXTENT_SIZE - left;
		c->req = (struct bb_net_req){
			.cmd = BB_CMD_READ_RUN, .node = node, .boot = boot, .ptr = ptr + c->at, .deadline = deadline,
			.len = (uint32_t)(left < BB_RUN_PAGES_MAX * BB_PAGE_SIZE ? left : BB_RUN_PAGES_MAX * BB_PAGE_SIZE),
			.done = copied, .user = c,
		};
		m->open++;
		bb_net_submit(m->net, &c->req);
	}
	finish(m);
	return m->status;
}

/* --- one move -------------------------------------------------------------------- */

static void changed(struct bb_mover *m)
{
	if (m->cfg.changed)
		m->cfg.changed(m->cfg.arg);
}

static void let_go(struct bb_mover *m, const struct bb_adopt_entry *e)
{
	bb_home_drop(m->cfg.home, e->local);
	bb_adopt_remove(m->cfg.adopt, e->node, e->ptr);
	changed(m);
}

/* Asks the home whether the extent is ours. Return: its status; on TIMEOUT, UNREACH and BUSY nothing is known yet. */
static uint8_t commit(struct bb_mover *m, const struct bb_adopt_entry *e)
{
	struct bb_wire_seen seen[BB_UPDATE_SESSIONS_MAX];
	uint8_t st = ask(m, e->node, e->boot, e->ptr, BB_UPDATE_COMMIT, e->token);
	int n;

	switch (st) {
	case BB_ST_OK:
		break;
	case BB_ST_TIMEOUT:
	case BB_ST_UNREACH:
	case BB_ST_BUSY:
	case BB_ST_VERSION:
	case BB_ST_STALE:
	case BB_ST_COMMAND: /* by a policy, which may change */
		return st;
	default:
		let_go(m, e);
		return st;
	}
	n = bb_wire_seen_decode(m->reply, m->replied, seen);
	if (n < 0 || bb_server_seed(m->cfg.server, e->owner, e->node, seen, (unsigned int)n))
		return BB_ST_BUSY;
	bb_adopt_set(m->cfg.adopt, e->node, e->ptr, BB_ADOPT_SERVING);
	changed(m);
	return BB_ST_OK;
}

static const char *reason(uint8_t st)
{
	switch (st) {
	case BB_ST_COMMAND:
		return "it cannot steer packets here: attach programs to its device (bbload attach host), with a bbd of this version";
	case BB_ST_RIGHTS:
		return "it is its own, ours, shared, or was moved already: such extents stay where they are";
	case BB_ST_GENERATION:
		return "there is no such extent (any more); see bbctl extent show there";
	case BB_ST_BOUNDS:
	case BB_ST_MALFORMED:
		return "no extent begins there; see bbctl extent show there";
	case BB_ST_NOSPACE:
		return "there is no room here, or its owner's quota is used up";
	case BB_ST_BOOT:
		return "that host has started anew";
	case BB_ST_BUSY:
		return "it is being written or moved just now; try again";
	case BB_ST_TIMEOUT:
	case BB_ST_UNREACH:
		return "that host does not answer; is it in bbctl node show?";
	default:
		return "refused";
	}
}

static uint8_t create(struct bb_mover *m)
{
	const uint64_t end = bb_now_ns() + ASK_NS;
	uint8_t st;

	/* A slab may be on its way. */
	while ((st = bb_home_create(m->cfg.home, m->owner, BB_HOME_ADOPTED, &m->local)) == BB_ST_BUSY && bb_now_ns() < end)
		poll(NULL, 0, 1);
	return st;
}

/* Return: enum bb_status; *sure: whether that is the end of it. */
static uint8_t move(struct bb_mover *m, uint16_t node, uint64_t ptr, bool *sure)
{
	const struct bb_peers_config *pc = bb_peers_config(m->cfg.peers);
	struct bb_adopt_entry e = { .ptr = ptr, .node = node, .state = BB_ADOPT_COPYING };
	struct bb_wire_owner owner;
	struct bb_peer peer;
	uint8_t st;

	*sure = true;
	if (!bb_peers_get(m->cfg.peers, node, &peer) || peer.self)
		return BB_ST_UNREACH;
	if (bb_adopt_find(m->cfg.adopt, node, ptr, &e))
		return e.state == BB_ADOPT_SERVING ? BB_ST_RIGHTS : BB_ST_BUSY;
	e.boot = peer.boot;
	if (getrandom(&e.token, sizeof(e.token), 0) != sizeof(e.token))
		return BB_ST_BUSY;
	st = ask(m, node, e.boot, ptr, BB_UPDATE_BEGIN, e.token);
	if (st != BB_ST_OK)
		return st;
	if (!bb_wire_owner_decode(m->reply, m->replied, &owner)) {
		st = BB_ST_MALFORMED;
		goto abort;
	}
	e.owner = owner.node;
	m->owner = (struct bb_home_who){ .tenant = pc->tenant, .node = owner.node, .boot = owner.boot };
	st = create(m);
	if (st != BB_ST_OK)
		goto abort;
	e.local = m->local;
	if (bb_adopt_add(m->cfg.adopt, &e)) {
		bb_home_drop(m->cfg.home, e.local);
		st = BB_ST_NOSPACE;
		goto abort;
	}
	st = copy(m, node, e.boot, ptr);
	if (st != BB_ST_OK) {
		let_go(m, &e);
		goto abort;
	}
	bb_adopt_set(m->cfg.adopt, node, ptr, BB_ADOPT_COMMITTING);
	st = commit(m, &e);
	*sure = st == BB_ST_OK || !bb_adopt_find(m->cfg.adopt, node, ptr, &e);
	return st;
abort:
	ask(m, node, e.boot, ptr, BB_UPDATE_ABORT, e.token);
	return st;
}

static void run_move(struct bb_mover *m)
{
	struct bb_move_info i;
	uint64_t began = bb_now_ns();
	bool sure;
	uint8_t st;

	bb_mover_info(m, &i);
	if (i.state != BB_MOVE_RUNS)
		return;
	st = move(m, i.node, i.ptr, &sure);
	i.state = st == BB_ST_OK ? BB_MOVE_DONE : BB_MOVE_FAILED;
	i.ns = bb_now_ns() - began;
	if (st != BB_ST_OK)
		snprintf(i.why, sizeof(i.why), "%s", sure ? reason(st) :
			 "that host has stopped answering at its end: bbd settles it when it hears from it again");
	pthread_mutex_lock(&m->lock);
	m->info = i;
	pthread_mutex_unlock(&m->lock);
}

/* --- what was taken over --------------------------------------------------------- */

/* Return: has the home given up all that it had lent then? */
static bool is_of_another_boot(struct bb_mover *m, const struct bb_adopt_entry *e)
{
	struct bb_peer peer;

	return bb_peers_get(m->cfg.peers, e->node, &peer) && peer.boot && peer.boot != e->boot;
}

static void look_at(struct bb_mover *m, const struct bb_adopt_entry *e)
{
	struct bb_peer peer;
	uint8_t st;

	if (is_of_another_boot(m, e)) {
		let_go(m, e);
		return;
	}
	if (e->state == BB_ADOPT_SERVING && bb_home_alive(m->cfg.home, e->local))
		return;
	if (!bb_peers_get(m->cfg.peers, e->node, &peer) || !peer.alive)
		return;
	if (e->state == BB_ADOPT_COMMITTING) {
		commit(m, e);
		return;
	}
	/* Freed, by its owner or with it. */
	if (e->state == BB_ADOPT_SERVING)
		bb_adopt_set(m->cfg.adopt, e->node, e->ptr, BB_ADOPT_LEAVING);
	st = ask(m, e->node, e->boot, e->ptr, BB_UPDATE_RELEASE, e->token);
	if (st == BB_ST_OK || st == BB_ST_GENERATION || st == BB_ST_BOUNDS)
		let_go(m, e);
}

static void *loop(void *arg)
{
	struct bb_mover *m = arg;
	struct pollfd p = { .fd = m->wake, .events = POLLIN };
	struct bb_adopt_entry e;
	uint64_t n;

	prctl(PR_SET_NAME, "bbd-mover");
	bb_rights_thread(BB_ROLE_PAGER); /* asks and holds memory, as pagers do */
	while (!stopped(m)) {
		for (uint32_t i = 0; !stopped(m) && bb_adopt_next(m->cfg.adopt, &i, &e);)
			look_at(m, &e);
		run_move(m);
		if (poll(&p, 1, TICK_MS) > 0 && read(m->wake, &n, sizeof(n)) < 0)
			bb_debug("mover: %m");
	}
	return NULL;
}

/* --- the public calls ------------------------------------------------------------- */

void bb_mover_free(struct bb_mover *m)
{
	if (!m)
		return;
	bb_net_free(m->net);
	if (m->wake >= 0)
		close(m->wake);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

int bb_mover_start(struct bb_mover **out, const struct bb_mover_config *cfg)
{
	struct bb_mover *m = calloc(1, sizeof(*m));
	int ret;

	if (!m)
		return -ENOMEM;
	m->cfg = *cfg;
	pthread_mutex_init(&m->lock, NULL);
	m->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->wake < 0) {
		ret = -errno;
		goto err;
	}
	ret = bb_net_new(&m->net, cfg->peers, cfg->home, INDEX);
	if (ret)
		goto err;
	ret = -pthread_create(&m->thread, NULL, loop, m);
	if (ret)
		goto err;
	*out = m;
	return 0;
err:
	bb_mover_free(m);
	return ret;
}

void bb_mover_stop(struct bb_mover *m)
{
	if (!m)
		return;
	pthread_mutex_lock(&m->lock);
	m->stop = true;
	pthread_mutex_unlock(&m->lock);
	bb_mover_wake(m);
	pthread_join(m->thread, NULL);
}

int bb_mover_move(struct bb_mover *m, uint16_t node, uint64_t ptr)
{
	int ret = 0;

	if (!node || node == BB_NODE_ANY || ptr & (BB_EXTENT_SIZE - 1))
		return -EINVAL;
	pthread_mutex_lock(&m->lock);
	if (m->info.state == BB_MOVE_RUNS)
		ret = -EBUSY;
	else
		m->info = (struct bb_move_info){ .state = BB_MOVE_RUNS, .node = node, .ptr = ptr };
	pthread_mutex_unlock(&m->lock);
	if (!ret)
		bb_mover_wake(m);
	return ret;
}

void bb_mover_info(struct bb_mover *m, struct bb_move_info *out)
{
	pthread_mutex_lock(&m->lock);
	*out = m->info;
	pthread_mutex_unlock(&m->lock);
}

void bb_mover_wake(struct bb_mover *m)
{
	const uint64_t one = 1;

	if (m && write(m->wake, &one, sizeof(one)) < 0)
		bb_debug("mover: cannot wake its thread: %m");
}
