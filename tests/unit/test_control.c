/* SPDX-License-Identifier: MIT */
/*
 * The control socket and who calls there: bad lines, callers that do not read,
 * callers that never finish, and the path that the socket takes. Each test has
 * a control thread without pagers; programs that do attach are in tests/bats.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"
#include "control/control.h"
#include "control/notify.h"
#include "log.h"

#define MIB (1ULL << 20)
#define SECOND 1000000000ULL

struct world {
	char dir[32], path[64];
	struct bb_config cfg;
	struct bb_control c;
	pthread_t thread;
	atomic_int stop;
	int listener;
};

static void *run(void *arg)
{
	struct world *w = arg;

	bb_control_run(&w->c, w->listener, &w->stop);
	return NULL;
}

static int setup(void **state)
{
	struct bb_peers_config pc = { .node = 7, .port = 48059, .boot = 77 };
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	strcpy(w->dir, "/tmp/bb-test-control-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	snprintf(w->path, sizeof(w->path), "%s/s", w->dir);
	w->cfg.node = 7;
	w->cfg.embedded = true;
	w->c.cfg = &w->cfg;
	w->c.key_file = "none";
	bb_budget_init(&w->c.budget, 1024 * MIB);
	assert_int_equal(bb_key_derive(&pc.key), 0);
	assert_int_equal(bb_peers_new(&w->c.peers, &pc), 0);
	w->listener = bb_control_listen(w->path);
	assert_true(w->listener >= 0);
	assert_int_equal(pthread_create(&w->thread, NULL, run, w), 0);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	w->stop = 1;
	pthread_join(w->thread, NULL);
	close(w->listener);
	bb_peers_free(w->c.peers);
	unlink(w->path);
	rmdir(w->dir);
	free(w);
	return 0;
}

static int call(const struct world *w)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(un.sun_path, w->path);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	return fd;
}

static void put(int fd, const void *data, size_t len)
{
	while (len) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

		assert_true(n > 0);
		data = (const char *)data + n;
		len -= (size_t)n;
	}
}

static void put_line(int fd, const char *s)
{
	put(fd, s, strlen(s));
	put(fd, "\n", 1);
}

static bool readable(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, ms) == 1;
}

/* One line as JSON; NULL where bbd has hung up, or says nothing for 10 s. */
static json_t *get(int fd)
{
	static char buf[1 << 20];
	size_t n = 0;

	while (n < sizeof(buf) && readable(fd, 10000) && recv(fd, buf + n, 1, 0) == 1)
		if (buf[n++] == '\n')
			return json_loadb(buf, n, 0, NULL);
	return NULL;
}

static void expect_ok(int fd)
{
	json_t *a = get(fd);

	assert_non_null(a);
	assert_true(json_is_true(json_object_get(a, "ok")));
	assert_true(json_is_object(json_object_get(a, "result")));
	json_decref(a);
}

static void expect_error(int fd, const char *words)
{
	json_t *a = get(fd);
	const char *why = json_string_value(json_object_get(a, "error"));

	assert_non_null(a);
	assert_true(json_is_false(json_object_get(a, "ok")));
	if (!why || !strstr(why, words))
		fail_msg("\"%s\" instead of \"%s\"", why ? why : "nothing", words);
	json_decref(a);
}

/* Does it hang up within ms? */
static bool hangs_up(int fd, int ms)
{
	char c;

	return readable(fd, ms) && recv(fd, &c, 1, 0) <= 0;
}

/* --- lines ----------------------------------------------------------------- */

static void commands(void **state)
{
	static const char *const cmd[] = { "show", "node.show", "program.show", "region.show", "fault.show", "fault.reset",
					   "trace.list", "home.show", "net.show", "metrics.show", "doctor.facts" };
	int fd = call(*state);

	for (size_t i = 0; i < sizeof(cmd) / sizeof(cmd[0]); i++) {
		char line[64];

		snprintf(line, sizeof(line), "{\"cmd\":\"%s\"}", cmd[i]);
		put_line(fd, line);
		expect_ok(fd);
	}
	close(fd);
}

