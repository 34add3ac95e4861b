/* SPDX-License-Identifier: MIT */
/*
 * Huge pages of which a pipe holds one small page each, while as much memory
 * again as the budget has room for is written: what is held cannot go, all else
 * can, and nobody waits for it. Linux 6.12, asked to move a small page out of
 * such a huge one (UFFDIO_MOVE), tries for ever.
 *
 *	bbhuge PINNED_MIB MORE_MIB
 *
 * Exit 0 and one line where every byte was right; SIGALRM ends it after 90 s.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096u
#define HUGE (2u << 20)

static uint64_t *filled(size_t size, uint64_t seed)
{
	uint64_t *m = aligned_alloc(HUGE, size);

	if (!m)
		return NULL;
	(void)madvise(m, size, MADV_HUGEPAGE);
	for (size_t i = 0; i < size / sizeof(*m); i++)
		m[i] = i * seed + 1;
	return m;
}

static bool is_right(const uint64_t *m, size_t size, uint64_t seed)
{
	for (size_t i = 0; i < size / sizeof(*m); i++)
		if (m[i] != i * seed + 1) {
			fprintf(stderr, "bbhuge: page %zu of %zu is wrong\n", i * sizeof(*m) / PAGE, size / PAGE);
			return false;
		}
	return true;
}

int main(int argc, char **argv)
{
	const size_t held = argc == 3 ? (size_t)atoi(argv[1]) << 20 : 0, size = argc == 3 ? (size_t)atoi(argv[2]) << 20 : 0;
	uint64_t *m, *more, page[PAGE / sizeof(uint64_t)];
	int p[2];

	if (held < HUGE || held % HUGE || !size || size % HUGE) {
		fprintf(stderr, "usage: bbhuge PINNED_MIB MORE_MIB\n");
		return 2;
	}
	alarm(90);
	m = filled(held, 3);
	if (!m || pipe(p) < 0)
		return 1;
	for (size_t at = 10 * PAGE; at < held; at += HUGE) {
		struct iovec v = { (char *)m + at, PAGE };

		if (vmsplice(p[1], &v, 1, SPLICE_F_NONBLOCK) != PAGE) {
			perror("bbhuge: vmsplice");
			return 1;
		}
	}
	more = filled(size, 5);
	if (!more || !is_right(m, held, 3) || !is_right(more, size, 5))
		return 1;
	/* What the pipe holds is what the program sees. */
	for (size_t at = 10 * PAGE; at < held; at += HUGE) {
		m[at / sizeof(*m)] = 77;
		if (read(p[0], page, PAGE) != PAGE || page[0] != 77 || memcmp(page + 1, m + at / sizeof(*m) + 1, PAGE - sizeof(*m))) {
			fprintf(stderr, "bbhuge: the pipe has another page than the program\n");
			return 1;
		}
		m[at / sizeof(*m)] = at / sizeof(*m) * 3 + 1;
	}
	/* Nobody holds it any more. */
	for (size_t i = 0; i < size / sizeof(*more); i += PAGE / sizeof(*more))
		more[i] = i * 5 + 1;
	if (!is_right(m, held, 3) || !is_right(more, size, 5))
		return 1;
	printf("every page verified\n");
	return 0;
}
