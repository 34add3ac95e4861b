/* SPDX-License-Identifier: MIT */
/*
 * bbkernel: faults that the kernel raises on our behalf. Every step hands the
 * kernel a piece of a large malloc'ed buffer, as a source, a destination, a
 * path or a futex, and checks all bytes afterwards. With --evict-between SIZE
 * another buffer of that size is touched between, so that under a small
 * BB_LOCAL the piece has gone away when the kernel (or we) come back to it.
 *
 * More steps lie in bbkernel_small.h and bbkernel_uring.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "app.h"

#define PAGE 4096UL

static char *src, *dst; /* two halves of one block, each of `half` bytes */
static size_t half = 4 << 20, other_size;
static char *other;
static const char *dir = ".", *step_name;
static uint64_t rng = 1;
static bool verbose;

#define CHECK(cond)                                                                                                    \
	do {                                                                                                           \
		if (!(cond))                                                                                           \
			fail("%s, line %d: %s (%s)", step_name, __LINE__, #cond, strerror(errno));                     \
	} while (0)

/* --- helpers -------------------------------------------------------------- */

static void evict(void)
{
	static uint64_t round;

	round++;
	for (size_t i = 0; i < other_size; i += PAGE) {
		uint64_t *w = (uint64_t *)(void *)(other + i);

		if (*w && *w != i + round - 1)
			fail("%s: the other buffer at %zu has %lu, not %lu", step_name, i, *w, i + round - 1);
		*w = i + round;
	}
}

static char byte_of(size_t i, uint64_t tag)
{
	return (char)(mix(tag + i / 8) >> i % 8 * 8);
}

static void fill(char *p, size_t n, uint64_t tag)
{
	for (size_t i = 0; i < n; i++)
		p[i] = byte_of(i, tag);
}

static void check(const char *p, size_t n, uint64_t tag)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != byte_of(i, tag))
			fail("%s: byte %zu of %zu at %p: have %02x, want %02x", step_name, i, n, (const void *)(p + i),
			     (unsigned char)p[i], (unsigned char)byte_of(i, tag));
}

/* A fresh pattern in src and rubbish in dst; both then go away. Return: its tag. */
static uint64_t prepare(char *from, char *to, size_t n)
{
	uint64_t tag = next_random(&rng);

	fill(from, n, tag);
	if (to)
		memset(to, 0xa5, n);
	evict();
	return tag;
}

/* Our reading of what the kernel wrote, after it went away once more. */
static void verify(const char *p, size_t n, uint64_t tag)
{
	check(p, n, tag);
	evict();
	check(p, n, tag);
}

static int temp_file(int flags)
{
	char name[PATH_MAX];
	int fd;

	snprintf(name, sizeof(name), "%s/bbkernel.%d", dir, (int)getpid());
	fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | flags, 0600);
	if (fd >= 0)
		unlink(name);
	return fd;
}

static int file(void)
{
	int fd = temp_file(0);

	CHECK(fd >= 0);
	return fd;
}

/* An odd offset and length that cover many pages. */
static size_t odd(size_t n)
{
	return n / 3 + 1 + random_below(&rng, n / 3);
}

/* --- steps: NULL where it was done, else why it was skipped ---------------- */

static const char *read_write(void)
{
	size_t at = odd(PAGE), n = odd(half);
	uint64_t tag = prepare(src + at, dst + at, n);
	int fd = file();

	CHECK(write(fd, src + at, n) == (ssize_t)n);
	evict();
	CHECK(lseek(fd, 0, SEEK_SET) == 0);
	CHECK(read(fd, dst + at, n) == (ssize_t)n);
	verify(dst + at, n, tag);
	check(src + at, n, tag);
	close(fd);
	return NULL;
}

static const char *pread_pwrite(void)
{
	size_t at = odd(PAGE), n = odd(half);
	uint64_t tag = prepare(src + at, dst + at, n);
	int fd = file();

	CHECK(pwrite(fd, src + at, n, 777) == (ssize_t)n);
	evict();
	CHECK(pread(fd, dst + at, n, 777) == (ssize_t)n);
	verify(dst + at, n, tag);
	close(fd);
	return NULL;
}

/* Cuts [p, p + n) into 16 pieces, the vector itself in large memory too. */
static struct iovec *vector(char *where, char *p, size_t n)
{
	struct iovec *v = (struct iovec *)(void *)where;

	for (unsigned int i = 0; i < 16; i++) {
		v[i].iov_base = p + n * i / 16;
		v[i].iov_len = n * (i + 1) / 16 - n * i / 16;
	}
	return v;
}

static const char *vectors(void)
{
	size_t n = odd(half / 2);
	struct iovec *out = vector(src + half - PAGE, src, n), *in = vector(dst + half - PAGE, dst, n);
	uint64_t tag = prepare(src, dst, n);
	int fd = file();

	CHECK(writev(fd, out, 16) == (ssize_t)n);
	evict();
	CHECK(preadv(fd, in, 16, 0) == (ssize_t)n);
	verify(dst, n, tag);
	tag = prepare(src, dst, n);
	CHECK(pwritev(fd, out, 16, 100) == (ssize_t)n);
	evict();
	CHECK(lseek(fd, 100, SEEK_SET) == 100);
	CHECK(readv(fd, in, 16) == (ssize_t)n);
	verify(dst, n, tag);
	close(fd);
	return NULL;
}

