/* SPDX-License-Identifier: MIT */
/*
 * A verbs device and rdma_cm in memory: what rdma-core's functions do, as far as
 * daemon/net/rdma*.c sees it, between two hosts in one process. Linked in place of
 * the libraries' functions, which the linker finds here first. Work requests are done
 * as they are posted. It can
 *	fail the Nth call that may fail (mock.fail_at), whichever that is;
 *	fail the Nth work request with a status (mock.wr_at, mock.wr_status);
 *	hold what is sent back in the network (mock.hold) until mock_release(), which
 *	delivers it to the queue pair it was for, if that is still there.
 * What was made and not destroyed is counted (mock.live).
 */
#ifndef BB_TEST_RDMA_MOCK_H
#define BB_TEST_RDMA_MOCK_H

#pragma GCC diagnostic ignored "-Wunused-function"

#include <netinet/in.h>

#include <errno.h>
#include <infiniband/verbs.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utlist.h>

#define MOCK_CQES 16384
#define MOCK_RECVS 4096

struct mock_region { /* an mr or a window */
	struct ibv_mr mr;
	struct ibv_mw mw;
	bool is_mw, bound;
	uint32_t rkey, qpn;
	uint64_t addr, len;
	unsigned int access;
	struct mock_region *prev, *next;
};

struct mock_channel {
	struct ibv_comp_channel c;
	struct ibv_cq *cq;
};

struct mock_cq {
	struct ibv_cq c;
	struct ibv_wc wc[MOCK_CQES];
	unsigned int head, n;
	bool armed;
};

struct mock_srq {
	struct ibv_srq s;
	struct ibv_recv_wr wr[MOCK_RECVS];
	struct ibv_sge sge[MOCK_RECVS];
	unsigned int head, n;
};

struct mock_qp {
	struct ibv_qp q;
	uint32_t peer;
	bool error, all;
	struct mock_qp *prev, *next;
};

struct mock_event {
	struct rdma_cm_event e;
	uint8_t data[256];
	struct mock_event *prev, *next;
};

struct mock_cm {
	struct rdma_event_channel c;
	struct mock_event *events;
};

struct mock_id {
	struct rdma_cm_id id;
	struct mock_id *peer; /* that it is, or is to be, connected to */
	uint32_t qpn;
	bool listens, connected;
	struct sockaddr_in6 src, dst;
	struct mock_id *prev, *next;
};

/* A work request in the network. */
struct mock_packet {
	struct ibv_send_wr wr;
	uint8_t *data;
	size_t len;
	uint32_t from, to;
	struct mock_packet *prev, *next;
};

static struct {
	pthread_mutex_t lock;
	unsigned int calls, fail_at;	 /* 0: none */
	const char *failed;
	unsigned int wrs, wr_at;
	enum ibv_wc_status wr_status;
	bool hold, no_windows, no_device, no_inline, connect_refused;
	int live;
	unsigned int doorbells, reads, writes, sends, binds, signalled;
	uint32_t next_key, next_qpn;
	struct mock_region *regions;
	struct mock_qp *qps;
	struct mock_id *ids;
	struct mock_packet *network;
	unsigned int recv_fail_at, recvs, poll_fail_at, polls;
} mock = { .lock = PTHREAD_MUTEX_INITIALIZER, .next_key = 0x1000, .next_qpn = 17 };

static struct ibv_device mock_device = { .name = "mock0" };
static struct ibv_context mock_context;
static struct ibv_context *mock_list[2] = { &mock_context };

/* Is this the call that fails? */
static bool fails(const char *what, int error)
{
	bool f;

	pthread_mutex_lock(&mock.lock);
	f = ++mock.calls == mock.fail_at;
	if (f)
		mock.failed = what;
	pthread_mutex_unlock(&mock.lock);
	if (f)
		errno = error;
	return f;
}

static void *make(size_t bytes)
{
	__atomic_add_fetch(&mock.live, 1, __ATOMIC_SEQ_CST);
	return calloc(1, bytes);
}

static void destroy(void *p)
{
	__atomic_sub_fetch(&mock.live, 1, __ATOMIC_SEQ_CST);
	free(p);
}

/* --- completions ----------------------------------------------------------------- */

static void complete(struct ibv_cq *cq, const struct ibv_wc *wc)
{
	struct mock_cq *c = (struct mock_cq *)cq;
	struct mock_channel *ch = (struct mock_channel *)cq->channel;

	if (c->n == MOCK_CQES)
		abort(); /* an overrun is the end of a completion queue */
	c->wc[(c->head + c->n++) % MOCK_CQES] = *wc;
	if (c->armed && ch) {
		const uint64_t one = 1;

		c->armed = false;
		ch->cq = cq;
		if (write(ch->c.fd, &one, sizeof(one)) < 0)
			abort();
	}
}

