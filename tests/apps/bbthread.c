/* SPDX-License-Identifier: MIT */
/*
 * Threads over large memory: thousands that come and go, forks amid others
 * that allocate, libraries that are loaded and unloaded, ends of every kind.
 *
 *	bbthread TOPIC [MIB]	(48)
 *
 * Exit 0 and one line where every byte was right.
 */
#include "held.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define MANY 4000
#define AT_A_TIME 16

static struct held h;
static size_t mib = 48;
static atomic_bool stop;

static void must(bool ok, const char *what)
{
	if (!ok)
		fail("%s: %s", what, strerror(errno));
}

/* Checks, changes and checks again its own share of the pages; [from, from + n). */
static void work(size_t from, size_t n, unsigned int version)
{
	for (int round = 0; round < 2; round++) {
		for (size_t p = from; p < from + n; p++)
			for (unsigned int w = 0; w < HELD_WORDS; w += 7)
				if (h.mem[p * HELD_WORDS + w] != held_word(p, h.version[p], w))
					fail("a thread sees a wrong page %zu", p);
		for (size_t p = from; p < from + n; p += 2)
			held_put(&h, p, version);
	}
}

/* --- thousands, one after another ------------------------------------------- */

static void *short_life(void *arg)
{
	size_t i = (size_t)(uintptr_t)arg, share = h.pages / AT_A_TIME;
	size_t bytes = (192 + i % 5 * 64) << 10;
	unsigned char *own = malloc(bytes);

	must(own != NULL, "malloc");
	memset(own, (int)i, bytes);
	work(i % AT_A_TIME * share + i * 31 % (share - 4), 4, (unsigned int)i % 250);
	for (size_t at = 0; at < bytes; at += 512)
		if (own[at] != (unsigned char)i)
			fail("thread %zu: its own memory is wrong", i);
	free(own);
	return arg;
}

static void topic_many(void)
{
	pthread_t t[AT_A_TIME];
	void *ret;

	for (size_t i = 0; i < MANY; i++) {
		if (i >= AT_A_TIME) {
			must(!pthread_join(t[i % AT_A_TIME], &ret), "pthread_join");
			if ((size_t)(uintptr_t)ret != i - AT_A_TIME)
				fail("a thread returned something else");
		}
		must(!pthread_create(&t[i % AT_A_TIME], NULL, short_life, (void *)(uintptr_t)i), "pthread_create");
	}
	for (size_t i = 0; i < AT_A_TIME; i++)
		must(!pthread_join(t[i], &ret), "pthread_join");
}

/* --- fork from one among many ------------------------------------------------- */

/* Allocates, touches, checks and frees, all the time. */
static void *churn(void *arg)
{
	uint64_t seed = (uintptr_t)arg + 1;
	unsigned char *block[4] = { 0 };
	size_t size[4] = { 0 };

	while (!atomic_load(&stop)) {
		size_t i = random_below(&seed, 4);

		for (size_t at = 0; block[i] && at < size[i]; at += 1024)
			if (block[i][at] != (unsigned char)(size[i] >> 12))
				fail("a block of %zu bytes is wrong at %zu", size[i], at);
		free(block[i]);
		size[i] = (16 + random_below(&seed, 48)) << 12;
		block[i] = malloc(size[i]);
		must(block[i] != NULL, "malloc");
		memset(block[i], (int)(size[i] >> 12), size[i]);
	}
	for (size_t i = 0; i < 4; i++)
		free(block[i]);
	return NULL;
}

