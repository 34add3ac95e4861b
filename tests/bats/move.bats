#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Extents move from h2 to h3 under the program on h1 that uses them: the address of a
# page whose host has changed is answered by the new one.
# shellcheck disable=SC2030,SC2031,SC2317 # a test is a function, its variables and functions stay there

load common

setup() { need_root; }

teardown() {
	end_programs
	remove_racks
}

say() { printf '# %s\n' "$*" >&3; }

ctl() { bbrack run "$1" -- "$BUILD/bbctl" "${@:2}"; }

# net HOST FILTER: a number of what bbctl says of its network.
net() { ctl "$1" -j net | jq "$2"; }

# rack_with_programs [OPTION...]: three hosts, bb_host at each, or the test is skipped.
rack_with_programs() {
	rack_up 3 "$@"
	[[ $(bbrack status -j | jq -r .host_programs) == true ]] || skip "$(bbrack status -j | jq -r .host_programs_why)"
}

# touching SECONDS [OPTION...]: on h1, its pages on h2, in the background.
touching() {
	bbrack run h1 -- timeout 200 env BB_LOCAL=16M BB_PLACE=2 LD_PRELOAD="$BUILD/libbb.so" \
		"$BUILD/apps/bbtouch" --size 48M --pattern rand --writes 50 --seconds "$@" >"$BATS_TEST_TMPDIR/touch" 2>&1 &
	TOUCH=$!
	PIDS+=($!)
	eventually 30 has_extents
}

# All of the program's pages have been out once.
has_extents() { (($(ctl h2 -j extent show | jq '.extents | length') >= 20)); }

verified() {
	wait "$TOUCH" || fail "$(<"$BATS_TEST_TMPDIR/touch")"
	grep -q 'every page verified' "$BATS_TEST_TMPDIR/touch" || fail "$(<"$BATS_TEST_TMPDIR/touch")"
}

# Those of h2 that are still there.
extents() { ctl h2 -j extent show | jq -r '.extents[] | select(.state == "here").extent'; }

# move_all [TRIES]: to h3, each as often as it takes.
move_all() {
	local e i

	MOVED=0
	# The program may still get some.
	while [[ $(extents) ]]; do
		for e in $(extents); do
			for ((i = 1; ; i++)); do
				run ctl h3 extent move "$e"
				((status)) || break
				# Somebody was faster: an earlier try, or the program, which has freed it.
				[[ $output != *'moved already'* && $output != *'no such extent'* ]] || break
				((i < ${1:-1})) || fail "$output"
				sleep 0.2
			done
			((++MOVED))
		done
		sleep 0.5
	done
}

# Of h2's device: those that there are, and how many the programs are told that there are.
overrides() {
	"$BUILD/bbload" show -j --netns "bb-$RACK-h2" | jq -r '[.. | objects | .overrides?] | "\(map(arrays | length) | add // 0) \(map(numbers) | add // 0)"'
}

no_overrides() { [[ $(overrides) == "0 0" ]]; }

nothing_left() {
	[[ $(ctl h2 -j extent show) == '{"extents":[],"adopted":[]}' && $(ctl h3 -j extent show) == '{"extents":[],"adopted":[]}' ]]
}

# Nothing of h2's comes to h3 by a route of bbd's.
no_route() { [[ $(nsenter --net="/run/netns/bb-$RACK-h3" ip -6 route show table 178 2>&1) != *fdbb:0:2:* ]]; }

@test "extents move under load, one by one: every byte right, the new host answers from the old addresses" {
	local served adopted reads

	rack_with_programs
	touching 15
	move_all
	((MOVED >= 20))
	expect_equal "$(ctl h3 -j extent show | jq '.adopted | length')" "$MOVED"
	expect_equal "$(ctl h2 -j extent show | jq '[.extents[] | select(.state == "moved" and .to == 3)] | length')" "$MOVED"
	expect_equal "$(overrides)" "$MOVED $MOVED"
	# Nothing of it is h2's any more; h3 answers WRITEs in bbd and READs in the kernel.
	sleep 1
	reads=$(net h2 '.kernel.served + .server.commands.read + .server.commands.read_run + .server.commands.write')
	served=$(net h3 .kernel.served)
	adopted=$(net h3 .server.adopted)
	sleep 2
	expect_equal "$(net h2 '.kernel.served + .server.commands.read + .server.commands.read_run + .server.commands.write')" "$reads"
	(($(net h3 .kernel.served) > served + 100)) || fail "h3 has answered $(net h3 .kernel.served) READs, $served before"
	(($(net h3 .server.adopted) > adopted + 100)) || fail "h3 has answered $(net h3 .server.adopted) WRITEs, $adopted before"
	nsenter --net="/run/netns/bb-$RACK-h3" timeout -s INT 2 tcpdump -lnQ out -c 20 -i eth0 'src net fdbb:0:2::/48' \
		>"$BATS_TEST_TMPDIR/dump" 2>/dev/null || :
	grep -q 'fdbb:0:2:' "$BATS_TEST_TMPDIR/dump" || fail "h3 sends nothing from h2's addresses"
	verified
	say "$(<"$BATS_TEST_TMPDIR/touch")"
	# The program has ended: h3 has freed all of it, and h2 as well.
	eventually 10 nothing_left
	expect_equal "$(ctl h2 -j home show | jq .used)" 0
	expect_equal "$(ctl h3 -j home show | jq .used)" 0
	eventually 5 no_overrides
}

