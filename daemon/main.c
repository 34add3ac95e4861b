/* SPDX-License-Identifier: MIT */
/*
 * bbd: the BlueBridge daemon of a host. Reads its options, starts the home, the
 * server, the pagers, and serves the Unix socket until it is told to stop.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/control.h"
#include "control/notify.h"
#include "keep/keep.h"
#include "home/home.h"
#include "home/slab.h"
#include "latency.h"
#include "log.h"
#include "low.h"
#include "net/rdma.h"
#include "net/xsk.h"
#include "options.h"
#include "rights.h"

static atomic_int stop;

static char own_path[PATH_MAX]; /* as it was when we began */

static void on_stop(int sig)
{
	stop = sig;
}

static void raise_limits(void)
{
	struct rlimit r;

	/* Two descriptors and a few a program; as many as we are allowed. */
	if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
		r.rlim_cur = r.rlim_max;
		setrlimit(RLIMIT_NOFILE, &r);
	}
}

/* The directory that a path lies in, if it is one below a directory that exists. */
static void make_parent(const char *path)
{
	char dir[256];
	const char *slash = strrchr(path, '/');

	if (!slash || slash == path || (size_t)(slash - path) >= sizeof(dir))
		return;
	memcpy(dir, path, (size_t)(slash - path));
	dir[slash - path] = 0;
	if (mkdir(dir, 0755) < 0 && errno != EEXIST)
		bb_debug("cannot make %s (error %d)", dir, errno);
}

/* Without --key: /etc/bluebridge/key, or beside the socket where that cannot be. */
static int load_key(const struct bb_config *cfg, struct bb_key *key, const char **file)
{
	static char beside[300];
	const char *slash;
	int r;

	if (cfg->embedded) {
		/* Nobody else is spoken to. */
		*file = "none";
		if (getrandom(key->raw, sizeof(key->raw), 0) != sizeof(key->raw))
			return -EIO;
		return bb_key_derive(key);
	}
	*file = cfg->key ? cfg->key : "/etc/bluebridge/key";
	make_parent(*file);
	r = bb_key_load(key, *file);
	if (r >= 0 || cfg->key || (r != -EACCES && r != -EROFS && r != -ENOENT))
		goto out;
	slash = strrchr(cfg->socket, '/');
	memcpy(beside, "key", 4);
	if (slash) {
		size_t n = (size_t)(slash - cfg->socket) + 1;

		if (n + 4 > sizeof(beside))
			goto out;
		memcpy(beside, cfg->socket, n);
		memcpy(beside + n, "key", 4);
	}
	*file = beside;
	r = bb_key_load(key, *file);
out:
	if (r < 0)
		bb_error("key %s: %s; the hosts share one key: copy it from another, mode 0600", *file,
			 strerrordesc_np(-r));
	else if (r == 1)
		bb_info("key %s was made: copy it to the other hosts", *file);
	return r;
}

/* Has nobody else taken the path meanwhile? */
static bool is_same(const char *path, const struct stat *was)
{
	struct stat st;

	return lstat(path, &st) == 0 && st.st_dev == was->st_dev && st.st_ino == was->st_ino;
}

static int start_pagers(struct bb_control *c, const struct bb_config *cfg)
{
	const unsigned int kept = bb_pagers_kept(c->keep), n = kept > cfg->pagers ? kept : cfg->pagers;

	for (unsigned int i = 0; i < n; i++) {
		struct bb_pager_config pc = {
			.index = i,
			.cpu = cfg->ncpus ? cfg->cpus[i % cfg->ncpus] : -1,
			.spin_us = cfg->spin_us,
			.prefetch = cfg->prefetch,
			.replicas = cfg->replicas,
			.deadline_ns = cfg->deadline_ms * 1000000ULL,
			.peers = c->peers,
			.home = c->home,
			.keep = c->keep,
			.socket = cfg->socket,
		};
		int r = bb_pager_start(&c->pagers[i], &pc);

		if (r < 0) {
			bb_error("pager %u: cannot start (%s)", i, strerrordesc_np(-r));
			return r;
		}
		c->npagers++;
	}
	return 0;
}

/* The caller waits; what others say is heard by a thread that may do less. */
struct listening {
	struct bb_control *c;
	int listener;
	const sigset_t *signals;
};

static void *listen_to_all(void *arg)
{
	const struct listening *l = arg;

	prctl(PR_SET_NAME, "bbd-control");
	/* One that comes ends its wait in epoll. */
	pthread_sigmask(SIG_UNBLOCK, l->signals, NULL);
	bb_rights_thread(BB_ROLE_CONTROL);
	bb_control_run(l->c, l->listener, &stop);
	return NULL;
}

