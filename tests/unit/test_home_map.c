/* SPDX-License-Identifier: MIT */
/*
 * Slabs that the kernel reads by itself: what is published when, growth ahead of
 * need, restarts, and a reader without a reference against writers and deletes.
 * The maps here are plain memory of the same layout; test_steer.c has real ones.
 */
#include "home/home.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "clock.h"
#include "keep/keep.h"
#include "log.h"
#include "steer_world.h"

#define MIB (1ULL << 20)
#define PER BB_SLAB_EXTENTS

static const struct bb_home_who alice = { 3, 1, 0 }, bob = { 3, 2, 0 };

static int wakes;

static void on_wake(void *arg)
{
	wakes++;
}

static const struct bb_home_maker maker = { on_wake, NULL };

static struct bb_home *home_of(uint64_t lend, struct bb_keep *keep)
{
	struct bb_home_config cfg = { .lend = lend, .keep = keep };
	struct bb_home *h = NULL;

	assert_int_equal(bb_home_new(&h, &cfg), 0);
	return h;
}

static int plain_map(void)
{
	int fd = memfd_create("map", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)BB_SLAB_ENTRIES * BB_PAGE_SIZE), 0);
	return fd;
}

/* The next slab, which must be wanted. Return: its number; *v: as a reader sees it. */
static uint64_t give(struct bb_home *h, struct steer_view *v)
{
	uint64_t index;
	int fd = plain_map();

	assert_true(bb_home_claim(h, &index));
	assert_int_equal(bb_home_give(h, index, fd), 0);
	assert_true(!v || steer_view(v, fd));
	return index;
}

static void published_while_it_lives(void **state)
{
	struct bb_home *h = home_of(64 * MIB, NULL);
	struct bb_home_stats st;
	struct steer_view v;
	uint64_t p, q, s;
	void *data;

	bb_home_maps(h, &maker);
	assert_int_equal(give(h, &v), 0);
	assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_OK);
	assert_true(steer_word(&v, p) == bb_xw(bb_ptr_gen(p), 3, 1, 0));
	assert_int_equal(bb_home_create(h, bob, BB_F_SHARED, &s), BB_ST_OK);
	assert_true(steer_word(&v, s) == bb_xw(bb_ptr_gen(s), 3, 2, 1));
	assert_int_equal(bb_home_delete(h, bob, p), BB_ST_RIGHTS);
	assert_true(steer_word(&v, p) == bb_xw(bb_ptr_gen(p), 3, 1, 0));

	/* A reader's window changes nothing, a writer's its pages alone. */
	assert_int_equal(bb_home_get(h, alice, p + 4096, 4096, false, &data), BB_ST_OK);
	assert_int_equal(steer_seq(&v, p + 4096), 0);
	bb_home_put(h, p + 4096, 4096, false);
	assert_int_equal(bb_home_get(h, alice, p + 4096 + 8, 4096, true, &data), BB_ST_OK);
	assert_int_equal(bb_home_get(h, alice, p + 8192, 1024, true, &data), BB_ST_OK);
	assert_int_equal(steer_seq(&v, p), 0);
	assert_int_equal(steer_seq(&v, p + 4096), 1);
	assert_int_equal(steer_seq(&v, p + 8192), 2);
	assert_int_equal(steer_seq(&v, p + 12288), 0);
	bb_home_put(h, p + 4096 + 8, 4096, true);
	assert_int_equal(steer_seq(&v, p + 4096), 0x100);
	assert_int_equal(steer_seq(&v, p + 8192), 0x101);
	bb_home_put(h, p + 8192, 1024, true);
	assert_int_equal(steer_seq(&v, p + 8192), 0x200);

	/* Deleted while it is read: withdrawn at once; the bytes go when the reader has gone. */
	assert_int_equal(bb_home_get(h, alice, p, 4096, true, &data), BB_ST_OK);
	memset(data, 0x5a, 4096);
	assert_int_equal(bb_home_delete(h, alice, p), BB_ST_OK);
	assert_true(steer_word(&v, p) == 0);
	assert_int_equal(v.pages[bb_ptr_offset(p)], 0x5a);
	bb_home_put(h, p, 4096, true);
	for (int i = 0; i < 1000 && v.pages[bb_ptr_offset(p)]; i++)
		usleep(10000);
	assert_int_equal(v.pages[bb_ptr_offset(p)], 0);
	do {
		assert_int_equal(bb_home_create(h, bob, 0, &q), BB_ST_OK);
	} while (bb_ptr_offset(q) != bb_ptr_offset(p));
	assert_true(steer_word(&v, q) == bb_xw(bb_ptr_gen(q), 3, 2, 0));
	assert_int_not_equal(bb_ptr_gen(p), bb_ptr_gen(q));
	assert_true(bb_home_reclaim(h, bob) > 0);
	assert_true(steer_word(&v, q) == 0 && steer_word(&v, s) == 0);
	bb_home_stats(h, &st);
	assert_int_equal(st.grown, 64 * MIB);
	assert_int_equal(st.mapped, 64 * MIB);
	steer_unview(&v);
	bb_home_free(h);
}

