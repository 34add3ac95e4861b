#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# 42 hosts on this machine: all operations from each of them, a program that
# faults on each, every byte right, in bounded memory and time.
# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

readonly HOSTS=42 ROUNDS=100

setup() { need_root; }

teardown() {
	end_programs
	remove_racks
}

# on_all COMMAND...: at once on all hosts, K for the host's number; its output to
# OUT/hK. Return: did all end well?
on_all() {
	local k pids=() bad=''

	for ((k = 1; k <= HOSTS; k++)); do
		bbrack run "h$k" -- "${@//@K@/$k}" >"$OUT/h$k" 2>&1 3>&- &
		pids+=($!)
	done
	for ((k = 1; k <= HOSTS; k++)); do
		wait "${pids[k - 1]}" || bad+=" h$k: $(tail -n 2 "$OUT/h$k")"
	done
	[[ ! $bad ]] || fail "$bad"
}

# of_all FIELD: of /proc/PID/smaps_rollup of all bbds, the sum in KiB.
of_all() {
	local k

	for ((k = 1; k <= HOSTS; k++)); do
		awk -v f="$1:" '$1 == f { print $2 }' "/proc/$(cut -d' ' -f1 "$DIR/h$k/pid")/smaps_rollup"
	done | awk '{ s += $1 } END { print s }'
}

available() { awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo; }

say() { printf '# %s\n' "$*" >&3; }

@test "42 hosts: 100 rounds of all operations and a faulting program on each" {
	local t0=$SECONDS t1 t2 t3 rss pss free all

	OUT=$BATS_TEST_TMPDIR
	free=$(available)
	rack_up $HOSTS --lend 256M --bbd-args '--spin 0'
	DIR=/run/bluebridge/$RACK
	t1=$SECONDS
	on_all timeout 120 "$BUILD/apps/bbrounds" "$DIR/key" @K@ $HOSTS $ROUNDS any
	run jq -s 'map(select(.rounds == '$ROUNDS' and .requests == 8 * .rounds)) | length' "$OUT"/h*
	expect_equal "$output" $HOSTS
	say "rounds: $(jq -s '"\(map(.requests) | add) requests, sent again \(map(.resent) | add), CREATEs to any node of a host on \(map(.placed_on) | min) to \(map(.placed_on) | max) hosts"' "$OUT"/h* | tr -d '"')"
	t2=$SECONDS
	on_all timeout 150 env BB_LOCAL=16M BB_STATS="$OUT/stats@K@" LD_PRELOAD="$BUILD/libbb.so" \
		"$BUILD/apps/bbtouch" --size 24M --pattern rand --writes 30 --ops 1000 --json
	run jq -s 'map(select(.verified)) | length' "$OUT"/h*
	expect_equal "$output" $HOSTS
	run jq -s 'map(select(.attached and .faults > 500 and .fill_remote > 200 and .lost == 0)) | length' "$OUT"/stats*
	expect_equal "$output" $HOSTS
	t3=$SECONDS
	rss=$(of_all Rss) pss=$(of_all Pss)
	all=$((free - $(available)))
	say "up $((t1 - t0)) s, rounds $((t2 - t1)) s, programs $((t3 - t2)) s; bbd on $HOSTS hosts: $((rss / 1024)) MiB, $((pss / 1024)) MiB where what they share counts once; the machine has $((all / 1024)) MiB less"
	# A slab of 64 MiB that the kernel reads is mapped whole; what bbd needs beside it is little.
	((rss < HOSTS * (2 * 64 + 32) * 1024)) || fail "the bbds have $rss KiB"
	((all < 12 * 1024 * 1024)) || fail "the machine lacks $all KiB"
	((t3 - t0 < 180)) || fail "it took $((t3 - t0)) s"
	# One entry a host in the switch, however much memory there was.
	if [[ $(bbrack status -j | jq -r .switch) == bpf ]]; then
		run jq -c '.attached[0] | {nodes, counters}' < <("$BUILD/bbload" --netns "bb-$RACK-sw" show -j)
		expect_json '[.nodes[].node] | sort == [range(1; 43)]'
		expect_json '.counters | .placed >= 42 * 50 and .drop_node == 0 and .drop_hops == 0'
		# What was sent again went where it had gone before: none was placed twice.
		expect_json '[.nodes[].creates] | add == 42 * 50'
		expect_json '.nodes | all(.packets > 1000 and .creates > 0)'
		say "the switch: $(jq -r '"\(.nodes | length) entries, \(.nodes | map(.packets) | add) packets, CREATEs placed on a host \(.nodes | map(.creates) | "\(min) to \(max)")"' <<<"$output")"
	else
		say "a plain bridge: $(bbrack status -j | jq -r .switch_why)"
	fi
	# All saw all, to the end.
	run bbrack status -j
	expect_status 0
	expect_json '[.hosts[] | .sees | length] | min == 41'
}
