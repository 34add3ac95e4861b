#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Whatever a program does as a process, it does as without us: it starts others,
# closes what it does not know, changes root and user, is stopped and looked at.
# Each test runs the same program plainly and paged, to a third of its data, and
# holds the outputs against each other. The programs check every byte.
# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

setup_file() {
	need_root
	export RACK=t$$-process
	bbrack --name "$RACK" --owner $$ up 2 3>&-
}

teardown_file() {
	bbrack --name "$RACK" down || :
}

setup() { cd "$TOP" || return; }

teardown() {
	end_programs
	rm -rf "${MADE[@]}"
}

MADE=()

# paged LOCAL COMMAND...: on h1, with that budget.
paged() {
	timeout -k 5 120 "$BUILD/bbrack" --name "$RACK" run h1 -- env BB_LOCAL="$1" LD_PRELOAD="$BUILD/libbb.so" "${@:2}"
}

# Pages that homes were sent, of both hosts.
pages_written() {
	local h

	for h in h1 h2; do
		"$BUILD/bbctl" --socket "/run/bluebridge/$RACK/$h/bbd.sock" -j home show
	done | jq -s 'map(.writes) | add'
}

# same COMMAND...: exit status and output are the same, plainly and paged.
same() {
	local plain before

	run timeout -k 5 120 "$@"
	expect_status 0
	plain=$output
	before=$(pages_written)
	run paged "${LOCAL:-8M}" "$@"
	expect_status 0
	expect_equal "$output" "$plain"
	(($(pages_written) > before + 500)) || fail "hardly a page went out: this shows nothing"
}

# --- programs that start others -------------------------------------------------

@test "fork and exec: arguments, environment, and the memory of both" { same "$BUILD/apps/bbspawn" exec 24; }
@test "vfork: nothing stops the child, and an exec that fails" { same "$BUILD/apps/bbspawn" vfork 24; }
@test "posix_spawn with attributes and actions" { same "$BUILD/apps/bbspawn" spawn 24; }
@test "system(3)" { same "$BUILD/apps/bbspawn" system 24; }
@test "popen: what goes through the pipe comes from paged memory" { same "$BUILD/apps/bbspawn" popen 24; }

# --- what a process may do to itself ----------------------------------------------

@test "all descriptors closed, by range, by list, one by one" { same "$BUILD/apps/bbchild" close 24; }
@test "daemon(3), whose parent ends at once" { same "$BUILD/apps/bbchild" daemon 24; }
@test "16 descriptors are all there are" { same "$BUILD/apps/bbchild" nofile 24; }
@test "chroot, and forks after that" { same "$BUILD/apps/bbchild" chroot 24; }
@test "another user, and forks after that" { same "$BUILD/apps/bbchild" setuid 24; }
@test "not dumpable, and forks after that" { same "$BUILD/apps/bbchild" nodump 24; }
@test "no new privileges" { same "$BUILD/apps/bbchild" nonewprivs 24; }
@test "seccomp: strict, and the end by exit(2) of main's thread alone" { same "$BUILD/apps/bbchild" seccomp 24; }
@test "a limit of the address space" { same "$BUILD/apps/bbchild" as 24; }

# --- threads ------------------------------------------------------------------------

@test "four thousand threads that come and go" { same "$BUILD/apps/bbthread" many 24; }
@test "dlopen and dlclose in four threads" { same "$BUILD/apps/bbthread" dlopen 24; }
@test "deep stacks in paged memory" { same "$BUILD/apps/bbthread" stack 24; }
@test "main's thread ends first, the process with the last one" { same "$BUILD/apps/bbthread" lastend 24; }
@test "threads are cancelled in the middle of faults" { same "$BUILD/apps/bbthread" cancel 24; }

# --- signals ---------------------------------------------------------------------------

