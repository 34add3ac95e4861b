/* SPDX-License-Identifier: MIT */
/*
 * The home's side of RDMA: takes connections, hands out windows on extents to
 * their owners, and does what needs a decision (CREATE, DELETE). Pages are read
 * and written by the asker's NIC while this thread sleeps.
 *
 * Theory of operation
 * -------------------
 * A pager of another host has one queue pair here, made by rdma_cm; its request
 * carries the cluster's tag and a number that rises from one connection of that
 * pager to the next, so a recorded one opens nothing. Answers go out by it as control
 * messages; what comes in is received by one shared receive queue.
 *
 * A connection ends (bb_rdma_hlink_end) when its asker closes it (CLOSE, by UDP), hangs up,
 * opens another, or when anything goes wrong: its queue pair is put into the error
 * state, its windows are closed, and the queue pair is destroyed, all in that call and
 * whichever thread makes it. So once CLOSE is answered no WRITE of it can come late,
 * and its asker may write the same pages in another way.
 *
 * CREATE once only: until its asker says, with CLOSE, which answers it has seen, what
 * was created last is remembered. What it did not see is freed: it creates anew, by UDP.
 *
 * Lock order: the home's lock, then ->lock. So nothing here calls the home with
 * ->lock held. rdma_cm's identifiers belong to the thread.
 */
#include "net/rdma_home_impl.h"

#include <bluebridge/steer.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "low.h"
#include "net/peers.h"
#include "rights.h"

#define TICK_MS 200
#define WCS 32
#define RECV_BIT (1ULL << 63)
#define BUFFER 640 /* a control message */
#define BUFFERS (BB_RDMA_RECVS + BB_RDMA_LINKS * BB_RDMA_SENDS)

_Static_assert(BUFFER >= BB_RDMA_MSG_MAX, "a control message fits");

static uint8_t *recv_buffer(struct bb_rdma_home *h, unsigned int i)
{
	return h->buffers + (size_t)i * BUFFER;
}

/* --- the thread is told ------------------------------------------------------------ */

void bb_rdma_home_wake(struct bb_rdma_home *h)
{
	const uint64_t one = 1;

	if (write(h->wake, &one, sizeof(one)) < 0)
		bb_debug("rdma: cannot wake its thread: %m");
}

/* --- control messages --------------------------------------------------------------------- */

static void post_recv(struct bb_rdma_home *h, unsigned int i)
{
	struct ibv_sge sge = { (uintptr_t)recv_buffer(h, i), BUFFER, h->buffers_mr->lkey };
	struct ibv_recv_wr wr = { .wr_id = RECV_BIT | i, .sg_list = &sge, .num_sge = 1 }, *bad;

	if (ibv_post_srq_recv(h->srq, &wr, &bad))
		bb_warn_once("rdma: a buffer to receive into is lost (%m)");
}

static bool allowed(const struct bb_rdma_home *h, unsigned int cmd)
{
	const unsigned int action = h->policy ? __atomic_load_n(&h->policy[cmd].action, __ATOMIC_RELAXED) : BB_ACT_FORWARD;

	return action != BB_ACT_DROP && action != BB_ACT_REFUSE;
}

static bool windows_allowed(const struct bb_rdma_home *h)
{
	return allowed(h, BB_CMD_READ) && allowed(h, BB_CMD_READ_RUN) && allowed(h, BB_CMD_WRITE);
}

static uint8_t create(struct bb_rdma_home *h, struct bb_rdma_hlink *l, const struct bb_rdma_msg *m, struct bb_rdma_msg *a)
{
	const struct bb_home_who who = { .tenant = l->who.tenant, .node = l->who.node };
	struct bb_rdma_given *g = &l->given[m->id % BB_RDMA_ASKS];
	uint8_t st = BB_ST_NOSPACE;

	for (a->count = 0; a->count < m->count; a->count++) {
		st = bb_home_create(h->home, who, m->flags, &a->ptrs[a->count]);
		if (st != BB_ST_OK)
			break;
	}
	if (!a->count)
		return st;
	pthread_mutex_lock(&h->lock);
	*g = (struct bb_rdma_given){ .id = m->id, .n = a->count };
	memcpy(g->ptrs, a->ptrs, a->count * sizeof(a->ptrs[0]));
	l->ngiven = BB_RDMA_ASKS;
	pthread_mutex_unlock(&h->lock);
	return BB_ST_OK;
}

