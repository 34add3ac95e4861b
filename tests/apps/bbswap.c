/* SPDX-License-Identifier: MIT */
/*
 * A program of which the kernel has swapped a part out before it outgrew its
 * budget. Fills a block, has it swapped out (MADV_PAGEOUT), allocates and fills
 * a second one, and then: every byte of both is as written; the memory of both
 * that this host holds, resident or swapped, is within --budget; and what is
 * freed and allocated anew reads as zeros. With --no-proc there is no /proc from
 * then on. Exits 77 where the kernel does not
 * swap here.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/mount.h>

#include "app.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define PAGE 4096UL
#define WORDS (PAGE / sizeof(uint64_t))
#define PRESENT (1ULL << 63)
#define SWAPPED (1ULL << 62)

static uint64_t seed = 1;
static int pagemap;

static uint64_t word_of(uint64_t block, uint64_t page, uint64_t word)
{
	return mix(seed << 56 ^ block << 48 ^ page << 12 ^ word);
}

static void fill(uint64_t *p, uint64_t block, uint64_t pages)
{
	for (uint64_t i = 0; i < pages; i++)
		for (uint64_t w = 0; w < WORDS; w++)
			p[i * WORDS + w] = word_of(block, i, w);
}

static void check(const uint64_t *p, uint64_t block, uint64_t pages, uint64_t step)
{
	for (uint64_t i = 0; i < pages; i += step)
		for (uint64_t w = 0; w < WORDS; w++)
			if (p[i * WORDS + w] != word_of(block, i, w))
				fail("block %lu, page %lu of %lu at %p, word %lu: have %016lx, want %016lx", block, i,
				     pages, (const void *)&p[i * WORDS + w], w, p[i * WORDS + w],
				     word_of(block, i, w));
}

static void check_zero(const uint64_t *p, const char *what, uint64_t pages)
{
	for (uint64_t i = 0; i < pages * WORDS; i++)
		if (p[i])
			fail("%s: page %lu of %lu at %p is not zero: %016lx", what, i / WORDS, pages,
			     (const void *)&p[i], p[i]);
}

/* How many pages of the range the kernel holds for us: resident, swapped. */
static void count(const void *at, uint64_t pages, uint64_t *resident, uint64_t *swapped)
{
	static uint64_t entry[512];

	for (uint64_t i = 0; i < pages;) {
		uint64_t n = pages - i < 512 ? pages - i : 512;

		if (pread(pagemap, entry, n * 8, (off_t)(((uintptr_t)at / PAGE + i) * 8)) != (ssize_t)(n * 8))
			fail("/proc/self/pagemap: short read");
		for (uint64_t k = 0; k < n; k++) {
			*resident += !!(entry[k] & PRESENT);
			*swapped += !!(entry[k] & SWAPPED);
		}
		i += n;
	}
}

static void swap_out(void *p, uint64_t pages)
{
	for (int i = 0; i < 20; i++) {
		uint64_t resident = 0, swapped = 0;

		if (madvise(p, pages * PAGE, MADV_PAGEOUT) < 0)
			fail("MADV_PAGEOUT: %s", strerror(errno));
		count(p, pages, &resident, &swapped);
		if (swapped > pages / 2) {
			printf("%lu of %lu pages swapped out\n", swapped, pages);
			return;
		}
		usleep(50000);
	}
	fprintf(stderr, "bbswap: the kernel swaps nothing out here\n");
	exit(77);
}

/* The helper needs a moment for what was touched last. */
static void within(const void *a, uint64_t na, const void *b, uint64_t nb, uint64_t budget)
{
	uint64_t resident, swapped;

	for (int i = 0; i < 50; i++) {
		resident = swapped = 0;
		count(a, na, &resident, &swapped);
		count(b, nb, &resident, &swapped);
		if ((resident + swapped) * PAGE <= budget) {
			printf("%lu pages resident, %lu swapped\n", resident, swapped);
			return;
		}
		usleep(100000);
	}
	fail("%lu pages resident and %lu swapped are more than the budget of %lu", resident, swapped, budget / PAGE);
}

static void *take(size_t bytes, bool by_mmap)
{
	void *p = by_mmap ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
			  : calloc(1, bytes);

	if (!p || p == MAP_FAILED)
		fail("no memory");
	return p;
}

int main(int argc, char **argv)
{
	static const struct option table[] = {
		{ "first", 1, NULL, 'a' }, { "second", 1, NULL, 'b' }, { "budget", 1, NULL, 'u' },
		{ "seed", 1, NULL, 'r' },  { "no-proc", 0, NULL, 'p' }, { 0 },
	};
	uint64_t na = (24 << 20) / PAGE, nb = (64 << 20) / PAGE, budget = 0;
	uint64_t *a, *b, *c;
	bool hide = false;
	int o;

	app_name = "bbswap";
	while ((o = getopt_long(argc, argv, "", table, NULL)) != -1) {
		switch (o) {
		case 'a':
			na = parse_size("--first", optarg) / PAGE;
			break;
		case 'b':
			nb = parse_size("--second", optarg) / PAGE;
			break;
		case 'u':
			budget = parse_size("--budget", optarg);
			break;
		case 'r':
			seed = parse_size("--seed", optarg);
			break;
		case 'p':
			hide = true;
			break;
		default:
			return 2;
		}
	}
	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (pagemap < 0)
		fail("/proc/self/pagemap: %s", strerror(errno));
	/* As in a chroot. */
	if (hide && (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		     umount2("/proc", MNT_DETACH) < 0))
		fail("--no-proc: %s", strerror(errno));
	a = take(na * PAGE, false);
	fill(a, 1, na);
	swap_out(a, na);
	b = take(nb * PAGE, true);
	fill(b, 2, nb);
	if (budget)
		within(a, na, b, nb, budget);
	/* Half of it comes back; all of it goes. */
	check(a, 1, na, 2);
	(void)madvise(b, nb * PAGE, MADV_PAGEOUT);
	check(b, 2, nb, 3);
	free(a);
	c = take(na * PAGE, false);
	check_zero(c, "calloc", na);
	fill(c, 3, na);
	/* Discarded by hand, swapped or not. */
	if (madvise(b, nb / 2 * PAGE, MADV_DONTNEED) < 0)
		fail("MADV_DONTNEED: %s", strerror(errno));
	check_zero(b, "MADV_DONTNEED", nb / 2);
	if (budget)
		within(c, na, b, nb, budget);
	check(c, 3, na, 1);
	fill(b, 4, nb);
	check(b, 4, nb, 1);
	if (munmap(b, nb * PAGE) < 0)
		fail("munmap: %s", strerror(errno));
	b = take(nb * PAGE, true);
	check_zero(b, "mmap", nb);
	check(c, 3, na, 1);
	printf("all as it should be\n");
	return 0;
}
