/* SPDX-License-Identifier: MIT */
/*
 * The program whose faults are measured. It fills a buffer, page by page, with
 * words derived from page number and version, and then does what standard
 * input says, one line a time, answering each with one line of JSON:
 *
 *	rand OPS WRITES [THREADS]	touch OPS random pages, WRITES percent written
 *	time MS WRITES [THREADS]	the same, for as long as that
 *	seq OPS				touch the next OPS pages in order
 *	hot PAGES OPS			of the first PAGES one at random, then one of the
 *					others in order, OPS times: "slow" are of the former
 *	check				compare every page of the buffer
 *	fresh PAGES WRITES		touch that many pages of new memory in order, for the
 *					first time: all are written, or all only read
 *	old				compare them, and free them
 *
 * --file: the buffer is that file, mapped, and not memory of the program.
 * --every N: only one page in N is ever touched; pages are counted without the others.
 * --allocations N: so many pieces, which the program has allocated each for itself.
 * --content random|half|text: pages that can be compressed, see bench.h.
 *
 * The time of a touch is that of the first access to the page; the whole page
 * is compared after it. "slow" are the touches of more than 2 microseconds:
 * a page that is here takes less than 1 us, the cheapest fault that a userfaultfd
 * resolves several microseconds, and nothing lies between. So "slow" are the
 * faults. That nearly all of them went to another host is what the driver
 * checks against the daemon's count.
 */
#include "bench.h"

#include <fcntl.h>
#include <pthread.h>

#define FAULT_NS 2000
#define OPS_MAX (1UL << 20)
#define THREADS 16

const char *const bench_name = "fault";

static uint64_t npages, at;
static uint64_t every = 1, npieces = 1, per_piece; /* pages that are touched */
static uint8_t **piece;
static uint32_t *version;
enum { RANDOM, HALF, TEXT };
static int content;

static struct worker {
	pthread_t thread;
	uint64_t rng, ops, until; /* until: ns; 0: ops say how many */
	unsigned int index, of, writes;
	struct samples slow, fast;
} workers[THREADS];

static uint64_t seed_of(uint64_t page)
{
	return mix(page << 32 ^ version[page] ^ 0xbbUL << 24);
}

static uint8_t *page_aligned(void *p)
{
	return (uint8_t *)(((uintptr_t)p + PAGE - 1) & ~(PAGE - 1));
}

static uint8_t *page_at(uint64_t page)
{
	return piece[page / per_piece] + page % per_piece * every * PAGE;
}

static void fill(uint64_t page)
{
	const uint64_t seed = seed_of(page);
	uint64_t *w = (void *)page_at(page);

	if (content == RANDOM)
		words_fill(w, WORDS, seed);
	for (unsigned int i = 0; content != RANDOM && i < WORDS; i++)
		w[i] = compressible_word(content == TEXT, i, seed);
}

static unsigned int first_wrong(uint64_t page)
{
	const uint64_t *w = (const void *)page_at(page), seed = seed_of(page);
	unsigned int i = 0;

	if (content == RANDOM)
		return words_differ(w, WORDS, seed);
	if (spoiled())
		return 0;
	while (i < WORDS && w[i] == compressible_word(content == TEXT, i, seed))
		i++;
	return i;
}

static void check(uint64_t page)
{
	unsigned int i = first_wrong(page);

	if (i != WORDS)
		fail("page %lu of %lu at %p, word %u: other bytes than were written (version %u)", page, npages,
		     (void *)page_at(page), i, version[page]);
}

static void touch(struct worker *w, uint64_t page, bool write)
{
	volatile uint64_t *first = (volatile uint64_t *)(void *)page_at(page);
	uint64_t t = bb_now_ns(), took, old = *first;

	if (write)
		*first = old;
	took = bb_now_ns() - t;
	samples_add(took > FAULT_NS ? &w->slow : &w->fast, took);
	check(page);
	if (write) {
		version[page]++;
		fill(page);
	}
}

