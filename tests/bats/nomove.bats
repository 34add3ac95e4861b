#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# As on Linux before 6.8 and 6.6: no UFFDIO_MOVE, so pages are copied and
# discarded (preload/discard.c), and no UFFDIO_POISON (preload/lost.c). Real
# such kernels: tests/vm/core.bats.

# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

setup() {
	need_root
	export BB_TEST_NO_MOVE=1
}

teardown() {
	end_programs
	remove_racks
}

# paged LOCAL CMD...: on h1, with that budget, all of its remote memory on h2.
paged() {
	bbrack run h1 -- timeout 100 env BB_LOCAL="$1" BB_PLACE=2 BB_STATS="$BATS_TEST_TMPDIR/stats" \
		LD_PRELOAD="$BUILD/libbb.so" "${@:2}"
}

was_paged() {
	jq -e '.attached and .written_back > 1000 and .fill_remote > 100 and .lost == 0' "$BATS_TEST_TMPDIR/stats" >/dev/null ||
		fail "not so much was paged:" "$(<"$BATS_TEST_TMPDIR/stats")"
}

# moves_nothing FILE: strace saw that pages were discarded, and not one moved.
moves_nothing() {
	grep -q 'MADV_PAGEOUT' "$1" || fail "nothing was discarded"
	! grep -qE 'UFFDIO_(MOVE|POISON)|ioctl\([0-9]+, _IOC\(_IOC_READ\|_IOC_WRITE, 0xaa, 0x0?[58],' "$1" ||
		fail "it was moved or poisoned all the same"
}

@test "loads and stores, one thread and four" {
	rack_up 2
	run paged 16M "$BUILD/apps/bbtouch" --size 64M --pattern rand --writes 30 --ops 10000
	expect_status 0
	was_paged
	run paged 16M "$BUILD/apps/bbtouch" --size 64M --pattern rand --writes 30 --ops 4000 --threads 4 --alloc mmap
	expect_status 0
	was_paged
	run paged 80M "$BUILD/apps/bbtouch" --size 200M --pattern seq --writes 30 --ops 50000 --alloc calloc
	expect_status 0
	was_paged
}

@test "it is this way out that is tested" {
	[[ $(type -P strace) ]] || skip "no strace here"
	rack_up 2
	run paged 8M strace -f -e trace=ioctl,madvise -o "$BATS_TEST_TMPDIR/trace" "$BUILD/apps/bbtouch" --size 24M --ops 500
	expect_status 0
	moves_nothing "$BATS_TEST_TMPDIR/trace"
}

@test "faults that the kernel raises, pinned pages, all allocation functions" {
	rack_up 2
	mkdir "$BATS_TEST_TMPDIR/d"
	run paged 16M "$BUILD/apps/bbkernel" --evict-between 48M --dir "$BATS_TEST_TMPDIR/d"
	expect_status 0
	was_paged
	run paged 24M "$BUILD/apps/bballoc" --seed 9 --ops 2000
	expect_status 0
	was_paged
}

@test "pages that a device writes into while they are to go: no byte is lost" {
	rack_up 2
	run paged 8M "$BUILD/apps/bbpin" --dir "$BATS_TEST_TMPDIR" --seconds 8
	((status != 77)) || skip "$output"
	expect_status 0
	was_paged
}

@test "forks: children of children, and forks from one thread among many" {
	rack_up 2
	run paged 16M "$BUILD/apps/bbfork" --size 20 --children 2 --depth 3
	expect_status 0
	run paged 12M "$BUILD/apps/bbthread" fork 12
	expect_status 0
}

@test "the pages that a child who is gone shared: stores to them are not lost" {
	rack_up 2
	run paged 8M "$BUILD/apps/bbfork" --size 10 --children 0 --gone 300
	expect_status 0
}

@test "without /proc in sight: as another user, not dumpable, in a chroot, and forks after that" {
	local topic

	rack_up 2
	for topic in setuid nodump chroot; do
		run paged 12M "$BUILD/apps/bbchild" "$topic" 24
		expect_status 0
		expect_no_output warning
	done
}

@test "bbd is killed five times under load: nothing lost" {
	rack_up 2
	paged 16M "$BUILD/apps/bbtouch" --size 64M --pattern rand --writes 30 --seconds 8 --threads 2 >"$BATS_TEST_TMPDIR/out" 2>&1 3>&- &
	PIDS+=("$!")
	for _ in 1 2 3 4 5; do
		sleep 0.7
		bbrack bbd h1 kill
		bbrack bbd h1 start
	done
	wait "${PIDS[0]}" || fail "$(<"$BATS_TEST_TMPDIR/out")"
	was_paged
}

@test "the memory host dies: SIGBUS, never wrong bytes, never a hang" {
	# All of it: its kernel would answer READs for a while, perhaps for long enough to lose nothing.
	rack_up 2 --host-programs off --bbd-args '--deadline 1000'
	lost 2
}