/* Posts the answer, behind what it depends on. Return: false where the link is none any more. */
static bool answer(struct bb_rdma_home *h, struct bb_rdma_hlink *l, const struct bb_rdma_msg *a, const struct ibv_send_wr *bind)
{
	struct ibv_sge sge = { .lkey = h->buffers_mr->lkey };
	struct ibv_send_wr send = { .sg_list = &sge, .num_sge = 1, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED }, *bad;
	struct ibv_send_wr first = *bind;
	unsigned int slot;
	uint8_t *buffer;
	bool ok = false;

	pthread_mutex_lock(&h->lock);
	if (l->ended || !~l->sends)
		goto out;
	slot = (unsigned int)__builtin_ctz(~l->sends);
	buffer = h->buffers + ((size_t)BB_RDMA_RECVS + (size_t)l->place * BB_RDMA_SENDS + slot) * BUFFER;
	sge.addr = (uintptr_t)buffer;
	sge.length = (uint32_t)bb_rdma_msg_encode(a, buffer);
	send.wr_id = (uint64_t)l->serial << 8 | slot;
	if (sge.length <= l->inlined)
		send.send_flags |= IBV_SEND_INLINE;
	first.next = &send;
	l->sends |= 1u << slot;
	ok = !ibv_post_send(l->id->qp, first.opcode == IBV_WR_BIND_MW ? &first : &send, &bad);
	if (!ok)
		bb_rdma_hlink_end(h, l);
out:
	pthread_mutex_unlock(&h->lock);
	return ok;
}

static void on_message(struct bb_rdma_home *h, struct bb_rdma_hlink *l)
{
	struct ibv_send_wr bind = { .opcode = IBV_WR_SEND };
	const struct bb_rdma_msg *m = &h->msg;
	struct bb_rdma_msg *a = &h->answer;
	const struct bb_home_who who = { .tenant = l->who.tenant, .node = l->who.node };

	*a = (struct bb_rdma_msg){ .cmd = m->cmd, .reply = true, .id = m->id, .ptr = m->ptr };
	switch (m->cmd) {
	case BB_RDMA_WINDOW:
		a->status = windows_allowed(h) ? bb_rdma_window_open(h, l, a, &bind) : BB_ST_COMMAND;
		break;
	case BB_RDMA_CREATE:
		a->status = allowed(h, BB_CMD_CREATE) ? create(h, l, m, a) : BB_ST_COMMAND;
		break;
	default:
		a->status = allowed(h, BB_CMD_DELETE) ? bb_home_delete(h->home, who, m->ptr) : BB_ST_COMMAND;
	}
	answer(h, l, a, &bind);
	if (m->cmd == BB_RDMA_WINDOW && a->status == BB_ST_OK)
		bb_rdma_window_given(h, a);
}

static struct bb_rdma_hlink *by_qp(struct bb_rdma_home *h, uint32_t qpn)
{
	struct bb_rdma_hlink *l;

	DL_FOREACH(h->links, l) {
		if (!l->ended && l->id->qp && l->id->qp->qp_num == qpn)
			return l;
	}
	return NULL;
}

static void on_completion(struct bb_rdma_home *h, const struct ibv_wc *wc)
{
	const unsigned int i = (unsigned int)(wc->wr_id & ~RECV_BIT);
	struct bb_rdma_hlink *l, *found = NULL;
	bool ok = wc->status == IBV_WC_SUCCESS;

	if (!(wc->wr_id & RECV_BIT)) { /* an answer is out; a bind is seen only where it failed */
		pthread_mutex_lock(&h->lock);
		DL_FOREACH(h->links, l) {
			if (l->serial == (uint32_t)(wc->wr_id >> 8))
				found = l;
		}
		if (found && ok)
			found->sends &= ~(1u << (wc->wr_id & 0xff));
		else if (found)
			bb_rdma_hlink_end(h, found);
		pthread_mutex_unlock(&h->lock);
		return;
	}
	pthread_mutex_lock(&h->lock);
	found = by_qp(h, wc->qp_num);
	ok = ok && found && bb_rdma_msg_decode(&h->msg, recv_buffer(h, i), wc->byte_len < BUFFER ? wc->byte_len : BUFFER) &&
	     !h->msg.reply;
	if (found && !ok)
		bb_rdma_hlink_end(h, found); /* it speaks another language */
	h->stats.asked += ok;
	pthread_mutex_unlock(&h->lock);
	post_recv(h, i);
	if (ok)
		on_message(h, found);
}

