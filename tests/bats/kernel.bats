#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# READs answered in the kernel, out of the memory that bbd lends: under load,
# while bbd is away, while programs are attached and detached.
# shellcheck disable=SC2030,SC2031,SC2317 # a test is a function, its variables and functions stay there

load common

setup() {
	need_root
	[[ -x $BUILD/bbload ]] || skip "there is no bbload"
}

teardown() {
	end_programs
	detach_all
	remove_racks
}

ATTACHED=()

attach() {
	local h

	for h; do
		"$BUILD/bbload" attach host --netns "bb-$RACK-$h" --dev eth0 || return
		ATTACHED+=("$h")
	done
}

detach() {
	local h

	for h; do "$BUILD/bbload" detach --netns "bb-$RACK-$h" --dev eth0 || return; done
}

detach_all() {
	local h

	for h in "${ATTACHED[@]}"; do
		"$BUILD/bbload" detach --netns "bb-$RACK-$h" --dev eth0 >/dev/null 2>&1 || :
	done
	ATTACHED=()
}

# net HOST FILTER: of what bbctl says of its network.
net() { bbrack run "$1" -- "$BUILD/bbctl" -j net | jq -e "$2"; }

state_is() { net "$1" ".kernel.state == \"$2\"" >/dev/null; }

# on h1, with 16 MiB of local memory, the rest on h2
paged() {
	bbrack run h1 -- timeout 150 env BB_LOCAL=16M BB_PLACE=2 LD_PRELOAD="$BUILD/libbb.so" "$BUILD/apps/bbtouch" --pattern rand \
		--writes 50 "$@"
}

# touching SECONDS [OPTION...]: paged, in the background, to $BATS_TEST_TMPDIR/touch.
touching() {
	paged --size 96M --seconds "$@" >"$BATS_TEST_TMPDIR/touch" 2>&1 &
	PIDS+=($!)
}

touched_right() {
	wait "${PIDS[0]}" || fail "$(<"$BATS_TEST_TMPDIR/touch")" "$(tail -n 20 "/run/bluebridge/$RACK/h1/bbd.log")"
	grep -q "every page verified" "$BATS_TEST_TMPDIR/touch"
}

kernel_reads() { bbrack run h2 -- "$BUILD/bbctl" -j home | jq .kernel_reads; }

more_than() { (($(kernel_reads) > $1)); }

@test "a program's pages come out of the kernel, beside writes" {
	local before

	rack_up 2 --host-programs off
	attach h2
	eventually 5 state_is h2 serves
	before=$(net h2 '.server.commands.read // 0') || :
	run paged --size 96M --seconds 4
	expect_status 0
	expect_output "every page verified"
	run bbrack run h2 -- "$BUILD/bbctl" -j net
	echo "# in the kernel $(jq -c '[.kernel.served, .kernel.torn, .kernel.up]' <<<"$output") bbd $(jq -c .server.commands <<<"$output")" >&3
	expect_json '.kernel.served > 1000 and .server.commands.write > 1000'
	expect_json ".kernel.served > 20 * ((.server.commands.read // 0) - ${before:-0})"
	run bbrack run h2 -- "$BUILD/bbctl" home
	expect_output "in the kernel"
	run bbrack run h2 -- "$BUILD/bbctl" -j doctor
	expect_json '.checks[] | select(.name == "kernel reads") | .state == "ok" and (.what | test("in the kernel"))'
	run bbrack run h2 -- "$BUILD/bbctl" metrics
	expect_output 'bluebridge_kernel_serves 1'
	# Nothing of it is lent any more, and the next one finds zeros.
	run paged --size 64M --seconds 1
	expect_status 0
}

@test "MTU 1500: four packets a page" {
	rack_up 2 --mtu 1500 --host-programs off
	attach h2
	eventually 5 state_is h2 serves
	run paged --size 64M --seconds 3
	expect_status 0
	expect_output "every page verified"
	run net h2 '.kernel.served > 1000 and .kernel.segments > 3 * .kernel.served'
	expect_status 0
}

