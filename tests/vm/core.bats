#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# BlueBridge on other kernels, one boot each: tests/vm/core runs there and says
# what holds, the tests here look at what it said. One that it did not come to
# has failed.

load ../bats/common
load said

setup_file() {
	local k

	cd "$TOP" || return
	for k in 6.12 6.1; do
		boot $k tests/vm/guest --seconds 190 $k -- env B="${B:-build}" tests/vm/core
	done
}

@test "6.12: wire, tags, home and mappings" {
	for t in test_wire test_tag test_home test_mmap; do holds 6.12 "$t"; done
}

@test "6.12: pages of a rack of two go out and come back, MTU 9000" {
	holds 6.12 "a rack of two comes up, MTU 9000"
	holds 6.12 "pages go to the other host and come back, written ones too"
	holds 6.12 "four threads"
	holds 6.12 "huge pages that are pinned stay, all else goes, and nobody waits"
	holds 6.12 "bbd makes no system call that its filter refuses"
}

@test "6.12: programs load and are right, at tcx; READs are answered in the kernel" {
	holds 6.12 "bbload's selftest"
	holds 6.12 "the switch's programs are at tcx"
	holds 6.12 "the kernel answered their READs"
}

@test "6.12: the rack leaves nothing behind" {
	holds 6.12 "the rack goes down"
	holds 6.12 "nothing of it is left"
}

@test "6.12: nothing else failed there" {
	nothing_else_failed 6.12 test_wire
}

@test "6.1: wire, tags, home and mappings" {
	for t in test_wire test_tag test_home test_mmap; do holds 6.1 "$t"; done
}

@test "6.1: pages of a rack of two go out and come back without UFFDIO_MOVE, MTU 9000" {
	holds 6.1 "a rack of two comes up, MTU 9000"
	holds 6.1 "without UFFDIO_MOVE pages go to the other host and come back, written ones too"
	holds 6.1 "without UFFDIO_MOVE: four threads"
	holds 6.1 "without UFFDIO_MOVE: forks"
	holds 6.1 "bbd makes no system call that its filter refuses"
}

@test "6.1: programs load and are right, the switch's at clsact; READs are answered in the kernel" {
	holds 6.1 "bbload's selftest"
	holds 6.1 "the switch's programs are at clsact"
	holds 6.1 "all operations, every byte right"
	holds 6.1 "the kernel answered their READs"
}

@test "6.1: the rack leaves nothing behind" {
	holds 6.1 "the rack goes down"
	holds 6.1 "nothing of it is left"
}

@test "6.1: nothing else failed there" {
	nothing_else_failed 6.1 test_wire
}
