/* SPDX-License-Identifier: MIT */
/*
 * fork(2).
 *
 * Theory of operation
 * -------------------
 * While nothing is paged the kernel's own copy-on-write is all there is to do.
 *
 * Once the program is attached its memory is MADV_DONTFORK, so that a raw
 * clone(2) that bypasses us leaves the child without it (SIGSEGV) rather than
 * with zeros. fork() passes through the handlers here. Before it, the allocator
 * and the helper come to rest, bbd finishes the fills under way, starts nothing
 * new, and makes a region for the child that holds the same home memory
 * (FREEZE). Of the books a copy is taken, and the memory is made inheritable.
 * After it the parent goes on at once (THAW). In the child the resident pages
 * are the kernel's copy-on-write; for the others it has the copy of the books,
 * opens a userfaultfd of its own, and attaches to its region. Home memory is
 * read by both, and each writes elsewhere from then on.
 *
 * A bbd that is killed meanwhile is waited for, on both sides: what it held for
 * the child is kept as well.
 *
 * A child that cannot attach loses sight of the paged memory, loudly: its
 * mapping is made inaccessible.
 *
 * The order of fork handlers counts. Ours are registered before any other
 * (real.c), so that before the fork all others still find the allocator at
 * work, and after it they find paged memory in its place: an allocator on top
 * has its own books in it. But the child's helper is a thread, and making one
 * allocates: that waits for a handler that is registered last, when the
 * allocators have left their locks.
 *
 * Lock order: as in private.h; both locks are held across the fork.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <stdbool.h>
#include <time.h>
#include <unistd.h>

#include <bluebridge/local.h>

#include "clock.h"
#include "fds.h"
#include "log.h"
#include "private.h"

#define RETRY_MS 5000u

static struct bb_books books; /* of the child that is being made */
static __thread bool nested;	 /* this fork is a signal handler's, within bb_rg.lock */
static __thread int cancel;	 /* of the thread that forks: its state before */
static bool late_registered;
static uint64_t since; /* when bbd was asked to freeze */
static struct bb_msg child_at; /* its region, and what proves it; region 0: none */
static int child_sock = -1;	/* a connection for it, where it could not make one */

static int tell(uint32_t op)
{
	struct bb_msg m = { .magic = BB_MSG_MAGIC, .op = op };

	if (bb_rg.sock < 0) /* given up for a descriptor: the helper is about to attach again */
		return -ECONNRESET;
	/* After a chroot, or as another user. */
	if (op == BB_MSG_FREEZE)
		m.want_socket = access(bb_opts.str[BB_OPT_SOCKET], W_OK) < 0;
	return send(bb_rg.sock, &m, sizeof(m), MSG_NOSIGNAL) == sizeof(m) ? 0 : -errno;
}

/* The answer, and what it brings along: hidden, in child_sock. */
static int hear(struct bb_msg *answer)
{
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(sizeof(int))];
	} c = { 0 };
	struct iovec iov = { answer, sizeof(*answer) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = c.buf, .msg_controllen = sizeof(c.buf) };
	ssize_t n;
	int fd;

	do {
		n = recvmsg(bb_rg.sock, &m, MSG_CMSG_CLOEXEC | MSG_WAITALL);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? -ETIMEDOUT : -errno;
	if (n > 0 && m.msg_controllen && c.h.cmsg_level == SOL_SOCKET && c.h.cmsg_type == SCM_RIGHTS) {
		memcpy(&fd, CMSG_DATA(&c.h), sizeof(fd));
		child_sock = bb_fd_hide(fd);
		if (child_sock < 0)
			child_sock = fd;
	}
	return n == sizeof(*answer) ? 0 : -ECONNRESET;
}

static void inherit(int advice)
{
	(void)bb_sys_madvise((void *)bb_rg.base, (size_t)bb_rg.rw_top << BB_EXTENT_SHIFT, advice);
}

/* An answer that came too late for an earlier fork is not ours. */
static void forget_answers(void)
{
	struct bb_msg m;

	while (recv(bb_rg.sock, &m, sizeof(m), MSG_PEEK | MSG_DONTWAIT) == sizeof(m) && m.op == BB_MSG_FREEZE)
		if (recv(bb_rg.sock, &m, sizeof(m), MSG_DONTWAIT) < 0)
			break;
}

static int freeze(void)
{
	struct bb_msg m = { 0 };
	int r;

	bb_fd_close(child_sock);
	child_sock = -1;
	forget_answers();
	since = bb_now_ns();
	r = tell(BB_MSG_FREEZE);
	if (r == 0)
		r = hear(&m);
	if (r < 0)
		return r;
	if (m.magic == BB_MSG_MAGIC && m.op == BB_MSG_BYE)
		bb_bbd_said_bye(); /* the helper sees to it */
	if (m.magic != BB_MSG_MAGIC || m.op != BB_MSG_FREEZE)
		return -ECONNRESET;
	if (!m.region)
		return -ENOMEM;
	child_at = m;
	return 0;
}

