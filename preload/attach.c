/* SPDX-License-Identifier: MIT */
/*
 * Asking bbd to page for this program: opens a userfaultfd, moves the region's
 * books into a shared memfd, and hands both over. Happens once, when the
 * program first outgrows its budget. Whatever is missing, the program runs on
 * in local memory and one warning says how to mend it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <bluebridge/kernel.h>
#include <bluebridge/local.h>

#include "clock.h"
#include "fds.h"
#include "log.h"
#include "private.h"

#define WANTED (UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_MOVE | UFFD_FEATURE_POISON)
#define STAGING_PAGES 64
#define SLOTS_MIN 256u
#define SLOTS_MAX 4096u
#define KEEPER ".keep" /* beside bbd's socket: see daemon/keep/ */
#define FIRST_WAIT_NS 5000000000ULL

extern char *program_invocation_short_name;

/* --- userfaultfd ---------------------------------------------------------- */

/*
 * The device stays open (hidden): who gives up root, and forks then, could not
 * open it again, and its child's system calls would fail on paged memory.
 */
static int uffd_open(struct bb_region *g)
{
	int fd;

	g->user_only = false;
	if (g->uffd_dev < 0) {
		g->uffd_dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
		fd = g->uffd_dev < 0 ? -1 : bb_fd_hide(g->uffd_dev);
		if (fd >= 0)
			g->uffd_dev = fd;
	}
	if (g->uffd_dev >= 0) {
		fd = ioctl(g->uffd_dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		if (fd >= 0)
			return fd;
	}
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0)
		return fd;
	if (errno != EPERM)
		return -errno;
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (fd < 0)
		return -errno;
	g->user_only = true;
	return fd;
}

