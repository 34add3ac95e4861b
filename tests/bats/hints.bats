#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Pages that come ahead of the program: of walks that it makes, and as it says by
# madvise. Whatever is said, every byte is checked (bbhint).

# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

setup() { need_root; }

teardown() {
	end_programs
	remove_racks
}

# hint LOCAL SIZE, its commands on standard input; counters in the file stats.
hint() {
	bbrack run h1 -- timeout 100 env BB_LOCAL="$1" BB_STATS="$BATS_TEST_TMPDIR/stats" LD_PRELOAD="$BUILD/libbb.so" \
		"${@:3}" "$BUILD/apps/bbhint" "$2"
}

stats() { jq -e "$1" "$BATS_TEST_TMPDIR/stats" >/dev/null || fail "not so: $1" "$(<"$BATS_TEST_TMPDIR/stats")"; }

# remote LOCAL SIZE COMMANDS [SETTING]: faults that went to another host.
remote() {
	run hint "$1" "$2" env "${4:-BB_PREFETCH=on}" <<<"$3"
	expect_status 0
	stats '.written_back > 1000 and .lost == 0'
	REMOTE=$(jq .fill_remote "$BATS_TEST_TMPDIR/stats")
}

# mostly_ahead SIZE COMMANDS: a tenth of the faults, at most, that there are without prefetch.
mostly_ahead() {
	local without

	remote 24M "$1" "$2" BB_PREFETCH=off
	without=$REMOTE
	stats '.prefetched == 0'
	remote 24M "$1" "$2"
	stats '.prefetched > 5000 and .unused < .prefetched / 10'
	((REMOTE * 10 < without)) || fail "$REMOTE remote faults, $without without prefetch"
}

@test "one thread, one array: what it walks through comes ahead" {
	rack_up 2
	mostly_ahead 96M 'walk 1 1'
}

@test "one thread, three arrays at a time" {
	rack_up 2
	mostly_ahead 96M 'walk 1 3'
}

@test "two threads, an array each; and four threads, two each" {
	rack_up 2
	mostly_ahead 96M 'walk 2 1'
	mostly_ahead 96M 'walk 4 2'
}

@test "random access fetches nothing ahead" {
	rack_up 2
	# The check in the end walks: the fewer pages for that.
	remote 24M 96M 'rand 30000'
	WALK=$(jq .prefetched "$BATS_TEST_TMPDIR/stats")
	remote 24M 96M fill
	stats '.prefetched > 5000'
	NONE=$(jq .prefetched "$BATS_TEST_TMPDIR/stats")
	((WALK < NONE + 1500)) || fail "$WALK pages fetched ahead, $NONE without the random access"
}

@test "RANDOM: nothing is fetched ahead there, until NORMAL; also where it is said first" {
	rack_up 2
	remote 24M 96M $'fill\nadvise random all\nwalk 1 1'
	stats '.prefetched == 0 and .fill_remote > 15000'
	remote 24M 96M $'advise random all\nwalk 1 1'
	stats '.prefetched == 0 and .fill_remote > 15000'
	# Of the first half only.
	remote 24M 96M $'advise random all\nadvise normal 12288 12288\nwalk 1 1'
	stats '.prefetched > 10000 and .fill_remote > 8000'
	remote 24M 96M $'advise random all\nfill\nadvise normal all\nwalk 1 1'
	stats '.prefetched > 20000 and .fill_remote < 3000'
}

@test "SEQUENTIAL: much comes ahead from the first fault on, and what was passed goes first" {
	rack_up 2
	# Pieces of 40 pages, each far from the last: a walk cannot be found there so soon.
	PIECES=$(for ((i = 0; i < 300; i++)); do echo "touch $((i * 7919 % 600 * 40)) 40 99"; done)
	remote 24M 96M "$PIECES"
	NORMAL=$REMOTE
	remote 24M 96M $'fill\nadvise sequential all\n'"$PIECES"
	((REMOTE * 2 < NORMAL)) || fail "$REMOTE remote faults, $NORMAL where nothing is said"
	# Half of the budget is worked with, and stays while all else is walked through once.
	run hint 24M 96M <<<$'fill\nadvise sequential 4096 20480\ntouch 0 2048 9999\ntouch 4096 20000 20000\ntouch 0 2048 300'
	expect_status 0
}

