#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# 100,000 pointers and the neighbour table, in a guest of their own: here they
# would starve every other namespace of this machine of neighbours. What is
# asserted stands in tests/vm/pointers.

load ../bats/common

setup() { cd "$TOP" || return; }

@test "100,000 pointers from one client: one route a host, a full neighbour table, and the paper's failure without" {
	run tests/vm/guest --seconds 280 6.12 -- env B="${B:-build}" tests/vm/pointers
	((status != 77)) || skip "$output"
	grep '^#' <<<"$output" >&3 || :
	expect_status 0
	expect_equal "$(grep -c '^ok ' <<<"$output")" 5
	expect_no_output "not ok"
}
