/* SPDX-License-Identifier: MIT */
/*
 * bbd's side of the keeper: takes over what a predecessor left, starts a keeper
 * where there is none, and tells it of every new memfd before bbd uses it.
 *
 * A keeper that dies is noticed at the next word to it. bbd then goes on with
 * the memory that it has and says once that it would not outlive bbd any more.
 *
 * Lock order: one mutex, around a request and its answer, and the list of names.
 */
#include "keep/keep.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "keep/keep_msg.h"
#include "log.h"

/* The keeper learns of its bbd's death when the kernel has taken that apart. */
#define BUSY_NS 10000000000ULL
#define BUSY_STEP_US 20000

struct name {
	char name[BB_KEEP_NAME];
	int fd; /* of the predecessor, not asked for yet; else -1 */
};

struct bb_keep {
	unsigned int ms;
	_Atomic int pid;
	_Atomic bool gone; /* the keeper */
	pthread_mutex_t lock;
	int sock; /* -1: no keeper */
	struct name *tab;
	unsigned int n, cap;
};

/* --- names ------------------------------------------------------------------ */

static struct name *find(struct bb_keep *k, const char *name)
{
	for (unsigned int i = 0; i < k->n; i++)
		if (!strcmp(k->tab[i].name, name))
			return &k->tab[i];
	return NULL;
}

static int add(struct bb_keep *k, const char *name, int fd)
{
	struct name *t = find(k, name);

	if (!t && k->n == k->cap) {
		unsigned int cap = k->cap ? 2 * k->cap : 64;

		t = reallocarray(k->tab, cap, sizeof(*t));
		if (!t)
			return -ENOMEM;
		k->tab = t;
		k->cap = cap;
		t = NULL;
	}
	if (!t)
		t = &k->tab[k->n++];
	else if (t->fd >= 0)
		close(t->fd);
	memset(t->name, 0, sizeof(t->name));
	memcpy(t->name, name, strlen(name));
	t->fd = fd;
	return 0;
}

static void take_out(struct bb_keep *k, struct name *t)
{
	if (t->fd >= 0)
		close(t->fd);
	*t = k->tab[--k->n];
}

static bool good_name(const char *name)
{
	size_t len = strlen(name);

	return len && len < BB_KEEP_NAME;
}

/* --- talking ---------------------------------------------------------------- */

static void keeper_gone(struct bb_keep *k, int error)
{
	if (k->sock >= 0)
		close(k->sock);
	k->sock = -1;
	if (!atomic_exchange(&k->gone, true))
		bb_warn("the keeper (process %d) does not answer (%s): memory would not outlive this bbd any more; start bbd "
			"again when nothing is attached", atomic_load(&k->pid), strerrordesc_np(error ? error : EPIPE));
}

/*
 * One request. fd goes along where it is not negative; *back is what came with
 * the answer. Lock held. Return: what the keeper says, or -EPIPE where it has gone.
 */
static int ask(struct bb_keep *k, enum bb_keep_op op, const char *name, int fd, int *back)
{
	struct bb_keep_msg m = { .magic = BB_KEEP_MAGIC, .version = BB_KEEP_VERSION, .op = (uint16_t)op };
	unsigned int nfds = back ? 1 : 0;
	int r;

	if (k->sock < 0)
		return -EPIPE;
	if (name)
		memcpy(m.name, name, strlen(name));
	r = bb_keep_send(k->sock, &m, sizeof(m), &fd, fd >= 0);
	/* A descriptor that may not be sent just now says nothing about the keeper. */
	if (r == -ETOOMANYREFS || r == -EBADF || r == -ENOMEM || r == -ENOBUFS)
		return r;
	if (!r) {
		r = bb_keep_recv(k->sock, &m, sizeof(m), back, &nfds);
		if (back && !nfds)
			*back = -1;
		if (r == sizeof(m) && m.magic == BB_KEEP_MAGIC)
			return m.status;
	}
	keeper_gone(k, r < 0 ? -r : 0);
	return -EPIPE;
}

/* --- beginning -------------------------------------------------------------- */

static int dial(const char *path)
{
	const struct timeval limit = { .tv_sec = BB_KEEP_ANSWER_MS / 1000 };
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), r;

	if (sock < 0)
		return -errno;
	memcpy(un.sun_path, path, strlen(path) + 1);
	if (setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) ||
	    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) ||
	    connect(sock, (struct sockaddr *)&un, sizeof(un))) {
		r = -errno;
		close(sock);
		return r;
	}
	return sock;
}

