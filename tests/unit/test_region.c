/* SPDX-License-Identifier: MIT */
/* region.h: the fields of a page's word, and the heat of a page that comes back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <bluebridge/region.h>

#define ANY (~0ULL)

static void fields_do_not_overlap(void **state)
{
	const bb_pw flags = BB_PW_WAIT | BB_PW_HASHED | BB_PW_WB | BB_PW_DIRTY | BB_PW_PREFETCH | BB_PW_FROM;
	const bb_pw field[] = { BB_PW_STATE, flags, BB_PW_GEN, BB_PW_SLOT, BB_PW_HEAT, BB_PW_RX };
	bb_pw all = 0;

	assert_true(flags == BB_PW_FLAGS);
	for (unsigned int i = 0; i < sizeof(field) / sizeof(field[0]); i++) {
		assert_true(!(all & field[i]));
		all |= field[i];
	}
	assert_true(all == ANY);
}

static void what_is_put_in_comes_out(void **state)
{
	const bb_pw start[] = { 0, ANY };

	for (unsigned int i = 0; i < 2; i++) {
		const bb_pw w = start[i];

		for (unsigned int gen = 0; gen < 70; gen++) {
			const bb_pw v = bb_pw_with_gen(w, gen);

			assert_int_equal(bb_pw_gen(v), gen % 32);
			assert_true((v & ~BB_PW_GEN) == (w & ~BB_PW_GEN));
			assert_int_equal(bb_pw_age(v, gen + 31), 31);
			assert_int_equal(bb_pw_age(v, gen + 32), 0);
		}
		for (unsigned int heat = 0; heat < 4; heat++) {
			const bb_pw v = bb_pw_with_heat(w, heat);

			assert_int_equal(bb_pw_heat(v), heat);
			assert_true((v & ~BB_PW_HEAT) == (w & ~BB_PW_HEAT));
		}
		for (uint32_t slot = 0; slot < 1u << BB_PW_SLOT_BITS; slot += 4095) {
			const bb_pw v = bb_pw_with_slot(w, slot);

			assert_int_equal(bb_pw_slot(v), slot);
			assert_true((v & ~BB_PW_SLOT) == (w & ~BB_PW_SLOT));
		}
	}
}

/* A page with this heat when it was taken out, back after so many quarters of a turnover. */
static unsigned int back(unsigned int heat, unsigned int after, bool used)
{
	return bb_heat_back(bb_pw_with_heat(bb_pw_with_gen(BB_P_REMOTE, 29), heat + 1), 29 + after, used);
}

static void soon_is_hotter_late_is_colder(void **state)
{
	const bb_pw forgotten = bb_pw_with_gen(BB_P_REMOTE, 3);

	assert_int_equal(back(0, 0, true), 1);
	assert_int_equal(back(0, BB_NEAR, true), 1);
	assert_int_equal(back(0, BB_NEAR + 1, true), 0);
	assert_int_equal(back(1, 2, true), 2);
	assert_int_equal(back(BB_HEAT_MAX, 2, true), BB_HEAT_MAX);
	assert_int_equal(back(BB_HEAT_MAX, 9, true), BB_HEAT_MAX - 1);
	assert_int_equal(back(1, 9, true), 0);
	/* Fetched ahead is not used. */
	for (unsigned int heat = 0; heat <= BB_HEAT_MAX; heat++)
		assert_int_equal(back(heat, 1, false), heat);
	/* Long away: how long is not known any more, whatever gen says. */
	for (unsigned int now = 0; now < 64; now++)
		assert_int_equal(bb_heat_back(forgotten, now, true), 0);
}

/* 96 bits of it: a difference in any of them is one. */
static void hashes_differ_by_a_bit(void **state)
{
	const uint64_t lo = 0x123456789abcdef0ULL, hi = 0x0fedcba987654321ULL;
	const struct bb_hash h = bb_hash_of(lo, hi);

	assert_true(bb_hash_same(h, bb_hash_of(lo, hi)));
	for (unsigned int i = 0; i < 64; i++)
		assert_false(bb_hash_same(h, bb_hash_of(lo ^ 1ULL << i, hi)));
	for (unsigned int i = 0; i < 32; i++)
		assert_false(bb_hash_same(h, bb_hash_of(lo, hi ^ 1ULL << i)));
}

/* Our own memory for a page is less than 24 bytes (make bench ONLY=memory-per-page), and most of it is here. */
static void a_page_costs_twenty_bytes(void **state)
{
	const uint64_t n = 1 << 20;
	const struct bb_region_layout one = bb_region_layout(n, 256), two = bb_region_layout(2 * n, 256);

	assert_in_range(two.size - one.size, 20 * n, 20 * n + n / 16);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fields_do_not_overlap),
		cmocka_unit_test(hashes_differ_by_a_bit),
		cmocka_unit_test(a_page_costs_twenty_bytes),
		cmocka_unit_test(what_is_put_in_comes_out),
		cmocka_unit_test(soon_is_hotter_late_is_colder),
	};

	return cmocka_run_group_tests_name("region", tests, NULL, NULL);
}
