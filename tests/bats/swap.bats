#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# A host that swaps: the kernel takes pages of the program away on its own, in
# memory that is local and in memory that is paged.

# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

# A guard undoes all of it where bats is killed: a swap file in use stays for ever.
guard() {
	local bats=$1 d

	while [[ -e /proc/$bats ]]; do sleep 0.3; done
	for d in "$GROUP1" "$GROUP2"; do
		[[ ! -d $d ]] || eventually 10 rmdir "$d" || :
	done
	swapoff "$SWAP" || :
	rm -f "$SWAP"
}

setup_file() {
	need_root
	export SWAP=$BATS_FILE_TMPDIR/swap GROUP1=/sys/fs/cgroup/memory/bbtest-$$ GROUP2=/sys/fs/cgroup/bbtest-$$
	[[ $(stat -f -c %T "$BATS_FILE_TMPDIR") != tmpfs ]] || SWAP=$BUILD/swap.$$
	dd if=/dev/zero of="$SWAP" bs=1M count=384 status=none
	chmod 600 "$SWAP"
	mkswap "$SWAP" >/dev/null
	if ! swapon "$SWAP" 2>/dev/null; then
		rm -f "$SWAP"
		SWAP=''
		return
	fi
	(guard $$ </dev/null >/dev/null 2>&1 3>&- &)
}

teardown_file() {
	[[ ! $SWAP ]] || swapoff "$SWAP"
	rm -f "$SWAP"
}

setup() {
	need_root
	[[ $SWAP || $BATS_TEST_DESCRIPTION == locked* ]] || skip "no swap file can be used here"
}

teardown() {
	end_programs
	remove_racks
	for d in "$GROUP1" "$GROUP2"; do
		[[ ! -d $d ]] || eventually 10 rmdir "$d"
	done
}

# group BYTES: makes a memory cgroup with that limit, in $group; v1 or v2.
group() {
	if [[ -e /sys/fs/cgroup/memory/memory.limit_in_bytes ]]; then
		group=$GROUP1
		mkdir "$group"
		echo "$1" >"$group/memory.limit_in_bytes"
	elif grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null; then
		group=$GROUP2
		echo +memory >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || :
		mkdir "$group"
		[[ -e $group/memory.max ]] || skip "no memory cgroup can be made here"
		echo "$1" >"$group/memory.max"
	else
		skip "no memory cgroup can be made here"
	fi
}

# paged LOCAL CMD...: on h1, with that budget, in $group where there is one.
paged() {
	# shellcheck disable=SC2016 # of the inner shell
	bbrack run h1 -- timeout 100 env BB_LOCAL="$1" BB_STATS="$BATS_TEST_TMPDIR/stats" bash -c \
		'[[ ! $1 ]] || echo $$ >"$1/cgroup.procs"; LD_PRELOAD=$2 exec "${@:3}"' - "${group:-}" "$BUILD/libbb.so" "${@:2}"
}

swapped_out() { awk '$1 == "pswpout" { print $2 }' /proc/vmstat; }

# swapping MIN: so many pages went to swap since $before.
swapping() {
	local now

	now=$(swapped_out)
	((now - before >= $1)) || fail "only $((now - before)) pages were swapped out"
}

@test "pages that were swapped out before their extent is sealed count, and read as zeros once freed" {
	rack_up 2
	run paged 32M "$BUILD/apps/bbswap" --first 24M --second 64M --budget 33M
	expect_status 0
	run paged 96M "$BUILD/apps/bbswap" --first 72M --second 96M --budget 97M --seed 2
	expect_status 0
}

@test "the same without /proc in sight" {
	rack_up 2
	run paged 32M "$BUILD/apps/bbswap" --first 24M --second 64M --budget 33M --no-proc
	expect_status 0
}

@test "a memory cgroup smaller than the budget: the same bytes, one thread and four" {
	local before group

	rack_up 2
	group 48M
	before=$(swapped_out)
	run paged 64M "$BUILD/apps/bbtouch" --size 96M --pattern rand --writes 50 --ops 6000
	expect_status 0
	run paged 64M "$BUILD/apps/bbtouch" --size 96M --pattern hot --writes 50 --ops 2000 --threads 4 --alloc mmap
	expect_status 0
	swapping 2000
}

@test "a memory cgroup smaller than the budget: fork, and all allocation functions" {
	local before group

	rack_up 2
	group 32M
	before=$(swapped_out)
	run paged 24M "$BUILD/apps/bbfork" --size 40 --children 2 --depth 1
	expect_status 0
	run paged 48M "$BUILD/apps/bballoc" --seed 11 --ops 1200
	expect_status 0
	swapping 500
}

@test "locked memory stays, unlocked goes, mlockall is survived" {
	rack_up 2
	run paged 16M "$BUILD/apps/bblock" 17M
	expect_status 0
	run jq -e '.attached and .evict_busy > 0 and .lost == 0' "$BATS_TEST_TMPDIR/stats"
	expect_status 0
}
