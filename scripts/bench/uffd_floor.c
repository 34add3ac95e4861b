/* SPDX-License-Identifier: MIT */
/*
 * The floor of a fault that is resolved in user space: a program touches
 * missing pages, a bare loop in another process fills each from a local buffer
 * by UFFDIO_COPY. No policy, no books, no network: what remains is what the
 * kernel and the switch between two processes cost on this machine.
 *
 * The filler polls, yielding its CPU between empty looks, and sleeps after
 * --spin microseconds without work: the same choices that bbd has. --spin 0
 * sleeps at once.
 *
 * --parts: the filler looks at the clock, too, and beside "fault" there are
 *
 *	read	the read(2) that brought the message
 *	alone	a UFFDIO_COPY of a page that nobody waits for
 *	copy	one that wakes the program: on one CPU that may run before it returns
 *	go	from the beginning of that until the program went on
 *	clock	two looks at the clock, one after the other
 */
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <bluebridge/kernel.h>

#include "bench.h"

const char *const bench_name = "uffd_floor";

static int cpu_program = -1, cpu_filler = -1;
static uint64_t spin_us = 50, ops = 20000, npages = 4096;

/* Shared by the two processes; NULL without --parts. */
static struct parts {
	struct samples read, alone, copy, go, clock;
	_Atomic uint64_t began; /* the last UFFDIO_COPY */
} *parts;
static bool want_parts;

static int uffd_new(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd = -1;

	if (dev >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(dev);
	}
	if (fd < 0)
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		fail("no userfaultfd: %s", strerror(errno));
	if (ioctl(fd, UFFDIO_API, &api) < 0)
		fail("UFFDIO_API: %s", strerror(errno));
	return fd;
}

/* Into the pages behind those that the program touches. */
static void copy_alone(int fd, uint64_t base, const uint8_t *from)
{
	for (uint64_t i = 0; i < npages; i++) {
		struct uffdio_copy c = {
			.dst = base + (npages + i) * PAGE, .src = (uintptr_t)from + i * PAGE, .len = PAGE,
		};
		uint64_t t = bb_now_ns();

		if (ioctl(fd, UFFDIO_COPY, &c) < 0)
			fail("UFFDIO_COPY: %s", strerror(errno));
		samples_add(&parts->alone, bb_now_ns() - t);
	}
}

static __attribute__((noreturn)) void filler(int fd, uint64_t base, const uint8_t *from)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	uint64_t last = bb_now_ns();
	struct uffd_msg msg;

	if (parts)
		copy_alone(fd, base, from);
	for (uint64_t served = 0, t = 0, t_read = 0;;) {
		struct uffdio_copy c = { .len = PAGE };
		ssize_t n;

		if (parts)
			t = bb_now_ns();
		n = read(fd, &msg, sizeof(msg));

		if (n != (ssize_t)sizeof(msg)) {
			if (bb_now_ns() - last < spin_us * 1000)
				sched_yield();
			else
				poll(&pfd, 1, 1000);
			continue;
		}
		if (parts)
			t_read = bb_now_ns() - t;
		c.dst = msg.arg.pagefault.address & ~(PAGE - 1);
		c.src = (uintptr_t)from + (c.dst - base);
		if (parts)
			atomic_store_explicit(&parts->began, t = bb_now_ns(), memory_order_relaxed);
		if (ioctl(fd, UFFDIO_COPY, &c) < 0)
			fail("UFFDIO_COPY: %s", strerror(errno));
		last = bb_now_ns();
		if (!parts || ++served <= ops / 20)
			continue;
		samples_add(&parts->read, t_read);
		samples_add(&parts->copy, last - t);
	}
}

