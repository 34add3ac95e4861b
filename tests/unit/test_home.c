/* SPDX-License-Identifier: MIT */
/* The home: every refusal, zeros for a new owner, stores, and many threads. */
#include "home/home.h"

#include "clock.h"
#include "log.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB (1ULL << 20)

static const struct bb_home_who alice = { 0, 1, 0 }, bob = { 0, 2, 0 }, stranger = { 9, 1, 0 };

static struct bb_home *home_of(uint64_t lend, const char *store, uint64_t quota)
{
	struct bb_home_config cfg = { .lend = lend, .store = store, .quota = quota };
	struct bb_home *h = NULL;

	assert_int_equal(bb_home_new(&h, &cfg), 0);
	return h;
}

static bool all_are(const void *p, uint8_t byte, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (((const uint8_t *)p)[i] != byte)
			return false;
	return true;
}

static uint8_t fill(struct bb_home *h, struct bb_home_who who, uint64_t ptr, uint8_t byte, uint32_t len)
{
	void *data;
	uint8_t st = bb_home_get(h, who, ptr, len, true, &data);

	if (st == BB_ST_OK) {
		memset(data, byte, len);
		bb_home_put(h, ptr, len, true);
	}
	return st;
}

static uint8_t look(struct bb_home *h, struct bb_home_who who, uint64_t ptr, uint8_t byte, uint32_t len)
{
	void *data;
	uint8_t st = bb_home_get(h, who, ptr, len, false, &data);

	if (st == BB_ST_OK) {
		assert_true(all_are(data, byte, len));
		bb_home_put(h, ptr, len, false);
	}
	return st;
}

static void life_of_an_extent(void **state)
{
	struct bb_home *h = home_of(2 * MIB, NULL, 0);
	struct bb_home_stats st;
	uint64_t p, q;

	assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_OK);
	assert_true(bb_ptr_gen(p) != 0);
	assert_int_equal(bb_ptr_offset(p) % BB_EXTENT_SIZE, 0);
	assert_int_equal(look(h, alice, p, 0, BB_EXTENT_SIZE), BB_ST_OK);
	assert_int_equal(fill(h, alice, p, 0xaa, BB_EXTENT_SIZE), BB_ST_OK);
	assert_int_equal(look(h, alice, p + 4096, 0xaa, 4096), BB_ST_OK);
	assert_int_equal(bb_home_delete(h, alice, p), BB_ST_OK);
	assert_int_equal(look(h, alice, p, 0xaa, 4096), BB_ST_GENERATION);
	assert_int_equal(fill(h, alice, p, 0xaa, 4096), BB_ST_GENERATION);
	assert_int_equal(bb_home_delete(h, alice, p), BB_ST_GENERATION);

	/* The same place for another owner: zeros, and another pointer. */
	assert_int_equal(bb_home_create(h, bob, 0, &q), BB_ST_OK);
	assert_int_equal(bb_ptr_offset(q), bb_ptr_offset(p));
	assert_true(q != p);
	assert_int_equal(look(h, bob, q, 0, BB_EXTENT_SIZE), BB_ST_OK);
	assert_int_equal(look(h, alice, p, 0, 4096), BB_ST_GENERATION);

	bb_home_stats(h, &st);
	assert_int_equal(st.lent, 2 * MIB);
	assert_int_equal(st.used, 2 * MIB);
	assert_int_equal(st.extents, 1);
	assert_int_equal(st.creates, 2);
	assert_int_equal(st.deletes, 1);
	assert_int_equal(st.reads, 3);
	assert_int_equal(st.writes, 1);
	assert_int_equal(st.refused[BB_ST_GENERATION], 4);
	bb_home_free(h);
}