static int completions(struct bb_rdma_home *h)
{
	struct ibv_wc wc[WCS];
	int n = ibv_poll_cq(h->cq, WCS, wc);

	for (int i = 0; i < n; i++)
		on_completion(h, &wc[i]);
	return n;
}

/* --- what it is made of -----------------------------------------------------------------------*/

static int unblock(int fd)
{
	return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) ? -errno : 0;
}

static int fail(const char *what)
{
	const int e = errno ? errno : EIO;

	bb_warn("rdma: %s cannot be had (%s)%s: lent memory is served by UDP alone", what, strerrordesc_np(e),
		e == ENOMEM ? "; raise the limit of locked memory (ulimit -l, LimitMEMLOCK= of the service)" : "");
	return -e;
}

static int listen_to_all(struct bb_rdma_home *h)
{
	const struct bb_peers_config *cfg = bb_peers_config(h->peers);
	struct sockaddr_in6 a = bb_rdma_address(cfg->tenant, cfg->node, cfg->port);

	h->cm = rdma_create_event_channel();
	if (!h->cm || unblock(h->cm->fd))
		return fail("rdma_cm's event channel");
	if (rdma_create_id(h->cm, &h->listener, NULL, RDMA_PS_TCP)) {
		h->listener = NULL;
		return fail("an identifier of rdma_cm");
	}
	if (rdma_bind_addr(h->listener, (struct sockaddr *)&a))
		return fail("the node's address on the device");
	return rdma_listen(h->listener, BB_RDMA_LINKS) ? fail("a listener") : 0;
}

/* rdma_cm's files are for the credentials alone that opened them. */
static void listen_first(void *arg)
{
	struct bb_rdma_home *h = arg;

	h->listening = listen_to_all(h);
	sem_post(&h->started);
}

/* --- the thread ----------------------------------------------------------------------------- */

static void policy(struct bb_rdma_home *h)
{
	struct bb_rdma_hlink *l;

	if (windows_allowed(h))
		return;
	pthread_mutex_lock(&h->lock);
	DL_FOREACH(h->links, l) {
		bb_rdma_hlink_end(h, l);
	}
	pthread_mutex_unlock(&h->lock);
}

static void *loop(void *arg)
{
	struct bb_rdma_home *h = arg;
	struct pollfd fds[3] = { { .fd = -1, .events = POLLIN }, { .fd = h->channel->fd, .events = POLLIN },
				 { .fd = h->wake, .events = POLLIN } };
	struct ibv_cq *cq;
	uint64_t count;
	void *context;

	prctl(PR_SET_NAME, "bbd-rdma");
	bb_rights_thread_with(BB_ROLE_RDMA, listen_first, h);
	if (h->listening)
		return NULL;
	fds[0].fd = h->cm->fd;
	while (!atomic_load(&h->stop)) {
		bb_rdma_hlinks_events(h);
		if (!ibv_get_cq_event(h->channel, &cq, &context))
			ibv_ack_cq_events(cq, 1);
		ibv_req_notify_cq(h->cq, 0);
		while (completions(h) > 0)
			;
		policy(h);
		bb_rdma_hlinks_reap(h, false);
		if (poll(fds, 3, TICK_MS) > 0 && fds[2].revents)
			(void)!read(h->wake, &count, sizeof(count));
	}
	return NULL;
}

/* --- the public calls -------------------------------------------------------------------------- */