static int run_control(struct bb_control *c, int listener, const sigset_t *signals)
{
	struct listening l = { c, listener, signals };
	pthread_t t;
	int r;

	c->self = getpid();
	r = -pthread_create(&t, NULL, listen_to_all, &l);
	if (r < 0) {
		bb_error("control: cannot start its thread (%s)", strerrordesc_np(-r));
		return r;
	}
	bb_rights_thread(BB_ROLE_MAIN);
	bb_info("node %u ready at %s%s", c->cfg->node, c->cfg->socket, c->cfg->embedded ? " (embedded)" : "");
	bb_notify(environ, "READY=1");
	pthread_join(t, NULL);
	bb_notify(environ, "STOPPING=1");
	return 0;
}

static bool is_address(const char *peer)
{
	struct in6_addr a;
	char text[INET6_ADDRSTRLEN + 1] = "";

	/* Without the scope, as in fe80::1%eth0. */
	memcpy(text, peer, strnlen(peer, sizeof(text) - 1));
	text[strcspn(text, "%")] = 0;
	return inet_pton(AF_INET6, text, &a) == 1;
}

/* What bbd has to be for the memory of the one before it to be its own. */
struct kept_node {
	uint32_t magic, layout;
	uint32_t boot;
	uint16_t node, tenant;
};

#define KEPT_MAGIC 0x62626e64u /* "bbnd" */
#define KEPT_LAYOUT 1 /* of all that is kept */

/* The predecessor's number, if its memory is there; else a new one. */
static int incarnation(struct bb_keep *keep, const struct bb_config *cfg, uint32_t *boot)
{
	bool found;
	int fd = bb_keep_memory(keep, "node", 4096, &found), r = 0;
	struct kept_node *k;

	if (fd < 0) {
		bb_error("cannot keep memory (%s)", strerrordesc_np(-fd));
		return fd;
	}
	k = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (k == MAP_FAILED) {
		r = -errno;
		bb_error("cannot map kept memory (%s)", strerrordesc_np(-r));
		return r;
	}
	if (found && k->magic == KEPT_MAGIC && (k->layout != KEPT_LAYOUT || k->node != cfg->node ||
						 k->tenant != cfg->tenant)) {
		bb_error("the memory of node %u, tenant %u is kept at this socket, by a bbd with layout %u: start that one, or "
			 "wait until its keeper ends",
			 k->node, k->tenant, k->layout);
		r = -EBUSY;
		goto out;
	}
	if (found && k->magic == KEPT_MAGIC) {
		*boot = k->boot;
		goto out;
	}
	if (getrandom(boot, sizeof(*boot), 0) != sizeof(*boot) || !*boot)
		*boot = (uint32_t)getpid();
	*k = (struct kept_node){ .layout = KEPT_LAYOUT, .boot = *boot, .node = cfg->node, .tenant = cfg->tenant };
	__atomic_store_n(&k->magic, KEPT_MAGIC, __ATOMIC_RELEASE);
out:
	munmap(k, 4096);
	return r;
}

/* A bbd that could not start must not take its predecessor's memory with it. */
static bool is_worth_keeping(struct bb_keep *keep)
{
	return bb_keep_list(keep, BB_KEPT_PROGRAMS, NULL, 0) || bb_slabs_kept(keep);
}

/* Does another bbd go on from here? SIGINT and SIGHUP end it all. */
static bool leaves(struct bb_control *c, int sig)
{
	uint64_t lent = c->home ? bb_home_lent_out(c->home, c->cfg->node) : 0;
	unsigned int n = 0;
	char text[16];

	for (unsigned int i = 0; i < c->npagers; i++)
		n += bb_pager_count(c->pagers[i]);
	if (sig == SIGUSR2 && bb_keep_ms(c->keep)) {
		bb_info("starting %s anew: %u programs and %s that others use stay", own_path, n,
			bb_size_format(lent, text, sizeof(text)));
		return true;
	}
	if (sig != SIGTERM || !bb_keep_ms(c->keep) || (!n && !lent))
		return false;
	bb_warn("%u programs are attached, and others use %s: both are kept for %u s; start bbd again to go on", n,
		bb_size_format(lent, text, sizeof(text)), bb_keep_ms(c->keep) / 1000);
	return true;
}

/* Does this bbd have to do with what bbload attaches? */
static bool steers(const struct bb_config *cfg)
{
	return cfg->kernel && cfg->dev && !cfg->embedded;
}

