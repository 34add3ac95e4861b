#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# bbrack: up, run, status, down; several racks; nothing stays of a killed run.
# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

setup() { need_root; }

teardown() {
	end_programs
	remove_racks
}

@test "up brings hosts up that see each other" {
	rack_up 3
	run bbrack status -j
	expect_status 0
	expect_json '.up and (.hosts | length) == 3'
	expect_json '[.hosts[] | .sees | length] == [2, 2, 2]'
	expect_json '[.hosts[].node] == [1, 2, 3]'
	run stat -c %a "/run/bluebridge/$RACK/key"
	expect_output 600
}

@test "status prints a line a host, and fails where there is no rack" {
	rack_up 2
	run bbrack status
	expect_status 0
	expect_output "h1  up"
	expect_output "fd00:bb::2"
	bbrack down
	run bbrack status
	expect_status 1
	expect_output "is not up"
	run bbrack status -j
	expect_status 1
	expect_json '.up == false and .hosts == []'
}

@test "run keeps directory, standard input and exit status" {
	rack_up 1
	cd "$BATS_TEST_TMPDIR"
	run bbrack run h1 -- pwd
	expect_equal "$output" "$BATS_TEST_TMPDIR"
	run bash -c "echo from here | '$BUILD/bbrack' run h1 -- cat"
	expect_equal "$output" "from here"
	run bbrack run h1 -- sh -c 'exit 42'
	expect_status 42
	# shellcheck disable=SC2016 # for the shell on h1
	run bbrack run h1 sh -c 'echo $BB_SOCKET $BB_RACK_HOST'
	expect_equal "$output" "/run/bluebridge/$RACK/h1/bbd.sock h1"
	run bbrack run 1 -- ip -o -6 addr show dev eth0
	expect_output "fd00:bb::1/64"
}

@test "run passes options of the command on" {
	rack_up 1
	run bbrack run h1 -- echo --name -j --mtu
	expect_equal "$output" "--name -j --mtu"
	run bbrack run h1 echo --name -j --mtu
	expect_equal "$output" "--name -j --mtu"
}

@test "the MTU is as asked" {
	rack_up 2 --mtu 1500
	run bbrack run h2 -- cat /sys/class/net/eth0/mtu
	# The namespace's own /sys is not mounted: ask ip.
	run bbrack run h2 -- ip link show eth0
	expect_output "mtu 1500"
	run bbrack status -j
	expect_json '.mtu == 1500'
}

@test "a bbd is killed, started, hung" {
	local before

	rack_up 2
	before=$(bbrack status -j | jq '.hosts[0].pid')
	bbrack bbd h1 kill
	run bbrack status
	expect_status 1
	run bbrack bbd h1 kill
	expect_status 1
	expect_output "does not run"
	bbrack bbd h1 start
	is_up() { bbrack status -j | jq -e '.up and (.hosts[0].sees == [2])' >/dev/null; }
	eventually 10 is_up
	run bbrack bbd h1 start
	expect_status 1
	expect_output "runs already"
	[[ $(bbrack status -j | jq '.hosts[0].pid') != "$before" ]] || fail "it is the old one"
	bbrack bbd 2 hang
	[[ $(awk '/^State/ { print $2 }' "/proc/$(bbrack status -j | jq '.hosts[1].pid')/status") == T ]] || fail "h2 runs on"
	bbrack bbd 2 resume
	bbrack bbd 2 restart
	eventually 10 is_up
	run bbrack bbd h3 kill
	expect_status 1
	run bbrack bbd h1 shoot
	expect_status 1
}

@test "two racks at a time, of which one goes" {
	local first

	rack_up 2
	first=$RACK
	new_rack second
	bbrack --mtu 1500 up 2
	run bbrack list
	expect_output "$first"
	expect_output "$RACK"
	bbrack down
	run bbrack --name "$first" status
	expect_status 0
	rack_is_gone "$RACK"
	run rack_is_gone "$first"
	expect_status 1
}

@test "a second up of the same name is refused" {
	rack_up 1
	run bbrack up 1
	expect_status 1
	expect_output "is up already"
	run bbrack status
	expect_status 0
}

@test "down leaves nothing, ends programs, and may be repeated" {
	rack_up 2
	bbrack run h2 -- sleep 300 3>&- &
	PIDS+=($!)
	sleep 0.3
	bbrack down
	rack_is_gone "$RACK"
	eventually 2 is_gone "${PIDS[0]}"
	run bbrack down
	expect_status 0
}

