/* SPDX-License-Identifier: MIT */
/* lib/steer_names.c: names there and back; directories of devices. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <bluebridge/steer.h>

#include "steer_names.h"

static void everything_has_a_name(void **state)
{
	for (unsigned int i = 0; i < BB_CNT_MAX; i++)
		if (!bb_steer_count_name(i) != (i < BB_CNT_NDP))
			fail_msg("counter %u", i);
	assert_null(bb_steer_count_name(BB_CNT_MAX));
	for (unsigned int i = 0; i < BB_ACT_MAX; i++)
		assert_int_equal(bb_action_parse(bb_action_name(i)), (int)i);
	assert_null(bb_action_name(BB_ACT_MAX));
	for (unsigned int i = 0; i <= BB_CMD_READ_RUN; i++)
		assert_int_equal(bb_cmd_parse(bb_cmd_name(i)), (int)i);
	assert_null(bb_cmd_name(127));
	assert_null(bb_cmd_name(1000));
}

static void commands_by_number(void **state)
{
	static const char *const bad[] = { "", "128", "-1", "4x", "reads", "READ", " 4", "99999999999999999999" };

	assert_int_equal(bb_cmd_parse("0"), 0);
	assert_int_equal(bb_cmd_parse("127"), 127);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(bb_cmd_parse(bad[i]), -EINVAL);
	assert_int_equal(bb_action_parse("none"), -EINVAL);
}

static void directories(void **state)
{
	char buf[48], dev[IF_NAMESIZE];
	uint64_t ns;

	assert_int_equal(bb_steer_dir(buf, sizeof(buf), 4026531840u, "eth0.100"), 0);
	assert_string_equal(buf, "n4026531840:eth0:100");
	assert_true(bb_steer_dir_parse(buf, &ns, dev));
	assert_int_equal(ns, 4026531840u);
	assert_string_equal(dev, "eth0.100");
	assert_int_equal(bb_steer_dir(buf, sizeof(buf), 7, NULL), 0);
	assert_string_equal(buf, "n7");
	assert_true(bb_steer_dir_parse(buf, &ns, dev));
	assert_string_equal(dev, "");
	assert_int_equal(bb_steer_dir(buf, 8, 7, "ethernet"), -ENAMETOOLONG);
}

static void not_directories(void **state)
{
	static const char *const bad[] = { "", "n", "nx", "x7", "n7x", "n7:", "n-1", "n7:a123456789012345",
					   "n99999999999999999999999", "maps" };
	char dev[IF_NAMESIZE];
	uint64_t ns;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (bb_steer_dir_parse(bad[i], &ns, dev))
			fail_msg("%s", bad[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(everything_has_a_name),
		cmocka_unit_test(commands_by_number),
		cmocka_unit_test(directories),
		cmocka_unit_test(not_directories),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
