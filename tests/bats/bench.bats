#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# The bench itself: its rows come, it compares bytes, and nothing of it stays
# behind, however it ends. Figures of these runs mean nothing.

# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

bench() { B=$BUILD "$TOP/scripts/bench/run" "$@"; }
rows() { jq -r "[.rows[] | $1] | join(\" \")" "$BUILD/bench-quick.json"; }

setup_file() {
	need_root
	[[ ! -e /run/bluebridge-bench.json ]] || skip "another bench is at work"
	(($(wc -l </proc/swaps) == 1)) || skip "this machine has swap of its own"
}

# What its journal says that it has changed: lines of kind and name.
journal() { [[ ! -e /run/bluebridge-bench.json ]] || jq -r '.steps[] | join(" ")' /run/bluebridge-bench.json; }

# Everything that a bench with that process id changes or makes; the second is its journal.
nothing_left() {
	local kind name

	[[ ! -e /run/bluebridge-bench.json && ! -e /run/bluebridge-bench-$1 ]] || return 1
	while read -r kind name; do
		case $kind in
		swap) ! grep -q "^$name " /proc/swaps || return 1 ;;
		zram) [[ ! -e /sys/block/zram$name ]] || return 1 ;;
		*) [[ ! -e $name ]] || return 1 ;;
		esac
	done <<<"$2"
	! compgen -G "/run/netns/bb-bench-$1-*" >/dev/null || return 1
	! compgen -G "/run/bluebridge/bench-$1-*" >/dev/null || return 1
	[[ ! $(find /sys/fs/cgroup -maxdepth 2 -name "bluebridge-bench-$1-*") ]] || return 1
	[[ ! -e $BUILD/bench/swap.$1 ]] || return 1
	! pgrep -f "bench/guard.py $1" >/dev/null
}

large_files() { find "$BUILD/bench" -size +20M; }

has_rack() { compgen -G "/run/netns/bb-bench-$1-*" >/dev/null; }
has_swap() { grep -q "$2" /proc/swaps; }

# killed SIGNAL WHEN ROW [WHERE]: a bench of that row, ended at that moment. All goes within a minute.
killed() {
	local pid steps signal=$1 when=$2 what=$3

	B=$BUILD "$TOP/scripts/bench/run" --quick "$what" >/dev/null 2>&1 3>&- &
	pid=$!
	PIDS+=("$pid")
	eventually 60 "$when" "$pid" "${4:-}"
	steps=$(journal)
	kill -s "$signal" "$pid"
	wait "$pid" || :
	eventually 60 nothing_left "$pid" "$steps"
	expect_equal "$(large_files)" ""
}

teardown() {
	end_programs
	bench --clean || :
}

@test "programs that fit: rows come with values" {
	run bench --quick fits
	expect_status 0
	expect_output "figures mean nothing"
	expect_equal "$(rows 'select(.value > 0) | .name')" "fits-sort fits-redis fits-stream fits-malloc"
}

@test "faults and READs: rows come with values" {
	run bench --quick remote-fault rate cpu resident kernel-fault directory-kernel-unpinned xdp-rate kernel-cpu
	expect_status 0
	expect_equal "$(rows 'select(.value > 0) | .name')" "remote-fault-pinned remote-fault-unpinned rate-random-read \
rate-random-write50 rate-sequential cpu-per-fault resident directory-kernel-unpinned kernel-cpu kernel-fault-pinned \
kernel-fault-unpinned xdp-rate"
	expect_equal "$(rows 'select(.met != null or .goal != null) | .name')" "" "a goal was judged"
}

