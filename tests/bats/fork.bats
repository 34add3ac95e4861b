#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# fork: a child sees the parent's memory as it was, both go on writing, neither
# sees the other's writes, and what neither wrote is held once. Programs run
# plainly and paged, and must say the same.
# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

setup_file() {
	need_root
	export RACK=t$$-fork
	bbrack --name "$RACK" --owner $$ up 2 3>&-
}

teardown_file() {
	bbrack --name "$RACK" down || :
}

setup() {
	cd "$TOP" || return
	export OPENBLAS_NUM_THREADS=1
}

teardown() { end_programs; }

# on_h1 COMMAND...: there, with BB_LOCAL from LOCAL and libbb.so.
on_h1() {
	"$BUILD/bbrack" --name "$RACK" run h1 -- env BB_LOCAL="${LOCAL:-8M}" LD_PRELOAD="$BUILD/libbb.so" "$@"
}

# homes FIELD: of both hosts' homes, added up.
homes() {
	local h

	for h in h1 h2; do
		"$BUILD/bbctl" --socket "/run/bluebridge/$RACK/$h/bbd.sock" -j home show
	done | jq -s "map(.$1) | add"
}

# same COMMAND...: exit status and standard output are the same, plainly and paged.
same() {
	local plain before

	run timeout -k 5 120 "$@"
	expect_status 0
	plain=$output
	before=$(homes writes)
	run timeout -k 5 100 "$BUILD/bbrack" --name "$RACK" run h1 -- \
		env BB_LOCAL="${LOCAL:-8M}" LD_PRELOAD="$BUILD/libbb.so" "${BY[@]}" "$@"
	expect_status 0
	expect_equal "$output" "$plain"
	(($(homes writes) > before + 500)) || fail "hardly a page went out: this shows nothing"
}

@test "a thousand children in turn" { same "$BUILD/apps/bbspawn" fork 24 1000; }
@test "twelve children at a time, all writing" { same "$BUILD/apps/bbspawn" crowd 24 2; }
@test "children of children, four deep, all writing" { same "$BUILD/apps/bbfork" --size 20 --children 2 --depth 4; }
@test "fork from one thread among many that allocate, touch and free" { same "$BUILD/apps/bbthread" fork 12; }
@test "four threads that fork at the same time" { same "$BUILD/apps/bbthread" forkall 12; }
@test "the program's own atfork handlers allocate and touch" { same "$BUILD/apps/bbchild" atfork 18; }
@test "fork in a signal handler, in the middle of a fault" { same "$BUILD/apps/bbchild" sigfork 18; }