static void bad_lines(void **state)
{
	char deep[4001];
	int fd = call(*state);

	put_line(fd, "{\"cmd\":\"no.such\"}");
	expect_error(fd, "no such command");
	put_line(fd, "{}");
	expect_error(fd, "\"cmd\" is missing");
	put_line(fd, "{\"cmd\":7}");
	expect_error(fd, "\"cmd\" is missing");
	put_line(fd, "{\"cmd\":");
	expect_error(fd, "not a line of JSON");
	put_line(fd, "[1]");
	expect_error(fd, "\"cmd\" is missing");
	put_line(fd, "{\"cmd\":\"show\",\"cmd\":\"show\"}");
	expect_error(fd, "not a line of JSON");
	put_line(fd, "{\"cmd\":\"\xff\"}");
	expect_error(fd, "not a line of JSON");
	put(fd, "{\0}\n", 4);
	expect_error(fd, "not a line of JSON");
	memset(deep, '[', sizeof(deep) - 1);
	deep[sizeof(deep) - 1] = 0;
	put_line(fd, deep);
	expect_error(fd, "not a line of JSON");
	/* And after all of that: */
	put_line(fd, "{\"cmd\":\"node.show\"}");
	expect_ok(fd);
	close(fd);
}

static void lines_in_pieces_and_together(void **state)
{
	const char *s = "{\"cmd\":\"home.show\"}\n{\"cmd\":\"no.such\"}\n{\"cmd\":\"net.show\"}\n";
	int fd = call(*state);

	for (size_t i = 0; s[i]; i++)
		put(fd, s + i, 1);
	expect_ok(fd);
	expect_error(fd, "no such command");
	expect_ok(fd);
	put(fd, s, strlen(s));
	shutdown(fd, SHUT_WR); /* what was sent is still answered */
	expect_ok(fd);
	expect_error(fd, "no such command");
	expect_ok(fd);
	assert_true(hangs_up(fd, 5000));
	close(fd);
}

static void long_line(void **state)
{
	size_t len = 65536;
	char *s = malloc(len);
	int fd;

	assert_non_null(s);
	memset(s, ' ', len);
	memcpy(s, "{\"cmd\":\"node.show\"", 18);
	s[len - 2] = '}';
	s[len - 1] = '\n';
	fd = call(*state);
	put(fd, s, len);
	expect_ok(fd);
	s[len - 1] = ' '; /* no end in sight */
	put(fd, s, len);
	expect_error(fd, "at most 65536 bytes");
	assert_true(hangs_up(fd, 5000));
	close(fd);
	free(s);
}

static void changes_need_rights(void **state)
{
	struct world *w = *state;
	json_t *q = json_pack("{s:s, s:i, s:i}", "cmd", "program.set", "region", 1, "budget", 64 << 20), *a;
	int fd = call(w);

	a = bb_control_answer(&w->c, q, false);
	assert_non_null(strstr(json_string_value(json_object_get(a, "error")), "only root"));
	json_decref(a);
	json_decref(q);

	put_line(fd, "{\"cmd\":\"program.set\",\"region\":1,\"budget\":67108864}");
	expect_error(fd, "no such region");
	put_line(fd, "{\"cmd\":\"program.set\",\"region\":1,\"budget\":4095}");
	expect_error(fd, "at least 4M");
	put_line(fd, "{\"cmd\":\"program.set\",\"region\":-1,\"budget\":67108864}");
	expect_error(fd, "wants the numbers");
	put_line(fd, "{\"cmd\":\"program.set\",\"region\":4294967296,\"budget\":67108864}");
	expect_error(fd, "wants the numbers");
	put_line(fd, "{\"cmd\":\"program.set\",\"region\":\"1\"}");
	expect_error(fd, "wants the numbers");
	close(fd);
}

/* Every sample is of the family that was announced last, none comes twice, and all that net and node show is there. */
static void metrics(void **state)
{
	static const char *const want[] = { "build_info{", "home_requests{command=\"read\"}", "node_up{node=\"7\"} 1",
					    "server_dropped{reason=\"bad_tag\"}", "server_requests{command=\"read_run\"}",
					    "program_lost", "client_resent", "client_nacks" };
	json_t *r = bb_control_metrics(&((struct world *)*state)->c);
	const char *text = json_string_value(json_object_get(r, "text"));
	char now[64] = "", *copy, *line, *save;

	assert_non_null(text);
	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++)
		if (!strstr(text, want[i]))
			fail_msg("no %s", want[i]);
	copy = strdup(text);
	for (line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char help[200], *again;

		if (sscanf(line, "# HELP %63s", now) == 1) {
			snprintf(help, sizeof(help), "# HELP %s ", now);
			again = strstr(strstr(text, help) + 1, help);
			if (again)
				fail_msg("%s is announced twice", now);
		} else if (*line != '#') {
			char sample[200], end = line[strlen(now)];

			assert_int_equal(strncmp(line, now, strlen(now)), 0);
			assert_true(end == '{' || end == ' ');
			snprintf(sample, sizeof(sample), "\n%.*s ", (int)(strrchr(line, ' ') - line), line);
			again = strstr(strstr(text, sample) + 1, sample);
			if (again)
				fail_msg("%s comes twice", sample);
		}
	}
	free(copy);
	json_decref(r);
}