static int mock_poll_cq(struct ibv_cq *cq, int n, struct ibv_wc *wc)
{
	struct mock_cq *c = (struct mock_cq *)cq;
	int got = 0;

	pthread_mutex_lock(&mock.lock);
	if (++mock.polls == mock.poll_fail_at) {
		pthread_mutex_unlock(&mock.lock);
		return -1;
	}
	for (; got < n && c->n; c->n--, c->head = (c->head + 1) % MOCK_CQES)
		wc[got++] = c->wc[c->head];
	pthread_mutex_unlock(&mock.lock);
	return got;
}

static int mock_notify(struct ibv_cq *cq, int solicited)
{
	pthread_mutex_lock(&mock.lock);
	((struct mock_cq *)cq)->armed = true;
	pthread_mutex_unlock(&mock.lock);
	return 0;
}

int ibv_get_cq_event(struct ibv_comp_channel *ch, struct ibv_cq **cq, void **context)
{
	uint64_t n;

	if (read(ch->fd, &n, sizeof(n)) != sizeof(n))
		return -1;
	pthread_mutex_lock(&mock.lock);
	*cq = ((struct mock_channel *)ch)->cq;
	pthread_mutex_unlock(&mock.lock);
	*context = NULL;
	return 0;
}

void ibv_ack_cq_events(struct ibv_cq *cq, unsigned int n)
{
}

/* --- work requests ------------------------------------------------------------------ */

static struct mock_qp *qp_by(uint32_t n)
{
	struct mock_qp *q;

	DL_FOREACH(mock.qps, q)
		if (q->q.qp_num == n)
			return q;
	return NULL;
}

static void finish(struct mock_qp *q, const struct ibv_send_wr *wr, enum ibv_wc_status st)
{
	const struct ibv_wc wc = { .wr_id = wr->wr_id, .status = st, .qp_num = q->q.qp_num };

	if (st == IBV_WC_SUCCESS && !(wr->send_flags & IBV_SEND_SIGNALED) && !q->all)
		return;
	if (st == IBV_WC_SUCCESS)
		mock.signalled++;
	else
		q->error = true;
	complete(q->q.send_cq, &wc);
}

/* The memory behind a key, for a queue pair. */
static uint8_t *remote(const struct mock_qp *at, uint32_t rkey, uint64_t addr, size_t len, unsigned int access)
{
	struct mock_region *m;

	DL_FOREACH(mock.regions, m) {
		if (m->rkey != rkey || (m->is_mw && (!m->bound || m->qpn != at->q.qp_num)) || !(m->access & access))
			continue;
		if (addr < m->addr || addr + len > m->addr + m->len)
			return NULL;
		return (uint8_t *)(uintptr_t)addr;
	}
	return NULL;
}

static size_t gather(const struct ibv_send_wr *wr, uint8_t *out)
{
	size_t n = 0;

	for (int i = 0; i < wr->num_sge; i++) {
		if (out)
			memcpy(out + n, (void *)(uintptr_t)wr->sg_list[i].addr, wr->sg_list[i].length);
		n += wr->sg_list[i].length;
	}
	return n;
}

static void scatter(const struct ibv_send_wr *wr, const uint8_t *in)
{
	for (int i = 0; i < wr->num_sge; in += wr->sg_list[i++].length)
		memcpy((void *)(uintptr_t)wr->sg_list[i].addr, in, wr->sg_list[i].length);
}

/* At the other end. Return: how it ends. */
static enum ibv_wc_status deliver(struct mock_qp *to, const struct ibv_send_wr *wr, uint8_t *data, size_t len)
{
	struct mock_srq *s;
	struct ibv_wc wc = { .opcode = IBV_WC_RECV, .byte_len = (uint32_t)len };
	uint8_t *mem;

	if (!to || to->error)
		return IBV_WC_RETRY_EXC_ERR;
	switch (wr->opcode) {
	case IBV_WR_RDMA_READ:
		mem = remote(to, wr->wr.rdma.rkey, wr->wr.rdma.remote_addr, len, IBV_ACCESS_REMOTE_READ);
		if (!mem)
			return IBV_WC_REM_ACCESS_ERR;
		memcpy(data, mem, len);
		mock.reads++;
		return IBV_WC_SUCCESS;
	case IBV_WR_RDMA_WRITE:
		mem = remote(to, wr->wr.rdma.rkey, wr->wr.rdma.remote_addr, len, IBV_ACCESS_REMOTE_WRITE);
		if (!mem)
			return IBV_WC_REM_ACCESS_ERR;
		memcpy(mem, data, len);
		mock.writes++;
		return IBV_WC_SUCCESS;
	default:
		s = (struct mock_srq *)to->q.srq;
		if (!s->n || s->sge[s->head].length < len)
			return IBV_WC_RNR_RETRY_EXC_ERR;
		memcpy((void *)(uintptr_t)s->sge[s->head].addr, data, len);
		wc.wr_id = s->wr[s->head].wr_id;
		wc.qp_num = to->q.qp_num;
		s->head = (s->head + 1) % MOCK_RECVS;
		s->n--;
		mock.sends++;
		complete(to->q.recv_cq, &wc);
		return IBV_WC_SUCCESS;
	}
}