static void grows_ahead(void **state)
{
	struct bb_home *h = home_of(192 * MIB, NULL);
	struct bb_home_stats st;
	uint64_t p, index, map = 0;

	wakes = 0;
	assert_false(bb_home_claim(h, &index)); /* memfds, until somebody makes maps */
	bb_home_maps(h, &maker);
	assert_int_equal(wakes, 1);
	assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_BUSY);
	assert_true(bb_home_claim(h, &index));
	assert_false(bb_home_claim(h, &index));
	assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_BUSY);
	assert_int_equal(bb_home_give(h, 0, plain_map()), 0);
	for (unsigned int i = 0; i < PER; i++) {
		assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_OK);
		/* No more than three quarters are left: the next is wanted, and no create waits for it. */
		assert_int_equal(wakes, i < PER / 4 ? 1 : 2);
		if (i == PER / 4)
			assert_true(bb_home_claim(h, &index));
	}
	assert_int_equal(index, 1);
	assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_BUSY);
	/* It cannot be made: that one is bbd's alone, the next is tried again. */
	assert_int_equal(bb_home_give(h, index, -ENOMEM), -ENOMEM);
	for (unsigned int i = 0; i < PER; i++) {
		assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_OK);
		if (bb_home_claim(h, &index))
			assert_int_equal(bb_home_give(h, index, plain_map()), 0);
	}
	assert_int_equal(index, 2);
	assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_OK);
	bb_home_stats(h, &st);
	assert_int_equal(st.grown, 192 * MIB);
	assert_int_equal(st.mapped, 128 * MIB);
	assert_true(bb_home_next_map(h, &map) >= 0 && map == 0);
	map = 1;
	assert_true(bb_home_next_map(h, &map) >= 0 && map == 2);
	map = 3;
	assert_int_equal(bb_home_next_map(h, &map), -1);
	for (unsigned int i = 1; i < PER; i++)
		assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_OK);
	assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_NOSPACE);
	assert_false(bb_home_claim(h, &index)); /* all that is lent is there */
	bb_home_free(h);
}

static void attached_and_detached(void **state)
{
	struct bb_home *h = home_of(256 * MIB, NULL);
	struct bb_home_stats st;
	uint64_t p, index;

	assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_OK); /* in a memfd, which stays */
	bb_home_maps(h, &maker);
	for (unsigned int i = 1; i < PER; i++)
		assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_OK);
	assert_int_equal(give(h, NULL), 1);
	assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_OK);
	assert_int_equal(bb_ptr_offset(p), 64 * MIB);
	/* Detached when the third is ready: it is used all the same, the fourth is a memfd. */
	for (unsigned int i = 1; i < PER; i++)
		assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_OK);
	assert_int_equal(give(h, NULL), 2);
	bb_home_maps(h, NULL);
	for (unsigned int i = 0; i <= PER; i++)
		assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_OK);
	assert_false(bb_home_claim(h, &index));
	bb_home_stats(h, &st);
	assert_int_equal(st.grown, 256 * MIB);
	assert_int_equal(st.mapped, 128 * MIB);
	bb_home_free(h);
}

/* --- restarts ------------------------------------------------------------------ */

static char dir[64], path[128];

static struct shared {
	uint64_t live, shared, deleted, held;
} *was;

