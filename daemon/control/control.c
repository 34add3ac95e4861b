/* SPDX-License-Identifier: MIT */
/*
 * Sockets and sessions of the control thread.
 *
 * Theory of operation
 * -------------------
 * One epoll loop over the listener and at most SESSIONS callers. A caller's
 * first byte tells what it is: '{' opens lines of JSON, the magic's first byte
 * a program that attaches. A caller that says nothing whole for IDLE_NS is
 * dropped; when all places are taken the oldest goes. Descriptors passed by a
 * caller that is not attaching are closed unseen.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "clock.h"
#include "control/control.h"
#include "log.h"

#define SESSIONS 64
#define IDLE_NS 2000000000ULL
#define JSON_IDLE_NS 60000000000ULL
#define LINE_MAX_BYTES 65536
#define RECKON_NS 200000000ULL

struct session {
	int fd; /* -1: free */
	int epoll;
	uint64_t last;
	struct ucred who;
	size_t have;
	int fds[3], nfds;
	bool json;
	char *line; /* LINE_MAX_BYTES, for JSON; NULL until then */
	union {
		struct bb_attach_req req;
		char raw[sizeof(struct bb_attach_req)];
	} attach;
};

int bb_control_listen(const char *path)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd, r;

	if (strlen(path) >= sizeof(un.sun_path)) {
		bb_error("socket %s: the path is too long (at most %zu bytes)", path, sizeof(un.sun_path) - 1);
		return -ENAMETOOLONG;
	}
	memcpy(un.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0 || errno == EAGAIN) {
		bb_error("socket %s: another bbd serves it; stop that one, or give --socket", path);
		close(fd);
		return -EADDRINUSE;
	}
	close(fd);
	if (errno == ECONNREFUSED)
		unlink(path); /* of one that was killed */
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&un, sizeof(un)) < 0 || listen(fd, 128) < 0) {
		r = -errno;
		bb_error("socket %s: %s%s", path, strerrordesc_np(-r),
			 r == -ENOENT ? "; make its directory, or give --socket" : "");
		close(fd);
		return r;
	}
	/* Every program of the host may attach; only its own memory is at stake. */
	chmod(path, 0666);
	return fd;
}

static void end(struct session *s)
{
	if (s->fd >= 0)
		close(s->fd);
	for (int i = 0; i < s->nfds; i++)
		close(s->fds[i]);
	free(s->line);
	memset(s, 0, sizeof(*s));
	s->fd = -1;
}

/* Reads what is there. Return: bytes, 0 at the end, -errno. Descriptors are kept. */
static ssize_t receive(struct session *s, void *buf, size_t len)
{
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(16 * sizeof(int))];
	} c;
	struct iovec iov = { buf, len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = c.buf, .msg_controllen = sizeof(c.buf) };
	ssize_t n = recvmsg(s->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0)
		return -errno;
	for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
		size_t k;

		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		k = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < k; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof(int));
			if (s->nfds < 3)
				s->fds[s->nfds++] = fd;
			else
				close(fd);
		}
	}
	return n;
}

/* Return: false where the session is over. */
static bool attach(struct bb_control *c, struct session *s)
{
	ssize_t n = receive(s, s->attach.raw + s->have, sizeof(s->attach) - s->have);
	struct bb_attach_req req;
	int fds[3], nfds = s->nfds, fd = s->fd;

	if (n == -EAGAIN || n == -EINTR)
		return true;
	if (n <= 0)
		return false;
	s->have += (size_t)n;
	if (s->have < sizeof(s->attach))
		return true;
	req = s->attach.req;
	if (req.magic != BB_ATTACH_MAGIC || req.size != sizeof(req)) {
		bb_warn("program %d: attach refused: libbb.so and bbd are of different versions", s->who.pid);
		return false;
	}
	memcpy(fds, s->fds, sizeof(fds));
	/* From here on they are the pager's. */
	epoll_ctl(s->epoll, EPOLL_CTL_DEL, fd, NULL);
	s->nfds = 0;
	s->fd = -1;
	bb_control_attach(c, fd, &req, fds, nfds, &s->who);
	return false;
}

static bool say(struct session *s, json_t *answer)
{
	char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
	size_t len, at = 0;
	uint64_t deadline = bb_now_ns() + IDLE_NS;

	json_decref(answer);
	if (!text)
		return false;
	len = strlen(text);
	text[len++] = '\n'; /* over the final zero */
	while (at < len) {
		ssize_t n = send(s->fd, text + at, len - at, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0)
			at += (size_t)n;
		else if ((errno != EAGAIN && errno != EINTR) || bb_now_ns() > deadline)
			break;
		else
			usleep(1000);
	}
	free(text);
	return at == len;
}

