/* SPDX-License-Identifier: MIT */
/* rdma_cm and the search for devices, for rdma_mock.h. */
#ifndef BB_TEST_RDMA_MOCK_CM_H
#define BB_TEST_RDMA_MOCK_CM_H

#include "rdma_mock.h"

#include <bluebridge/gptr.h>

/* --- devices ----------------------------------------------------------------------- */

static struct ibv_device *mock_devices[2] = { &mock_device };

struct ibv_device **ibv_get_device_list(int *n)
{
	*n = !mock.no_device;
	return mock_devices;
}

void ibv_free_device_list(struct ibv_device **list)
{
}

struct ibv_context **rdma_get_devices(int *n)
{
	*n = 0;
	if (fails("rdma_get_devices", ENOMEM))
		return NULL;
	mock_context.device = &mock_device;
	mock_context.ops = (struct ibv_context_ops){
		.alloc_mw = mock_alloc_mw, .dealloc_mw = mock_dealloc_mw, .poll_cq = mock_poll_cq, .req_notify_cq = mock_notify,
		.post_send = mock_post_send, .post_srq_recv = mock_post_srq_recv,
	};
	*n = 1;
	return mock_list;
}

void rdma_free_devices(struct ibv_context **list)
{
}

int rdma_getaddrinfo(const char *node, const char *service, const struct rdma_addrinfo *hints, struct rdma_addrinfo **out)
{
	return -1;
}

void rdma_freeaddrinfo(struct rdma_addrinfo *a)
{
}

/* Both nodes' addresses are at interface 1. */
ssize_t _ibv_query_gid_table(struct ibv_context *c, struct ibv_gid_entry *e, size_t max, uint32_t flags, size_t size)
{
	if (fails("ibv_query_gid_table", EIO))
		return -EIO;
	for (uint16_t node = 1; node <= 2; node++) {
		const struct bb_gptr g = { .node = node };
		struct in6_addr a;

		bb_gptr_encode(&g, &a);
		e[node - 1] = (struct ibv_gid_entry){ .port_num = 1, .gid_type = IBV_GID_TYPE_ROCE_V2, .ndev_ifindex = 1 };
		memcpy(&e[node - 1].gid, &a, sizeof(a));
	}
	return 2;
}

int ibv_query_device(struct ibv_context *c, struct ibv_device_attr *a)
{
	if (fails("ibv_query_device", EIO))
		return EIO;
	memset(a, 0, sizeof(*a));
	a->max_qp_wr = 1024;
	a->max_sge = 4;
	a->max_cqe = MOCK_CQES;
	a->max_qp_init_rd_atom = a->max_qp_rd_atom = 16;
	a->device_cap_flags = mock.no_windows ? 0 : IBV_DEVICE_MEM_WINDOW_TYPE_2B;
	return 0;
}

#undef ibv_query_port
int ibv_query_port(struct ibv_context *c, uint8_t port, struct _compat_ibv_port_attr *a)
{
	if (fails("ibv_query_port", EIO))
		return EIO;
	((struct ibv_port_attr *)a)->state = IBV_PORT_ACTIVE;
	return 0;
}

/* --- rdma_cm ----------------------------------------------------------------------------- */

struct rdma_event_channel *rdma_create_event_channel(void)
{
	struct mock_cm *c;

	if (fails("rdma_create_event_channel", ENODEV))
		return NULL;
	c = make(sizeof(*c));
	c->c.fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	return &c->c;
}

/* Lock held. */
static void say_event(struct mock_id *i, enum rdma_cm_event_type what, int status, const struct rdma_conn_param *p)
{
	struct mock_cm *c = (struct mock_cm *)i->id.channel;
	struct mock_event *e = make(sizeof(*e));
	const uint64_t one = 1;

	e->e.id = &i->id;
	e->e.event = what;
	e->e.status = status;
	if (p) {
		e->e.param.conn = *p;
		e->e.param.conn.private_data = NULL;
		if (p->private_data_len) {
			memcpy(e->data, p->private_data, p->private_data_len);
			e->e.param.conn.private_data = e->data;
		}
	}
	DL_APPEND(c->events, e);
	if (write(c->c.fd, &one, sizeof(one)) < 0)
		abort();
}