/* What the keeper sends after its answer to TAKE. */
static int take_batches(struct bb_keep *k, uint32_t total)
{
	char names[BB_KEEP_BATCH][BB_KEEP_NAME];
	int fds[BB_KEEP_BATCH], r;

	while (k->n < total) {
		unsigned int nfds = BB_KEEP_BATCH;

		r = bb_keep_recv(k->sock, names, sizeof(names), fds, &nfds);
		if (r <= 0 || !nfds || (unsigned int)r != nfds * BB_KEEP_NAME)
			return r < 0 ? r : -EPROTO;
		for (unsigned int i = 0; i < nfds; i++) {
			names[i][BB_KEEP_NAME - 1] = 0;
			r = add(k, names[i], fds[i]);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

/* Return: 0; -errno. */
static int take(struct bb_keep *k, const char *path)
{
	struct bb_keep_msg m = {
		.magic = BB_KEEP_MAGIC, .version = BB_KEEP_VERSION, .op = BB_KEEP_TAKE, .value = k->ms
	};
	unsigned int nfds = 0;
	int r;

	k->sock = dial(path);
	if (k->sock < 0)
		return k->sock;
	r = bb_keep_send(k->sock, &m, sizeof(m), NULL, 0);
	if (!r)
		r = bb_keep_recv(k->sock, &m, sizeof(m), NULL, &nfds);
	if (r == sizeof(m)) {
		r = m.magic != BB_KEEP_MAGIC ? -EPROTO : m.status;
		atomic_store(&k->pid, (int)m.pid);
	} else if (r >= 0) {
		r = -EPIPE;
	}
	if (!r)
		r = take_batches(k, m.value);
	if (r < 0) {
		close(k->sock);
		k->sock = -1;
		while (k->n)
			take_out(k, &k->tab[k->n - 1]);
	}
	return r;
}

static int bind_socket(const char *path)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), r;

	if (sock < 0)
		return -errno;
	memcpy(un.sun_path, path, strlen(path) + 1);
	/* Its file has the mode of the socket: there is no moment when others may connect. */
	if (fchmod(sock, 0600) || bind(sock, (struct sockaddr *)&un, sizeof(un)) || listen(sock, 8)) {
		r = -errno;
		close(sock);
		return r;
	}
	return sock;
}

/* In the child: nothing of bbd's stays open but the listener. Never returns. */
static void become_keeper(int listener, const char *path)
{
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	sigset_t none;
	int null;

	for (int s = 1; s < NSIG; s++)
		sigaction(s, &dfl, NULL);
	dfl.sa_handler = SIG_IGN;
	sigaction(SIGINT, &dfl, NULL);
	sigaction(SIGHUP, &dfl, NULL);
	sigaction(SIGPIPE, &dfl, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	/* The directory stays: the socket's path may begin there. */
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	listener = fcntl(listener, F_DUPFD_CLOEXEC, 3);
	if (null < 0 || listener < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0)
		_exit(1);
	if (listener != 3 && dup2(listener, 3) < 0)
		_exit(1);
	close_range(4, ~0U, 0);
	bb_keeper_run(3, path);
}

static int start(struct bb_keep *k, const char *path)
{
	int listener = bind_socket(path), status;
	pid_t pid;

	if (listener < 0)
		return listener;
	/* A grandchild: it is nobody's zombie when it ends. */
	pid = fork();
	if (pid == 0) {
		pid = fork();
		if (pid == 0)
			become_keeper(listener, path);
		_exit(pid < 0);
	}
	close(listener);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (pid < 0 || !WIFEXITED(status) || WEXITSTATUS(status)) {
		unlink(path);
		return -EAGAIN;
	}
	return take(k, path);
}

int bb_keep_open(struct bb_keep **out, const char *path, unsigned int keep_ms)
{
	char at[sizeof(((struct sockaddr_un *)0)->sun_path)];
	const uint64_t end = bb_now_ns() + BUSY_NS;
	struct bb_keep *k = calloc(1, sizeof(*k));
	struct stat st;
	int r;

	if (!k) {
		bb_error("cannot keep memory (%s)", strerrordesc_np(ENOMEM));
		return -ENOMEM;
	}
	pthread_mutex_init(&k->lock, NULL);
	k->ms = keep_ms;
	k->sock = -1;
	*out = k;
	r = bb_format(at, sizeof(at), "%s.keep", path);
	if (r < 0 || (size_t)r >= sizeof(at)) {
		if (keep_ms)
			bb_warn("socket %s: the path is too long to put a keeper's socket beside it: memory does not outlive "
				"this bbd", path);
		return 0;
	}
	/* One that we would not start may still hold a predecessor's memory. */
	while (((r = take(k, at)) == -EBUSY || r == -EPIPE || r == -ECONNRESET) && bb_now_ns() < end)
		usleep(BUSY_STEP_US); /* its bbd, or the keeper itself, is ending in this moment */
	if (!r)
		return 0;
	if (r == -ECONNREFUSED && !lstat(at, &st) && S_ISSOCK(st.st_mode) && !unlink(at))
		r = -ENOENT; /* of a keeper that was killed */
	if (r != -ENOENT) {
		bb_error("keeper at %s: %s%s", at, strerrordesc_np(-r),
			 r == -EMFILE ? "; it holds more descriptors than this bbd may have: raise the limit (LimitNOFILE=, "
					"ulimit -n)" :
			 r == -EBUSY  ? "; another bbd uses it" :
					"; if its memory may go, end the process bbd-keeper");
		bb_keep_close(k, true);
		*out = NULL;
		return r;
	}
	if (!keep_ms)
		return 0;
	r = start(k, at);
	if (r < 0)
		bb_warn("cannot start a keeper at %s (%s): memory does not outlive this bbd", at, strerrordesc_np(-r));
	return 0;
}

void bb_keep_close(struct bb_keep *k, bool leave)
{
	if (!k)
		return;
	pthread_mutex_lock(&k->lock);
	if (!leave)
		ask(k, BB_KEEP_END, NULL, -1, NULL);
	if (k->sock >= 0)
		close(k->sock);
	while (k->n)
		take_out(k, &k->tab[k->n - 1]);
	pthread_mutex_unlock(&k->lock);
	pthread_mutex_destroy(&k->lock);
	free(k->tab);
	free(k);
}

/* --- while it lives --------------------------------------------------------- */

unsigned int bb_keep_ms(const struct bb_keep *k)
{
	return k && atomic_load(&k->pid) && !atomic_load(&k->gone) ? k->ms : 0;
}

int bb_keep_pid(const struct bb_keep *k)
{
	return k && !atomic_load(&k->gone) ? atomic_load(&k->pid) : 0;
}

void bb_keep_check(struct bb_keep *k)
{
	char byte;
	ssize_t n;

	if (!k || pthread_mutex_trylock(&k->lock))
		return;
	if (k->sock >= 0) {
		n = recv(k->sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
		if (!n || (n < 0 && errno != EAGAIN && errno != EINTR))
			keeper_gone(k, n < 0 ? errno : 0);
	}
	pthread_mutex_unlock(&k->lock);
}

static int new_memory(const char *name, uint64_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING), r;

	if (fd < 0)
		return -errno;
	/* Nobody, not even by mistake, may make a mapping reach beyond its end. */
	if (ftruncate(fd, (off_t)size) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

/* Lock held. Return: 0, also where the keeper has gone; -errno where it will not have it. */
static int put(struct bb_keep *k, const char *name, int fd)
{
	int r;

	if (k->sock < 0)
		return 0;
	r = add(k, name, -1); /* room first: what the keeper has must be in the list */
	if (r < 0)
		return r;
	r = ask(k, BB_KEEP_PUT, name, fd, NULL);
	if (r == -EPIPE)
		return 0;
	if (r < 0)
		take_out(k, find(k, name));
	return r;
}

/* The predecessor's, or what was put before. Lock held. Return: fd or -errno. */
static int get(struct bb_keep *k, const char *name)
{
	struct name *t = find(k, name);
	int fd = -1, r;

	if (!t)
		return -ENOENT;
	if (t->fd >= 0) {
		fd = t->fd;
		t->fd = -1;
		return fd;
	}
	r = ask(k, BB_KEEP_GET, name, -1, &fd);
	return r < 0 ? r : fd >= 0 ? fd : -ENOENT;
}

int bb_keep_memory(struct bb_keep *k, const char *name, uint64_t size, bool *found)
{
	struct stat st;
	int fd, r;

	*found = false;
	if (!good_name(name))
		return -EINVAL;
	if (!k)
		return new_memory(name, size);
	pthread_mutex_lock(&k->lock);
	fd = get(k, name);
	if (fd >= 0 && !fstat(fd, &st) && (uint64_t)st.st_size == size) {
		*found = true;
		goto out;
	}
	if (fd >= 0)
		close(fd);
	fd = new_memory(name, size);
	if (fd < 0)
		goto out;
	r = put(k, name, fd);
	if (r < 0) {
		close(fd);
		fd = r;
	}
out:
	pthread_mutex_unlock(&k->lock);
	return fd;
}

int bb_keep_put(struct bb_keep *k, const char *name, int fd)
{
	int r;

	if (!good_name(name))
		return -EINVAL;
	if (!k)
		return 0;
	pthread_mutex_lock(&k->lock);
	r = put(k, name, fd);
	pthread_mutex_unlock(&k->lock);
	return r;
}

int bb_keep_get(struct bb_keep *k, const char *name)
{
	int fd;

	if (!k)
		return -ENOENT;
	pthread_mutex_lock(&k->lock);
	fd = get(k, name);
	pthread_mutex_unlock(&k->lock);
	return fd == -EPIPE ? -ENOENT : fd;
}

void bb_keep_drop(struct bb_keep *k, const char *name)
{
	struct name *t;

	if (!k)
		return;
	pthread_mutex_lock(&k->lock);
	t = find(k, name);
	if (t) {
		ask(k, BB_KEEP_DROP, name, -1, NULL);
		take_out(k, t);
	}
	pthread_mutex_unlock(&k->lock);
}

unsigned int bb_keep_list(struct bb_keep *k, const char *prefix, char (*names)[BB_KEEP_NAME], unsigned int max)
{
	unsigned int n = 0;

	if (!k)
		return 0;
	pthread_mutex_lock(&k->lock);
	for (unsigned int i = 0; i < k->n; i++) {
		if (strncmp(k->tab[i].name, prefix, strlen(prefix)))
			continue;
		if (n < max)
			memcpy(names[n], k->tab[i].name, BB_KEEP_NAME);
		n++;
	}
	pthread_mutex_unlock(&k->lock);
	return n;
}
