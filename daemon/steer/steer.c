/* SPDX-License-Identifier: MIT */
/*
 * The thread that keeps bbd and what bbload attached in step.
 *
 * Theory of operation
 * -------------------
 * Twice a second it looks at the pins of its device. When they appear or are
 * others than before, it opens them and takes over: what an earlier bbd left
 * there is taken out unless it is ours (the same boot: then the kernel goes on
 * serving all the while), our slabs go in, and the configuration is filled in;
 * its serial number is odd meanwhile, so that nobody acts on half of it. From
 * then on the home's new slabs are maps, which this thread makes when the home
 * wakes it. When the pins are gone the home goes back to memfds; slabs that are
 * maps stay, and wait for programs to be attached again.
 *
 * One bbd has a device's maps: the one that holds an abstract socket's name,
 * which is the network namespace's own and goes with its process. Slabs of one
 * under the number of another would be the wrong memory.
 *
 * The policies lie at one address for ever: a page that is mapped anew, from
 * the map or from nothing, at each change. So the server reads them without a
 * lock or a look at a pointer.
 *
 * Lock order: the home's, then none; our own (for stats) is not held while the
 * home is called.
 */
#include "steer/steer.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "home/home.h"
#include "log.h"
#include "rights.h"
#include "steer/moves.h"
#include "steer/pins.h"
#include "steer/sockets.h"
#include "steer_names.h"

/* A bbd that was killed is taken apart a moment after its keeper knows. */
#define CLAIM_TRIES 100
#define CLAIM_STEP_US 20000
#define STATS_WAIT_NS 200000000L
#define SLAB_SHIFT BB_STEER_SLAB_SHIFT

struct bb_steer {
	struct bb_steer_config cfg;
	struct bb_home_maker maker;
	char dir[200];
	char said[256];			/* why it was refused, the last time */
	struct bb_policy *policy;	/* a page */
	struct bb_pins pins;
	struct bb_sockets sockets;	/* the thread's */
	bool open;
	int wake;
	int name;			/* socket whose name says that we have the maps */
	bool named;
	pthread_t thread;

	pthread_mutex_t lock;		/* of all below */
	pthread_cond_t fresh;
	bool stop, leave;
	bool dirty;			/* what moved has changed */
	bool can_move;
	struct bb_move_node nodes[BB_MOVE_NODES];
	uint64_t asked, answered;	/* stats */
	struct bb_steer_stats stats;
};

static void set_state(struct bb_steer *s, enum bb_steer_state state, const char *why)
{
	pthread_mutex_lock(&s->lock);
	s->stats.state = state;
	snprintf(s->stats.why, sizeof(s->stats.why), "%s", why);
	pthread_mutex_unlock(&s->lock);
}

static void wake(void *arg)
{
	const struct bb_steer *s = arg;
	const uint64_t one = 1;

	if (write(s->wake, &one, sizeof(one)) < 0)
		bb_debug("steer: cannot wake its thread: %m");
}

/* --- the configuration -------------------------------------------------------- */

static void cfg_begin(struct bb_steer_cfg *c)
{
	/* Odd also where a bbd was killed in the middle of it. */
	__atomic_store_n(&c->serial, (__atomic_load_n(&c->serial, __ATOMIC_RELAXED) | 1), __ATOMIC_SEQ_CST);
}

static void cfg_end(struct bb_steer_cfg *c)
{
	__atomic_store_n(&c->serial, __atomic_load_n(&c->serial, __ATOMIC_RELAXED) + 1, __ATOMIC_SEQ_CST);
}

static bool cfg_is_ours(const struct bb_steer *s)
{
	const struct bb_steer_cfg *c = s->pins.cfg;

	return !(c->serial & 1) && c->flags & BB_SC_KNOWN && c->tenant == s->cfg.tenant && c->node == s->cfg.node &&
	       c->port == s->cfg.port && c->boot == s->cfg.boot && c->k0 == s->cfg.k0 && c->k1 == s->cfg.k1;
}

static void cfg_set(struct bb_steer *s, uint32_t flags, uint64_t bytes)
{
	struct bb_steer_cfg *c = s->pins.cfg;

	cfg_begin(c);
	if (flags) {
		c->tenant = s->cfg.tenant;
		c->node = s->cfg.node;
		c->port = s->cfg.port;
		c->boot = s->cfg.boot;
		c->k0 = s->cfg.k0;
		c->k1 = s->cfg.k1;
	} else {
		c->k0 = c->k1 = 0; /* nobody is to find it there */
	}
	__atomic_store_n(&c->bytes, bytes, __ATOMIC_SEQ_CST);
	__atomic_store_n(&c->flags, flags, __ATOMIC_RELEASE);
	cfg_end(c);
}