@test "WILLNEED: it is here before it is touched; madvise does not wait" {
	rack_up 2
	run hint 32M 96M <<<$'touch 20000 4000 9999\nadvise willneed 1000 2000\nawait 1000 2000 2000 2000\ntouch 1000 2000 20'
	expect_status 0
	# Also what is on its way out, and in many pieces. There is room for the first, too, once the helper has caught up.
	run hint 32M 96M <<<"$(echo sleep 300; for ((i = 0; i < 40; i++)); do echo "advise willneed $((i * 200 + 50)) 50"; echo sleep 20; done
		for ((i = 0; i < 40; i++)); do echo "touch $((i * 200 + 50)) 50 12"; done)"
	expect_status 0
	# More than there is room for is cut off, not done in vain.
	run hint 24M 96M <<<$'advise willneed all\nsleep 500\nrand 1000\nwalk 1 1'
	expect_status 0
	stats '.prefetched < 60000'
	# Nothing comes where that is not wanted.
	remote 24M 96M $'fill\nadvise willneed all\nsleep 300\nrand 2000' BB_PREFETCH=off
	stats '.prefetched == 0'
}

@test "PAGEOUT: it is out soon, and its bytes come back" {
	rack_up 2
	run hint 64M 96M <<<$'touch 0 4000 9999\nadvise pageout 0 4000\nawait 0 4000 0 0\ntouch 0 4000 9999'
	expect_status 0
	# Nothing but that goes; single pages; memory of which nothing was paged so far.
	run hint 64M 96M <<<$'touch 0 4000 9999\nadvise pageout 1000 1\nadvise pageout 1002 5\nadvise pageout 3000 700
await 1000 1 0 0\nawait 1002 5 0 0\nawait 3000 700 0 0\ntouch 0 1000 100\ntouch 1007 1900 100'
	expect_status 0
	# All but what is on its way in at that moment.
	run hint 64M 96M <<<$'fill\nadvise pageout all\nawait 0 24576 0 100\nwalk 1 1\nadvise pageout all\nawait 0 24576 0 100'
	expect_status 0
	stats '.lost == 0 and .evict_busy == 0'
}

@test "PAGEOUT by a program that goes on before bbd has said that its pages are here" {
	local cpu i rounds=''

	cpu=$(taskset -cp "$BASHPID" | sed 's/.*: //; s/[-,].*//')
	rack_up 2 --bbd-args "--cpu $cpu"
	for ((i = 0; i < 30; i++)); do
		rounds+=$'touch 0 4000 9999\nadvise pageout 0 4000\nawait 0 4000 0 0\n'
	done
	run hint 64M 96M taskset -c "$cpu" <<<"$rounds"
	expect_status 0
}

@test "COLD: it stays while there is room, and goes before all else" {
	rack_up 2
	# 8000 pages of 13000 or so are here, the helper has done what they took, and a half of them is cold.
	run hint 64M 96M <<<$'touch 8000 16000 99999\ntouch 0 8000 9999\ntouch 0 8000 9999\nsleep 300\nadvise cold 0 4000\nsleep 300
await 0 4000 3900 4000\ntouch 12000 6000 9999\nawait 0 4000 0 1000\ntouch 4000 4000 200'
	expect_status 0
	# Said before it is paged: what comes first to make room.
	run hint 64M 96M <<<$'advise cold 0 8192\nfill\nsleep 100\nrand 10\ntouch 9000 3000 9999'
	expect_status 0
}

@test "other hints change nothing" {
	rack_up 2
	run hint 24M 64M <<<$'advise hugepage all\nwalk 2 1\nadvise nohugepage all\nwalk 1 2\nadvise hugepage 100 3\nrand 1000'
	expect_status 0
	stats '.lost == 0'
}

@test "hints from signal handlers, while the thread allocates" {
	rack_up 2
	for name in willneed cold pageout random sequential normal; do
		run hint 24M 64M <<<"handler $name 100 9000 3000"
		expect_status 0
	done
}

@test "hints in a program that has no daemon" {
	run env BB_LOCAL=256M BB_SOCKET=/nowhere LD_PRELOAD="$BUILD/libbb.so" "$BUILD/apps/bbhint" 64M \
		<<<$'advise random all\nfill\nadvise cold all\nadvise pageout all\nadvise willneed all\nadvise sequential all\nwalk 2 2'
	expect_status 0
}
