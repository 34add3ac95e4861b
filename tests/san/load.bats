#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# A real load on a bbd that was built with sanitizers. "make check" runs this
# twice (parts san/ and tsan/), with B naming a folder of which bbd and libbb.so
# are such builds. What a sanitizer has to say lies in files SAN_LOG.PID, and
# any of them fails the test, whatever the programs thought.
#
#	B=build-san SAN_LOG=/tmp/x bats tests/san/load.bats
# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load ../bats/common

setup() {
	cd "$TOP" || return
	need_root
	SAN_LOG=${SAN_LOG:-$BATS_TEST_TMPDIR/san}
	export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}log_path=$SAN_LOG:allocator_may_return_null=1
	export TSAN_OPTIONS=log_path=$SAN_LOG:suppressions=$TOP/tests/tsan.supp
	export LSAN_OPTIONS=suppressions=$TOP/tests/lsan.supp:print_suppressions=0
	rm -f "$SAN_LOG".*
	# A fault takes long there, and the machine may be busy.
	OPTIONS=(--bbd-args "--deadline 30000")
}

teardown() {
	local f bad=''

	end_programs
	remove_racks || bad=1
	for f in "$SAN_LOG".*; do
		[[ ! -s $f ]] || { bad=1; head -n 40 "$f" >&2; }
	done
	[[ ! $bad ]]
}

# paged LOCAL COMMAND...: on h1, all of its remote memory on h2.
paged() { bbrack run h1 -- timeout 100 env BB_LOCAL="$1" BB_PLACE=2 LD_PRELOAD="$BUILD/libbb.so" "${@:2}"; }

# came_back N: that many pages and more, each for a fault of its own or ahead of one.
came_back() {
	run bbrack run h1 -- "$BUILD/bbctl" -j net
	expect_json "([.pagers[].rx_bytes] | add) >= $1 * 4096"
}

# End of every bbd while it is watched: what it has leaked is told then.
end_of_all() {
	local h

	for h in "$@"; do
		kill -s TERM "$(cut -d' ' -f1 "/run/bluebridge/$RACK/$h/pid")"
		eventually 30 is_gone "$(cut -d' ' -f1 "/run/bluebridge/$RACK/$h/pid")"
	done
}

@test "threads that read and write, to another host, while people look" {
	rack_up 2 "${OPTIONS[@]}"
	paged 16M "$BUILD/apps/bbtouch" --size 48M --pattern rand --writes 40 --ops 3000 --threads 4 >"$BATS_TEST_TMPDIR/out" 2>&1 3>&- &
	PIDS+=("$!")
	while kill -0 "${PIDS[0]}" 2>/dev/null; do
		bbrack run h1 -- "$BUILD/bbctl" -j metrics >/dev/null
		bbrack run h2 -- "$BUILD/bbctl" -j net >/dev/null
		bbrack run h1 -- "$BUILD/bbctl" -j program >/dev/null
		sleep 0.2
	done
	wait "${PIDS[0]}" || fail "$(cat "$BATS_TEST_TMPDIR/out")"
	came_back 1000
	end_of_all h1 h2
}

@test "small segments, small batches: MTU 1500" {
	rack_up 2 --mtu 1500 "${OPTIONS[@]}"
	run paged 16M "$BUILD/apps/bbtouch" --size 40M --pattern seq --writes 30 --ops 2000 --alloc mmap
	expect_status 0
	came_back 300
	end_of_all h1 h2
}

@test "fork, and both write" {
	rack_up 2 "${OPTIONS[@]}"
	run paged 16M python3 -c 'import os
b = bytearray(48 << 20)
for i in range(0, len(b), 4096): b[i] = i // 4096 % 251
for n in range(3):
    p = os.fork()
    if not p:
        ok = all(b[i] == i // 4096 % 251 for i in range(0, len(b), 4096))
        for i in range(0, len(b), 40960): b[i] = 252
        os._exit(0 if ok and all(b[i] == 252 for i in range(0, len(b), 40960)) else 1)
    assert os.waitpid(p, 0)[1] == 0
print("right" if all(b[i] == i // 4096 % 251 for i in range(0, len(b), 4096)) else "WRONG")'
	expect_status 0
	expect_output right
	came_back 1000
	end_of_all h1 h2
}

# ticks PID: of CPU that it has used.
ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }

fds_of() { find "/proc/$1/fd" -type l | wc -l; }

# Programs, memory and descriptors of those who have ended are given back.
all_given_back() {
	run bbrack run h1 -- "$BUILD/bbctl" -j
	expect_json '.programs == [] and .home.used == 0' 2>/dev/null || return 1
	(($(fds_of "$1") <= $2 + 2))
}

@test "hostile programs beside an honest one" {
	local dir seed=${SEED:-$RANDOM} pid fds before

	rack_up 2 "${OPTIONS[@]}"
	dir=/run/bluebridge/$RACK/h1
	pid=$(cut -d' ' -f1 "$dir/pid")
	fds=$(fds_of "$pid")
	echo "seed $seed"
	# It reads and writes what lies on the other host, all the time, and checks it.
	paged 16M "$BUILD/apps/bbtouch" --size 32M --writes 30 --seconds 8 --pattern rand --json >"$BATS_TEST_TMPDIR/out" 2>&1 3>&- &
	PIDS+=("$!")
	run timeout 60 python3 "$TOP/tests/apps/hostile.py" "$dir/bbd.sock" "$seed" 25
	expect_status 0
	run timeout 60 "$BUILD/apps/bbhostile" "$dir/bbd.sock" "$seed" 6
	expect_status 0
	echo "$output"
	wait "${PIDS[0]}" || fail "$(cat "$BATS_TEST_TMPDIR/out")"
	came_back 100
	# The same bbd, at rest, with nothing left of them; a child that never came is waited for 30 s.
	expect_equal "$(cut -d' ' -f1 "$dir/pid")" "$pid"
	eventually 60 all_given_back "$pid" "$fds"
	before=$(ticks "$pid")
	sleep 1
	(($(ticks "$pid") - before < 50)) || fail "bbd spins: $before, $(ticks "$pid") ticks"
	end_of_all h1 h2
}

@test "libbb.so with the address sanitizer" {
	local asan

	[[ -e $BUILD/libbb-asan.so ]] || skip "there is one in the folder of the address sanitizer alone"
	asan=$(readlink -f "$("${CC:-gcc}" -print-file-name=libasan.so)")
	rack_up 2 "${OPTIONS[@]}"
	# Its malloc stands before ours, so memory of mmap(2) is what gets paged.
	for app in "bbtouch --size 48M --pattern rand --writes 40 --ops 3000 --threads 3 --alloc mmap" \
		"bbkernel --size 24M"; do
		# shellcheck disable=SC2086 # words
		run bbrack run h1 -- env BB_LOCAL=16M BB_PLACE=2 LD_PRELOAD="$asan $BUILD/libbb-asan.so" \
			ASAN_OPTIONS="$ASAN_OPTIONS:detect_leaks=0" timeout 100 "$BUILD/apps/"$app
		expect_status 0
	done
	came_back 1000
	end_of_all h1 h2
}