static void every_refusal(void **state)
{
	struct bb_home *h = home_of(70 * MIB, NULL, 0);
	uint64_t p, s;
	void *data;

	assert_int_equal(bb_home_create(h, (struct bb_home_who){ 0, 0, 0 }, 0, &p), BB_ST_MALFORMED);
	assert_int_equal(bb_home_create(h, (struct bb_home_who){ 0, BB_NODE_ANY, 0 }, 0, &p), BB_ST_MALFORMED);
	assert_int_equal(bb_home_get(h, alice, bb_ptr(1, 0), 4096, false, &data), BB_ST_BOUNDS);
	assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_OK);
	assert_int_equal(bb_home_create(h, alice, BB_F_SHARED, &s), BB_ST_OK);

	assert_int_equal(look(h, alice, p, 0, 0), BB_ST_MALFORMED);
	assert_int_equal(look(h, alice, p + BB_EXTENT_SIZE - 4096, 0, 4097), BB_ST_BOUNDS);
	assert_int_equal(look(h, alice, p, 0, BB_EXTENT_SIZE + 1), BB_ST_BOUNDS);
	assert_int_equal(look(h, alice, p, 0, 0xffffffff), BB_ST_BOUNDS);
	assert_int_equal(look(h, alice, bb_ptr(bb_ptr_gen(p), BB_PTR_OFFSET_MASK), 0, 1), BB_ST_BOUNDS);
	assert_int_equal(look(h, alice, bb_ptr(bb_ptr_gen(p), 64 * MIB), 0, 1), BB_ST_BOUNDS); /* not grown */
	assert_int_equal(look(h, alice, bb_ptr(bb_ptr_gen(p), 70 * MIB), 0, 1), BB_ST_BOUNDS);
	assert_int_equal(look(h, alice, bb_ptr(bb_ptr_gen(p) ^ 1, bb_ptr_offset(p)), 0, 1), BB_ST_GENERATION);
	assert_int_equal(look(h, alice, bb_ptr(0, 4 * MIB), 0, 1), BB_ST_GENERATION); /* never created */
	assert_int_equal(look(h, bob, p, 0, 4096), BB_ST_RIGHTS);
	assert_int_equal(fill(h, bob, p, 1, 4096), BB_ST_RIGHTS);
	assert_int_equal(look(h, stranger, p, 0, 4096), BB_ST_TENANT);
	assert_int_equal(fill(h, stranger, p, 1, 4096), BB_ST_TENANT);
	assert_int_equal(look(h, bob, s, 0, 4096), BB_ST_OK); /* shared: read, not write */
	assert_int_equal(fill(h, bob, s, 1, 4096), BB_ST_RIGHTS);
	assert_int_equal(look(h, stranger, s, 0, 4096), BB_ST_TENANT);
	assert_int_equal(bb_home_delete(h, bob, p), BB_ST_RIGHTS);
	assert_int_equal(bb_home_delete(h, bob, s), BB_ST_RIGHTS);
	assert_int_equal(bb_home_delete(h, stranger, p), BB_ST_TENANT);
	assert_int_equal(bb_home_delete(h, alice, p + 4096), BB_ST_MALFORMED);
	assert_int_equal(bb_home_delete(h, alice, bb_ptr(1, 64 * MIB)), BB_ST_BOUNDS);
	assert_int_equal(look(h, alice, p, 0, BB_EXTENT_SIZE), BB_ST_OK); /* no refusal wrote */
	bb_home_free(h);
}