/* --- slabs ---------------------------------------------------------------------- */

static uint64_t end_of(uint64_t i)
{
	return (i + 1) << SLAB_SHIFT;
}

/* See bytes of struct bb_steer_cfg: what is put in is found again by the bbd after one that was killed. */
static int put_slab(struct bb_steer *s, uint64_t i, int fd)
{
	if (s->pins.cfg->bytes < end_of(i))
		__atomic_store_n(&s->pins.cfg->bytes, end_of(i), __ATOMIC_SEQ_CST);
	return bb_pins_put_slab(&s->pins, (uint32_t)i, fd);
}

/* Return: bytes up to the end of the last slab that is a map. */
static uint64_t put_slabs(struct bb_steer *s, bool clear)
{
	uint8_t *ours = calloc(1, BB_STEER_SLABS_MAX);
	uint64_t end = 0, n = 0;
	int fd, ret;

	for (uint64_t i = 0; s->cfg.home && (fd = bb_home_next_map(s->cfg.home, &i)) >= 0 && i < BB_STEER_SLABS_MAX; i++) {
		ret = put_slab(s, i, fd);
		if (ret) {
			bb_warn("steer: slab %llu cannot be given to the kernel (%s): bbd serves it", (unsigned long long)i,
				strerrordesc_np(-ret));
			continue;
		}
		if (ours)
			ours[i] = 1;
		end = end_of(i);
		n++;
	}
	if (clear && ours)
		bb_pins_clear_slabs(&s->pins, ours);
	free(ours);
	pthread_mutex_lock(&s->lock);
	s->stats.slabs = n;
	pthread_mutex_unlock(&s->lock);
	return end;
}

static void make_slabs(struct bb_steer *s)
{
	uint64_t i;

	while (s->cfg.home && bb_home_claim(s->cfg.home, &i)) {
		int fd = !s->open ? -ENODEV : i >= BB_STEER_SLABS_MAX ? -E2BIG : bb_pins_new_slab();
		int ret = fd < 0 ? fd : put_slab(s, i, fd);

		if (ret && fd >= 0) {
			close(fd);
			fd = ret;
		}
		/* There before the first page of it is lent. */
		if (!ret)
			cfg_set(s, BB_SC_KNOWN | BB_SC_SERVE, s->pins.cfg->bytes);
		ret = bb_home_give(s->cfg.home, i, fd);
		if (ret && fd >= 0)
			close(fd);
		if (ret)
			put_slabs(s, true);
		pthread_mutex_lock(&s->lock);
		s->stats.slabs += !ret;
		pthread_mutex_unlock(&s->lock);
	}
}

/* --- attached, replaced, detached -------------------------------------------------- */

static void map_policy(struct bb_steer *s, int fd)
{
	const int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;

	if (mmap(s->policy, BB_PAGE_SIZE, PROT_READ, flags | MAP_FIXED, fd, 0) == MAP_FAILED)
		bb_warn("steer: cannot map the command policies (%m): bbd goes on without them");
}

static void sync_moves(struct bb_steer *s, bool anyway)
{
	struct bb_move_node nodes[BB_MOVE_NODES];
	bool dirty;

	pthread_mutex_lock(&s->lock);
	dirty = s->dirty || anyway;
	s->dirty = false;
	s->can_move = s->open && bb_moves_can(&s->pins);
	memcpy(nodes, s->nodes, sizeof(nodes));
	pthread_mutex_unlock(&s->lock);
	if (!dirty || !s->open)
		return;
	bb_moves_sync(&s->pins, s->cfg.home, s->cfg.adopt, s->cfg.tenant, s->cfg.node, nodes);
	/* Only this thread adds nodes that are wanted; others may have become known meanwhile. */
	pthread_mutex_lock(&s->lock);
	for (int i = 0; i < BB_MOVE_NODES; i++) {
		struct bb_move_node *n = bb_move_node(s->nodes, nodes[i].node);

		if (n && nodes[i].node)
			n->wanted = nodes[i].wanted;
	}
	pthread_mutex_unlock(&s->lock);
}

static void take_over(struct bb_steer *s)
{
	const bool serves = s->cfg.home && !s->cfg.store;
	const uint32_t flags = BB_SC_KNOWN | (serves ? BB_SC_SERVE : 0);
	uint64_t bytes;

	s->open = true;
	s->said[0] = 0;
	if (!cfg_is_ours(s))
		cfg_set(s, 0, s->pins.cfg->bytes);
	bytes = put_slabs(s, true);
	if (!cfg_is_ours(s) || s->pins.cfg->flags != flags || s->pins.cfg->bytes != bytes)
		cfg_set(s, flags, bytes);
	map_policy(s, s->pins.policy);
	sync_moves(s, true);
	if (serves)
		bb_home_maps(s->cfg.home, &s->maker);
	set_state(s, serves ? BB_STEER_SERVES : BB_STEER_KNOWN,
		  serves ? "" : !s->cfg.home ? "nothing is lent" : "lent memory lies in files (--store)");
	bb_info("programs are attached to %s: %s", s->cfg.dev,
		serves ? "READs are answered in the kernel" : "they know this host, READs are bbd's");
}

