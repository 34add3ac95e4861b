#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Anomaly loops: one system call, ioctl or allocation of libbb.so or bbd fails,
# then the next, until none is left. See tests/anomaly/.
#
# Here every few places have their turn, another selection each time; the seed
# is printed. BB_TEST_ANOMALY=all: every place with every error; =SEED: as that
# run had it.

# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

setup() { need_root; }

teardown() {
	end_programs
	remove_racks
}

# anomaly WHAT STEP CMD...: on h1, with a small budget.
anomaly() {
	local how=(--step "$2")

	case ${BB_TEST_ANOMALY:-} in
	all) how=(--step 1 --all) ;;
	?*) how+=(--seed "$BB_TEST_ANOMALY") ;;
	esac
	# shellcheck disable=SC2097,SC2098 # BUILD is for the command
	run bbrack run h1 -- env BB_LOCAL=8M BUILD="$BUILD" python3 "$TOP/tests/anomaly/anomaly.py" \
		"$1" "${how[@]}" --tmp "$BATS_TEST_TMPDIR" -- "${@:3}"
	printf '# %s\n' "${lines[-1]}" >&3
	expect_status 0
}

@test "libbb.so: attaching, moving pages out, giving them back" {
	rack_up 2
	anomaly shim 4 "$BUILD/apps/bbtouch" --size 24M --pattern rand --writes 50 --ops 1500
}

@test "libbb.so: all allocation functions, madvise, mremap" {
	rack_up 2
	anomaly shim 7 "$BUILD/apps/bballoc" --seed 3 --ops 100
}

@test "libbb.so: fork" {
	rack_up 2
	anomaly shim 12 "$BUILD/apps/bbfork" --size 16 --children 1 --depth 2
}

@test "bbd of the program, from its start to its end" {
	rack_up 2
	anomaly daemon 8 "$BUILD/apps/bbtouch" --size 24M --pattern rand --writes 50 --ops 1000
}

@test "bbd of the memory host, from its start to its end" {
	rack_up 2
	anomaly memory 10 "$BUILD/apps/bbtouch" --size 24M --pattern rand --writes 50 --ops 1000
}

# restart HOST: its bbd, with the environment of now, until both hosts see each other.
restart() {
	"$BUILD/bbrack" --bin "$BIN" bbd "$1" restart
	eventually 15 both_seen
}

both_seen() {
	local h

	for h in h1 h2; do
		timeout 5 env -u LD_PRELOAD "$BUILD/bbctl" --socket "/run/bluebridge/$RACK/$h/bbd.sock" -j node show 2>/dev/null |
			jq -e '[.nodes[] | select(.alive)] | length == 2' >/dev/null || return 1
	done
}

# one_in N HOST CALL ERRORS: one in N such calls fails, with each of its errors in turn.
# h1's bbd or the memory host's is restarted so; "shim": libbb.so.
one_in() {
	local v fail=(env FAILNTH_STATE="$BATS_TEST_TMPDIR/state" FAILNTH_CALL="$3" FAILNTH_EVERY="$1")
	local touch=("$BUILD/apps/bbtouch" --size 20M --pattern rand --writes 50 --ops 600 --threads 2)

	for ((v = 0; v < $4; v++)); do
		rm -f "$BATS_TEST_TMPDIR/state"
		if [[ $2 == shim ]]; then
			run bbrack run h1 -- env BB_LOCAL=8M LD_PRELOAD="$BUILD/libbb.so:$BUILD/tests/failnth.so" \
				FAILNTH_IN=libbb.so FAILNTH_VARIANT=$v "${fail[@]}" timeout 60 "${touch[@]}"
		else
			export LD_PRELOAD=$BUILD/tests/failnth.so FAILNTH_VARIANT=$v "${fail[@]:1}"
			restart "$2"
			unset LD_PRELOAD FAILNTH_STATE
			run bbrack run h1 -- env BB_LOCAL=8M LD_PRELOAD="$BUILD/libbb.so" timeout 60 "${touch[@]}"
		fi
		expect_status 0
		run od -An -t u4 -j 4 -N 4 "$BATS_TEST_TMPDIR/state"
		((output > 5)) || fail "$3, error $v: only $output failures"
	done
}

@test "one in three UFFDIO_MOVE fails, or succeeds and says that it has failed" {
	rack_up 2
	one_in 3 shim UFFDIO_MOVE 5
}

@test "one in four pages that bbd brings in is refused by the kernel" {
	rack_up 2
	one_in 4 h1 UFFDIO_COPY 3
}

@test "packets that bbd sends are refused by the kernel, at either end" {
	# Where the kernel answers READs, the memory host's bbd sends too little to fail.
	rack_up 2 --host-programs off
	one_in 5 h1 sendmmsg 3
	restart h1
	one_in 30 h2 sendmsg 5
}

@test "one in two marks of lost pages is refused by the kernel: SIGBUS all the same, and nobody hangs" {
	local state=$BATS_TEST_TMPDIR/state

	rack_up 2 --host-programs off --bbd-args '--deadline 1000'
	export LD_PRELOAD=$BUILD/tests/failnth.so FAILNTH_STATE=$state FAILNTH_CALL=UFFDIO_POISON FAILNTH_EVERY=2
	restart h1
	unset LD_PRELOAD FAILNTH_STATE
	lost 2
	run od -An -t u4 -j 4 -N 4 "$state"
	((output > 5)) || fail "only $output failures"
}

@test "a failure that is not met with sense is found" {
	rack_up 2
	# Wrong bytes, and a crash, must not pass for a good end.
	run bbrack run h1 -- env BB_LOCAL=8M BUILD="$BUILD" python3 "$TOP/tests/anomaly/anomaly.py" \
		shim --only 1 --tmp "$BATS_TEST_TMPDIR" -- bash -c 'echo "page 3: have 00, want 11" >&2; exit 1'
	expect_status 1
	expect_output "wrong bytes"
	run bbrack run h1 -- env BB_LOCAL=8M BUILD="$BUILD" python3 "$TOP/tests/anomaly/anomaly.py" \
		shim --only 1 --tmp "$BATS_TEST_TMPDIR" -- bash -c 'kill -SEGV $$'
	expect_status 1
	expect_output "signal 11"
}