/* Threads have pages of their own: nobody else changes what one compares. */
static void *random_touches(void *arg)
{
	struct worker *w = arg;

	uint64_t i;

	for (i = 0; w->until ? bb_now_ns() < w->until : i < w->ops; i++) {
		uint64_t page = random_below(&w->rng, npages / w->of) * w->of + w->index;

		touch(w, page, w->writes && random_below(&w->rng, 100) < w->writes);
	}
	w->ops = i;
	return NULL;
}

/* Return: how many there were. */
static uint64_t rand_touches(uint64_t ops, uint64_t until, unsigned int writes, unsigned int threads)
{
	uint64_t sum;

	for (unsigned int i = 0; i < threads; i++) {
		struct worker *w = &workers[i];

		w->ops = ops / threads;
		w->until = until;
		w->writes = writes;
		w->index = i;
		w->of = threads;
		if (i && pthread_create(&w->thread, NULL, random_touches, w))
			fail("cannot start thread %u", i);
	}
	random_touches(&workers[0]);
	sum = workers[0].ops;
	for (unsigned int i = 1; i < threads; i++) {
		pthread_join(workers[i].thread, NULL);
		sum += workers[i].ops;
	}
	return sum;
}

static void hot_touches(uint64_t hot, uint64_t ops)
{
	struct worker *w = &workers[0], *scan = &workers[1];

	if (!hot || hot >= npages)
		bad_option("PAGES", "fewer than there are");
	for (uint64_t i = 0; i < ops; i++) {
		touch(w, random_below(&w->rng, hot), false);
		touch(scan, hot + at++ % (npages - hot), false);
	}
	scan->slow.n = scan->fast.n = 0;
}

static struct {
	uint8_t *all, *first;
	uint64_t pages;
	bool written;
} new;

static void fresh(uint64_t pages, bool write)
{
	struct samples *s = &workers[0].slow;
	uint8_t *p;
	uint64_t t, ns;

	new.all = malloc((pages + 1) * PAGE);
	if (!new.all)
		fail("cannot allocate %lu pages", pages);
	p = new.first = page_aligned(new.all);
	new.pages = pages;
	new.written = write;
	s->n = 0;
	t = bb_now_ns();
	for (uint64_t i = 0; i < pages; i++) {
		volatile uint64_t *word = (volatile uint64_t *)(void *)(p + i * PAGE);
		uint64_t began = bb_now_ns();

		if (write)
			*word = mix(i + 1);
		else
			(void)*word;
		samples_add(s, bb_now_ns() - began);
	}
	ns = bb_now_ns() - t;
	printf("{\"ops\":%lu,\"ns\":%lu,", pages, ns);
	samples_print("slow", s);
	printf("}\n");
	s->n = 0;
}

static void old(void)
{
	for (uint64_t i = 0; i < new.pages; i++) {
		const uint64_t *w = (const uint64_t *)(const void *)(new.first + i * PAGE);
		uint64_t other = 0;

		for (unsigned int k = 1; k < WORDS; k++)
			other |= w[k];
		if (*w != (new.written ? mix(i + 1) : 0) || other)
			fail("new page %lu at %p: other bytes than were written", i, (const void *)w);
	}
	free(new.all);
	new.all = NULL;
	printf("{\"verified\":true}\n");
}

/* All of the others' are the first's. */
static void gather(struct samples *to, size_t offset)
{
	for (unsigned int i = 1; i < THREADS; i++) {
		struct samples *s = (struct samples *)(void *)((char *)&workers[i] + offset);

		for (uint64_t k = 0; k < s->n; k++)
			samples_add(to, s->ns[k]);
		s->n = 0;
	}
}

static void run(const char *what, uint64_t a, uint64_t b, uint64_t c)
{
	struct worker *w = &workers[0];
	uint64_t t, ns, ops = *what == 'h' ? b : a;

	w->slow.n = w->fast.n = 0;
	t = bb_now_ns();
	if (*what == 'r')
		ops = rand_touches(a, 0, (unsigned int)b, (unsigned int)c);
	else if (*what == 't')
		ops = rand_touches(0, t + a * 1000000, (unsigned int)b, (unsigned int)c);
	else if (*what == 'h')
		hot_touches(a, b);
	else
		for (uint64_t i = 0; i < ops; i++)
			touch(w, at++ % npages, false);
	ns = bb_now_ns() - t;
	gather(&w->slow, offsetof(struct worker, slow));
	gather(&w->fast, offsetof(struct worker, fast));
	printf("{\"ops\":%lu,\"ns\":%lu,", ops, ns);
	samples_print("slow", &w->slow);
	printf(",");
	samples_print("fast", &w->fast);
	printf(",\"verified\":true}\n");
}

