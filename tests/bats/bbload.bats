#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# bbload: what it attaches, what of that is left after detach, what it says.
# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

FS=/run/bluebridge/bpf

# Two hosts of this test's own, on one cable: eth0 at both ends.
setup() {
	need_root
	A=bbl-$$-$BATS_TEST_NUMBER-a B=bbl-$$-$BATS_TEST_NUMBER-b
	ip netns add "$A"
	ip netns add "$B"
	# No duplicate address detection: addresses do not come while a test looks.
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
	INO=$(stat -Lc %i "/run/netns/$A")
}

teardown() {
	end_programs
	for ns in "$A" "$B"; do
		[[ ! -e /run/netns/$ns ]] || "$BUILD/bbload" detach --all --netns "$ns" >/dev/null || :
		ip netns del "$ns" 2>/dev/null || :
	done
	"$BUILD/bbload" gc >/dev/null || :
}

bbload() { "$BUILD/bbload" "$@"; }
attach() { bbload attach host --dev eth0 --netns "$A" "$@"; }
detach() { bbload detach --dev eth0 --netns "$A"; }
in_ns() { nsenter --net="/run/netns/$1" "${@:2}"; }

# All of the host that attach could change, at both ends; and our pins.
snapshot() {
	local ns

	for ns in "$A" "$B"; do
		ip -n "$ns" -6 rule
		ip -n "$ns" -6 route show table all
		ip -n "$ns" neigh show nud permanent
		ip -n "$ns" link show
		tc -n "$ns" qdisc show
		in_ns "$ns" ethtool -k eth0
		in_ns "$ns" bpftool net show
	done
	find "$FS" "$FS.state" 2>/dev/null | grep -E "/n($INO|$(stat -Lc %i "/run/netns/$B"))" || :
}

# untouched BEFORE: all is as in that snapshot.
untouched() { diff <(printf '%s\n' "$1") <(printf '%s\n' "$(snapshot)") >&2 || fail "detach has left something"; }

# No other's programs: then the mount must go too.
nothing_mounted() { [[ $(find $FS -mindepth 1 -name 'n*' 2>/dev/null) ]] || ! grep -q " $FS " /proc/mounts; }

# --- attach, detach ---------------------------------------------------------------

@test "attach, show, detach: nothing is left" {
	local before args

	before=$(snapshot)
	for args in "--mode native" "--mode generic" "--mode auto" "--mode native --no-tcx" "--mode generic --no-tcx" \
		"--via fd00:77::b" "--via fd00:77::c --mac 02:00:00:00:00:0c"; do
		# shellcheck disable=SC2086 # words
		run attach $args
		expect_status 0
		run bbload -j show --netns "$A"
		expect_json '.attached[0] | .dev == "eth0" and .kind == "host" and .state == "ok" and ([.programs[].name] | sort) == ["bb_host", "bb_read"]'
		[[ $args != *--mode* || $args == *auto* ]] || expect_json ".attached[0].mode == \"$(cut -d' ' -f2 <<<"$args")\""
		[[ $args != *no-tcx* ]] || expect_json '[.attached[0].programs[].hook] | sort == ["clsact", "xdp"]'
		[[ $args != *via* ]] || ip -n "$A" neigh show nud permanent | grep -q "$(cut -d' ' -f2 <<<"$args") dev eth0" || fail "no neighbour"
		run in_ns "$A" ping -c 2 -i 0.1 -W 2 -s 8000 fd00:77::b
		expect_status 0
		run detach
		expect_status 0
		untouched "$before"
	done
	run detach
	expect_status 0
	expect_equal "$output" ""
	nothing_mounted || fail "still mounted"
}

