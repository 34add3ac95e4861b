/* SPDX-License-Identifier: MIT */
/*
 * Asking bbd to page for this program: opens a userfaultfd, moves the region's
 * books into a shared memfd, and hands both over. Happens once, when the
 * program first outgrows its budget. Whatever is missing, the program runs on
 * in local memory and one warning says how to mend it.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <bluebridge/kernel.h>
#include <bluebridge/local.h>

#include "fds.h"
#include "log.h"
#include "private.h"

#define WANTED (UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_MOVE | UFFD_FEATURE_POISON)
#define STAGING_PAGES 64
#define SLOTS_MIN 256u
#define SLOTS_MAX 4096u

extern char *program_invocation_short_name;

/* --- userfaultfd ---------------------------------------------------------- */

static int uffd_open(bool *user_only)
{
	int dev, fd;

	*user_only = false;
	dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(dev);
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
	*user_only = true;
	return fd;
}

/* A userfaultfd takes its features once: one to ask with, one to keep. */
static int uffd_new(uint64_t *features, bool *user_only)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd, r;

	fd = uffd_open(user_only);
	if (fd < 0)
		return fd;
	r = ioctl(fd, UFFDIO_API, &api) < 0 ? -errno : 0;
	close(fd);
	if (r < 0)
		return r;
	*features = api.features & WANTED;
	fd = uffd_open(user_only);
	if (fd < 0)
		return fd;
	api.api = UFFD_API;
	api.features = *features;
	if (ioctl(fd, UFFDIO_API, &api) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

/* --- the shared books ----------------------------------------------------- */

static void *map_at(const struct bb_region_layout *l, int fd, uint64_t off, uint64_t len)
{
	(void)l;
	return bb_sys_mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, (int64_t)off);
}

