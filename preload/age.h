/* SPDX-License-Identifier: MIT */
/*
 * Which pages are taken out: what the hand (evict.c) decides by a page's word alone.
 * Pure, so that scripts/bench/policy runs the same code over recorded traces.
 */
#ifndef BB_AGE_H
#define BB_AGE_H

#include <bluebridge/region.h>

#define BB_AGE_MIN (-6)
#define BB_AGE_OLD 3	/* quarters of a turnover before a page is a victim */
#define BB_AGE_COOLER 4 /* quarters of a turnover that heat counts less for each of age below zero */

/*
 * Nothing says which pages that are here are used: only that one was taken out, and
 * missed. One that came back soon has more time the next time; so a scan, whose
 * pages do not come back, has to do with what is not hot. Where that is not enough
 * age goes below zero, and heat counts for less.
 */
static inline bool bb_age_enough(bb_pw w, unsigned int now, int age)
{
	static const int more[BB_HEAT_MAX + 2] = { 0, 8, 24, 24 };
	const int heat = more[bb_pw_heat(w)];

	return (int)bb_pw_age(w, now) >= (age < 0 ? heat + BB_AGE_COOLER * age : heat + age);
}

/* Of a page that has been away for long it is not known how long: gen comes round. */
static inline bool bb_age_cools(bb_pw w, unsigned int now)
{
	return bb_pw_state(w) == BB_P_REMOTE && bb_pw_heat(w) && bb_pw_age(w, now) > 2 * BB_NEAR;
}

/* The word's part of a page that is taken out: one that comes back is to be told from one that is new. */
static inline bb_pw bb_age_out(bb_pw w, bb_pw set, unsigned int now)
{
	return bb_pw_with_heat(bb_pw_with_gen(set, now), bb_pw_heat(w) + 1);
}

/* The hand has been round and took so many. Return: false where younger ones will not do either. */
static inline bool bb_age_round(int *age, unsigned int taken, unsigned int target)
{
	if (!taken) {
		if (*age <= BB_AGE_MIN)
			return false;
		--*age;
	} else if (*age < BB_AGE_OLD && taken > target) {
		++*age;
	}
	return true;
}

#endif
