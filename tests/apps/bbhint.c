/* SPDX-License-Identifier: MIT */
/*
 * bbhint SIZE: walks memory, and says by madvise how. Fills a buffer of SIZE so
 * that every page holds words of its own, then does what standard input says, a
 * line each ("advise NAME all": the whole buffer). With every touch all words of the
 * page are checked, and in the end those of all pages.
 *
 *	walk THREADS ARRAYS		each thread its arrays at a time, page by page
 *	rand OPS			pages at random
 *	advise NAME FIRST N		madvise of pages; NAME in small letters
 *	await FIRST N LEAST MOST	waits until so many of the pages are here (mincore)
 *	touch FIRST N MOST		touches them: that must take no more faults than MOST
 *	handler NAME FIRST N TIMES	madvise by a signal handler while others allocate
 *	fill				at once; else with the first line but advise
 *	sleep MS
 *
 * Exits 1 on the first mismatch; what is waited for has 20 seconds.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "app.h"

#ifndef MADV_COLD
#define MADV_COLD 20
#define MADV_PAGEOUT 21
#endif

#define PAGE 4096UL
#define WORDS (PAGE / sizeof(uint64_t))
#define STEP 0x9e3779b97f4a7c15UL
#define WAIT_NS 20000000000ULL

static char *buffer;
static uint64_t npages, rng = 5;

struct walker {
	pthread_t thread;
	uint64_t first, arrays, pages; /* arrays of so many pages each, one after the other */
};

static void check(uint64_t page)
{
	const uint64_t *w = (const uint64_t *)(void *)(buffer + page * PAGE), base = mix(page + 1);

	for (unsigned int i = 0; i < WORDS; i++)
		if (w[i] != base + i * STEP)
			fail("page %lu of %lu, word %u: have %016lx, want %016lx", page, npages, i, w[i], base + i * STEP);
}

static void fill(void)
{
	for (uint64_t p = 0; p < npages; p++) {
		uint64_t *w = (uint64_t *)(void *)(buffer + p * PAGE), base = mix(p + 1);

		for (unsigned int i = 0; i < WORDS; i++)
			w[i] = base + i * STEP;
	}
}

static void *walk_some(void *arg)
{
	const struct walker *w = arg;

	for (uint64_t p = 0; p < w->pages; p++)
		for (uint64_t a = 0; a < w->arrays; a++)
			check(w->first + a * w->pages + p);
	return NULL;
}

static void walk(uint64_t threads, uint64_t arrays)
{
	struct walker w[64];
	uint64_t t = now_ns();

	if (!threads || threads > 64 || !arrays || threads * arrays > npages)
		bad_option("walk", "too many");
	for (uint64_t i = 0; i < threads; i++) {
		w[i].arrays = arrays;
		w[i].pages = npages / threads / arrays;
		w[i].first = i * arrays * w[i].pages;
		if (pthread_create(&w[i].thread, NULL, walk_some, &w[i]))
			fail("cannot start a thread");
	}
	for (uint64_t i = 0; i < threads; i++)
		pthread_join(w[i].thread, NULL);
	t = now_ns() - t;
	printf("walk %lu %lu: %lu us, %.1f MB/s\n", threads, arrays, t / 1000, (double)(npages * PAGE) * 1e3 / (double)t);
}

