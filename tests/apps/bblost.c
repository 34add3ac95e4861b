/* SPDX-License-Identifier: MIT */
/*
 * What a program sees when its pages cannot be had: fills SIZE, waits for a
 * line on stdin (the test takes bbd or the memory host away meanwhile), then
 * reads every page with a SIGBUS handler. A page either holds exactly what was
 * written or raises SIGBUS; wrong bytes are the one thing that must not be.
 * Prints "N right, M lost, W wrong"; exit 1 where W is not 0. Then frees it,
 * and takes and uses as much again: that has to work.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static sigjmp_buf back;

static void on_bus(int sig)
{
	(void)sig;
	siglongjmp(back, 1);
}

int main(int argc, char **argv)
{
	size_t pages = argc > 1 ? strtoul(argv[1], NULL, 0) * 256 : 256 * 64; /* argument in MiB */
	volatile uint64_t *volatile p = malloc(pages * 4096);
	volatile size_t right = 0, lost = 0, wrong = 0, i;
	struct sigaction sa = { .sa_handler = on_bus, .sa_flags = SA_NODEFER };

	if (!p) {
		fprintf(stderr, "bblost: no memory\n");
		return 2;
	}
	sigaction(SIGBUS, &sa, NULL);
	for (i = 0; i < pages; i++)
		p[i * 512] = i * 0x9e3779b97f4a7c15ULL + 1;
	printf("filled\n");
	fflush(stdout);
	if (getchar() == EOF)
		return 2;
	for (i = 0; i < pages; i++) {
		if (sigsetjmp(back, 1)) {
			lost++;
			continue;
		}
		if (p[i * 512] == i * 0x9e3779b97f4a7c15ULL + 1)
			right++;
		else
			wrong++;
	}
	printf("%zu right, %zu lost, %zu wrong\n", right, lost, wrong);
	if (wrong)
		return 1;

	/* What was lost is forgotten with its memory: the next owner may use it. */
	free((void *)(uintptr_t)p);
	p = calloc(pages, 4096);
	if (!p)
		return 2;
	for (i = 0; i < pages; i++) {
		if (sigsetjmp(back, 1)) {
			printf("new memory raises SIGBUS\n");
			return 1;
		}
		if (p[i * 512])
			return 1;
		p[i * 512] = i + 1;
	}
	for (i = 0; i < pages; i++)
		if (p[i * 512] != i + 1)
			return 1;
	printf("new memory is good\n");
	return 0;
}