static void let_go(struct bb_steer *s)
{
	if (s->cfg.home)
		bb_home_maps(s->cfg.home, NULL);
	map_policy(s, -1);
	bb_pins_close(&s->pins);
	bb_sockets_forget(&s->sockets);
	s->open = false;
	pthread_mutex_lock(&s->lock);
	s->can_move = false;
	s->stats.slabs = 0;
	pthread_mutex_unlock(&s->lock);
}

/* Return: 0, or -errno; -EADDRINUSE: another bbd has them. */
static int claim(struct bb_steer *s)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	const int len = snprintf(un.sun_path + 1, sizeof(un.sun_path) - 1, "bluebridge-steer.%s", s->cfg.dev);

	if (s->named)
		return 0;
	if (bind(s->name, (struct sockaddr *)&un, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len)))
		return -errno;
	s->named = true;
	return 0;
}

static int open_pins(struct bb_steer *s, char *why, size_t size)
{
	int ret = bb_pins_open(&s->pins, s->dir, why, size);

	if (ret)
		return ret;
	ret = claim(s);
	if (!ret)
		return 0;
	bb_pins_close(&s->pins);
	snprintf(why, size, "the programs at %s are another bbd's of this network namespace (%s)", s->cfg.dev,
		 strerrordesc_np(-ret));
	return ret;
}

static void look(struct bb_steer *s)
{
	char why[sizeof(s->said)] = "";
	int ret;

	if (s->open) {
		if (bb_pins_same(&s->pins, s->dir))
			return;
		let_go(s);
		bb_info("programs at %s were detached or replaced", s->cfg.dev);
	}
	ret = open_pins(s, why, sizeof(why));
	if (!ret) {
		take_over(s);
		return;
	}
	if (ret == -ENOENT || ret == -ENOTDIR) {
		set_state(s, BB_STEER_OFF, "");
		return;
	}
	set_state(s, BB_STEER_REFUSED, why);
	if (strcmp(s->said, why))
		bb_warn("%s; READs are answered by bbd alone", why);
	memcpy(s->said, why, sizeof(why));
}

/* --- the thread ---------------------------------------------------------------------- */

static void answer_stats(struct bb_steer *s)
{
	uint64_t count[BB_CNT_MAX] = { 0 }, asked;
	bool due;

	pthread_mutex_lock(&s->lock);
	asked = s->asked;
	due = asked != s->answered;
	pthread_mutex_unlock(&s->lock);
	if (!due)
		return;
	for (uint32_t i = 0; s->open && i < BB_CNT_MAX; i++)
		count[i] = bb_pins_count(&s->pins, i);
	pthread_mutex_lock(&s->lock);
	memcpy(s->stats.count, count, sizeof(count));
	s->answered = asked;
	pthread_cond_broadcast(&s->fresh);
	pthread_mutex_unlock(&s->lock);
}

static bool stopped(struct bb_steer *s, bool *leave)
{
	bool stop;

	pthread_mutex_lock(&s->lock);
	stop = s->stop;
	*leave = s->leave;
	pthread_mutex_unlock(&s->lock);
	return stop;
}

static void *loop(void *arg)
{
	struct bb_steer *s = arg;
	struct pollfd p = { .fd = s->wake, .events = POLLIN };
	static const uint8_t none[BB_STEER_SLABS_MAX];
	int wait = BB_STEER_LOOK_MS;
	bool leave;
	uint64_t n;

	prctl(PR_SET_NAME, "bbd-steer");
	bb_rights_thread(BB_ROLE_STEER);
	while (!stopped(s, &leave)) {
		make_slabs(s);
		sync_moves(s, false);
		answer_stats(s);
		if (poll(&p, 1, wait) > 0 && read(s->wake, &n, sizeof(n)) < 0)
			bb_debug("steer: %m");
		look(s);
		if (s->cfg.sockets)
			wait = bb_sockets_look(&s->sockets, s->open);
	}
	if (s->open && !leave) {
		cfg_set(s, 0, s->pins.cfg->bytes);
		bb_moves_sync(&s->pins, NULL, NULL, s->cfg.tenant, s->cfg.node, s->nodes);
		bb_pins_clear_slabs(&s->pins, none);
		cfg_set(s, 0, 0);
	}
	bb_sockets_fini(&s->sockets);
	if (s->open)
		let_go(s);
	return NULL;
}

