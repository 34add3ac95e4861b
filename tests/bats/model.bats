#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# The models of tests/model/, searched to the end by spin. Each is right as it
# stands, and each mistake that is put into it is found.

load common

setup_file() {
	type -P spin >/dev/null || skip "spin is not installed (scripts/deps test)"
}

# search NAME.pml [-Dx]...: every state of the model. Its report is the output.
search() {
	local d=$BATS_TEST_TMPDIR/search

	rm -rf "$d"
	mkdir "$d"
	cp "$TOP"/tests/model/*.pml "$d"
	cd "$d" || return 2
	spin -a "${@:2}" "$1" >spin.out || { cat spin.out; return 2; }
	gcc -O1 -w -DSAFETY -DCOLLAPSE -DMEMLIM=3072 -o pan pan.c || return 2
	timeout 300 ./pan -m400000 || return 2
}

# A search that was cut short has found nothing either: it does not count.
is_right() {
	run search "$@"
	expect_status 0
	expect_output "errors: 0"
	expect_no_output "Search not completed"
	expect_no_output "max search depth too small"
}

# is_found PATTERN NAME.pml [-Dx]...
is_found() {
	run search "${@:2}"
	expect_status 0
	expect_output "errors: 1"
	expect_output "$1"
}

# What the searches of paging.pml are about. Two stores show more than one, and
# take minutes: BB_TEST_MODEL_STORES=2 searches so what is right, too.
STORES=${BB_TEST_MODEL_STORES:-1}
DROP=(-DSTORES=1 -DDROPS=1)
WRITE=(-DDROPS=0 -DLATE)
CRASH=(-DDROPS=0 -DCRASH)

@test "paging: accesses, drops, evictions: no lost write, no sleeper, credit in balance" {
	is_right paging.pml "${DROP[@]}"
}

@test "paging: write-back over a network that loses, repeats and delays" {
	is_right paging.pml "${WRITE[@]}" -DSTORES="$STORES"
}

@test "paging: wake-ups are left to the helper, and bbd is killed meanwhile" {
	is_right paging.pml -DSTORES=1 -DDROPS=0 -DRELAY
	is_right paging.pml "${CRASH[@]}" -DSTORES=1 -DRELAY
	is_found "invalid end state" paging.pml "${DROP[@]}" -DRELAY -DFAULT_NO_TAKE_BACK
	is_found "invalid end state" paging.pml "${CRASH[@]}" -DSTORES=1 -DRELAY -DFAULT_NO_WAKE_ALL
}

@test "paging: mistakes in waking and in credit are found" {
	is_found "invalid end state" paging.pml "${DROP[@]}" -DFAULT_DROP_NO_WAKE
	is_found "invalid end state" paging.pml "${DROP[@]}" -DFAULT_EVICT_NO_WAKE
	is_found "invalid end state" paging.pml "${DROP[@]}" -DFAULT_WAIT_BLIND
	is_found "assertion violated (credit<=1)" paging.pml "${DROP[@]}" -DFAULT_CREDIT_TWICE
}

@test "paging: mistakes in writing back are found" {
	is_found "assertion violated  !(wb_open)" paging.pml "${WRITE[@]}" -DSTORES=2 -DFAULT_SECOND_WRITE
	is_found "assertion violated" paging.pml "${WRITE[@]}" -DSTORES=2 -DFAULT_HASHED_EARLY
	is_found "assertion violated (mem==last)" paging.pml "${WRITE[@]}" -DSTORES=2 -DFAULT_DIRTY_ANY_SLOT
	is_found "assertion violated" paging.pml "${WRITE[@]}" -DSTORES=2 -DFAULT_FREE_DIRTY
	is_found "assertion violated" paging.pml "${WRITE[@]}" -DSTORES=2 -DFAULT_FREE_SENDING
	is_found "assertion violated" paging.pml "${WRITE[@]}" -DSTORES=2 -DFAULT_NO_NUMBERS
	is_found "assertion violated" paging.pml "${WRITE[@]}" -DSTORES=2 -DFAULT_KEEP_NONE
}

@test "paging: bbd is killed at any step, and another one comes" {
	is_right paging.pml "${CRASH[@]}" -DSTORES="$STORES"
}

@test "paging: mistakes in what is done after a crash are found" {
	is_found "assertion violated" paging.pml "${CRASH[@]}" -DSTORES=1 -DFAULT_NO_FROM
	is_found "assertion violated (mem==last)" paging.pml "${CRASH[@]}" -DSTORES=1 -DFAULT_WB_IS_WRITTEN
	is_found "assertion violated  !(mapped)" paging.pml "${CRASH[@]}" -DSTORES=1 -DFAULT_UNDO_BLIND
	is_found "invalid end state" paging.pml "${CRASH[@]}" -DSTORES=1 -DFAULT_NO_COUNT
	is_found "invalid end state" paging.pml "${CRASH[@]}" -DSTORES=1 -DFAULT_NO_WAKE_ALL
	is_found "assertion violated" paging.pml "${CRASH[@]}" -DSTORES=1 -DFAULT_TAIL_AT_HEAD
	is_found "assertion violated" paging.pml "${CRASH[@]}" -DSTORES=2 -DFAULT_NEW_SESSION
}