/* Is killed amid a write, and amid a delete that a reader holds up. */
static void lives_and_dies(void)
{
	struct bb_home_config cfg = { .lend = 128 * MIB };
	struct bb_keep *k;
	struct bb_home *h;
	uint64_t index;
	void *data;
	int fd = memfd_create("map", 0);

	if (bb_keep_open(&k, path, 60000))
		_exit(1);
	cfg.keep = k;
	if (bb_home_new(&h, &cfg) || ftruncate(fd, (off_t)BB_SLAB_ENTRIES * BB_PAGE_SIZE))
		_exit(2);
	bb_home_maps(h, &maker);
	if (!bb_home_claim(h, &index) || bb_home_give(h, index, fd) || bb_home_create(h, alice, 0, &was->live) ||
	    bb_home_create(h, bob, BB_F_SHARED, &was->shared) || bb_home_create(h, bob, 0, &was->deleted) ||
	    bb_home_create(h, bob, 0, &was->held))
		_exit(3);
	if (bb_home_get(h, alice, was->live, 8192, true, &data))
		_exit(4);
	memset(data, 0x77, 8192);
	bb_home_put(h, was->live, 8192, true);
	if (bb_home_get(h, alice, was->live + 4096, 4096, true, &data) ||
	    bb_home_get(h, bob, was->held, 4096, false, &data) || bb_home_delete(h, bob, was->held) ||
	    bb_home_delete(h, bob, was->deleted))
		_exit(5);
	raise(SIGKILL);
}

static void killed_amid_it_all(void **state)
{
	struct bb_keep *k = NULL;
	struct bb_home_stats st;
	struct steer_view v;
	struct bb_home *h;
	uint64_t map = 0;
	int status;
	pid_t pid;

	snprintf(dir, sizeof(dir), "/tmp/bb-test-map-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/sock", dir);
	was = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid = fork();
	if (!pid)
		lives_and_dies();
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));

	assert_int_equal(bb_keep_open(&k, path, 60000), 0);
	h = home_of(128 * MIB, k);
	assert_true(steer_view(&v, bb_home_next_map(h, &map)) && map == 0);
	/* Exactly what lives is to be served; the half-written page has a new version, and no writer. */
	assert_true(steer_word(&v, was->live) == bb_xw(bb_ptr_gen(was->live), 3, 1, 0));
	assert_true(steer_word(&v, was->shared) == bb_xw(bb_ptr_gen(was->shared), 3, 2, 1));
	for (uint64_t i = 2; i < PER; i++)
		assert_true(steer_word(&v, i << BB_EXTENT_SHIFT) == 0);
	assert_int_equal(steer_seq(&v, was->live), 0x100);
	assert_int_equal(steer_seq(&v, was->live + 4096), 0x200);
	assert_int_equal(v.pages[bb_ptr_offset(was->live)], 0x77);
	bb_home_stats(h, &st);
	assert_int_equal(st.extents, 2);
	assert_int_equal(st.mapped, 64 * MIB);
	/* It goes on being one, with programs or without. */
	assert_int_equal(bb_home_delete(h, bob, was->shared), BB_ST_OK);
	assert_true(steer_word(&v, was->shared) == 0);
	steer_unview(&v);
	bb_home_free(h);
	bb_keep_close(k, false);
	rmdir(dir);
}

/* --- a reader without a reference ------------------------------------------------ */

static struct bb_home *th;
static struct steer_view tv;
static uint64_t fixed;			/* one page, written again and again */
static _Atomic uint64_t board;		/* one that is deleted and made again */
static _Atomic unsigned long torn[2], foreign[2], served[2];
static _Atomic bool stop;

static void fill(void *data, uint64_t v)
{
	for (int i = 0; i < 512; i++)
		__atomic_store_n((uint64_t *)data + i, v, __ATOMIC_RELAXED);
}

static void *writer(void *arg)
{
	void *data;

	for (uint64_t v = 1; !stop; v++) {
		if (bb_home_get(th, alice, fixed, 4096, true, &data) != BB_ST_OK)
			abort();
		fill(data, v);
		bb_home_put(th, fixed, 4096, true);
	}
	return NULL;
}

static void *renewer(void *arg)
{
	uint64_t p;
	void *data;

	while (!stop) {
		if (bb_home_create(th, bob, 0, &p) != BB_ST_OK)
			continue;
		if (bb_home_get(th, bob, p, 4096, true, &data) != BB_ST_OK)
			abort();
		fill(data, p);
		bb_home_put(th, p, 4096, true);
		board = p;
		/* Lives for a while, or nobody would ever read it. */
		sched_yield();
		if (bb_home_delete(th, bob, p) != BB_ST_OK)
			abort();
	}
	return NULL;
}

