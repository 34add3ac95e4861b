#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Soft-RoCE on Linux 6.1: as tests/vm/rdma.bats. Without UFFDIO_MOVE programs are
# not paged there: bbd's own client moves the pages.

load ../bats/common

setup_file() {
	local k=6.1

	cd "$TOP" || return
	echo 0 >"$BATS_FILE_TMPDIR/$k.rc"
	tests/vm/pair --seconds 300 "$k" -- env B="${B:-build}" tests/vm/rdma bed >"$BATS_FILE_TMPDIR/$k.out" \
		2>"$BATS_FILE_TMPDIR/$k.err" || echo $? >"$BATS_FILE_TMPDIR/$k.rc"
	grep -h '^#' "$BATS_FILE_TMPDIR/$k.out" | sed "s/^# /# $k: /" >&3 || :
}

# holds KERNEL NAME: its guest said so.
holds() {
	local said=$BATS_FILE_TMPDIR/$1

	[[ $(<"$said.rc") != 77 ]] || skip "$(<"$said.err")"
	grep -q "^ok [0-9]* - $2\$" "$said.out" ||
		fail "kernel $1, exit status $(<"$said.rc"):" "$(<"$said.out")" "$(tail -n 30 "$said.err")"
}

@test "6.1: perftest between two hosts by soft-RoCE, IPv6 GIDs" {
	holds 6.1 "an rxe device at each host, whose GID is its IPv6 address"
	holds 6.1 "perftest: READs between the hosts, over IPv6"
	holds 6.1 "perftest: WRITEs between the hosts, over IPv6"
}

@test "6.1: by RDMA: scripts/bench/rdma measures Table 1, every byte right" {
	holds 6.1 "by RDMA: a bbd at each host"
	holds 6.1 "by RDMA: scripts/bench/rdma, Table 1"
	holds 6.1 "no bbd makes a system call that its filter refuses"
}

@test "6.1: over a real device: an old key neither reads nor writes" {
	holds 6.1 "over a real device: old keys are dead, sleep and wake, link down"
}

@test "6.1: nothing else failed there" {
	holds 6.1 "perftest: READs between the hosts, over IPv6" # or the reason why there is no guest
	expect_equal "$(<"$BATS_FILE_TMPDIR/6.1.rc")" 0
}
