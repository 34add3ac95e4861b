/* SPDX-License-Identifier: MIT */
/*
 * Processes that change what they are, with large memory in their hands: they
 * close all descriptors, become daemons, change root or user, give up rights,
 * live within small limits, and fork in all of these states.
 *
 *	bbchild TOPIC [MIB]	(48)
 *
 * Each topic runs in a child of its own, so that what it gives up is gone for
 * it alone, and holds memory of its own besides. Exit 0 and one line where
 * every byte was right all the way.
 */
#include "held.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static struct held h;
static size_t mib = 48;

static void must(bool ok, const char *what)
{
	if (!ok)
		fail("%s: %s", what, strerror(errno));
}

static void ended(pid_t pid, const char *what)
{
	int status;

	while (waitpid(pid, &status, 0) != pid)
		must(errno == EINTR, "waitpid");
	if (status)
		fail("%s: ended with status %x", what, status);
}

/* Reads all, writes some, makes more; then the same in a child, and its child. */
static void live(const char *what, int generations)
{
	struct held more;
	pid_t pid;

	held_check(&h, what);
	held_write(&h, (size_t)generations, 5, (unsigned int)generations + 60);
	held_new(&more, mib / 3, (unsigned int)generations + 70);
	held_check(&h, what);
	held_check(&more, what);
	if (generations) {
		pid = fork();
		must(pid >= 0, "fork");
		if (!pid) {
			live(what, generations - 1);
			_exit(0);
		}
		held_write(&h, 1, 7, 80);
		ended(pid, what);
	}
	held_check(&h, what);
	held_check(&more, what);
	free(more.mem);
	free(more.version);
}

/* --- descriptors ---------------------------------------------------------- */

static void close_loop(void)
{
	for (int fd = 3; fd < 70000; fd++)
		close(fd);
}

static void close_by_range(void)
{
	must(close_range(3, ~0U, 0) == 0, "close_range");
}

/* As shells and daemons do where there is no close_range: what /proc tells. */
static void close_by_list(void)
{
	int dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY), fds[256], n = 0;
	char buf[4096];
	long len;

	must(dir >= 0, "/proc/self/fd");
	while ((len = syscall(SYS_getdents64, dir, buf, sizeof(buf))) > 0)
		for (long at = 0; at < len; at += *(unsigned short *)(buf + at + 16))
			if (buf[at + 19] != '.' && n < 256)
				fds[n++] = atoi(buf + at + 19);
	for (int i = 0; i < n; i++)
		if (fds[i] > 2)
			close(fds[i]);
}

static void topic_close(void)
{
	static void (*const way[])(void) = { close_by_range, close_by_list, close_loop };

	for (size_t i = 0; i < sizeof(way) / sizeof(way[0]); i++) {
		way[i]();
		live("all descriptors closed", 1);
		must(dup2(1, 200) == 200, "dup2");
	}
	closefrom(3);
	must(close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) == 0, "close_range, on exec");
	live("closefrom", 1);
}

/* Past the C library. What is held after that is right, or it is not there: never zeros. */
static void topic_rawclose(void)
{
	struct rlimit none = { 0, 0 };

	setrlimit(RLIMIT_CORE, &none);
	syscall(SYS_close_range, 3, ~0U, 0);
	for (int i = 0; i < 3; i++) {
		held_check(&h, "descriptors closed past the C library");
		held_write(&h, 0, 2, 33);
	}
}

/* daemon(3) forks, and the parent ends; a pipe tells when the daemon is through. */
static void topic_daemon(void)
{
	int p[2];
	char c = 0;
	pid_t pid;

	must(pipe(p) == 0, "pipe");
	pid = fork();
	must(pid >= 0, "fork");
	if (!pid) {
		must(daemon(0, 1) == 0, "daemon");
		must(dup2(p[1], 3) == 3 && close_range(4, ~0U, 0) == 0, "dup2, close_range");
		live("daemon", 2);
		must(write(3, "k", 1) == 1, "write");
		_exit(0);
	}
	close(p[1]);
	ended(pid, "who became a daemon");
	must(read(p[0], &c, 1) == 1 && c == 'k', "the daemon has ended too early");
}

static void topic_nofile(void)
{
	struct rlimit few = { 16, 16 };

	must(setrlimit(RLIMIT_NOFILE, &few) == 0, "RLIMIT_NOFILE");
	live("16 descriptors", 2);
}

/* --- root, user, rights ----------------------------------------------------- */

