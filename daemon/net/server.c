/* SPDX-License-Identifier: MIT */
/*
 * The server's thread and socket.
 *
 * Theory of operation
 * -------------------
 * Packets are received in batches without waiting. After spin_us without any
 * the thread sleeps until a packet, the stop signal, or the peers' next tick.
 * While it spins it yields its CPU between looks: the program that waits for
 * the answer may be on the same one.
 *
 * Answers of several segments leave as one GSO send, which the kernel cuts up
 * as late as it can; where that is refused they are sent one by one, and GSO is
 * left alone for a while.
 *
 * Lock order: none. Counters are read by others while this thread writes them.
 */
#include <netinet/in.h> /* the C library's IPv6 before the kernel's */

#include "net/server.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "clock.h"
#include "home/home.h"
#include "latency.h"
#include "log.h"
#include "net/inject.h"
#include "net/peers.h"
#include "net/rdma.h"
#include "net/serve.h"
#include "rights.h"

#define BATCH 64
#define BUFFER 4608 /* longest packet, and then some: longer ones are seen to be */
#define GSO_RETRY_NS 10000000000ULL
#define SHARED_NS 1500 /* a yield that takes longer let somebody else run */
#define LOOKS 8	       /* before the next yield, where nobody else wants the CPU */
#define SWEEP_NS 5000000000ULL

struct bb_server {
	struct bb_server_config cfg;
	pthread_t thread;
	int fd, wake;
	atomic_bool stop, leave;
	struct bb_home *home;
	struct bb_peers *peers;
	struct bb_sock_ring *ring;
	struct bb_inject *inject;
	uint64_t gso_after; /* GSO is tried from then on */
	struct bb_serve serve;
};

/* --- sending ------------------------------------------------------------ */

