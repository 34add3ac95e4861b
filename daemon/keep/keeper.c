/* SPDX-License-Identifier: MIT */
/*
 * The keeper: a process that holds bbd's memory and does nothing else.
 *
 * Theory of operation
 * -------------------
 * It is a table of names and descriptors behind a Unix socket. It never maps
 * what it holds, allocates nothing after its start, and speaks to one bbd at a
 * time, whose user is its own. When that bbd's connection ends, the clock runs:
 * another bbd has keep_ms to come, then the keeper ends, and with it the last
 * descriptors of the memory.
 *
 * Whoever attacks bbd should gain nothing here: the keeper has no capabilities,
 * and its system calls are those of the loop below. It shares bbd's session at
 * the start and leaves it, so that a terminal's or a service manager's signals
 * to bbd do not end both. SIGTERM ends it: that is how somebody who wants the
 * memory back at once says so.
 */
#include "keep/keep_msg.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"

#define FIRST_MS 30000u	 /* bbd forked us: it comes at once, or it has died */
#define GREET_MS 5000u	 /* from a connect to TAKE */
#define TICK_MS 10000

struct kept {
	char name[BB_KEEP_NAME];
	int fd;
};

static struct {
	struct kept *tab;
	unsigned int n, max;
	int listener, client, caller; /* caller: has not said TAKE yet */
	uint64_t caller_since, alone_since;
	uint32_t keep_ms;
	struct stat own; /* the socket's file, which may be another's by the end */
	char path[128];
} k;

