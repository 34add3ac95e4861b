#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Neighbour discovery for a host's memory, answered by XDP: what real clients
# make of it, and what must be left to the stack.
# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

# A has the programs and the memory fdbb:0:7::/48, B sees that on its link.
setup() {
	need_root
	A=bbn-$$-$BATS_TEST_NUMBER-a B=bbn-$$-$BATS_TEST_NUMBER-b
	ip netns add "$A"
	ip netns add "$B"
	# Only addresses that a test gives are looked for by duplicate address detection.
	for ns in "$A" "$B"; do
		# shellcheck disable=SC2016 # for the inner shell
		in_ns "$ns" sh -c 'for c in all default; do echo 0 >/proc/sys/net/ipv6/conf/$c/accept_dad; done'
	done
	ip -n "$A" link add eth0 mtu 9000 type veth peer name eth0 mtu 9000 netns "$B"
	for ns in "$A" "$B"; do
		ip -n "$ns" link set lo up
		ip -n "$ns" link set eth0 up
	done
	ip -n "$A" addr add fd00:77::a/64 dev eth0 nodad
	ip -n "$B" addr add fd00:77::b/64 dev eth0 nodad
	ip -n "$A" -6 route add local fdbb:0:7::/48 dev lo
	ip -n "$B" -6 route add fdbb::/16 dev eth0
	MAC=$(ip -n "$A" -j link show eth0 | jq -r '.[0].address')
	head -c 32 /dev/urandom >"$BATS_TEST_TMPDIR/key"
	chmod 600 "$BATS_TEST_TMPDIR/key"
}

teardown() {
	end_programs
	[[ ! -e /run/netns/$A ]] || "$BUILD/bbload" detach --all --netns "$A" >/dev/null || :
	ip netns del "$A" 2>/dev/null || :
	ip netns del "$B" 2>/dev/null || :
}

in_ns() { nsenter --net="/run/netns/$1" "${@:2}"; }

# answer [OPTION...]: the programs, and who the host is.
answer() {
	"$BUILD/bbload" attach host --dev eth0 --netns "$A" "$@"
	"$BUILD/bbload" update host --node 7 --key "$BATS_TEST_TMPDIR/key" --netns "$A"
}

answered() { "$BUILD/bbload" -j show --netns "$A" | jq '.attached[0].counters.ndp'; }

# Received by A's stack: packets.
received() { in_ns "$A" sh -c 'cat /proc/thread-self/net/snmp6' | awk '$1 == "Ip6InReceives" { print $2 }'; }

# solicit NAME...: sends from B a solicitation that is wrong in so far; prints for each how many answers came.
solicit() {
	cat >"$BATS_TEST_TMPDIR/solicit.py" <<-'END'
		import os, random, select, socket, struct, sys, time
		s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86dd))
		s.bind(("eth0", 0))
		me = s.getsockname()[4]
		pton = lambda a: socket.inet_pton(socket.AF_INET6, a)
		def checksum(src, dst, b):
		    t = src + dst + struct.pack("!II", len(b), 58) + b + b"\0" * (len(b) & 1)
		    n = sum(struct.unpack(f"!{len(t) // 2}H", t))
		    while n >> 16:
		        n = (n & 0xffff) + (n >> 16)
		    return ~n & 0xffff
		def frame(what, target):
		    src, hops, code, option, kind = pton("fe80::77"), 255, 0, b"\1\1" + me, 135
		    group = pton("ff02::1:ff00:0")[:13] + target[13:]
		    if what == "dad":
		        src, option = bytes(16), b""
		    if what == "hops":
		        hops = 64
		    if what == "code":
		        code = 1
		    if what == "option0":
		        option = b"\1\0" + me
		    if what == "optionlong":
		        option = b"\1\2" + me
		    if what == "unspecified":
		        src = bytes(16)
		    if what == "dadunicast":
		        src, option, group = bytes(16), b"", target
		    if what == "multicast":
		        target = pton("ff02::1:ff00:1")
		    if what == "advertisement":
		        kind = 136
		    b = struct.pack("!BBHI", kind, code, 0, 0) + target + option
		    if what == "short":
		        b = b[:20]
		    sum = checksum(src, group, b)
		    if what == "checksum":
		        sum ^= 0x0101
		    b = b[:2] + struct.pack("!H", sum) + b[4:]
		    length = len(b) + (8 if what == "length" else 0)
		    dst = b"\x33\x33" + group[12:]
		    return dst + me + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, length, 58, hops) + src + group + b
		def answers(target, wait):
		    n, end = 0, time.monotonic() + wait
		    while True:
		        left = end - time.monotonic()
		        if left <= 0 or not select.select([s], [], [], left)[0]:
		            return n
		        b = s.recv(2000)
		        if b[6:12] != me and b[20] == 58 and b[54] == 136 and b[62:78] == target:
		            n += 1
		            if n and wait > 1:
		                return n
		random.seed(7)
		for what in sys.argv[1:]:
		    prefix = pton("fdbb:0:8::" if what == "other" else "fdbb:1:7::" if what == "tenant" else "fdbb:0:7::")[:6]
		    target = prefix + random.randbytes(10)
		    s.send(frame(what, target))
		    print(what, answers(target, 5 if what in ("good", "dad") else 0.3), flush=True)
	END
	in_ns "$B" timeout 100 python3 "$BATS_TEST_TMPDIR/solicit.py" "$@"
}