/* --- callers that mean no good ----------------------------------------------- */

static void callers_that_do_not_read(void **state)
{
	static const char line[] = "{\"cmd\":\"metrics.show\"}\n";
	int bad[20], fd;
	uint64_t t;

	for (int i = 0; i < 20; i++) {
		bad[i] = call(*state);
		fcntl(bad[i], F_SETFL, O_NONBLOCK);
		for (int k = 0; k < 5000; k++)
			if (send(bad[i], line, sizeof(line) - 1, MSG_NOSIGNAL) < 0)
				break;
	}
	t = bb_now_ns();
	fd = call(*state);
	put_line(fd, "{\"cmd\":\"node.show\"}");
	expect_ok(fd);
	assert_in_range(bb_now_ns() - t, 0, 2 * SECOND);
	close(fd);
	for (int i = 0; i < 20; i++)
		close(bad[i]);
}

static void requests_that_drip(void **state)
{
	uint64_t t = bb_now_ns();
	int fd = call(*state);

	while (send(fd, "B", 1, MSG_NOSIGNAL) == 1 && !readable(fd, 100))
		assert_in_range(bb_now_ns() - t, 0, 4 * SECOND);
	assert_in_range(bb_now_ns() - t, SECOND, 4 * SECOND);
	close(fd);
}

static void callers_that_say_nothing(void **state)
{
	int idle[100], fd;

	for (int i = 0; i < 100; i++)
		idle[i] = call(*state);
	fd = call(*state);
	put_line(fd, "{\"cmd\":\"node.show\"}");
	expect_ok(fd);
	close(fd);
	for (int i = 0; i < 100; i++) {
		assert_true(hangs_up(idle[i], 4000));
		close(idle[i]);
	}
}

static void neither_line_nor_request(void **state)
{
	int fd = call(*state);

	put(fd, "GET / HTTP/1.0\n", 15);
	assert_true(hangs_up(fd, 1000));
	close(fd);
}

/* --- attaching ----------------------------------------------------------------- */

static void send_request(int sock, const struct bb_attach_req *req, const int *fds, int n)
{
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(8 * sizeof(int))];
	} c = { .buf = { 0 } };
	struct iovec iov = { (void *)(uintptr_t)req, sizeof(*req) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (n) {
		m.msg_control = c.buf;
		m.msg_controllen = CMSG_SPACE((size_t)n * sizeof(int));
		c.h.cmsg_level = SOL_SOCKET;
		c.h.cmsg_type = SCM_RIGHTS;
		c.h.cmsg_len = CMSG_LEN((size_t)n * sizeof(int));
		memcpy(CMSG_DATA(&c.h), fds, (size_t)n * sizeof(int));
	}
	assert_int_equal(sendmsg(sock, &m, MSG_NOSIGNAL), sizeof(*req));
}

static struct bb_attach_req request(uint32_t flags)
{
	return (struct bb_attach_req){ .magic = BB_ATTACH_MAGIC, .size = sizeof(struct bb_attach_req), .flags = flags };
}

static struct bb_attach_rep reply_of(int fd)
{
	struct bb_attach_rep rep = { 0 };

	assert_true(readable(fd, 5000));
	assert_int_equal(recv(fd, &rep, sizeof(rep), MSG_WAITALL), sizeof(rep));
	assert_int_equal(rep.magic, BB_ATTACH_MAGIC);
	return rep;
}

static void a_query_is_answered(void **state)
{
	struct bb_attach_req req = request(BB_ATTACH_QUERY);
	int fd = call(*state);

	send_request(fd, &req, NULL, 0);
	assert_int_equal(reply_of(fd).budget, 1024 * MIB);
	close(fd);
	req.budget = 100 * MIB;
	fd = call(*state);
	send_request(fd, &req, NULL, 0);
	assert_int_equal(reply_of(fd).budget, 100 * MIB);
	close(fd);
}