static void never_more_than_lent(void **state)
{
	/* Two slabs, the second a small one; the odd megabyte is not lent. */
	struct bb_home *h = home_of(69 * MIB, NULL, 0);
	struct bb_home_stats st;
	uint64_t p[34], more;

	for (int i = 0; i < 34; i++) {
		assert_int_equal(bb_home_create(h, alice, 0, &p[i]), BB_ST_OK);
		assert_int_equal(fill(h, alice, p[i], (uint8_t)(i + 1), BB_EXTENT_SIZE), BB_ST_OK);
	}
	assert_int_equal(bb_home_create(h, bob, 0, &more), BB_ST_NOSPACE);
	for (int i = 0; i < 34; i++)
		assert_int_equal(look(h, alice, p[i], (uint8_t)(i + 1), BB_EXTENT_SIZE), BB_ST_OK);
	bb_home_stats(h, &st);
	assert_int_equal(st.lent, 68 * MIB);
	assert_int_equal(st.used, 68 * MIB);
	assert_int_equal(bb_home_reclaim(h, bob), 0);
	assert_int_equal(bb_home_reclaim(h, stranger), 0);
	assert_int_equal(bb_home_reclaim(h, alice), 68 * MIB);
	assert_int_equal(bb_home_reclaim(h, alice), 0);
	bb_home_stats(h, &st);
	assert_int_equal(st.used, 0);
	for (int i = 0; i < 34; i++) {
		assert_int_equal(look(h, alice, p[i], 0, 4096), BB_ST_GENERATION);
		assert_int_equal(bb_home_create(h, bob, 0, &more), BB_ST_OK);
		assert_int_equal(look(h, bob, more, 0, BB_EXTENT_SIZE), BB_ST_OK);
	}
	bb_home_free(h);

	h = home_of(MIB, NULL, 0); /* less than an extent: lends nothing */
	assert_int_equal(bb_home_create(h, alice, 0, &more), BB_ST_NOSPACE);
	assert_int_equal(bb_home_delete(h, alice, bb_ptr(1, 0)), BB_ST_BOUNDS);
	assert_int_equal(bb_home_reclaim(h, alice), 0);
	bb_home_free(h);
}

static void quota_of_a_node(void **state)
{
	struct bb_home *h = home_of(64 * MIB, NULL, 4 * MIB);
	uint64_t p, q;

	assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_OK);
	assert_int_equal(bb_home_create(h, alice, 0, &q), BB_ST_OK);
	assert_int_equal(bb_home_create(h, alice, 0, &q), BB_ST_NOSPACE);
	assert_int_equal(bb_home_create(h, bob, 0, &q), BB_ST_OK);
	assert_int_equal(bb_home_delete(h, alice, p), BB_ST_OK);
	assert_int_equal(bb_home_create(h, alice, 0, &q), BB_ST_OK);
	bb_home_free(h);
}

/* Who holds a window keeps the bytes, whatever is deleted and created meanwhile. */
static void window_outlives_delete(void **state)
{
	struct bb_home *h = home_of(2 * MIB, NULL, 0);
	struct bb_home_stats st;
	uint64_t p, q;
	void *a, *b;

	assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_OK);
	assert_int_equal(fill(h, alice, p, 0x55, 4096), BB_ST_OK);
	assert_int_equal(bb_home_get(h, alice, p, 4096, false, &a), BB_ST_OK);
	assert_int_equal(bb_home_get(h, alice, p, 4096, false, &b), BB_ST_OK);
	assert_int_equal(bb_home_delete(h, alice, p), BB_ST_OK);
	assert_true(all_are(a, 0x55, 4096));
	assert_int_equal(bb_home_create(h, bob, 0, &q), BB_ST_NOSPACE);
	bb_home_put(h, p, 4096, false);
	assert_true(all_are(b, 0x55, 4096));
	assert_int_equal(bb_home_create(h, bob, 0, &q), BB_ST_NOSPACE);
	bb_home_stats(h, &st);
	assert_int_equal(st.extents, 0);
	assert_int_equal(st.used, 2 * MIB);
	bb_home_put(h, p, 4096, false);
	assert_int_equal(bb_home_create(h, bob, 0, &q), BB_ST_OK);
	assert_int_equal(look(h, bob, q, 0, BB_EXTENT_SIZE), BB_ST_OK);
	bb_home_free(h);
}

static void generation_is_never_zero(void **state)
{
	struct bb_home *h = home_of(2 * MIB, NULL, 0);
	uint64_t p, last = 0;

	for (int i = 0; i < 70000; i++) {
		assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_OK);
		assert_true(bb_ptr_gen(p) != 0 && p != last);
		last = p;
		assert_int_equal(bb_home_delete(h, alice, p), BB_ST_OK);
	}
	bb_home_free(h);
}

/* --- stores ------------------------------------------------------------- */

