#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# bbrun: exit status, signals, LD_PRELOAD, the embedded bbd.
# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there
# shellcheck disable=SC2016 # for the shell under bbrun

load common

setup() {
	export XDG_RUNTIME_DIR=$BATS_TEST_TMPDIR/run
	mkdir "$XDG_RUNTIME_DIR"
	# No bbd of this machine is asked.
	SOCKET=$BATS_TEST_TMPDIR/none.sock
}

teardown() {
	end_programs
	eventually 10 no_embedded_left || embedded_left
}

bbrun() { "$BUILD/bbrun" "$@"; }

@test "the exit status is the command's" {
	run bbrun true
	expect_status 0
	run bbrun -- sh -c 'exit 42'
	expect_status 42
	no_embedded_left
}

@test "the command gets standard input and its own options" {
	run bash -c "echo hello | '$BUILD/bbrun' cat"
	expect_equal "$output" hello
	run bbrun echo --help --lend
	expect_equal "$output" "--help --lend"
	cd "$BATS_TEST_TMPDIR"
	run bbrun pwd
	expect_equal "$output" "$BATS_TEST_TMPDIR"
}

@test "a command that a signal ends: bbrun ends by the same" {
	run python3 - "$BUILD/bbrun" <<-'EOF'
		import subprocess, sys
		for sig in 15, 9, 11:
		    print(-subprocess.run([sys.argv[1], "sh", "-c", "ulimit -c 0; kill -%d $$" % sig]).returncode)
	EOF
	expect_equal "$output" $'15\n9\n11'
	no_embedded_left
}

@test "signals reach the command" {
	run python3 - "$BUILD/bbrun" <<-'EOF'
		import signal, subprocess, sys
		job = ("import signal, sys, time\n"
		       "signal.signal(signal.SIGUSR1, lambda *a: sys.exit(7))\n"
		       "print('ready', flush=True)\n"
		       "time.sleep(60)\n")
		p = subprocess.Popen([sys.argv[1], "/usr/bin/python3", "-c", job], stdout=subprocess.PIPE, text=True)
		print(p.stdout.readline().strip())
		p.send_signal(signal.SIGUSR1)
		print(p.wait(20))
		for sig in signal.SIGTERM, signal.SIGINT, signal.SIGHUP:
		    p = subprocess.Popen([sys.argv[1], "sh", "-c", "echo ready; exec sleep 60"], stdout=subprocess.PIPE, text=True)
		    p.stdout.readline()
		    p.send_signal(sig)
		    print(p.wait(20))
	EOF
	expect_equal "$output" $'ready\n7\n-15\n-2\n-1'
	no_embedded_left
}

@test "libbb.so is preloaded, and what was preloaded before is kept" {
	run bbrun sh -c 'echo $LD_PRELOAD'
	expect_equal "$output" "$BUILD/libbb.so"
	LD_PRELOAD=libm.so.6 run bbrun sh -c 'echo $LD_PRELOAD'
	expect_equal "$output" "$BUILD/libbb.so:libm.so.6"
	LD_PRELOAD="libm.so.6 librt.so.1" run bbrun sh -c 'echo $LD_PRELOAD'
	expect_equal "$output" "$BUILD/libbb.so:libm.so.6:librt.so.1"
	# Under itself it appears once.
	run bbrun "$BUILD/bbrun" sh -c 'echo $LD_PRELOAD'
	expect_equal "$output" "$BUILD/libbb.so"
}

@test "a sanitizer's run-time library stays first" {
	local asan

	asan=$(gcc -print-file-name=libasan.so.8)
	[[ -e $asan ]] || skip "no libasan.so.8"
	# Empty here: bbrun's own shell shall not run under it.
	run env LD_PRELOAD="$asan" ASAN_OPTIONS=detect_leaks=0 "$BUILD/bbrun" env
	expect_output "LD_PRELOAD=$asan:$BUILD/libbb.so"
}

@test "--heap=jemalloc comes last, other heaps are refused" {
	run bbrun --heap=jemalloc sh -c 'echo $LD_PRELOAD'
	expect_output "$BUILD/libbb.so:"
	[[ $output == */libjemalloc.so.2 ]] || fail "$output"
	run bbrun --heap jemalloc sh -c 'echo $LD_PRELOAD'
	[[ $output == */libjemalloc.so.2 ]] || fail "$output"
	run bbrun --heap=tcmalloc true
	expect_status 125
	expect_output "jemalloc or libc"
}