static int books_share(struct bb_region *g, int fd)
{
	struct bb_region_layout l = bb_region_layout(g->npages, g->nslots);
	uint32_t used = (g->runs.top + BB_EXTENT_PAGES - 1) / BB_EXTENT_PAGES;
	struct bb_region_ctl *ctl;
	uint8_t *all;

	if (ftruncate(fd, (off_t)l.size) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	all = map_at(&l, fd, 0, l.size);
	if (all == MAP_FAILED)
		return -ENOMEM;
	ctl = (struct bb_region_ctl *)all;
	memcpy(ctl, g->ctl, sizeof(*ctl));
	ctl->magic = BB_REGION_MAGIC;
	ctl->version = BB_REGION_VERSION;
	ctl->base = g->base;
	ctl->npages = g->npages;
	ctl->nslots = g->nslots;
	memcpy(all + l.extents, g->x, used * sizeof(*g->x));

	bb_sys_munmap(g->ctl, sizeof(*g->ctl));
	bb_sys_munmap(g->x, g->nextents * sizeof(*g->x));
	g->ctl = ctl;
	g->x = (struct bb_extent *)(all + l.extents);
	g->pw = (_Atomic bb_pw *)(all + l.words);
	g->hash = (struct bb_hash *)(all + l.hashes);
	g->slots = (struct bb_slot *)(all + l.slots);
	g->stage = all + l.data;
	g->lay = l;
	return 0;
}

static int staging_new(struct bb_region *g)
{
	struct uffdio_register r = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	size_t len = STAGING_PAGES * BB_PAGE_SIZE;
	void *p = bb_sys_mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return -ENOMEM;
	/* UFFDIO_MOVE asks that its destination is registered; nobody faults here. */
	r.range.start = (uintptr_t)p;
	r.range.len = len;
	if (ioctl(g->uffd, UFFDIO_REGISTER, &r) < 0)
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

static int read_reply(int sock, struct bb_attach_rep *rep)
{
	size_t have = 0;

	while (have < sizeof(*rep)) {
		ssize_t n = recv(sock, (char *)rep + have, sizeof(*rep) - have, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		if (!n)
			return -ECONNRESET;
		have += (size_t)n;
	}
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

int bb_attach(void)
{
	struct bb_region *g = &bb_rg;
	struct bb_attach_req req = { .magic = BB_ATTACH_MAGIC, .size = sizeof(req) };
	const char *path = bb_opts.str[BB_OPT_SOCKET];
	struct bb_attach_rep rep;
	bool user_only = false;
	size_t min = bb_region_min;
	int64_t limit;
	int fds[3], r;

	g->sock = dial(path);
	if (g->sock < 0) {
		r = g->sock;
		bb_warn("no bbd answers at %s (%s): large memory stays local; start bbd there, or run under bbrun", path,
			strerrordesc_np(-r));
		return r;
	}
	g->uffd = uffd_new(&g->features, &user_only);
	if (g->uffd < 0) {
		r = g->uffd;
		bb_warn("userfaultfd is not allowed here (%s): large memory stays local; "
			"allow it with: chmod 666 /dev/userfaultfd, or sysctl vm.unprivileged_userfaultfd=1",
			strerrordesc_np(-r));
		goto out;
	}
	if (!(g->features & UFFD_FEATURE_MOVE)) {
		r = -EOPNOTSUPP;
		bb_warn("this kernel has no UFFDIO_MOVE (Linux 6.8 and later have it): large memory stays local");
		goto out;
	}
	if (user_only)
		bb_warn("userfaultfd only for faults of user space: system calls on remote memory will fail with EFAULT; "
			"allow all with: chmod 666 /dev/userfaultfd, or sysctl vm.unprivileged_userfaultfd=1");
	g->uffd = bb_fd_hide(g->uffd);
	g->sock = bb_fd_hide(g->sock);
	g->nslots = slots_for(g->budget);
	g->memfd = (int)syscall(SYS_memfd_create, "bluebridge", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	g->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (g->memfd < 0 || g->kick < 0) {
		r = -errno;
		bb_warn("cannot share the page table with bbd (%s): large memory stays local", strerrordesc_np(-r));
		goto out;
	}
	g->memfd = bb_fd_hide(g->memfd);
	g->kick = bb_fd_hide(g->kick);
	r = books_share(g, g->memfd);
	if (r == 0)
		r = staging_new(g);
	if (r < 0) {
		bb_warn("cannot share the page table with bbd (%s): large memory stays local", strerrordesc_np(-r));
		goto out;
	}

	req.pid = (uint32_t)getpid();
	req.budget = g->budget;
	req.uffd_features = g->features;
	req.user_mode_only = user_only;
	req.staging_pages = g->nslots;
	strncpy(req.comm, program_invocation_short_name ? program_invocation_short_name : "?", sizeof(req.comm) - 1);
	fds[0] = g->uffd;
	fds[1] = g->memfd;
	fds[2] = g->kick;
	r = send_request(g->sock, &req, fds, 3);
	if (r == 0)
		r = read_reply(g->sock, &rep);
	if (r == 0 && rep.error)
		r = rep.error;
	if (r < 0) {
		bb_warn("bbd at %s refused (%s): large memory stays local", path,
			r == rep.error && rep.message[0] ? rep.message : strerrordesc_np(-r));
		goto out;
	}
	limit = (int64_t)(rep.budget >> BB_PAGE_SHIFT) - g->nslots;
	g->budget = rep.budget;
	g->local_limit = limit;
	bb_info("attached to %s as region %u: budget %lu MiB", path, rep.region, (unsigned long)(rep.budget >> 20));

	/* The thread's own allocations must not come back here: the lock is held. */
	bb_region_min = SIZE_MAX;
	r = bb_evict_start();
	bb_region_min = min;
	if (r < 0) {
		bb_warn("cannot start a thread (%s): large memory stays local", strerrordesc_np(-r));
		goto out;
	}
	g->attached = BB_ATTACHED;
	return 0;
out:
	bb_fd_close(g->sock);
	bb_fd_close(g->uffd);
	bb_fd_close(g->memfd);
	bb_fd_close(g->kick);
	g->sock = g->uffd = g->memfd = g->kick = -1;
	return r;
}
