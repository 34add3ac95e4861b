#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# The traces that replacement is chosen by: are they true, and what is said of ours?
# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

setup() {
	export XDG_RUNTIME_DIR=$BATS_TEST_TMPDIR
	TRACE=$BATS_TEST_TMPDIR/trace
}

record() { "$TOP/scripts/bench/record" "$@"; }

# A fifth of 40 MiB at random, and the others in turn: page by page it is known what is touched.
hot() { printf 'hot 2048 60000\ncheck\n'; }

@test "a trace has every touch of another page" {
	run record "$TRACE" "$BUILD/bench/fault" 40M < <(hot)
	expect_status 0
	expect_output '"verified":true'
	run "$BUILD/bench/policy" -j "$TRACE"
	expect_status 0
	# Two a round, and all pages when they are filled and compared; some of the hot ones are still here.
	expect_json '.pages >= 10240 and .pages < 11000'
	expect_json '.touches > 0.9 * (2 * 60000 + 2 * 10240) and .touches < 1.1 * (2 * 60000 + 2 * 10240)'
}

@test "ours takes out in a replay what it takes out in a program" {
	local pages slots=64 said real

	record "$TRACE" "$BUILD/bench/fault" 40M < <(hot)
	run "$BUILD/bench/policy" -j "$TRACE"
	expect_status 0
	pages=$(jq '.pages * 0.25 | floor' <<<"$output")
	said=$(jq '.policies.ours.at[1].again' <<<"$output")
	expect_json '.policies.ours.at[1].again < 0.9 * .policies.fifo.at[1].again'
	while ((slots * 2 <= (pages + slots * 2) / 16)); do slots=$((slots * 2)); done
	BB_STATS=$BATS_TEST_TMPDIR/stats BB_PREFETCH=off BB_LOCAL=$(((pages + slots) * 4096)) \
		"$BUILD/bbrun" "$BUILD/bench/fault" 40M < <(hot) >/dev/null
	real=$(jq '.fill_remote + .fill_staged' "$BATS_TEST_TMPDIR/stats")
	((real > said * 85 / 100 && real < said * 115 / 100)) || fail "$real pages came back in the program, $said in the replay"
}

@test "what is no trace is refused" {
	run "$BUILD/bench/policy"
	expect_status 2
	run "$BUILD/bench/policy" /dev/null
	expect_status 1
	expect_output "not a trace"
	run "$BUILD/bench/policy" "$BATS_TEST_TMPDIR/none"
	expect_status 1
	expect_output "No such file"
	truncate -s 64 "$TRACE"
	run env BB_BENCH_TRACE="$TRACE.none" "$BUILD/bench/tracer" --embedded
	expect_status 3
	expect_output BB_BENCH_TRACE
	run record
	expect_status 125
	run record "$BATS_TEST_TMPDIR/none/trace" true
	expect_status 125
}
