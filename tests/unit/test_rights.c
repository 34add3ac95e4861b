/* SPDX-License-Identifier: MIT */
/* What a thread of each kind may and may not do, each case in a process of its own. */
#include "rights.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "log.h"
#include "low.h"

#define BROKEN 40 /* exit status: what was looked for is not so */

static char said[4096];

/* Runs fn with those rights; what it writes is in said. Return: its exit status, -1: a signal. */
static int in_role(enum bb_role role, const struct bb_rights_config *cfg, int (*fn)(void))
{
	int out[2], st;
	size_t have = 0;
	ssize_t n;
	pid_t pid;

	assert_int_equal(pipe(out), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		dup2(out[1], 2);
		bb_log_init("bbd", BB_LOG_INFO);
		bb_rights_start(cfg);
		bb_rights_thread(role);
		_exit(fn());
	}
	close(out[1]);
	while ((n = read(out[0], said + have, sizeof(said) - 1 - have)) > 0)
		have += (size_t)n;
	said[have] = 0;
	close(out[0]);
	assert_int_equal(waitpid(pid, &st, 0), pid);
	return WIFEXITED(st) ? WEXITSTATUS(st) : -1;
}

static const struct bb_rights_config all = { .filter = true, .routes = true, .network = true };

static int is_filtered(void)
{
	return !strcmp(bb_rights_filter(), "on");
}

static int seccomp_mode(void)
{
	return prctl(PR_GET_SECCOMP, 0, 0, 0, 0);
}

/* Under a sanitizer there is no filter (rights.c). */
static void need_filter(void)
{
	if (!in_role(BB_ROLE_PAGER, &all, is_filtered))
		skip();
}

static int refuses_chdir(void)
{
	const char *last = NULL;

	if (chdir("/") == 0 || errno != EPERM || chdir("/") == 0 || errno != EPERM)
		return BROKEN;
	return bb_rights_refused(&last) == 2 && last && !strcmp(last, "chdir") ? 0 : BROKEN + 1;
}

static void test_refused_and_named_once(void **state)
{
	need_filter();
	for (int role = BB_ROLE_CONTROL; role < BB_ROLE_MAX; role++) {
		char *at;

		assert_int_equal(in_role((enum bb_role)role, &all, refuses_chdir), 0);
		at = strstr(said, "may not call chdir");
		assert_non_null(at);
		assert_null(strstr(at + 1, "may not call"));
	}
}

static int runs_a_program(void)
{
	execl("/bin/true", "true", NULL);
	return BROKEN;
}

static int traces(void)
{
	syscall(SYS_ptrace, 0, 0, 0, 0);
	return BROKEN;
}

static void test_an_intruder_ends_it(void **state)
{
	need_filter();
	for (int role = BB_ROLE_CONTROL; role < BB_ROLE_MAX; role++) {
		assert_int_equal(in_role((enum bb_role)role, &all, runs_a_program), BB_RIGHTS_EXIT);
		assert_non_null(strstr(said, "called execve"));
		assert_int_equal(in_role((enum bb_role)role, &all, traces), BB_RIGHTS_EXIT);
		assert_non_null(strstr(said, "called ptrace"));
	}
}

static int calls_bpf(void)
{
	syscall(SYS_bpf, 0, NULL, 0);
	return BROKEN;
}

static void test_bpf_is_steers(void **state)
{
	need_filter();
	for (int role = BB_ROLE_CONTROL; role < BB_ROLE_MAX; role++)
		assert_int_equal(in_role((enum bb_role)role, &all, calls_bpf), role == BB_ROLE_STEER ? BROKEN : BB_RIGHTS_EXIT);
}

static int refuses_the_rest(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || mprotect(p, 4096, PROT_READ) < 0)
		return BROKEN;
	if (mprotect(p, 4096, PROT_READ | PROT_EXEC) == 0 || errno != EPERM)
		return BROKEN + 1;
	if (mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED)
		return BROKEN + 2;
	if (socket(AF_INET, SOCK_RAW, 17) >= 0 || socket(AF_PACKET, SOCK_RAW, 0) >= 0)
		return BROKEN + 3;
	/* Nobody knows it: a C library that tries it first must see that it is not there. */
	if (syscall(100000) != -1 || errno != ENOSYS)
		return BROKEN + 4;
	/* What a process may do to others. */
	if (kill(getppid(), 0) == 0 || errno != EPERM)
		return BROKEN + 5;
	if (fork() >= 0)
		return BROKEN + 6;
	return 0;
}

