#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Single faults as bbctl trace prints them, while a program pages; the probes and their document.

# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

teardown() {
	end_programs
	remove_racks
}

trace() { bbrack run h1 -- "$BUILD/bbctl" "$@"; }

# start_paging ARG...: bbtouch on h1, in the background; its pid, as bbd sees it, to PROGRAM.
start_paging() {
	bbrack run h1 -- env BB_LOCAL=16M LD_PRELOAD="$BUILD/libbb.so" timeout 120 "$BUILD/apps/bbtouch" "$@" \
		>"$BATS_TEST_TMPDIR/touch" 2>&1 </dev/null 3>&- &
	TOUCH=$!
	PIDS+=("$TOUCH")
	eventually 30 pages
	PROGRAM=$(jq '.programs[0].pid' "$BATS_TEST_TMPDIR/programs")
}

pages() {
	trace -j program >"$BATS_TEST_TMPDIR/programs" &&
		jq -e '.programs[0].fill_remote > 500' "$BATS_TEST_TMPDIR/programs" >/dev/null
}

# stop_paging: it compares every page at its end.
stop_paging() {
	wait "$TOUCH" || fail "$(<"$BATS_TEST_TMPDIR/touch")"
}

lines() { grep -c . <<<"$output" || :; }

@test "each fault: five parts that add up, a home, a pointer of its" {
	need_root
	rack_up 3
	start_paging --size 64M --pattern rand --writes 30 --seconds 20
	run trace -j trace --count 4000
	expect_status 0
	(($(lines) > 500)) || fail "only $(lines) faults:" "$output"
	output=$(jq -s . <<<"$output")
	expect_json 'all(.total_ns == .enter_ns + .directory_ns + .get_ns + .exit_ns + .other_ns)'
	expect_json "all(.pid == $PROGRAM and .comm == \"bbtouch\" and .total_ns > 0 and .pages >= 1 and .address % 4096 == 0)"
	expect_json '[.[].time_ns] | . == sort'
	# It ended within the last minute.
	expect_json "all(.time_ns / 1e9 > now - 60 and .time_ns / 1e9 < now + 1)"
	expect_json '[.[] | select(.kind == "remote")] | length > 100 and all(.get_ns > 500 and .exit_ns > 200)'
	# Pages went to both of the others. The first hextets of a pointer are the node's.
	expect_json '[.[] | select(.kind == "remote")] | map(.node) | unique == [2, 3]'
	expect_json '[.[] | select(.kind == "remote")] | all(.pointer | startswith("fdbb:"))'
	expect_json 'all(.[] | select(.kind == "remote"); (.pointer | split(":")[2]) == (.node | tostring))'
	expect_json 'all(.[] | select(.kind != "remote" and .kind != "prefetched"); .node == 0 and .pointer == "" and .get_ns == 0)'
	expect_json 'map(.kind) | unique | contains(["remote", "staged"])'
	stop_paging
}

@test "the same faults as the histograms, to the last one" {
	need_root
	rack_up 2
	start_paging --size 32M --pattern rand --seconds 3600
	# Stopped, it makes no more of them.
	kill -s STOP "$PROGRAM"
	trace fault reset
	run trace -j trace --program "$PROGRAM" --count 1
	before=$(jq .time_ns <<<"$output")
	kill -s CONT "$PROGRAM"
	sleep 0.05
	kill -s STOP "$PROGRAM"
	sleep 0.5 # those under way come home
	run trace -j trace --program "$PROGRAM" --count 4096
	expect_status 0
	new=$(jq -s "[.[] | select(.time_ns > $before + 1000000 and .kind == \"remote\")] | {n: length, sum: (map(.total_ns) | add)}" <<<"$output")
	run trace -j fault
	hist=$(jq -c '.remote.total | {n: .count, sum: (.mean_ns * .count)}' <<<"$output")
	# What had begun before the reset, or ended right after it, is in one of them only.
	jq -n -e --argjson a "$new" --argjson b "$hist" '$a.n >= 4000 or
		($a.n > 10 and ($a.n - $b.n | fabs) <= 20 and ($a.sum / $b.sum > 0.7) and ($a.sum / $b.sum < 1.4))' ||
		fail "traced: $new, counted: $hist"
	kill -s KILL "$PROGRAM"
}

