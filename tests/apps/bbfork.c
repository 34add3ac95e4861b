/* SPDX-License-Identifier: MIT */
/*
 * fork and the bytes: a parent and its children, each with a pattern of its
 * own over the same large memory, written while the others write.
 *
 *	bbfork [--size MIB] [--children N] [--depth N] [--threads N] [--gone N]
 *
 * Every child first checks that it sees what the parent had at the fork, then
 * writes its own version into half of the pages and checks all of it, twice.
 * Children run one after another and, at each depth, have a child themselves.
 * With --threads, threads of the parent keep on writing their own pages while
 * it forks. With --gone, so many children end at once, and after each the
 * parent writes all that it has shared with it. Exit 0 and one line where every byte was right.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS 512 /* in a page */

static uint64_t *mem;
static size_t pages = 16384;
static unsigned char *version; /* what this process expects in a page */
static atomic_bool stop;
static size_t reserved; /* first pages: the threads' */

static uint64_t pattern(size_t page, unsigned int v, unsigned int word)
{
	return (page * WORDS + word) * 0x9e3779b97f4a7c15ULL ^ ((uint64_t)v << 56);
}

static void put(size_t page, unsigned int v)
{
	for (unsigned int w = 0; w < WORDS; w += 73)
		mem[page * WORDS + w] = pattern(page, v, w);
	version[page] = (unsigned char)v;
}

static void check(const char *who, int depth)
{
	for (size_t p = reserved; p < pages; p++)
		for (unsigned int w = 0; w < WORDS; w += 73)
			if (mem[p * WORDS + w] != pattern(p, version[p], w)) {
				fprintf(stderr, "bbfork: %s at depth %d: page %zu word %u is %llx, should be version %u\n",
					who, depth, p, w, (unsigned long long)mem[p * WORDS + w], version[p]);
				_exit(1);
			}
}

static void *writer(void *arg)
{
	size_t first = (size_t)(uintptr_t)arg * 64;
	unsigned int v = 1;

	while (!atomic_load(&stop)) {
		for (size_t p = first; p < first + 64; p++)
			for (unsigned int w = 0; w < WORDS; w += 73)
				mem[p * WORDS + w] = pattern(p, v, w);
		for (size_t p = first; p < first + 64; p++)
			for (unsigned int w = 0; w < WORDS; w += 73)
				if (mem[p * WORDS + w] != pattern(p, v, w)) {
					fprintf(stderr, "bbfork: thread: page %zu is wrong\n", p);
					_exit(1);
				}
		v = v % 250 + 1;
	}
	return NULL;
}

static void generation(int depth, int children, unsigned int v)
{
	for (int c = 0; c < children; c++) {
		unsigned int cv = (v * 7 + (unsigned int)c * 3 + 1) % 250;
		pid_t pid = fork();
		int status;

		if (pid < 0) {
			fprintf(stderr, "bbfork: fork: %s\n", strerror(errno));
			_exit(2);
		}
		if (!pid) {
			check("child, as born", depth);
			for (size_t p = reserved + (size_t)c % 2; p < pages; p += 2)
				put(p, cv);
			check("child, after its writes", depth);
			if (depth > 1)
				generation(depth - 1, 1, cv);
			check("child, at its end", depth);
			_exit(0);
		}
		/* Meanwhile the parent changes every third page. */
		for (size_t p = reserved + (size_t)c % 3; p < pages; p += 3)
			put(p, (v + (unsigned int)c + 1) % 250);
		check("parent", depth);
		if (waitpid(pid, &status, 0) != pid || status) {
			fprintf(stderr, "bbfork: child %d at depth %d ended with status %x\n", c, depth, status);
			_exit(1);
		}
		check("parent, after its child", depth);
	}
}

static void gone(int times)
{
	for (int i = 0; i < times; i++) {
		pid_t pid = fork();
		int status;

		if (!pid)
			_exit(0);
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status) {
			fprintf(stderr, "bbfork: a child that does nothing failed\n");
			_exit(1);
		}
		/* In no order that replacement follows. */
		for (size_t p = 0; p < pages; p++)
			if (p * 7919 % pages >= reserved)
				put(p * 7919 % pages, (unsigned int)i % 250 + 1);
		check("parent, its child is gone", i);
	}
}

int main(int argc, char **argv)
{
	int children = 3, depth = 2, threads = 0, times = 0;
	pthread_t t[16];

	for (int i = 1; i + 1 < argc; i += 2) {
		int n = atoi(argv[i + 1]);

		if (!strcmp(argv[i], "--size"))
			pages = (size_t)n * 256;
		else if (!strcmp(argv[i], "--children"))
			children = n;
		else if (!strcmp(argv[i], "--depth"))
			depth = n;
		else if (!strcmp(argv[i], "--threads") && n <= 16)
			threads = n;
		else if (!strcmp(argv[i], "--gone"))
			times = n;
		else
			return fprintf(stderr, "bbfork: what is %s?\n", argv[i]), 2;
	}
	reserved = (size_t)threads * 64;
	mem = malloc(pages * 4096);
	version = calloc(pages, 1);
	if (!mem || !version || reserved >= pages)
		return fprintf(stderr, "bbfork: no memory\n"), 2;
	for (size_t p = reserved; p < pages; p++)
		put(p, 1);
	for (int i = 0; i < threads; i++)
		pthread_create(&t[i], NULL, writer, (void *)(uintptr_t)i);
	generation(depth, children, 1);
	gone(times);
	atomic_store(&stop, true);
	for (int i = 0; i < threads; i++)
		pthread_join(t[i], NULL);
	printf("bbfork: %d children, depth %d, %zu pages: every byte right\n", children, depth, pages);
	return 0;
}