int rdma_get_cm_event(struct rdma_event_channel *ch, struct rdma_cm_event **out)
{
	struct mock_cm *c = (struct mock_cm *)ch;
	struct mock_event *e;
	uint64_t n;

	if (read(ch->fd, &n, sizeof(n)) != sizeof(n))
		return -1;
	pthread_mutex_lock(&mock.lock);
	e = c->events;
	if (e)
		DL_DELETE(c->events, e);
	pthread_mutex_unlock(&mock.lock);
	if (!e) {
		errno = EAGAIN;
		return -1;
	}
	*out = &e->e;
	return 0;
}

int rdma_ack_cm_event(struct rdma_cm_event *e)
{
	destroy(e);
	return 0;
}

int rdma_create_id(struct rdma_event_channel *ch, struct rdma_cm_id **id, void *context, enum rdma_port_space ps)
{
	struct mock_id *i;

	if (fails("rdma_create_id", ENOMEM))
		return -1;
	i = make(sizeof(*i));
	i->id.channel = ch;
	i->id.context = context;
	pthread_mutex_lock(&mock.lock);
	DL_APPEND(mock.ids, i);
	pthread_mutex_unlock(&mock.lock);
	*id = &i->id;
	return 0;
}

static void hang_up(struct mock_id *i)
{
	if (!i->peer)
		return;
	if (i->peer->connected)
		say_event(i->peer, RDMA_CM_EVENT_DISCONNECTED, 0, NULL);
	else
		say_event(i->peer, RDMA_CM_EVENT_REJECTED, 28, NULL);
	i->peer->peer = NULL;
	i->peer = NULL;
}

/* Requests that nobody has looked at go with it. */
void rdma_destroy_event_channel(struct rdma_event_channel *ch)
{
	struct mock_cm *c = (struct mock_cm *)ch;
	struct mock_event *e, *enext;
	struct mock_id *i, *inext;

	pthread_mutex_lock(&mock.lock);
	DL_FOREACH_SAFE(mock.ids, i, inext)
		if (i->id.channel == ch) {
			hang_up(i);
			DL_DELETE(mock.ids, i);
			destroy(i);
		}
	DL_FOREACH_SAFE(c->events, e, enext) {
		DL_DELETE(c->events, e);
		destroy(e);
	}
	pthread_mutex_unlock(&mock.lock);
	close(ch->fd);
	destroy(c);
}

int rdma_destroy_id(struct rdma_cm_id *id)
{
	struct mock_id *i = (struct mock_id *)id;
	struct mock_cm *c = (struct mock_cm *)id->channel;
	struct mock_event *e, *next;

	pthread_mutex_lock(&mock.lock);
	hang_up(i);
	DL_DELETE(mock.ids, i);
	DL_FOREACH_SAFE(c->events, e, next)
		if (e->e.id == id || e->e.listen_id == id) {
			DL_DELETE(c->events, e);
			destroy(e);
		}
	pthread_mutex_unlock(&mock.lock);
	destroy(i);
	return 0;
}

int rdma_set_option(struct rdma_cm_id *id, int level, int name, void *val, size_t len)
{
	return fails("rdma_set_option", ENOSYS) ? -1 : 0;
}

int rdma_bind_addr(struct rdma_cm_id *id, struct sockaddr *a)
{
	struct mock_id *i = (struct mock_id *)id;

	if (fails("rdma_bind_addr", EADDRNOTAVAIL))
		return -1;
	memcpy(&i->src, a, sizeof(i->src));
	return 0;
}

int rdma_listen(struct rdma_cm_id *id, int backlog)
{
	if (fails("rdma_listen", EADDRINUSE))
		return -1;
	pthread_mutex_lock(&mock.lock);
	((struct mock_id *)id)->listens = true;
	pthread_mutex_unlock(&mock.lock);
	return 0;
}

int rdma_resolve_addr(struct rdma_cm_id *id, struct sockaddr *src, struct sockaddr *dst, int ms)
{
	struct mock_id *i = (struct mock_id *)id;
	const bool event = fails("its event ADDR_ERROR", 0);

	if (fails("rdma_resolve_addr", ENODEV))
		return -1;
	memcpy(&i->dst, dst, sizeof(i->dst));
	id->verbs = &mock_context;
	pthread_mutex_lock(&mock.lock);
	say_event(i, event ? RDMA_CM_EVENT_ADDR_ERROR : RDMA_CM_EVENT_ADDR_RESOLVED, event ? -EHOSTUNREACH : 0, NULL);
	pthread_mutex_unlock(&mock.lock);
	return 0;
}

