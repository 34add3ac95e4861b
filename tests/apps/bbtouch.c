/* SPDX-License-Identifier: MIT */
/*
 * bbtouch: a load generator. Fills a buffer so that every page holds words
 * derived from its number and version, then touches pages in a pattern, a part
 * of the touches being writes of the next version. Every touch checks the
 * whole page; a last pass checks all pages. Exits 1 on the first mismatch.
 *
 * Latency is that of the first access to the page, where a fault would be;
 * operations a second count the checks too. Each thread has its own part of
 * the buffer. The versions lie in shared memory, which is none of BlueBridge's.
 */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>

#include "app.h"

#define PAGE 4096UL
#define WORDS (PAGE / sizeof(uint64_t))
#define STEP 0x9e3779b97f4a7c15UL
#define HOT_PAGES 10   /* percent of the pages ... */
#define HOT_TOUCHES 90 /* ... get this percent of the touches */

enum pattern { SEQ, RAND, STRIDE, HOT };
enum content { RANDOM, HALF, TEXT, ZERO };
static const char *const content_name[] = {"random", "half", "text", "zero", NULL};
static enum content content;
static const char *const pattern_name[] = {"seq", "rand", "stride", "hot", NULL};
enum how { MALLOC, CALLOC, MMAP, MEMALIGN };
static const char *const how_name[] = {"malloc", "calloc", "mmap", "memalign", NULL};

static uint64_t size = 64 << 20, ops, seed = 1, stride = 16, npages;
static double seconds;
static unsigned int writes, nthreads = 1;
static enum pattern pattern = RAND;
static enum how how = MALLOC;
static bool json;

static char *buffer;
static uint32_t *version;
static pthread_barrier_t barrier;
static _Atomic bool stop;

/* 16 buckets a power of two. */
#define SUB 16
struct hist {
	uint64_t count, sum, max, bucket[64 * SUB];
};

struct worker {
	pthread_t thread;
	uint64_t first, n, ops, wrote, fill_ns, run_ns;
	unsigned int id;
	struct hist hist;
};

static unsigned int bucket_of(uint64_t ns)
{
	unsigned int b;

	if (ns < SUB)
		return (unsigned int)ns;
	b = 63 - (unsigned int)__builtin_clzll(ns);
	return (b - 3) * SUB + (unsigned int)(ns >> (b - 4) & (SUB - 1));
}

static uint64_t bucket_value(unsigned int i)
{
	return i < SUB ? i : (uint64_t)(SUB + i % SUB) << (i / SUB - 1);
}

static void hist_add(struct hist *h, uint64_t ns)
{
	h->bucket[bucket_of(ns)]++;
	h->count++;
	h->sum += ns;
	if (ns > h->max)
		h->max = ns;
}

static uint64_t hist_quantile(const struct hist *h, unsigned int permille)
{
	uint64_t want = (h->count * permille + 999) / 1000, seen = 0;

	for (unsigned int i = 0; i < 64 * SUB; i++) {
		seen += h->bucket[i];
		if (seen && seen >= want)
			return bucket_value(i);
	}
	return 0;
}

/* --- pages ---------------------------------------------------------------- */

/* Half: the second half is zeros. Text: 256 words of eight letters, which lz4 makes half as long. */
static uint64_t word(uint64_t base, unsigned int i)
{
	uint64_t z;

	if (content == RANDOM || (content == HALF && i < WORDS / 2))
		return base + i * STEP;
	if (content == HALF || content == ZERO)
		return 0;
	z = (base + i * STEP) * 0xbf58476d1ce4e5b9ULL;
	return (mix((z >> 56) + 1) & 0x0f0f0f0f0f0f0f0fULL) + 0x6161616161616161ULL;
}

static uint64_t base_of(uint64_t page, uint32_t v)
{
	return mix(page << 32 ^ v ^ seed << 17);
}

static void page_write(uint64_t page, uint32_t v)
{
	uint64_t *w = (uint64_t *)(void *)(buffer + page * PAGE), base = base_of(page, v);

	for (unsigned int i = 0; i < WORDS; i++)
		w[i] = word(base, i);
}

static void page_check(uint64_t page, uint32_t v)
{
	const uint64_t *w = (const uint64_t *)(void *)(buffer + page * PAGE);
	uint64_t base = base_of(page, v), bad = 0;

	for (unsigned int i = 0; i < WORDS; i++)
		bad |= w[i] ^ word(base, i);
	if (!bad)
		return;
	for (unsigned int i = 0; i < WORDS; i++)
		if (w[i] != word(base, i))
			fail("page %lu of %lu at %p, word %u: have %016lx, want %016lx (version %u)", page, npages,
			     (const void *)&w[i], i, w[i], word(base, i), v);
	fail("page %lu at %p changed between two reads", page, (const void *)w);
}

