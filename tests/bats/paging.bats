#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Paged memory on a rack: every byte, by every way in, on links good and bad,
# and when daemons die.

# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

setup() { need_root; }

teardown() {
	end_programs
	remove_racks
}

# paged LOCAL CMD...: on h1, with that budget.
paged() {
	bbrack run h1 -- timeout 100 env BB_LOCAL="$1" BB_STATS="$BATS_TEST_TMPDIR/stats" LD_PRELOAD="$BUILD/libbb.so" "${@:2}"
}

# was_paged: pages really went to other hosts and came back.
was_paged() {
	jq -e '.attached and .written_back > 1000 and .fill_remote > 100 and .lost == 0' "$BATS_TEST_TMPDIR/stats" >/dev/null ||
		fail "not so much was paged:" "$(<"$BATS_TEST_TMPDIR/stats")"
}

@test "loads and stores, one thread and four, MTU 9000" {
	rack_up 3
	run paged 32M "$BUILD/apps/bbtouch" --size 128M --pattern rand --writes 30 --ops 20000 --alloc malloc
	expect_status 0
	was_paged
	run paged 32M "$BUILD/apps/bbtouch" --size 128M --pattern rand --writes 30 --ops 5000 --threads 4 --alloc mmap
	expect_status 0
	was_paged
	run paged 80M "$BUILD/apps/bbtouch" --size 300M --pattern seq --writes 30 --ops 100000 --alloc calloc
	expect_status 0
	was_paged
}

@test "the same at MTU 1500" {
	rack_up 2 --mtu 1500
	run paged 32M "$BUILD/apps/bbtouch" --size 128M --pattern rand --writes 30 --ops 20000 --alloc memalign
	expect_status 0
	was_paged
}

@test "a scan of much more than the budget leaves the hot set here" {
	rack_up 2
	# Of 4096 pages one at random, then the next of 65536 others: half the budget is hot.
	run paged 32M "$BUILD/bench/fault" 272M <<<$'hot 4096 65000\nhot 4096 65000\ncheck'
	expect_status 0
	was_paged
	sed -n 3p <<<"$output" | jq -e '.fast.n > 0.8 * (.fast.n + .slow.n)' || fail "the hot set is out: $output"
}

wakes_soon() { (($(od -An -td4 -N4 /dev/cpu_dma_latency) <= 2)); }

@test "idle CPUs are kept awake while faults come" {
	[[ -c /dev/cpu_dma_latency ]] || skip "this kernel has no /dev/cpu_dma_latency"
	rack_up 2
	paged 16M "$BUILD/apps/bbtouch" --size 64M --pattern rand --seconds 8 >"$BATS_TEST_TMPDIR/out" 2>&1 &
	PIDS+=($!)
	eventually 8 wakes_soon
	wait "${PIDS[0]}" || fail "$(<"$BATS_TEST_TMPDIR/out")"
	# It may be another rack's: that it is withdrawn is for test_latency to see.
	run bbrack run h1 -- "$BUILD/bbctl" doctor
	expect_output "idle CPUs are kept awake"
	bbrack down
	rack_up 1 --bbd-args "--latency off"
	run bbrack run h1 -- "$BUILD/bbctl" doctor
	expect_output "bbd --latency off"
}

slice() { awk '/^se.slice/ { print $3 }' "/proc/$1/sched"; }

helper_of() {
	local t

	for t in "/proc/$1"/task/*; do
		[[ $(<"$t/comm") == bb-helper ]] && echo "${t##*/}"
	done
	return 0
}

@test "the helper leaves the CPU to who wakes: its slice is twice the program's" {
	local pid='' helper=''

	kernel_has 6.12 && [[ $(slice self) ]] || skip "this kernel has no slices of a thread's own"
	rack_up 2
	paged 16M "$BUILD/apps/bbtouch" --size 64M --pattern rand --seconds 5 >"$BATS_TEST_TMPDIR/out" 2>&1 &
	PIDS+=($!)
	has_helper() {
		pid=$(bbrack run h1 -- "$BUILD/bbctl" -j program show | jq '.programs[0].pid // empty') && [[ $pid ]] &&
			helper=$(helper_of "$pid") && [[ $helper ]]
	}
	eventually 5 has_helper
	(($(slice "$helper") >= 2 * $(slice "$pid"))) || fail "the helper's slice is $(slice "$helper"), the program's $(slice "$pid")"
	wait "${PIDS[0]}" || fail "$(<"$BATS_TEST_TMPDIR/out")"
}

@test "wake-ups are left to the helper, and nobody sleeps on, wherever it runs" {
	local cpu

	kernel_has 6.8 || skip "this kernel has no UFFDIO_MOVE: the helper does not look between two pages"
	has_relayed() { bbrack run h1 -- "$BUILD/bbctl" -j program show | jq -e '.programs[0].relayed > 1000' >/dev/null; }
	rack_up 2
	paged 16M "$BUILD/apps/bbtouch" --size 64M --pattern rand --seconds 4 >"$BATS_TEST_TMPDIR/out" 2>&1 &
	PIDS+=($!)
	eventually 4 has_relayed
	wait "${PIDS[0]}" || fail "$(<"$BATS_TEST_TMPDIR/out")"
	bbrack down
	# All on one CPU, where it comes too late.
	cpu=$(taskset -cp "$BASHPID" | sed 's/.*: //; s/[-,].*//')
	taskset -cp "$cpu" "$BASHPID" >/dev/null
	rack_up 2
	run paged 16M "$BUILD/apps/bbtouch" --size 64M --pattern rand --seconds 2
	expect_status 0
	was_paged
}