static void topic_chroot(void)
{
	/* Empty, and gone as soon as nobody is in it. */
	char dir[] = "/tmp/bbchild.XXXXXX";

	must(mkdtemp(dir) != NULL && chdir(dir) == 0, "mkdtemp");
	must(rmdir(dir) == 0 && chroot(".") == 0, "chroot");
	live("chroot", 2);
}

static void become_nobody(void)
{
	must(setgroups(0, NULL) == 0 && setgid(65534) == 0 && setuid(65534) == 0, "setuid");
	must(setuid(0) < 0, "rights did not go");
}

static void topic_setuid(void)
{
	become_nobody();
	live("another user", 2);
}

static void topic_nodump(void)
{
	become_nobody();
	must(prctl(PR_SET_DUMPABLE, 0) == 0, "PR_SET_DUMPABLE");
	live("not dumpable", 2);
}

static void topic_nonewprivs(void)
{
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "PR_SET_NO_NEW_PRIVS");
	live("no new privileges", 2);
}

/* read, write, _exit and sigreturn are all that is left; memory is still there. */
static void topic_seccomp(void)
{
	long wrong;

	live("before seccomp", 0);
	must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0, "seccomp");
	held_write(&h, 0, 3, 90);
	wrong = held_wrong(&h, 0, 1);
	syscall(SYS_exit, wrong >= 0);
}

static void topic_as(void)
{
	struct rlimit little = { 16ULL << 30, 16ULL << 30 };

	/* Under it from the start: this memory is not yet there. */
	must(setrlimit(RLIMIT_AS, &little) == 0, "RLIMIT_AS");
	execl("/proc/self/exe", "bbchild", "plain", "48", NULL);
	fail("exec: %s", strerror(errno));
}

static void topic_plain(void)
{
	live("nothing special", 2);
}

/* --- fork's neighbours ------------------------------------------------------ */

static unsigned int order[8], steps;
static char *from_handler;

static void handler_block(unsigned int step)
{
	order[steps++ % 8] = step;
	free(from_handler);
	from_handler = malloc(4 << 20);
	must(from_handler != NULL, "malloc in an atfork handler");
	memset(from_handler, (int)step, 4 << 20);
	if (held_wrong(&h, step, 97) >= 0)
		fail("atfork handler %u sees a wrong page", step);
}

static void before1(void) { handler_block(1); }
static void before2(void) { handler_block(2); }
static void parent1(void) { handler_block(3); }
static void parent2(void) { handler_block(4); }
static void child1(void) { handler_block(5); }
static void child2(void) { handler_block(6); }

/* Handlers that allocate and touch, first come last before, first come first after. */
static void topic_atfork(void)
{
	pid_t pid;

	must(pthread_atfork(before1, parent1, child1) == 0 && pthread_atfork(before2, parent2, child2) == 0,
	     "pthread_atfork");
	pid = fork();
	must(pid >= 0, "fork");
	if (steps != 4 || order[0] != 2 || order[1] != 1 || order[2] != (pid ? 3 : 5) || order[3] != (pid ? 4 : 6))
		fail("handlers ran as %u %u %u %u", order[0], order[1], order[2], order[3]);
	for (size_t i = 0; i < 4 << 20; i += 4096)
		if (from_handler[i] != (pid ? 4 : 6))
			fail("a handler's block is wrong at %zu", i);
	live("atfork handlers", 1);
	if (!pid)
		_exit(0);
	ended(pid, "child with handlers");
}

static volatile sig_atomic_t forked_in_handler;

static void fork_here(int sig)
{
	pid_t pid = fork();

	if (!pid) {
		held_check(&h, "child of a signal handler");
		held_write(&h, 0, 2, 91);
		held_check(&h, "child of a signal handler");
		_exit(0);
	}
	forked_in_handler = pid;
	(void)sig;
}

static void topic_sigfork(void)
{
	for (int i = 0; i < 5; i++) {
		struct sigaction sa = { .sa_handler = fork_here };
		struct itimerspec t = { .it_value.tv_nsec = 3000000 };
		struct sigevent ev = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
		timer_t timer;

		forked_in_handler = 0;
		sigaction(SIGUSR1, &sa, NULL);
		must(timer_create(CLOCK_MONOTONIC, &ev, &timer) == 0 && timer_settime(timer, 0, &t, NULL) == 0, "timer");
		/* The signal comes in the middle of this, faults and all. */
		while (!forked_in_handler)
			held_check(&h, "while a signal comes");
		timer_delete(timer);
		ended(forked_in_handler, "child of a signal handler");
	}
	live("fork in a signal handler", 1);
}

