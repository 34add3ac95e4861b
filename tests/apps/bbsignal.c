/* SPDX-License-Identifier: MIT */
/*
 * Signals and large memory: handlers that allocate and touch in the middle of
 * faults and of allocations, jumps out of a fault, write barriers by mprotect,
 * stops and continues, timers that interrupt everything.
 *
 *	bbsignal TOPIC [MIB]	(48)
 *
 * Exit 0 and one line where every byte was right.
 */
#include "held.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>

static struct held h;
static size_t mib = 48;
static volatile sig_atomic_t ticks;

static void must(bool ok, const char *what)
{
	if (!ok)
		fail("%s: %s", what, strerror(errno));
}

static void handle(int sig, void (*f)(int, siginfo_t *, void *), int flags)
{
	struct sigaction sa = { .sa_sigaction = f, .sa_flags = SA_SIGINFO | flags };

	must(sigaction(sig, &sa, NULL) == 0, "sigaction");
}

/* Once: a handler asks for the next when it is through, so that the program goes on in between. */
static void tick_after(long us)
{
	struct itimerval t = { { 0, 0 }, { 0, us } };

	must(setitimer(ITIMER_REAL, &t, NULL) == 0, "setitimer");
}

/* --- handlers that allocate ------------------------------------------------ */

/* Interrupts a thread in a fault, not in malloc: so it may call malloc. */
static void on_tick_malloc(int sig, siginfo_t *si, void *ctx)
{
	size_t bytes = (size_t)(1 + ticks % 5) << 20;
	unsigned char *p = malloc(bytes);
	int keep = errno;

	if (!p)
		fail("malloc in a handler");
	memset(p, ticks + 1, bytes);
	for (size_t at = (size_t)ticks % 101; at < h.pages; at += 301)
		if (at != h.writing && held_wrong(&h, at, h.pages) >= 0)
			fail("a handler sees a wrong page");
	for (size_t at = 0; at < bytes; at += 512)
		if (p[at] != (unsigned char)(ticks + 1))
			fail("a handler's own memory is wrong");
	free(p);
	ticks++;
	tick_after(2000);
	errno = keep;
	(void)sig, (void)si, (void)ctx;
}

static void topic_malloc(void)
{
	handle(SIGALRM, on_tick_malloc, SA_RESTART);
	tick_after(2000);
	for (unsigned int i = 0; ticks < 60; i++) {
		held_check(&h, "interrupted by a handler that allocates");
		held_write(&h, i % 3, 3, i % 250);
	}
	tick_after(0);
}

/* mmap, munmap and madvise are system calls: they may interrupt each other. */
static void on_tick_mmap(int sig, siginfo_t *si, void *ctx)
{
	static unsigned char *kept;
	static size_t kept_bytes;
	size_t bytes = (size_t)(1 + ticks % 3) << 20;
	int keep = errno;
	unsigned char *p;

	for (size_t at = 0; kept && at < kept_bytes; at += 4096)
		if (kept[at] != (unsigned char)ticks)
			fail("a handler's mapping is wrong at %zu", at);
	if (kept)
		must(munmap(kept, kept_bytes) == 0, "munmap in a handler");
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(p != MAP_FAILED, "mmap in a handler");
	for (size_t at = 0; at < bytes; at += 4096) {
		if (p[at])
			fail("new memory is not zero");
		p[at] = 1;
	}
	must(madvise(p, bytes, MADV_DONTNEED) == 0, "madvise in a handler");
	for (size_t at = 0; at < bytes; at += 4096) {
		if (p[at])
			fail("memory that was discarded is not zero");
		p[at] = (unsigned char)(ticks + 1);
	}
	kept = p;
	kept_bytes = bytes;
	ticks++;
	tick_after(100 + ticks % 97);
	errno = keep;
	(void)sig, (void)si, (void)ctx;
}

static void topic_mmap(void)
{
	uint64_t seed = 5;

	handle(SIGALRM, on_tick_mmap, SA_RESTART);
	tick_after(100);
	while (ticks < 800) {
		size_t bytes = (1 + random_below(&seed, 300)) << 12;
		unsigned char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		must(p != MAP_FAILED, "mmap");
		for (size_t at = 0; at < bytes; at += 4096) {
			if (p[at])
				fail("new memory is not zero at %zu", at);
			p[at] = 3;
		}
		must(madvise(p, bytes / 2, MADV_DONTNEED) == 0, "madvise");
		must(munmap(p, bytes) == 0, "munmap");
	}
	tick_after(0);
}

/* --- faults of the program's own --------------------------------------------- */

static sigjmp_buf back;
static volatile sig_atomic_t caught;