int bb_keep_send(int sock, const void *data, uint32_t len, const int *fds, unsigned int nfds)
{
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(BB_KEEP_BATCH * sizeof(int))];
	} c = { 0 };
	struct iovec iov = { (void *)data, len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (nfds) {
		m.msg_control = c.buf;
		m.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c.h.cmsg_level = SOL_SOCKET;
		c.h.cmsg_type = SCM_RIGHTS;
		c.h.cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(&c.h), fds, nfds * sizeof(int));
	}
	do {
		n = sendmsg(sock, &m, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

int bb_keep_recv(int sock, void *data, uint32_t len, int *fds, unsigned int *nfds)
{
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(BB_KEEP_BATCH * sizeof(int))];
	} c;
	struct iovec iov = { data, len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = c.buf };
	const unsigned int room = *nfds;
	ssize_t n;

	*nfds = 0;
	m.msg_controllen = room ? CMSG_SPACE(room * sizeof(int)) : 0;
	do {
		n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		*nfds = (unsigned int)((h->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		if (*nfds > room)
			*nfds = room;
		memcpy(fds, CMSG_DATA(h), *nfds * sizeof(int));
	}
	if (m.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) {
		while (*nfds)
			close(fds[--*nfds]);
		return m.msg_flags & MSG_CTRUNC ? -EMFILE : -EMSGSIZE;
	}
	return (int)n;
}

/* --- the table ------------------------------------------------------------ */

static struct kept *find(const char *name)
{
	for (unsigned int i = 0; i < k.n; i++)
		if (!strcmp(k.tab[i].name, name))
			return &k.tab[i];
	return NULL;
}

/* Takes the descriptor. Return: 0 or -errno. */
static int put(const char *name, int fd)
{
	struct kept *e = find(name);

	if (fd < 0)
		return -EBADF;
	if (e) {
		close(e->fd);
		e->fd = fd;
		return 0;
	}
	if (k.n == k.max) {
		close(fd);
		return -ENFILE;
	}
	e = &k.tab[k.n++];
	memcpy(e->name, name, BB_KEEP_NAME);
	e->fd = fd;
	return 0;
}

static int drop(const char *name)
{
	struct kept *e = find(name);

	if (!e)
		return -ENOENT;
	close(e->fd);
	*e = k.tab[--k.n];
	return 0;
}

/* --- one connection ------------------------------------------------------- */

static int answer(int sock, int status, uint32_t value, int fd)
{
	const struct bb_keep_msg m = {
		.magic = BB_KEEP_MAGIC,
		.version = BB_KEEP_VERSION,
		.status = status,
		.value = value,
		.pid = (uint32_t)getpid(),
	};

	return bb_keep_send(sock, &m, sizeof(m), &fd, fd >= 0);
}

static int hand_over(int sock)
{
	char names[BB_KEEP_BATCH][BB_KEEP_NAME];
	int fds[BB_KEEP_BATCH], r;
	unsigned int i, n;

	r = answer(sock, 0, k.n, -1);
	for (i = 0; i < k.n && !r; i += n) {
		for (n = 0; n < BB_KEEP_BATCH && i + n < k.n; n++) {
			memcpy(names[n], k.tab[i + n].name, BB_KEEP_NAME);
			fds[n] = k.tab[i + n].fd;
		}
		r = bb_keep_send(sock, names, n * BB_KEEP_NAME, fds, n);
	}
	return r;
}

static void remove_socket(void)
{
	struct stat st;

	if (!lstat(k.path, &st) && st.st_dev == k.own.st_dev && st.st_ino == k.own.st_ino)
		unlink(k.path);
}

/* One request. Return: false where the connection is over. */
static bool serve(int sock, bool known)
{
	struct bb_keep_msg m;
	unsigned int nfds = 1;
	int fd = -1, n = bb_keep_recv(sock, &m, sizeof(m), &fd, &nfds);
	bool ok;

	if (!nfds)
		fd = -1;
	m.name[BB_KEEP_NAME - 1] = 0;
	ok = n == sizeof(m) && m.magic == BB_KEEP_MAGIC && m.version == BB_KEEP_VERSION;
	if (!ok || (m.op != BB_KEEP_PUT && fd >= 0)) {
		if (fd >= 0)
			close(fd);
		if (n == sizeof(m) && m.magic == BB_KEEP_MAGIC)
			answer(sock, -EPROTONOSUPPORT, 0, -1);
		return n == -EMFILE ? !answer(sock, n, 0, -1) : false;
	}
	if (!known) {
		if (m.op != BB_KEEP_TAKE || k.client >= 0) {
			answer(sock, k.client >= 0 ? -EBUSY : -EPROTO, 0, -1);
			return false;
		}
		k.keep_ms = m.value;
		return !hand_over(sock);
	}
	switch (m.op) {
	case BB_KEEP_PUT:
		return !answer(sock, m.name[0] ? put(m.name, fd) : -EINVAL, 0, -1);
	case BB_KEEP_GET: {
		const struct kept *e = find(m.name);

		return !answer(sock, e ? 0 : -ENOENT, 0, e ? e->fd : -1);
	}
	case BB_KEEP_DROP:
		return !answer(sock, drop(m.name), 0, -1);
	case BB_KEEP_END:
		remove_socket(); /* before anybody may expect that it has gone */
		answer(sock, 0, 0, -1);
		_exit(0);
	default:
		return !answer(sock, -EOPNOTSUPP, 0, -1);
	}
}

static void welcome(void)
{
	const struct timeval limit = { .tv_sec = BB_KEEP_ANSWER_MS / 1000 };
	int sock = accept4(k.listener, NULL, NULL, SOCK_CLOEXEC);
	socklen_t len = sizeof(struct ucred);
	struct ucred who;

	if (sock < 0)
		return;
	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &who, &len) || who.uid != geteuid() ||
	    setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) ||
	    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit))) {
		close(sock);
		return;
	}
	if (k.caller >= 0)
		close(k.caller);
	k.caller = sock;
	k.caller_since = bb_now_ns();
}

/* Until the next deadline, in milliseconds for poll(2). */
static int patience(uint64_t now)
{
	uint64_t until = now + TICK_MS * 1000000ULL, at;

	if (k.client < 0) {
		at = k.alone_since + k.keep_ms * 1000000ULL;
		if (at < until)
			until = at;
	}
	if (k.caller >= 0) {
		at = k.caller_since + GREET_MS * 1000000ULL;
		if (at < until)
			until = at;
	}
	return until > now ? (int)((until - now) / 1000000 + 1) : 0;
}