static enum ibv_wc_status bind_window(struct mock_qp *q, const struct ibv_send_wr *wr)
{
	struct mock_region *m;

	DL_FOREACH(mock.regions, m) {
		if (!m->is_mw || &m->mw != wr->bind_mw.mw)
			continue;
		if (!(((struct mock_region *)wr->bind_mw.bind_info.mr)->access & IBV_ACCESS_MW_BIND))
			return IBV_WC_LOC_PROT_ERR;
		m->bound = true;
		m->qpn = q->q.qp_num;
		m->rkey = wr->bind_mw.rkey;
		m->addr = wr->bind_mw.bind_info.addr;
		m->len = wr->bind_mw.bind_info.length;
		m->access = wr->bind_mw.bind_info.mw_access_flags;
		mock.binds++;
		return IBV_WC_SUCCESS;
	}
	return IBV_WC_LOC_PROT_ERR; /* deallocated meanwhile */
}

static void hold(struct mock_qp *q, const struct ibv_send_wr *wr)
{
	struct mock_packet *p = calloc(1, sizeof(*p));

	p->wr = *wr;
	p->len = gather(wr, NULL);
	p->data = malloc(p->len);
	gather(wr, p->data);
	p->from = q->q.qp_num;
	p->to = q->peer;
	DL_APPEND(mock.network, p);
}

static void run(struct mock_qp *q, const struct ibv_send_wr *wr)
{
	enum ibv_wc_status st;
	uint8_t *data;
	size_t len;

	if (q->error) {
		finish(q, wr, IBV_WC_WR_FLUSH_ERR);
		return;
	}
	if (++mock.wrs == mock.wr_at) {
		finish(q, wr, mock.wr_status);
		return;
	}
	if (wr->opcode == IBV_WR_BIND_MW) {
		finish(q, wr, bind_window(q, wr));
		return;
	}
	if (mock.hold) {
		hold(q, wr);
		return;
	}
	len = gather(wr, NULL);
	data = malloc(len);
	gather(wr, data);
	st = deliver(qp_by(q->peer), wr, data, len);
	if (st == IBV_WC_SUCCESS && wr->opcode == IBV_WR_RDMA_READ)
		scatter(wr, data);
	free(data);
	finish(q, wr, st);
}

/* What was held back comes through. */
static void mock_release(void)
{
	struct mock_packet *p, *next;

	pthread_mutex_lock(&mock.lock);
	mock.hold = false;
	DL_FOREACH_SAFE(mock.network, p, next) {
		struct mock_qp *from = qp_by(p->from);
		enum ibv_wc_status st = deliver(qp_by(p->to), &p->wr, p->data, p->len);

		/* An asker that has gone hears nothing, and its memory is not touched. */
		if (from && st == IBV_WC_SUCCESS && p->wr.opcode == IBV_WR_RDMA_READ)
			scatter(&p->wr, p->data);
		if (from && !from->error)
			finish(from, &p->wr, st);
		DL_DELETE(mock.network, p);
		free(p->data);
		free(p);
	}
	pthread_mutex_unlock(&mock.lock);
}

static int mock_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
	if (fails("ibv_post_send", ENOMEM)) {
		*bad = wr;
		return ENOMEM;
	}
	pthread_mutex_lock(&mock.lock);
	mock.doorbells++;
	for (; wr; wr = wr->next)
		run((struct mock_qp *)qp, wr);
	pthread_mutex_unlock(&mock.lock);
	return 0;
}

static int mock_post_srq_recv(struct ibv_srq *srq, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
	struct mock_srq *s = (struct mock_srq *)srq;
	unsigned int i;
	int r = 0;

	pthread_mutex_lock(&mock.lock);
	if (++mock.recvs == mock.recv_fail_at || s->n == MOCK_RECVS) {
		*bad = wr;
		r = ENOMEM;
	} else {
		i = (s->head + s->n++) % MOCK_RECVS;
		s->wr[i] = *wr;
		s->sge[i] = wr->sg_list[0];
	}
	pthread_mutex_unlock(&mock.lock);
	return r;
}

/* --- verbs ----------------------------------------------------------------------------- */

