#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Pages that travel compressed (bbd --compress), and those that do not travel at all.

# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

setup() { need_root; }

teardown() {
	end_programs
	remove_racks
}

# touch LOCAL ARG...: bbtouch on h1, with that budget; it compares every page.
touch_pages() {
	run bbrack run h1 -- timeout 200 env BB_LOCAL="$1" BB_PLACE=2 BB_STATS="$BATS_TEST_TMPDIR/stats" \
		LD_PRELOAD="$BUILD/libbb.so" "$BUILD/apps/bbtouch" "${@:2}"
	expect_status 0
	jq -e '.attached and .lost == 0' "$BATS_TEST_TMPDIR/stats" >/dev/null || fail "$(<"$BATS_TEST_TMPDIR/stats")"
}

# asker FILTER: of h1's pager; home FILTER: of h2's server.
asker() { bbrack run h1 -- "$BUILD/bbctl" -j net show | jq "$1"; }
home() { bbrack run h2 -- "$BUILD/bbctl" -j net show | jq "$1"; }
uses() { bbrack run "$1" -- "$BUILD/bbctl" -j node show | jq -r '.nodes[] | select(.self | not) | .lz4'; }
# What the cable has carried, both ways.
cable_bytes() { bbrack run h1 -- ip -j -s link show eth0 | jq '.[0].stats64 | .tx.bytes + .rx.bytes'; }

compressed_both_ways() {
	(($(asker '.pagers[0].lz4_tx') > 1000)) || fail "few WRITEs were compressed"
	(($(asker '.pagers[0].lz4_rx') > 100)) || fail "few READs were compressed"
	(($(home '.server.lz4_rx') > 1000 && $(home '.server.lz4_tx') > 100)) || fail "the home counted few"
	expect_equal "$(asker '.pagers[0].malformed + .pagers[0].timeouts')" 0
}

@test "text travels compressed, right bytes come back, fewer bytes are on the cable" {
	local how bytes=() n

	for how in off on; do
		rack_up 2 --bbd-args "--compress $how"
		n=$(cable_bytes)
		touch_pages 16M --size 64M --content text --writes 30 --ops 8000
		bytes+=($(($(cable_bytes) - n)))
		if [[ $how == on ]]; then
			expect_equal "$(uses h1)" true
			compressed_both_ways
			(($(asker '.pagers[0].lz4_saved') > 20000000)) || fail "so little was saved: $(asker '.pagers[0]')"
			run bbrack run h1 -- "$BUILD/bbctl" metrics
			expect_output "bluebridge_client_lz4_saved"
			run bbrack run h1 -- "$BUILD/bbctl" node
			expect_output LZ4
		else
			expect_equal "$(uses h1)" false
			expect_equal "$(asker '.pagers[0] | .lz4_tx + .lz4_rx + .lz4_raw')" 0
		fi
		bbrack down
	done
	((bytes[1] * 4 < bytes[0] * 3)) || fail "on the cable: ${bytes[*]} bytes"
}

@test "what does not become shorter goes as it is" {
	rack_up 2 --bbd-args "--compress on"
	touch_pages 16M --size 48M --content random --writes 30 --ops 4000
	expect_equal "$(asker '.pagers[0] | .lz4_tx + .lz4_rx')" 0
	(($(asker '.pagers[0].lz4_raw') > 1000)) || fail "nobody tried"
}

@test "half zeros, four threads, at MTU 1500, with the kernel's programs and without" {
	local programs

	for programs in on off; do
		rack_up 2 --mtu 1500 --host-programs "$programs" --bbd-args "--compress on"
		touch_pages 16M --size 48M --content half --writes 30 --ops 3000 --threads 4
		compressed_both_ways
		bbrack down
	done
}

@test "one on, one off; auto between fast links" {
	rack_up 2 --bbd-args "--compress on"
	sed -i 's/^bbd_args=.*/bbd_args=--compress off/' "/run/bluebridge/$RACK/meta"
	"$BUILD/bbrack" --bin "$BIN" bbd h2 restart
	eventually 15 plain_again
	touch_pages 16M --size 48M --content text --writes 30 --ops 3000
	expect_equal "$(asker '.pagers[0] | .lz4_tx + .lz4_rx')" 0
	expect_equal "$(home '.server | .lz4_tx + .lz4_rx')" 0
	bbrack down
	rack_up 2
	# veth says 10 Gb/s.
	run bbrack run h1 -- "$BUILD/bbctl" -j node show
	expect_json '.nodes[] | select(.self) | .compress == "auto" and .link_mbit == 10000'
	expect_equal "$(uses h1)" false
}

@test "lost, doubled, late and damaged packets" {
	rack_up 2 --bbd-args "--compress on"
	export BB_TEST_NET=drop=3,dup=3,reorder=3,corrupt=2,seed=$RANDOM
	"$BUILD/bbrack" --bin "$BIN" bbd h2 restart
	"$BUILD/bbrack" --bin "$BIN" bbd h1 restart
	unset BB_TEST_NET
	eventually 20 sees_lz4
	touch_pages 8M --size 24M --content text --writes 50 --ops 2000 --threads 2
	(($(asker '.pagers[0].lz4_rx') > 100 && $(home '.server.lz4_rx') > 1000)) || fail "few were compressed"
}

plain_again() { [[ $(uses h1 2>/dev/null) == false && $(uses h2 2>/dev/null) == false ]]; }
sees_lz4() { [[ $(uses h1 2>/dev/null) == true && $(uses h2 2>/dev/null) == true ]]; }

@test "pages of zeros and pages that did not change cost no network" {
	rack_up 2
	touch_pages 16M --size 64M --content zero --writes 30 --ops 20000
	jq -e '.written_back == 0 and .fill_remote == 0 and .evicted_zero > 10000' "$BATS_TEST_TMPDIR/stats" >/dev/null ||
		fail "$(<"$BATS_TEST_TMPDIR/stats")"
	expect_equal "$(home '.server.commands.write // 0')" 0
	expect_equal "$(home '.server.commands | (.read // 0) + (.read_run // 0)')" 0
	# Read again and again: each page is written once, whatever was moved out.
	touch_pages 16M --size 48M --content random --writes 0 --ops 20000
	jq -e '.evicted_clean > 5000 and .written_back < 48 * 256 * 1.05' "$BATS_TEST_TMPDIR/stats" >/dev/null ||
		fail "$(<"$BATS_TEST_TMPDIR/stats")"
}
