/* SPDX-License-Identifier: MIT */
/*
 * A program that does what programs do with memory, at random, and knows what
 * every byte of it must be:
 *
 *	bbchaos [--seed N] [--seconds S] [--size MIB] [--threads N] [--stall S]
 *
 * Each thread has blocks of its own. A page of a block has a version; version,
 * block and page number make its 512 words (0: zeros), so nothing is kept twice.
 * The versions lie in static memory, which no library pages out.
 *
 * A thread allocates (malloc, calloc, aligned_alloc, mmap), frees, writes, reads,
 * grows and shrinks (realloc, mremap), discards (MADV_DONTNEED), passes pages
 * through a pipe (so that the kernel faults), and forks: the child checks what
 * it finds, writes, checks again and exits, while the parent goes on.
 *
 * Everything is drawn from the seed; what threads do does not depend on time.
 * Exit 0 and one line where every byte was right. Exit 1: a wrong byte, or a
 * call that must not fail. Exit 3: an operation took longer than --stall.
 */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "app.h"

#define PAGE 4096ul
#define WORDS (PAGE / 8)
#define THREADS 8
#define BLOCKS 48	/* of a thread */
#define BLOCK_PAGES (40 + 4096) /* some_pages() */
#define CHILDREN 3	/* of a thread, at a time */

enum how { FREE_SLOT, BY_MALLOC, BY_MMAP };

struct block {
	uint64_t *mem;
	uint32_t pages;
	uint32_t id;
	enum how how;
};

struct worker {
	pthread_t thread;
	unsigned int index;
	uint64_t random;
	uint32_t next_id, last_version;
	uint64_t held, most;	/* pages */
	struct block block[BLOCKS];
	pid_t child[CHILDREN];
	int pipe[2];
	uint64_t ops, forks;
	_Atomic uint64_t since;	/* when its operation began; 0: none */
	const char *_Atomic doing;
};

static uint32_t version[THREADS][BLOCKS][BLOCK_PAGES];
static struct worker worker[THREADS];
static uint64_t seed = 1, seconds = 10, size_mib = 96, stall_s = 60, until;
static unsigned int threads = 2;
static const char *who = "parent";

/* --- what must be there ------------------------------------------------------ */

static uint64_t word_of(const struct block *b, uint32_t page, uint32_t v, unsigned int i)
{
	return v ? mix(((uint64_t)b->id << 40 ^ (uint64_t)page << 16) + ((uint64_t)v << 32) + i) : 0;
}

static uint32_t *versions(struct worker *w, const struct block *b)
{
	return version[w->index][b - w->block];
}

static void check_words(struct worker *w, const struct block *b, uint32_t page, const uint64_t *at)
{
	uint32_t v = versions(w, b)[page];

	for (unsigned int i = 0; i < WORDS; i++)
		if (at[i] != word_of(b, page, v, i))
			fail("%s, thread %u, operation %lu (%s): block %u at %p, page %u, word %u: %016lx instead of %016lx (version %u)",
			     who, w->index, (unsigned long)w->ops, atomic_load(&w->doing), b->id, (void *)b->mem, page, i,
			     (unsigned long)at[i], (unsigned long)word_of(b, page, v, i), v);
}

static void check_page(struct worker *w, const struct block *b, uint32_t page)
{
	check_words(w, b, page, b->mem + page * WORDS);
}

static void check_block(struct worker *w, const struct block *b)
{
	for (uint32_t p = 0; p < b->pages; p++)
		check_page(w, b, p);
}

static void write_page(struct worker *w, const struct block *b, uint32_t page)
{
	uint64_t *at = b->mem + page * WORDS;
	uint32_t v = ++w->last_version;

	for (unsigned int i = 0; i < WORDS; i++)
		at[i] = word_of(b, page, v, i);
	versions(w, b)[page] = v;
}

/* --- operations -------------------------------------------------------------- */

static uint32_t some_pages(struct worker *w)
{
	/* Most blocks are small, most memory is in large ones. */
	return 40 + (uint32_t)random_below(&w->random, 1ull << (6 + random_below(&w->random, 7)));
}

static struct block *some_block(struct worker *w)
{
	for (int tries = 0; tries < 64; tries++) {
		struct block *b = &w->block[random_below(&w->random, BLOCKS)];

		if (b->how != FREE_SLOT)
			return b;
	}
	return NULL;
}

static void release(struct worker *w, struct block *b)
{
	if (b->how == BY_MALLOC)
		free(b->mem);
	else if (munmap(b->mem, b->pages * PAGE) < 0)
		fail("munmap: %s", strerror(errno));
	w->held -= b->pages;
	b->how = FREE_SLOT;
}