@test "a signal handler that allocates, in the middle of faults" { same "$BUILD/apps/bbsignal" malloc 24; }
@test "a signal handler that maps, unmaps and discards, in the middle of the same" {
	same "$BUILD/apps/bbsignal" mmap 24
}
@test "siglongjmp out of a fault, on a stack of its own in paged memory" { same "$BUILD/apps/bbsignal" longjmp 24; }
@test "a write barrier by mprotect and SIGSEGV" { same "$BUILD/apps/bbsignal" barrier 24; }
@test "SIGSTOP and SIGCONT in the middle of faults" { same "$BUILD/apps/bbsignal" stop 24; }

# --- what we must keep out of --------------------------------------------------------------

@test "a set-user-ID program: nothing of ours in it, no file written for it" {
	local dir

	# The test's own directory is for root alone.
	dir=$(mktemp -d /tmp/bbtest.XXXXXX)
	MADE+=("$dir")
	chmod 755 "$dir"
	cp "$BUILD/apps/bbspawn" "$dir/job"
	chmod 4755 "$dir/job"
	run setpriv --reuid 65534 --regid 65534 --clear-groups "$dir/job" fork 8
	expect_status 0
	plain=$output
	chmod 777 "$dir"
	run timeout 60 setpriv --reuid 65534 --regid 65534 --clear-groups env BB_STATS="$dir/stats" BB_LOCAL=4M BB_LOG=debug \
		LD_PRELOAD="$BUILD/libbb.so" "$dir/job" fork 8
	expect_status 0
	expect_output "$plain"
	expect_no_output "libbb: "
	[[ ! -e $dir/stats ]] || fail "counters were written with another user's rights"
}

@test "a bbd that refuses: memory is local, and forks share no books" {
	python3 -c '
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(50)
while True:
    s.accept()[0].close()' "$BATS_TEST_TMPDIR/s" 3>&- &
	PIDS+=($!)
	eventually 10 test -S "$BATS_TEST_TMPDIR/s"
	run timeout 60 env BB_SOCKET="$BATS_TEST_TMPDIR/s" BB_LOCAL=8M LD_PRELOAD="$BUILD/libbb.so" "$BUILD/apps/bbchild" halves 8
	expect_status 0
	expect_output "refused"
	expect_output "bbchild halves: every byte right"
}

@test "descriptors closed past the C library: what is paged is gone loudly, never zeros" {
	run paged 8M "$BUILD/apps/bbchild" rawclose 24
	expect_status 1
	expect_output "closed past the C library"
	expect_output "rawclose: ended with status" # by a signal
	expect_no_output "is wrong"
}

@test "gdb attaches, looks, and lets go; the program goes on" {
	type -P gdb >/dev/null || skip "no gdb"
	paged 8M "$BUILD/apps/bbsignal" barrier 24 >"$BATS_TEST_TMPDIR/out" 2>&1 3>&- &
	PIDS+=($!)
	"$BUILD/apps/bbsignal" barrier 24 >"$BATS_TEST_TMPDIR/want"
	for i in 1 2 3; do
		p=$(pgrep -x bbsignal) || break
		# What is not here reads as an error, never as zeros.
		timeout 20 gdb -q -batch -nx -p "$p" -ex 'bt 3' -ex 'info threads' -ex 'x/gx h.mem+512*100' -ex detach >"$BATS_TEST_TMPDIR/gdb" 2>&1 || :
		((i > 1)) || grep -q 'bb-helper' "$BATS_TEST_TMPDIR/gdb" || cat "$BATS_TEST_TMPDIR/gdb"
		run grep -E '^0x[0-9a-f]+.*:[[:space:]]' "$BATS_TEST_TMPDIR/gdb"
		expect_no_output "0x0000000000000000"
		sleep 0.2
	done
	wait "${PIDS[-1]}" || fail "$(<"$BATS_TEST_TMPDIR/out")"
	cmp "$BATS_TEST_TMPDIR/want" "$BATS_TEST_TMPDIR/out"
}