/* --- the public calls ------------------------------------------------------------------ */

static void steer_free(struct bb_steer *s)
{
	if (s->policy)
		munmap(s->policy, BB_PAGE_SIZE);
	if (s->wake >= 0)
		close(s->wake);
	if (s->name >= 0)
		close(s->name);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->fresh);
	free(s);
}

int bb_steer_start(struct bb_steer **out, const struct bb_steer_config *cfg)
{
	struct bb_steer *s = calloc(1, sizeof(*s));
	char name[64];
	struct stat ns;
	int ret;

	if (!s)
		return -ENOMEM;
	s->cfg = *cfg;
	s->maker = (struct bb_home_maker){ wake, s };
	s->pins = (struct bb_pins){ .slabs = -1, .count = -1, .policy = -1, .over = -1, .nodes = -1, .adopted = -1, .dev = -1 };
	bb_sockets_init(&s->sockets, cfg->dev, s->dir);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->fresh, NULL);
	s->policy = mmap(NULL, BB_PAGE_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->name = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (s->policy == MAP_FAILED)
		s->policy = NULL;
	if (!s->policy || s->wake < 0 || s->name < 0 || stat("/proc/self/ns/net", &ns)) {
		ret = -errno;
		goto err;
	}
	ret = bb_steer_dir(name, sizeof(name), ns.st_ino, cfg->dev);
	if (ret)
		goto err;
	ret = snprintf(s->dir, sizeof(s->dir), "%s/%s", cfg->fs ? cfg->fs : BB_STEER_FS, name);
	if (ret < 0 || (size_t)ret >= sizeof(s->dir)) {
		ret = -ENAMETOOLONG;
		goto err;
	}
	for (int i = 0; i < CLAIM_TRIES && !stat(s->dir, &ns) && claim(s) == -EADDRINUSE; i++)
		usleep(CLAIM_STEP_US);
	look(s);
	ret = -pthread_create(&s->thread, NULL, loop, s);
	if (ret) {
		if (s->open)
			let_go(s);
		goto err;
	}
	*out = s;
	return 0;
err:
	steer_free(s);
	return ret;
}

void bb_steer_stop(struct bb_steer *s, bool leave)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->stop = true;
	s->leave = leave;
	pthread_mutex_unlock(&s->lock);
	wake(s);
	pthread_join(s->thread, NULL);
	steer_free(s);
}

const struct bb_policy *bb_steer_policy(const struct bb_steer *s)
{
	return s->policy;
}

void bb_steer_stats(struct bb_steer *s, struct bb_steer_stats *out)
{
	struct timespec t;
	uint64_t mine;

	memset(out, 0, sizeof(*out));
	if (!s)
		return;
	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_nsec += STATS_WAIT_NS;
	t.tv_sec += t.tv_nsec / 1000000000L;
	t.tv_nsec %= 1000000000L;
	pthread_mutex_lock(&s->lock);
	mine = ++s->asked;
	wake(s);
	while (s->answered < mine && !pthread_cond_timedwait(&s->fresh, &s->lock, &t))
		;
	*out = s->stats;
	pthread_mutex_unlock(&s->lock);
}

void bb_steer_moved(struct bb_steer *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->dirty = true;
	pthread_mutex_unlock(&s->lock);
	wake(s);
}

bool bb_steer_node(struct bb_steer *s, uint16_t node, uint32_t ifindex, const uint8_t mac[6])
{
	struct bb_move_node *n;
	bool ok, dirty;

	if (!s)
		return false;
	pthread_mutex_lock(&s->lock);
	n = bb_move_node(s->nodes, node);
	if (n && (!n->known || n->ifindex != ifindex || memcmp(n->mac, mac, 6))) {
		n->known = true;
		n->ifindex = ifindex;
		memcpy(n->mac, mac, 6);
		s->dirty = true;
	}
	ok = n && s->can_move;
	dirty = s->dirty;
	pthread_mutex_unlock(&s->lock);
	if (dirty)
		wake(s);
	return ok;
}

unsigned int bb_steer_nodes(struct bb_steer *s, uint16_t *out, unsigned int max)
{
	unsigned int n = 0;

	if (!s)
		return 0;
	pthread_mutex_lock(&s->lock);
	for (int i = 0; i < BB_MOVE_NODES && n < max; i++)
		if (s->nodes[i].wanted)
			out[n++] = s->nodes[i].node;
	pthread_mutex_unlock(&s->lock);
	return n;
}