static void bad_requests_are_refused(void **state)
{
	struct bb_attach_req req = request(0);
	int p[2], many[8], fd;

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	for (int n = 0; n <= 8; n++) {
		for (int i = 0; i < n; i++)
			many[i] = p[1];
		fd = call(*state);
		send_request(fd, &req, many, n);
		assert_int_equal(reply_of(fd).error, -EINVAL);
		assert_true(hangs_up(fd, 1000));
		close(fd);
	}
	/* It kept none of them: with ours gone nobody writes any more. */
	close(p[1]);
	assert_true(readable(p[0], 1000));
	close(p[0]);

	req = request(0x80);
	fd = call(*state);
	send_request(fd, &req, NULL, 0);
	assert_int_equal(reply_of(fd).error, -EINVAL);
	close(fd);
	req = request(0);
	req.size--;
	fd = call(*state);
	send_request(fd, &req, NULL, 0);
	assert_true(hangs_up(fd, 1000));
	close(fd);
}

/* --- the path -------------------------------------------------------------------- */

static void takes_the_path_of_a_dead_socket_alone(void **state)
{
	struct world *w = *state;
	char path[120], longer[200];
	struct stat before, after;
	int fd;

	/* Served: the world's own. */
	assert_int_equal(bb_control_listen(w->path), -EADDRINUSE);
	assert_int_equal(lstat(w->path, &before), 0);

	snprintf(path, sizeof(path), "%s/other", w->dir);
	fd = bb_control_listen(path);
	assert_true(fd >= 0);
	assert_int_equal(lstat(path, &before), 0);
	assert_int_equal(before.st_mode & 0777, 0666);
	close(fd); /* as one that was killed */
	fd = bb_control_listen(path);
	assert_true(fd >= 0);
	close(fd);
	unlink(path);

	/* A file of somebody's stays what it is; so does what a link points to. */
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, "precious", 8), 8);
	close(fd);
	assert_int_equal(bb_control_listen(path), -EEXIST);
	assert_int_equal(lstat(path, &after), 0);
	assert_int_equal(after.st_size, 8);
	unlink(path);
	assert_int_equal(symlink("/nowhere", path), 0);
	assert_int_equal(bb_control_listen(path), -EEXIST);
	unlink(path);

	assert_int_equal(bb_control_listen(""), -EINVAL);
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = 0;
	assert_int_equal(bb_control_listen(longer), -ENAMETOOLONG);
	snprintf(path, sizeof(path), "%s/no/such", w->dir);
	assert_int_equal(bb_control_listen(path), -ENOENT);
}

/* --- the service manager ------------------------------------------------------------ */

static void notifies(void **state)
{
	struct world *w = *state;
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	char var[128], buf[32] = "", other[] = "PATH=/bin";
	char *none[] = { other, NULL }, *env[] = { other, var, NULL };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(un.sun_path, sizeof(un.sun_path), "%s/notify", w->dir);
	assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	assert_int_equal(bb_notify(none, "READY=1"), 0);
	assert_false(readable(fd, 50));
	snprintf(var, sizeof(var), "NOTIFY_SOCKET=%s", un.sun_path);
	assert_int_equal(bb_notify(env, "READY=1"), 0);
	assert_int_equal(recv(fd, buf, sizeof(buf), MSG_DONTWAIT), 7);
	assert_string_equal(buf, "READY=1");
	close(fd);
	assert_int_equal(bb_notify(env, "READY=1"), -ECONNREFUSED);
	unlink(un.sun_path);
	assert_int_equal(bb_notify(env, "READY=1"), -ENOENT);
	strcpy(var, "NOTIFY_SOCKET=relative");
	assert_int_equal(bb_notify(env, "READY=1"), -EINVAL);
	strcpy(var, "NOTIFY_SOCKET=");
	assert_int_equal(bb_notify(env, "READY=1"), 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(commands),
		TEST(bad_lines),
		TEST(lines_in_pieces_and_together),
		TEST(long_line),
		TEST(changes_need_rights),
		TEST(metrics),
		TEST(callers_that_do_not_read),
		TEST(requests_that_drip),
		TEST(callers_that_say_nothing),
		TEST(neither_line_nor_request),
		TEST(a_query_is_answered),
		TEST(bad_requests_are_refused),
		TEST(takes_the_path_of_a_dead_socket_alone),
		TEST(notifies),
	};

	bb_log_init("test", BB_LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
