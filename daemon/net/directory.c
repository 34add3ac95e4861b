/* SPDX-License-Identifier: MIT */
/*
 * See directory.h. Questions wait in a ring by their id; one whose answer does
 * not come is asked again, and ends at the request's deadline. The descriptor
 * that the pager sleeps on is an epoll of both sockets.
 */
#include <arpa/inet.h>
#include <netinet/in.h>

#include "net/directory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "net/transport.h"

#define OPEN_MAX 1024u
#define AGAIN_NS 20000000ULL

struct directory {
	struct bb_transport t;
	struct bb_net_shared *sh;
	struct bb_transport *inner;
	int fd, epoll;
	uint64_t next_id;
	unsigned int nopen;
	struct bb_net_req *open[OPEN_MAX]; /* by id */
	uint64_t since[OPEN_MAX];	   /* when each was asked first */
};

static void ask(struct directory *d, struct bb_net_req *r, uint16_t owner)
{
	const struct bb_directory_msg m = { .id = r->t.id, .ptr = r->ptr, .home = r->node, .owner = owner };

	r->t.resend_at = bb_now_ns() + AGAIN_NS;
	if (send(d->fd, &m, sizeof(m), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		bb_warn_once("the directory cannot be asked (error %d)", errno);
}

static void pass_on(struct directory *d, struct bb_net_req *r)
{
	if (d->inner->submit(d->inner, r))
		bb_req_end(d->sh, r, BB_ST_UNREACH);
}

static struct bb_net_req *take(struct directory *d, uint64_t id)
{
	struct bb_net_req *r = d->open[id % OPEN_MAX];

	if (!r || r->t.id != id)
		return NULL;
	d->open[id % OPEN_MAX] = NULL;
	d->nopen--;
	return r;
}

/* Where its pages are, the directory is told as they are written. */
static void enter(struct directory *d, const struct bb_net_req *r)
{
	for (uint32_t i = 0; i < r->npages; i++) {
		const struct bb_directory_msg m = { .ptr = r->pages[i].ptr, .home = r->node, .owner = r->node };

		send(d->fd, &m, sizeof(m), MSG_DONTWAIT | MSG_NOSIGNAL);
	}
}

static int submit(struct bb_transport *t, struct bb_net_req *r)
{
	struct directory *d = (struct directory *)t; /* its first member */
	const uint64_t id = d->next_id;

	if (r->cmd == BB_CMD_WRITE)
		enter(d, r);
	if ((r->cmd != BB_CMD_READ && r->cmd != BB_CMD_READ_RUN) || d->open[id % OPEN_MAX])
		return d->inner->submit(d->inner, r);
	d->next_id++;
	r->t.id = id;
	d->open[id % OPEN_MAX] = r;
	d->since[id % OPEN_MAX] = bb_now_ns();
	d->nopen++;
	ask(d, r, 0);
	return 0;
}

static int answers(struct directory *d)
{
	struct bb_directory_msg m;
	int n = 0;

	while (recv(d->fd, &m, sizeof(m), MSG_DONTWAIT) == sizeof(m)) {
		struct bb_net_req *r = m.id ? take(d, m.id) : NULL;

		if (!r) /* late, or what was entered */
			continue;
		n++;
		if (!m.owner) { /* not known yet: entered, and asked for again by that */
			d->open[m.id % OPEN_MAX] = r;
			d->nopen++;
			ask(d, r, r->node);
			continue;
		}
		/* What it says is where the request goes. */
		r->node = m.owner;
		r->looked_ns = bb_now_ns() - d->since[m.id % OPEN_MAX];
		pass_on(d, r);
	}
	return n;
}

static int overdue(struct directory *d)
{
	const uint64_t now = bb_now_ns();
	int n = 0;

	for (unsigned int i = 0; i < OPEN_MAX; i++) {
		struct bb_net_req *r = d->open[i];

		if (!r || now < r->t.resend_at)
			continue;
		n++;
		if (now >= r->deadline)
			bb_req_end(d->sh, take(d, r->t.id), BB_ST_TIMEOUT);
		else
			ask(d, r, 0);
	}
	return n;
}

static void flush(struct bb_transport *t)
{
	struct directory *d = (struct directory *)t;

	d->inner->flush(d->inner);
}

static int poll_directory(struct bb_transport *t)
{
	struct directory *d = (struct directory *)t;
	int n = answers(d);

	if (n)
		d->inner->flush(d->inner);
	else if (d->nopen && bb_now_ns() >= d->t.next(t))
		n = overdue(d);
	return n + d->inner->poll(d->inner);
}

static int fd_of(struct bb_transport *t)
{
	return ((struct directory *)t)->epoll;
}

static uint64_t next_timer(struct bb_transport *t)
{
	struct directory *d = (struct directory *)t;
	uint64_t next = d->inner->next(d->inner);

	for (unsigned int i = 0; d->nopen && i < OPEN_MAX; i++)
		if (d->open[i] && d->open[i]->t.resend_at < next)
			next = d->open[i]->t.resend_at;
	return next;
}

static void directory_free(struct bb_transport *t)
{
	struct directory *d = (struct directory *)t;

	for (unsigned int i = 0; i < OPEN_MAX; i++)
		if (d->open[i])
			bb_req_end(d->sh, d->open[i], BB_ST_TIMEOUT);
	d->inner->free(d->inner);
	close(d->fd);
	close(d->epoll);
	free(d);
}

/* Return: a socket to the server, or -errno. */
static int reach(const char *text)
{
	struct sockaddr_in6 to = { .sin6_family = AF_INET6 };
	char address[INET6_ADDRSTRLEN];
	unsigned int port;
	int fd;

	if (sscanf(text, "%45s %u", address, &port) != 2 || inet_pton(AF_INET6, address, &to.sin6_addr) != 1 || port > 65535)
		return -EINVAL;
	to.sin6_port = htons((uint16_t)port);
	fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to))) {
		close(fd);
		fd = -1;
	}
	return fd < 0 ? -errno : fd;
}

int bb_directory_new(struct bb_transport **out, struct bb_net_shared *sh, struct bb_transport *inner)
{
	const char *text = getenv("BB_TEST_DIRECTORY");
	struct directory *d;
	int fds[2];

	*out = inner;
	if (!text || !*text)
		return 0;
	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->fd = reach(text);
	if (d->fd < 0) {
		bb_warn("BB_TEST_DIRECTORY=%s is not understood: no directory is asked; it is an address and a port", text);
		free(d);
		return 0;
	}
	d->t = (struct bb_transport){
		.name = "directory", .submit = submit, .flush = flush, .poll = poll_directory, .fd = fd_of,
		.next = next_timer, .free = directory_free,
	};
	d->sh = sh;
	d->inner = inner;
	d->next_id = bb_now_ns();
	d->epoll = epoll_create1(EPOLL_CLOEXEC);
	fds[0] = d->fd;
	fds[1] = inner->fd(inner);
	for (int i = 0; i < 2; i++) {
		struct epoll_event ev = { .events = EPOLLIN };

		if (d->epoll < 0 || epoll_ctl(d->epoll, EPOLL_CTL_ADD, fds[i], &ev)) {
			int r = -errno;

			close(d->fd);
			if (d->epoll >= 0)
				close(d->epoll);
			free(d);
			return r;
		}
	}
	*out = &d->t;
	return 0;
}