/* --- past fork() ------------------------------------------------------------ */

static pid_t raw_clone(void)
{
	return (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, 0);
}

static pid_t raw_clone3(void)
{
	struct {
		uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
	} args = { .exit_signal = SIGCHLD };

	return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

/* Allocators know nothing of such children: what they do must not reach the parent. */
static void topic_pastfork(void)
{
	static pid_t (*const way[])(void) = { _Fork, raw_clone, raw_clone3 };
	unsigned char *mine[6], *p;

	for (int i = 0; i < 12; i++) {
		pid_t pid;

		for (int k = 0; k < 6; k++) {
			mine[k] = malloc(1 << 20);
			must(mine[k] != NULL, "malloc");
			memset(mine[k], i + k, 1 << 20);
		}
		pid = way[i % 3]();
		must(pid >= 0, "a clone");
		if (!pid) {
			for (int k = 0; k < 12; k++) {
				p = malloc((size_t)(k + 1) << 19);
				must(p != NULL, "malloc in a clone");
				memset(p, 99, (size_t)(k + 1) << 19);
				if (k % 2)
					free(p);
			}
			/* What the parent gave it may be gone, but giving it back does no harm. */
			for (int k = 0; k < 6; k += 2)
				free(mine[k]);
			syscall(SYS_exit_group, 0);
		}
		ended(pid, "a clone");
		p = malloc(3 << 20);
		memset(p, 98, 3 << 20);
		for (int k = 0; k < 6; k++) {
			for (size_t at = 0; at < 1 << 20; at += 64)
				if (mine[k][at] != (unsigned char)(i + k))
					fail("block %d has changed at %zu", k, at);
			free(mine[k]);
		}
		free(p);
		held_check(&h, "beside a clone");
		held_write(&h, (size_t)i % 5, 5, (unsigned int)i + 100);
	}
}

/* Books that parent and child shared would lose blocks here: each frees half of every pair. */
static void topic_halves(void)
{
	enum { PAIRS = 128 };
	unsigned char *block[PAIRS][2];
	pid_t pid;

	for (int i = 0; i < PAIRS; i++)
		for (int k = 0; k < 2; k++) {
			block[i][k] = malloc(1 << 20);
			must(block[i][k] != NULL, "malloc");
			memset(block[i][k], i + k, 1 << 20);
		}
	for (int who = 0; who < 2; who++) {
		pid = who ? 0 : fork();
		must(pid >= 0, "fork");
		if (pid) {
			ended(pid, "who frees the first halves");
			continue;
		}
		for (int i = 0; i < PAIRS; i++)
			free(block[i][who]);
		for (int i = 0; i < PAIRS; i++)
			for (size_t at = 0; at < 1 << 20; at += 512)
				if (block[i][!who][at] != (unsigned char)(i + !who))
					fail("half %d of pair %d is wrong at %zu", !who, i, at);
		if (!who)
			_exit(0);
	}
}

static const struct {
	const char *name;
	void (*run)(void);
} topic[] = {
	{ "pastfork", topic_pastfork }, { "rawclose", topic_rawclose }, { "halves", topic_halves },
	{ "close", topic_close },	{ "daemon", topic_daemon },   { "nofile", topic_nofile },
	{ "chroot", topic_chroot },	{ "setuid", topic_setuid },   { "nodump", topic_nodump },
	{ "nonewprivs", topic_nonewprivs }, { "seccomp", topic_seccomp }, { "as", topic_as },
	{ "plain", topic_plain },	{ "atfork", topic_atfork },   { "sigfork", topic_sigfork },
};

int main(int argc, char **argv)
{
	app_name = "bbchild";
	if (argc > 2)
		mib = (size_t)atoi(argv[2]);
	for (size_t t = 0; argc > 1 && t < sizeof(topic) / sizeof(topic[0]); t++) {
		pid_t pid;

		if (strcmp(argv[1], topic[t].name))
			continue;
		held_new(&h, mib, 1);
		pid = fork();
		must(pid >= 0, "fork");
		if (!pid) {
			topic[t].run();
			_exit(0);
		}
		held_write(&h, 0, 4, 2);
		ended(pid, topic[t].name);
		held_check(&h, "the parent");
		printf("bbchild %s: every byte right\n", topic[t].name);
		return 0;
	}
	fprintf(stderr, "usage: bbchild TOPIC [MIB]\n");
	return 2;
}