struct reader {
	int fd;
	char *p;
	size_t n;
	bool msg;
};

static void *receive(void *arg)
{
	struct reader *r = arg;

	for (size_t got = 0; got < r->n;) {
		struct iovec v[2] = {{r->p + got, (r->n - got) / 2}, {r->p + got + (r->n - got) / 2, 0}};
		struct msghdr m = {.msg_iov = v, .msg_iovlen = 2};
		ssize_t k;

		v[1].iov_len = r->n - got - v[0].iov_len;
		k = r->msg ? recvmsg(r->fd, &m, 0) : recv(r->fd, r->p + got, r->n - got, 0);
		CHECK(k > 0);
		got += (size_t)k;
	}
	return NULL;
}

static void over_socket(bool msg)
{
	size_t n = odd(half / 2), sent = 0;
	struct reader r = {.p = dst + 3, .n = n, .msg = msg};
	uint64_t tag = prepare(src + 5, dst + 3, n);
	pthread_t thread;
	int fd[2];

	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
	r.fd = fd[1];
	CHECK(pthread_create(&thread, NULL, receive, &r) == 0);
	while (sent < n) {
		struct iovec v = {src + 5 + sent, n - sent};
		struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
		ssize_t k = msg ? sendmsg(fd[0], &m, 0) : send(fd[0], src + 5 + sent, n - sent, 0);

		CHECK(k > 0);
		sent += (size_t)k;
	}
	CHECK(pthread_join(thread, NULL) == 0);
	verify(dst + 3, n, tag);
	close(fd[0]);
	close(fd[1]);
}

static const char *send_recv(void)
{
	over_socket(false);
	return NULL;
}

static const char *sendmsg_recvmsg(void)
{
	over_socket(true);
	return NULL;
}

/* Eight datagrams at once; headers and vectors in large memory. */
static const char *sendmmsg_recvmmsg(void)
{
	const size_t piece = 5000, stride = 3 * PAGE + 123;
	struct mmsghdr *out = (struct mmsghdr *)(void *)(src + half - 2 * PAGE);
	struct mmsghdr *in = (struct mmsghdr *)(void *)(dst + half - 2 * PAGE);
	struct iovec *ov = (struct iovec *)(void *)(src + half - PAGE),
		     *iv = (struct iovec *)(void *)(dst + half - PAGE);
	uint64_t tag = next_random(&rng);
	int fd[2];

	CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, fd) == 0);
	memset(out, 0, 8 * sizeof(*out));
	memset(in, 0, 8 * sizeof(*in));
	for (unsigned int i = 0; i < 8; i++) {
		fill(src + i * stride, piece, tag + i);
		memset(dst + i * stride, 0, piece);
		ov[i] = (struct iovec){src + i * stride, piece};
		iv[i] = (struct iovec){dst + i * stride, piece};
		out[i].msg_hdr.msg_iov = &ov[i];
		in[i].msg_hdr.msg_iov = &iv[i];
		out[i].msg_hdr.msg_iovlen = in[i].msg_hdr.msg_iovlen = 1;
	}
	evict();
	CHECK(sendmmsg(fd[0], out, 8, 0) == 8);
	evict();
	CHECK(recvmmsg(fd[1], in, 8, MSG_DONTWAIT, NULL) == 8);
	for (unsigned int i = 0; i < 8; i++) {
		CHECK(in[i].msg_len == piece);
		verify(dst + i * stride, piece, tag + i);
	}
	close(fd[0]);
	close(fd[1]);
	return NULL;
}

/* The pipe holds our pages themselves while they are evicted from under it. */
static const char *vmsplice_splice(void)
{
	size_t n = 12 * PAGE;
	uint64_t tag = prepare(src, dst, n);
	struct iovec v = {src, n};
	int fd = file(), p[2];
	loff_t off = 0;

	CHECK(pipe2(p, O_CLOEXEC) == 0);
	CHECK(vmsplice(p[1], &v, 1, 0) == (ssize_t)n);
	evict();
	for (size_t got = 0; got < n;) {
		ssize_t k = splice(p[0], NULL, fd, NULL, n - got, 0);

		CHECK(k > 0);
		got += (size_t)k;
	}
	check(src, n, tag);
	for (size_t got = 0; got < n;) {
		ssize_t k = splice(fd, &off, p[1], NULL, n - got, 0);

		CHECK(k > 0);
		got += (size_t)k;
	}
	evict();
	v.iov_base = dst;
	for (size_t got = 0; got < n;) {
		ssize_t k = vmsplice(p[0], &v, 1, 0);

		CHECK(k > 0);
		got += (size_t)k;
		v.iov_base = dst + got;
		v.iov_len = n - got;
	}
	verify(dst, n, tag);
	close(p[0]);
	close(p[1]);
	close(fd);
	return NULL;
}

