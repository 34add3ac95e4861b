#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Soft-RoCE on Linux 6.1: as tests/vm/rdma.bats. Without UFFDIO_MOVE programs are
# not paged there: bbd's own client moves the pages.

load ../bats/common
load said

setup_file() {
	cd "$TOP" || return
	boot 6.1 tests/vm/pair --seconds 300 6.1 -- env B="${B:-build}" tests/vm/rdma bed
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
	nothing_else_failed 6.1 "perftest: READs between the hosts, over IPv6"
}