@test "a walk: pages on their way already, and runs" {
	need_root
	rack_up 2
	start_paging --size 64M --pattern seq --seconds 15
	run trace -j trace --count 4000
	expect_status 0
	output=$(jq -s . <<<"$output")
	expect_json '[.[] | select(.kind == "prefetched")] | length > 0'
	expect_json '[.[] | select(.kind == "prefetched")] | any(.pages > 1)'
	expect_json '[.[] | select(.kind == "prefetched")] | all(.node == 2 and .pages >= 1 and .total_ns > 0 and .directory_ns == 0)'
	stop_paging
}

@test "--count, --seconds and --slower are kept" {
	need_root
	rack_up 2
	start_paging --size 64M --pattern rand --writes 30 --seconds 25
	run trace -j trace
	expect_equal "$(lines)" 20 "the last ones"
	run trace -j trace --count 7
	expect_status 0
	expect_equal "$(lines)" 7
	run trace -j trace --count 300 --seconds 60 --program "$PROGRAM"
	expect_status 0
	expect_equal "$(jq -s '[.[] | select(.kind)] | length' <<<"$output")" 300

	# The faults to come, for so long and no longer (bbctl itself may have to wait for a CPU).
	local from=$EPOCHREALTIME to
	run trace -j trace --seconds 1.5
	to=$EPOCHREALTIME
	expect_status 0
	jq -n -e "$to - $from | . >= 1.5 and . < 12" || fail "it took $from to $to"
	jq -s -e "[.[] | select(.kind)] | length > 50 and all(.time_ns / 1e9 > $from - 0.1 and .time_ns / 1e9 < $to)" <<<"$output" ||
		fail "others than those that came:" "$(tail -n 3 <<<"$output")"

	run trace -j trace --slower 1000000 --count 100
	expect_status 0
	expect_equal "$(jq -s '[.[] | select(.kind and .total_ns < 1e9)] | length' <<<"$output")" 0
	run trace -j trace --slower 8.5 --count 100
	expect_status 0
	(($(lines) > 10)) || fail "no fault takes 8.5 us?" "$output"
	expect_equal "$(jq -s '[.[] | select(.kind and .total_ns < 8500)] | length' <<<"$output")" 0

	run trace trace --count 3
	expect_status 0
	expect_output "TIME*PID*KIND*NODE*TOTAL*enter*directory*get*exit*other*ADDRESS*POINTER"
	expect_equal "$(lines)" 4
	stop_paging

	# The program has gone; nobody else's faults are shown instead.
	eventually 20 has_gone
	expect_output "no program $PROGRAM has memory on other hosts"
}

@test "who reads slowly is told how many went by" {
	need_root
	rack_up 2
	start_paging --size 64M --pattern rand --seconds 20
	# A reader that comes from number 0, when thousands have been overwritten.
	eventually 30 many_faults
	cat >"$BATS_TEST_TMPDIR/ask.py" <<-'EOF'
		import json, os, socket
		def ask(q):
		    s = socket.socket(socket.AF_UNIX)
		    s.settimeout(10)
		    s.connect(os.environ["BB_SOCKET"])
		    s.sendall(json.dumps(q).encode() + b"\n")
		    return json.loads(s.makefile().readline())
		p = ask({"cmd": "trace.list"})["result"]["programs"][0]
		a = ask({"cmd": "trace.read", "region": p["region"], "at": 0})["result"]
		assert len(a["faults"]) + a["lost"] == a["at"], a
		assert a["lost"] >= p["head"] - 4096, (p, a["lost"])
		assert 0 < len(a["faults"]) <= 256, len(a["faults"])
		b = ask({"cmd": "trace.read", "region": p["region"], "at": a["at"]})["result"]
		assert b["at"] - a["at"] == len(b["faults"]) + b["lost"], (a["at"], b["at"])
		for bad in ({"region": 0, "at": 0}, {"region": p["region"], "at": -1}, {"region": "x", "at": 0},
		            {"region": p["region"]}, {"region": 1 << 40, "at": 0}, {"region": 63, "at": 0},
		            {"region": p["region"], "at": 0, "slower_ns": -5}, {"region": p["region"], "at": 0, "slower_ns": "x"}):
		    r = ask({"cmd": "trace.read", **bad})
		    assert r["ok"] is False and r["error"], (bad, r)
		r = ask({"cmd": "trace.read", "region": p["region"], "at": 1 << 62})
		assert r["ok"] and r["result"]["faults"] == [], r
	EOF
	run bbrack run h1 -- python3 "$BATS_TEST_TMPDIR/ask.py"
	expect_status 0
	stop_paging
}

has_gone() {
	run trace trace --program "$PROGRAM" --seconds 0.5
	((status == 1))
}