@test "--kernel off: bbd serves, and says why" {
	rack_up 2 --host-programs off --bbd-args "--kernel off"
	attach h2
	run paged --size 48M --seconds 1
	expect_status 0
	run net h2 '.kernel.state == "off" and .kernel.why == "--kernel off" and .server.commands.read > 100'
	expect_status 0
	run bbrack run h2 -- "$BUILD/bbctl" -j doctor
	expect_json '.checks[] | select(.name == "kernel reads") | .what | test("--kernel off")'
}

@test "bbd of the memory host is killed: READs go on, without it" {
	local at

	rack_up 2 --host-programs off
	attach h2
	eventually 5 state_is h2 serves
	# Only reads, of what was written before.
	bbrack run h1 -- timeout 150 env BB_LOCAL=16M BB_PLACE=2 LD_PRELOAD="$BUILD/libbb.so" "$BUILD/apps/bbtouch" --pattern rand \
		--writes 0 --size 64M --seconds 12 >"$BATS_TEST_TMPDIR/touch" 2>&1 &
	PIDS+=($!)
	# What is dirty has to be written back before it is read again.
	eventually 20 more_than 20000
	bbrack bbd h2 kill
	served() { "$BUILD/bbload" show -j --netns "bb-$RACK-h2" --dev eth0 | jq '[.. | .served? // empty] | add'; }
	at=$(served)
	sleep 1
	echo "# $(($(served) - at)) READs a second without bbd" >&3
	(($(served) > at + 1000)) || fail "it was $at, now $(served)"
	bbrack bbd h2 start
	eventually 10 state_is h2 serves
	touched_right
}

@test "SIGKILL again and again under reads and writes: nothing lost, nothing torn" {
	rack_up 2 --host-programs off
	attach h2
	eventually 5 state_is h2 serves
	touching 14 --threads 2
	eventually 20 more_than 1000
	for ((i = 0; i < 10; i++)); do
		sleep 0.5
		bbrack bbd h2 kill
		bbrack bbd h2 start
	done
	touched_right
	serves_slabs() { net h2 '.kernel.state == "serves" and .kernel.slabs > 0' >/dev/null; }
	eventually 10 serves_slabs
}

@test "upgraded, stopped and started" {
	local pid

	rack_up 2 --host-programs off
	attach h2
	eventually 5 state_is h2 serves
	touching 10
	eventually 20 more_than 1000
	pid=$(bbrack status -j | jq '.hosts[] | select(.host == "h2") | .pid')
	kill -USR2 "$pid"
	sleep 1
	grep -q "starting .* anew" "/run/bluebridge/$RACK/h2/bbd.log"
	eventually 10 state_is h2 serves
	is_gone "$pid" && fail "it is another process"
	bbrack bbd h2 restart
	eventually 10 state_is h2 serves
	touched_right
}

@test "attached and detached under load: bbd takes over, every byte right" {
	local at

	rack_up 2 --host-programs off
	touching 14 --threads 2
	some_reads() { net h2 '.server.commands.read > 1000' >/dev/null; }
	eventually 20 some_reads
	for ((i = 0; i < 4; i++)); do
		attach h2
		eventually 5 state_is h2 serves
		sleep 0.5
		detach h2
		eventually 5 state_is h2 off
		sleep 0.3
	done
	touched_right
	# What was lent while nothing was attached stays with bbd; what is lent from now on does not.
	attach h2
	eventually 5 state_is h2 serves
	run paged --size 160M --seconds 2
	expect_status 0
	more_than 100
}

@test "an orderly end takes the memory out of the kernel" {
	local pid

	rack_up 2 --host-programs off
	attach h2
	eventually 5 state_is h2 serves
	run paged --size 48M --seconds 1
	expect_status 0
	pid=$(bbrack status -j | jq '.hosts[] | select(.host == "h2") | .pid')
	kill -INT "$pid"
	eventually 10 is_gone "$pid"
	run "$BUILD/bbload" show -j --netns "bb-$RACK-h2" --dev eth0
	expect_status 0
	expect_json '[.. | objects | select(has("serves")) | .serves] == [false]'
}