static void jump_out(int sig, siginfo_t *si, void *ctx)
{
	/* On its own stack; looks at paged memory before it leaves. */
	if (held_wrong(&h, 3, 997) >= 0)
		fail("a fault handler sees a wrong page");
	caught++;
	siglongjmp(back, 1);
	(void)sig, (void)si, (void)ctx;
}

/* Every access to a forbidden page jumps out; the page is as it was. */
static void topic_longjmp(void)
{
	stack_t ss = { .ss_sp = malloc(1 << 20), .ss_size = 1 << 20 };
	volatile size_t p;

	must(ss.ss_sp && sigaltstack(&ss, NULL) == 0, "sigaltstack");
	handle(SIGSEGV, jump_out, SA_ONSTACK);
	for (p = 5; p < h.pages; p += 211) {
		char *at = (char *)h.mem + p * 4096;

		must(mprotect(at, 4096, PROT_NONE) == 0, "mprotect");
		if (!sigsetjmp(back, 1)) {
			at[100] = 1;
			fail("a page without access could be written");
		}
		must(mprotect(at, 4096, PROT_READ) == 0, "mprotect");
		if (!sigsetjmp(back, 1)) {
			at[100] = 1;
			fail("a page to be read only could be written");
		}
		if (h.mem[p * HELD_WORDS + 7] != held_word(p, h.version[p], 7))
			fail("a protected page has changed");
		must(mprotect(at, 4096, PROT_READ | PROT_WRITE) == 0, "mprotect");
		held_put(&h, p, 9);
	}
	printf("caught %d\n", (int)caught);
}

static void open_page(int sig, siginfo_t *si, void *ctx)
{
	char *at = (char *)((uintptr_t)si->si_addr & ~4095UL);

	if (at < (char *)h.mem || at >= (char *)h.mem + h.pages * 4096)
		fail("SIGSEGV somewhere else: %p", si->si_addr);
	must(mprotect(at, 4096, PROT_READ | PROT_WRITE) == 0, "mprotect in a handler");
	caught++;
	(void)sig, (void)ctx;
}

/* What garbage collectors and checkpointers do: who is written to? */
static void topic_barrier(void)
{
	size_t half = h.pages / 2;

	handle(SIGSEGV, open_page, 0);
	for (unsigned int round = 0; round < 3; round++) {
		caught = 0;
		must(mprotect(h.mem, half * 4096, PROT_READ) == 0, "mprotect");
		held_write(&h, round, 16, round + 20);
		held_check(&h, "under a write barrier");
		printf("round %u: %d pages written\n", round, (int)caught);
		must(mprotect(h.mem, half * 4096, PROT_READ | PROT_WRITE) == 0, "mprotect");
	}
}

/* --- stop and continue -------------------------------------------------------- */

static void topic_stop(void)
{
	int status, stops = 0;
	pid_t pid = fork();

	must(pid >= 0, "fork");
	if (!pid) {
		for (unsigned int i = 0; i < 6; i++) {
			held_check(&h, "a child that is stopped now and then");
			held_write(&h, i % 3, 3, i);
		}
		_exit(0);
	}
	for (;;) {
		struct timespec ts = { 0, 4000000 };

		nanosleep(&ts, NULL);
		kill(pid, SIGSTOP);
		must(waitpid(pid, &status, WUNTRACED) == pid, "waitpid");
		if (!WIFSTOPPED(status))
			break;
		/* The parent's memory is its own while the child stands still. */
		if (stops++ % 16 == 0)
			held_write(&h, (size_t)stops % 50, 50, (unsigned int)stops % 250);
		kill(pid, SIGCONT);
	}
	if (status)
		fail("the child ended with status %x", status);
	if (!stops)
		fail("the child was never stopped");
}

static const struct {
	const char *name;
	void (*run)(void);
} topic[] = {
	{ "malloc", topic_malloc },   { "mmap", topic_mmap }, { "longjmp", topic_longjmp },
	{ "barrier", topic_barrier }, { "stop", topic_stop },
};

int main(int argc, char **argv)
{
	app_name = "bbsignal";
	if (argc > 2)
		mib = (size_t)atoi(argv[2]);
	for (size_t t = 0; argc > 1 && t < sizeof(topic) / sizeof(topic[0]); t++) {
		if (strcmp(argv[1], topic[t].name))
			continue;
		held_new(&h, mib, 1);
		topic[t].run();
		held_check(&h, topic[t].name);
		printf("bbsignal %s: every byte right\n", topic[t].name);
		return 0;
	}
	fprintf(stderr, "usage: bbsignal TOPIC [MIB]\n");
	return 2;
}