static void home_free(struct bb_rdma_home *h)
{
	struct bb_rdma_number *n, *next;

	bb_rdma_hlinks_reap(h, true);
	bb_home_windows(h->home, NULL);
	bb_rdma_slabs_release(h);
	if (h->listener)
		rdma_destroy_id(h->listener);
	if (h->srq)
		ibv_destroy_srq(h->srq);
	if (h->cq)
		ibv_destroy_cq(h->cq);
	if (h->channel)
		ibv_destroy_comp_channel(h->channel);
	if (h->buffers_mr)
		ibv_dereg_mr(h->buffers_mr);
	if (h->pd)
		ibv_dealloc_pd(h->pd);
	if (h->cm)
		rdma_destroy_event_channel(h->cm);
	if (h->buffers)
		munmap(h->buffers, (size_t)BUFFERS * BUFFER);
	if (h->wake >= 0)
		close(h->wake);
	HASH_ITER(hh, h->numbers, n, next) {
		HASH_DEL(h->numbers, n);
		free(n);
	}
	sem_destroy(&h->started);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

static int make_queues(struct bb_rdma_home *h)
{
	struct ibv_srq_init_attr a = { .attr = { .max_wr = BB_RDMA_RECVS, .max_sge = 1 } };
	int cqes = BB_RDMA_RECVS + 2 * BB_RDMA_LINKS * BB_RDMA_SENDS;

	if (cqes > h->dev->attr.max_cqe)
		cqes = h->dev->attr.max_cqe;
	h->buffers = mmap(NULL, (size_t)BUFFERS * BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (h->buffers == MAP_FAILED) {
		h->buffers = NULL;
		return fail("memory for messages");
	}
	h->pd = ibv_alloc_pd(h->dev->verbs);
	if (!h->pd)
		return fail("a protection domain");
	h->buffers_mr = ibv_reg_mr(h->pd, h->buffers, (size_t)BUFFERS * BUFFER, IBV_ACCESS_LOCAL_WRITE);
	if (!h->buffers_mr)
		return fail("registered memory for messages");
	h->channel = ibv_create_comp_channel(h->dev->verbs);
	if (!h->channel || unblock(h->channel->fd))
		return fail("a completion channel");
	h->cq = ibv_create_cq(h->dev->verbs, cqes, NULL, h->channel, 0);
	if (!h->cq)
		return fail("a completion queue");
	h->srq = ibv_create_srq(h->pd, &a);
	if (!h->srq)
		return fail("a shared receive queue");
	for (unsigned int i = 0; i < BB_RDMA_RECVS; i++)
		post_recv(h, i);
	return 0;
}

int bb_rdma_home_start(struct bb_rdma_home **out, struct bb_peers *peers, struct bb_home *home, const struct bb_policy *policies)
{
	struct bb_rdma_home *h;
	int ret;

	*out = NULL;
	if (!bb_rdma_dev() || !home)
		return 0;
	h = calloc(1, sizeof(*h));
	if (!h)
		return -ENOMEM;
	h->dev = bb_rdma_dev();
	h->peers = peers;
	h->home = home;
	h->policy = policies;
	pthread_mutex_init(&h->lock, NULL);
	h->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	sem_init(&h->started, 0, 0);
	ret = h->wake < 0 ? fail("an eventfd") : make_queues(h);
	if (ret)
		goto err;
	bb_home_windows(home, &(struct bb_home_windows){ .shut = bb_rdma_windows_shut, .arg = h });
	ret = -bb_low_thread(&h->thread, loop, h);
	if (ret)
		goto err;
	while (sem_wait(&h->started) && errno == EINTR)
		;
	if (h->listening) {
		pthread_join(h->thread, NULL);
		ret = h->listening;
		goto err;
	}
	bb_peers_rdma(peers, true);
	*out = h;
	return 0;
err:
	home_free(h);
	return ret;
}

void bb_rdma_home_stop(struct bb_rdma_home *h)
{
	if (!h)
		return;
	bb_peers_rdma(h->peers, false);
	atomic_store(&h->stop, true);
	bb_rdma_home_wake(h);
	pthread_join(h->thread, NULL);
	home_free(h);
}

void bb_rdma_home_stats(struct bb_rdma_home *h, struct bb_rdma_home_stats *out)
{
	memset(out, 0, sizeof(*out));
	if (!h)
		return;
	pthread_mutex_lock(&h->lock);
	*out = h->stats;
	pthread_mutex_unlock(&h->lock);
}