static int start_steer(struct bb_control *c, const struct bb_peers_config *pc)
{
	const struct bb_steer_config sc = {
		.dev = c->cfg->dev,
		.tenant = pc->tenant,
		.node = pc->node,
		.port = pc->port,
		.boot = pc->boot,
		.k0 = pc->key.k0,
		.k1 = pc->key.k1,
		.home = c->home,
		.adopt = c->moving.adopt,
		.sockets = c->cfg->xdp,
		.store = c->cfg->store,
	};
	int r = bb_steer_start(&c->steer, &sc);

	if (r < 0)
		bb_error("steer: cannot start (%s)", strerrordesc_np(-r));
	else if (c->cfg->xdp)
		bb_xsk_enable();
	return r;
}

/* Return: 0, or -errno where pages must travel by RDMA and cannot. After limit_rights(). */
static int open_rdma(const struct bb_config *cfg)
{
	const struct bb_rdma_config rc = { .dev = cfg->dev, .tenant = cfg->tenant, .node = cfg->node, .addresses = cfg->routes };
	int r;

	if (cfg->embedded || !cfg->rdma) {
		bb_rdma_off(cfg->embedded ? "embedded" : "--transport udp");
		return 0;
	}
	r = bb_low_start();
	if (!r)
		r = bb_rdma_open(&rc);
	if (!r) {
		bb_rights_rdma();
		bb_info("rdma: %s at %s", bb_rdma_why(), cfg->dev);
		return 0;
	}
	bb_low_stop();
	if (!cfg->must_rdma)
		return 0;
	bb_error("--transport rdma: %s", bb_rdma_why());
	return r;
}

/* Lent memory is served by UDP whatever becomes of it. */
static int start_rdma_home(struct bb_control *c)
{
	int r = bb_rdma_home_start(&c->rdma, c->peers, c->home, c->steer ? bb_steer_policy(c->steer) : NULL);

	if (r && c->cfg->must_rdma) {
		bb_error("--transport rdma: lent memory cannot be served (%s)", strerrordesc_np(-r));
		return r;
	}
	return 0;
}

static void limit_rights(const struct bb_config *cfg)
{
	struct bb_rights_config rc = {
		.filter = cfg->filter,
		.routes = !cfg->embedded && cfg->routes,
		.network = !cfg->embedded,
		.low_port = !cfg->embedded && cfg->port < 1024,
		.kernel = steers(cfg),
		.xdp = steers(cfg) && cfg->xdp,
		.store = cfg->store,
	};

	for (unsigned int i = 0; i < cfg->npeers; i++)
		rc.names |= !is_address(cfg->peers[i]);
	if (cfg->latency)
		bb_latency_start();
	bb_rights_start(&rc);
}