static void test_runnable_memory_sockets_others(void **state)
{
	need_filter();
	assert_int_equal(in_role(BB_ROLE_PAGER, &all, refuses_the_rest), 0);
}

static int signalled(void)
{
	const char *last;

	raise(SIGSYS);
	return bb_rights_refused(&last) ? BROKEN : 0;
}

static void test_a_signal_that_is_no_call(void **state)
{
	need_filter();
	assert_int_equal(in_role(BB_ROLE_PAGER, &all, signalled), 0);
	assert_string_equal(said, "");
}

static int reads_what_malloc_reads(void)
{
	const char *last;

	if (open("/proc/sys/vm/overcommit_memory", O_RDONLY | O_CLOEXEC) >= 0 || errno != EPERM)
		return BROKEN;
	if (bb_rights_refused(&last))
		return BROKEN + 1;
	return open("/etc/passwd", O_RDONLY) < 0 && errno == EPERM && bb_rights_refused(&last) == 1 ? 0 : BROKEN + 2;
}

static void test_malloc_is_not_told_of(void **state)
{
	need_filter();
	assert_int_equal(in_role(BB_ROLE_PAGER, &all, reads_what_malloc_reads), 0);
	assert_null(strstr(said, "overcommit"));
	assert_non_null(strstr(said, "may not call openat"));
}

static uint64_t caps(bool permitted)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2];

	if (syscall(SYS_capget, &h, d) < 0)
		_exit(BROKEN + 9);
	return permitted ? d[0].permitted | (uint64_t)d[1].permitted << 32 : d[0].effective | (uint64_t)d[1].effective << 32;
}

static int count_caps(void)
{
	return (caps(false) ? 1 : 0) + (caps(true) ? 2 : 0) + (caps(true) & ~(1ULL << CAP_NET_ADMIN) ? 4 : 0) +
	       (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? 0 : 8) + (prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) ? 16 : 0);
}

static void test_capabilities(void **state)
{
	struct bb_rights_config c = { .routes = true, .network = true };
	const int may = geteuid() == 0 && caps(false) >> CAP_NET_ADMIN & 1 ? 3 : 0;

	assert_int_equal(in_role(BB_ROLE_PAGER, &c, count_caps), 0);
	assert_int_equal(in_role(BB_ROLE_CONTROL, &c, count_caps), 0);
	assert_int_equal(in_role(BB_ROLE_SCRUBBER, &c, count_caps), 0);
	assert_int_equal(in_role(BB_ROLE_SERVER, &c, count_caps), may);
	assert_int_equal(in_role(BB_ROLE_MAIN, &c, count_caps), may);
	c.routes = false;
	assert_int_equal(in_role(BB_ROLE_SERVER, &c, count_caps), 0);
	assert_int_equal(in_role(BB_ROLE_MAIN, &c, count_caps), may & 2);
	c.network = false;
	assert_int_equal(in_role(BB_ROLE_MAIN, &c, count_caps), 0);
}

static int bpf_caps(void)
{
	const uint64_t bpf = 1ULL << 39 | 1ULL << 38;

	return (caps(false) & bpf ? 1 : 0) + (caps(true) & bpf ? 2 : 0) + (caps(true) & ~bpf & ~(1ULL << CAP_NET_ADMIN) ? 4 : 0);
}

static int xdp_caps(void)
{
	const uint64_t xdp = 1ULL << CAP_NET_RAW | 1ULL << CAP_IPC_LOCK;

	return ((caps(false) & xdp) == xdp ? 1 : 0) + ((caps(true) & xdp) == xdp ? 2 : 0);
}