static uint64_t pick(struct worker *w, uint64_t i, uint64_t *rng)
{
	uint64_t hot = w->n * HOT_PAGES / 100, rows;

	switch (pattern) {
	case SEQ:
		return i % w->n;
	case STRIDE:
		/* Column by column, so that every page has its turn. */
		rows = (w->n + stride - 1) / stride;
		i %= rows * stride;
		i = i % rows * stride + i / rows;
		return i < w->n ? i : w->n - 1;
	case HOT:
		if (hot && random_below(rng, 100) < HOT_TOUCHES)
			return random_below(rng, hot);
		break;
	case RAND:
		break;
	}
	return random_below(rng, w->n);
}

static void touch(struct worker *w, uint64_t page, bool write)
{
	volatile uint64_t *first = (volatile uint64_t *)(void *)(buffer + page * PAGE);
	uint64_t t = now_ns();

	if (write) {
		/* The old version is checked in the word that is about to go. */
		uint64_t old = *first;

		*first = word(base_of(page, version[page] + 1), 0);
		hist_add(&w->hist, now_ns() - t);
		if (old != word(base_of(page, version[page]), 0))
			fail("page %lu of %lu at %p, word 0: have %016lx, want %016lx (version %u)", page, npages,
			     (void *)(uintptr_t)first, old, word(base_of(page, version[page]), 0), version[page]);
		page_write(page, ++version[page]);
		w->wrote++;
	} else {
		(void)*first;
		hist_add(&w->hist, now_ns() - t);
		page_check(page, version[page]);
	}
}

static void *work(void *arg)
{
	struct worker *w = arg;
	uint64_t rng = mix(seed * 1000 + w->id), t = now_ns(), i;

	for (i = 0; i < w->n; i++)
		page_write(w->first + i, version[w->first + i]);
	w->fill_ns = now_ns() - t;
	pthread_barrier_wait(&barrier);
	t = now_ns();
	for (i = 0; ops ? i < ops : !atomic_load_explicit(&stop, memory_order_relaxed); i++)
		touch(w, w->first + pick(w, i, &rng), writes && random_below(&rng, 100) < writes);
	w->ops = i;
	w->run_ns = now_ns() - t;
	pthread_barrier_wait(&barrier);
	for (i = 0; i < w->n; i++)
		page_check(w->first + i, version[w->first + i]);
	return NULL;
}

/* --- start and end -------------------------------------------------------- */

