/* SPDX-License-Identifier: MIT */
/*
 * io_uring by raw system calls: READ and WRITE of a file with plain buffers
 * (the kernel faults them in, perhaps in a worker thread) and with registered
 * ones (the kernel pins the pages, which must then stay where they are).
 * Part of bbkernel.c; no wait is without a limit.
 */
#ifndef BB_TESTS_BBKERNEL_URING_H
#define BB_TESTS_BBKERNEL_URING_H

#include <linux/io_uring.h>

struct uring {
	int fd;
	char *sq, *cq;
	size_t sq_len, cq_len, sqe_len;
	struct io_uring_sqe *sqes;
	struct io_uring_params p;
};

static const char *uring_open(struct uring *u)
{
	memset(u, 0, sizeof(*u));
	u->fd = (int)syscall(SYS_io_uring_setup, 8, &u->p);
	if (u->fd < 0 && (errno == ENOSYS || errno == EPERM || errno == ENOMEM))
		return "the kernel refuses io_uring";
	CHECK(u->fd >= 0);
	u->sq_len = u->p.sq_off.array + u->p.sq_entries * sizeof(uint32_t);
	u->cq_len = u->p.cq_off.cqes + u->p.cq_entries * sizeof(struct io_uring_cqe);
	u->sqe_len = u->p.sq_entries * sizeof(struct io_uring_sqe);
	u->sq = mmap(NULL, u->sq_len, PROT_READ | PROT_WRITE, MAP_SHARED, u->fd, IORING_OFF_SQ_RING);
	u->cq = mmap(NULL, u->cq_len, PROT_READ | PROT_WRITE, MAP_SHARED, u->fd, IORING_OFF_CQ_RING);
	u->sqes = mmap(NULL, u->sqe_len, PROT_READ | PROT_WRITE, MAP_SHARED, u->fd, (off_t)IORING_OFF_SQES);
	CHECK(u->sq != MAP_FAILED && u->cq != MAP_FAILED && u->sqes != MAP_FAILED);
	return NULL;
}

static void uring_close(struct uring *u)
{
	munmap(u->sq, u->sq_len);
	munmap(u->cq, u->cq_len);
	munmap(u->sqes, u->sqe_len);
	close(u->fd);
}

#define RING(base, off) ((_Atomic uint32_t *)(void *)((base) + (off)))

/* One operation, to its end. Return: its result. */
static int uring_do(struct uring *u, uint8_t op, int fd, void *p, uint32_t n, uint64_t off, uint16_t index, bool away)
{
	uint32_t tail = atomic_load(RING(u->sq, u->p.sq_off.tail));
	uint32_t at = tail & *RING(u->sq, u->p.sq_off.ring_mask);
	uint32_t head = atomic_load(RING(u->cq, u->p.cq_off.head));
	uint64_t limit = now_ns() + 30000000000ULL;
	struct io_uring_sqe *s = &u->sqes[at];
	struct io_uring_cqe *c;
	int ret;

	memset(s, 0, sizeof(*s));
	s->opcode = op;
	s->fd = fd;
	s->addr = (uintptr_t)p;
	s->len = n;
	s->off = off;
	s->buf_index = index; /* of the registered buffer, in fixed operations */
	s->user_data = off + n;
	/* To a worker thread, whose faults are not in the context of a call of ours. */
	s->flags = away ? IOSQE_ASYNC : 0;
	atomic_store(RING(u->sq, u->p.sq_off.array) + at, at);
	atomic_store(RING(u->sq, u->p.sq_off.tail), tail + 1);
	CHECK(syscall(SYS_io_uring_enter, u->fd, 1, 0, 0, NULL, 0) == 1);
	while (atomic_load(RING(u->cq, u->p.cq_off.tail)) == head) {
		struct timespec nap = {.tv_nsec = 200000};

		CHECK(now_ns() < limit);
		/* Enters the kernel, so that work queued for this task is run. */
		CHECK(syscall(SYS_io_uring_enter, u->fd, 0, 0, IORING_ENTER_GETEVENTS, NULL, 0) >= 0);
		nanosleep(&nap, NULL);
	}
	c = (struct io_uring_cqe *)(void *)(u->cq + u->p.cq_off.cqes) + (head & *RING(u->cq, u->p.cq_off.ring_mask));
	CHECK(c->user_data == off + n);
	ret = c->res;
	atomic_store(RING(u->cq, u->p.cq_off.head), head + 1);
	return ret;
}

static void uring_all(struct uring *u, uint8_t op, int fd, char *p, size_t n, uint16_t index, bool away)
{
	for (size_t got = 0; got < n;) {
		int k = uring_do(u, op, fd, p + got, (uint32_t)(n - got), got, index, away);

		if (k <= 0)
			fail("%s: operation %u at %zu of %zu: %s", step_name, op, got, n, strerror(-k));
		got += (size_t)k;
	}
}

static const char *uring_plain(void)
{
	struct uring u;
	const char *why = uring_open(&u);
	int fd;

	if (why)
		return why;
	fd = file();
	for (int away = 0; away < 2; away++) {
		size_t at = odd(PAGE), n = odd(half / 2);
		uint64_t tag = prepare(src + at, dst + at, n);

		uring_all(&u, IORING_OP_WRITE, fd, src + at, n, 0, away);
		evict();
		uring_all(&u, IORING_OP_READ, fd, dst + at, n, 0, away);
		verify(dst + at, n, tag);
	}
	close(fd);
	uring_close(&u);
	return NULL;
}

static const char *uring_fixed(void)
{
	size_t n = half < 1 << 20 ? half : 1 << 20;
	struct iovec v[2] = {{src, n}, {dst, n}};
	struct uring u;
	const char *why = uring_open(&u);
	uint64_t tag;
	int fd, ret;

	if (why)
		return why;
	evict();
	ret = (int)syscall(SYS_io_uring_register, u.fd, IORING_REGISTER_BUFFERS, v, 2);
	if (ret < 0 && errno == ENOMEM) {
		uring_close(&u);
		return "RLIMIT_MEMLOCK is too low for registered buffers";
	}
	CHECK(ret == 0);
	fd = file();
	for (unsigned int i = 0; i < 2; i++) {
		tag = prepare(src, dst, n);
		uring_all(&u, IORING_OP_WRITE_FIXED, fd, src, n, 0, i);
		evict();
		uring_all(&u, IORING_OP_READ_FIXED, fd, dst, n, 1, i);
		verify(dst, n, tag);
		check(src, n, tag);
	}
	close(fd);
	uring_close(&u);
	return NULL;
}

#endif
