#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Bad links: loss, duplication, reordering, delay and damage; MTUs that change
# and large packets that vanish; links, routes, neighbours and addresses that go
# while a program runs. The program checks every byte of every page.

# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

setup() { need_root; }

teardown() {
	end_programs
	remove_racks
}

# ask HOSTS [TEXT]: each bbd's faults, after TEXT was set where given; see daemon/net/inject.h. JSON, a line each.
ask() {
	python3 - "/run/bluebridge/$RACK" "$@" <<-'END'
		import json, socket, sys
		bad = 0
		for host in sys.argv[2].split():
		    s = socket.socket(socket.AF_UNIX)
		    s.settimeout(10)
		    s.connect(f"{sys.argv[1]}/{host}/bbd.sock")
		    q = {"cmd": "net.faults"}
		    if len(sys.argv) > 3:
		        q["set"] = sys.argv[3]
		    s.sendall(json.dumps(q).encode() + b"\n")
		    a = json.loads(s.makefile().readline())
		    bad |= not a["ok"]
		    print(json.dumps(a["result"]) if a["ok"] else a["error"])
		sys.exit(bad)
	END
}

hosts() { local h; for h in "/run/bluebridge/$RACK"/h*/; do basename "$h"; done | paste -sd' '; }
all_faults() { ask "$(hosts)" "$1" >/dev/null; }

# injected WHAT: packets to which that happened, on all hosts. "all": to which anything did.
injected() { ask "$(hosts)" | jq -s "map(if \"$1\" == \"all\" then .done[] else .done.$1 end) | add"; }

# net HOST ARG...: ip(8) in its namespace; HOST sw is the switch, with the ports p1, p2.
net() { ip -n "bb-$RACK-$1" "${@:2}"; }

# touch_pages ARG...: on h1 with a budget of 16 MiB; its figures are the output.
touch_pages() {
	bbrack run h1 -- timeout 60 env BB_LOCAL="${LOCAL:-16M}" BB_STATS="$BATS_TEST_TMPDIR/stats" LD_PRELOAD="$BUILD/libbb.so" \
		"$BUILD/apps/bbtouch" --json --pattern rand --writes 30 "$@"
}

nothing_lost() {
	jq -e '.attached and .written_back > 100 and .fill_remote > 10 and .lost == 0' "$BATS_TEST_TMPDIR/stats" >/dev/null ||
		fail "not so much was paged:" "$(<"$BATS_TEST_TMPDIR/stats")"
}

# In the background, until load_end: a program that touches pages for so many seconds.
load_start() {
	touch_pages --size 48M --seconds "$1" >"$BATS_TEST_TMPDIR/load" 2>"$BATS_TEST_TMPDIR/load.err" &
	LOAD=$!
	PIDS+=("$LOAD")
	eventually 10 grep -q attached "/run/bluebridge/$RACK/h1/bbd.log"
	sleep 1.5
}

# load_end MSEC: no access took longer than that, all bytes were right.
load_end() {
	local ms

	wait "$LOAD" || fail "the program failed:" "$(<"$BATS_TEST_TMPDIR/load")" "$(<"$BATS_TEST_TMPDIR/load.err")"
	PIDS=()
	nothing_lost
	ms=$(jq '.max_ns / 1000000 | floor' "$BATS_TEST_TMPDIR/load")
	echo "# longest access $ms ms${2:+ ($2)}" >&3
	((ms < $1)) || fail "an access took $ms ms"
}

@test "faults are injected only where bbd was started for it" {
	rack_up 1
	run ask h1
	expect_status 1
	expect_output "there is no such command"
	bbrack down
	export BB_TEST_NET=off
	rack_up 1
	run ask h1 drop=5x
	expect_status 1
	expect_output "not understood"
	run ask h1 "drop=5,over=1500;dup=1,node=2"
	expect_status 0
	run ask h1
	expect_json '.faults == "drop=5,over=1500;dup=1,node=2" and .done.drop == 0'
}

# slow_down FAULTS...: of the same work, without and with each.
slow_down() {
	local f n plain=0 ops=2500

	run touch_pages --size 48M --ops "$ops"
	expect_status 0
	plain=$(jq .seconds <<<"$output")
	for f; do
		all_faults "$f"
		run touch_pages --size 48M --ops "$ops"
		expect_status 0
		nothing_lost
		n=$(injected all)
		((n > 50)) || fail "$f: only $n faults"
		echo "# slow-down $(jq -r "\"\(.seconds / $plain * 10 | round / 10) times, p50 \(.p50_ns / 1000 | round) µs, p99 \(.p99_ns / 1000 | round) µs\"" \
			<<<"$output") with $f" >&3
		# Whatever else runs on this machine: a bound that only a stall would reach.
		jq -e ".seconds < $plain * 200 + 20" <<<"$output" >/dev/null || fail "$f: $output instead of $plain s"
	done
	all_faults off
}

@test "5 % lost, doubled, late and out of order on every link, MTU 9000: the same bytes" {
	export BB_TEST_NET=off
	rack_up 2
	slow_down "drop=1" "drop=5,dup=5,reorder=5,delay=5" "drop=5,again=5,delay=5,ms=30" "drop=2,corrupt=2"
	# Damaged packets were refused by their tag, or found by the hash of the page.
	run bbrack run h2 -- "$BUILD/bbctl" -j net show
	expect_json '.server.bad_tag > 0'
}