static int advice_of(const char *name)
{
	static const struct {
		const char *name;
		int advice;
	} table[] = {
		{ "normal", MADV_NORMAL },     { "random", MADV_RANDOM }, { "sequential", MADV_SEQUENTIAL },
		{ "willneed", MADV_WILLNEED }, { "cold", MADV_COLD },	  { "pageout", MADV_PAGEOUT },
		{ "hugepage", MADV_HUGEPAGE }, { "nohugepage", MADV_NOHUGEPAGE },
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (!strcmp(name, table[i].name))
			return table[i].advice;
	bad_option("advise", name);
}

static void advise(int advice, uint64_t first, uint64_t n)
{
	uint64_t t = now_ns();

	errno = 7;
	/* Where there are no huge pages the kernel says so. */
	if (madvise(buffer + first * PAGE, n * PAGE, advice) < 0 && errno != EINVAL)
		fail("madvise %d of %lu+%lu: %s", advice, first, n, strerror(errno));
	if (errno != 7 && advice != MADV_HUGEPAGE && advice != MADV_NOHUGEPAGE)
		fail("madvise %d: errno is %d", advice, errno);
	t = now_ns() - t;
	if (t > 5000000000ULL)
		fail("madvise %d took %lu us", advice, t / 1000);
	printf("advise %d %lu %lu: %lu us\n", advice, first, n, t / 1000);
}

static uint64_t here(uint64_t first, uint64_t n)
{
	unsigned char v[512];
	uint64_t sum = 0;

	for (uint64_t p = first, k; p < first + n; p += k) {
		k = first + n - p < sizeof(v) ? first + n - p : sizeof(v);
		if (mincore(buffer + p * PAGE, k * PAGE, v) < 0)
			fail("mincore: %s", strerror(errno));
		for (uint64_t i = 0; i < k; i++)
			sum += v[i] & 1;
	}
	return sum;
}

static void await(uint64_t first, uint64_t n, uint64_t least, uint64_t most)
{
	uint64_t end = now_ns() + WAIT_NS, h;

	while (h = here(first, n), h < least || h > most) {
		if (now_ns() > end)
			fail("%lu of the pages %lu+%lu are here, not %lu to %lu", h, first, n, least, most);
		usleep(2000);
	}
	printf("await %lu %lu: %lu here\n", first, n, h);
}

static uint64_t faults(void)
{
	struct rusage u;

	getrusage(RUSAGE_THREAD, &u); /* not the helper's */
	return (uint64_t)(u.ru_majflt + u.ru_minflt);
}

static void touch(uint64_t first, uint64_t n, uint64_t most)
{
	uint64_t f = faults();

	for (uint64_t p = first; p < first + n; p++)
		check(p);
	f = faults() - f;
	printf("touch %lu %lu: %lu faults\n", first, n, f);
	if (f > most)
		fail("%lu faults for the pages %lu+%lu, not at most %lu", f, first, n, most);
}

/* --- in a signal handler ---------------------------------------------------- */

static struct {
	int advice;
	uint64_t first, n;
	_Atomic uint64_t done;
} in_handler;

static void on_signal(int sig)
{
	if (madvise(buffer + in_handler.first * PAGE, in_handler.n * PAGE, in_handler.advice) < 0)
		fail("madvise in a handler: %s", strerror(errno));
	atomic_fetch_add(&in_handler.done, 1);
}

static _Atomic int over;

static void *allocate(void *arg)
{
	while (!atomic_load(&over)) {
		uint64_t *p = malloc(300 << 10);

		if (!p)
			fail("out of memory");
		*p = 1;
		free(p);
	}
	return NULL;
}

static void handler(int advice, uint64_t first, uint64_t n, uint64_t times)
{
	struct sigaction sa = { .sa_handler = on_signal };
	uint64_t end = now_ns() + WAIT_NS;
	pthread_t t;

	in_handler.advice = advice;
	in_handler.first = first;
	in_handler.n = n;
	atomic_store(&over, 0);
	sigaction(SIGUSR1, &sa, NULL);
	if (pthread_create(&t, NULL, allocate, NULL))
		fail("cannot start a thread");
	for (uint64_t i = 0, d; i < times; i++) {
		d = atomic_load(&in_handler.done);
		pthread_kill(t, SIGUSR1);
		while (atomic_load(&in_handler.done) == d)
			if (now_ns() > end)
				fail("a handler does not return from madvise");
	}
	atomic_store(&over, 1);
	pthread_join(t, NULL);
	printf("handler: %lu\n", times);
}

int main(int argc, char **argv)
{
	char line[256], what[16], name[16];

	app_name = "bbhint";
	if (argc != 2)
		bad_option("an argument", "expected SIZE");
	npages = parse_size("SIZE", argv[1]) / PAGE;
	buffer = mmap(NULL, npages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buffer == MAP_FAILED)
		fail("no memory");
	for (int filled = 0; fgets(line, sizeof(line), stdin); fflush(stdout)) {
		uint64_t a = 0, b = 0, c = 0, d = 0;

		/* "advise" may come before anything else: of memory that is not there yet. */
		if (!filled && strncmp(line, "advise", 6)) {
			fill();
			filled = 1;
		}
		if (sscanf(line, "%15s", what) < 1 || !strcmp(what, "fill"))
			continue;
		if (strstr(line, " all"))
			snprintf(strstr(line, " all"), 64, " 0 %lu\n", npages);
		if (sscanf(line, "advise %15s %lu %lu", name, &a, &b) == 3)
			advise(advice_of(name), a, b);
		else if (sscanf(line, "handler %15s %lu %lu %lu", name, &a, &b, &c) == 4)
			handler(advice_of(name), a, b, c);
		else if (sscanf(line, "walk %lu %lu", &a, &b) == 2)
			walk(a, b);
		else if (sscanf(line, "rand %lu", &a) == 1)
			while (a--)
				check(random_below(&rng, npages));
		else if (sscanf(line, "await %lu %lu %lu %lu", &a, &b, &c, &d) == 4)
			await(a, b, c, d);
		else if (sscanf(line, "touch %lu %lu %lu", &a, &b, &c) == 3)
			touch(a, b, c);
		else if (sscanf(line, "sleep %lu", &a) == 1)
			usleep((useconds_t)a * 1000);
		else
			bad_option("a command", line);
	}
	for (uint64_t p = 0; p < npages; p++)
		check(p);
	printf("every page verified\n");
	return 0;
}
