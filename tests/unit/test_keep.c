/* SPDX-License-Identifier: MIT */
/* Memory that outlives its process: the keeper, its rights, its deadline, its end. */
#include "keep/keep.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"
#include "keep/keep_msg.h"
#include "log.h"

#define SIZE (1u << 20)
#define SECOND 1000000000ULL

static char dir[64], path[128], at[160];

static int set_up(void **state)
{
	snprintf(dir, sizeof(dir), "/tmp/bb-test-keep-XXXXXX");
	if (!mkdtemp(dir))
		return 1;
	snprintf(path, sizeof(path), "%s/sock", dir);
	snprintf(at, sizeof(at), "%s.keep", path);
	return 0;
}

static int tear_down(void **state)
{
	struct bb_keep *k;

	if (!access(at, F_OK) && !bb_keep_open(&k, path, 1))
		bb_keep_close(k, false);
	unlink(at);
	return rmdir(dir);
}

static struct bb_keep *open_keep(unsigned int ms)
{
	struct bb_keep *k = NULL;

	assert_int_equal(bb_keep_open(&k, path, ms), 0);
	return k;
}

static uint8_t *memory(struct bb_keep *k, const char *name, bool want)
{
	bool found = !want;
	int fd = bb_keep_memory(k, name, SIZE, &found);
	uint8_t *p;

	assert_true(fd >= 0);
	assert_int_equal(found, want);
	p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(p != MAP_FAILED);
	close(fd);
	return p;
}

static void expect_byte(const uint8_t *p, uint8_t byte)
{
	for (unsigned int i = 0; i < SIZE; i++)
		if (p[i] != byte)
			fail_msg("byte %u is %u instead of %u", i, p[i], byte);
}

static bool status_line(int pid, const char *want)
{
	char name[64], line[256];
	bool found = false;
	FILE *f;

	snprintf(name, sizeof(name), "/proc/%d/status", pid);
	f = fopen(name, "r");
	if (!f)
		return false;
	while (fgets(line, sizeof(line), f))
		found |= !strncmp(line, want, strlen(want));
	fclose(f);
	return found;
}

/* Or waits for a slow init to collect it. */
static bool has_ended(int pid)
{
	return (kill(pid, 0) < 0 && errno == ESRCH) || status_line(pid, "State:\tZ");
}

static bool gone(int pid)
{
	for (int i = 0; i < 1000 && !has_ended(pid); i++)
		usleep(10000);
	return has_ended(pid);
}