static void hang_up(int *sock)
{
	close(*sock);
	*sock = -1;
}

static __attribute__((noreturn)) void loop(void)
{
	for (;;) {
		struct pollfd p[3] = {
			{ .fd = k.listener, .events = POLLIN },
			{ .fd = k.client, .events = POLLIN },
			{ .fd = k.caller, .events = POLLIN },
		};
		uint64_t now = bb_now_ns();

		poll(p, 3, patience(now));
		now = bb_now_ns();
		if (k.client >= 0 && p[1].revents && !serve(k.client, true)) {
			hang_up(&k.client);
			k.alone_since = bb_now_ns();
		}
		if (k.caller >= 0 && p[2].revents) {
			if (serve(k.caller, false)) {
				k.client = k.caller;
				k.caller = -1;
			} else {
				hang_up(&k.caller);
			}
		} else if (k.caller >= 0 && now - k.caller_since >= GREET_MS * 1000000ULL) {
			hang_up(&k.caller);
		}
		if (p[0].revents)
			welcome();
		if (k.client < 0 && k.caller < 0 && now >= k.alone_since &&
		    now - k.alone_since >= k.keep_ms * 1000000ULL) {
			remove_socket();
			_exit(0); /* and the memory goes */
		}
	}
}

/* --- rights --------------------------------------------------------------- */

static void drop_capabilities(void)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	const struct __user_cap_data_struct none[2] = { 0 };

	for (int cap = 0; cap <= 63; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0))
			break; /* the last one, or not ours to drop */
	syscall(SYS_capset, &h, none);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
/* A sanitizer's run-time makes calls of its own. */
static void filter_calls(void)
{
}
#else
#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#endif

static void filter_calls(void)
{
#ifdef ARCH
	static const int allowed[] = {
		SYS_ppoll, SYS_accept4, SYS_recvmsg, SYS_sendmsg, SYS_close, SYS_getsockopt, SYS_setsockopt,
		SYS_geteuid, SYS_getpid, SYS_clock_gettime, SYS_newfstatat, SYS_unlinkat, SYS_exit, SYS_exit_group,
		SYS_rt_sigreturn, SYS_restart_syscall,
#ifdef SYS_poll
		SYS_poll, SYS_lstat, SYS_unlink,
#endif
	};
	enum { N = sizeof(allowed) / sizeof(allowed[0]) };
	struct sock_filter f[N + 6];
	struct sock_fprog prog = { .len = N + 6, .filter = f };
	unsigned int i = 0;

	f[i++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
	f[i++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0);
	f[i++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	f[i++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (unsigned int c = 0; c < N; c++)
		f[i++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)allowed[c],
						      (uint8_t)(N - c), 0);
	f[i++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	f[i++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
#endif
}
#endif

void bb_keeper_run(int listener, const char *path)
{
	struct rlimit r;
	size_t len = strlen(path);

	prctl(PR_SET_NAME, "bbd-keeper");
	k.listener = listener;
	k.client = k.caller = -1;
	k.keep_ms = FIRST_MS;
	k.alone_since = bb_now_ns();
	k.max = 1024;
	if (!getrlimit(RLIMIT_NOFILE, &r))
		k.max = r.rlim_cur > BB_KEEP_NAMES_MAX ? BB_KEEP_NAMES_MAX : (unsigned int)r.rlim_cur;
	k.max = k.max > 16 ? k.max - 16 : 0; /* sockets, and what a message brings */
	k.tab = mmap(NULL, (size_t)BB_KEEP_NAMES_MAX * sizeof(*k.tab), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (k.tab == MAP_FAILED || len >= sizeof(k.path) || lstat(path, &k.own))
		_exit(1);
	memcpy(k.path, path, len + 1);
	drop_capabilities();
	filter_calls();
	loop();
}