static const char *direct(void)
{
	char *from = (char *)(((uintptr_t)src + PAGE - 1) & ~(PAGE - 1)),
	     *to = (char *)(((uintptr_t)dst + PAGE - 1) & ~(PAGE - 1));
	size_t n = (half - PAGE) / 2 & ~(PAGE - 1);
	int fd = temp_file(O_DIRECT);
	uint64_t tag;

	if (fd < 0)
		return "no O_DIRECT in this directory (--dir)";
	tag = prepare(from, to, n);
	CHECK(pwrite(fd, from, n, 0) == (ssize_t)n);
	evict();
	CHECK(pread(fd, to, n, 0) == (ssize_t)n);
	verify(to, n, tag);
	check(from, n, tag);
	close(fd);
	return NULL;
}

static const char *process_vm(void)
{
	size_t n = odd(half);
	uint64_t tag = prepare(src, dst, n);
	struct iovec from = {src, n}, to = {dst, n};
	ssize_t k = process_vm_readv(getpid(), &to, 1, &from, 1, 0);

	if (k < 0 && (errno == EPERM || errno == ENOSYS))
		return "process_vm_readv is not permitted here";
	CHECK(k == (ssize_t)n);
	verify(dst, n, tag);
	return NULL;
}

#include "bbkernel_small.h"
#include "bbkernel_uring.h"

/* --- start and end -------------------------------------------------------- */

static const struct step {
	const char *name;
	const char *(*run)(void);
} steps[] = {
	{"read-write", read_write},
	{"pread-pwrite", pread_pwrite},
	{"vectors", vectors},
	{"send-recv", send_recv},
	{"sendmsg-recvmsg", sendmsg_recvmsg},
	{"sendmmsg-recvmmsg", sendmmsg_recvmmsg},
	{"vmsplice-splice", vmsplice_splice},
	{"getdents64", getdents},
	{"futex", futexes},
	{"getrandom", random_bytes},
	{"o_direct", direct},
	{"process_vm_readv", process_vm},
	{"small", small_things},
	{"exec", exec_args},
	{"io_uring", uring_plain},
	{"io_uring-fixed", uring_fixed},
	{NULL, NULL},
};

static void usage(void)
{
	puts("usage: bbkernel [--size SIZE] [--evict-between SIZE] [--dir DIR] [--only STEP] [--rounds N] [--seed N]\n"
	     "                [--verbose]\nsteps:");
	for (const struct step *s = steps; s->name; s++)
		printf("  %s\n", s->name);
	exit(0);
}

int main(int argc, char **argv)
{
	static const struct option table[] = {
		{"size", 1, NULL, 'z'},	   {"evict-between", 1, NULL, 'e'}, {"dir", 1, NULL, 'd'},
		{"only", 1, NULL, 'o'},	   {"rounds", 1, NULL, 'n'},	    {"seed", 1, NULL, 'r'},
		{"verbose", 0, NULL, 'v'}, {"help", 0, NULL, 'h'},	    {0},
	};
	uint64_t rounds = 1, ran = 0, skipped = 0, size = 8 << 20;
	const char *only = NULL;
	int c;

	app_name = "bbkernel";
	while ((c = getopt_long(argc, argv, "v", table, NULL)) != -1) {
		switch (c) {
		case 'z':
			size = parse_size("--size", optarg);
			if (size < 1 << 20)
				bad_option("--size (at least 1M)", optarg);
			break;
		case 'e':
			other_size = parse_size("--evict-between", optarg);
			break;
		case 'd':
			dir = optarg;
			break;
		case 'o':
			only = optarg;
			break;
		case 'n':
			rounds = parse_size("--rounds", optarg);
			break;
		case 'r':
			rng = parse_size("--seed", optarg);
			break;
		case 'v':
			verbose = true;
			break;
		case 'h':
			usage();
			break;
		default:
			exit(2);
		}
	}
	if (optind < argc)
		bad_option("an argument", argv[optind]);
	step_name = "start";
	half = size / 2 & ~(PAGE - 1);
	src = malloc(2 * half);
	CHECK(src);
	dst = src + half;
	if (other_size) {
		other = calloc(1, other_size);
		CHECK(other);
	}
	for (uint64_t i = 0; i < rounds; i++) {
		for (const struct step *s = steps; s->name; s++) {
			const char *why;

			if (only && strcmp(only, s->name))
				continue;
			step_name = s->name;
			why = s->run();
			ran += !why;
			skipped += why != NULL;
			if (why)
				fprintf(stderr, "bbkernel: %s skipped: %s\n", s->name, why);
			else if (verbose)
				printf("%s ok\n", s->name);
		}
	}
	if (!ran && !skipped)
		bad_option("--only", only ? only : "");
	printf("bbkernel: %lu steps ok, %lu skipped\n", ran, skipped);
	free(src);
	free(other);
	return 0;
}
