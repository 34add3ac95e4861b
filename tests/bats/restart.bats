#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# bbd is killed under the programs that it serves, and started again: they
# stall, then go on; every byte is right.

# shellcheck disable=SC2030,SC2031,SC2317 # a test is a function, its variables and functions stay there

load common

setup() { need_root; }

teardown() {
	end_programs
	remove_racks
}

# on h1, with the budget BB_LOCAL=$1
paged() {
	bbrack run h1 -- timeout 150 env BB_LOCAL="$1" LD_PRELOAD="$BUILD/libbb.so" "${@:2}"
}

# kill_bbd TIMES SEED: h1's, at random times, and starts it again at once or a little later.
kill_bbd() {
	RANDOM=$2
	for ((i = 0; i < $1; i++)); do
		sleep "0.$((RANDOM % 25 + 10))"
		bbrack bbd h1 kill
		((RANDOM % 4)) || sleep "0.$((RANDOM % 30))"
		bbrack bbd h1 start
	done
}

# The longest stall that bbtouch saw, in ms.
longest_stall() { sed -n 's/.*max \([0-9]*\) ns$/\1/p' "$1" | sort -n | tail -n 1 | awk '{ printf "%d\n", $1 / 1e6 }'; }

@test "SIGKILL, 100 times under load: nothing lost, nothing torn" {
	local dir=$BATS_TEST_TMPDIR pids=() p

	rack_up 3
	export BB_PLACE=spread
	BB_STATS=$dir/s1 paged 32M "$BUILD/apps/bbtouch" --size 128M --pattern rand --writes 40 --threads 2 --seconds 45 \
		>"$dir/1" 2>&1 & pids+=($!)
	BB_STATS=$dir/s2 paged 80M "$BUILD/apps/bbtouch" --size 200M --pattern seq --writes 40 --seconds 45 --alloc mmap \
		>"$dir/2" 2>&1 & pids+=($!)
	(while [[ ! -e $dir/end ]]; do paged 24M "$BUILD/apps/bballoc" --seed $((++n)) --ops 2000 || exit 1; done) \
		>"$dir/3" 2>&1 & pids+=($!)
	sleep 1
	kill_bbd 100 "${BB_TEST_SEED:-11}"
	: >"$dir/end"
	for p in "${pids[@]}"; do
		wait "$p" || fail "a program failed:" "$(tail -n 5 "$dir"/[123])"
	done
	echo "# longest stall $(longest_stall "$dir/1") and $(longest_stall "$dir/2") ms" >&3
	grep -q "every page verified" "$dir/1"
	grep -q "every page verified" "$dir/2"
	for p in s1 s2; do
		jq -e '.attached and .lost == 0 and .fill_remote > 1000' "$dir/$p" >/dev/null || fail "$(<"$dir/$p")"
	done
	# And the homes hold nothing of them any more, but for what a kill cut off
	# between a home's CREATE and its answer.
	little_used() {
		local h

		for h in h1 h2 h3; do
			bbrack run "$h" -- "$BUILD/bbctl" -j home show | jq -e '.used <= 67108864' >/dev/null || return 1
		done
	}
	eventually 20 little_used
}

@test "fork while bbd is killed: parent and children see their own bytes" {
	local killer

	rack_up 2
	kill_bbd 1000 "${BB_TEST_SEED:-12}" &
	killer=$!
	run paged 24M "$BUILD/apps/bbfork" --size 64 --children 3 --depth 2
	kill "$killer" 2>/dev/null || :
	wait "$killer" 2>/dev/null || :
	expect_status 0
	expect_output "every byte right"
}

@test "a program that attaches while bbd is away waits for it" {
	rack_up 2
	bbrack bbd h1 kill
	(sleep 1.5; bbrack bbd h1 start) &
	BB_STATS=$BATS_TEST_TMPDIR/s run paged 16M "$BUILD/apps/bbtouch" --size 64M --pattern rand --ops 1000
	expect_status 0
	wait
	jq -e '.attached and .written_back > 1000' "$BATS_TEST_TMPDIR/s" >/dev/null || fail "it stayed local"
}

