#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Answers by AF_XDP: a program's pages come that way, over a network that loses
# and repeats, and by UDP wherever it is not there.
# shellcheck disable=SC2030,SC2031,SC2317 # a test is a function, its variables and functions stay there

load common

setup() {
	need_root
	[[ -x $BUILD/bbload ]] || skip "there is no bbload"
}

teardown() {
	end_programs
	[[ ! $ATTACHED ]] || "$BUILD/bbload" detach --netns "bb-$RACK-h1" --dev eth0 >/dev/null 2>&1 || :
	remove_racks
}

ATTACHED=''

bbload_h1() { "$BUILD/bbload" "$1" ${2:+"$2"} --netns "bb-$RACK-h1" --dev eth0; }

# a rack whose hosts have no programs, but h1 those of KIND
rack_with() {
	rack_up 2 --host-programs off "${@:2}"
	bbload_h1 attach "$1"
	ATTACHED=1
	sleep 1
}

paged() {
	bbrack run h1 -- timeout 150 env BB_LOCAL=16M BB_PLACE=2 LD_PRELOAD="$BUILD/libbb.so" "$BUILD/apps/bbtouch" --pattern rand \
		--writes 50 "$@"
}

touching() {
	paged --size 96M --seconds "$@" >"$BATS_TEST_TMPDIR/touch" 2>&1 &
	PIDS+=($!)
}

touched_right() {
	wait "${PIDS[0]}" || fail "$(<"$BATS_TEST_TMPDIR/touch")" "$(tail -n 20 "/run/bluebridge/$RACK/h1/bbd.log")"
	grep -q "every page verified" "$BATS_TEST_TMPDIR/touch"
}

# pager FILTER: of h1's first pager's network counters
pager() { bbrack run h1 -- "$BUILD/bbctl" -j net | jq "$1" --argjson was "${WAS:-0}"; }

rx() { pager '.pagers[0].rx_xdp'; }

more_than() { (($(rx) > $1)); }

stands() {
	local at

	at=$(rx)
	sleep 0.5
	(($(rx) == at))
}

by_xdp() {
	local n

	n=$(pager '.pagers[0] | [.tx_xdp, .tx_packets, .rx_xdp, .rx_packets, .resent]' | tr -d '\n ')
	echo "# sent by AF_XDP, sent, came by AF_XDP, came, sent again: $n" >&3
	run pager '.pagers[0] | .rx_xdp > 1000 and .rx_xdp * 2 > .rx_packets and .tx_xdp > 0.7 * .tx_packets'
	expect_output true
}

@test "a program's pages, every byte" {
	rack_with host
	run paged --size 96M --seconds 3
	expect_status 0
	expect_output "every page verified"
	by_xdp
	run bbrack run h1 -- "$BUILD/bbctl" metrics
	expect_output 'client_rx_xdp'
}

@test "a host that only asks: attach client" {
	rack_with client
	run "$BUILD/bbload" show --netns "bb-$RACK-h1" --dev eth0
	expect_output "client"
	expect_no_output "bb_read"
	run paged --size 96M --seconds 3
	expect_status 0
	by_xdp
}

@test "MTU 1500: four packets a page" {
	rack_with host --mtu 1500
	run paged --size 64M --seconds 3
	expect_status 0
	expect_output "every page verified"
	by_xdp
}

@test "packets are lost, come twice, late and damaged" {
	export BB_TEST_NET="drop=3,dup=5,delay=5,reorder=3,corrupt=2,seed=11"
	rack_with host
	run paged --size 64M --seconds 6
	expect_status 0
	expect_output "every page verified"
	unset BB_TEST_NET
	run pager '.pagers[0] | .rx_xdp > 500 and .resent > 20'
	expect_output true
}

@test "--xdp off" {
	rack_with host --bbd-args "--xdp off"
	run paged --size 48M --seconds 1
	expect_status 0
	run pager '.pagers[0] | .rx_xdp + .tx_xdp == 0 and .rx_packets > 1000'
	expect_output true
}

@test "programs go and come, bbd is upgraded and killed: by UDP meanwhile" {
	local at

	rack_with host
	touching 24
	eventually 20 more_than 1000
	bbload_h1 detach
	eventually 5 stands
	bbload_h1 attach host
	at=$(rx)
	eventually 10 more_than $((at + 1000))
	# The counters begin anew.
	kill -USR2 "$(bbrack status -j | jq '.hosts[] | select(.host == "h1") | .pid')"
	sleep 1
	grep -q "starting .* anew" "/run/bluebridge/$RACK/h1/bbd.log"
	eventually 10 more_than 1000
	bbrack bbd h1 kill
	bbrack bbd h1 start
	eventually 10 more_than 1000
	touched_right
}

@test "the link changes under it: MTU, down and up, another address" {
	local at

	rack_with host
	touching 20
	eventually 20 more_than 1000
	ip -n "bb-$RACK-h1" link set eth0 mtu 1500
	sleep 1
	at=$(rx)
	eventually 10 more_than $((at + 1000))
	ip -n "bb-$RACK-h1" link set eth0 mtu 9000
	ip -n "bb-$RACK-h1" link set eth0 address 02:bb:00:00:00:77
	"$BUILD/bbload" update --netns "bb-$RACK-h1" --dev eth0
	sleep 2
	at=$(rx)
	eventually 15 more_than $((at + 1000))
	touched_right
}