static void allocate(void)
{
	void *p = NULL;
	int e;

	switch (how) {
	case MALLOC:
		p = malloc(size + PAGE);
		break;
	case CALLOC:
		p = calloc(npages + 1, PAGE);
		break;
	case MMAP:
		p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		p = p == MAP_FAILED ? NULL : p;
		break;
	case MEMALIGN:
		e = posix_memalign(&p, 2 << 20, size);
		if (e)
			p = NULL;
		break;
	}
	if (!p)
		fail("cannot allocate %lu bytes by %s: %s", size, how_name[how], strerror(errno));
	buffer = (char *)(((uintptr_t)p + PAGE - 1) & ~(PAGE - 1));
	if (how == CALLOC)
		for (uint64_t i = 0; i < npages * PAGE; i += PAGE)
			if (*(uint64_t *)(void *)(buffer + i))
				fail("calloc'ed byte %lu is not zero", i);
	version = mmap(NULL, npages * sizeof(*version), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (version == MAP_FAILED)
		fail("cannot map the versions: %s", strerror(errno));
}

static void report(const struct worker *w)
{
	static struct hist all;
	uint64_t done = 0, wrote = 0, fill = 0, run = 0;
	double s;

	for (unsigned int t = 0; t < nthreads; t++) {
		done += w[t].ops;
		wrote += w[t].wrote;
		fill = w[t].fill_ns > fill ? w[t].fill_ns : fill;
		run = w[t].run_ns > run ? w[t].run_ns : run;
		all.count += w[t].hist.count;
		all.sum += w[t].hist.sum;
		all.max = w[t].hist.max > all.max ? w[t].hist.max : all.max;
		for (unsigned int i = 0; i < 64 * SUB; i++)
			all.bucket[i] += w[t].hist.bucket[i];
	}
	s = (double)run / 1e9;
	printf(json ? "{\"size\":%lu,\"alloc\":\"%s\",\"pattern\":\"%s\",\"writes_percent\":%u,\"threads\":%u,"
		      "\"seed\":%lu,\"fill_seconds\":%.3f,\"ops\":%lu,\"writes\":%lu,\"seconds\":%.3f,\"ops_per_s\":%."
		      "0f,"
		      "\"mb_per_s\":%.1f,\"p50_ns\":%lu,\"p99_ns\":%lu,\"mean_ns\":%.0f,\"max_ns\":%lu,\"verified\":"
		      "true}\n"
		    : "size %lu alloc %s pattern %s writes %u%% threads %u seed %lu\n"
		      "fill %.3f s\n%lu touches (%lu writes) in %.3f s: %.0f/s, %.1f MB/s\n"
		      "access p50 %lu ns, p99 %lu ns, mean %.0f ns, max %lu ns\nevery page verified\n",
	       size, how_name[how], pattern_name[pattern], writes, nthreads, seed, (double)fill / 1e9, done, wrote, s,
	       s > 0 ? (double)done / s : 0, s > 0 ? (double)done * PAGE / 1e6 / s : 0, hist_quantile(&all, 500),
	       hist_quantile(&all, 990), all.count ? (double)all.sum / (double)all.count : 0, all.max);
}

static int choice(const char *name, const char *value, const char *const *of)
{
	for (int i = 0; of[i]; i++)
		if (!strcmp(value, of[i]))
			return i;
	bad_option(name, value);
}

static void usage(void)
{
	puts("usage: bbtouch [--size SIZE] [--pattern seq|rand|stride|hot] [--stride PAGES] [--writes PERCENT]\n"
	     "               [--threads N] [--ops N | --seconds S] [--seed N] [--alloc malloc|calloc|mmap|memalign]\n"
	     "               [--content random|half|text|zero] [--json]\n"
	     "--ops counts a thread; 0 with --seconds 0 only fills and verifies. Default: --size 64M --seconds 2");
	exit(0);
}

static void options(int argc, char **argv)
{
	static const struct option table[] = {
		{"size", 1, NULL, 'z'},	   {"pattern", 1, NULL, 'p'}, {"stride", 1, NULL, 'd'},
		{"writes", 1, NULL, 'w'},  {"threads", 1, NULL, 't'}, {"ops", 1, NULL, 'o'},
		{"seconds", 1, NULL, 's'}, {"seed", 1, NULL, 'r'},    {"alloc", 1, NULL, 'a'},
		{"content", 1, NULL, 'c'}, {"json", 0, NULL, 'j'},	   {"help", 0, NULL, 'h'},    {0},
	};
	bool limited = false;
	uint64_t v;
	int c;

	while ((c = getopt_long(argc, argv, "j", table, NULL)) != -1) {
		switch (c) {
		case 'z':
			size = parse_size("--size", optarg) & ~(PAGE - 1);
			break;
		case 'p':
			pattern = (enum pattern)choice("--pattern", optarg, pattern_name);
			break;
		case 'd':
			stride = parse_size("--stride", optarg);
			break;
		case 'w':
			v = parse_size("--writes", optarg);
			if (v > 100)
				bad_option("--writes", optarg);
			writes = (unsigned int)v;
			break;
		case 't':
			v = parse_size("--threads", optarg);
			if (!v || v > 1024)
				bad_option("--threads", optarg);
			nthreads = (unsigned int)v;
			break;
		case 'o':
			ops = parse_size("--ops", optarg);
			limited = true;
			break;
		case 's':
			seconds = parse_double("--seconds", optarg);
			limited = true;
			break;
		case 'r':
			seed = parse_size("--seed", optarg);
			break;
		case 'a':
			how = (enum how)choice("--alloc", optarg, how_name);
			break;
		case 'c':
			content = (enum content)choice("--content", optarg, content_name);
			break;
		case 'j':
			json = true;
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
	if (!limited)
		seconds = 2;
	npages = size / PAGE;
	if (npages < nthreads || !stride) {
		fprintf(stderr, "bbtouch: --size must give every thread a page, --stride must not be 0\n");
		exit(2);
	}
}

int main(int argc, char **argv)
{
	struct worker *w;

	app_name = "bbtouch";
	options(argc, argv);
	allocate();
	w = calloc(nthreads, sizeof(*w));
	if (!w || pthread_barrier_init(&barrier, NULL, nthreads + 1))
		fail("out of memory");
	for (unsigned int t = 0; t < nthreads; t++) {
		w[t].id = t;
		w[t].first = npages * t / nthreads;
		w[t].n = npages * (t + 1) / nthreads - w[t].first;
		errno = pthread_create(&w[t].thread, NULL, work, &w[t]);
		if (errno)
			fail("cannot start a thread: %s", strerror(errno));
	}
	pthread_barrier_wait(&barrier);
	if (!ops) {
		struct timespec ts = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (time_t)seconds) * 1e9)};

		nanosleep(&ts, NULL);
		atomic_store(&stop, true);
	}
	pthread_barrier_wait(&barrier);
	for (unsigned int t = 0; t < nthreads; t++)
		pthread_join(w[t].thread, NULL);
	report(w);
	return 0;
}
