/* SPDX-License-Identifier: MIT */
/*
 * Where the kernel reads or writes little at a time: directory entries, futex
 * words, paths, structures, argument vectors. Part of bbkernel.c.
 */
#ifndef BB_TESTS_BBKERNEL_SMALL_H
#define BB_TESTS_BBKERNEL_SMALL_H

#include <dirent.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>

static const char *getdents(void)
{
	char here[32768] __attribute__((aligned(8))), *there = dst + 8;
	int fd = open("/usr/bin", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long a, b;

	if (fd < 0)
		return "/usr/bin cannot be read";
	memset(here, 0, sizeof(here));
	memset(there, 0, sizeof(here));
	a = syscall(SYS_getdents64, fd, here, sizeof(here));
	CHECK(a > 0 && lseek(fd, 0, SEEK_SET) == 0);
	evict();
	b = syscall(SYS_getdents64, fd, there, sizeof(here));
	CHECK(a == b);
	evict();
	/* What lies between a name's end and the next entry the kernel leaves as it was. */
	for (long i = 0; i < a;) {
		const struct dirent64 *x = (const struct dirent64 *)(const void *)(here + i);
		const struct dirent64 *y = (const struct dirent64 *)(const void *)(there + i);

		CHECK(x->d_ino == y->d_ino && x->d_reclen == y->d_reclen && !strcmp(x->d_name, y->d_name));
		i += x->d_reclen;
	}
	close(fd);
	return NULL;
}

static void *futex_wait(void *arg)
{
	_Atomic uint32_t *word = arg;
	struct timespec limit = {.tv_sec = 20};

	while (atomic_load(word) == 1) {
		long ret = syscall(SYS_futex, word, FUTEX_WAIT, 1, &limit, NULL, 0);

		CHECK(ret == 0 || errno == EAGAIN || errno == EINTR);
	}
	return (void *)(uintptr_t)atomic_load(word);
}

static const char *futexes(void)
{
	_Atomic uint32_t *word = (_Atomic uint32_t *)(void *)(src + 5 * PAGE + 64);
	struct timespec nap = {.tv_nsec = 20000000};
	pthread_t thread;
	void *value;

	atomic_store(word, 1);
	evict();
	CHECK(pthread_create(&thread, NULL, futex_wait, word) == 0);
	nanosleep(&nap, NULL);
	evict();
	atomic_store(word, 42);
	evict();
	CHECK(syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0) >= 0);
	CHECK(pthread_join(thread, &value) == 0 && (uintptr_t)value == 42);
	return NULL;
}

static const char *random_bytes(void)
{
	size_t n = 64 * PAGE;

	memset(dst, 0, n);
	evict();
	for (size_t got = 0; got < n;) {
		ssize_t k = getrandom(dst + got, n - got, 0);

		CHECK(k > 0);
		got += (size_t)k;
	}
	evict();
	for (size_t i = 0; i < n; i += 64) {
		static const char zeros[64];

		CHECK(memcmp(dst + i, zeros, 64));
	}
	return NULL;
}

/* Paths, small structures and lists of descriptors. */
static const char *small_things(void)
{
	struct stat st, *remote = (struct stat *)(void *)(dst + 2 * PAGE);
	struct utsname name, *rname = (struct utsname *)(void *)(dst + 6 * PAGE - 100);
	struct pollfd *pfd = (struct pollfd *)(void *)(dst + 9 * PAGE);
	struct epoll_event *ev = (struct epoll_event *)(void *)(dst + 12 * PAGE);
	sigset_t *set = (sigset_t *)(void *)(dst + 14 * PAGE), *old = (sigset_t *)(void *)(dst + 16 * PAGE);
	char *path = src + 3 * PAGE - 4, here[PATH_MAX];
	int p[2], fd, ep;

	strcpy(path, "/proc/self/exe");
	CHECK(stat("/proc/self/exe", &st) == 0);
	evict();
	CHECK(stat(path, remote) == 0 && remote->st_ino == st.st_ino && remote->st_size == st.st_size);
	evict();
	fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0 && fstat(fd, remote) == 0 && remote->st_ino == st.st_ino);
	close(fd);
	evict();
	CHECK(uname(&name) == 0 && uname(rname) == 0 && !strcmp(name.release, rname->release));
	CHECK(getcwd(here, sizeof(here)));
	evict();
	CHECK(getcwd(dst + 4 * PAGE - 3, PATH_MAX) && !strcmp(dst + 4 * PAGE - 3, here));
	CHECK(pipe2(p, O_CLOEXEC) == 0 && write(p[1], "x", 1) == 1);
	pfd[0] = (struct pollfd){.fd = p[0], .events = POLLIN};
	evict();
	CHECK(poll(pfd, 1, 1000) == 1 && pfd[0].revents == POLLIN);
	ep = epoll_create1(EPOLL_CLOEXEC);
	*ev = (struct epoll_event){.events = EPOLLIN, .data = {.u64 = 4711}};
	evict();
	CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, p[0], ev) == 0);
	memset(ev, 0, sizeof(*ev));
	evict();
	CHECK(epoll_wait(ep, ev, 1, 1000) == 1 && ev->events == EPOLLIN && ev->data.u64 == 4711);
	close(ep);
	close(p[0]);
	close(p[1]);
	sigemptyset(set);
	sigaddset(set, SIGUSR2);
	evict();
	CHECK(sigprocmask(SIG_BLOCK, set, NULL) == 0);
	evict();
	CHECK(sigprocmask(SIG_UNBLOCK, set, old) == 0 && sigismember(old, SIGUSR2) == 1);
	return NULL;
}

/* Arguments and environment of a program that is started. */
static const char *exec_args(void)
{
	char **argv = (char **)(void *)(src + 7 * PAGE - 8), **env = (char **)(void *)(src + 20 * PAGE - 8);
	char *text = src + 32 * PAGE - 5, got[64] = "";
	int p[2], status;
	ssize_t k;
	pid_t pid;

	strcpy(text, "/bin/sh");
	strcpy(text + PAGE, "-c");
	strcpy(text + 2 * PAGE, "echo $1 $BBK");
	strcpy(text + 3 * PAGE, "argument");
	strcpy(text + 4 * PAGE, "BBK=environment");
	for (unsigned int i = 0; i < 3; i++)
		argv[i] = text + i * PAGE;
	argv[3] = text;
	argv[4] = text + 3 * PAGE;
	argv[5] = NULL;
	env[0] = text + 4 * PAGE;
	env[1] = NULL;
	CHECK(pipe2(p, O_CLOEXEC) == 0);
	evict();
	pid = vfork();
	if (!pid) {
		dup2(p[1], 1);
		execve(text, argv, env);
		_exit(127);
	}
	CHECK(pid > 0);
	close(p[1]);
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	k = read(p[0], got, sizeof(got) - 1);
	CHECK(k > 0 && !strcmp(got, "argument environment\n"));
	close(p[0]);
	return NULL;
}

#endif
