/* SPDX-License-Identifier: MIT */
/*
 * Sockets and sessions of the control thread.
 *
 * Theory of operation
 * -------------------
 * One epoll loop over the listener and at most SESSIONS callers. A caller's
 * first byte tells what it is: '{' opens lines of JSON, the magic's first byte
 * a program that attaches. An attach request has ATTACH_NS from the connect on,
 * all of it; when all places are taken the one that has been quiet for longest
 * goes. Descriptors passed by a caller that is not attaching are closed unseen.
 *
 * No send waits: this thread serves programs that attach, too. A session has one
 * answer at most, and until that has left (EPOLLOUT) within ANSWER_NS nothing
 * more of the session is read or looked at. Then comes its next line; so a
 * caller that sends many lines has one turn a round, as the others have.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "control/control.h"
#include "log.h"

#define SESSIONS 64
#define ATTACH_NS 2000000000ULL
#define ANSWER_NS 5000000000ULL
#define JSON_IDLE_NS 60000000000ULL
#define LINE_MAX_BYTES 65536
#define RECKON_NS 200000000ULL

struct session {
	int fd; /* -1: free */
	int epoll;
	uint64_t began;	/* the connect, or the answer that waits to leave */
	uint64_t last;	/* when it was heard */
	struct ucred who;
	size_t have;
	int fds[3], nfds;
	bool json, ending; /* ending: after this answer */
	uint32_t events;   /* that epoll waits for */
	char *line; /* LINE_MAX_BYTES, for JSON; NULL until then */
	char *answer; /* NULL: none is due */
	size_t answer_len, answer_at;
	union {
		struct bb_attach_req req;
		char raw[sizeof(struct bb_attach_req)];
	} attach;
};

/*
 * Does anybody serve the socket? One that was just killed still does, for as
 * long as one of its threads is in a system call, although it counts as dead.
 */
static int look(const struct sockaddr_un *un)
{
	const struct timespec pause = { 0, 50000000 };
	int fd, r = 0;

	for (int tries = 0; tries < 40; tries++) {
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (fd < 0)
			return -errno;
		r = connect(fd, (const struct sockaddr *)un, sizeof(*un)) < 0 ? -errno : 0;
		close(fd);
		if (r && r != -EAGAIN)
			break;
		nanosleep(&pause, NULL);
	}
	return r;
}

int bb_control_listen(const char *path)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	struct stat st;
	int fd, r;

	if (!*path || strlen(path) >= sizeof(un.sun_path)) {
		bb_error("socket %s: a path has 1 to %zu bytes", path, sizeof(un.sun_path) - 1);
		return *path ? -ENAMETOOLONG : -EINVAL;
	}
	/* To connect to a file is refused as it is at a socket that nobody serves. */
	if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode)) {
		bb_error("socket %s: something else than a socket is there; remove it, or give --socket", path);
		return -EEXIST;
	}
	memcpy(un.sun_path, path, strlen(path) + 1);
	r = look(&un);
	if (r == 0 || r == -EAGAIN) {
		bb_error("socket %s: another bbd serves it; stop that one, or give --socket", path);
		return -EADDRINUSE;
	}
	if (r == -ECONNREFUSED)
		unlink(path); /* of one that was killed */
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		goto fail;
	if (bind(fd, (struct sockaddr *)&un, sizeof(un)) < 0 || listen(fd, 128) < 0)
		goto fail;
	/* Every program of the host may attach; only its own memory is at stake. */
	chmod(path, 0666);
	return fd;
fail:
	r = -errno;
	bb_error("socket %s: %s%s", path, strerrordesc_np(-r), r == -ENOENT ? "; make its directory, or give --socket" : "");
	if (fd >= 0)
		close(fd);
	return r;
}

static void end(struct session *s)
{
	if (s->fd >= 0)
		close(s->fd);
	for (int i = 0; i < s->nfds; i++)
		close(s->fds[i]);
	free(s->line);
	free(s->answer);
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

/* Sends as much of the answer as there is room for. Return: false where the caller has gone. */
static bool push(struct session *s)
{
	while (s->answer && s->answer_at < s->answer_len) {
		ssize_t n = send(s->fd, s->answer + s->answer_at, s->answer_len - s->answer_at,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		s->answer_at += (size_t)n;
	}
	free(s->answer);
	s->answer = NULL;
	return !s->ending;
}

static bool say(struct session *s, json_t *answer)
{
	s->answer = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
	json_decref(answer);
	if (!s->answer)
		return false;
	s->answer_len = strlen(s->answer);
	s->answer[s->answer_len++] = '\n'; /* over the final zero */
	s->answer_at = 0;
	s->began = bb_now_ns();
	return push(s);
}

static json_t *refusal(const char *why)
{
	return json_pack("{s:b, s:s}", "ok", 0, "error", why);
}

/* Answers the first line that has come, if one has. */
static bool next_line(struct bb_control *c, struct session *s)
{
	char *nl = memchr(s->line, '\n', s->have);
	json_t *q, *a;
	size_t len;

	if (!nl) {
		if (s->have < LINE_MAX_BYTES)
			return true;
		s->ending = true;
		return say(s, refusal("a line has at most 65536 bytes"));
	}
	len = (size_t)(nl - s->line) + 1;
	q = json_loadb(s->line, len, JSON_REJECT_DUPLICATES, NULL);
	s->have -= len;
	memmove(s->line, nl + 1, s->have);
	a = q ? bb_control_answer(c, q, s->who.uid == 0 || s->who.uid == geteuid()) :
		refusal("this is not a line of JSON");
	json_decref(q);
	return say(s, a);
}

static bool talk(struct bb_control *c, struct session *s)
{
	ssize_t n;

	if (!s->line)
		s->line = malloc(LINE_MAX_BYTES);
	if (!s->line)
		return false;
	if (s->answer)
		return push(s);
	if (!memchr(s->line, '\n', s->have)) {
		n = receive(s, s->line + s->have, LINE_MAX_BYTES - s->have);
		if (n == -EAGAIN || n == -EINTR)
			return true;
		if (n <= 0)
			return false;
		s->have += (size_t)n;
	}
	return next_line(c, s);
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
		/* The peer is ourselves, by its credentials, but a program has it: it may attach. */
		if (s->json && s->who.pid == c->self)
			return false;
		if (!s->json && first != (char)(BB_ATTACH_MAGIC & 0xff))
			return false;
	}
	return s->json ? talk(c, s) : attach(c, s);
}

/* Waits for room while there is something to say, or a line that has already come. */
static void rearm(struct session *s)
{
	bool more = s->answer || (s->line && memchr(s->line, '\n', s->have));
	struct epoll_event ev = { .events = more ? EPOLLOUT : EPOLLIN, .data.ptr = s };

	if (ev.events != s->events && epoll_ctl(s->epoll, EPOLL_CTL_MOD, s->fd, &ev) == 0)
		s->events = ev.events;
}

static bool is_late(const struct session *s, uint64_t now)
{
	if (s->answer)
		return now > s->began + ANSWER_NS;
	return s->json ? now > s->last + JSON_IDLE_NS : now > s->began + ATTACH_NS;
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
	s->events = EPOLLIN;
	s->began = s->last = bb_now_ns();
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

void bb_control_run(struct bb_control *c, int listener, const atomic_int *stop)
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
			if (serve(c, s))
				rearm(s);
			else
				end(s); /* a socket that is closed leaves the epoll set */
		}
		for (i = 0; i < SESSIONS; i++)
			if (sessions[i].fd >= 0 && is_late(&sessions[i], now))
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