many_faults() {
	trace -j program >"$BATS_TEST_TMPDIR/programs"
	jq -e '.programs[0] | .fill_remote + .fill_staged > 8000' "$BATS_TEST_TMPDIR/programs" >/dev/null
}

@test "a user is not shown what others touch" {
	need_root
	rack_up 1
	run bbrack run h1 -- setpriv --reuid=65534 --regid=65534 --clear-groups "$BUILD/bbctl" trace
	expect_status 1
	expect_output "only root and bbd's own user"
}

@test "bad options of trace are refused, each with one message" {
	local bad

	for bad in "--count 0" "--count -1" "--count 3x" "--count 1.5" "--count 100001" "--seconds 0" "--seconds -1" \
		"--seconds x" "--seconds 86401" "--seconds 1e3" "--slower x" "--slower -3" "--slower nan" "--program 0" \
		"--program x" "--program 1.5" "--program 99999999999"; do
		# shellcheck disable=SC2086 # two words
		run "$BUILD/bbctl" --socket "$BATS_TEST_TMPDIR/none" trace $bad
		expect_status 2
		expect_output "${bad%% *} ${bad#* }: wants"
		expect_equal "${#lines[@]}" 1
	done
	run "$BUILD/bbctl" trace --count
	expect_status 2
	expect_output "wants a value"
	run "$BUILD/bbctl" trace 5
	expect_status 2
	run "$BUILD/bbctl" trace show 5
	expect_status 2
	run "$BUILD/bbctl" node --count 5
	expect_status 2
	expect_output "--count is an option of bbctl trace"
	run "$BUILD/bbctl" --seconds 5
	expect_status 2
	expect_output "--seconds is an option of bbctl trace"
}

# --- probes -------------------------------------------------------------------

# probes FILE: name and number of arguments of each in its ELF notes.
probes() {
	readelf -n "$BUILD/$1" | awk '$1 == "Provider:" { p = $2 } $1 == "Name:" { n = $2 }
		$1 == "Location:" && !/Semaphore: 0x0+$/ { print "semaphore" }
		$1 == "Arguments:" && p == "bluebridge" { print n, NF - 1 }' | sort -u
}

# documented FILE: the same by doc/trace.md. Commas within brackets count for nothing.
documented() {
	sed -n "s/^| \`\([a-z_]*\)\` | $1 | \(.*\) |$/\1|\2/p" "$TOP/doc/trace.md" | sed 's/([^)]*)//g; s/: .*//' |
		awk -F'|' '{ print $1, split($2, a, ", ") }' | sort
}

@test "the probes are in the ELF notes, and their list is that of doc/trace.md" {
	local f

	for f in bbd libbb.so; do
		(($(documented $f | wc -l) >= 3)) || fail "doc/trace.md has no table of $f"
		diff <(documented $f) <(probes $f) || fail "$f: doc/trace.md (<) and ELF notes (>) differ"
	done
}

@test "the line of bpftrace in the manual works" {
	need_root
	command -v bpftrace >/dev/null || skip "no bpftrace (scripts/deps test)"
	timeout 60 bpftrace -e 'uprobe:/bin/true:_start { exit(); } BEGIN { exit(); }' >/dev/null 2>&1 ||
		skip "this kernel takes no uprobe"
	rack_up 2
	start_paging --size 64M --pattern rand --writes 30 --seconds 40
	local line

	line=$(sed -n "s/^bpftrace ..e '\\(usdt.*\\)'$/\\1/p" "$TOP/man/bbd.8")
	[[ $line ]] || fail "bbd(8) has no line of bpftrace"
	run timeout 60 bpftrace -e "${line//\/usr\/local\/bin/$BUILD} interval:s:2 { exit(); }"
	expect_status 0
	expect_output "@ns\[$PROGRAM\]:"
	line=$(sed -n "s/^    bpftrace -e '\\(usdt.*\\)'$/\\1/p" "$TOP/doc/trace.md")
	[[ $line ]] || fail "doc/trace.md has no line of bpftrace"
	line=${line//1000000/1000}
	run timeout 60 bpftrace -e "${line//\/usr\/local\/bin/$BUILD} interval:s:2 { exit(); }"
	expect_status 0
	# Five parts that add up to more than the bound.
	expect_output "$PROGRAM 7"
	grep "kind 0 node 2" <<<"$output" | awk '{ if ($8 + $10 + $12 + $14 + $16 <= 1000) exit 1; n++ } END { exit !(n > 10) }' ||
		fail "parts that do not add up:" "$(tail -n 5 <<<"$output")"
	stop_paging
}
