#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# The main job: unmodified programs with a quarter of their data as local memory
# on a rack of three, at both MTUs. The same results, within the budget.
# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

setup_file() {
	need_root
	export RACK_JUMBO=t$$-9000 RACK_SMALL=t$$-1500
	bbrack --name "$RACK_JUMBO" --owner $$ --mtu 9000 up 3 3>&-
	bbrack --name "$RACK_SMALL" --owner $$ --mtu 1500 up 3 3>&-
	export DATA=$BATS_FILE_TMPDIR
	"$BUILD/apps/gentext" 48M 4096 >"$DATA/text"
}

teardown_file() {
	bbrack --name "$RACK_JUMBO" down || :
	bbrack --name "$RACK_SMALL" down || :
}

setup() { cd "$TOP" || return; }

teardown() { end_programs; }

# ours RACK LOCAL COMMAND...: on h1, with its counters in $STATS.
ours() {
	STATS=$BATS_TEST_TMPDIR/stats.json
	timeout 120 env BB_LOCAL="$2" BB_STATS="$STATS" "$BUILD/bbrack" --name "$1" run h1 -- "$BUILD/bbrun" "${@:3}"
}

# The test would show nothing if all had stayed here.
was_remote() {
	local remote

	remote=$(jq .fill_remote "$STATS")
	((remote > 100)) || fail "only $remote pages came from other hosts"
	expect_equal "$(jq .lost "$STATS")" 0 "pages lost"
}

# Runs a command and notes what was resident in its region: PEAK, in bytes.
watched() {
	local rack=$1 name=$2 watcher

	scripts/residency --every 0.05 "$BUILD/bbctl" "/run/bluebridge/$rack/h1/bbd.sock" "$name" >"$BATS_TEST_TMPDIR/seen" 3>&- &
	watcher=$!
	PIDS+=("$watcher")
	"${@:3}" || { fail "exit status $?: ${*:3}"; return 1; }
	kill "$watcher"
	wait "$watcher" || :
	PEAK=$(jq .peak "$BATS_TEST_TMPDIR/seen")
	(($(jq .samples "$BATS_TEST_TMPDIR/seen") > 0)) || fail "never saw its region"
}

sort_job() {
	export LC_ALL=C
	sort -S 64M --parallel=1 "$DATA/text" >"$BATS_TEST_TMPDIR/want"
	watched "$1" sort ours "$1" 12M sort -S 64M --parallel=1 -o "$BATS_TEST_TMPDIR/got" "$DATA/text"
	cmp "$BATS_TEST_TMPDIR/want" "$BATS_TEST_TMPDIR/got"
	was_remote
	((PEAK <= 12 << 20)) || fail "$PEAK bytes were resident, more than BB_LOCAL"
}

numpy_job() {
	local want

	export OPENBLAS_NUM_THREADS=1
	want=$(/usr/bin/python3 tests/apps/np_job.py 48)
	watched "$1" python3 ours "$1" 12M /usr/bin/python3 tests/apps/np_job.py 48 >"$BATS_TEST_TMPDIR/got"
	expect_equal "$(<"$BATS_TEST_TMPDIR/got")" "$want"
	was_remote
	((PEAK <= 12 << 20)) || fail "$PEAK bytes were resident, more than BB_LOCAL"
}

redis_job() {
	local sock=$BATS_TEST_TMPDIR/s want

	redis-server --port 0 --unixsocket "$sock" --save '' --appendonly no >"$BATS_TEST_TMPDIR/log" 3>&- &
	PIDS+=($!)
	eventually 10 test -S "$sock"
	want=$(tests/apps/redis_job.py "$sock" 20000)
	kill "$!"
	wait "$!" || :
	rm -f "$sock"
	ours "$1" 7M redis-server --port 0 --unixsocket "$sock" --save '' --appendonly no >"$BATS_TEST_TMPDIR/log" 2>&1 3>&- &
	PIDS+=($!)
	eventually 10 test -S "$sock"
	run tests/apps/redis_job.py "$sock" 20000
	expect_status 0
	expect_equal "$output" "$want"
	run "$BUILD/bbctl" --socket "/run/bluebridge/$1/h1/bbd.sock" -j program show
	expect_json '.programs[] | select(.comm == "redis-server") | .fill_remote > 100 and .lost == 0 and ([.nodes[].pages] | add) > 1000'
	redis-cli -s "$sock" shutdown nosave || :
	eventually 10 is_gone "${PIDS[-1]}"
}