static void allocate(struct worker *w)
{
	struct block *b = &w->block[random_below(&w->random, BLOCKS)];
	uint32_t n = some_pages(w);
	bool zeroed = false;

	if (b->how != FREE_SLOT) {
		check_block(w, b);
		release(w, b);
	}
	while (w->held + n > w->most) {
		struct block *old = some_block(w);

		if (!old)
			return;
		release(w, old);
	}
	switch (random_below(&w->random, 4)) {
	case 0:
		b->mem = malloc(n * PAGE);
		b->how = BY_MALLOC;
		break;
	case 1:
		b->mem = calloc(n, PAGE);
		b->how = BY_MALLOC;
		zeroed = true;
		break;
	case 2:
		b->mem = aligned_alloc(PAGE, n * PAGE);
		b->how = BY_MALLOC;
		break;
	default:
		b->mem = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		b->how = BY_MMAP;
		zeroed = true;
	}
	if (!b->mem || b->mem == MAP_FAILED)
		fail("no memory for %u pages", n);
	b->pages = n;
	b->id = ++w->next_id << 4 | w->index;
	w->held += n;
	memset(versions(w, b), 0, n * sizeof(uint32_t));
	if (!zeroed)
		for (uint32_t p = 0; p < n; p++)
			write_page(w, b, p);
}

static void touch(struct worker *w, bool write)
{
	struct block *b = some_block(w);
	uint32_t n, at, step;

	if (!b)
		return;
	n = 1 + (uint32_t)random_below(&w->random, 64);
	at = (uint32_t)random_below(&w->random, b->pages);
	step = random_below(&w->random, 2) ? 1 : (uint32_t)random_below(&w->random, b->pages);
	for (; n; n--, at = (at + step) % b->pages) {
		if (write)
			write_page(w, b, at);
		else
			check_page(w, b, at);
	}
}

static void resize(struct worker *w)
{
	struct block *b = some_block(w);
	uint32_t n = some_pages(w), old;
	void *q;

	if (!b || w->held - b->pages + n > w->most)
		return;
	old = b->pages;
	if (b->how == BY_MALLOC) {
		q = realloc(b->mem, n * PAGE);
		if (!q)
			fail("realloc to %u pages", n);
	} else {
		q = mremap(b->mem, old * PAGE, n * PAGE, MREMAP_MAYMOVE);
		if (q == MAP_FAILED)
			fail("mremap from %u to %u pages: %s", old, n, strerror(errno));
	}
	b->mem = q;
	b->pages = n;
	w->held += n;
	w->held -= old;
	for (uint32_t p = old; p < n; p++) {
		versions(w, b)[p] = 0;
		if (b->how == BY_MALLOC)
			write_page(w, b, p);
	}
	check_page(w, b, (n < old ? n : old) - 1);
	check_page(w, b, n - 1);
}

static void discard(struct worker *w)
{
	struct block *b = some_block(w);
	uint32_t at, n;

	if (!b || b->how != BY_MMAP)
		return;
	at = (uint32_t)random_below(&w->random, b->pages);
	n = 1 + (uint32_t)random_below(&w->random, b->pages - at);
	if (madvise(b->mem + at * WORDS, n * PAGE, MADV_DONTNEED) < 0)
		fail("madvise: %s", strerror(errno));
	memset(versions(w, b) + at, 0, n * sizeof(uint32_t));
	check_page(w, b, at);
}

/* The kernel reads a page of ours, and writes to another of the same place and version. */
static void through_pipe(struct worker *w)
{
	struct block *b = some_block(w);
	uint32_t at;

	if (!b)
		return;
	at = (uint32_t)random_below(&w->random, b->pages);
	if (write(w->pipe[1], b->mem + at * WORDS, PAGE) != (ssize_t)PAGE)
		fail("write of a page to a pipe: %s", strerror(errno));
	if (b->how == BY_MMAP && random_below(&w->random, 2) &&
	    madvise(b->mem + at * WORDS, PAGE, MADV_DONTNEED) < 0)
		fail("madvise: %s", strerror(errno));
	if (read(w->pipe[0], b->mem + at * WORDS, PAGE) != (ssize_t)PAGE)
		fail("read of a page from a pipe: %s", strerror(errno));
	check_page(w, b, at);
}

static void reap(struct worker *w, pid_t *child)
{
	int status;

	if (!*child)
		return;
	if (waitpid(*child, &status, 0) < 0)
		fail("waitpid: %s", strerror(errno));
	if (status)
		fail("thread %u: child %d ended with status %x", w->index, (int)*child, (unsigned int)status);
	*child = 0;
}

static __attribute__((noreturn)) void be_child(struct worker *w)
{
	static char name[32];
	uint64_t n = 200;

	snprintf(name, sizeof(name), "child %d", (int)getpid());
	who = name;
	alarm((unsigned int)stall_s);
	w->random ^= 0x5deece66dull;
	atomic_store(&w->doing, "child");
	while (n--) {
		uint64_t k = random_below(&w->random, 8);

		if (k == 0)
			allocate(w);
		else if (k == 1)
			discard(w);
		else
			touch(w, k < 4);
	}
	for (int i = 0; i < BLOCKS; i++)
		if (w->block[i].how != FREE_SLOT && !random_below(&w->random, 3))
			check_block(w, &w->block[i]);
	_exit(0);
}