# capture_start: what B's end sees, until checksums_good.
capture_start() {
	rm -f "$BATS_TEST_TMPDIR/pcap"
	nsenter --net="/run/netns/$B" tshark -q -i eth0 -w "$BATS_TEST_TMPDIR/pcap" >"$BATS_TEST_TMPDIR/tshark" 2>&1 3>&- &
	CAPTURE=$!
	PIDS+=("$CAPTURE")
	eventually 20 test -s "$BATS_TEST_TMPDIR/pcap"
}

checksums_good() {
	local bad all

	sleep 1
	kill -s TERM "$CAPTURE"
	eventually 10 is_gone "$CAPTURE"
	all=$(tshark -r "$BATS_TEST_TMPDIR/pcap" -Y 'icmpv6.type == 136' 2>/dev/null | wc -l)
	bad=$(tshark -r "$BATS_TEST_TMPDIR/pcap" -Y 'icmpv6.type == 136 && (!(icmpv6.checksum.status == 1) || _ws.malformed)' 2>/dev/null)
	((all >= $1)) || fail "only $all advertisements in the capture"
	[[ ! $bad ]] || fail "bad ones:" "$bad"
}

@test "ping reaches any address of the host's memory, without it none" {
	local mode a

	run in_ns "$B" ping -c 1 -W 1 fdbb:0:7::1
	expect_status 1
	for mode in native generic; do
		ip -n "$B" neigh flush dev eth0
		answer --mode "$mode"
		capture_start
		for a in fdbb:0:7:: fdbb:0:7::1 fdbb:0:7:400:1234:0:20:5000 fdbb:0:7:ffff:ffff:ffff:ffff:ffff; do
			run in_ns "$B" ping -c 2 -i 0.1 -W 2 "$a"
			expect_status 0
			ip -n "$B" neigh show "$a" | grep -q "lladdr $MAC" || fail "$mode: no neighbour $a: $(ip -n "$B" neigh)"
		done
		run in_ns "$B" ping -c 1 -i 0.1 -W 2 -s 8000 fdbb:0:7::1
		expect_status 0
		for a in fdbb:0:8::1 fdbb:1:7::1 fdbb:0:6:ffff::1 fdbc:0:7::1; do
			run in_ns "$B" ping -c 1 -W 1 "$a"
			((status)) || fail "$mode: $a answers"
		done
		(($(answered) >= 4)) || fail "answered $(answered)"
		checksums_good 4
		"$BUILD/bbload" detach --dev eth0 --netns "$A"
	done
}

@test "ndisc6 agrees" {
	answer
	capture_start
	run in_ns "$B" ndisc6 -1 -r 2 fdbb:0:7:4::5000 eth0
	expect_status 0
	expect_output "${MAC^^}"
	run in_ns "$B" ndisc6 -1 -r 1 -w 500 fdbb:0:8:4::5000 eth0
	((status)) || fail "it answers for another host: $output"
	checksums_good 1
}

dad_is() { ip -n "$B" addr show dev eth0 | grep -F "$1/" | grep -q "$2"; }

@test "duplicate address detection from another host finds the address taken" {
	answer
	capture_start
	in_ns "$B" sh -c 'echo 1 >/proc/sys/net/ipv6/conf/all/accept_dad; echo 1 >/proc/sys/net/ipv6/conf/eth0/accept_dad'
	ip -n "$B" addr add fdbb:0:7::99/128 dev eth0
	ip -n "$B" addr add fdbb:0:8::99/128 dev eth0
	eventually 10 dad_is fdbb:0:7::99 dadfailed
	sleep 2
	! dad_is fdbb:0:8::99 "dadfailed\|tentative" || fail "another host's address was not free"
	checksums_good 1
}

@test "hundreds of addresses, each answered once; other hosts' and tenants' never" {
	local list before

	answer
	before=$(answered)
	mapfile -t list < <(for ((i = 0; i < 300; i++)); do echo good; done)
	run solicit "${list[@]}"
	expect_equal "$(grep -c '^good 1$' <<<"$output")" 300
	expect_equal "$(answered)" $((before + 300))
	run solicit dad other tenant
	expect_equal "$output" $'dad 1\nother 0\ntenant 0'
	expect_equal "$(answered)" $((before + 301))
	expect_equal "$(ip -n "$B" neigh show nud permanent)" ""
}

@test "malformed solicitations go to the stack, and are not answered" {
	local what n answered

	answer
	for what in hops checksum unspecified code option0 dadunicast multicast advertisement short length; do
		n=$(received) answered=$(answered)
		run solicit "$what"
		expect_equal "$output" "$what 0"
		expect_equal "$(answered)" "$answered" "$what"
		(($(received) > n)) || fail "$what: the stack has not seen it"
	done
	run solicit good
	expect_equal "$output" "good 1"
}

@test "a host that is not known yet answers nothing; a device's new address is told by update" {
	"$BUILD/bbload" attach host --dev eth0 --netns "$A"
	run solicit other
	expect_equal "$(answered)" 0
	answer
	ip -n "$A" link set eth0 address 02:00:00:00:ab:cd
	run "$BUILD/bbload" update --netns "$A"
	expect_status 0
	run in_ns "$B" ndisc6 -1 -r 2 fdbb:0:7:4::5000 eth0
	expect_status 0
	expect_output "02:00:00:00:AB:CD"
}