static void store_leaves_nothing(void **state)
{
	char dir[] = "/tmp/bb-test-store-XXXXXX";
	struct bb_home *h;
	uint64_t p;

	assert_non_null(mkdtemp(dir));
	h = home_of(8 * MIB, dir, 0);
	assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_OK);
	assert_int_equal(look(h, alice, p, 0, BB_EXTENT_SIZE), BB_ST_OK);
	assert_int_equal(fill(h, alice, p, 0x77, BB_EXTENT_SIZE), BB_ST_OK);
	assert_int_equal(look(h, alice, p, 0x77, BB_EXTENT_SIZE), BB_ST_OK);
	assert_int_equal(bb_home_delete(h, alice, p), BB_ST_OK);
	assert_int_equal(bb_home_create(h, bob, 0, &p), BB_ST_OK);
	assert_int_equal(look(h, bob, p, 0, BB_EXTENT_SIZE), BB_ST_OK);
	assert_int_equal(rmdir(dir), 0); /* empty while in use: a killed daemon leaves nothing */
	bb_home_free(h);
}

static void store_unusable(void **state)
{
	struct bb_home_config cfg = { .lend = 8 * MIB, .store = "/nonexistent/store" };
	struct bb_home *h = NULL;

	assert_int_equal(bb_home_new(&h, &cfg), -ENOENT);
	cfg.store = "/dev/null";
	assert_int_equal(bb_home_new(&h, &cfg), -ENOTDIR);
	cfg.store = "/proc";
	assert_true(bb_home_new(&h, &cfg) < 0);
	assert_null(h);
}

/* In a child, since it needs a mount namespace of its own. 77: not allowed here. */
static int full_store(void)
{
	char dir[] = "/tmp/bb-test-full-XXXXXX";
	struct bb_home_config cfg = { .lend = 64 * MIB };
	struct bb_home_stats st;
	struct bb_home *h;
	uint64_t p[4], q;
	int ret = 1;

	if (!mkdtemp(dir))
		return 1;
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("none", dir, "tmpfs", 0, "size=9m")) {
		rmdir(dir);
		return 77;
	}
	cfg.store = dir;
	if (bb_home_new(&h, &cfg))
		goto out;
	for (int i = 0; i < 4; i++) {
		ret = 2;
		if (bb_home_create(h, alice, 0, &p[i]) || fill(h, alice, p[i], 0x11, BB_EXTENT_SIZE))
			goto out;
	}
	ret = 3; /* the fifth has no room: an answer, not a signal, as often as it is asked */
	for (int i = 0; i < 100; i++)
		if (bb_home_create(h, bob, 0, &q) != BB_ST_NOSPACE)
			goto out;
	ret = 4; /* and none is announced */
	bb_home_stats(h, &st);
	if (st.lent != st.used || st.used != 8 * MIB)
		goto out;
	ret = 5; /* a free makes room */
	if (bb_home_delete(h, alice, p[2]) || bb_home_create(h, bob, 0, &q) || look(h, bob, q, 0, BB_EXTENT_SIZE))
		goto out;
	ret = 6;
	bb_home_stats(h, &st);
	if (st.lent != 64 * MIB)
		goto out;
	bb_home_free(h);
	ret = 0;
out:
	umount2(dir, MNT_DETACH);
	rmdir(dir);
	return ret;
}

static void store_full(void **state)
{
	int status = 0;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid)
		_exit(full_store());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* --- threads ------------------------------------------------------------ */

#define WORKERS 4
#define SLOTS 6

static struct bb_home *th;
static _Atomic uint64_t board[SLOTS]; /* pointers with the owner's number beside */
static _Atomic uint16_t board_node[SLOTS];
static _Atomic unsigned long wrong, good_reads, stale_reads;
static _Atomic bool stop;

/*
 * A word of an extent is 0 or the pointer that it was written through. Pointers
 * name their generation, so another owner's bytes can never pass.
 */
static void check_words(const void *page, uint64_t ptr, bool must_be_zero)
{
	const uint64_t *w = page;

	for (int i = 0; i < 512; i++) {
		uint64_t v = __atomic_load_n(&w[i], __ATOMIC_RELAXED);

		if (v && (must_be_zero || v != ptr))
			atomic_fetch_add(&wrong, 1);
	}
}