static void test_capabilities_for_bpf(void **state)
{
	struct bb_rights_config c = { .network = true, .kernel = true };
	const int may = geteuid() == 0 && caps(false) >> 39 & 1 ? 3 : 0;

	assert_int_equal(in_role(BB_ROLE_STEER, &c, bpf_caps), may);
	assert_int_equal(in_role(BB_ROLE_MAIN, &c, bpf_caps), may & 2);
	for (int role = BB_ROLE_CONTROL; role < BB_ROLE_STEER; role++)
		assert_int_equal(in_role((enum bb_role)role, &c, bpf_caps), 0);
	/* What AF_XDP sockets need comes on top, for the same two. */
	c.xdp = true;
	assert_int_equal(in_role(BB_ROLE_STEER, &c, xdp_caps), may);
	assert_int_equal(in_role(BB_ROLE_MAIN, &c, xdp_caps), may & 2);
	for (int role = BB_ROLE_CONTROL; role < BB_ROLE_STEER; role++)
		assert_int_equal(in_role((enum bb_role)role, &c, xdp_caps), 0);
	c.kernel = false;
	assert_int_equal(in_role(BB_ROLE_STEER, &c, xdp_caps), 0);
	assert_int_equal(in_role(BB_ROLE_STEER, &c, bpf_caps), 0);
	assert_int_equal(in_role(BB_ROLE_MAIN, &c, bpf_caps), 0);
}

/* A verbs device's ioctl; EBADF: it came to the kernel. */
static int verbs_ioctl(void)
{
	bb_rights_drop(BB_ROLE_PAGER);
	return syscall(SYS_ioctl, 1000, 0xc0181b01UL, NULL) < 0 && errno == EBADF;
}

static int with_rdma(enum bb_role role)
{
	int out, st;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		bb_log_init("bbd", BB_LOG_ERROR);
		close(2);
		bb_rights_start(&all);
		bb_rights_rdma();
		bb_rights_thread(role);
		_exit(verbs_ioctl());
	}
	out = waitpid(pid, &st, 0);
	assert_int_equal(out, pid);
	return WIFEXITED(st) ? WEXITSTATUS(st) : -1;
}

/* Who drives the NIC, and who takes extents away; nobody where there is none. */
static void test_verbs(void **state)
{
	need_filter();
	for (int role = BB_ROLE_CONTROL; role < BB_ROLE_MAX; role++) {
		const bool may = role == BB_ROLE_CONTROL || role == BB_ROLE_PAGER || role == BB_ROLE_SERVER || role == BB_ROLE_RDMA;

		assert_int_equal(in_role((enum bb_role)role, &all, verbs_ioctl), 0);
		assert_int_equal(with_rdma((enum bb_role)role), may);
	}
}

static int made_low;

static void *low_thread(void *arg)
{
	made_low = caps(true) || caps(false) ? 1 : 2;
	return NULL;
}

static void low_call(void *arg)
{
	*(int *)arg = caps(true) || caps(false) ? 1 : 2;
}

static int low(void)
{
	pthread_t t;
	int called = 0;

	if (bb_low_start())
		return 3;
	bb_low_call(low_call, &called);
	if (bb_low_thread(&t, low_thread, NULL))
		return 4;
	pthread_join(t, NULL);
	bb_low_stop();
	bb_low_call(low_call, &called); /* here, where there is none any more */
	return made_low == 2 && called ? 0 : 5;
}

static void test_low(void **state)
{
	assert_int_equal(in_role(BB_ROLE_MAIN, &all, low), 0);
}

static void test_off(void **state)
{
	struct bb_rights_config c = all;

	c.filter = false;
	assert_int_equal(in_role(BB_ROLE_PAGER, &c, seccomp_mode), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refused_and_named_once),
		cmocka_unit_test(test_an_intruder_ends_it),
		cmocka_unit_test(test_bpf_is_steers),
		cmocka_unit_test(test_capabilities_for_bpf),
		cmocka_unit_test(test_runnable_memory_sockets_others),
		cmocka_unit_test(test_a_signal_that_is_no_call),
		cmocka_unit_test(test_malloc_is_not_told_of),
		cmocka_unit_test(test_capabilities),
		cmocka_unit_test(test_verbs),
		cmocka_unit_test(test_low),
		cmocka_unit_test(test_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