@test "a program without a free descriptor while bbd is replaced: it attaches again" {
	local dir=$BATS_TEST_TMPDIR

	rack_up 2
	mkfifo "$dir/in"
	# shellcheck disable=SC2016 # for the other shell
	paged 16M sh -c 'ulimit -n 64; exec "$@"' sh python3 -c '
import ctypes, os, sys
size = 64 << 20
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
words = (ctypes.c_uint64 * (size // 8)).from_address(c.malloc(size))
for i in range(0, size // 8, 512):
    words[i] = i + 1
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    print("full", flush=True)
sys.stdin.readline()
print(sum(words[i] != i + 1 for i in range(0, size // 8, 512)), "wrong")' <"$dir/in" >"$dir/out" 2>&1 3>&- &
	PIDS+=($!)
	exec 7>"$dir/in"
	eventually 20 grep -q full "$dir/out"
	bbrack bbd h1 kill
	bbrack bbd h1 start
	echo >&7
	exec 7>&-
	wait "${PIDS[0]}" || fail "$(<"$dir/out")"
	PIDS=()
	run cat "$dir/out"
	expect_output "0 wrong"
	expect_no_output "bbd has ended"
}

@test "a program that ends while bbd is away leaves nothing at the homes" {
	local pid

	rack_up 2
	paged 16M "$BUILD/apps/bbtouch" --size 64M --pattern rand --seconds 60 >/dev/null 2>&1 &
	PIDS+=($!)
	used() { bbrack run h2 -- "$BUILD/bbctl" -j home show | jq .used; }
	# It has filled all of its memory: what a kill cuts off between a CREATE and its answer stays taken (README).
	all_used() {
		local first

		first=$(used)
		sleep 0.5
		((first && $(used) == first))
	}
	eventually 20 all_used
	pid=$(bbrack run h1 -- "$BUILD/bbctl" -j program show | jq '.programs[0].pid')
	bbrack bbd h1 kill
	kill -KILL "$pid"
	bbrack bbd h1 start
	nothing_used() { (($(used) == 0)); }
	eventually 15 nothing_used
}

@test "a region's secret is wanted" {
	rack_up 1
	paged 16M "$BUILD/apps/bbtouch" --size 64M --pattern rand --seconds 8 >"$BATS_TEST_TMPDIR/1" 2>&1 &
	sleep 1
	bbrack bbd h1 kill
	bbrack bbd h1 start
	run bbrack run h1 -- timeout 60 python3 "$TOP/tests/apps/hostile.py" "/run/bluebridge/$RACK/h1/bbd.sock" 3 20
	expect_status 0
	wait
	grep -q "every page verified" "$BATS_TEST_TMPDIR/1"
}

@test "bbd is upgraded, and stopped and started, under its programs" {
	local pid

	rack_up 3
	paged 24M "$BUILD/apps/bbtouch" --size 96M --pattern rand --writes 40 --seconds 14 >"$BATS_TEST_TMPDIR/1" 2>&1 &
	PIDS+=($!)
	sleep 2
	for h in h1 h2 h3; do
		pid=$(bbrack status -j | jq --arg h $h '.hosts[] | select(.host == $h) | .pid')
		kill -USR2 "$pid"
		sleep 1
		grep -q "starting .* anew" "/run/bluebridge/$RACK/$h/bbd.log"
		is_gone "$pid" && fail "it is another process: $(tail -n 5 "/run/bluebridge/$RACK/$h/bbd.log")"
	done
	for h in h1 h2; do
		bbrack bbd $h restart
		grep -q "are kept for 60 s" "/run/bluebridge/$RACK/$h/bbd.log"
		sleep 1
	done
	wait "${PIDS[0]}" || fail "$(<"$BATS_TEST_TMPDIR/1")"
	grep -q "every page verified" "$BATS_TEST_TMPDIR/1"
}

@test "a memory host is killed 20 times under load: nothing lost" {
	rack_up 2
	paged 24M "$BUILD/apps/bbtouch" --size 96M --pattern rand --writes 40 --threads 2 --seconds 18 >"$BATS_TEST_TMPDIR/1" 2>&1 &
	PIDS+=($!)
	sleep 1
	for ((i = 0; i < 20; i++)); do
		sleep 0.6
		bbrack bbd h2 kill
		bbrack bbd h2 start
	done
	wait "${PIDS[0]}" || fail "$(<"$BATS_TEST_TMPDIR/1")" "$(tail -n 20 "/run/bluebridge/$RACK/h1/bbd.log")"
	grep -q "every page verified" "$BATS_TEST_TMPDIR/1"
	echo "# longest stall $(longest_stall "$BATS_TEST_TMPDIR/1") ms" >&3
}
