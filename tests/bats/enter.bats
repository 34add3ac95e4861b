#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Who may enter: a host of the same link that has no key records what passes and
# sends it again, as it was or changed. All of it is refused and counted, and the
# programs' bytes stay right. What a home says to packets whose tag is right is in
# tests/unit/test_serve.c and test_net.c.
# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

setup() {
	cd "$TOP" || return
	need_root
	D=$BATS_TEST_TMPDIR
}

teardown() {
	: >"$D/packets.stop"
	end_programs
	remove_racks
}

pid_of() { cut -d' ' -f1 "/run/bluebridge/$RACK/$1/pid"; }

enter() { bbrack run "$1" -- python3 "$TOP/tests/apps/enter.py" "${@:2}"; }

# record_on HOST: into $D/packets, until stop_record.
record_on() {
	bbrack run "$1" -- python3 "$TOP/tests/apps/enter.py" record eth0 "$D/packets" >"$D/recorder" 2>&1 3>&- &
	PIDS+=("$!")
	eventually 10 grep -q recording "$D/recorder"
}

stop_record() {
	: >"$D/packets.stop"
	eventually 20 test -s "$D/packets"
}

# counter HOST FILTER: a number of bbctl net.
counter() { bbrack run "$1" -- "$BUILD/bbctl" -j net | jq "$2"; }

used() { bbrack run "$1" -- "$BUILD/bbctl" -j home | jq .used; }

# rises HOST FILTER FROM BY: within a moment.
rises() { (($(counter "$1" "$2") >= $3 + $4)); }

# A program of h1 with its memory at h2: writes the first version, and at each
# word on its standard input writes the next one or looks at what is there.
start_program() {
	mkfifo "$D/in"
	bbrack run h1 -- env BB_LOCAL=16M BB_PLACE=2 LD_PRELOAD="$BUILD/libbb.so" python3 -u -c 'import sys
b = bytearray(40 << 20)
def write(v):
    for i in range(0, len(b), 4096): b[i:i + 8] = (i * 31 + v).to_bytes(8, "little")
def right(v):
    return all(b[i:i + 8] == (i * 31 + v).to_bytes(8, "little") for i in range(0, len(b), 4096))
v = 1
write(v)
print("version", v)
for word in sys.stdin:
    if word == "next\n":
        v += 1
        write(v)
        print("right" if right(v) else "WRONG", "version", v)
    else:
        print("looked", "right" if right(v) else "WRONG")' <"$D/in" >"$D/out" 2>&1 3>&- &
	PROGRAM=$!
	PIDS+=("$PROGRAM")
	exec 9>"$D/in"
	eventually 30 grep -q "version 1" "$D/out"
}

# program_says WORD WHAT: after that word to it.
program_says() {
	echo "$1" >&9
	eventually 60 grep -q "$2" "$D/out"
	! grep -q WRONG "$D/out" || fail "$(cat "$D/out")"
}

@test "recorded packets come again: nothing is done twice, no byte changes" {
	local n stale dup tag used

	rack_up 3 --bbd-args "--xdp off" # what leaves by AF_XDP no packet socket sees
	kill -s KILL "$(pid_of h3)" # the host of one who has no key
	record_on h1
	start_program
	stop_record
	program_says next "right version 2"

	# Its WRITEs of version 1, when version 2 lies at the home.
	stale=$(counter h2 '.server.stale + .server.duplicates')
	n=$(enter h3 send eth0 "$D/packets" WRITE@2)
	((n > 500)) || fail "only $n WRITEs were seen"
	eventually 10 rises h2 '.server.stale + .server.duplicates' "$stale" $((n * 9 / 10))
	: >"$D/out"
	program_says look "looked right"

	# Its CREATEs: no memory is given twice.
	used=$(used h2)
	dup=$(counter h2 '.server.stale + .server.duplicates')
	n=$(enter h3 send eth0 "$D/packets" CREATE@2)
	((n > 0)) || fail "no CREATE was seen"
	eventually 10 rises h2 '.server.stale + .server.duplicates' "$dup" "$n"
	expect_equal "$(used h2)" "$used"

	# Replies to h1 that nobody waits for.
	stale=$(counter h1 '[.pagers[].stale] | add')
	n=$(enter h3 send eth0 "$D/packets" WRITE-reply@2)
	((n > 0)) || fail "no reply was seen"
	eventually 10 rises h1 '[.pagers[].stale] | add' "$stale" "$n"

	# Changed on the way: the tag is wrong, whatever was changed.
	for how in payload tag node generation boot; do
		tag=$(counter h2 '.server.bad_tag + .server.malformed')
		n=$(enter h3 send eth0 "$D/packets" WRITE@2 "$how" 150)
		[[ $how == node ]] || eventually 10 rises h2 '.server.bad_tag + .server.malformed' "$tag" $((n * 9 / 10))
	done
	tag=$(counter h1 '[.pagers[].bad_tag + .pagers[].stale] | add')
	n=$(enter h3 send eth0 "$D/packets" WRITE-reply@2 tag 150)
	eventually 10 rises h1 '[.pagers[].bad_tag + .pagers[].stale] | add' "$tag" "$n"
	: >"$D/out"
	program_says look "looked right"
	exec 9>&-
	eventually 20 is_gone "$PROGRAM"
}

