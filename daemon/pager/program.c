/* SPDX-License-Identifier: MIT */
/*
 * A program comes and goes: checks what it hands us, maps its region's books,
 * and gives everything back at its end. What the program says is checked once
 * here and kept in our own memory; nothing that bounds our own accesses is
 * ever read from the shared pages again.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <bluebridge/kernel.h>

#include "clock.h"
#include "log.h"
#include "program.h"

#define HUNG_UP_NS 5000000000ULL
#define ROUSE_NS 20000000ULL
#define NSLOTS_MIN 64u
#define OPENS_NS 50000000ULL

static int64_t low_mark(const struct bb_program *p)
{
	return atomic_load_explicit(&p->opens_until, memory_order_relaxed) ? BB_LOW_MAX : bb_low_mark(p->limit);
}

void bb_program_opens(struct bb_program *p)
{
	atomic_store_explicit(&p->opens_until, p->pager->now + OPENS_NS, memory_order_relaxed);
	/* Looked at each time: a new budget may have set it meanwhile. */
	if (atomic_load_explicit(&p->ctl->low, memory_order_relaxed) != BB_LOW_MAX)
		atomic_store(&p->ctl->low, BB_LOW_MAX);
}

void bb_program_opens_poll(struct bb_program *p)
{
	const uint64_t until = atomic_load_explicit(&p->opens_until, memory_order_relaxed);

	if (!until || p->pager->now < until || p->parked_n)
		return;
	atomic_store_explicit(&p->opens_until, 0, memory_order_relaxed);
	atomic_store(&p->ctl->low, low_mark(p));
}

void bb_program_set_budget(struct bb_program *p, uint64_t bytes)
{
	int64_t limit = (int64_t)(bytes >> BB_PAGE_SHIFT) - p->nslots;

	if (limit < 2 * BB_LOW_MIN)
		limit = 2 * BB_LOW_MIN;
	if (limit == p->limit)
		return;
	/* What it was let go over its budget (bb_program_over) stays. */
	atomic_fetch_add(&p->ctl->limit, limit - p->limit);
	p->limit = limit;
	atomic_store(&p->ctl->low, low_mark(p));
	bb_program_ring(p);
}

void bb_program_over(struct bb_program *p, int64_t n)
{
	atomic_fetch_add(&p->ctl->limit, n);
}

/*
 * O_NONBLOCK belongs to the open file, so the program can take it away at any
 * time; RWF_NOWAIT is ours alone. Kernels that page (UFFDIO_MOVE, 6.8) have it
 * for eventfds, for userfaultfds from 6.10 on: before, the flag has to do.
 */
ssize_t bb_program_read(int fd, void *buf, size_t len)
{
	struct iovec iov = { buf, len };
	/* Not the library's preadv2(), a point of cancellation: that costs a tenth of a microsecond. */
	ssize_t n = syscall(SYS_preadv2, fd, &iov, 1UL, -1L, -1L, RWF_NOWAIT);

	return n < 0 && errno == EOPNOTSUPP ? read(fd, buf, len) : n;
}

void bb_program_ring(struct bb_program *p)
{
	if (atomic_load(&p->ctl->helper_sleeps) == BB_HELPER_IDLE)
		bb_program_ring_slots(p);
}