@test "the same at MTU 1500" {
	export BB_TEST_NET=off
	rack_up 2 --mtu 1500
	slow_down "drop=5,dup=5,reorder=5,delay=5,corrupt=1"
}

@test "the MTU changes while a program runs, on one side, on both, and in between" {
	local m n

	export BB_TEST_NET=off
	rack_up 2
	load_start 8
	for m in 1500 1280 9000; do
		net h2 link set eth0 mtu "$m"
		sleep 0.6
	done
	for m in 1500 1280 9000; do
		net h1 link set eth0 mtu "$m"
		net h2 link set eth0 mtu "$m"
		sleep 0.6
	done
	# The ends know nothing of it: large packets vanish.
	for m in 1500 1280 9000; do
		net sw link set p1 mtu "$m"
		sleep 0.6
	done
	load_end 3000 "MTUs"
	# They see so within seconds.
	wide() { bbrack run h1 -- "$BUILD/bbctl" -j node show | jq -e '.nodes[] | select(.node == 2) | .mtu == 9000' >/dev/null; }
	eventually 4 wide
	sleep 2
	# The same, injected: at first a window of large packets is lost, then one is tried now and then.
	for n in 1500 100; do
		all_faults "drop=100,over=1500"
		run touch_pages --size 32M --ops 2000
		expect_status 0
		nothing_lost
		m=$(injected drop)
		((m > 0 && m < n)) || fail "$m large packets were lost"
	done
}

@test "links, routes, neighbours and addresses go while a program runs" {
	local h

	rack_up 3
	load_start 14
	net h1 link set eth0 down
	sleep 0.7
	net h1 link set eth0 up
	sleep 1.5
	net h2 link set eth0 down
	sleep 0.7
	net h2 link set eth0 up
	sleep 1.5
	net sw link set p2 down
	sleep 0.7
	net sw link set p2 up
	sleep 1.5
	net h1 neigh flush dev eth0
	net h1 -6 neigh del fe80::bb:ff:fe00:2 dev eth0 || :
	net h2 -6 neigh del fe80::bb:ff:fe00:1 dev eth0 || :
	net h1 -6 route del fdbb:0:2::/48
	net h2 -6 route del fdbb:0:1::/48
	net h2 -6 route del local fdbb:0:2::/48 dev lo table local
	sleep 1.5
	net h2 addr flush dev eth0
	net h2 addr add fe80::99/64 dev eth0 nodad
	sleep 1
	net h2 link set eth0 address 02:bb:00:00:00:77
	load_end 4500 "links"
	# All is as before, and was said once.
	for h in h1 h2; do
		run grep -c "of our routes were gone" "/run/bluebridge/$RACK/$h/bbd.log"
		expect_equal "$output" 1 "$h"
	done
	permanent() { net h1 -6 neigh show | grep -q "^fe80::99 .*02:bb:00:00:00:77 PERMANENT"; }
	eventually 15 permanent
	run net h1 -6 route show proto 178
	expect_output "fdbb:0:2::/48 via fe80::99"
	expect_output "fdbb:0:3::/48"
}

@test "cut off for longer than the deadline: SIGBUS then, not before; the rest is good" {
	local t

	export BB_TEST_NET=off
	rack_up 2 --bbd-args '--deadline 1500'
	lost_fills
	ask h1 "drop=100,node=2" >/dev/null
	t=${EPOCHREALTIME//[!0-9]/}
	lost_reads
	eventually 20 grep -q "pages are lost" "/run/bluebridge/$RACK/h1/bbd.log"
	t=$(((${EPOCHREALTIME//[!0-9]/} - t) / 1000))
	((t >= 1500)) || fail "lost after $t ms"
	lost_ends
	# The link is back: so is the memory of that host.
	ask h1 off >/dev/null
	seen() { bbrack run h1 -- "$BUILD/bbctl" -j node show | jq -e '.nodes[] | select(.node == 2) | .alive' >/dev/null; }
	eventually 5 seen
	run touch_pages --size 32M --ops 1000
	expect_status 0
	nothing_lost
}

# small_life: a whole program's life in some hundred packets.
small_life() {
	LOCAL=8M run touch_pages --size 10M --ops 60
	expect_status 0
	jq -e '.lost == 0 and .attached' "$BATS_TEST_TMPDIR/stats" >/dev/null || fail "$(<"$BATS_TEST_TMPDIR/stats")"
}

@test "the N-th packet is lost, damaged, or comes again: N = 2, 4, 8 ..., and the first of each command" {
	local what cmd dir n did runs=0

	export BB_TEST_NET=off
	rack_up 2
	for what in drop=100 corrupt=100; do
		for cmd in CREATE READ READ_RUN WRITE DELETE; do
			for dir in request reply; do
				all_faults "$what,cmd=$cmd,dir=$dir,nth=1"
				small_life
				runs=$((runs + 1))
			done
		done
	done
	for what in drop=100 again=100,ms=100; do
		for ((n = 2, did = 1; did; n *= 2)); do
			all_faults "$what,nth=$n"
			small_life
			did=$(injected all)
			runs=$((runs + 1))
			((n < 100000)) || fail "it does not end"
		done
	done
	echo "# $runs lives" >&3
}