@test "down does not touch a process that has a dead one's number" {
	rack_up 1
	sleep 300 3>&- &
	PIDS+=($!)
	kill -s KILL "$(cut -d' ' -f1 "/run/bluebridge/$RACK/h1/pid")"
	# The number of a living process, with a start time that is not its own.
	echo "${PIDS[0]} 12345" >"/run/bluebridge/$RACK/h1/pid"
	bbrack down
	kill -0 "${PIDS[0]}" || fail "bbrack ended a process that is not its own"
	rack_is_gone "$RACK"
}

@test "with runs a command and takes the rack down" {
	new_rack
	# shellcheck disable=SC2016 # for the shell under bbrack
	run bbrack with 2 -- bash -c 'echo "in $BB_RACK_NAME"; "$BUILD/bbrack" status -j; exit 9'
	expect_status 9
	expect_output "in $RACK"
	expect_output '"up": true'
	rack_is_gone "$RACK"
}

@test "with passes signals on" {
	new_rack
	"$BUILD/bbrack" --bin "$BIN" with 1 -- sleep 300 3>&- &
	PIDS+=($!)
	eventually 20 test -e "/run/bluebridge/$RACK/command"
	kill -s TERM "${PIDS[0]}"
	run wait "${PIDS[0]}"
	eventually 10 rack_is_gone "$RACK"
}

@test "a killed with leaves nothing" {
	local command

	new_rack
	"$BUILD/bbrack" --bin "$BIN" with 2 -- sleep 300 3>&- &
	PIDS+=($!)
	eventually 20 test -e "/run/bluebridge/$RACK/command"
	command=$(cut -d' ' -f1 "/run/bluebridge/$RACK/command")
	kill -s KILL "${PIDS[0]}"
	eventually 10 rack_is_gone "$RACK"
	eventually 5 is_gone "$command"
}

@test "a killed up leaves nothing" {
	local t

	for t in 0.1 0.2 0.3; do
		new_rack "k${t#0.}"
		"$BUILD/bbrack" --bin "$BIN" up 3 3>&- &
		PIDS+=($!)
		sleep "$t"
		kill -s KILL "$!" 2>/dev/null || :
		wait "$!" || :
		if [[ -e /run/bluebridge/$RACK/owner && $(<"/run/bluebridge/$RACK/owner") == none ]]; then
			bbrack down # it was quicker than we
		fi
		eventually 10 rack_is_gone "$RACK"
	done
}

@test "the owner's end takes the rack down" {
	new_rack
	sleep 300 3>&- &
	PIDS+=($!)
	bbrack --owner "${PIDS[0]}" up 1
	run bbrack status
	expect_status 0
	kill "${PIDS[0]}"
	eventually 10 rack_is_gone "$RACK"
}

@test "up replaces a dead rack, gc removes one" {
	rack_up 1
	kill -s KILL "$(cut -d' ' -f1 "/run/bluebridge/$RACK/guard")"
	echo "999999 1" >"/run/bluebridge/$RACK/owner"
	run bbrack --owner $$ up 2
	expect_status 0
	expect_output "left behind"
	kill -s KILL "$(cut -d' ' -f1 "/run/bluebridge/$RACK/guard")"
	echo "999999 1" >"/run/bluebridge/$RACK/owner"
	run bbrack gc
	expect_status 0
	rack_is_gone "$RACK"
}

@test "a bbd that fails: its words are shown, nothing stays" {
	new_rack
	run bbrack --bbd-args '--no-such-option' up 2
	expect_status 1
	expect_output "its bbd has ended"
	expect_output "no-such-option"
	rack_is_gone "$RACK"
}

@test "bad arguments are refused in one line" {
	local args

	for args in "up" "up 0" "up 999" "up x" "up 1 2" "--mtu 100 up 1" "--mtu 64000 up 1" "--name ../x up 1" \
		"--name= up 1" "--nonsense" "nonsense" "run" "run h1" "with 2" "--owner 999999 up 1" "--wait 0 up 1" "--mtu"; do
		# shellcheck disable=SC2086 # words
		run bbrack $args
		expect_status 1
		((${#lines[@]} == 1)) || fail "more than one line for: $args" "$output"
	done
	run bbrack run h1 -- true
	expect_status 1
	expect_output "no host h1"
}

@test "help names every verb and option" {
	local word

	run bbrack --help
	expect_status 0
	for word in up run with status list down gc --name --mtu --lend --tenant --bbd-args --foreground --owner --wait --bin --switch --host-programs; do
		expect_output "$word"
	done
}