/* Both locks are held, and are again at the end. */
static int freeze_some_bbd(void)
{
	struct bb_region *g = &bb_rg;
	uint64_t deadline = bb_now_ns() + (g->keep_ms + RETRY_MS) * 1000000ULL;
	struct timespec pause = { 0, 5000000 };
	int r;

	while ((r = freeze()) < 0 && g->keep_ms && r != -ETIMEDOUT && bb_attach_retry(r) && bb_now_ns() < deadline) {
		/* It was killed: the helper attaches to the next one, and needs the locks. */
		bb_unlock(&g->evicting);
		bb_unlock(&g->lock);
		nanosleep(&pause, NULL);
		bb_lock(&g->lock);
		bb_lock(&g->evicting);
		if (g->attached != BB_ATTACHED)
			break;
	}
	return r;
}

static void prepare(void)
{
	struct bb_region *g = &bb_rg;
	int keep = errno, state, r;

	if (bb_lock_inside()) {
		/* A signal handler forks, and has interrupted an allocation in this thread. */
		nested = true;
		return;
	}
	/* From here to the end of the fork: whoever were cancelled in between would keep the locks. */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	bb_lock(&g->lock);
	cancel = state; /* a signal handler that forks before this has its own */
	child_at.region = 0;
	if (g->attached != BB_ATTACHED)
		goto out;
	bb_lock(&g->evicting);
	r = freeze_some_bbd();
	if (g->attached != BB_ATTACHED) {
		bb_unlock(&g->evicting);
		goto out;
	}
	if (r == 0)
		r = bb_books_new(&books);
	if (r == 0) {
		bb_books_copy(&books);
		/* A copy that was not made under the freeze is none (we may have been stopped). */
		if (bb_now_ns() - since > (BB_FREEZE_MAX_MS - 500) * 1000000ULL) {
			bb_books_free(&books);
			r = -ETIMEDOUT;
		}
	}
	if (r == 0) {
		inherit(MADV_DOFORK);
	} else {
		child_at.region = 0;
		bb_warn("fork: bbd cannot serve the child (%s): it will not see memory that is paged", strerrordesc_np(-r));
	}
out:
	errno = keep;
}

static void parent(void)
{
	struct bb_region *g = &bb_rg;
	int keep = errno;

	if (nested) {
		nested = false;
		return;
	}
	if (g->attached == BB_ATTACHED) {
		/* Where bbd has ended meanwhile, the next one knows of no freeze. */
		(void)tell(BB_MSG_THAW);
		if (child_at.region) {
			inherit(MADV_DONTFORK);
			bb_books_free(&books);
		}
		bb_fd_close(child_sock);
		child_sock = -1;
		bb_unlock(&g->evicting);
	}
	bb_unlock(&g->lock);
	pthread_setcancelstate(cancel, NULL);
	errno = keep;
}

static void child(void)
{
	struct bb_region *g = &bb_rg;
	int keep = errno;

	if (nested) {
		nested = false;
		bb_orphan_check();
		return;
	}
	g->helper_runs = false;
	if (g->attached == BB_ATTACHED) {
		bb_unlock(&g->evicting);
		if (!child_at.region) {
			bb_region_disown();
		} else if (bb_attach_child(&books, child_at.region, child_at.secret, child_sock) < 0) {
			bb_region_forbid();
			bb_region_disown();
		}
		child_sock = -1; /* it is g->sock, or closed */
	} else if (g->attached == BB_ALONE) {
		bb_region_disown();
	}
	bb_unlock(&g->lock);
	pthread_setcancelstate(cancel, NULL);
	errno = keep;
}

/* All other handlers are through: threads can be made. */
static void child_late(void)
{
	struct bb_region *g = &bb_rg;
	int keep = errno;

	bb_lock(&g->lock);
	if (g->attached == BB_ATTACHED && bb_evict_start() < 0)
		bb_warn("fork: cannot start a thread for the child: nothing of its memory is paged out, "
			"it goes over its budget");
	bb_unlock(&g->lock);
	errno = keep;
}

int bb_fork_init_late(void)
{
	int r = late_registered ? 0 : -pthread_atfork(NULL, NULL, child_late);

	late_registered = r == 0;
	return r;
}

int bb_fork_init(void)
{
	static _Atomic int state; /* 0 not yet, 1 done, 2 failed */
	int not_yet = 0;

	if (atomic_compare_exchange_strong(&state, &not_yet, 1) && pthread_atfork(prepare, parent, child))
		atomic_store(&state, 2);
	return atomic_load(&state) == 1 ? 0 : -ENOMEM;
}