static void *reader(void *arg)
{
	const bool checks = arg;
	uint64_t page[512], p;

	while (!stop) {
		if (steer_read(&tv, fixed, 3, 1, page, checks)) {
			atomic_fetch_add(&served[checks], 1);
			for (int i = 1; i < 512; i++)
				if (page[i] != page[0]) {
					atomic_fetch_add(&torn[checks], 1);
					break;
				}
		}
		p = board;
		if (p && steer_read(&tv, p, 3, 2, page, checks))
			for (int i = 0; i < 512; i++)
				if (page[i] != p) {
					atomic_fetch_add(&foreign[checks], 1);
					break;
				}
	}
	return NULL;
}

static void half_done(void)
{
	void *data;

	if (bb_home_get(th, alice, fixed, 4096, true, &data) != BB_ST_OK)
		abort();
	fill(data, 2);
	bb_home_put(th, fixed, 4096, true);
}

/* Deleted, given to bob and filled by him, all while the page is copied. */
static void given_away(void)
{
	uint64_t p;
	void *data;

	if (bb_home_delete(th, alice, fixed) != BB_ST_OK)
		abort();
	do {
		if (bb_home_create(th, bob, 0, &p) != BB_ST_OK)
			abort();
	} while (bb_ptr_offset(p) != bb_ptr_offset(fixed));
	if (bb_home_get(th, bob, p, 4096, true, &data) != BB_ST_OK)
		abort();
	fill(data, 3);
	bb_home_put(th, p, 4096, true);
}

/* The two that the checks are for, each at the worst moment; without the checks they are seen. */
static void at_the_worst_moment(void **state)
{
	void (*const what[2])(void) = { half_done, given_away };
	uint64_t page[512];
	void *data;

	th = home_of(2 * MIB, NULL);
	bb_home_maps(th, &maker);
	give(th, &tv);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(bb_home_create(th, alice, 0, &fixed), BB_ST_OK);
		assert_int_equal(bb_home_get(th, alice, fixed, 4096, true, &data), BB_ST_OK);
		fill(data, 1);
		assert_false(steer_read(&tv, fixed, 3, 1, page, true)); /* it is being written */
		bb_home_put(th, fixed, 4096, true);
		assert_true(steer_read(&tv, fixed, 3, 1, page, true));
		steer_halfway = what[i / 2];
		assert_int_equal(steer_read(&tv, fixed, 3, 1, page, i % 2), !(i % 2));
		steer_halfway = NULL;
		assert_true(page[0] == 1 && page[511] == (i < 2 ? 2 : 3));
		bb_home_reclaim(th, alice);
		bb_home_reclaim(th, bob);
	}
	steer_unview(&tv);
	bb_home_free(th);
}

static void never_torn_never_anothers(void **state)
{
	void *(*const body[4])(void *) = { writer, renewer, reader, reader };
	void *const arg[4] = { NULL, NULL, (void *)1, NULL };
	pthread_t t[4];

	th = home_of(16 * MIB, NULL);
	bb_home_maps(th, &maker);
	give(th, &tv);
	assert_int_equal(bb_home_create(th, alice, 0, &fixed), BB_ST_OK);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, body[i], arg[i]), 0);
	/* Until the reader that does not check has seen one; 1.5 s at least, on a loaded machine more. */
	for (int i = 0; i < 600 && (i < 15 || !torn[0] || served[1] < 1000); i++)
		usleep(100000);
	stop = true;
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	print_message("served %lu; without the checks torn %lu of %lu, another's %lu\n", served[1], torn[0], served[0],
		      foreign[0]);
	assert_int_equal(torn[1], 0);
	assert_int_equal(foreign[1], 0);
	assert_true(served[1] >= 1000);
	assert_true(torn[0] > 0);
	steer_unview(&tv);
	bb_home_free(th);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(published_while_it_lives), cmocka_unit_test(grows_ahead),
		cmocka_unit_test(attached_and_detached),    cmocka_unit_test(killed_amid_it_all),
		cmocka_unit_test(at_the_worst_moment),
		cmocka_unit_test(never_torn_never_anothers),
	};

	bb_log_init("test_home_map", BB_LOG_ERROR);
	return cmocka_run_group_tests_name("home_map", tests, NULL, NULL);
}
