#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Memory hosts that die, hang and are cut off: with two copies nothing is lost
# and nobody waits long; with one, SIGBUS says so.

# shellcheck disable=SC2030,SC2031,SC2317 # a test is a function, its variables and functions stay there

load common

setup() { need_root; }

teardown() {
	end_programs
	remove_racks
}

# Runs on h1 in the background, under a small budget; its output to $1.
load_h1() {
	bbrack run h1 -- timeout 100 env BB_LOCAL=24M BB_STATS="$BATS_TEST_TMPDIR/stats" LD_PRELOAD="$BUILD/libbb.so" \
		"$BUILD/apps/bbtouch" --size 96M --pattern rand --writes 40 --seconds "$2" >"$1" 2>&1 &
	PIDS+=($!)
	load=$!
}

program() { bbrack run h1 -- "$BUILD/bbctl" -j program show | jq -c '.programs[0]'; }

# All of it lies at two hosts. (Or the program has ended.)
is_copied() { program | jq -e '.copied > 1000 and .single == 0' >/dev/null; }
is_double() { program | jq -e '.single == 0' >/dev/null; }
is_paged() { program | jq -e '.fill_remote > 500' >/dev/null; }

# The load ended well, and its longest access took less than two seconds.
ended_well() {
	local ms

	wait "$load" || fail "the program failed:" "$(<"$1")"
	grep -q "every page verified" "$1" || fail "$(<"$1")"
	jq -e '.lost == 0 and .fill_remote > 1000' "$BATS_TEST_TMPDIR/stats" >/dev/null || fail "$(<"$BATS_TEST_TMPDIR/stats")"
	ms=$(sed -n 's/.*max \([0-9]*\) ns$/\1/p' "$1" | awk '{ printf "%d\n", $1 / 1e6 }')
	echo "# longest access $ms ms" >&3
	((ms < 2000)) || fail "an access took $ms ms"
}

@test "two copies: a memory host dies, and when all is copied a second one" {
	local out=$BATS_TEST_TMPDIR/out

	rack_up 4 --bbd-args "--replicas 2"
	load_h1 "$out" 30
	eventually 10 is_paged
	bbrack bbd h2 kill
	eventually 20 is_copied
	bbrack bbd h3 kill
	ended_well "$out"
	grep -q "have one copy only" "/run/bluebridge/$RACK/h1/bbd.log"
	grep -q "two copies again" "/run/bluebridge/$RACK/h1/bbd.log"
}

@test "two copies: a memory host hangs, and comes back" {
	local out=$BATS_TEST_TMPDIR/out

	rack_up 3 --bbd-args "--replicas 2"
	load_h1 "$out" 16
	eventually 10 is_paged
	bbrack bbd h2 hang
	sleep 6
	bbrack bbd h2 resume
	ended_well "$out"
}

@test "two copies: a link goes down, and up again" {
	local out=$BATS_TEST_TMPDIR/out

	rack_up 4 --bbd-args "--replicas 2"
	load_h1 "$out" 16
	eventually 10 is_paged
	ip -n "bb-$RACK-sw" link set p3 down
	sleep 5
	ip -n "bb-$RACK-sw" link set p3 up
	ended_well "$out"
}

@test "two copies: bbd is killed under them, and a host that comes back empty is told apart" {
	local out=$BATS_TEST_TMPDIR/out

	rack_up 4 --bbd-args "--replicas 2 --keep 5"
	load_h1 "$out" 24
	eventually 10 is_paged
	bbrack bbd h1 kill
	bbrack bbd h1 start
	sleep 1
	# Its keeper gives up before it comes back.
	bbrack bbd h2 kill
	sleep 8
	bbrack bbd h2 start
	sleep 2
	eventually 20 is_double
	ended_well "$out"
}

@test "two copies and fork: every byte right while a host dies" {
	rack_up 4 --bbd-args "--replicas 2"
	(sleep 2; bbrack bbd h3 kill) &
	run bbrack run h1 -- timeout 100 env BB_LOCAL=24M LD_PRELOAD="$BUILD/libbb.so" "$BUILD/apps/bbfork" --size 64
	expect_status 0
	expect_output "every byte right"
	wait
}

@test "two hosts only: one copy has to do, and that is said" {
	rack_up 1 --bbd-args "--replicas 2"
	run bbrack run h1 -- timeout 100 env BB_LOCAL=16M LD_PRELOAD="$BUILD/libbb.so" "$BUILD/apps/bbtouch" --size 64M --ops 3000
	expect_status 0
	grep -q "no second host has memory to lend" "/run/bluebridge/$RACK/h1/bbd.log"
}