/* A userfaultfd takes its features once: one to ask with, one to keep. */
static int uffd_new(struct bb_region *g)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd, r;

	fd = uffd_open(g);
	if (fd < 0)
		return fd;
	r = ioctl(fd, UFFDIO_API, &api) < 0 ? -errno : 0;
	close(fd);
	if (r < 0)
		return r;
	g->features = api.features & WANTED;
	if (g->as_old)
		g->features &= ~(uint64_t)(UFFD_FEATURE_MOVE | UFFD_FEATURE_POISON);
	fd = uffd_open(g);
	if (fd < 0)
		return fd;
	api.api = UFFD_API;
	api.features = g->features;
	if (ioctl(fd, UFFDIO_API, &api) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

/* --- where victims are moved to ------------------------------------------- */

static int staging_new(struct bb_region *g)
{
	struct uffdio_register r = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	size_t len = STAGING_PAGES * BB_PAGE_SIZE;
	void *p = bb_sys_mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return -ENOMEM;
	/* UFFDIO_MOVE asks that its destination is registered; nobody faults here. Copies are made into plain memory. */
	r.range.start = (uintptr_t)p;
	r.range.len = len;
	if (g->features & UFFD_FEATURE_MOVE && ioctl(g->uffd, UFFDIO_REGISTER, &r) < 0)
		return -errno;
	(void)bb_sys_madvise(p, len, MADV_DONTFORK);
	g->staging = (uintptr_t)p;
	return 0;
}

/* --- the socket ----------------------------------------------------------- */

static int dial(const char *path)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	struct timeval tv = { .tv_sec = 5 };
	int fd, r;

	if (strlen(path) >= sizeof(un.sun_path))
		return -ENAMETOOLONG;
	memcpy(un.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	if (connect(fd, (struct sockaddr *)&un, sizeof(un)) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

bool bb_attach_retry(int error)
{
	switch (error) {
	case -ECONNREFUSED:
	case -ECONNRESET:
	case -ECONNABORTED:
	case -EPIPE:
	case -ENOENT:
	case -EAGAIN:
	case -ETIMEDOUT:
	case -EINTR:
		return true;
	default:
		return false;
	}
}

/* A bbd that is just being replaced is waited for, until the deadline. */
static int dial_until(const char *path, uint64_t deadline)
{
	struct timespec pause = { 0, 10000000 };
	int fd;

	while ((fd = dial(path)) < 0 && bb_attach_retry(fd) && bb_now_ns() < deadline)
		nanosleep(&pause, NULL);
	return fd;
}

/* A keeper waits for the next bbd: so do we, for a moment. */
static uint64_t first_deadline(const char *path)
{
	char keeper[sizeof(((struct sockaddr_un *)0)->sun_path) + 8];
	size_t n = strlen(path);

	if (n + sizeof(KEEPER) > sizeof(keeper))
		return 0;
	memcpy(keeper, path, n);
	memcpy(keeper + n, KEEPER, sizeof(KEEPER));
	return access(keeper, F_OK) == 0 ? bb_now_ns() + FIRST_WAIT_NS : 0;
}

static int send_request(int sock, const struct bb_attach_req *req, const int *fds, int nfds)
{
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(3 * sizeof(int))];
	} c = { 0 };
	struct iovec iov = { (void *)(uintptr_t)req, sizeof(*req) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (nfds) {
		m.msg_control = c.buf;
		m.msg_controllen = CMSG_SPACE((size_t)nfds * sizeof(int));
		c.h.cmsg_level = SOL_SOCKET;
		c.h.cmsg_type = SCM_RIGHTS;
		c.h.cmsg_len = CMSG_LEN((size_t)nfds * sizeof(int));
		memcpy(CMSG_DATA(&c.h), fds, (size_t)nfds * sizeof(int));
	}
	n = sendmsg(sock, &m, MSG_NOSIGNAL);
	return n < 0 ? -errno : n == sizeof(*req) ? 0 : -EIO;
}

int bb_sock_read(int sock, void *buf, size_t len)
{
	size_t have = 0;

	while (have < len) {
		ssize_t n = recv(sock, (char *)buf + have, len - have, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		if (!n)
			return -ECONNRESET;
		have += (size_t)n;
	}
	return 0;
}

/* Until the deadline, and for as long as the socket's own timeout at least. */
static int read_reply(int sock, struct bb_attach_rep *rep, uint64_t deadline)
{
	int r;

	while ((r = bb_sock_read(sock, rep, sizeof(*rep))) == -ETIMEDOUT && bb_now_ns() < deadline)
		;

	if (r < 0)
		return r;
	rep->message[sizeof(rep->message) - 1] = 0;
	if (rep->magic != BB_ATTACH_MAGIC || rep->size != sizeof(*rep))
		return -EPROTO;
	return 0;
}

static uint32_t slots_for(uint64_t budget)
{
	uint64_t want = budget ? (budget >> BB_PAGE_SHIFT) / 16 : SLOTS_MAX;
	uint32_t n = SLOTS_MIN;

	while (n < SLOTS_MAX && n * 2ULL <= want)
		n *= 2;
	return n;
}

/* sock, uffd and kick, out of the program's way. */
static int open_all(struct bb_region *g, const char *path, uint64_t deadline)
{
	const bool dialled = g->sock < 0; /* else it was handed to us, hidden */
	int r;

	if (dialled)
		g->sock = dial_until(path, deadline);
	if (g->sock < 0) {
		r = g->sock;
		bb_warn("no bbd answers at %s (%s): large memory stays local; start bbd there, or run under bbrun", path,
			strerrordesc_np(-r));
		return r;
	}
	g->uffd = uffd_new(g);
	if (g->uffd < 0) {
		r = g->uffd;
		bb_warn("userfaultfd is not allowed here (%s): large memory stays local; "
			"allow it with: chmod 666 /dev/userfaultfd, or sysctl vm.unprivileged_userfaultfd=1",
			strerrordesc_np(-r));
		return r;
	}
	if (g->user_only)
		bb_warn("userfaultfd only for faults of user space: system calls on remote memory will fail with EFAULT; "
			"allow all with: chmod 666 /dev/userfaultfd, or sysctl vm.unprivileged_userfaultfd=1");
	g->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (g->kick < 0) {
		r = -errno;
		bb_warn("cannot share the page table with bbd (%s): large memory stays local", strerrordesc_np(-r));
		return r;
	}
	if (dialled)
		g->sock = bb_fd_hide(g->sock);
	g->uffd = bb_fd_hide(g->uffd);
	g->kick = bb_fd_hide(g->kick);
	return 0;
}

static void close_all(struct bb_region *g)
{
	bb_fd_close(g->sock);
	bb_fd_close(g->uffd);
	bb_fd_close(g->memfd);
	bb_fd_close(g->kick);
	g->sock = g->uffd = g->memfd = g->kick = -1;
}

/*
 * Whoever attaches again does not hang up while bbd may still answer: bbd would
 * take that for the program's end, and free its memory.
 * Return: 0; -errno, with bbd's own words in *rep where it has any.
 */
static int introduce(struct bb_region *g, uint32_t flags, struct bb_attach_rep *rep)
{
	uint64_t deadline = flags & BB_ATTACH_AGAIN ? bb_now_ns() + g->keep_ms * 1000000ULL : 0;
	struct bb_attach_req req = {
		.magic = BB_ATTACH_MAGIC,
		.size = sizeof(req),
		.flags = flags,
		.pid = (uint32_t)getpid(),
		.budget = g->budget,
		.uffd_features = g->features,
		.user_mode_only = g->user_only,
		.staging_pages = g->nslots,
		.region = g->id,
		.secret = { g->secret[0], g->secret[1] },
		.no_prefetch = !bb_opts.num[BB_OPT_PREFETCH],
	};
	const char *place = bb_opts.str[BB_OPT_PLACE];
	int fds[3] = { g->uffd, g->memfd, g->kick }, r;

	if (place && !strcmp(place, "local")) {
		req.place = BB_PLACE_LOCAL;
	} else if (place && *place >= '0' && *place <= '9') {
		req.place = BB_PLACE_NODE;
		req.place_node = (uint16_t)strtoul(place, NULL, 10);
	}
	strncpy(req.comm, program_invocation_short_name ? program_invocation_short_name : "?", sizeof(req.comm) - 1);
	memset(rep, 0, sizeof(*rep));
	r = send_request(g->sock, &req, fds, 3);
	if (r == 0)
		r = read_reply(g->sock, rep, deadline);
	if (r == 0)
		r = rep->error;
	if (r < 0)
		return r;
	g->budget = rep->budget;
	g->id = rep->region;
	g->secret[0] = rep->secret[0];
	g->secret[1] = rep->secret[1];
	g->keep_ms = rep->keep_ms;
	g->local_limit = (int64_t)(rep->budget >> BB_PAGE_SHIFT) - g->nslots;
	return 0;
}

static void say_refused(const char *path, int r, const struct bb_attach_rep *rep)
{
	bb_warn("bbd at %s refused (%s): large memory stays local", path,
		rep->message[0] ? rep->message : strerrordesc_np(-r));
}

/* The lock is held: what making a thread allocates goes past us. */
static int helper_new(void)
{
	int r = bb_evict_start();

	if (r == -EOPNOTSUPP)
		bb_warn("this kernel can neither move pages (UFFDIO_MOVE, Linux 6.8) nor discard them safely (5.19, and vmsplice "
			"and futex allowed): large memory stays local");
	else if (r < 0)
		bb_warn("cannot start a thread (%s): large memory stays local", strerrordesc_np(-r));
	return r;
}

int bb_attach(void)
{
	struct bb_region *g = &bb_rg;
	const char *path = bb_opts.str[BB_OPT_SOCKET];
	struct bb_attach_rep rep;
	struct bb_books b;
	int r;

	r = open_all(g, path, first_deadline(path));
	if (r < 0)
		goto out;
	g->nslots = slots_for(g->budget);
	r = bb_books_new(&b);
	if (r == 0) {
		bb_books_use(&b);
		r = staging_new(g);
	}
	if (r < 0) {
		bb_warn("cannot share the page table with bbd (%s): large memory stays local", strerrordesc_np(-r));
		goto out;
	}
	r = introduce(g, 0, &rep);
	if (r < 0)
		say_refused(path, r, &rep);
	if (r == 0)
		r = bb_orphan_mark();
	if (r == 0)
		r = bb_fork_init_late();
	if (r == 0)
		r = helper_new();
	if (r < 0)
		goto out;
	bb_info("attached to %s as region %u: budget %lu MiB", path, g->id, (unsigned long)(g->budget >> 20));
	g->attached = BB_ATTACHED;
	return 0;
out:
	close_all(g);
	if (g->pw && bb_books_own() < 0)
		bb_warn("out of memory: large memory cannot be used in fork children");
	return r;
}

/* --- again ----------------------------------------------------------------- */

int bb_attach_again(void)
{
	struct bb_region *g = &bb_rg;
	struct bb_attach_rep rep;
	int old = g->sock, new, r;

	new = dial(bb_opts.str[BB_OPT_SOCKET]);
	if (new == -EMFILE && old >= 0) {
		/* The program has taken all others; nobody is at the other end of this one. */
		bb_fd_close(old);
		g->sock = old = -1;
		new = dial(bb_opts.str[BB_OPT_SOCKET]);
	}
	if (new < 0)
		return new;
	g->sock = new;
	r = introduce(g, BB_ATTACH_AGAIN, &rep);
	if (r < 0) {
		close(new);
		g->sock = old;
		/* Its own word is final, whatever the number of the error. */
		return rep.magic ? -EPERM : r;
	}
	bb_fd_close(old);
	r = bb_fd_hide(new);
	if (r >= 0)
		g->sock = r;
	return 0;
}

/* Everything that bbd is to know of faults in: extents that are not LOCAL. */
static int register_again(struct bb_region *g)
{
	uint32_t e, from;

	for (e = 0; e < g->rw_top; e++) {
		enum bb_extent_state s = bb_xstate(e);

		from = e;
		while (e < g->rw_top && (s == BB_X_MANAGED || s == BB_X_FRESH ||
					 (s == BB_X_NONE && g->xp[e] & BB_XP_REGISTERED)))
			s = bb_xstate(++e);
		if (e > from) {
			int r = bb_extents_register(from, e - from);

			if (r < 0)
				return r;
		}
	}
	return 0;
}

int bb_attach_child(const struct bb_books *b, uint32_t region, const uint64_t secret[2], int sock)
{
	struct bb_region *g = &bb_rg;
	const char *path = bb_opts.str[BB_OPT_SOCKET];
	uint64_t deadline = bb_now_ns() + g->keep_ms * 1000000ULL + 1000000000ULL;
	struct timespec pause = { 0, 10000000 };
	struct bb_attach_rep rep = { 0 };
	struct timeval tv = { .tv_sec = 5 };
	int r;

	close_all(g); /* the parent's */
	g->sock = sock;
	if (sock >= 0) { /* as bbd made it, it does not wait */
		(void)fcntl(sock, F_SETFL, fcntl(sock, F_GETFL) & ~O_NONBLOCK);
		setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
		setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	}
	bb_books_use(b);
	g->id = region;
	g->secret[0] = secret[0];
	g->secret[1] = secret[1];
	r = open_all(g, path, deadline);
	if (r == 0)
		r = staging_new(g);
	if (r == 0)
		r = register_again(g);
	if (r < 0)
		goto out;
	r = introduce(g, BB_ATTACH_AGAIN, &rep);
	while (!rep.magic && bb_attach_retry(r) && bb_now_ns() < deadline) {
		nanosleep(&pause, NULL);
		r = bb_attach_again();
	}
	if (r < 0)
		say_refused(path, r, &rep);
	/* Nobody takes pages out until the other fork handlers are through: see fork.c. */
	atomic_store(&g->ctl->stuck, 1);
	if (r == 0)
		r = bb_orphan_mark();
	if (r < 0)
		goto out;
	g->attached = BB_ATTACHED;
	return 0;
out:
	close_all(g);
	return r;
}
