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

teardown() { end_programs; }

# paged LOCAL COMMAND...: on h1, with that budget.
paged() {
	timeout -k 5 60 "$BUILD/bbrack" --name "$RACK" run h1 -- env BB_LOCAL="$1" LD_PRELOAD="$BUILD/libbb.so" "${@:2}"
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

	run timeout -k 5 60 "$@"
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
@test "another user, and forks after that" { same "$BUILD/apps/bbchild" setuid 24; }
@test "not dumpable, and forks after that" { same "$BUILD/apps/bbchild" nodump 24; }
@test "no new privileges" { same "$BUILD/apps/bbchild" nonewprivs 24; }
@test "a limit of the address space" { same "$BUILD/apps/bbchild" as 24; }

# --- threads ------------------------------------------------------------------------

@test "four thousand threads that come and go" { same "$BUILD/apps/bbthread" many 24; }
@test "dlopen and dlclose in four threads" { same "$BUILD/apps/bbthread" dlopen 24; }
@test "deep stacks in paged memory" { same "$BUILD/apps/bbthread" stack 24; }
@test "threads are cancelled in the middle of faults" { same "$BUILD/apps/bbthread" cancel 24; }

# --- signals ---------------------------------------------------------------------------

@test "a signal handler that allocates, in the middle of faults" { same "$BUILD/apps/bbsignal" malloc 24; }
@test "siglongjmp out of a fault, on a stack of its own in paged memory" { same "$BUILD/apps/bbsignal" longjmp 24; }
@test "a write barrier by mprotect and SIGSEGV" { same "$BUILD/apps/bbsignal" barrier 24; }
@test "SIGSTOP and SIGCONT in the middle of faults" { same "$BUILD/apps/bbsignal" stop 24; }