@test "a switch: ports share maps, which go with the last" {
	local before

	before=$(snapshot)
	run bbload attach switch --dev lo,eth0 --netns "$A" --mode generic
	expect_status 0
	expect_equal "$(find "$FS" -name bb_ports | grep -c "/n$INO/maps/bb_ports")" 1
	run bbload -j show --netns "$A"
	expect_json '[.attached[] | .kind, .dev] == ["switch", "eth0", "switch", "lo"]'
	run bbload update node 7 --dev eth0 --mac 02:00:00:00:00:07 --netns "$A"
	expect_status 0
	run bbload -j show --netns "$A"
	expect_json '.attached[0].nodes == .attached[1].nodes and (.attached[0].nodes[0] | .node == 7 and .port == "eth0" and .mac == "02:00:00:00:00:07" and .packets == 0)'
	# The port's own address in the entry follows the device.
	ip -n "$A" link set eth0 address 02:00:00:00:aa:bb
	run bbload update --netns "$A"
	run bbload -j show --netns "$A"
	expect_json '.attached[0].nodes[0].port_mac == "02:00:00:00:aa:bb"'
	run bbload update node del 7 --netns "$A"
	expect_status 0
	run bbload update node del 7 --netns "$A"
	expect_status 1
	run bbload detach --dev lo --netns "$A"
	expect_status 0
	[[ -e $FS/n$INO/maps/bb_ports ]] || fail "the other port's maps are gone"
	run bbload attach host --dev eth0 --netns "$A"
	expect_status 1
	expect_output "is attached as switch"
	run detach
	ip -n "$A" link set eth0 address "$(sed -n 's/.*ether \([0-9a-f:]*\) .*/\1/p' <<<"$before" | head -n 1)"
	untouched "$before"
}

@test "a switch in native mode makes the cable fit, and undoes that" {
	local before

	before=$(snapshot)
	bbload attach switch --dev eth0 --netns "$A" --mode native
	in_ns "$B" ethtool -k eth0 | grep -q '^tx-checksumming: off' || fail "checksums are still left to the device"
	in_ns "$B" ethtool -k eth0 | grep -q '^generic-receive-offload: on' || fail "no GRO"
	bbload detach --dev eth0 --netns "$A"
	untouched "$before"
}

@test "two devices: what both need stays until the second goes" {
	local before

	before=$(snapshot)
	ip -n "$A" link add v0 type veth peer name v1
	ip -n "$A" link set v0 up
	attach
	bbload attach host --dev v0 --netns "$A"
	detach
	ip -n "$A" -6 route show table 100 | grep -q 'local fdbb::/16' || fail "the route is gone"
	ip -n "$A" -6 rule | grep -q 'iif v0 lookup 100' || fail "the rule is gone"
	run bbload detach --dev v0 --netns "$A"
	expect_status 0
	ip -n "$A" link del v0
	untouched "$before"
}

@test "what was so before stays so" {
	local before

	ip -n "$A" -6 route add local fdbb::/16 dev lo table 100
	ip -n "$A" -6 rule add iif eth0 lookup 100
	ip -n "$A" neigh add fd00:77::b lladdr 02:00:00:00:00:01 dev eth0 nud permanent
	in_ns "$A" ethtool -K eth0 tx off >/dev/null
	tc -n "$A" qdisc add dev eth0 clsact
	before=$(snapshot)
	attach --no-tcx --via fd00:77::b --mac 02:00:00:00:00:02
	ip -n "$A" neigh show nud permanent | grep -q 02:00:00:00:00:02 || fail "not set"
	detach
	untouched "$before"
}

@test "a clsact that others use by now stays" {
	attach --no-tcx
	printf '__attribute__((section("tc"), used)) int someone_else(void *c) { return -1; }\n' |
		clang -target bpf -O2 -g -c -x c - -o "$BATS_TEST_TMPDIR/x.o"
	in_ns "$A" tc filter add dev eth0 ingress prio 1 bpf da obj "$BATS_TEST_TMPDIR/x.o" sec tc
	detach
	tc -n "$A" filter show dev eth0 ingress | grep -q someone_else || fail "another's filter is gone"
}

# --- replaced under traffic ----------------------------------------------------------