@test "the paper: rows come with values and with the five parts" {
	run bench --quick paper
	expect_status 0
	expect_equal "$(rows 'select(.value > 0) | .name')" "paper-without paper-directory paper-kernel paper-disk paper-create \
paper-update paper-read paper-delete"
	# Where a directory is asked, that is most of what is not in "without".
	run jq -e '[.rows[] | select(.detail.parts) | {key: .name, value: .detail.parts}] | from_entries |
		."paper-directory".directory.p50_ns > 3 * ."paper-without".directory.p50_ns and
		."paper-directory".other.p50_ns < ."paper-directory".directory.p50_ns' "$BUILD/bench-quick.json"
	expect_status 0

	# Of a quick run no pictures are made; of another one that holds the same rows, three.
	run "$TOP/scripts/bench/figures.py" "$BATS_TEST_TMPDIR" "$BUILD/bench-quick.json"
	expect_status 2
	expect_output "figures mean nothing"
	type -P gnuplot >/dev/null || return 0
	jq '.quick = false' "$BUILD/bench-quick.json" >"$BATS_TEST_TMPDIR/bench.json"
	run "$TOP/scripts/bench/figures.py" "$BATS_TEST_TMPDIR" "$BATS_TEST_TMPDIR/bench.json"
	expect_status 0
	for name in figure4 figure5 table1; do
		expect_output "$name.svg"
		run grep -c '<rect\|<path' "$BATS_TEST_TMPDIR/$name.svg"
		expect_status 0
		run "$TOP/scripts/bench/figures.py" "$BATS_TEST_TMPDIR"
	done
}

@test "which pages to take out: rows come with values" {
	run bench --quick policy
	expect_status 0
	expect_equal "$(rows 'select(.value >= 1) | .name')" "policy-redis policy-redis-zipf policy-sqlite policy-numpy policy-sort \
policy-dict policy-hot policy-all"
	run env BENCH_SPOIL=40 B="$BUILD" "$TOP/scripts/bench/run" --quick policy-redis policy-dict policy-sort policy-hot
	expect_status 1
	expect_equal "$(rows 'select((.detail.error // "") | test("other bytes") | not) | .name')" "" "$output"
}

@test "peers: rows come with values, and nothing stays" {
	run bench --quick peers
	expect_status 0
	expect_equal "$(rows 'select(.value == null) | .name')" "" "$output"
	expect_equal "$(rows .name)" "peers-random-zram peers-random-disk peers-random-file peers-write50 peers-two-threads \
peers-sequential peers-sequential-wire peers-cpu peers-tail peers-hot-set peers-redis-50 peers-redis-25 peers-numpy-50 \
peers-numpy-25 peers-sort-50 peers-sort-25"
	[[ ! -e /run/bluebridge-bench.json ]]
	! grep -q "$BUILD/bench" /proc/swaps || fail "swap is on"
	expect_equal "$(large_files)" ""
}

@test "who finds other bytes than were written ends the bench with 1" {
	run env BENCH_SPOIL=40 B="$BUILD" "$TOP/scripts/bench/run" --quick fits cpu resident kernel-fault paper-disk paper-read \
		peers-tail peers-redis-25 peers-numpy-25 peers-sort-50
	expect_status 1
	expect_equal "$(rows 'select(.value != null) | .name')" "" "a row in spite of it"
	expect_equal "$(rows 'select((.detail.error // "") | test("other bytes") | not) | .name')" "" "$output"
}

@test "a row, or an option, that is not there: exit status 2, and what there is" {
	run bench nonesuch
	expect_status 2
	expect_output "there is no row nonesuch; there are: fits-sort"
	run bench --nonesuch
	expect_status 2
	expect_output "no option --nonesuch"
}

@test "SIGTERM in the middle of peers: nothing is left" {
	killed TERM has_rack peers-random-zram
	killed TERM has_swap peers-random-zram zram
	killed TERM has_swap peers-random-disk bench/swap
}

@test "SIGKILL in the middle of peers: the guard leaves nothing" {
	killed KILL has_rack peers-random-zram
	killed KILL has_swap peers-random-zram zram
	killed KILL has_swap peers-random-disk bench/swap
}

@test "SIGKILL of the guard too: run --clean leaves nothing" {
	local pid steps

	B=$BUILD "$TOP/scripts/bench/run" --quick peers-random-disk >/dev/null 2>&1 3>&- &
	pid=$!
	PIDS+=("$pid")
	eventually 60 has_swap "$pid" bench/swap
	steps=$(journal)
	pkill -KILL -f "bench/guard.py $pid\$"
	kill -s KILL "$pid"
	wait "$pid" || :
	grep -q "bench/swap.$pid" /proc/swaps
	run bench --clean
	expect_status 0
	eventually 20 nothing_left "$pid" "$steps"
	expect_equal "$(large_files)" ""
}