static void measure(uint8_t *at, struct samples *s)
{
	uint64_t rng = 1, *order = own_alloc(npages * sizeof(*order));

	for (uint64_t i = 0; i < npages; i++)
		order[i] = i;
	for (uint64_t i = 0; i < ops; i++) {
		uint64_t k = i % npages, t, took;
		const uint8_t *p;

		if (!k) {
			if (madvise(at, npages * PAGE, MADV_DONTNEED) < 0)
				fail("MADV_DONTNEED: %s", strerror(errno));
			for (uint64_t j = npages - 1; j; j--) {
				uint64_t r = random_below(&rng, j + 1), tmp = order[j];

				order[j] = order[r];
				order[r] = tmp;
			}
		}
		p = at + order[k] * PAGE;
		t = bb_now_ns();
		(void)*(const volatile uint64_t *)(const void *)p;
		took = bb_now_ns() - t;
		if (i >= ops / 20) { /* the first are warm-up */
			samples_add(s, took);
			if (parts) {
				samples_add(&parts->go, t + took - atomic_load_explicit(&parts->began, memory_order_relaxed));
				t = bb_now_ns();
				samples_add(&parts->clock, bb_now_ns() - t);
			}
		}
		if (words_differ(p, WORDS, mix(order[k])) != WORDS)
			fail("page %lu holds other bytes than were filled in", order[k]);
	}
}

static void options(int argc, char **argv)
{
	static const struct option table[] = {
		{ "cpu", 1, NULL, 'c' },   { "filler-cpu", 1, NULL, 'f' }, { "spin", 1, NULL, 's' },
		{ "ops", 1, NULL, 'o' },   { "pages", 1, NULL, 'p' },	   { "parts", 0, NULL, 'P' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", table, NULL)) != -1) {
		switch (c) {
		case 'c':
			cpu_program = atoi(optarg);
			break;
		case 'f':
			cpu_filler = atoi(optarg);
			break;
		case 's':
			spin_us = arg_size("--spin", optarg);
			break;
		case 'o':
			ops = arg_size("--ops", optarg);
			break;
		case 'p':
			npages = arg_size("--pages", optarg);
			break;
		case 'P':
			want_parts = true;
			break;
		default:
			exit(2);
		}
	}
	if (optind < argc || !ops || npages < 2)
		bad_option("an argument", argv[optind < argc ? optind : 0]);
}

int main(int argc, char **argv)
{
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct samples s;
	uint8_t *from, *at;
	pid_t parent = getpid(), child;
	int fd;

	options(argc, argv);
	samples_init(&s, ops);
	if (want_parts) {
		parts = own_alloc(sizeof(*parts));
		samples_init(&parts->read, ops);
		samples_init(&parts->alone, npages);
		samples_init(&parts->copy, ops);
		samples_init(&parts->go, ops);
		samples_init(&parts->clock, ops);
	}
	from = own_alloc(npages * PAGE);
	for (uint64_t i = 0; i < npages; i++)
		words_fill(from + i * PAGE, WORDS, mix(i));
	at = mmap(NULL, 2 * npages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		fail("cannot map: %s", strerror(errno));
	fd = uffd_new();
	reg.range.start = (uintptr_t)at;
	reg.range.len = 2 * npages * PAGE;
	if (ioctl(fd, UFFDIO_REGISTER, &reg) < 0)
		fail("UFFDIO_REGISTER: %s", strerror(errno));
	child = fork();
	if (child < 0)
		fail("fork: %s", strerror(errno));
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		pin(cpu_filler);
		filler(fd, (uintptr_t)at, from);
	}
	pin(cpu_program);
	measure(at, &s);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	for (uint64_t i = 0; parts && i < parts->alone.n; i++)
		if (words_differ(at + (npages + i) * PAGE, WORDS, mix(i)) != WORDS)
			fail("page %lu holds other bytes than were filled in", npages + i);
	printf("{");
	samples_print("fault", &s);
	if (parts) {
		printf(",");
		samples_print("read", &parts->read);
		printf(",");
		samples_print("alone", &parts->alone);
		printf(",");
		samples_print("copy", &parts->copy);
		printf(",");
		samples_print("go", &parts->go);
		printf(",");
		samples_print("clock", &parts->clock);
	}
	printf(",\"verified\":true}\n");
	return 0;
}