# stream SECONDS: numbered datagrams from B to A; prints how many were lost.
stream() {
	cat >"$BATS_TEST_TMPDIR/stream.py" <<-'END'
		import socket, sys, time
		if sys.argv[1] == "send":
		    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
		    end = time.monotonic() + float(sys.argv[2])
		    n = 0
		    while time.monotonic() < end:
		        s.sendto(n.to_bytes(8, "big"), ("fd00:77::a", 9999))
		        n += 1
		        time.sleep(0.0002)
		    for _ in range(5):
		        s.sendto(b"end" + n.to_bytes(8, "big"), ("fd00:77::a", 9999))
		        time.sleep(0.05)
		else:
		    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
		    s.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
		    s.bind(("fd00:77::a", 9999))
		    s.settimeout(30)
		    got = set()
		    open(sys.argv[2], "w").write("ready")
		    while True:
		        b = s.recv(64)
		        if b[:3] == b"end":
		            sent = int.from_bytes(b[3:], "big")
		            print(sent, sent - len(got))
		            break
		        got.add(b)
	END
	in_ns "$A" python3 "$BATS_TEST_TMPDIR/stream.py" receive "$BATS_TEST_TMPDIR/ready" >"$BATS_TEST_TMPDIR/lost" 3>&- &
	RECEIVER=$!
	PIDS+=("$RECEIVER")
	eventually 10 test -s "$BATS_TEST_TMPDIR/ready"
	in_ns "$B" python3 "$BATS_TEST_TMPDIR/stream.py" send "$1" 3>&- &
	PIDS+=("$!")
}

