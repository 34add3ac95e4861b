/* SPDX-License-Identifier: MIT */
/* Windows of NICs into lent memory: who may have one, and that none outlives its extent. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"
#include "home/home.h"
#include "home/slab.h"
#include "log.h"

static const struct bb_home_who owner = { .tenant = 0, .node = 7 };
static unsigned int shuts;
static uint32_t last;
static bool cannot;
static struct bb_home *home;

static bool shut(void *arg, uint32_t extent)
{
	assert_ptr_equal(arg, &shuts);
	shuts++;
	last = extent;
	return !cannot;
}

static int setup(void **state)
{
	const struct bb_home_config hc = { .lend = 64ULL << 20 };

	cannot = false;
	shuts = 0;
	assert_int_equal(bb_home_new(&home, &hc), 0);
	bb_home_windows(home, &(struct bb_home_windows){ .shut = shut, .arg = &shuts });
	return 0;
}

static int teardown(void **state)
{
	bb_home_free(home);
	return 0;
}

static uint64_t create(uint8_t flags)
{
	uint64_t ptr;

	assert_int_equal(bb_home_create(home, owner, flags, &ptr), BB_ST_OK);
	return ptr;
}

static uint8_t window(struct bb_home_who who, uint64_t ptr)
{
	void *mem;
	uint8_t st = bb_home_window(home, who, ptr, &mem);

	if (st == BB_ST_OK)
		bb_home_put(home, ptr, BB_EXTENT_SIZE, false);
	return st;
}

static void who_may(void **state)
{
	uint64_t x = create(0), shared = create(BB_F_SHARED), adopted = create(BB_HOME_ADOPTED);
	struct bb_home_who of;
	void *mem, *page;

	assert_int_equal(bb_home_window(home, owner, x, &mem), BB_ST_OK);
	assert_int_equal(bb_home_get(home, owner, x, 4096, true, &page), BB_ST_OK);
	assert_ptr_equal(mem, page);
	bb_home_put(home, x, 4096, true);
	bb_home_put(home, x, BB_EXTENT_SIZE, false);
	assert_int_equal(window((struct bb_home_who){ .node = 8 }, x), BB_ST_RIGHTS);
	assert_int_equal(window((struct bb_home_who){ .tenant = 1, .node = 7 }, x), BB_ST_TENANT);
	assert_int_equal(window(owner, shared), BB_ST_COMMAND);
	assert_int_equal(window(owner, adopted), BB_ST_COMMAND);
	assert_int_equal(window(owner, x + 4096), BB_ST_MALFORMED);
	assert_int_equal(window(owner, 1ULL << 40), BB_ST_BOUNDS);
	assert_int_equal(window(owner, x ^ 1ULL << 48), BB_ST_GENERATION);
	assert_int_equal(bb_home_move_begin(home, (struct bb_home_who){ .node = 9 }, 1, x, 5, bb_now_ns(), &of), BB_ST_OK);
	assert_int_equal(window(owner, x), BB_ST_BUSY);
	assert_int_equal(bb_home_move_abort(home, (struct bb_home_who){ .node = 9 }, x, 5), BB_ST_OK);
	assert_int_equal(window(owner, x), BB_ST_OK);
	assert_int_equal(bb_home_delete(home, owner, x), BB_ST_OK);
	assert_int_equal(window(owner, x), BB_ST_GENERATION);
}

/* Whatever takes an extent away from its owner shuts its windows. */
static void every_way_shuts(void **state)
{
	struct bb_home_who of;
	uint64_t x = create(0);

	assert_int_equal(bb_home_delete(home, owner, x), BB_ST_OK);
	assert_int_equal(shuts, 1);
	assert_int_equal(last, bb_ptr_offset(x) >> BB_EXTENT_SHIFT);
	x = create(0);
	bb_home_drop(home, x);
	assert_int_equal(shuts, 2);
	create(0);
	create(0);
	assert_int_equal(bb_home_reclaim(home, owner), 2 * BB_EXTENT_SIZE);
	assert_int_equal(shuts, 4);
	x = create(0);
	assert_int_equal(bb_home_move_begin(home, (struct bb_home_who){ .node = 9 }, 1, x, 5, bb_now_ns(), &of), BB_ST_OK);
	assert_int_equal(shuts, 5);
	assert_int_equal(bb_home_move_commit(home, (struct bb_home_who){ .node = 9, .boot = 3 }, x, 5, &of), BB_ST_OK);
	assert_int_equal(bb_home_moved_lost(home, 9, 4), 1);
	assert_int_equal(shuts, 6);
}

/* One that cannot be shut keeps its memory for ever, and a move does not begin. */
static void what_cannot_be_shut(void **state)
{
	struct bb_home_who of;
	uint64_t x = create(0), y;
	unsigned int n = 0;

	cannot = true;
	assert_int_equal(bb_home_move_begin(home, (struct bb_home_who){ .node = 9 }, 1, x, 5, bb_now_ns(), &of), BB_ST_BUSY);
	assert_true(bb_home_alive(home, x));
	assert_int_equal(bb_home_delete(home, owner, x), BB_ST_OK);
	cannot = false;
	assert_int_equal(window(owner, x), BB_ST_GENERATION);
	while (bb_home_create(home, owner, 0, &y) == BB_ST_OK) {
		assert_int_not_equal(bb_ptr_offset(y), bb_ptr_offset(x));
		n++;
	}
	assert_int_equal(n, 31);
}

/* Pages that a NIC knows are cleared, not given back. */
static void pinned_memory_stays(void **state)
{
	unsigned char there = 0;
	uint64_t x = create(0), y = 0;
	void *mem, *page;

	assert_int_equal(bb_home_pin(home, 0, &mem), 0);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(bb_home_get(home, owner, x, 4096, true, &page), BB_ST_OK);
		memset(page, 0x5a, 4096);
		bb_home_put(home, x, 4096, true);
		assert_int_equal(bb_home_delete(home, owner, x), BB_ST_OK);
		do {
			usleep(1000);
			y = create(0);
		} while (bb_ptr_offset(y) != bb_ptr_offset(x) && bb_ptr_offset(y) < 30 * BB_EXTENT_SIZE);
		if (bb_ptr_offset(y) != bb_ptr_offset(x))
			fail_msg("its place was not given out again");
		assert_int_equal(mincore(page, 4096, &there), 0);
		assert_int_equal(there & 1, !round);
		assert_int_equal(*(unsigned char *)page, 0);
		bb_home_unpin(home, 0);
		x = y;
	}
}

static void files_are_not_pinned(void **state)
{
	struct bb_home_config hc = { .lend = 64ULL << 20, .store = "/tmp" };
	struct bb_home *h;
	uint64_t x;
	void *mem;

	assert_int_equal(bb_home_new(&h, &hc), 0);
	assert_int_equal(bb_home_create(h, owner, 0, &x), BB_ST_OK);
	assert_int_equal(bb_home_pin(h, 0, &mem), -EOPNOTSUPP);
	bb_home_free(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(who_may, setup, teardown),
		cmocka_unit_test_setup_teardown(every_way_shuts, setup, teardown),
		cmocka_unit_test_setup_teardown(what_cannot_be_shut, setup, teardown),
		cmocka_unit_test_setup_teardown(pinned_memory_stays, setup, teardown),
		cmocka_unit_test(files_are_not_pinned),
	};

	bb_log_init("test", BB_LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
