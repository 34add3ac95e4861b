#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# BlueBridge on other kernels, one boot each: tests/vm/core runs there and says
# what holds, the tests here look at what it said. One that it did not come to
# has failed.

load ../bats/common

# In no test's own time: what a guest takes is told by the first.
setup_file() {
	local k

	cd "$TOP" || return
	for k in 6.12 6.1; do
		echo 0 >"$BATS_FILE_TMPDIR/$k.rc"
		tests/vm/guest --seconds 190 "$k" -- env B="${B:-build}" tests/vm/core >"$BATS_FILE_TMPDIR/$k.out" \
			2>"$BATS_FILE_TMPDIR/$k.err" || echo $? >"$BATS_FILE_TMPDIR/$k.rc"
		grep -h '^#' "$BATS_FILE_TMPDIR/$k.out" | sed "s/^# /# $k: /" >&3 || :
	done
}

# holds KERNEL NAME: its guest said so.
holds() {
	local said=$BATS_FILE_TMPDIR/$1

	[[ $(<"$said.rc") != 77 ]] || skip "$(<"$said.err")"
	grep -q "^ok [0-9]* - $2\$" "$said.out" ||
		fail "kernel $1, exit status $(<"$said.rc"):" "$(<"$said.out")" "$(tail -n 30 "$said.err")"
}

@test "6.12: wire, tags, home and mappings" {
	for t in test_wire test_tag test_home test_mmap; do holds 6.12 "$t"; done
}

@test "6.12: pages of a rack of two go out and come back, MTU 9000" {
	holds 6.12 "a rack of two comes up, MTU 9000"
	holds 6.12 "pages go to the other host and come back, written ones too"
	holds 6.12 "four threads"
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
	holds 6.12 test_wire # or the reason why there is no guest
	expect_equal "$(<"$BATS_FILE_TMPDIR/6.12.rc")" 0
}

@test "6.1: wire, tags, home and mappings" {
	for t in test_wire test_tag test_home test_mmap; do holds 6.1 "$t"; done
}

@test "6.1: pages of a rack of two go out and come back without UFFDIO_MOVE, MTU 9000" {
	holds 6.1 "a rack of two comes up, MTU 9000"
	holds 6.1 "without UFFDIO_MOVE pages go to the other host and come back, written ones too"
	holds 6.1 "without UFFDIO_MOVE: four threads"
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
	holds 6.1 test_wire
	expect_equal "$(<"$BATS_FILE_TMPDIR/6.1.rc")" 0
}