/* A process of its own that keeps what its body puts, and is killed. Return: its keeper. */
static int killed_after(void (*body)(struct bb_keep *))
{
	int pipefd[2], keeper = 0, status;
	pid_t pid;

	assert_int_equal(pipe(pipefd), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		struct bb_keep *k;

		if (bb_keep_open(&k, path, 60000))
			_exit(1);
		body(k);
		keeper = bb_keep_pid(k);
		if (write(pipefd[1], &keeper, sizeof(keeper)) != sizeof(keeper))
			_exit(2);
		raise(SIGKILL);
	}
	close(pipefd[1]);
	assert_int_equal(read(pipefd[0], &keeper, sizeof(keeper)), sizeof(keeper));
	close(pipefd[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	return keeper;
}

static void put_three(struct bb_keep *k)
{
	static const char *const names[] = { "a", "b.1", "b.2" };
	bool found;

	for (int i = 0; i < 3; i++) {
		int fd = bb_keep_memory(k, names[i], SIZE, &found);
		uint8_t *p = fd < 0 ? MAP_FAILED : mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

		if (p == MAP_FAILED || found)
			_exit(3);
		memset(p, 0x10 + i, SIZE);
	}
}

static void survives_a_kill(void **state)
{
	int keeper = killed_after(put_three);
	char names[2][BB_KEEP_NAME];
	struct bb_keep *k = open_keep(60000);
	bool found;
	int fd;

	assert_int_equal(bb_keep_pid(k), keeper);
	assert_int_equal(bb_keep_ms(k), 60000);
	assert_int_equal(bb_keep_list(k, "", names, 2), 3);
	assert_int_equal(bb_keep_list(k, "b.", names, 2), 2);
	expect_byte(memory(k, "a", true), 0x10);
	expect_byte(memory(k, "b.2", true), 0x12);
	/* A second time, from the keeper again; another size is another memory. */
	expect_byte(memory(k, "a", true), 0x10);
	fd = bb_keep_memory(k, "b.1", 2 * SIZE, &found);
	assert_true(fd >= 0 && !found);
	close(fd);
	assert_int_equal(bb_keep_get(k, "c"), -ENOENT);
	bb_keep_drop(k, "a");
	assert_int_equal(bb_keep_list(k, "", names, 2), 2);
	expect_byte(memory(k, "a", false), 0);
	bb_keep_close(k, true);

	/* And once more, by an orderly leave. */
	k = open_keep(60000);
	expect_byte(memory(k, "b.2", true), 0x12);
	bb_keep_close(k, false);
	assert_true(gone(keeper));
	assert_int_equal(access(at, F_OK), -1);
	k = open_keep(60000);
	expect_byte(memory(k, "b.2", false), 0);
	bb_keep_close(k, false);
}

static void put_many(struct bb_keep *k)
{
	char name[BB_KEEP_NAME];

	for (int i = 0; i < 300; i++) {
		int fd = memfd_create("x", 0);

		snprintf(name, sizeof(name), "many.%d", i);
		if (write(fd, &i, sizeof(i)) != sizeof(i) || bb_keep_put(k, name, fd))
			_exit(3);
		close(fd);
	}
}

static void hands_over_more_than_a_packet(void **state)
{
	struct bb_keep *k;
	int v;

	killed_after(put_many);
	k = open_keep(60000);
	for (int i = 0; i < 300; i++) {
		char name[BB_KEEP_NAME];
		int fd;

		snprintf(name, sizeof(name), "many.%d", i);
		fd = bb_keep_get(k, name);
		assert_true(fd >= 0);
		assert_int_equal(pread(fd, &v, sizeof(v), 0), sizeof(v));
		assert_int_equal(v, i);
		close(fd);
	}
	bb_keep_close(k, false);
}

static void deadline_frees(void **state)
{
	struct bb_keep *k = open_keep(300);
	const int keeper = bb_keep_pid(k);
	uint64_t t;

	memory(k, "a", false);
	t = bb_now_ns();
	bb_keep_close(k, true);
	assert_true(gone(keeper));
	assert_true(bb_now_ns() - t >= SECOND / 4);
	assert_int_equal(access(at, F_OK), -1);
}

static void one_bbd_at_a_time(void **state)
{
	struct bb_keep *k = open_keep(60000), *other = NULL;
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	struct bb_keep_msg m = { .magic = BB_KEEP_MAGIC, .version = BB_KEEP_VERSION, .op = BB_KEEP_TAKE, .value = 1 };
	int s = socket(AF_UNIX, SOCK_SEQPACKET, 0), fd;
	unsigned int nfds = 1;
	struct stat st;

	assert_int_equal(stat(at, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	memory(k, "a", false);
	strcpy(un.sun_path, at);
	assert_int_equal(connect(s, (struct sockaddr *)&un, sizeof(un)), 0);
	assert_int_equal(bb_keep_send(s, &m, sizeof(m), NULL, 0), 0);
	assert_int_equal(bb_keep_recv(s, &m, sizeof(m), &fd, &nfds), sizeof(m));
	assert_int_equal(m.status, -EBUSY);
	assert_int_equal(nfds, 0);
	assert_int_equal(bb_keep_recv(s, &m, sizeof(m), &fd, &nfds), 0);
	close(s);
	/* One that says nothing, or nonsense, ends nothing. */
	s = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	assert_int_equal(connect(s, (struct sockaddr *)&un, sizeof(un)), 0);
	assert_int_equal(write(s, "nonsense", 8), 8);
	assert_int_equal(read(s, &m, sizeof(m)), 0);
	close(s);
	memory(k, "a", true);
	assert_int_equal(bb_keep_ms(k), 60000);
	bb_keep_close(k, true);
	/* One that waits for its turn gets it when the first has gone. */
	assert_int_equal(bb_keep_open(&other, path, 60000), 0);
	memory(other, "a", true);
	bb_keep_close(other, false);
}

static void has_no_rights(void **state)
{
	struct bb_keep *k = open_keep(60000);
	const int keeper = bb_keep_pid(k);
	char name[64];
	int open_files = 0;
	DIR *d;

	assert_true(status_line(keeper, "Name:\tbbd-keeper"));
	assert_true(status_line(keeper, "CapEff:\t0000000000000000"));
	assert_true(status_line(keeper, "CapPrm:\t0000000000000000"));
	assert_true(status_line(keeper, "NoNewPrivs:\t1"));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	assert_true(status_line(keeper, "Seccomp:\t2"));
#endif
	assert_int_not_equal(getsid(keeper), getsid(0));
	snprintf(name, sizeof(name), "/proc/%d/fd", keeper);
	d = opendir(name);
	assert_non_null(d);
	while (readdir(d))
		open_files++;
	closedir(d);
	assert_int_equal(open_files, 2 + 3 + 2); /* . and .., /dev/null, the listener and us */
	bb_keep_close(k, false);
}

static void a_dead_keeper_is_noticed(void **state)
{
	struct bb_keep *k = open_keep(60000);
	const int keeper = bb_keep_pid(k);

	memory(k, "a", false);
	assert_int_equal(kill(keeper, SIGKILL), 0);
	assert_true(gone(keeper));
	/* It counts as dead a moment before its socket is closed. */
	for (int i = 0; i < 500 && bb_keep_ms(k); i++) {
		bb_keep_check(k);
		usleep(10000);
	}
	assert_int_equal(bb_keep_ms(k), 0);
	memory(k, "b", false); /* goes on, with plain memory */
	assert_int_equal(bb_keep_put(k, "c", 0), 0);
	bb_keep_close(k, false);
	/* Its socket is still there; the next bbd takes its place. */
	assert_int_equal(access(at, F_OK), 0);
	k = open_keep(60000);
	memory(k, "a", false);
	assert_int_equal(bb_keep_ms(k), 60000);
	bb_keep_close(k, false);
}

static void without_a_keeper(void **state)
{
	struct bb_keep *k = open_keep(0);
	bool found;
	char long_path[200];
	int fd;

	assert_int_equal(bb_keep_ms(k), 0);
	memory(k, "a", false);
	assert_int_equal(bb_keep_get(k, "a"), -ENOENT);
	assert_int_equal(access(at, F_OK), -1);
	bb_keep_close(k, true);
	fd = bb_keep_memory(NULL, "a", SIZE, &found);
	assert_true(fd >= 0 && !found);
	close(fd);
	assert_int_equal(bb_keep_memory(NULL, "", SIZE, &found), -EINVAL);
	assert_int_equal(bb_keep_memory(NULL, "a name that has more bytes than are allowed", SIZE, &found), -EINVAL);
	memset(long_path, 'x', sizeof(long_path));
	long_path[199] = 0;
	assert_int_equal(bb_keep_open(&k, long_path, 1000), 0);
	assert_int_equal(bb_keep_ms(k), 0);
	bb_keep_close(k, false);
}

static void *putter(void *arg)
{
	struct bb_keep *k = arg;
	char name[BB_KEEP_NAME];

	for (int i = 0; i < 100; i++) {
		bool found;
		int fd, back;
		struct stat a, b;

		snprintf(name, sizeof(name), "t.%lx.%d", (unsigned long)pthread_self(), i % 10);
		fd = bb_keep_memory(k, name, 4096, &found);
		back = bb_keep_get(k, name);
		if (fd < 0 || found || back < 0 || fstat(fd, &a) || fstat(back, &b) || a.st_ino != b.st_ino)
			return (void *)1;
		close(fd);
		close(back);
		bb_keep_drop(k, name);
	}
	return NULL;
}

static void many_threads(void **state)
{
	struct bb_keep *k = open_keep(60000);
	char none[1][BB_KEEP_NAME];
	pthread_t t[4];
	void *r;

	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, putter, k), 0);
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], &r);
		assert_null(r);
	}
	assert_int_equal(bb_keep_list(k, "", none, 1), 0);
	bb_keep_close(k, false);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(survives_a_kill),	 TEST(hands_over_more_than_a_packet), TEST(deadline_frees),
		TEST(one_bbd_at_a_time), TEST(has_no_rights),		      TEST(a_dead_keeper_is_noticed),
		TEST(without_a_keeper),	 TEST(many_threads),
	};

	bb_log_init("test_keep", BB_LOG_ERROR);
	return cmocka_run_group_tests_name("keep", tests, NULL, NULL);
}