sqlite_job() {
	local sql="PRAGMA cache_size=-40000; PRAGMA temp_store=memory;
		CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB, h INTEGER);
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 24000)
		INSERT INTO t SELECT i, printf('%.1000d', i * 7919 % 24001), i * 2654435761 % 1000003 FROM n;
		CREATE INDEX x ON t(h);
		SELECT count(*), sum(h), sum(length(v)), sum(substr(v, -6) + 0) FROM t WHERE h > 1000;
		SELECT sum(substr(a.v, -6) + 0) FROM t a JOIN t b ON b.k = a.h % 24000 + 1 ORDER BY 1;
		PRAGMA integrity_check;"

	run sqlite3 :memory: "$sql"
	expect_status 0
	expect_output ok
	printf '%s\n' "$output" >"$BATS_TEST_TMPDIR/want"
	ours "$1" 8M --heap=jemalloc sqlite3 :memory: "$sql" >"$BATS_TEST_TMPDIR/got"
	cmp "$BATS_TEST_TMPDIR/want" "$BATS_TEST_TMPDIR/got"
	was_remote
}

@test "sort, MTU 9000" { sort_job "$RACK_JUMBO"; }
@test "sort, MTU 1500" { sort_job "$RACK_SMALL"; }
@test "numpy, MTU 9000" { numpy_job "$RACK_JUMBO"; }
@test "numpy, MTU 1500" { numpy_job "$RACK_SMALL"; }
@test "redis, MTU 9000" { redis_job "$RACK_JUMBO"; }
@test "redis, MTU 1500" { redis_job "$RACK_SMALL"; }
@test "sqlite on jemalloc, MTU 9000" { sqlite_job "$RACK_JUMBO"; }
@test "sqlite on jemalloc, MTU 1500" { sqlite_job "$RACK_SMALL"; }

@test "a budget above 64M holds as well" {
	# Budgets of this size take whole extents at a time.
	"$BUILD/apps/gentext" 320M 16384 >"$BATS_TEST_TMPDIR/text"
	LC_ALL=C sort -S 360M --parallel=1 "$BATS_TEST_TMPDIR/text" | cksum >"$BATS_TEST_TMPDIR/want"
	export LC_ALL=C
	watched "$RACK_JUMBO" sort ours "$RACK_JUMBO" 80M sort -S 360M --parallel=1 -o "$BATS_TEST_TMPDIR/got" "$BATS_TEST_TMPDIR/text"
	expect_equal "$(cksum <"$BATS_TEST_TMPDIR/got")" "$(<"$BATS_TEST_TMPDIR/want")"
	was_remote
	((PEAK <= 80 << 20)) || fail "$PEAK bytes were resident, more than BB_LOCAL"
}

@test "memory comes from the other hosts, and goes back" {
	local h used

	ours "$RACK_JUMBO" 12M "$BUILD/apps/bbtouch" --help >/dev/null
	ours "$RACK_JUMBO" 12M sort -S 64M --parallel=1 "$DATA/text" >/dev/null
	for h in 2 3; do
		run "$BUILD/bbctl" --socket "/run/bluebridge/$RACK_JUMBO/h$h/bbd.sock" -j home show
		expect_json '.creates > 0 and .writes > 0'
	done
	all_given_back() {
		for h in 1 2 3; do
			used=$("$BUILD/bbctl" --socket "/run/bluebridge/$RACK_JUMBO/h$h/bbd.sock" -j home show | jq .used)
			((used == 0)) || return 1
		done
	}
	eventually 10 all_given_back
}
