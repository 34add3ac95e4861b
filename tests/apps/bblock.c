/* SPDX-License-Identifier: MIT */
/*
 * mlock and paged memory. Locked pages are resident and stay so while others
 * come and go, more of them than --budget if need be; unlocked ones go again;
 * what is freed while it is locked is neither locked nor full afterwards; and
 * mlockall is survived. All bytes are checked all the time.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/mman.h>

#include "app.h"

#define PAGE 4096UL
#define WORDS (PAGE / sizeof(uint64_t))
#define MIB (1UL << 20)

static uint64_t rng = 7;

static void fill(uint64_t *p, uint64_t key, uint64_t pages)
{
	for (uint64_t i = 0; i < pages * WORDS; i++)
		p[i] = mix(key << 40 ^ i);
}

static void check_page(const uint64_t *p, uint64_t key, uint64_t page)
{
	for (uint64_t i = page * WORDS; i < (page + 1) * WORDS; i++)
		if (p[i] != mix(key << 40 ^ i))
			fail("key %lu, page %lu, word %lu: have %016lx, want %016lx", key, page, i % WORDS, p[i],
			     mix(key << 40 ^ i));
}

static void check(const uint64_t *p, uint64_t key, uint64_t pages)
{
	for (uint64_t i = 0; i < pages; i++)
		check_page(p, key, i);
}

/* So that whatever may go has to. */
static void hammer(uint64_t *p, uint64_t key, uint64_t pages)
{
	for (int i = 0; i < 4000; i++)
		check_page(p, key, random_below(&rng, pages));
}

static uint64_t resident(const void *p, uint64_t pages)
{
	static unsigned char in[1 << 16];
	uint64_t n = 0;

	if (mincore((void *)(uintptr_t)p, pages * PAGE, in) < 0)
		fail("mincore: %s", strerror(errno));
	for (uint64_t i = 0; i < pages; i++)
		n += in[i] & 1;
	return n;
}

/* VmLck of /proc/self/status, in KiB. */
static unsigned long locked(void)
{
	char text[4096], *at;
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	close(fd);
	if (n < 0)
		fail("/proc/self/status: %s", strerror(errno));
	text[n] = 0;
	at = strstr(text, "VmLck:");
	return at ? strtoul(at + 6, NULL, 10) : 0;
}

static void must_be_in(const char *what, const void *p, uint64_t pages)
{
	uint64_t in = resident(p, pages);

	if (in != pages)
		fail("%s: only %lu of %lu locked pages are resident", what, in, pages);
}

static uint64_t *take(uint64_t pages)
{
	void *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		fail("no memory");
	return p;
}

static void lock_part(uint64_t *p, uint64_t pages, uint64_t first, uint64_t n, uint64_t budget)
{
	uint64_t in = 0;

	if (mlock(p + first * WORDS, n * PAGE) < 0)
		fail("mlock of %lu pages: %s", n, strerror(errno));
	must_be_in("locked", p + first * WORDS, n);
	hammer(p, 1, pages);
	must_be_in("later", p + first * WORDS, n);
	if (munlock(p + first * WORDS, n * PAGE) < 0)
		fail("munlock: %s", strerror(errno));
	for (int i = 0; i < 50 && budget; i++) {
		hammer(p, 1, pages);
		in = resident(p, pages);
		if (in * PAGE <= budget)
			break;
	}
	if (budget && in * PAGE > budget)
		fail("%lu pages are resident after the lock is gone: more than the budget", in);
	check(p, 1, pages);
}

static void free_locked(uint64_t *p, uint64_t pages)
{
	uint64_t *q = take(pages);

	fill(q, 2, pages);
	if (mlock(q, pages * PAGE) < 0)
		fail("mlock: %s", strerror(errno));
	check(q, 2, pages);
	if (madvise(q, pages / 4 * PAGE, MADV_DONTNEED) == 0) {
		for (uint64_t i = 0; i < pages / 4 * WORDS; i++)
			if (q[i])
				fail("MADV_DONTNEED of locked memory: word %lu is not zero", i);
	} else if (errno == EINVAL) {
		check(q, 2, pages / 4);
	} else {
		fail("MADV_DONTNEED of locked memory: %s", strerror(errno));
	}
	if (munmap(q, pages * PAGE) < 0)
		fail("munmap: %s", strerror(errno));
	hammer(p, 1, pages);
	q = take(pages);
	for (uint64_t i = 0; i < pages * WORDS; i++)
		if (q[i])
			fail("mmap after munmap of locked memory: word %lu is not zero", i);
	fill(q, 3, pages);
	hammer(p, 1, pages);
	check(q, 3, pages);
	munmap(q, pages * PAGE);
	if (locked())
		fail("%lu KiB are locked, and nobody has them", locked());
}

static void lock_all(uint64_t *p, uint64_t pages, int flags)
{
	uint64_t *q;

	if (mlockall(flags) < 0)
		fail("mlockall: %s", strerror(errno));
	hammer(p, 1, pages);
	q = take(pages / 4);
	fill(q, 4, pages / 4);
	check(q, 4, pages / 4);
	if (munlockall() < 0)
		fail("munlockall: %s", strerror(errno));
	check(q, 4, pages / 4);
	munmap(q, pages / 4 * PAGE);
	check(p, 1, pages);
}

int main(int argc, char **argv)
{
	uint64_t pages = 48 * MIB / PAGE, budget = argc > 1 ? parse_size("the budget", argv[1]) : 0;
	uint64_t *p;

	app_name = "bblock";
	p = take(pages);
	fill(p, 1, pages);
	lock_part(p, pages, 100, 4 * MIB / PAGE, budget);
	/* More than the budget: what it then goes over by it keeps. */
	lock_part(p, pages, pages / 2 + 3, 20 * MIB / PAGE, 0);
	free_locked(p, pages / 8);
	lock_all(p, pages, MCL_CURRENT);
	lock_part(p, pages, 7, 2 * MIB / PAGE, 0);
	lock_all(p, pages, MCL_CURRENT | MCL_FUTURE);
	lock_part(p, pages, 7, 2 * MIB / PAGE, 0);
	printf("all as it should be\n");
	return 0;
}