@test "a recorded DELETE does not free what another has since" {
	local n used

	rack_up 3 --bbd-args "--xdp off"
	kill -s KILL "$(pid_of h3)"
	record_on h1
	start_program
	exec 9>&-
	eventually 20 is_gone "$PROGRAM"
	rm "$D/in"
	sleep 1 # its DELETEs
	stop_record
	n=$(enter h1 count "$D/packets" DELETE@2)
	((n > 0)) || fail "no DELETE was seen"
	start_program
	used=$(used h2)
	((used > 0)) || fail "nothing is lent"
	expect_equal "$(enter h3 send eth0 "$D/packets" DELETE@2)" "$n"
	sleep 0.5
	expect_equal "$(used h2)" "$used"
	: >"$D/out"
	program_says look "looked right"
	exec 9>&-
}

h2_is() { [[ $(bbrack run h1 -- "$BUILD/bbctl" -j node | jq '.nodes[] | select(.node == 2) | .alive') == "$1" ]]; }

@test "recorded HELLOs keep no dead host alive" {
	local end

	rack_up 3
	kill -s KILL "$(pid_of h3)"
	record_on h1
	sleep 3
	stop_record
	(($(enter h1 count "$D/packets" HELLO) > 2)) || fail "no HELLO was seen"
	h2_is true
	kill -s KILL "$(pid_of h2)"
	# Its HELLOs go on, from h3.
	end=$((SECONDS + 8))
	while ((SECONDS < end)); do
		enter h3 send eth0 "$D/packets" HELLO >/dev/null
		sleep 0.3
		! h2_is false || break
	done
	h2_is false
	enter h3 send eth0 "$D/packets" HELLO >/dev/null
	sleep 0.5
	h2_is false
}

# other_bbd OPTION...: in the place of h2's.
other_bbd() {
	local ns

	ns=$(bbrack status -j | jq -r '.. | objects | select(.host? == "h2") | .namespace')
	rm -f "$D/other"
	nsenter --net="/run/netns/$ns" "$BUILD/bbd" --config /dev/null --dev eth0 --socket "$D/other" --keep 0 "$@" \
		>"$D/log" 2>&1 3>&- &
	PIDS+=("$!")
	disown "$!"
	eventually 10 test -S "$D/other" || fail "$(cat "$D/log")"
}

@test "a host with another key, and one of another tenant" {
	local before

	rack_up 2 --tenant 513
	# Tenant 513 from end to end.
	run bbrack run h1 -- env BB_LOCAL=16M BB_PLACE=2 LD_PRELOAD="$BUILD/libbb.so" "$BUILD/apps/bbtouch" --size 40M --writes 30 --ops 4000
	expect_status 0
	run bbrack run h1 -- ip -6 route show
	expect_output fdbb:201:2::/48
	# h2 again, with a key of its own: refused, counted, and named.
	before=$(counter h1 .server.bad_tag)
	kill -s KILL "$(pid_of h2)"
	other_bbd --node 9 --tenant 513 --key "$D/key"
	eventually 15 rises h1 .server.bad_tag "$before" 2
	run bbrack run h1 -- "$BUILD/bbctl" -j node
	expect_json '[.nodes[] | select(.node == 9 and .alive)] == []'
	end_programs
	sleep 0.2
	# The same key, another tenant: heard, and not believed.
	other_bbd --node 10 --tenant 7 --key "/run/bluebridge/$RACK/key"
	sleep 2
	run bbrack run h1 -- "$BUILD/bbctl" -j node
	expect_json '[.nodes[] | select(.node == 10)] == []'
}