void bb_program_ring_slots(struct bb_program *p)
{
	if (!atomic_load(&p->ctl->helper_sleeps))
		return;
	atomic_fetch_add(&p->ctl->helper_bell, 1);
	if (atomic_exchange(&p->ctl->helper_sleeps, 0))
		syscall(SYS_futex, &p->ctl->helper_bell, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* The control page, read once. */
static int check_books(const struct bb_region_ctl *c, uint64_t size, uint64_t *base, uint64_t *npages, uint32_t *nslots)
{
	*base = *(volatile const uint64_t *)&c->base;
	*npages = *(volatile const uint64_t *)&c->npages;
	*nslots = *(volatile const uint32_t *)&c->nslots;
	if (c->magic != BB_REGION_MAGIC || c->version != BB_REGION_VERSION)
		return -EPROTO;
	if (!*npages || *npages % BB_EXTENT_PAGES || *npages > UINT32_MAX / 2 || (*base & (BB_EXTENT_SIZE - 1)) ||
	    *base > UINT64_MAX - (*npages << BB_PAGE_SHIFT))
		return -EINVAL;
	if (*nslots < NSLOTS_MIN || (*nslots & (*nslots - 1)) || *nslots > 1u << BB_PW_SLOT_BITS)
		return -EINVAL;
	if (bb_region_layout(*npages, *nslots).size != size)
		return -EINVAL;
	return 0;
}

static int books_of_homes(struct bb_program *p)
{
	if (p->again)
		return 0; /* again.c has them */
	if (getrandom(p->secret, sizeof(p->secret), 0) != sizeof(p->secret))
		return -EIO;
	p->xrx = calloc(p->nextents, sizeof(*p->xrx));
	return p->xrx ? bb_rx_init(p) : -ENOMEM;
}

struct bb_program *bb_program_new(struct bb_pager *pg, const struct bb_attach_req *req, uint32_t id, uint64_t granted,
				  int sock, int uffd, int memfd, int kick, char *why, size_t whylen)
{
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW;
	struct bb_program *p = calloc(1, sizeof(*p));
	struct pollfd ready = { .fd = uffd, .events = POLLIN };
	uint64_t npages;
	struct statfs fs;
	struct stat st;
	int r;

	if (!p)
		return NULL;
	p->map = MAP_FAILED;
	p->pager = pg;
	p->id = id;
	p->sock = sock;
	p->uffd = uffd;
	p->memfd = memfd;
	p->kick = kick;
	p->pid = req->pid;
	memcpy(p->comm, req->comm, sizeof(p->comm));
	p->comm[sizeof(p->comm) - 1] = 0;
	p->features = req->uffd_features;
	p->place = req->place;
	p->place_node = req->place_node;
	p->no_prefetch = req->no_prefetch;
	if (req->flags & BB_ATTACH_AGAIN) {
		p->again = req->region;
		memcpy(p->secret, req->secret, sizeof(p->secret));
	}

	/*
	 * Without the seals the program could pull the memory from under us; so
	 * it could with huge pages, of which there may be none when we touch one.
	 */
	if (fstatfs(memfd, &fs) < 0 || fs.f_type != TMPFS_MAGIC || fstat(memfd, &st) < 0 || (fcntl(memfd, F_GET_SEALS) & seals) != seals ||
	    (uint64_t)st.st_size < sizeof(struct bb_region_ctl)) {
		bb_format(why, (unsigned int)whylen, "the region's memfd is not sealed, or not one of small pages");
		goto fail;
	}
	p->map = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memfd, 0);
	if (p->map == MAP_FAILED) {
		bb_format(why, (unsigned int)whylen, "cannot map the region's books (error %d)", errno);
		goto fail;
	}
	p->lay.size = (uint64_t)st.st_size;
	p->ctl = p->map;
	r = check_books(p->ctl, (uint64_t)st.st_size, &p->base, &npages, &p->nslots);
	if (r < 0) {
		bb_format(why, (unsigned int)whylen, "the region's books make no sense (error %d)", -r);
		goto fail;
	}
	p->npages = (uint32_t)npages;
	p->nextents = p->npages / BB_EXTENT_PAGES;
	p->lay = bb_region_layout(npages, p->nslots);
	p->x = (struct bb_extent *)((uint8_t *)p->map + p->lay.extents);
	p->pw = (_Atomic bb_pw *)((uint8_t *)p->map + p->lay.words);
	p->hash = (struct bb_hash *)((uint8_t *)p->map + p->lay.hashes);
	p->slots = (struct bb_slot *)((uint8_t *)p->map + p->lay.slots);
	p->stage = (uint8_t *)p->map + p->lay.data;
	/* Its own, in the end: pages beyond the tail are looked at one by one. */
	p->tail = p->wb = atomic_load(&p->ctl->stage_tail);
	p->slot_busy = calloc(p->nslots, 1);
	p->trace = bb_trace_new();
	if (!p->slot_busy || !p->trace || books_of_homes(p) < 0) {
		bb_format(why, (unsigned int)whylen, "bbd is out of memory");
		goto fail;
	}
	fcntl(uffd, F_SETFL, fcntl(uffd, F_GETFL) | O_NONBLOCK);
	fcntl(kick, F_SETFL, fcntl(kick, F_GETFL) | O_NONBLOCK);
	fcntl(sock, F_SETFL, fcntl(sock, F_GETFL) | O_NONBLOCK);
	if (poll(&ready, 1, 0) < 0 || ready.revents & (POLLERR | POLLNVAL)) {
		bb_format(why, (unsigned int)whylen, "the userfaultfd was not made ready (UFFDIO_API)");
		goto fail;
	}
	atomic_store(&p->ctl->limit, 0);
	bb_program_set_budget(p, granted);
	return p;
fail:
	p->sock = p->uffd = p->memfd = p->kick = -1; /* the caller closes them */
	bb_program_free(p, true);
	return NULL;
}

/* --- fork ------------------------------------------------------------------ */

bool bb_program_hear(struct bb_program *p)
{
	struct bb_msg m;
	ssize_t n = recv(p->sock, &m, sizeof(m), MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	if (n != sizeof(m) || m.magic != BB_MSG_MAGIC)
		return false;
	switch (m.op) {
	case BB_MSG_FREEZE:
		p->freezing = true;
		p->frozen = false;
		p->want_socket = m.want_socket;
		p->frozen_until = bb_now_ns() + BB_FREEZE_MAX_MS * 1000000ULL;
		bb_program_freeze_poll(p);
		return true;
	case BB_MSG_THAW:
		p->freezing = p->frozen = false;
		return true;
	default:
		return false;
	}
}

bool bb_program_lives(struct bb_program *p)
{
	static const char none[BB_PAGE_SIZE];
	/* Just behind the region nothing is registered: the answer is ENOENT as long as there is an address space. */
	struct uffdio_copy c = {
		.dst = p->base + ((uint64_t)p->npages << BB_PAGE_SHIFT),
		.src = (uintptr_t)none,
		.len = BB_PAGE_SIZE,
	};

	const uint64_t now = bb_now_ns();

	if (!p->hung_up || p->uffd < 0 || now > p->hung_up + HUNG_UP_NS)
		return false;
	if (ioctl(p->uffd, UFFDIO_COPY, &c) < 0 && (errno == ESRCH || errno == EINVAL))
		return false;
	/* Who waits for a page looks again: what it has cut off raises SIGSEGV. */
	if (now > p->roused + ROUSE_NS) {
		p->roused = now;
		bb_fill_wake(p, 0, p->npages);
	}
	return true;
}

/* A connection to ourselves, for a child that cannot find our socket. Return: -1 where there is none. */
static int own_connection(const char *path)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd;

	if (!path || strlen(path) >= sizeof(un.sun_path))
		return -1;
	memcpy(un.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&un, sizeof(un)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static bool send_answer(struct bb_program *p, const struct bb_msg *answer)
{
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(sizeof(int))];
	} c = { 0 };
	struct iovec iov = { (void *)(uintptr_t)answer, sizeof(*answer) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	int fd = answer->region && p->want_socket ? own_connection(p->pager->cfg.socket) : -1;
	bool ok;

	if (fd >= 0) {
		m.msg_control = c.buf;
		m.msg_controllen = sizeof(c.buf);
		c.h.cmsg_level = SOL_SOCKET;
		c.h.cmsg_type = SCM_RIGHTS;
		c.h.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&c.h), &fd, sizeof(fd));
	}
	ok = sendmsg(p->sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof(*answer);
	if (fd >= 0)
		close(fd);
	return ok;
}

void bb_program_freeze_poll(struct bb_program *p)
{
	struct bb_msg m = { .magic = BB_MSG_MAGIC, .op = BB_MSG_FREEZE };

	if (p->freezing && !p->frozen && !p->fills) {
		struct bb_program *child = bb_again_child(p);

		if (child) {
			m.region = child->id;
			memcpy(m.secret, child->secret, sizeof(m.secret));
		}
		p->frozen = true;
		if (!send_answer(p, &m))
			p->freezing = p->frozen = false;
	}
	if (bb_now_ns() > p->frozen_until)
		p->freezing = p->frozen = false;
}

void bb_program_free(struct bb_program *p, bool forget)
{
	if (p->map != MAP_FAILED)
		munmap(p->map, p->lay.size);
	if (p->uffd >= 0)
		close(p->uffd);
	if (p->memfd >= 0)
		close(p->memfd);
	if (p->kick >= 0)
		close(p->kick);
	if (p->sock >= 0)
		close(p->sock);
	bb_rx_fini(p, forget);
	free(p->xrx);
	free(p->slot_busy);
	bb_trace_free(p->trace);
	free(p->sync.data);
	free(p);
}