static bool talk(struct bb_control *c, struct session *s)
{
	char *nl;
	ssize_t n;

	if (!s->line)
		s->line = malloc(LINE_MAX_BYTES);
	if (!s->line || s->have == LINE_MAX_BYTES)
		return false;
	n = receive(s, s->line + s->have, LINE_MAX_BYTES - s->have);
	if (n == -EAGAIN || n == -EINTR)
		return true;
	if (n <= 0)
		return false;
	s->have += (size_t)n;
	while ((nl = memchr(s->line, '\n', s->have))) {
		size_t len = (size_t)(nl - s->line) + 1;
		json_error_t err;
		json_t *q = json_loadb(s->line, len, JSON_REJECT_DUPLICATES, &err), *a;

		if (q)
			a = bb_control_answer(c, q, s->who.uid == 0 || s->who.uid == geteuid());
		else
			a = json_pack("{s:b, s:s}", "ok", 0, "error", "this is not a line of JSON");
		json_decref(q);
		if (!say(s, a))
			return false;
		memmove(s->line, s->line + len, s->have - len);
		s->have -= len;
	}
	return true;
}

static bool serve(struct bb_control *c, struct session *s)
{
	if (!s->have && !s->json) {
		char first;
		ssize_t n = recv(s->fd, &first, 1, MSG_PEEK | MSG_DONTWAIT);

		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		if (!n)
			return false;
		s->json = first == '{';
		if (!s->json && first != (char)(BB_ATTACH_MAGIC & 0xff))
			return false;
	}
	return s->json ? talk(c, s) : attach(c, s);
}

static void welcome(struct session *sessions, int listener, int ep)
{
	struct session *s = &sessions[0];
	struct epoll_event ev = { .events = EPOLLIN };
	socklen_t len = sizeof(struct ucred);
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	for (int i = 0; i < SESSIONS; i++) {
		if (sessions[i].fd < 0) {
			s = &sessions[i];
			break;
		}
		if (sessions[i].last < s->last)
			s = &sessions[i];
	}
	end(s);
	s->fd = fd;
	s->epoll = ep;
	s->last = bb_now_ns();
	ev.data.ptr = s;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &s->who, &len) < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) < 0)
		end(s);
}

/* Embedded, no server tells the peers' table what our own home has free. */
static void own_home(struct bb_control *c)
{
	struct bb_home_stats s;

	if (c->server || !c->home)
		return;
	bb_home_stats(c->home, &s);
	bb_peers_own(c->peers, s.lent, s.lent - s.used);
}

void bb_control_run(struct bb_control *c, int listener, const volatile int *stop)
{
	struct epoll_event ev = { .events = EPOLLIN }, got[32];
	struct session *sessions = calloc(SESSIONS, sizeof(*sessions));
	uint64_t reckoned = 0, now;
	int ep = epoll_create1(EPOLL_CLOEXEC), i, n;

	if (!sessions || ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, listener, &ev) < 0) {
		bb_error("control: cannot serve the socket (error %d)", errno);
		free(sessions);
		return;
	}
	for (i = 0; i < SESSIONS; i++)
		sessions[i].fd = -1;
	while (!*stop) {
		n = epoll_wait(ep, got, 32, (int)(RECKON_NS / 1000000));
		now = bb_now_ns();
		for (i = 0; i < n; i++) {
			struct session *s = got[i].data.ptr;

			if (!s) {
				welcome(sessions, listener, ep);
				continue;
			}
			if (s->fd < 0)
				continue;
			s->last = now;
			if (!serve(c, s)) {
				if (s->fd >= 0)
					epoll_ctl(ep, EPOLL_CTL_DEL, s->fd, NULL);
				end(s);
			}
		}
		for (i = 0; i < SESSIONS; i++)
			if (sessions[i].fd >= 0 && now - sessions[i].last > (sessions[i].json ? JSON_IDLE_NS : IDLE_NS) &&
			    now > sessions[i].last)
				end(&sessions[i]);
		if (now - reckoned > RECKON_NS) {
			reckoned = now;
			if (c->budget.n)
				bb_control_reckon(c);
			own_home(c);
		}
	}
	for (i = 0; i < SESSIONS; i++)
		end(&sessions[i]);
	close(ep);
	free(sessions);
}
