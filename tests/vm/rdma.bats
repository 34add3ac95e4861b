#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Soft-RoCE: two guests on a cable, Linux 6.12, one boot of the pair. tests/vm/rdma
# runs there and says what holds, the tests here look at what it said. One that
# it did not come to has failed.

load ../bats/common
load said

setup_file() {
	cd "$TOP" || return
	boot 6.12 tests/vm/pair --seconds 380 6.12 -- env B="${B:-build}" tests/vm/rdma all
}

@test "6.12: perftest between two hosts by soft-RoCE, IPv6 GIDs" {
	holds 6.12 "an rxe device at each host, whose GID is its IPv6 address"
	holds 6.12 "perftest: READs between the hosts, over IPv6"
	holds 6.12 "perftest: WRITEs between the hosts, over IPv6"
}

@test "by UDP: bbtouch and sort, their memory at the other guest" {
	holds 6.12 "by UDP: a bbd at each host"
	holds 6.12 "by UDP: bbtouch, its memory at the other host"
	holds 6.12 "by UDP: sort, its memory at the other host"
	holds 6.12 "no bbd makes a system call that its filter refuses"
}

@test "by RDMA: bbtouch and sort, by one-sided READs and WRITEs, the other bbd next to idle" {
	holds 6.12 "by RDMA: a bbd at each host"
	holds 6.12 "by RDMA: bbtouch, by one-sided READs and WRITEs"
	holds 6.12 "by RDMA: the other bbd is next to idle meanwhile"
	holds 6.12 "by RDMA: sort, its memory at the other host"
}

@test "by RDMA: scripts/bench/rdma measures Table 1, every byte right" {
	holds 6.12 "by RDMA: scripts/bench/rdma, Table 1"
}

@test "by RDMA: the other bbd is killed and started again under load: nothing is lost" {
	holds 6.12 "by RDMA: the other bbd is killed and started again under load"
}

@test "by RDMA: the cable is pulled under load: nothing is lost" {
	holds 6.12 "by RDMA: the cable is pulled for 3 s under load"
}

@test "by RDMA: the home's device is deleted under load: nothing is lost" {
	holds 6.12 "by RDMA: the home's device is deleted under load"
	holds 6.12 "by UDP where the home has no device any more"
}

@test "6.12: nothing else failed there" {
	nothing_else_failed 6.12 "perftest: READs between the hosts, over IPv6"
}