int rdma_resolve_route(struct rdma_cm_id *id, int ms)
{
	const bool event = fails("its event ROUTE_ERROR", 0);

	if (fails("rdma_resolve_route", ENOMEM))
		return -1;
	pthread_mutex_lock(&mock.lock);
	say_event((struct mock_id *)id, event ? RDMA_CM_EVENT_ROUTE_ERROR : RDMA_CM_EVENT_ROUTE_RESOLVED, event ? -ETIMEDOUT : 0,
		  NULL);
	pthread_mutex_unlock(&mock.lock);
	return 0;
}

int rdma_create_qp(struct rdma_cm_id *id, struct ibv_pd *pd, struct ibv_qp_init_attr *a)
{
	struct mock_qp *q;

	if (fails("rdma_create_qp", ENOMEM) || (mock.no_inline && a->cap.max_inline_data)) {
		errno = ENOMEM;
		return -1;
	}
	q = make(sizeof(*q));
	q->q.context = &mock_context;
	q->q.send_cq = a->send_cq;
	q->q.recv_cq = a->recv_cq;
	q->q.srq = a->srq;
	q->all = a->sq_sig_all;
	pthread_mutex_lock(&mock.lock);
	q->q.qp_num = mock.next_qpn++;
	DL_APPEND(mock.qps, q);
	((struct mock_id *)id)->qpn = q->q.qp_num;
	pthread_mutex_unlock(&mock.lock);
	id->qp = &q->q;
	return 0;
}

int rdma_connect(struct rdma_cm_id *id, struct rdma_conn_param *p)
{
	struct mock_id *i = (struct mock_id *)id, *l, *n;
	struct mock_id *listener = NULL;
	const bool event = fails("its event UNREACHABLE", 0);

	if (fails("rdma_connect", EINVAL))
		return -1;
	pthread_mutex_lock(&mock.lock);
	DL_FOREACH(mock.ids, l)
		if (l->listens && !memcmp(&l->src.sin6_addr, &i->dst.sin6_addr, 16) && l->src.sin6_port == i->dst.sin6_port)
			listener = l;
	if (event || !listener) {
		say_event(i, RDMA_CM_EVENT_UNREACHABLE, -ETIMEDOUT, NULL);
	} else {
		n = make(sizeof(*n));
		n->id.channel = listener->id.channel;
		n->id.verbs = &mock_context;
		n->peer = i;
		i->peer = n;
		DL_APPEND(mock.ids, n);
		say_event(n, RDMA_CM_EVENT_CONNECT_REQUEST, 0, p);
	}
	pthread_mutex_unlock(&mock.lock);
	return 0;
}

int rdma_accept(struct rdma_cm_id *id, struct rdma_conn_param *p)
{
	struct mock_id *i = (struct mock_id *)id;
	const bool event = fails("its event CONNECT_ERROR", 0);

	if (fails("rdma_accept", EINVAL))
		return -1;
	pthread_mutex_lock(&mock.lock);
	if (event || !i->peer || !qp_by(i->qpn) || !qp_by(i->peer->qpn)) {
		say_event(i, RDMA_CM_EVENT_CONNECT_ERROR, -ETIMEDOUT, NULL);
	} else {
		i->connected = i->peer->connected = true;
		qp_by(i->qpn)->peer = i->peer->qpn;
		qp_by(i->peer->qpn)->peer = i->qpn;
		say_event(i->peer, RDMA_CM_EVENT_ESTABLISHED, 0, p);
		say_event(i, RDMA_CM_EVENT_ESTABLISHED, 0, NULL);
	}
	pthread_mutex_unlock(&mock.lock);
	return 0;
}

int rdma_reject(struct rdma_cm_id *id, const void *data, uint8_t len)
{
	struct mock_id *i = (struct mock_id *)id;
	const struct rdma_conn_param p = { .private_data = data, .private_data_len = len };

	pthread_mutex_lock(&mock.lock);
	if (i->peer) {
		say_event(i->peer, RDMA_CM_EVENT_REJECTED, 28, &p);
		i->peer->peer = NULL;
		i->peer = NULL;
	}
	pthread_mutex_unlock(&mock.lock);
	return 0;
}

int rdma_disconnect(struct rdma_cm_id *id)
{
	pthread_mutex_lock(&mock.lock);
	hang_up((struct mock_id *)id);
	pthread_mutex_unlock(&mock.lock);
	return 0;
}

#endif