static void *owner_thread(void *arg)
{
	const struct bb_home_who me = { 0, (uint16_t)(uintptr_t)arg, 0 };
	unsigned int seed = me.node;

	while (!stop) {
		const uint32_t page = (uint32_t)rand_r(&seed) % BB_EXTENT_PAGES * 4096;
		int slot = rand_r(&seed) % SLOTS;
		uint64_t ptr;
		void *data;

		if (bb_home_create(th, me, 0, &ptr) != BB_ST_OK)
			continue;
		if (bb_home_get(th, me, ptr + page, 4096, true, &data) != BB_ST_OK) {
			atomic_fetch_add(&wrong, 1);
			continue;
		}
		check_words(data, ptr, true);
		board_node[slot] = me.node;
		board[slot] = ptr + page;
		for (int i = 0; i < 512; i++)
			__atomic_store_n((uint64_t *)data + i, ptr, __ATOMIC_RELAXED);
		check_words(data, ptr, false);
		bb_home_put(th, ptr + page, 4096, true);
		if (bb_home_delete(th, me, ptr) != BB_ST_OK)
			atomic_fetch_add(&wrong, 1);
	}
	bb_home_reclaim(th, me);
	return NULL;
}

static void *reader_thread(void *arg)
{
	unsigned int seed = (unsigned int)(uintptr_t)arg;

	while (!stop) {
		int slot = rand_r(&seed) % SLOTS;
		struct bb_home_who who = { 0, board_node[slot], 0 };
		const bool change = rand_r(&seed) & 1;
		uint64_t ptr = board[slot];
		void *data;
		uint8_t st;

		if (!ptr)
			continue;
		st = bb_home_get(th, who, ptr, 4096, change, &data);
		if (st == BB_ST_OK) {
			for (int again = 0; again < 3; again++)
				check_words(data, ptr & ~(uint64_t)(BB_EXTENT_SIZE - 1), false);
			bb_home_put(th, ptr, 4096, change);
			atomic_fetch_add(&good_reads, 1);
		} else if (st == BB_ST_GENERATION || st == BB_ST_RIGHTS) {
			atomic_fetch_add(&stale_reads, 1);
		} else {
			atomic_fetch_add(&wrong, 1);
		}
	}
	return NULL;
}

static void many_threads(void **state)
{
	pthread_t t[2 * WORKERS];
	struct bb_home_stats st;

	th = home_of(SLOTS * 2 * MIB, NULL, 0);
	for (uintptr_t i = 0; i < WORKERS; i++) {
		assert_int_equal(pthread_create(&t[i], NULL, owner_thread, (void *)(i + 1)), 0);
		assert_int_equal(pthread_create(&t[WORKERS + i], NULL, reader_thread, (void *)(i + 100)), 0);
	}
	/* Long enough to have seen both sides; a loaded machine gets more time. */
	for (int i = 0; i < 300 && (i < 15 || !good_reads || stale_reads < 1000); i++)
		usleep(100000);
	stop = true;
	for (int i = 0; i < 2 * WORKERS; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(wrong, 0);
	assert_true(good_reads > 0);
	assert_true(stale_reads > 0);
	bb_home_stats(th, &st);
	assert_int_equal(st.used, 0);
	assert_int_equal(st.extents, 0);
	assert_int_equal(st.creates, st.deletes);
	bb_home_free(th);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(life_of_an_extent),   cmocka_unit_test(every_refusal),
		cmocka_unit_test(never_more_than_lent), cmocka_unit_test(quota_of_a_node),
		cmocka_unit_test(window_outlives_delete), cmocka_unit_test(generation_is_never_zero),
		cmocka_unit_test(store_leaves_nothing), cmocka_unit_test(store_unusable),
		cmocka_unit_test(store_full),	       cmocka_unit_test(many_threads),
	};

	return cmocka_run_group_tests_name("home", tests, NULL, NULL);
}