@test "the same with MTU 1500 and with loss, duplicates and delay" {
	export BB_TEST_NET=drop=3,dup=3,delay=3,seed=5
	rack_with_programs --mtu 1500
	touching 15
	move_all 20
	verified
	eventually 20 nothing_left
}

@test "the new host's bbd is killed while it holds moved extents, and the old one's" {
	local h

	rack_with_programs
	touching 20
	move_all
	for h in h3 h2 h3; do
		bbrack bbd $h kill
		sleep 0.3
		bbrack bbd $h start
		sleep 1
	done
	expect_equal "$(ctl h3 -j extent show | jq '[.adopted[] | select(.state == "serving")] | length')" "$MOVED"
	verified
	eventually 20 nothing_left
}

@test "bbd is killed at either end while extents move" {
	local killer

	# A page of an extent that moved needs both: on a busy machine they take their time to come back.
	rack_with_programs --bbd-args '--deadline 30000'
	touching 25
	(
		RANDOM=7
		for ((i = 0; i < 12; i++)); do
			sleep "0.$((RANDOM % 40 + 20))"
			h=h$((2 + RANDOM % 2))
			bbrack bbd $h kill
			bbrack bbd $h start
		done
	) >/dev/null 2>&1 &
	killer=$!
	PIDS+=("$killer")
	move_all 100
	wait "$killer" || :
	verified
	eventually 30 nothing_left
	expect_equal "$(ctl h2 -j home show | jq .used)" 0
	expect_equal "$(ctl h3 -j home show | jq .used)" 0
}

# The paper's migration: the new owner drops what is for another host's prefix.
@test "without the rule for adopted pages the new host does not answer; with it, it does" {
	local rule

	rack_with_programs --bbd-args '--deadline 1500'
	rule=(nsenter --net="/run/netns/bb-$RACK-h3" ip -6 rule)
	# bbload's alone, then bbd's alone, each is enough.
	touching 8
	move_all
	"${rule[@]}" del to fdbb:0:2::/48 iif eth0 lookup 178
	verified
	eventually 10 nothing_left
	# bbd takes its route back a little later; before that it would not set the rule again.
	eventually 10 no_route
	# And without programs at h3, so that READs come up as well.
	"$BUILD/bbload" detach --netns "bb-$RACK-h3" --dev eth0
	run "${rule[@]}" show
	expect_no_output "lookup 100"
	touching 8
	move_all
	verified
	(($(net h3 '.server.commands.read + .server.commands.read_run') > 100))
	eventually 10 nothing_left
	touching 40
	move_all
	"${rule[@]}" del to fdbb:0:2::/48 iif eth0 lookup 178
	! wait "$TOUCH" || fail "a program went on without its pages: $(<"$BATS_TEST_TMPDIR/touch")"
	run cat "/run/bluebridge/$RACK/h1/bbd.log"
	expect_output "host 2 did not answer in time"
	"${rule[@]}" add to fdbb:0:2::/48 iif eth0 lookup 178 pref 178
	touching 6
	move_all
	verified
}

@test "what cannot move says why" {
	local e

	rack_with_programs
	touching 12
	e=$(extents | head -n 1)
	run ctl h3 extent move nonsense
	expect_status 1
	expect_output "NODE:POINTER"
	run ctl h3 extent move
	expect_status 2
	run ctl h2 extent move "$e"
	expect_status 1
	expect_output "home is this host"
	run ctl h3 extent move "77:0001000000000000"
	expect_status 1
	expect_output "does not answer"
	run ctl h3 extent move "2:0000000000200000"
	expect_status 1
	expect_output "no such extent"
	run ctl h1 extent move "$e"
	expect_status 1
	expect_output "ours"
	ctl h3 extent move "$e"
	run ctl h3 extent move "$e"
	expect_status 1
	expect_output "moved already"
	"$BUILD/bbload" detach --netns "bb-$RACK-h2" --dev eth0
	sleep 1
	run ctl h3 extent move "$(extents | head -n 1)"
	expect_status 1
	expect_output "bbload attach host"
	"$BUILD/bbload" attach host --netns "bb-$RACK-h2" --dev eth0
	verified
	"$BUILD/bbload" detach --netns "bb-$RACK-h2" --dev eth0
}
