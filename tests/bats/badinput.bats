#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# What goes wrong is said once, with the remedy, and the program runs.
# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

setup() {
	cd "$TOP" || return
	# 32 MiB, a page at a time, checked at the end.
	JOB=(/usr/bin/python3 -c 'b = bytearray(32 << 20)
for i in range(0, len(b), 4096): b[i] = i >> 12 & 255
print("right" if all(b[i] == i >> 12 & 255 for i in range(0, len(b), 4096)) else "WRONG")')
}

teardown() {
	end_programs
	remove_racks
}

# with_lib [NAME=VALUE...]: the job under libbb.so.
with_lib() { run env "$@" LD_PRELOAD="$BUILD/libbb.so" "${JOB[@]}"; }

# lines_of_libbb [WORD]: how many of its messages name that.
lines_of_libbb() { grep -c "^libbb.*${1:-}" <<<"$output" || :; }

@test "no bbd: one warning, the program runs" {
	with_lib BB_LOCAL=8M BB_SOCKET="$BATS_TEST_TMPDIR/none"
	expect_status 0
	expect_output right
	expect_output "$BATS_TEST_TMPDIR/none"
	expect_equal "$(lines_of_libbb)" 1 "$output"
}

@test "a socket that nobody serves, and one that is no socket" {
	: >"$BATS_TEST_TMPDIR/file"
	with_lib BB_LOCAL=8M BB_SOCKET="$BATS_TEST_TMPDIR/file"
	expect_status 0
	expect_output right
	python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' "$BATS_TEST_TMPDIR/dead"
	with_lib BB_LOCAL=8M BB_SOCKET="$BATS_TEST_TMPDIR/dead"
	expect_status 0
	expect_output right
	expect_equal "$(lines_of_libbb)" 1 "$output"
}

@test "a bbd that says nothing does not hang a program" {
	python3 -c 'import socket, sys, time
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(5); time.sleep(120)' "$BATS_TEST_TMPDIR/mute" 3>&- &
	PIDS+=($!)
	eventually 5 test -S "$BATS_TEST_TMPDIR/mute"
	run timeout 60 env BB_LOCAL=8M BB_SOCKET="$BATS_TEST_TMPDIR/mute" LD_PRELOAD="$BUILD/libbb.so" "${JOB[@]}"
	expect_status 0
	expect_output right
}

@test "an unknown BB_ name earns one warning" {
	with_lib BB_LOCALE=8M
	expect_status 0
	expect_output right
	expect_equal "$(lines_of_libbb BB_LOCALE)" 1 "$output"
}

@test "bad values earn one warning each, the default holds" {
	local v

	for v in BB_LOCAL=lots BB_LOCAL=-1 BB_LOCAL=12Q BB_MIN=x BB_LOG=loud BB_PREFETCH=maybe BB_PLACE=moon; do
		with_lib "$v"
		expect_status 0
		expect_output right
		expect_equal "$(lines_of_libbb "${v%%=*}")" 1 "$v: $output"
	done
}

@test "BB_SKIP and BB_ONLY leave programs alone" {
	with_lib BB_LOCAL=8M BB_SOCKET="$BATS_TEST_TMPDIR/none" BB_SKIP=python3
	expect_status 0
	expect_equal "$output" right
	with_lib BB_LOCAL=8M BB_SOCKET="$BATS_TEST_TMPDIR/none" BB_ONLY=sort,redis-server
	expect_equal "$output" right
}

@test "BB_STATS that cannot be written is said" {
	with_lib BB_STATS="$BATS_TEST_TMPDIR/no/such/file"
	expect_status 0
	expect_output right
	expect_output BB_STATS
}

@test "bbd refuses bad options in one line" {
	local args

	for args in --node=0 --node=65535 --node=x --lend=12Q --port=0 --port=70000 --pagers=0 --dev=no-such-dev --tenant=70000 \
		--log=loud --nonsense --store=/no/such/dir; do
		run timeout 10 "$BUILD/bbd" --config /dev/null --embedded --socket "$BATS_TEST_TMPDIR/s" "$args"
		((status != 0 && status != 124)) || fail "bbd accepts $args" "$output"
		((status < 128)) || fail "bbd $args: ended by a signal"
		expect_output "bbd: error"
	done
	run timeout 10 "$BUILD/bbd" --config "$BATS_TEST_TMPDIR/none" --embedded --socket "$BATS_TEST_TMPDIR/s"
	((status != 0 && status != 124)) || fail "bbd accepts a configuration that is not there" "$output"
}

@test "bbd refuses a socket that another serves" {
	"$BUILD/bbd" --config /dev/null --embedded --socket "$BATS_TEST_TMPDIR/s" 2>/dev/null 3>&- &
	PIDS+=($!)
	eventually 10 test -S "$BATS_TEST_TMPDIR/s"
	run timeout 10 "$BUILD/bbd" --config /dev/null --embedded --socket "$BATS_TEST_TMPDIR/s"
	((status != 0 && status != 124)) || fail "two daemons at one socket"
	expect_output "another bbd"
	kill -0 "${PIDS[0]}"
}

@test "bbctl: bad input, and no bbd" {
	run "$BUILD/bbctl" --socket "$BATS_TEST_TMPDIR/none"
	((status != 0 && status < 128)) || fail "exit status $status" "$output"
	expect_output "$BATS_TEST_TMPDIR/none"
	run "$BUILD/bbctl" nonsense
	((status != 0 && status < 128)) || fail "exit status $status" "$output"
	run "$BUILD/bbctl" node nonsense
	((status != 0 && status < 128)) || fail "exit status $status" "$output"
}

@test "hosts with different keys do not serve each other, and say so" {
	need_root
	rack_up 2
	# h2 comes back with a key of its own.
	local old dir=/run/bluebridge/$RACK

	old=$(cut -d' ' -f1 "$dir/h2/pid")
	kill "$old"
	eventually 10 is_gone "$old"
	nsenter --net="/run/netns/bb-$RACK-h2" "$BUILD/bbd" --config /dev/null --node 2 --dev eth0 --lend 1G \
		--socket "$dir/h2/bbd.sock" --key "$BATS_TEST_TMPDIR/other-key" >"$BATS_TEST_TMPDIR/log" 2>&1 3>&- &
	PIDS+=($!)
	differs() {
		"$BUILD/bbctl" --socket "$dir/h1/bbd.sock" -j node show |
			jq -e 'any(.nodes[]; .node == 2 and (.alive | not)) or all(.nodes[]; .node != 2)' >/dev/null &&
			grep -qi 'key' "$dir/h1/bbd.log"
	}
	eventually 15 differs
	run grep -ic 'key' "$dir/h1/bbd.log"
	run "$BUILD/bbctl" --socket "$dir/h2/bbd.sock" -j node show
	expect_json 'all(.nodes[]; .node != 1 or (.alive | not))'
}

@test "a key that others may read is refused" {
	need_root
	head -c 32 /dev/urandom >"$BATS_TEST_TMPDIR/key"
	chmod 644 "$BATS_TEST_TMPDIR/key"
	run timeout 10 "$BUILD/bbd" --config /dev/null --node 1 --socket "$BATS_TEST_TMPDIR/s" --key "$BATS_TEST_TMPDIR/key"
	((status != 0 && status != 124)) || fail "bbd accepts it" "$output"
	expect_output "$BATS_TEST_TMPDIR/key"
}
