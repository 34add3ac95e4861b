#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# The rack switch: bb_switch at the bridge's ports, on a real load.
# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

setup() { need_root; }

teardown() {
	end_programs
	remove_racks
}

say() { printf '# %s\n' "$*" >&3; }

sw_bbload() { "$BUILD/bbload" --netns "bb-$RACK-sw" "$@"; }

# counter NAME: of the switch; 0 where it has not counted.
counter() { sw_bbload show -j | jq --arg n "$1" '[.. | objects | .[$n]? | numbers] | max // 0'; }

# switch_up N [OPTION...]: with the switch program, or the test is skipped.
switch_up() {
	rack_up "$@"
	[[ $(bbrack status -j | jq -r .switch) == bpf ]] || skip "$(bbrack status -j | jq -r .switch_why)"
}

rounds() { bbrack run "h$1" -- timeout 100 "$BUILD/apps/bbrounds" "/run/bluebridge/$RACK/key" "$@"; }

@test "a load through the switch: bytes right, everything counted" {
	local k

	switch_up 3
	run rounds 1 3 60 any
	expect_status 0
	run bbrack run h2 -- timeout 100 env BB_LOCAL=16M LD_PRELOAD="$BUILD/libbb.so" \
		"$BUILD/apps/bbtouch" --size 48M --pattern rand --writes 30 --ops 3000 --json
	expect_status 0
	expect_json .verified
	for k in read write create alloc_write delete read_run; do
		(($(counter $k) >= 60)) || fail "the switch has counted $(counter $k) requests to $k"
	done
	expect_equal "$(counter placed)" 30
	for k in drop_hops drop_node drop_policy drop_malformed; do
		expect_equal "$(counter $k)" 0 "$k"
	done
	# One entry a host, and each has had its share.
	run sw_bbload show -j
	expect_json '[.. | objects | .nodes? | arrays] | first | length == 3'
	expect_json '[.. | objects | .nodes? | arrays] | first | all(.packets > 50 and .bytes > 5000)'
}

@test "CREATEs to any node go to all hosts but the asker's" {
	switch_up 4
	run rounds 1 4 60 any
	expect_status 0
	expect_json '.placed_on == 3'
	run rounds 3 4 20 any
	expect_status 0
}

@test "an override sends a page's READs to another host, and they come back when it goes" {
	switch_up 3
	# All READs of node 2's pages: host 3 gets them, and says that it has no such page.
	sw_bbload update override add 2:0/0 to 3 cmds read
	run rounds 1 3 1
	expect_status 1
	expect_output "READ of node 2: status 4"
	expect_equal "$(counter redirected)" 1
	sw_bbload update override del 2:0/0
	run rounds 1 3 2
	expect_status 0
	# A time of its own.
	sw_bbload update override add 2:0/0 to 3 cmds read for 1
	run rounds 1 3 1
	expect_status 1
	sleep 1.2
	run rounds 1 3 1
	expect_status 0
}

@test "policies by command: dropped, sent to a replica too" {
	switch_up 3
	sw_bbload update policy write copy node 3
	run rounds 1 3 20
	expect_status 0
	(($(counter copied) >= 10)) || fail "copied: $(counter copied)"
	# Host 3 refuses each: its answers must not reach the asker, for whom they would end the WRITE.
	(($(counter drop_answer) >= 10)) || fail "answers to copies: $(counter drop_answer)"
	sw_bbload update policy write forward
	sw_bbload update policy delete drop
	run rounds 1 3 1
	expect_status 1
	expect_output "DELETE of node 2: status 12"
	(($(counter drop_policy) >= 1)) || fail "dropped by policy: $(counter drop_policy)"
	sw_bbload update policy delete forward
	run rounds 1 3 2
	expect_status 0
}

@test "a program is replaced under traffic without a lost packet" {
	local ping

	switch_up 2
	bbrack run h1 -- ping -6 -q -i 0.002 -c 1000 fdbb:0:2::5 >"$BATS_TEST_TMPDIR/ping" 3>&- &
	ping=$!
	for _ in {1..8}; do
		sw_bbload attach switch --dev p1,p2
		sleep 0.1
	done
	wait "$ping"
	run cat "$BATS_TEST_TMPDIR/ping"
	expect_output " 0% packet loss"
	(($(counter none) >= 1000)) || fail "the switch has seen $(counter none) of them"
}

@test "a plain bridge works as well" {
	rack_up 3 --switch bridge --host-programs off
	run bbrack status -j
	expect_json '.switch == "bridge" and .host_programs == false'
	run rounds 1 3 40 any
	expect_status 0
	run bbrack status
	expect_output "plain bridge"
	run bbrack --switch tunnel up 1
	expect_status 1
	expect_output "auto, bpf, bridge or cable"
}

@test "nothing stays: pins, states, mounts" {
	local inode alone=''

	[[ -e /run/bluebridge/bpf ]] || alone=1
	switch_up 2
	inode=$(stat -L -c %i "/run/netns/bb-$RACK-sw")
	ls -d "/run/bluebridge/bpf/n$inode"*
	bbrack down
	run ls -d "/run/bluebridge/bpf/n$inode"* "/run/bluebridge/bpf.state/n$inode"*
	expect_no_output "/run/bluebridge/bpf/n$inode:p1"$'\n'
	[[ ! -e /run/bluebridge/bpf/n$inode && ! -e /run/bluebridge/bpf.state/n$inode:p1.json ]] || fail "$output"
	# A rack whose guard was killed too: gc finds it.
	new_rack killed
	bbrack --owner $$ up 2
	inode=$(stat -L -c %i "/run/netns/bb-$RACK-sw")
	kill -s KILL "$(cut -d' ' -f1 "/run/bluebridge/$RACK/guard")"
	echo "999999 1" >"/run/bluebridge/$RACK/owner"
	bbrack gc
	rack_is_gone "$RACK"
	[[ ! -e /run/bluebridge/bpf/n$inode ]] || fail "pins are left"
	[[ ! $alone ]] || ! mountpoint -q /run/bluebridge/bpf || say "another rack came up meanwhile"
}