@test "fork without CAP_SYS_PTRACE" {
	BY=(setpriv --bounding-set=-sys_ptrace --inh-caps=-sys_ptrace)
	run "${BY[@]}" grep CapEff /proc/self/status
	((!(16#${output#*:?} >> 19 & 1))) || fail "the capability is still there: $output"
	same "$BUILD/apps/bbfork" --size 20 --children 2 --depth 2
}

@test "a clone past fork(): it sees nothing that is paged, and harms nobody" {
	run timeout 120 "$BUILD/bbrack" --name "$RACK" run h1 -- env BB_LOCAL=8M LD_PRELOAD="$BUILD/libbb.so" \
		"$BUILD/apps/bbchild" pastfork 24
	expect_status 0
	expect_output "made past fork()"
	expect_output "bbchild pastfork: every byte right"
}

@test "fork amid threads with an allocator on top, whose own books are paged" {
	JEMALLOC=$(ldconfig -p | awk '$1 == "libjemalloc.so.2" { print $NF; exit }')
	BY=(env LD_PRELOAD="$BUILD/libbb.so:$JEMALLOC")
	same "$BUILD/apps/bbthread" fork 12
	same "$BUILD/apps/bbthread" forkall 12
}

@test "python: a pool of forked workers over a large array" {
	LOCAL=8M same /usr/bin/python3 tests/apps/np_pool.py 20
}

@test "a pipeline of programs under bbrun, each with large memory" {
	local before
	local job="sort -S 24M --parallel=1 -k2 | uniq -c | sort -S 24M --parallel=1 -rn -k1,1 -k2 >\$out"

	export LC_ALL=C
	"$BUILD/apps/gentext" 14M 700 >"$BATS_TEST_TMPDIR/text"
	out=$BATS_TEST_TMPDIR/plain bash -o pipefail -c "$job" <"$BATS_TEST_TMPDIR/text"
	before=$(homes writes)
	out=$BATS_TEST_TMPDIR/paged timeout 100 "$BUILD/bbrack" --name "$RACK" run h1 -- \
		"$BUILD/bbrun" --local 6M bash -o pipefail -c "$job" <"$BATS_TEST_TMPDIR/text"
	cmp "$BATS_TEST_TMPDIR/plain" "$BATS_TEST_TMPDIR/paged"
	(($(wc -l <"$BATS_TEST_TMPDIR/plain") > 1000)) || fail "hardly a line came out"
	(($(homes writes) > before + 1000)) || fail "hardly a page went out: this shows nothing"
}

# --- redis -------------------------------------------------------------------------

# redis DIR OPTION...: a plain server there, ready.
redis_up() {
	local dir=$1

	mkdir -p "$dir"
	REDIS=$dir/s
	"${UNDER[@]}" redis-server --port 0 --unixsocket "$REDIS" --dir "$dir" --save '' --enable-debug-command yes "${@:2}" \
		>"$dir/log" 2>&1 3>&- &
	PIDS+=($!)
	eventually 20 test -S "$REDIS"
	eventually 20 redis_is_ready
}

redis_is_ready() { [[ $(redis-cli -s "$REDIS" ping 2>/dev/null) == PONG ]]; }

redis_down() {
	redis-cli -s "$REDIS" shutdown nosave || :
	eventually 10 is_gone "${PIDS[-1]}"
}

@test "redis: BGSAVE and AOF rewrite under load, and both files load as the same data" {
	local d=$BATS_TEST_TMPDIR want

	UNDER=()
	redis_up "$d/plain" --appendonly yes
	want=$(tests/apps/redis_fork.py "$REDIS" 3000)
	redis_down
	UNDER=(env BB_LOCAL=5M "$BUILD/bbrack" --name "$RACK" run h1 -- "$BUILD/bbrun")
	redis_up "$d/paged" --appendonly yes
	run tests/apps/redis_fork.py "$REDIS" 3000
	expect_status 0
	expect_equal "$output" "$want" "digest of the live data"
	run "$BUILD/bbctl" --socket "/run/bluebridge/$RACK/h1/bbd.sock" -j program show
	expect_json '.programs[] | select(.comm == "redis-server") | .fill_remote > 1000 and .written_back > 1000 and .lost == 0'
	redis_down
	run cat "$d/paged/log"
	expect_output "DB saved on disk"
	expect_output "Background AOF rewrite finished successfully"
	UNDER=()
	mkdir "$d/rdb"
	cp "$d/paged/dump.rdb" "$d/rdb"
	redis_up "$d/rdb"
	expect_equal "$(tests/apps/redis_fork.py "$REDIS" look)" "$want" "digest of the dump"
	redis_down
	mkdir "$d/aof"
	cp -r "$d/paged/appendonlydir" "$d/aof"
	redis_up "$d/aof" --appendonly yes
	expect_equal "$(tests/apps/redis_fork.py "$REDIS" look)" "$want" "digest of the append-only file"
	redis_down
}

# --- what a fork costs -----------------------------------------------------------------

step() {
	printf '%s\n' "$1" >&7
	read -r -t 60 answer <&8 || fail "no answer to: $1"
	expect_equal "$answer" "done" "$1"
}

# programs FIELDS: of all programs on h1, added up.
programs() {
	"$BUILD/bbctl" --socket "/run/bluebridge/$RACK/h1/bbd.sock" -j program show |
		jq "[.programs[] | select(.comm == \"bbshare\") | $1] | add"
}

# counted STEP: the pages that it brings in and stores (READ, WRITTEN), and the
# extents that the homes hold after it (EXTENTS).
counted() {
	local r w

	r=$(programs .fill_remote+.prefetched) w=$(programs .written_back)
	step "$1"
	sleep 0.3 # what is written back behind it
	READ=$(($(programs .fill_remote+.prefetched) - r)) WRITTEN=$(($(programs .written_back) - w))
	EXTENTS=$(homes extents)
	printf '# %-16s %6d pages fetched %6d stored, %d extents held\n' "$1" "$READ" "$WRITTEN" "$EXTENTS"
}

at_most() { (($1 <= $2)) || fail "$3: $1, at most $2 were needed"; }

@test "what neither wrote is held once, and is not stored again" {
	local held pages=8192 ahead=4 # extents that bbd takes in advance, for each program

	nothing_used() { (($(homes used) == 0)); }
	eventually 10 nothing_used
	mkfifo "$BATS_TEST_TMPDIR/in" "$BATS_TEST_TMPDIR/out"
	LOCAL=8M on_h1 "$BUILD/apps/bbshare" 32 <"$BATS_TEST_TMPDIR/in" >"$BATS_TEST_TMPDIR/out" 3>&- &
	PIDS+=($!)
	exec 7>"$BATS_TEST_TMPDIR/in" 8<"$BATS_TEST_TMPDIR/out"
	read -r -t 60 answer <&8
	expect_equal "$answer" filled
	# All that has been out once is clean from now on.
	counted "parent read"
	counted "parent read"
	held=$EXTENTS
	at_most "$WRITTEN" 200 "reading stores"

	counted fork
	at_most "$READ" 100 "fork fetches"
	at_most "$WRITTEN" 100 "fork stores"
	at_most "$EXTENTS" $((held + ahead)) "fork takes memory at the homes"

	counted "child read"
	at_most "$READ" $((pages + pages / 4)) "each page is fetched about once"
	at_most "$WRITTEN" 200 "reading stores"
	at_most "$EXTENTS" $((held + ahead)) "reading takes memory at the homes"

	counted "parent read"
	at_most "$WRITTEN" 200 "reading stores, after a fork"
	at_most "$EXTENTS" $((held + ahead)) "reading takes memory at the homes, after a fork"

	# One extent's worth: what goes elsewhere is what was written.
	counted "child write 512"
	counted "child read"
	at_most "$WRITTEN" 1200 "more is stored than was written"
	at_most "$EXTENTS" $((held + 2 * ahead)) "more is taken than was written to"

	counted "parent write 512"
	counted "parent read"
	at_most "$WRITTEN" 1200 "more is stored than was written"
	counted "child read"

	counted end
	# What the parent had to take in advance for its own writes it may keep.
	gone() { (($(homes extents) <= held + ahead)); }
	eventually 10 gone
	counted "parent read"
	exec 7>&-
	wait "${PIDS[-1]}" || fail "bbshare failed"
	exec 8<&-
	PIDS=()
	eventually 10 nothing_used
}
