/* SPDX-License-Identifier: MIT */
/*
 * One request to bbd over its Unix socket: a line of JSON there, a line of
 * JSON back. All of it has one deadline.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "bbctl.h"
#include "clock.h"
#include "log.h"

#define DEADLINE_NS 5000000000ULL
#define ANSWER_MAX (64u << 20)

/* Return: 0 once fd is ready, -ETIMEDOUT, -errno. */
static int await(int fd, short events, uint64_t deadline)
{
	struct pollfd p = { .fd = fd, .events = events };

	for (;;) {
		uint64_t now = bb_now_ns();
		int n;

		if (now >= deadline)
			return -ETIMEDOUT;
		n = poll(&p, 1, (int)((deadline - now) / 1000000) + 1);
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

/* Does not block: a bbd that takes no callers leaves its queue full (EAGAIN). */
static int dial(const char *path, uint64_t deadline, int *out)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd, r;

	if (strlen(path) >= sizeof(un.sun_path))
		return -ENAMETOOLONG;
	memcpy(un.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	while (connect(fd, (struct sockaddr *)&un, sizeof(un)) < 0) {
		r = -errno;
		if (r == -EAGAIN && bb_now_ns() < deadline) {
			usleep(10000);
			continue;
		}
		close(fd);
		return r == -EAGAIN ? -ETIMEDOUT : r;
	}
	*out = fd;
	return 0;
}

static int send_all(int fd, const char *s, size_t len, uint64_t deadline)
{
	while (len) {
		ssize_t n = send(fd, s, len, MSG_NOSIGNAL);
		int r;

		if (n >= 0) {
			s += n;
			len -= (size_t)n;
			continue;
		}
		r = errno == EAGAIN ? await(fd, POLLOUT, deadline) : -errno;
		if (r < 0 && r != -EINTR)
			return r;
	}
	return 0;
}

/* One line, without its end. Return: 0 and *line (to be freed), or -errno. */
static int receive_line(int fd, char **line, uint64_t deadline)
{
	size_t len = 0, cap = 65536;
	char *buf = malloc(cap), *nl;
	int r = buf ? 0 : -ENOMEM;

	while (r == 0) {
		ssize_t n;

		if (len == cap) {
			char *more = cap < ANSWER_MAX ? realloc(buf, 2 * cap) : NULL;

			if (!more) {
				r = -EMSGSIZE;
				break;
			}
			buf = more;
			cap *= 2;
		}
		n = recv(fd, buf + len, cap - len, 0);
		if (n > 0) {
			nl = memchr(buf + len, '\n', (size_t)n);
			len += (size_t)n;
			if (nl) {
				*nl = 0;
				*line = buf;
				return 0;
			}
			/* One who never ends a line gets no more time than others. */
			if (bb_now_ns() >= deadline)
				r = -ETIMEDOUT;
		} else if (n == 0) {
			r = -ECONNRESET;
		} else {
			r = errno == EAGAIN ? await(fd, POLLIN, deadline) : -errno;
			if (r == -EINTR)
				r = 0;
		}
	}
	free(buf);
	return r;
}

static int explain(const struct bbctl *b, int r, char err[256])
{
	const char *s = b->socket;

	switch (r) {
	case -ENOENT:
		snprintf(err, 256, "no bbd at %s: start one (systemctl start bbd, or: bbd --dev IFACE), or name its socket with --socket", s);
		break;
	case -ECONNREFUSED:
		snprintf(err, 256, "no bbd at %s: the one that made the socket has ended; start it again (systemctl start bbd)", s);
		break;
	case -ETIMEDOUT:
		snprintf(err, 256, "bbd at %s does not answer within %u s: see its log (journalctl -u bbd)", s,
			 (unsigned int)(DEADLINE_NS / 1000000000));
		break;
	case -ECONNRESET:
	case -EPIPE:
		snprintf(err, 256, "bbd at %s hung up without an answer: is it a bbd of this version?", s);
		break;
	case -EPROTO:
		snprintf(err, 256, "what answers at %s is no bbd of this version", s);
		break;
	default:
		snprintf(err, 256, "bbd at %s: %s", s, strerrordesc_np(-r));
	}
	return r;
}

int bbctl_ask(struct bbctl *b, json_t *request, json_t **result, pid_t *pid, char err[256])
{
	uint64_t deadline = bb_now_ns() + DEADLINE_NS;
	char *text = json_dumps(request, JSON_COMPACT), *line = NULL;
	struct ucred who = { 0 };
	socklen_t size = sizeof(who);
	json_t *answer = NULL;
	int fd = -1, r;
	size_t len;

	json_decref(request);
	if (!text)
		return explain(b, -ENOMEM, err);
	r = dial(b->socket, deadline, &fd);
	if (r < 0)
		goto out;
	if (pid)
		*pid = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 ? who.pid : 0;
	len = strlen(text);
	text[len] = '\n'; /* over the final zero */
	r = send_all(fd, text, len + 1, deadline);
	if (r == 0)
		r = receive_line(fd, &line, deadline);
	if (r < 0)
		goto out;
	answer = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
	if (json_is_true(json_object_get(answer, "ok")) && json_object_get(answer, "result")) {
		*result = json_incref(json_object_get(answer, "result"));
	} else if (json_is_string(json_object_get(answer, "error"))) {
		snprintf(err, 256, "%s", str(answer, "error"));
		r = -EREMOTEIO;
	} else {
		r = -EPROTO;
	}
out:
	if (r < 0 && r != -EREMOTEIO)
		explain(b, r, err);
	json_decref(answer);
	free(line);
	free(text);
	if (fd >= 0)
		close(fd);
	return r;
}

json_t *bbctl_get(struct bbctl *b, const char *cmd)
{
	json_t *result = NULL;
	char err[256];

	if (bbctl_ask(b, json_pack("{s:s}", "cmd", cmd), &result, NULL, err) < 0) {
		bb_error("%s", err);
		return NULL;
	}
	return result;
}

int bbctl_print_json(json_t *o)
{
	int r = json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(12) | JSON_ENCODE_ANY);

	putchar('\n');
	json_decref(o);
	if (r < 0)
		bb_error("cannot write the answer as JSON");
	return r < 0 ? BBCTL_FAILED : BBCTL_OK;
}