static int send_datagrams(struct bb_server *s, const struct bb_serve_out *o, struct iovec *iov, unsigned int n, bool gso)
{
	struct bb_sock_control control;
	struct msghdr m = {
		.msg_name = (void *)&o->to,
		.msg_namelen = sizeof(o->to),
		.msg_iov = iov,
		.msg_iovlen = 2 * n,
		.msg_control = &control,
		.msg_controllen = bb_sock_source(&control, &o->src, gso ? o->size : 0),
	};

	return sendmsg(s->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int send_answer(void *arg, const struct bb_serve_out *o)
{
	struct bb_server *s = arg;
	int ret = 0;

	if (o->nseg == 1)
		return send_datagrams(s, o, o->iov, 1, false);
	if (!o->uneven && (!s->gso_after || bb_now_ns() >= s->gso_after)) {
		ret = send_datagrams(s, o, o->iov, o->nseg, true);
		if (!ret || ret == -EAGAIN || ret == -ENOBUFS || ret == -EPERM)
			return ret;
		s->gso_after = 0;
	}
	for (unsigned int i = 0; i < o->nseg; i++) {
		int r = send_datagrams(s, o, o->iov + 2 * i, 1, false);

		if (r)
			return r;
	}
	if (ret)
		s->gso_after = bb_now_ns() + GSO_RETRY_NS; /* it was GSO itself */
	return 0;
}

/* --- receiving ---------------------------------------------------------- */

static void packet(void *arg, const struct bb_sock_packet *p)
{
	struct bb_server *s = arg;

	bb_serve_packet(&s->serve, p);
}

static int receive(struct bb_server *s)
{
	struct bb_sock_packet p;
	int n = bb_sock_recv(s->ring, s->fd);

	for (int i = 0; i < n; i++) {
		bb_sock_packet(s->ring, (unsigned int)i, &p);
		if (__builtin_expect(!s->inject, 1))
			bb_serve_packet(&s->serve, &p);
		else
			bb_inject_packet(s->inject, &p, packet, s);
	}
	if (__builtin_expect(!!s->inject, 0))
		bb_inject_poll(s->inject, packet, s);
	return n;
}

static uint64_t tick(struct bb_server *s, uint64_t now)
{
	struct bb_home_stats st = { 0 };

	if (s->home)
		bb_home_stats(s->home, &st);
	bb_peers_own(s->peers, st.lent, st.lent > st.used ? st.lent - st.used : 0);
	s->serve.hello_due = false;
	bb_rdma_keep_address();
	if (s->cfg.moves.tick)
		s->cfg.moves.tick(s->cfg.moves.arg);
	return bb_peers_tick(s->peers, s->fd, now);
}

static void sleep_until(struct bb_server *s, uint64_t until)
{
	struct pollfd fds[2] = { { .fd = s->fd, .events = POLLIN }, { .fd = s->wake, .events = POLLIN } };
	const uint64_t now = bb_now_ns();
	uint64_t wait, held = s->inject ? bb_inject_next(s->inject) : ~0ULL;
	struct timespec ts;

	if (held < until)
		until = held;
	wait = until > now ? until - now : 0;
	if (wait > 1000000000ULL)
		wait = 1000000000ULL;
	ts = (struct timespec){ .tv_sec = (time_t)(wait / 1000000000), .tv_nsec = (long)(wait % 1000000000) };
	ppoll(fds, 2, &ts, NULL);
}

static void settle(struct bb_server *s)
{
	cpu_set_t set;

	prctl(PR_SET_NAME, "bbd-server");
	if (s->cfg.cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(s->cfg.cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		bb_warn("server: cannot run on CPU %d: %m", s->cfg.cpu);
}

static void *loop(void *arg)
{
	struct bb_server *s = arg;
	uint64_t now = bb_now_ns(), last = now, next_tick = 0, next_sweep = now + SWEEP_NS;
	struct bb_latency latency = { 0 };
	unsigned int looks = 0;
	bool shared = true;

	settle(s);
	bb_rights_thread(BB_ROLE_SERVER);
	while (!atomic_load_explicit(&s->stop, memory_order_relaxed)) {
		int n = receive(s);

		now = bb_now_ns();
		if (now >= next_tick || s->serve.hello_due)
			next_tick = tick(s, now);
		if (now >= next_sweep) {
			bb_sessions_sweep(s->serve.sessions, now);
			next_sweep = now + SWEEP_NS;
		}
		if (n > 0) {
			last = now;
			bb_latency_event(&latency, now);
		} else if (now - last >= s->cfg.spin_us * 1000ULL) {
			const uint64_t wait = bb_latency_sleep(&latency, now);

			sleep_until(s, wait < next_tick - now ? now + wait : next_tick);
		} else if (looks++ % (shared ? 1 : LOOKS) == 0) {
			sched_yield();
			shared = bb_now_ns() - now > SHARED_NS;
		}
	}
	bb_latency_end(&latency);
	if (!atomic_load(&s->leave))
		bb_peers_bye(s->peers, s->fd);
	return NULL;
}

/* --- the public calls --------------------------------------------------- */

static void server_free(struct bb_server *s)
{
	bb_serve_fini(&s->serve);
	bb_inject_free(s->inject);
	bb_sock_ring_free(s->ring);
	if (s->wake >= 0)
		close(s->wake);
	if (s->fd >= 0)
		close(s->fd);
	free(s);
}

int bb_server_start(struct bb_server **out, struct bb_peers *peers, struct bb_home *home, const struct bb_server_config *cfg)
{
	const struct bb_peers_config *pc = bb_peers_config(peers);
	struct bb_server *s = calloc(1, sizeof(*s));
	const int on = 1;
	int ret;

	if (!s)
		return -ENOMEM;
	s->cfg = *cfg;
	s->home = home;
	s->peers = peers;
	s->wake = -1;
	s->fd = bb_sock_open(pc->port);
	if (s->fd < 0) {
		ret = s->fd;
		errno = -ret;
		bb_error("cannot serve UDP port %u: %m%s", pc->port,
			 ret == -EADDRINUSE ? "; is another bbd running? give this one another --port" : "");
		goto err;
	}
	ret = -ENOMEM;
	s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->wake < 0 || setsockopt(s->fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on))) {
		ret = -errno;
		goto err;
	}
	ret = bb_sock_ring_new(&s->ring, BATCH, BUFFER);
	if (ret)
		goto err;
	ret = bb_inject_new(&s->inject, pc->node);
	if (ret)
		goto err;
	ret = bb_serve_init(&s->serve, peers, home, cfg->keep);
	if (ret)
		goto err;
	s->serve.policy = cfg->policy;
	s->serve.adopt = cfg->adopt;
	s->serve.may_move = cfg->moves.may_move;
	s->serve.moved = cfg->moves.moved;
	s->serve.move_arg = cfg->moves.arg;
	s->serve.close = cfg->close;
	s->serve.close_arg = cfg->close_arg;
	s->serve.send = send_answer;
	s->serve.arg = s;
	ret = -pthread_create(&s->thread, NULL, loop, s);
	if (ret)
		goto err;
	*out = s;
	return 0;
err:
	server_free(s);
	return ret;
}

void bb_server_stop(struct bb_server *s, bool leave)
{
	const uint64_t one = 1;

	if (!s)
		return;
	atomic_store(&s->leave, leave);
	atomic_store(&s->stop, true);
	if (write(s->wake, &one, sizeof(one)) < 0)
		bb_debug("server: cannot wake its thread: %m");
	pthread_join(s->thread, NULL);
	server_free(s);
}

int bb_server_seed(struct bb_server *s, uint16_t node, uint16_t home, const struct bb_wire_seen *seen, unsigned int n)
{
	return bb_sessions_seed(s->serve.sessions, node, home, seen, n, bb_now_ns());
}

void bb_server_stats(const struct bb_server *s, struct bb_server_stats *out)
{
	const uint64_t *from = (const uint64_t *)&s->serve.stats;
	uint64_t *to = (uint64_t *)out;

	_Static_assert(sizeof(*out) % sizeof(*to) == 0, "counters only");
	for (size_t i = 0; i < sizeof(*out) / sizeof(*to); i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}
