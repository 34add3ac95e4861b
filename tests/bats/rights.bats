#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# bbd with the least rights: each thread's capabilities and filter, and that all
# goes on working with them. Refused calls in a log fail a test (remove_racks).
# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

setup() {
	cd "$TOP" || return
	LOG=$BATS_TEST_TMPDIR/bbd.log
	SOCKET=$BATS_TEST_TMPDIR/s
}

teardown() {
	end_programs
	remove_racks
}

# BPF: CAP_BPF and CAP_PERFMON; CAP_NET_RAW and CAP_IPC_LOCK for AF_XDP sockets
readonly NET_ADMIN=0000000000001000 NONE=0000000000000000 BPF=000000c000006000

# rights PID: a line a thread: NAME EFFECTIVE NO_NEW_PRIVS SECCOMP, without doubles.
rights() {
	local t

	for t in "/proc/$1"/task/*/status; do
		awk '/^Name:/ { n = $2 } /^CapEff:/ { c = $2 } /^NoNewPrivs:/ { p = $2 } /^Seccomp:/ { s = $2 }
			END { print n, c, p, s }' "$t"
	done | sort -u
}

# expect_rights PID LINE...
expect_rights() { expect_equal "$(rights "$1")" "$(printf '%s\n' "${@:2}" | sort)"; }

pid_of() { bbrack status -j | jq -r --arg h "$1" '.. | objects | select(.host? == $h) | .pid'; }

# start_bbd [COMMAND...] -- OPTION...: an embedded one.
start_bbd() {
	local before=()

	while [[ $1 != -- ]]; do before+=("$1"); shift; done
	"${before[@]}" "$BUILD/bbd" --config /dev/null --embedded --lend 256M --local 16M --socket "$SOCKET" "${@:2}" \
		</dev/null >"$LOG" 2>&1 3>&- &
	PIDS+=("$!")
	disown "$!"
	eventually 10 "$BUILD/bbctl" --socket "$SOCKET" node
}

# 64 MiB through that bbd, checked.
page_through() {
	run env BB_SOCKET="$SOCKET" BB_LOCAL=16M LD_PRELOAD="$BUILD/libbb.so" python3 -c 'b = bytearray(64 << 20)
for i in range(0, len(b), 4096): b[i] = i // 4096 % 251
print("right" if all(b[i] == i // 4096 % 251 for i in range(0, len(b), 4096)) else "WRONG")'
	expect_status 0
	expect_output right
	no_refused_calls "$LOG"
}

sanitized() { "$BUILD/bbctl" --socket "$SOCKET" -j doctor | grep -q 'built with a sanitizer'; }

@test "hosts of a rack: threads have what routes need, and no more" {
	local pid

	need_root
	rack_up 2
	pid=$(pid_of h1)
	expect_rights "$pid" "bbd $NET_ADMIN 1 2" "bbd-server $NET_ADMIN 1 2" "bb-pager $NONE 1 2" "bbd-control $NONE 1 2" \
		"bbd-scrubber $NONE 1 2" "bbd-mover $NONE 1 2" "bbd-steer $BPF 1 2"
	run bbrack run h1 -- "$BUILD/bbctl" -j doctor
	expect_json '.checks[] | select(.name == "least rights") | .state == "ok"'
	# Routes, attach, paging to the other host, and what people look at, with these rights.
	run bbrack run h1 -- env BB_LOCAL=16M BB_PLACE=2 LD_PRELOAD="$BUILD/libbb.so" python3 -c 'b = bytearray(64 << 20)
for i in range(0, len(b), 4096): b[i] = i // 4096 % 251
print("right" if all(b[i] == i // 4096 % 251 for i in range(0, len(b), 4096)) else "WRONG")'
	expect_status 0
	expect_output right
	run bbrack run h1 -- "$BUILD/bbctl" fault
	expect_status 0
	run bbrack run h1 -- ip -6 route show
	expect_output fdbb:0:2::/48
	# It takes its routes away at its end.
	kill -s TERM "$pid"
	eventually 10 is_gone "$pid"
	run bbrack run h1 -- ip -6 route show
	expect_no_output fdbb:0:2::/48
}

@test "embedded: no capabilities at all, also with files and pagers" {
	start_bbd -- --pagers 2
	expect_rights "${PIDS[0]}" "bbd $NONE 1 2" "bb-pager $NONE 1 2" "bbd-control $NONE 1 2" "bbd-scrubber $NONE 1 2"
	run "$BUILD/bbctl" --socket "$SOCKET" -j doctor
	expect_json '.checks[] | select(.name == "least rights") | .state == "ok"'
	page_through
}

@test "lent memory in files, made while the filter holds" {
	mkdir "$BATS_TEST_TMPDIR/store"
	start_bbd -- --store "$BATS_TEST_TMPDIR/store"
	page_through
}

@test "as another user" {
	need_root
	# A place that this user reaches.
	chmod 777 "$BATS_TEST_TMPDIR"
	SOCKET=$(mktemp -d /tmp/bb-test-XXXXXX)
	chmod 777 "$SOCKET"
	SOCKET+=/s
	cp "$BUILD/bbd" "${SOCKET%/*}"
	setpriv --reuid=65534 --regid=65534 --clear-groups "${SOCKET%/*}/bbd" --config /dev/null --embedded --lend 256M \
		--local 16M --socket "$SOCKET" </dev/null >"$LOG" 2>&1 3>&- &
	PIDS+=("$!")
	disown "$!"
	eventually 10 "$BUILD/bbctl" --socket "$SOCKET" node
	expect_rights "${PIDS[0]}" "bbd $NONE 1 2" "bb-pager $NONE 1 2" "bbd-control $NONE 1 2" "bbd-scrubber $NONE 1 2"
	page_through
	end_programs
	rm -r "${SOCKET%/*}"
}

@test "names of peers are looked up while the filter holds" {
	need_root
	rack_up 1 --bbd-args "--peer no-such-host.invalid"
	expect_rights "$(pid_of h1)" "bbd $NET_ADMIN 1 2" "bbd-server $NET_ADMIN 1 2" "bb-pager $NONE 1 2" \
		"bbd-control $NONE 1 2" "bbd-scrubber $NONE 1 2" "bbd-mover $NONE 1 2" "bbd-steer $BPF 1 2"
	eventually 20 grep -q 'no-such-host.invalid' "/run/bluebridge/$RACK/h1/bbd.log"
}

@test "--no-filter" {
	start_bbd -- --no-filter
	expect_rights "${PIDS[0]}" "bbd $NONE 1 0" "bb-pager $NONE 1 0" "bbd-control $NONE 1 0" "bbd-scrubber $NONE 1 0"
	run "$BUILD/bbctl" --socket "$SOCKET" -j doctor
	expect_json '.checks[] | select(.name == "least rights") | .state == "warn" and (.what | test("--no-filter"))'
	page_through
}

@test "nobody of its own user reads bbd's memory" {
	start_bbd --
	run setpriv --reuid=65534 --regid=65534 --clear-groups cat "/proc/${PIDS[0]}/maps"
	expect_status 1
	run cat "/proc/${PIDS[0]}/coredump_filter"
	expect_equal "$(stat -c %U "/proc/${PIDS[0]}/maps")" root
}