int main(int argc, char **argv)
{
	static struct bb_control c;
	static struct bb_config cfg;
	struct bb_peers_config pc = { 0 };
	struct sigaction sa = { .sa_handler = on_stop }, hup;
	int listener = -1, r, status = 1;
	bool leave = false;
	struct stat own = { 0 };
	sigset_t blocked;

	bb_log_init("bbd", BB_LOG_INFO);
	r = bb_config_parse(&cfg, argc, argv);
	if (r)
		return r < 0 ? 2 : 0;
	bb_log_level(cfg.log);
	signal(SIGPIPE, SIG_IGN);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGUSR2, &sa, NULL);
	(void)!readlink("/proc/self/exe", own_path, sizeof(own_path) - 1);
	/* Its terminal closes; nohup(1) has it ignored. */
	if (sigaction(SIGHUP, NULL, &hup) == 0 && hup.sa_handler != SIG_IGN)
		sigaction(SIGHUP, &sa, NULL);
	raise_limits();

	c.cfg = &cfg;
	bb_budget_init(&c.budget, cfg.local);
	make_parent(cfg.socket);
	listener = bb_control_listen(cfg.socket);
	if (listener < 0)
		return 1;
	if (lstat(cfg.socket, &own) < 0)
		bb_warn("socket %s: somebody removes it (%s)", cfg.socket, strerrordesc_np(errno));
	if (load_key(&cfg, &pc.key, &c.key_file) < 0)
		goto out;
	bb_key_id(&pc.key, c.key_id);
	/* It forks: before any thread, and before we lose our rights. */
	r = bb_keep_open(&c.keep, cfg.socket, cfg.keep_ms);
	if (r < 0)
		goto out;
	if (!bb_keep_ms(c.keep))
		signal(SIGUSR2, SIG_IGN); /* nothing would be left to go on with */
	limit_rights(&cfg);
	if (open_rdma(&cfg) < 0)
		goto out;

	pc.node = cfg.node;
	pc.tenant = cfg.tenant;
	pc.port = cfg.port;
	pc.compress = cfg.embedded ? BB_COMPRESS_OFF : cfg.compress;
	pc.dev = cfg.embedded ? NULL : cfg.dev;
	pc.discover = !cfg.embedded && cfg.discover && cfg.dev;
	pc.routes = !cfg.embedded && cfg.routes;
	pc.peers = cfg.peers;
	r = incarnation(c.keep, &cfg, &pc.boot);
	if (r < 0)
		goto out;
	r = bb_peers_new(&c.peers, &pc);
	if (r < 0) {
		bb_error("cannot keep a list of hosts (%s)", strerrordesc_np(-r));
		goto out;
	}
	/* Signals are for the control thread, which waits in epoll: every other is made without. */
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGTERM);
	sigaddset(&blocked, SIGINT);
	sigaddset(&blocked, SIGHUP);
	sigaddset(&blocked, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &blocked, NULL);
	/* What a bbd before has lent is served, whether or not more is lent. */
	if (cfg.lend || bb_slabs_kept(c.keep)) {
		struct bb_home_config hc = { .lend = cfg.lend, .store = cfg.store, .quota = cfg.quota, .keep = c.keep };

		r = bb_home_new(&c.home, &hc);
		if (r < 0) {
			bb_error("cannot lend memory (%s)", strerrordesc_np(-r));
			goto out;
		}
		bb_peers_own(c.peers, cfg.lend, cfg.lend);
	}
	if (!cfg.embedded) {
		r = bb_moving_open(&c.moving, c.peers, c.home, c.keep);
		if (r < 0) {
			bb_error("cannot keep a table of extents that moved here (%s)", strerrordesc_np(-r));
			goto out;
		}
	}
	/* Before anybody is told that we are here: an earlier bbd's pages are served no more. */
	if (steers(&cfg)) {
		r = start_steer(&c, &pc);
		if (r < 0)
			goto out;
	}
	r = start_rdma_home(&c);
	if (r < 0)
		goto out;
	if (!cfg.embedded) {
		struct bb_server_config sc = {
			.cpu = cfg.ncpus ? cfg.cpus[cfg.ncpus - 1] : -1,
			.spin_us = cfg.spin_us,
			.keep = c.keep,
			.policy = c.steer ? bb_steer_policy(c.steer) : NULL,
			.adopt = c.moving.adopt,
			.moves = bb_moving_hooks(&c.moving, c.steer),
			.close = c.rdma ? bb_rdma_home_close : NULL,
			.close_arg = c.rdma,
		};

		if (!cfg.dev && !cfg.npeers)
			bb_warn("neither --dev nor --peer: no other host will be found");
		r = bb_server_start(&c.server, c.peers, c.home, &sc);
		if (r < 0) {
			bb_error("cannot serve UDP port %u (%s)%s", cfg.port, strerrordesc_np(-r),
				 r == -EADDRINUSE ? "; another bbd runs here: stop it, or give --port" : "");
			goto out;
		}
	}
	if (c.server) {
		r = bb_moving_start(&c.moving, c.server);
		if (r < 0) {
			bb_error("mover: cannot start (%s)", strerrordesc_np(-r));
			goto out;
		}
	}
	r = start_pagers(&c, &cfg);
	bb_low_stop(); /* all that drive a NIC are there */
	if (r == 0)
		r = run_control(&c, listener, &blocked);
	pthread_sigmask(SIG_UNBLOCK, &blocked, NULL);
	if (r < 0)
		goto out;
	status = 0;
	leave = leaves(&c, stop);
out:
	bb_low_stop();
	if (is_same(cfg.socket, &own))
		unlink(cfg.socket);
	close(listener);
	for (unsigned int i = 0; i < c.npagers; i++)
		bb_pager_stop(c.pagers[i], leave);
	bb_moving_stop(&c.moving);
	if (c.server)
		bb_server_stop(c.server, leave);
	bb_rdma_home_stop(c.rdma);
	bb_rdma_close(leave);
	bb_steer_stop(c.steer, leave || (status && is_worth_keeping(c.keep)));
	bb_moving_close(&c.moving);
	if (c.peers)
		bb_peers_free(c.peers);
	if (c.home)
		bb_home_free(c.home);
	if (c.keep)
		bb_keep_close(c.keep, leave || (status && is_worth_keeping(c.keep)));
	if (status == 0 && stop == SIGUSR2 && leave) {
		/* Another signal waits until the new one has taken them in hand. */
		pthread_sigmask(SIG_BLOCK, &blocked, NULL);
		execv(own_path, argv);
		bb_error("cannot start %s (%s): what is held is kept for %u s: start a bbd", own_path,
			 strerrordesc_np(errno), cfg.keep_ms / 1000);
		status = 1;
	}
	return status;
}