static void topic_fork(void)
{
	pthread_t t[4];
	int status;

	for (size_t i = 0; i < 4; i++)
		must(!pthread_create(&t[i], NULL, churn, (void *)i), "pthread_create");
	for (unsigned int i = 0; i < 6; i++) {
		pid_t pid = fork();

		must(pid >= 0, "fork");
		if (!pid) {
			unsigned char *own = malloc(6 << 20);

			must(own != NULL, "malloc in a child");
			memset(own, 7, 6 << 20);
			held_check(&h, "a child");
			held_write(&h, i % 3, 3, i + 100);
			held_check(&h, "a child that wrote");
			for (size_t at = 0; at < 6 << 20; at += 512)
				if (own[at] != 7)
					fail("a child's own memory is wrong");
			free(own);
			_exit(0);
		}
		held_write(&h, i % 4, 4, i);
		must(waitpid(pid, &status, 0) == pid, "waitpid");
		if (status)
			fail("child %u ended with status %x", i, status);
		held_check(&h, "the parent");
	}
	atomic_store(&stop, true);
	for (size_t i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
}

/* Every thread forks, at the same time. */
static void *forker(void *arg)
{
	size_t k = (size_t)(uintptr_t)arg, share = h.pages / 4;
	int status;

	for (unsigned int i = 0; i < 6; i++) {
		pid_t pid;

		work(k * share, share, i + 10);
		pid = fork();
		must(pid >= 0, "fork");
		if (!pid) {
			work(k * share, share, i + 30);
			_exit(0);
		}
		work(k * share, share, i + 50);
		must(waitpid(pid, &status, 0) == pid, "waitpid");
		if (status)
			fail("a child of thread %zu ended with status %x", k, status);
	}
	return NULL;
}

static void topic_forkall(void)
{
	pthread_t t[4];

	for (size_t i = 0; i < 4; i++)
		must(!pthread_create(&t[i], NULL, forker, (void *)i), "pthread_create");
	for (size_t i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
}

/* --- libraries ------------------------------------------------------------------ */

static void *loader(void *arg)
{
	for (int i = 0; i < 60; i++) {
		void *lib = dlopen("libcrypt.so.1", RTLD_NOW | RTLD_LOCAL);
		char *(*crypt_fn)(const char *, const char *);

		if (!lib)
			fail("dlopen: %s", dlerror());
		*(void **)&crypt_fn = dlsym(lib, "crypt");
		if (!crypt_fn)
			fail("dlsym: %s", dlerror());
		work((size_t)(uintptr_t)arg * (h.pages / 4) + (size_t)i * 13 % 200, 8, (unsigned int)i);
		must(dlclose(lib) == 0, "dlclose");
	}
	return NULL;
}

static void topic_dlopen(void)
{
	pthread_t t[4];

	for (size_t i = 0; i < 4; i++)
		must(!pthread_create(&t[i], NULL, loader, (void *)i), "pthread_create");
	for (size_t i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
}

/* --- stacks ----------------------------------------------------------------------- */

static uint64_t deep(uint64_t n)
{
	volatile unsigned char frame[3000];

	memset((void *)frame, (int)n, sizeof(frame));
	return n ? deep(n - 1) + frame[n % sizeof(frame)] : frame[0];
}

static void *stacked(void *arg)
{
	uint64_t want = 0;

	for (uint64_t i = 0; i <= 8000; i++)
		want += i & 255;
	return (void *)(uintptr_t)(deep(8000) == want);
}

/* A stack of the program's own: 32 MiB of malloc or mmap, paged like the rest. */
static void topic_stack(void)
{
	const size_t size = 32 << 20;

	for (int i = 0; i < 2; i++) {
		void *stack = i ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) :
				  aligned_alloc(4096, size), *ret;
		pthread_attr_t attr;
		pthread_t t;

		must(stack && stack != MAP_FAILED, "a stack");
		pthread_attr_init(&attr);
		must(!pthread_attr_setstack(&attr, stack, size), "pthread_attr_setstack");
		must(!pthread_create(&t, &attr, stacked, NULL) && !pthread_join(t, &ret), "pthread_create");
		if (!ret)
			fail("the sum over a stack is wrong");
		held_check(&h, "beside a large stack");
		must(i ? !munmap(stack, size) : (free(stack), true), "munmap");
	}
}

/* --- ends ----------------------------------------------------------------------------- */

static void *outlive(void *arg)
{
	struct timespec ts = { 0, 50000000 };

	nanosleep(&ts, NULL); /* main has gone by now */
	held_check(&h, "after the end of main's thread");
	printf("bbthread lastend: every byte right\n");
	return arg;
}

/* main's thread ends, another goes on; the process ends with the last, by itself. */
static void topic_lastend(void)
{
	pthread_t t;

	must(!pthread_create(&t, NULL, outlive, NULL), "pthread_create");
	pthread_exit(NULL);
}

static void *cancelled(void *arg)
{
	unsigned int v = 0;

	/* Cancelled wherever it is: in a fault, too. */
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	for (;;)
		for (size_t p = 0; p < h.pages / 2; p++)
			for (unsigned int w = 0; w < HELD_WORDS; w += 64)
				v += (unsigned int)h.mem[p * HELD_WORDS + w];
	return (void *)(uintptr_t)v;
}

static void topic_cancel(void)
{
	for (int i = 0; i < 40; i++) {
		struct timespec ts = { 0, 2000000 + i * 100000 };
		pthread_t t;
		void *ret;

		must(!pthread_create(&t, NULL, cancelled, NULL), "pthread_create");
		nanosleep(&ts, NULL);
		must(!pthread_cancel(t) && !pthread_join(t, &ret) && ret == PTHREAD_CANCELED, "pthread_cancel");
		held_write(&h, (size_t)i % 9, 9, (unsigned int)i);
	}
}

static const struct {
	const char *name;
	void (*run)(void);
} topic[] = {
	{ "many", topic_many },	  { "fork", topic_fork },	{ "forkall", topic_forkall }, { "dlopen", topic_dlopen },
	{ "stack", topic_stack }, { "lastend", topic_lastend }, { "cancel", topic_cancel },
};

int main(int argc, char **argv)
{
	app_name = "bbthread";
	if (argc > 2)
		mib = (size_t)atoi(argv[2]);
	for (size_t t = 0; argc > 1 && t < sizeof(topic) / sizeof(topic[0]); t++) {
		if (strcmp(argv[1], topic[t].name))
			continue;
		held_new(&h, mib, 1);
		topic[t].run();
		held_check(&h, topic[t].name);
		printf("bbthread %s: every byte right\n", topic[t].name);
		return 0;
	}
	fprintf(stderr, "usage: bbthread TOPIC [MIB]\n");
	return 2;
}