@test "faults that the kernel raises for the program" {
	rack_up 2
	mkdir "$BATS_TEST_TMPDIR/d"
	run paged 16M "$BUILD/apps/bbkernel" --evict-between 48M --dir "$BATS_TEST_TMPDIR/d"
	expect_status 0
	was_paged
}

@test "all allocation functions under a small budget" {
	rack_up 2
	run paged 24M "$BUILD/apps/bballoc" --seed 7 --ops 3000
	expect_status 0
	was_paged
}

@test "memory that madvise has split into several mappings" {
	rack_up 2
	run paged 40M /usr/bin/python3 "$TOP/tests/apps/np_split.py" 48
	expect_status 0
	was_paged
}

@test "fork: parent, children and grandchildren each see their own bytes" {
	rack_up 2
	run paged 16M "$BUILD/apps/bbfork" --size 48 --children 3 --depth 2
	expect_status 0
	run paged 16M "$BUILD/apps/bbfork" --size 32 --children 2 --depth 1 --threads 2
	expect_status 0
	run paged 8M "$BUILD/apps/bbfork" --size 16 --children 25 --depth 1
	expect_status 0
}

@test "a raw clone(2) dies rather than read zeros" {
	rack_up 2
	run paged 8M "$BUILD/apps/bbclone"
	expect_status 0
	expect_output "by signal 11"
}

@test "5 % of packets lost, doubled and delayed: the same bytes, both MTUs" {
	export BB_TEST_NET="drop=5,dup=5,delay=5,seed=11"
	rack_up 2 --mtu 1500
	run paged 16M "$BUILD/apps/bbtouch" --size 48M --pattern rand --writes 30 --ops 4000
	expect_status 0
	was_paged
	bbrack down
	rack_up 2
	run paged 16M "$BUILD/apps/bbtouch" --size 48M --pattern rand --writes 30 --ops 4000
	expect_status 0
	was_paged
}

@test "many programs at a time on one bbd" {
	rack_up 2
	for i in 1 2 3 4; do
		BB_STATS='' bbrack run h1 -- env BB_LOCAL=8M LD_PRELOAD="$BUILD/libbb.so" \
			"$BUILD/apps/bbtouch" --size 24M --pattern rand --writes 50 --ops 3000 --seed "$i" >"$BATS_TEST_TMPDIR/out$i" &
		PIDS+=($!)
	done
	for p in "${PIDS[@]}"; do
		wait "$p"
	done
	PIDS=()
	run bbrack run h1 -- "$BUILD/bbctl" -j program show
	expect_json '.programs | length == 0'
}

@test "the memory host dies: SIGBUS within the deadline, never wrong bytes, never a hang" {
	# All of it: its kernel would answer READs for a while, perhaps for long enough to lose nothing.
	rack_up 2 --host-programs off --bbd-args '--deadline 1000'
	lost 2
	run grep -h "pages are lost" "/run/bluebridge/$RACK/h1/bbd.log"
	expect_output "host 2"
}

@test "bbd dies: what is still here is served, the rest raises SIGBUS, one message" {
	rack_up 2 --bbd-args "--keep 0" # nothing is to be waited for
	lost 1
	expect_output "bbd has ended"
}

@test "huge pages that are pinned stay, all else goes, and nobody waits" {
	rack_up 2
	run paged 12M "$BUILD/apps/bbhuge" 4 24
	expect_status 0
	run cat "$BATS_TEST_TMPDIR/stats"
	expect_json '.attached and .written_back > 1000 and .lost == 0'
}

@test "memory that was freed before the program attached does not count against its budget" {
	rack_up 2
	# The large block is at the top, and kept warm when it is freed; what comes next goes below it.
	run paged 128M python3 -c '
import ctypes
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
c.free.argtypes = [ctypes.c_void_p]
c.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def filled(mib):
    p = c.malloc(mib << 20)
    c.memset(p, 1, mib << 20)
    return p
a, _, b, _ = (filled(mib) for mib in (40, 2, 40, 2))
c.free(a)
c.free(b)
c.free(filled(90))
a, b = filled(40), filled(40)
c.free(filled(100))
c.free(a)
c.free(b)'
	expect_status 0
	run cat "$BATS_TEST_TMPDIR/stats"
	expect_json '.attached and .written_back > 1000 and .charged < .allocated + .budget / 4'
}

@test "no host has room: the program goes on locally, one warning" {
	rack_up 2 --lend 4M
	run paged 8M "$BUILD/apps/bbtouch" --size 64M --pattern rand --writes 30 --ops 5000
	expect_status 0
	run grep -c "no host has memory left" "/run/bluebridge/$RACK/h1/bbd.log"
	expect_equal "$output" 1
}

@test "home memory comes back when programs end" {
	rack_up 2
	run paged 16M "$BUILD/apps/bbtouch" --size 64M --pattern rand --ops 1000
	expect_status 0
	nothing_used() { bbrack run h2 -- "$BUILD/bbctl" -j home show | jq -e '.used == 0' >/dev/null; }
	eventually 10 nothing_used
}

@test "a hostile local program hurts nobody else" {
	rack_up 2
	for seed in 1 2 3; do
		run bbrack run h1 -- timeout 60 python3 "$TOP/tests/apps/hostile.py" "/run/bluebridge/$RACK/h1/bbd.sock" "$seed" 40
		expect_status 0
	done
	run paged 16M "$BUILD/apps/bbtouch" --size 48M --pattern rand --writes 30 --ops 3000
	expect_status 0
}
