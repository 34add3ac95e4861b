# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# What the bats files share. A test that made racks, programs or files removes
# them in teardown, whatever happened; racks have an owner besides, so that they
# go even where bats is killed.
#
# In bats a failing command ends a test only outside of conditions: not after
# "!", not within [[ ]] && ..., not as part of a pipe. So tests use "run" and
# the functions below, each of which fails by itself.

TOP=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
BUILD=${B:-build}
[[ $BUILD == /* ]] || BUILD=$TOP/$BUILD
BIN=${BB_TEST_BIN:-$BUILD}
export TOP BUILD BIN
unset BB_SOCKET BB_LOCAL BB_MIN BB_ONLY BB_SKIP BB_STATS BB_PLACE BB_PREFETCH BB_LOG BB_RACK_NAME LD_PRELOAD

fail() {
	printf '%s\n' "$@" >&2
	return 1
}

# expect_status N: of the last "run".
expect_status() {
	# shellcheck disable=SC2154 # set by run
	((status == $1)) || fail "exit status $status instead of $1; output:" "$output"
}

# expect_output PATTERN: the last run's output holds it (a shell pattern).
expect_output() {
	# shellcheck disable=SC2053 # a pattern
	[[ $output == *$1* ]] || fail "no \"$1\" in the output:" "$output"
}

expect_no_output() {
	# shellcheck disable=SC2053 # a pattern
	[[ $output != *$1* ]] || fail "\"$1\" in the output:" "$output"
}

expect_equal() { [[ $1 == "$2" ]] || fail "\"$1\" instead of \"$2\"${3:+ ($3)}"; }

# expect_json FILTER: the last output is JSON for which the jq filter is true.
expect_json() { jq -e "$1" <<<"$output" >/dev/null || fail "not so: $1; output:" "$output"; }

# eventually SECONDS COMMAND...: succeeds within that time.
eventually() {
	local end=$((SECONDS + $1 + 1))

	until "${@:2}"; do
		((SECONDS < end)) || { fail "not within $1 s: ${*:2}"; return 1; }
		sleep 0.1
	done
}

# Has the process ended? One that nobody has waited for yet has.
is_gone() { [[ ! -e /proc/$1 || $(<"/proc/$1/stat") == *') Z '* ]]; }

# A kernel of that version or later?
kernel_has() { [[ $(printf "%s\n" "$1" "$(uname -r)" | sort -V | head -n 1) == "$1" ]]; }

need_root() { ((EUID == 0)) || skip "network namespaces need root"; }

# --- racks ------------------------------------------------------------------

# A name of this test's own, in RACK: bbrack takes it from the environment.
# shellcheck disable=SC2120 # given where a test has two
new_rack() {
	RACK=t$$-${1:-${BATS_TEST_NUMBER:-0}}
	export RACK BB_RACK_NAME=$RACK
	RACKS+=("$RACK")
}

bbrack() { "$BUILD/bbrack" --bin "$BIN" "$@"; }

# rack_up N [OPTION...]
rack_up() {
	# shellcheck disable=SC2119
	new_rack
	bbrack "${@:2}" --owner $$ up "$1"
}

rack_is_gone() {
	local ns

	for ns in /run/netns/"bb-$1-"*; do
		[[ ! -e $ns ]] || return 1
	done
	[[ ! -e /run/bluebridge/$1 ]] && ! pgrep -f "/run/bluebridge/$1/" >/dev/null
}

# A system call that a thread of bbd makes and its filter does not know (daemon/filter.c).
no_refused_calls() { ! grep -Hs 'may not call\|which bbd never does' "$@" >&2; }

remove_racks() {
	local name clean=1

	for name in "${RACKS[@]}"; do
		no_refused_calls "/run/bluebridge/$name"/h*/bbd.log || clean=''
		bbrack --name "$name" down || :
	done
	RACKS=()
	[[ $clean ]]
}

RACKS=()

# --- programs -----------------------------------------------------------------

# End what the test started and noted in PIDS.
end_programs() {
	local p

	for p in "${PIDS[@]}"; do
		kill -s KILL "$p" 2>/dev/null || :
	done
	PIDS=()
}

PIDS=()

# Processes and files that an embedded bbd of this test's bbrun would leave.
embedded_left() {
	ls -d "$XDG_RUNTIME_DIR"/bluebridge.* 2>/dev/null
	pgrep -f "$XDG_RUNTIME_DIR/bluebridge" || :
}

no_embedded_left() { [[ ! $(embedded_left) ]]; }

# A program on h1 that fills memory, is told to go on, and counts which pages are lost and which are wrong.
lost_fills() {
	mkfifo "$BATS_TEST_TMPDIR/in"
	bbrack run h1 -- timeout 60 env BB_LOCAL=16M LD_PRELOAD="$BUILD/libbb.so" "$BUILD/apps/bblost" 24 \
		<"$BATS_TEST_TMPDIR/in" >"$BATS_TEST_TMPDIR/out" 2>&1 &
	PIDS+=($!)
	exec 7>"$BATS_TEST_TMPDIR/in"
	eventually 20 grep -q filled "$BATS_TEST_TMPDIR/out"
}

lost_reads() {
	echo go >&7
	exec 7>&-
}

# Some are lost, none is wrong. What it said is the output.
lost_ends() {
	wait "${PIDS[0]}" || fail "bblost: $(<"$BATS_TEST_TMPDIR/out")"
	PIDS=()
	run cat "$BATS_TEST_TMPDIR/out"
	expect_output " 0 wrong"
	expect_output "new memory is good"
	expect_no_output " 0 lost"
}

# lost NODE...: kills those hosts' bbd in between.
lost() {
	local k

	lost_fills
	for k; do
		kill -s KILL "$(bbrack -j status | jq ".hosts[] | select(.host == \"h$k\") | .pid")"
	done
	lost_reads
	lost_ends
}