@test "attached again and again under traffic: not a packet is lost, what is set stays" {
	local args n=0 sent lost id

	for args in "--mode native" "--mode generic" "--mode native --no-tcx"; do
		# shellcheck disable=SC2086
		attach $args
		bbload update policy 77 rate 5 --netns "$A"
		id=$(bbload -j show --netns "$A" | jq '[.attached[0].programs[].id]')
		rm -f "$BATS_TEST_TMPDIR/ready"
		stream 2
		n=0
		while ! is_gone "$RECEIVER"; do
			# shellcheck disable=SC2086
			run attach ${args#* * }
			expect_status 0
			expect_output replaced
			n=$((n + 1))
		done
		read -r sent lost <"$BATS_TEST_TMPDIR/lost"
		echo "# $args: replaced $n times, $sent packets, $lost lost" >&3
		((n >= 5 && sent > 500)) || fail "too few: $n, $sent"
		expect_equal "$lost" 0
		run bbload -j show --netns "$A"
		expect_json ".attached[0].policies == [{\"command\": \"77\", \"action\": \"rate\", \"rate\": 5}]"
		expect_json "[.attached[0].programs[].id] != $id"
		PIDS=()
		detach
	done
}

@test "a map of another definition is made anew, and that is said" {
	attach
	bbload update policy read drop --netns "$A"
	rm "$FS/n$INO:eth0/maps/bb_policy"
	bpftool map create "$FS/n$INO:eth0/maps/bb_policy" type array key 4 value 4 entries 3 name other
	run attach
	expect_status 0
	expect_output "bb_policy is defined anew"
	run bbload -j show --netns "$A"
	expect_json '.attached[0].policies == []'
}

@test "another mode on request" {
	attach --mode generic
	run attach --mode native
	expect_status 0
	expect_output "from generic to native"
	run bbload -j show --netns "$A"
	expect_json '.attached[0] | .mode == "native" and .state == "ok" and (.programs | length) == 2'
}

# --- killed, gone ------------------------------------------------------------------------

# killed_at N ARG...: bbload with these arguments, killed at its Nth step. Return: was it?
killed_at() {
	local rc=0

	# A new shell, which may say that its child was killed.
	KILLAT=$1 bash -c 'LD_PRELOAD=$1 "${@:2}"; exit $?' - "$BUILD/tests/killat.so" "$BUILD/bbload" "${@:2}" >/dev/null 2>&1 || rc=$?
	((rc == 137))
}

@test "killed at any step of attach and detach: the next one finds its way" {
	local before n step=${BB_TEST_STEP:-7} kills=0

	before=$(snapshot)
	for ((n = 1; ; n += step)); do
		killed_at "$n" attach host --dev eth0 --netns "$A" --via fd00:77::b --mac 02:00:00:00:00:02 || break
		kills=$((kills + 1))
		if ((n % 2)); then
			run attach --via fd00:77::b --mac 02:00:00:00:00:02
			expect_status 0
			run bbload -j show --netns "$A"
			expect_json '.attached[0] | .state == "ok" and (.programs | length) == 2'
		fi
		run detach
		expect_status 0
		untouched "$before" || fail "killed at step $n of attach"
	done
	((kills > 10)) || fail "only $kills kills of attach"
	echo "# attach: killed at $kills of about $n steps" >&3
	kills=0
	for ((n = 1; ; n += step)); do
		attach
		killed_at "$n" detach --dev eth0 --netns "$A" || break
		kills=$((kills + 1))
		run detach
		expect_status 0
		untouched "$before" || fail "killed at step $n of detach"
	done
	((kills > 5)) || fail "only $kills kills of detach"
	untouched "$before"
}

@test "a namespace that is deleted: show says so, gc removes what is left" {
	attach
	ip netns del "$A"
	bbload -j show >"$BATS_TEST_TMPDIR/show"
	run jq -r ".attached[] | select(.netns_inode == $INO) | .state" "$BATS_TEST_TMPDIR/show"
	expect_equal "$output" "namespace gone"
	run bbload gc
	expect_status 0
	expect_output "n$INO:eth0"
	[[ ! $(find $FS $FS.state -name "n$INO*" 2>/dev/null) ]] || fail "left: $(find $FS $FS.state -name "n$INO*")"
}

@test "a device that is deleted, and one of the same name" {
	attach
	bbload update policy read drop --netns "$A"
	ip -n "$A" link del eth0
	run bbload -j show --netns "$A"
	expect_json '.attached[0].state == "device gone"'
	ip -n "$A" link add eth0 type veth peer name eth0 netns "$B"
	ip -n "$A" link set eth0 up
	run bbload -j show --netns "$A"
	expect_json '.attached[0].state == "device gone"'
	run attach
	expect_status 0
	expect_output "that is gone is removed"
	run bbload -j show --netns "$A"
	expect_json '.attached[0] | .state == "ok" and .policies == []'
	ip -n "$A" link del eth0
	run bbload gc
	expect_output "n$INO:eth0"
	! ip -n "$A" -6 rule | grep 'lookup 100' || fail "the rule is still there"
	[[ ! $(ip -n "$A" -6 route show table 100) ]] || fail "the route is still there"
	run detach
	expect_status 0
}

@test "pins of a namespace whose number was given again are not believed" {
	attach
	jq '.netns_cookie = 1' "$FS.state/n$INO:eth0.json" >"$BATS_TEST_TMPDIR/s"
	cp "$BATS_TEST_TMPDIR/s" "$FS.state/n$INO:eth0.json"
	run bbload -j show --netns "$A"
	expect_json '.attached[0].state == "namespace gone"'
	run attach
	expect_status 0
	expect_output "is removed"
	run bbload -j show --netns "$A"
	expect_json '.attached[0].state == "ok"'
}

@test "a device that was renamed is still undone" {
	local before

	before=$(snapshot)
	attach --mode native
	ip -n "$A" link set eth0 down
	ip -n "$A" link set eth0 name eth9
	run detach
	expect_status 0
	ip -n "$A" link set eth9 name eth0
	ip -n "$A" link set eth0 up
	in_ns "$A" ethtool -k eth0 | grep -q '^tx-checksumming: on' || fail "checksums are still off"
	! ip -n "$A" -6 rule | grep 'lookup 100' || fail "the rule is still there"
}

# --- what it says --------------------------------------------------------------------------

# says STATUS PATTERN ARG...: one line.
says() {
	run bbload "${@:3}"
	expect_status "$1"
	expect_output "$2"
	((${#lines[@]} == 1)) || fail "bbload ${*:3}: not one line:" "$output"
}

@test "another program at the hook is named" {
	printf '__attribute__((section("xdp.frags"), used)) int someone_else(void *c) { return 2; }\n' |
		clang -target bpf -O2 -g -c -x c - -o "$BATS_TEST_TMPDIR/x.o"
	in_ns "$A" ip link set dev eth0 xdp object "$BATS_TEST_TMPDIR/x.o" section xdp.frags
	says 1 "another XDP program is there (someone_else, id " attach host --dev eth0 --netns "$A"
	[[ ! -e $FS/n$INO:eth0 && ! -e $FS.state/n$INO:eth0.json ]] || fail "something is left"
	! ip -n "$A" -6 rule | grep 'lookup 100' || fail "the rule was set"
	in_ns "$A" ip link set dev eth0 xdp off
	attach
}

@test "a device without native XDP: generic, and why" {
	run bbload attach host --dev lo --netns "$A"
	expect_status 0
	expect_output "generic mode, slower than native: its driver"
	says 1 "cannot attach in native mode" attach host --dev lo --netns "$B" --mode native
}

@test "what is missing is said in one line" {
	says 1 "there is no device nope in $A" attach host --dev nope --netns "$A"
	says 1 "there is no network namespace no-such-$$" attach host --dev eth0 --netns "no-such-$$"
	says 1 "is no network namespace" attach host --dev eth0 --netns /etc/passwd
	says 1 "nothing is attached" update policy read drop --netns "$A"
	says 1 "no switch is attached" update node del 7 --netns "$A"
	says 1 "is no port of a switch, nor a host's" update node 7 --dev eth0 --mac 02:00:00:00:00:07 --netns "$A"
	attach
	says 1 "cannot be read" update host --node 7 --key "$BATS_TEST_TMPDIR/no-key" --netns "$A"
	head -c 32 /dev/urandom >"$BATS_TEST_TMPDIR/key"
	chmod 644 "$BATS_TEST_TMPDIR/key"
	says 1 "others may read it" update host --node 7 --key "$BATS_TEST_TMPDIR/key" --netns "$A"
	says 1 "fd00:77::d does not answer" attach host --dev eth0 --netns "$A" --via fd00:77::d
	run setpriv --bounding-set=-bpf,-sys_admin --inh-caps=-bpf,-sys_admin "$BUILD/bbload" attach host --dev eth0 --netns "$A"
	expect_status 1
	expect_equal "$output" "bbload: error: lacks CAP_SYS_ADMIN, CAP_BPF: run it as root (sudo bbload ...)"
	run setpriv --reuid=65534 --clear-groups "$BUILD/bbload"
	expect_status 1
	expect_output "run it as root"
	# As "ip netns exec" would run it: in a mount namespace that ends with it.
	# shellcheck disable=SC2016 # for the inner shell
	run unshare -m --propagation private sh -c 'umount -l "$1" 2>/dev/null; exec "$2" attach host --dev eth0' - "$FS" "$BUILD/bbload"
	expect_status 1
	expect_output "with --netns NAME"
}

@test "an override at a host leads where update node says" {
	attach
	head -c 32 /dev/urandom >"$BATS_TEST_TMPDIR/key"
	chmod 600 "$BATS_TEST_TMPDIR/key"
	bbload update host --node 2 --key "$BATS_TEST_TMPDIR/key" --dev eth0 --netns "$A"
	bbload update override add 2:0/0 to 3 cmds write --dev eth0 --netns "$A"
	ip -n "$B" -6 route add fdbb:0:2::/48 via fd00:77::a dev eth0
	ask() { in_ns "$B" python3 -c 'import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.setsockopt(41, 78, 1); s.bind(("fdbb:0:1::1", 0)); s.sendto(b"\x01" + bytes(99), ("fdbb:0:2:500:7::5000", 48059))'; }
	counted() { bbload show -j --netns "$A" | jq -e "[.. | objects | .$1? | numbers] | add // 0 | . == $2" >/dev/null; }
	ask
	eventually 5 counted drop_node 1
	bbload update node 3 --dev eth0 --mac 02:00:00:00:00:03 --netns "$A"
	ask
	eventually 5 counted redirected 1
	bbload update node del 3 --dev eth0 --netns "$A"
	ask
	eventually 5 counted drop_node 2
	detach
}

@test "what iproute2 leaves in our bpffs does not keep it mounted" {
	attach
	mkdir -p "$FS/tc/globals"
	ln -s "$FS/tc/" "$FS/ip"
	ln -s "$FS/tc/" "$FS/xdp"
	detach
	# Where other racks have something attached it stays for them.
	[[ ! -e $FS/tc && ! -L $FS/ip && ! -L $FS/xdp ]] || fail "$(ls -l "$FS")"
	[[ $(ls "$FS.state" 2>/dev/null) ]] || [[ ! -e $FS ]] || fail "$(findmnt "$FS"; ls -lR "$FS")"
}

# A directory that is a mount elsewhere can be removed, and the mount goes with it.
@test "in a mount namespace that lacks our bpffs: the pins of others stay" {
	attach
	# shellcheck disable=SC2016,SC2086 # for the inner shell; words
	for verb in "attach host --dev eth0" gc "detach --dev eth0"; do
		run unshare -m --propagation private sh -c 'umount -l "$1" && shift && exec "$@"' - "$FS" "$BUILD/bbload" $verb
	done
	[[ -e $FS/n$INO:eth0/links ]] || fail "$(findmnt "$FS"; ls -l "$FS" 2>&1)"
	run bbload show -j --netns "$A"
	expect_output bb_host
	detach
}

@test "wrong usage: 2, and one line" {
	local args

	for args in x attach "attach foo" "attach host" "attach host --dev a --dev b" "attach host --dev a/b" "attach host --dev a," \
		"attach host --dev eth0 --mac 02:00:00:00:00:01" "attach switch --dev eth0 --via fe80::1" "attach host --dev eth0 --node 3" \
		"attach host --dev eth0 x" detach "detach --dev eth0 --all" "detach eth0 --all" --no-such --dev "--mode fast" "--mac 1:2" \
		"--tenant 70000" "--node 0" "--port x" "show x" "show --all" "gc --dev eth0" "selftest -j" "update foo" "update policy" \
		"update policy 128 drop" "update policy read" "update policy read eat" "update policy read drop 3" "update policy read rate" \
		"update policy read rate 0" "update policy read redirect rate 3" "update policy read copy node 70000" "update override" \
		"update override add" "update override add 3:1/65 to 4" "update override add 0:1/3 to 4" "update override add 3:1/3" \
		"update override add 3:1/3 to 4 cmds eat" "update override add 3:1/3 to 4 for -1" "update override add 3:1/3x to 4" \
		"update override del 3:1/3 to 4" "update node" "update node 3" "update node 3 --dev p1" "update node 65535 --dev p1 --mac 02:00:00:00:00:01" \
		"update node del 3 --dev p1 --dev p2" "update host" "update host x --node 3"; do
		# shellcheck disable=SC2086 # words
		says 2 "bbload: error: " $args
	done
}

@test "policies, overrides and who the host is, set and shown" {
	local over='.attached[0].overrides'

	attach
	head -c 32 /dev/urandom >"$BATS_TEST_TMPDIR/key"
	chmod 600 "$BATS_TEST_TMPDIR/key"
	bbload update host --tenant 3 --node 7 --port 5000 --key "$BATS_TEST_TMPDIR/key" --netns "$A"
	bbload update policy read redirect node 9 --netns "$A"
	bbload update policy 127 refuse --netns "$A"
	bbload update policy create copy node 2 --netns "$A" --dev eth0
	run bbload -j show --netns "$A"
	expect_json '.attached[0].host | .known and .tenant == 3 and .node == 7 and .port == 5000 and .version == 2 and .serves == false'
	expect_json '.attached[0].policies == [{"command": "create", "action": "copy", "node": 2}, {"command": "read", "action": "redirect", "node": 9}, {"command": "127", "action": "refuse"}]'
	bbload update policy read forward --netns "$A"
	run bbload -j show --netns "$A"
	expect_json '.attached[0].policies | length == 2'

	bbload update override add 3:1234000000200000/43 to 5 --netns "$A"
	bbload update override add 3:12340000002abcde/43 to 6 cmds read,write,70 for 100 --netns "$A"
	bbload update override add 4:0/0 to 8 --tenant 0 --netns "$A"
	run bbload -j show --netns "$A"
	expect_json '.attached[0].host.overrides == 2'
	expect_json "$over | map(select(.node == 3)) | length == 1 and (.[0] | .tenant == 3 and .pointer == \"1234000000200000\" and .bits == 43 and .to == 6
		and .commands == [\"read\", \"write\", \"70\"] and .seconds_left > 50 and .seconds_left <= 100)"
	expect_json "$over | map(select(.node == 4))[0] | .tenant == 0 and .bits == 0 and .to == 8 and .commands == null and .seconds_left == null"
	run bbload show --netns "$A"
	expect_output "override 3:1234000000200000/43 to 6 cmds read,write,70 for "
	expect_output "policy create copy node 2"
	bbload update override del 3:1234000000200000/43 --netns "$A"
	run bbload update override del 3:1234000000200000/43 --netns "$A"
	expect_status 1
	expect_output "there is none"
	run bbload -j show --netns "$A"
	expect_json '.attached[0].host.overrides == 1'
	# What is set outlives a new attach, and no detach.
	attach
	run bbload -j show --netns "$A"
	expect_json '.attached[0].host | .overrides == 1 and .node == 7'
	detach
	attach
	run bbload -j show --netns "$A"
	expect_json '.attached[0] | .host.known == false and .policies == [] and .overrides == []'
}

@test "selftest: every program is taken, and lets pass what is not its own" {
	run bbload selftest
	expect_status 0
	expect_no_output "not ok"
	for program in bb_host bb_read bb_switch; do
		expect_output "ok $program: is taken by the kernel"
		expect_output "ok $program: lets pass IPv4"
	done
	expect_output "ok bb_host: answers a solicitation"
}

@test "bbload(8) and --help have the same options and verbs" {
	local page word

	page=$(sed 's/\\//g' "$TOP/man/bbload.8")
	while IFS= read -r word; do
		grep -qE -- "^\.[A-Z]+ .*--$word\b" <<<"$page" || fail "man/bbload.8 says nothing of --$word"
	done < <(bbload --help | sed -n 's/^  \(-[a-z], \)\?--\([a-z-]*\).*/\2/p')
	(($(bbload --help | grep -cE '^  (-[a-z], )?--') >= 14)) || fail "the help has too few"
	while IFS= read -r word; do
		bbload --help | grep -qE -- "--$word\b" || fail "bbload has no --$word"
	done < <(sed -n '/^\.TP/{n;s/^\.[A-Z]* .*--\([a-z-]*\).*/\1/p}' <<<"$page")
	for word in show attach detach update gc selftest "update policy" "update override" "update node" "update host"; do
		bbload --help | grep -q "^  $word" || fail "no $word in the help"
		grep -qE "^\.[A-Z]+ \"?$word" <<<"$page" || fail "man/bbload.8 says nothing of $word"
	done
	run bbload --version
	expect_equal "$output" "bbload $("$BUILD/bbd" --version | sed 's/^bbd //')"
}