static void pieces_new(uint64_t pages)
{
	const uint64_t size = pages / npieces;

	per_piece = size / every;
	if (!per_piece)
		bad_option("--allocations", "too many for the size");
	npages = per_piece * npieces;
	piece = own_alloc(npieces * sizeof(*piece));
	for (uint64_t i = 0; i < npieces; i++) {
		void *all = malloc((size + 1) * PAGE);

		if (!all)
			fail("cannot allocate %lu pages", size);
		piece[i] = page_aligned(all);
	}
}

static uint8_t *map_file(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	void *p;

	if (fd < 0 || ftruncate(fd, (off_t)(npages * PAGE)))
		fail("%s: %s", path, strerror(errno));
	p = mmap(NULL, npages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		fail("%s: %s", path, strerror(errno));
	close(fd);
	return p;
}

/* Return: what pages are made of, or -1. */
static int kind_of(const char *name)
{
	return !strcmp(name, "random") ? RANDOM : !strcmp(name, "half") ? HALF : !strcmp(name, "text") ? TEXT : -1;
}

int main(int argc, char **argv)
{
	const char *file = NULL;
	char line[128], what[16];

	if (argc < 2 || argc % 2)
		bad_option("an argument", "expected SIZE [--file PATH | --every N | --allocations N | --content KIND]...");
	npages = arg_size("size", argv[1]) / PAGE;
	for (int i = 2; i < argc; i += 2) {
		if (!strcmp(argv[i], "--file"))
			file = argv[i + 1];
		else if (!strcmp(argv[i], "--every"))
			every = strtoul(argv[i + 1], NULL, 10);
		else if (!strcmp(argv[i], "--allocations"))
			npieces = strtoul(argv[i + 1], NULL, 10);
		else if (!strcmp(argv[i], "--content") && kind_of(argv[i + 1]) >= 0)
			content = kind_of(argv[i + 1]);
		else
			bad_option("an option", argv[i]);
	}
	if (!every || !npieces || (file && (every > 1 || npieces > 1)))
		bad_option("--every, --allocations", "expected numbers, and no file");
	for (unsigned int i = 0; i < THREADS; i++) {
		workers[i].rng = 7 + i;
		samples_init(&workers[i].slow, OPS_MAX);
		samples_init(&workers[i].fast, OPS_MAX);
	}
	if (file) {
		piece = own_alloc(sizeof(*piece));
		piece[0] = map_file(file);
		per_piece = npages;
	} else {
		pieces_new(npages);
	}
	version = own_alloc(npages * sizeof(*version));
	for (uint64_t i = 0; i < npages; i++)
		fill(i);
	printf("{\"pid\":%d,\"pages\":%lu}\n", (int)getpid(), npages);
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		uint64_t a = 0, b = 0, c = 1;

		if (sscanf(line, "%15s %lu %lu %lu", what, &a, &b, &c) < 1)
			continue;
		if (!strcmp(what, "check")) {
			for (uint64_t i = 0; i < npages; i++)
				check(i);
			printf("{\"verified\":true}\n");
		} else if (!strcmp(what, "fresh") && a && a <= OPS_MAX && !new.all) {
			fresh(a, b);
		} else if (!strcmp(what, "old") && new.all) {
			old();
		} else if ((!strcmp(what, "rand") || !strcmp(what, "seq") || !strcmp(what, "hot") || !strcmp(what, "time")) && a && a <= OPS_MAX &&
			   b <= OPS_MAX && c >= 1 && c <= THREADS) {
			run(what, a, b, c);
		} else {
			bad_option("a command", line);
		}
		fflush(stdout);
	}
	return 0;
}