@test "--local is BB_LOCAL" {
	run bbrun --local 64M sh -c 'echo $BB_LOCAL'
	expect_equal "$output" 64M
}

@test "an embedded bbd runs for the time of the command" {
	run bbrun sh -c 'echo $BB_SOCKET; [ -S $BB_SOCKET ] && echo there; ls ${BB_SOCKET%/*}'
	expect_status 0
	expect_output "$XDG_RUNTIME_DIR/bluebridge."
	expect_output there
	no_embedded_left
}

@test "a named bbd that does not answer is said" {
	BB_SOCKET=$SOCKET run bbrun sh -c 'echo $BB_SOCKET'
	expect_status 0
	expect_output "no bbd answers at BB_SOCKET=$SOCKET"
	expect_output "$XDG_RUNTIME_DIR/bluebridge."
}

@test "where a bbd answers, none is started" {
	run bbrun sh -c "'$BUILD/bbrun' sh -c 'echo \$BB_SOCKET'; ls -d '$XDG_RUNTIME_DIR'/bluebridge.* | wc -l"
	expect_equal "${lines[1]}" 1
}

@test "without XDG_RUNTIME_DIR /tmp is taken, and left clean" {
	run env -u XDG_RUNTIME_DIR "$BUILD/bbrun" sh -c 'echo ${BB_SOCKET%/*}'
	[[ $output == /tmp/bluebridge.* ]] || fail "$output"
	[[ ! -e $output ]] || fail "$output was left behind"
}

@test "a killed bbrun leaves nothing once the command has ended" {
	local pid command

	"$BUILD/bbrun" sh -c 'echo $$ >"$0"; exec sleep 300' "$BATS_TEST_TMPDIR/pid" 3>&- &
	pid=$!
	PIDS+=("$pid")
	eventually 20 test -s "$BATS_TEST_TMPDIR/pid"
	command=$(<"$BATS_TEST_TMPDIR/pid")
	PIDS+=("$command")
	kill -s KILL "$pid"
	sleep 1
	[[ $(embedded_left) ]] || fail "the embedded bbd ended before the command"
	kill "$command"
	eventually 10 no_embedded_left
}

@test "a program that outlives the command keeps its memory" {
	# It attaches by allocating more than its budget, and checks it at the end.
	run timeout 60 "$BUILD/bbrun" --local 16M sh -c '/usr/bin/python3 -c "
import os, sys, time
b = bytearray(64 << 20)
for i in range(0, len(b), 4096): b[i] = i >> 12 & 255
open(sys.argv[1], \"w\").write(\"ready\")
end = time.time() + 20
while not os.path.exists(sys.argv[2]) and time.time() < end: time.sleep(0.05)
bad = sum(b[i] != i >> 12 & 255 for i in range(0, len(b), 4096))
open(sys.argv[3], \"w\").write(\"bad %d\" % bad)
" "$1/ready" "$1/go" "$1/out" >/dev/null 2>&1 3>&- & while [ ! -e "$1/ready" ]; do sleep 0.05; done' sh "$BATS_TEST_TMPDIR"
	expect_status 0
	expect_output "the embedded bbd stays until it ends"
	: >"$BATS_TEST_TMPDIR/go"
	eventually 20 test -s "$BATS_TEST_TMPDIR/out"
	expect_equal "$(<"$BATS_TEST_TMPDIR/out")" "bad 0"
	eventually 15 no_embedded_left
}

@test "an embedded bbd that cannot start: its words are shown" {
	run bbrun --lend 1T --store "$BATS_TEST_TMPDIR/nowhere" true
	expect_status 125
	expect_output "not a directory"
	run bbrun --lend 12Q true
	expect_status 125
	expect_output "is not a size"
	no_embedded_left
}

@test "what cannot be run: 126, 127, 125" {
	run bash -c "'$BUILD/bbrun' no-such-program-here || exit \$((\$? - 100))"
	expect_status 27
	expect_output "not found"
	run bbrun /etc/passwd
	expect_status 126
	run bbrun --no-such-option true
	expect_status 125
	run bbrun
	expect_status 125
	((${#lines[@]} == 1)) || fail "$output"
	no_embedded_left
}

@test "help names every option" {
	local word

	run bbrun --help
	expect_status 0
	for word in --heap --local --lend --store 'BB_' 125 126 127; do
		expect_output "$word"
	done
}