static void have_child(struct worker *w)
{
	pid_t *child = &w->child[random_below(&w->random, CHILDREN)];

	reap(w, child);
	*child = fork();
	if (*child < 0)
		fail("fork: %s", strerror(errno));
	if (!*child)
		be_child(w);
	w->forks++;
}

static const struct {
	const char *name;
	unsigned int weight;
} kinds[] = { { "allocate", 6 }, { "write", 40 }, { "read", 40 }, { "resize", 4 }, { "discard", 4 }, { "pipe", 5 }, { "fork", 1 } };

static void one(struct worker *w)
{
	uint64_t k = random_below(&w->random, 100);
	unsigned int i;

	for (i = 0; k >= kinds[i].weight; i++)
		k -= kinds[i].weight;
	atomic_store(&w->doing, kinds[i].name);
	atomic_store(&w->since, now_ns());
	switch (i) {
	case 0:
		allocate(w);
		break;
	case 1:
	case 2:
		touch(w, i == 1);
		break;
	case 3:
		resize(w);
		break;
	case 4:
		discard(w);
		break;
	case 5:
		through_pipe(w);
		break;
	default:
		have_child(w);
	}
	w->ops++;
}

static void *work(void *arg)
{
	struct worker *w = arg;

	while (now_ns() < until)
		one(w);
	atomic_store(&w->doing, "the last check");
	for (int i = 0; i < BLOCKS; i++) {
		atomic_store(&w->since, now_ns());
		if (w->block[i].how != FREE_SLOT)
			check_block(w, &w->block[i]);
	}
	atomic_store(&w->doing, "wait for children");
	for (int i = 0; i < CHILDREN; i++)
		reap(w, &w->child[i]);
	for (int i = 0; i < BLOCKS; i++)
		if (w->block[i].how != FREE_SLOT)
			release(w, &w->block[i]);
	atomic_store(&w->since, 0);
	return NULL;
}

/* --- the whole --------------------------------------------------------------- */

static void options(int argc, char **argv)
{
	for (int i = 1; i < argc; i += 2) {
		const char *value = i + 1 < argc ? argv[i + 1] : "";

		if (!strcmp(argv[i], "--seed"))
			seed = parse_size(argv[i], value);
		else if (!strcmp(argv[i], "--seconds"))
			seconds = parse_size(argv[i], value);
		else if (!strcmp(argv[i], "--size"))
			size_mib = parse_size(argv[i], value);
		else if (!strcmp(argv[i], "--stall"))
			stall_s = parse_size(argv[i], value);
		else if (!strcmp(argv[i], "--threads"))
			threads = (unsigned int)parse_size(argv[i], value);
		else
			bad_option("option", argv[i]);
	}
	if (!threads || threads > THREADS || !stall_s)
		bad_option("--threads or --stall", "");
}

int main(int argc, char **argv)
{
	uint64_t ops = 0, forks = 0, longest = 0;
	bool all = false;

	app_name = "bbchaos";
	options(argc, argv);
	until = now_ns() + seconds * 1000000000ull;
	for (unsigned int i = 0; i < threads; i++) {
		struct worker *w = &worker[i];

		w->index = i;
		w->random = mix(seed) + i;
		w->most = size_mib * 256 / threads;
		if (pipe(w->pipe) < 0)
			fail("pipe: %s", strerror(errno));
		atomic_store(&w->since, now_ns());
		atomic_store(&w->doing, "start");
		if (pthread_create(&w->thread, NULL, work, w))
			fail("cannot start a thread");
	}
	/* The watchdog. */
	while (!all) {
		struct timespec pause = { 0, 50000000 };

		nanosleep(&pause, NULL);
		all = true;
		for (unsigned int i = 0; i < threads; i++) {
			uint64_t since = atomic_load(&worker[i].since), now = now_ns();

			if (!since)
				continue;
			all = false;
			if (now > since && now - since > longest)
				longest = now - since;
			if (now > since && now - since > stall_s * 1000000000ull) {
				fprintf(stderr, "bbchaos: thread %u: operation %lu (%s) takes more than %lu s\n", i,
					(unsigned long)worker[i].ops, atomic_load(&worker[i].doing), (unsigned long)stall_s);
				_exit(3);
			}
		}
	}
	for (unsigned int i = 0; i < threads; i++) {
		pthread_join(worker[i].thread, NULL);
		ops += worker[i].ops;
		forks += worker[i].forks;
	}
	printf("bbchaos: %lu operations, %lu forks, longest stall %lu ms: every byte right\n", (unsigned long)ops,
	       (unsigned long)forks, (unsigned long)(longest / 1000000));
	return 0;
}