static struct ibv_mw *mock_alloc_mw(struct ibv_pd *pd, enum ibv_mw_type type)
{
	struct mock_region *m;

	if (fails("ibv_alloc_mw", ENOMEM))
		return NULL;
	m = make(sizeof(*m));
	pthread_mutex_lock(&mock.lock);
	mock.next_key += 256;
	m->is_mw = true;
	m->rkey = m->mw.rkey = mock.next_key;
	m->mw.context = &mock_context;
	m->mw.pd = pd;
	m->mw.type = type;
	DL_APPEND(mock.regions, m);
	pthread_mutex_unlock(&mock.lock);
	return &m->mw;
}

static int drop_region(struct mock_region *m)
{
	pthread_mutex_lock(&mock.lock);
	DL_DELETE(mock.regions, m);
	pthread_mutex_unlock(&mock.lock);
	destroy(m);
	return 0;
}

static int mock_dealloc_mw(struct ibv_mw *mw)
{
	if (fails("ibv_dealloc_mw", EIO))
		return EIO;
	return drop_region((struct mock_region *)((uint8_t *)mw - offsetof(struct mock_region, mw)));
}

#undef ibv_reg_mr
struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t len, int access)
{
	struct mock_region *m;

	if (fails("ibv_reg_mr", ENOMEM))
		return NULL;
	m = make(sizeof(*m));
	pthread_mutex_lock(&mock.lock);
	mock.next_key += 256;
	m->mr = (struct ibv_mr){ .context = &mock_context, .pd = pd, .addr = addr, .length = len, .lkey = mock.next_key,
				 .rkey = mock.next_key };
	m->rkey = mock.next_key;
	m->addr = (uintptr_t)addr;
	m->len = len;
	m->access = (unsigned int)access;
	DL_APPEND(mock.regions, m);
	pthread_mutex_unlock(&mock.lock);
	return &m->mr;
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t len, uint64_t iova, unsigned int access)
{
	return ibv_reg_mr(pd, addr, len, (int)access);
}

int ibv_dereg_mr(struct ibv_mr *mr)
{
	return drop_region((struct mock_region *)mr);
}

struct ibv_pd *ibv_alloc_pd(struct ibv_context *c)
{
	struct ibv_pd *pd;

	if (fails("ibv_alloc_pd", ENOMEM))
		return NULL;
	pd = make(sizeof(*pd));
	pd->context = c;
	return pd;
}

int ibv_dealloc_pd(struct ibv_pd *pd)
{
	destroy(pd);
	return 0;
}

struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *c)
{
	struct mock_channel *ch;

	if (fails("ibv_create_comp_channel", EMFILE))
		return NULL;
	ch = make(sizeof(*ch));
	ch->c.context = c;
	ch->c.fd = eventfd(0, EFD_CLOEXEC);
	return &ch->c;
}

int ibv_destroy_comp_channel(struct ibv_comp_channel *ch)
{
	close(ch->fd);
	destroy(ch);
	return 0;
}

struct ibv_cq *ibv_create_cq(struct ibv_context *c, int cqe, void *context, struct ibv_comp_channel *ch, int vector)
{
	struct mock_cq *q;

	if (fails("ibv_create_cq", ENOMEM))
		return NULL;
	q = make(sizeof(*q));
	q->c.context = c;
	q->c.channel = ch;
	return &q->c;
}

int ibv_destroy_cq(struct ibv_cq *cq)
{
	destroy(cq);
	return 0;
}

struct ibv_srq *ibv_create_srq(struct ibv_pd *pd, struct ibv_srq_init_attr *a)
{
	struct mock_srq *s;

	if (fails("ibv_create_srq", ENOMEM))
		return NULL;
	s = make(sizeof(*s));
	s->s.context = &mock_context;
	return &s->s;
}

int ibv_destroy_srq(struct ibv_srq *s)
{
	destroy(s);
	return 0;
}

int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *a, int mask)
{
	if (fails("ibv_modify_qp", EIO))
		return EIO;
	pthread_mutex_lock(&mock.lock);
	if (a->qp_state == IBV_QPS_ERR)
		((struct mock_qp *)qp)->error = true;
	pthread_mutex_unlock(&mock.lock);
	return 0;
}

int ibv_destroy_qp(struct ibv_qp *qp)
{
	struct mock_qp *q = (struct mock_qp *)qp;

	pthread_mutex_lock(&mock.lock);
	DL_DELETE(mock.qps, q);
	pthread_mutex_unlock(&mock.lock);
	destroy(q);
	return 0;
}

const char *ibv_get_device_name(struct ibv_device *d)
{
	return d->name;
}

const char *ibv_wc_status_str(enum ibv_wc_status s)
{
	return s == IBV_WC_REM_ACCESS_ERR ? "remote access error" : "an error";
}

#endif
