/* SPDX-License-Identifier: MIT */
/*
 * Pages that the kernel, or a device, writes into while they are to be taken
 * out: reads with O_DIRECT into memory larger than the budget, by two threads.
 * Each page of the memory is to hold the block of the file that was last read
 * into it, at once and whenever it is looked at later.
 *
 *	bbpin --dir DIR --seconds N
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define PAGES 3072u /* a thread */
#define BLOCKS 1024u
#define RUN 8u /* pages a read */
#define THREADS 2

static int fd;
static time_t end;

static void fill(uint64_t *page, uint64_t block)
{
	for (unsigned int i = 0; i < PAGE / 8; i++)
		page[i] = (block << 32 | i) * 0x9e3779b97f4a7c15ULL;
}

static const char *check(const uint8_t *at, uint32_t block)
{
	uint64_t want[PAGE / 8];

	fill(want, block);
	return memcmp(at, want, PAGE) ? "wrong bytes" : NULL;
}

static void *failed(const char *why)
{
	fprintf(stderr, "bbpin: %s\n", why);
	return &fd; /* anything but NULL */
}

static void *reader(void *arg)
{
	uint64_t x = (uintptr_t)arg * 0x2545f4914f6cdd1dULL + 1;
	uint8_t *m = aligned_alloc(2 << 20, (size_t)PAGES * PAGE);
	uint32_t *is = malloc(PAGES * sizeof(*is));
	unsigned long reads = 0;

	if (!m || !is)
		return failed("no memory");
	for (uint32_t i = 0; i < PAGES; i++) {
		is[i] = i % BLOCKS;
		fill((uint64_t *)(m + (size_t)i * PAGE), is[i]);
	}
	while (time(NULL) < end) {
		uint32_t p, b;

		x = x * 6364136223846793005ULL + 1442695040888963407ULL;
		p = (uint32_t)(x >> 33) % (PAGES - RUN);
		b = (uint32_t)(x >> 20) % (BLOCKS - RUN);
		if (pread(fd, m + (size_t)p * PAGE, RUN * PAGE, (off_t)b * PAGE) != RUN * PAGE)
			return failed(strerror(errno));
		for (uint32_t i = 0; i < RUN; i++)
			is[p + i] = b + i;
		/* At once one of them, and one of those that were read long ago. */
		if (check(m + (size_t)(p + b % RUN) * PAGE, is[p + b % RUN]))
			return failed("wrong bytes, at once");
		p = (uint32_t)(x >> 41) % PAGES;
		if (check(m + (size_t)p * PAGE, is[p]))
			return failed("wrong bytes, later");
		reads++;
	}
	for (uint32_t i = 0; i < PAGES; i++)
		if (check(m + (size_t)i * PAGE, is[i]))
			return failed("wrong bytes, in the end");
	printf("%lu reads\n", reads);
	free(m);
	free(is);
	return NULL;
}

int main(int argc, char **argv)
{
	static uint64_t block[PAGE / 8] __attribute__((aligned(4096)));
	const char *dir = argc == 5 && !strcmp(argv[1], "--dir") ? argv[2] : NULL;
	pthread_t t[THREADS];
	int bad = 0;

	if (!dir || strcmp(argv[3], "--seconds")) {
		fprintf(stderr, "usage: bbpin --dir DIR --seconds N\n");
		return 2;
	}
	if (chdir(dir) < 0 || (fd = open("bbpin.data", O_RDWR | O_CREAT | O_TRUNC | O_DIRECT, 0600)) < 0) {
		fprintf(stderr, "bbpin: no O_DIRECT in %s (%s)\n", dir, strerror(errno));
		return 77;
	}
	unlink("bbpin.data");
	for (uint32_t b = 0; b < BLOCKS; b++) {
		fill(block, b);
		if (pwrite(fd, block, PAGE, (off_t)b * PAGE) != PAGE) {
			perror("bbpin: write");
			return 1;
		}
	}
	end = time(NULL) + atoi(argv[4]);
	for (uintptr_t i = 0; i < THREADS; i++)
		if (pthread_create(&t[i], NULL, reader, (void *)i))
			return 1;
	for (int i = 0; i < THREADS; i++) {
		void *why;

		pthread_join(t[i], &why);
		bad |= why != NULL;
	}
	printf("%s\n", bad ? "failed" : "every page verified");
	return bad;
}
