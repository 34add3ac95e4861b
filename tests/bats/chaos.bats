#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Everything at once, see tests/chaos/chaos. BB_TEST_CHAOS_SECONDS makes it
# longer, BB_TEST_SEED replays a run; the seed is printed.

load common

setup() { need_root; }

@test "programs run while all happens to their rack: every byte right" {
	local seconds=${BB_TEST_CHAOS_SECONDS:-150} seed=${BB_TEST_SEED:-$RANDOM}

	echo "# chaos: seed $seed, $seconds s" >&3
	run timeout -k 20 $((seconds + 200)) "$TOP/tests/chaos/chaos" --build "$BUILD" --seconds "$seconds" --seed "$seed"
	expect_status 0
	expect_output "every byte right"
}
