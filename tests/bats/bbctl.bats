#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# bbctl and its doctor; the man pages and samples against the options' tables.
# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

setup() {
	SOCKET=$BATS_TEST_TMPDIR/bbd.sock
	LOG=$BATS_TEST_TMPDIR/bbd.log
}

teardown() {
	end_programs
	remove_racks
}

bbctl() { "$BUILD/bbctl" --socket "$SOCKET" "$@"; }

is_up() { "$BUILD/bbctl" --socket "$SOCKET" -j node >/dev/null 2>&1; }

start_bbd() {
	local args=(--embedded --lend 256M --local 64M --socket "$SOCKET")

	: >"$BATS_TEST_TMPDIR/bbd.conf"
	"$BUILD/bbd" --config "$BATS_TEST_TMPDIR/bbd.conf" "${args[@]}" </dev/null >"$LOG" 2>&1 3>&- &
	PIDS+=("$!")
	disown "$!"
	eventually 10 is_up
}

# start_fake CODE: at the socket answers who runs CODE with each caller as c.
start_fake() {
	cat >"$BATS_TEST_TMPDIR/fake.py" <<-EOF
		import os, socket, sys, time
		s = socket.socket(socket.AF_UNIX)
		s.bind(sys.argv[1] + ".new")
		s.listen(8)
		os.rename(sys.argv[1] + ".new", sys.argv[1])
		def serve(c):
		    $1
		while True:
		    c, _ = s.accept()
		    try:
		        serve(c)
		    except OSError:
		        pass
		    c.close()
	EOF
	python3 "$BATS_TEST_TMPDIR/fake.py" "$SOCKET" </dev/null >"$LOG" 2>&1 3>&- &
	PIDS+=("$!")
	disown "$!"
	eventually 10 test -S "$SOCKET"
}

# fake_result JSON: the result of every request.
fake_result() { start_fake "c.recv(4096); c.sendall(b'{\"ok\":true,\"result\":' + '''$1'''.encode() + b'}\\n')"; }

# A program of a region: more memory than its budget.
start_program() {
	BB_SOCKET=$SOCKET LD_PRELOAD=$BUILD/libbb.so BB_LOCAL=16M /usr/bin/python3 -c '
import os, sys, time
b = bytearray(48 << 20)
for i in range(0, len(b), 4096): b[i] = 1
s = sum(b[i] for i in range(0, len(b), 4096))
open(sys.argv[1], "w").write(str(s))
time.sleep(60)' "$BATS_TEST_TMPDIR/ready" </dev/null >"$BATS_TEST_TMPDIR/program.log" 2>&1 3>&- &
	PROGRAM=$!
	PIDS+=("$PROGRAM")
	disown "$PROGRAM"
	eventually 30 test -s "$BATS_TEST_TMPDIR/ready"
	expect_equal "$(<"$BATS_TEST_TMPDIR/ready")" 12288
}

# --- commands -----------------------------------------------------------------

@test "without a bbd: where it looked, and what to do" {
	run bbctl
	expect_status 1
	expect_output "no bbd at $SOCKET"
	expect_output "systemctl start bbd"
	BB_SOCKET=$BATS_TEST_TMPDIR/other run "$BUILD/bbctl" node
	expect_status 1
	expect_output "no bbd at $BATS_TEST_TMPDIR/other"
}

@test "a socket whose bbd was killed" {
	start_bbd
	kill -s KILL "${PIDS[0]}"
	eventually 5 is_gone "${PIDS[0]}"
	run bbctl node
	expect_status 1
	expect_output "has ended"
}

@test "every object, for people and as JSON" {
	local command

	start_bbd
	for command in '' node 'node show' program region fault 'fault show' home net metrics; do
		# shellcheck disable=SC2086 # words
		run bbctl $command
		expect_status 0
		[[ $output ]] || fail "bbctl $command says nothing"
		# shellcheck disable=SC2086
		run bbctl -j $command
		expect_status 0
		expect_json 'type == "object"'
		((${#lines[@]} == 1)) || fail "more than a line"
	done
}

@test "-j is what bbd answers" {
	start_bbd
	run bbctl -j
	expect_json '.version and .pid > 0 and (.nodes | length) == 1 and .programs == [] and .home.lent == 268435456'
	run bbctl node -j
	expect_json '.nodes[0].self and .nodes[0].alive and .nodes[0].transport == "local"'
	run bbctl -j home
	expect_json '.used == 0 and .refused == {} and .kernel_reads == 0 and .mapped == 0'
	run bbctl -j fault
	expect_json '[.remote | keys[]] == ["directory", "enter", "exit", "get data", "other", "total"] and .local.count == 0'
	run bbctl -j net
	expect_json '.server.rx_packets == 0 and (.pagers | length) == 1 and .kernel.state == "off" and .kernel.why == "embedded"'
	run bbctl -j metrics
	expect_json '.text | startswith("# HELP")'
}

@test "metrics are Prometheus' text" {
	start_bbd
	run bbctl metrics
	expect_output "bluebridge_home_lent_bytes 268435456"
	! grep -vE '^(# (HELP|TYPE) [a-z_][a-z0-9_]* .+|[a-z_][a-z0-9_]*(\{[^}]*\})? [0-9.e+-]+)$' <<<"$output" || fail "not Prometheus' format"
}

@test "names may be shortened, unless ambiguous" {
	start_bbd
	run bbctl no sh
	expect_status 0
	run bbctl pro
	expect_status 0
	run bbctl n
	expect_status 2
	expect_output "could be node, net"
	run bbctl nodes
	expect_status 2
	expect_output "there are node, program"
	run bbctl fault drop
	expect_status 2
	expect_output "there are show, reset"
}

@test "wrong usage: 2, and one message" {
	local args

	start_bbd
	for args in --no-such-option --socket 'node show x' 'program set' 'program set 1' 'program set 1 budget' \
		'program set x budget 64M' 'program set -- -1 budget 64M' 'program set 0 budget 64M' 'program set 1 size 64M' \
		'program set 1 budget 64X' 'program set 1 budget 64M x' 'program set 99999999999 budget 64M' \
		'program set 1 budget 99999999999G' 'program show x' 'program show 1 2' 'help x'; do
		# shellcheck disable=SC2086
		run bbctl $args
		expect_status 2
		((${#lines[@]} == 1)) || fail "bbctl $args:" "$output"
	done
}

@test "help names all commands" {
	local word

	for word in help --help -h; do
		run "$BUILD/bbctl" "$word"
		expect_status 0
		expect_output "program set REGION budget SIZE"
		expect_output "--socket PATH"
		expect_output "doctor"
	done
	run "$BUILD/bbctl" help fault
	expect_output "fault reset"
	expect_no_output "node"
	run "$BUILD/bbctl" fault help
	expect_output "fault reset"
	run "$BUILD/bbctl" --version
	expect_equal "$output" "bbctl $("$BUILD/bbd" --version | sed 's/^bbd //')"
}

@test "a program and its budget" {
	local region

	start_bbd
	start_program
	run bbctl -j program
	expect_json ".programs[0].pid == $PROGRAM and .programs[0].budget <= 16777216 and .programs[0].fill_remote + .programs[0].fill_staged > 0"
	region=$(jq .programs[0].region <<<"$output")
	run bbctl
	expect_status 0
	expect_output python3
	run bbctl program
	expect_output "region $region: pid $PROGRAM, python3"
	expect_output "pages in"
	run bbctl program show "$region"
	expect_output "budget 16M"
	run bbctl region
	expect_output "region $region: python3"
	run bbctl fault
	expect_output "get data"
	run bbctl program set "$region" budget 32M
	expect_status 0
	expect_equal "$output" "region $region: budget 32M"
	run bbctl -j program show "$region"
	expect_json '.programs[0].budget == 33554432'
	run bbctl program set "$region" budget 1M
	expect_status 1
	expect_output "at least 4M"
	run bbctl program set 4000000 budget 32M
	expect_status 1
	expect_output "no such region"
	run bbctl program show 4000000
	expect_status 1
}

@test "fault reset forgets" {
	start_bbd
	start_program
	run bbctl -j fault
	expect_json '.remote.total.count + .local.count > 0'
	run bbctl fault reset
	expect_status 0
	# A page of the interpreter may come back meanwhile.
	run bbctl -j fault
	expect_json '.remote.total.count + .local.count < 100'
}

@test "the five parts and their shares" {
	local h='"p50_ns":1000,"p90_ns":2000,"p99_ns":3000,"p999_ns":4000,"max_ns":5000'

	fake_result "{\"remote\":{\"enter\":{\"count\":10,\"mean_ns\":1000,$h},\"get data\":{\"count\":10,\"mean_ns\":3000,$h},\"total\":{\"count\":10,\"mean_ns\":4000,$h}},\"local\":{\"count\":0}}"
	run bbctl fault
	expect_status 0
	grep -qE '^ +enter +10 +1\.0 +1\.0 +2\.0 +3\.0 +4\.0 +5\.0 +25 % #####$' <<<"$output" || fail "$output"
	grep -qE '^ +get data .* 75 % ###############$' <<<"$output" || fail "$output"
	grep -qE '^remote +10 +4\.0 ' <<<"$output" || fail "$output"
}

# --- a bbd that is not as it should be ------------------------------------------

@test "one that says nothing: the end comes after five seconds" {
	local start=$SECONDS

	start_fake "time.sleep(60)"
	run timeout 20 "$BUILD/bbctl" --socket "$SOCKET" node
	expect_status 1
	expect_output "does not answer within 5 s"
	((SECONDS - start < 12)) || fail "$((SECONDS - start)) s"
}

@test "one that never ends its line" {
	start_fake "[(c.sendall(b'x' * 1000), time.sleep(0.05)) for i in range(1000)]"
	run timeout 20 "$BUILD/bbctl" --socket "$SOCKET" node
	expect_status 1
	expect_output "does not answer within 5 s"
}

@test "garbage, an end, a refusal" {
	local answer

	for answer in "c.sendall(b'garbage\\n')" "c.sendall(b'{\"ok\":true}\\n')" "c.sendall(b'[1]\\n')" "c.sendall(b'\\0\\n')"; do
		start_fake "c.recv(4096); $answer"
		run bbctl node
		expect_status 1
		expect_output "is no bbd of this version"
		end_programs
		rm "$SOCKET"
	done
	start_fake pass
	run bbctl node
	expect_status 1
	expect_output "hung up"
	end_programs
	rm "$SOCKET"
	start_fake "c.recv(4096); c.sendall(b'{\"ok\":false,\"error\":\"only root\"}\\n')"
	run bbctl fault reset
	expect_status 1
	expect_equal "$output" "bbctl: error: only root"
}

@test "answers of another shape do not crash it" {
	local result command

	for result in '{}' '[]' '7' 'null' '{"nodes":[7,{}],"programs":{"a":1},"regions":[[]],"remote":[],"server":1,"pagers":[1],"text":2,"home":[],"faults":3}'; do
		fake_result "$result"
		for command in '' node program region fault home net metrics; do
			# shellcheck disable=SC2086
			run bbctl $command
			((status <= 1)) || fail "$result: bbctl $command: $status" "$output"
		done
		run bbctl doctor
		((status <= 1)) || fail "$result: doctor: $status" "$output"
		end_programs
		rm "$SOCKET"
	done
}

@test "names of others cannot steer the terminal" {
	fake_result '{"nodes":[{"node":1,"name":"a\\u001b[2Jb","self":false,"alive":true,"via":"x\\ny","dev":"","lent":0,"free":0}],"port":1}'
	run bbctl node
	expect_status 0
	expect_output "a?[2Jb"
	((${#lines[@]} == 2)) || fail "$output"
	run bbctl doctor
	expect_no_output $'\e'
}

@test "a large answer arrives whole" {
	start_fake "c.recv(4096); c.sendall(b'{\"ok\":true,\"result\":{\"text\":\"' + b'y' * 3000000 + b'\"}}\\n')"
	run bash -c "'$BUILD/bbctl' --socket '$SOCKET' metrics | wc -c"
	expect_equal "$output" 3000000
}

@test "standard output that is full is an error" {
	start_bbd
	run bash -c "'$BUILD/bbctl' --socket '$SOCKET' metrics >/dev/full"
	expect_status 1
	expect_output "cannot write"
}

# --- doctor -----------------------------------------------------------------------

# state NAME: of the last doctor's checks of that name.
state() { jq -r --arg n "$1" '[.checks[] | select(.name == $n) | .state] | join(" ")' <<<"$output"; }

@test "doctor works without a bbd" {
	run "$BUILD/bbctl" -j doctor --socket "$SOCKET"
	expect_status 1
	expect_json '[.checks[] | has("name") and has("state") and has("what") and has("mend")] | all'
	expect_json '[.checks[] | select(.state != "ok") | .mend | type == "string"] | all'
	expect_equal "$(state bbd)" fail # a named one
	[[ $(state userfaultfd) && $(state mappings) && $(state overcommit) && $(state IPv6) ]] || fail "$output"
	run bbctl doctor
	expect_status 1
	expect_output "FAIL"
	expect_output "mend: "
	expect_output " checks: "
}

@test "doctor of an embedded bbd" {
	start_bbd
	run bbctl -j doctor
	expect_equal "$(state bbd) $(state version) $(state network)" "ok ok ok"
	expect_equal "$(state key)" ""
}

@test "doctor sees another version and an answer that does not come" {
	fake_result '{"version":"0.0.1","node":1,"embedded":true,"nodes":[]}'
	run bbctl -j doctor
	expect_status 1
	expect_equal "$(state version)" fail
	end_programs
	rm "$SOCKET"
	start_fake "time.sleep(60)"
	run timeout 20 "$BUILD/bbctl" --socket "$SOCKET" -j doctor
	expect_status 1
	expect_equal "$(state bbd)" fail
}

@test "doctor's findings of a rack, and its cures" {
	local key cure

	need_root
	rack_up 2
	run bbrack run h1 -- "$BUILD/bbctl" -j doctor
	expect_status 0
	expect_equal "$(state 'own prefix') $(state routes) $(state hosts) $(state key) $(state rights) $(state 'link eth0')" \
		"ok ok ok ok ok ok"

	bbrack run h1 -- ip link set dev eth0 mtu 1500
	key=/run/bluebridge/$RACK/key
	chmod 644 "$key"
	# bbd itself sets its routes again within seconds: it may be quicker than the doctor.
	without_routes() {
		bbrack run h1 -- ip -6 route del local fdbb:0:1::/48 || :
		bbrack run h1 -- ip -6 route del fdbb:0:2::/48 || :
		run bbrack run h1 -- "$BUILD/bbctl" -j doctor
		[[ "$(state 'own prefix') $(state route)" == "fail fail" ]]
	}
	eventually 20 without_routes
	expect_status 1
	expect_equal "$(state key) $(state 'link eth0')" "fail warn"
	# What it says mends it.
	while IFS= read -r cure; do
		bbrack run h1 -- sh -c "$cure"
	done < <(jq -r '.checks[] | select(.name | test("^(own prefix|route|key|link eth0)$")) | .mend' <<<"$output")
	run bbrack run h1 -- "$BUILD/bbctl" -j doctor
	expect_status 0
	expect_equal "$(state 'own prefix') $(state routes) $(state key) $(state 'link eth0')" "ok ok ok ok"

	# Another key in the file than bbd's.
	cp -p "$key" "$key.was"
	head -c "$(stat -c %s "$key")" /dev/urandom >"$key.new"
	chmod 600 "$key.new"
	mv "$key.new" "$key"
	run bbrack run h1 -- "$BUILD/bbctl" -j doctor
	expect_equal "$(state key)" fail
	mv "$key.was" "$key"

	# From outside of the host its links are not judged.
	run "$BUILD/bbctl" -j --socket "/run/bluebridge/$RACK/h1/bbd.sock" doctor
	expect_equal "$(state network)" warn
	expect_equal "$(state 'own prefix')" ""
}

@test "doctor knows the difference between a silent host and another key" {
	fake_result '{"version":"x","node":1,"tenant":0,"port":48059,"dev":"","key_id":"00000000","key_file":"'"$BATS_TEST_TMPDIR"'/key","embedded":false,"nodes":[{"node":1,"self":true,"alive":true},{"node":2,"name":"h2","alive":false},{"node":3,"name":"h3","alive":true,"key_differs":true}]}'
	run bbctl -j doctor
	expect_status 1
	expect_json '[.checks[] | select(.name == "node") | .state] == ["warn", "fail"]'
	expect_json '[.checks[] | select(.name == "node" and .state == "fail") | .mend | test("^scp [^ ]*/key h3:")] | all'
	expect_equal "$(state key)" fail
	# It looks, and makes none.
	[[ ! -e $BATS_TEST_TMPDIR/key ]] || fail "doctor made a key"
}

# --- pages and samples ----------------------------------------------------------

# page_names PAGE: the page names the option.
page_names() { sed 's/\\//g' "$TOP/man/$1" | grep -qE -- "^\.[A-Z]+ .*$2\b" || fail "man/$1 says nothing of $2"; }

@test "bbd(8) and bbd.conf have the options of bbd --help" {
	local option

	while IFS= read -r option; do
		page_names bbd.8 "--$option"
		[[ $option == @(help|version|config) ]] || grep -qE "^#$option = " "$TOP/contrib/bbd.conf" || fail "bbd.conf: $option"
	done < <("$BUILD/bbd" --help | sed -n 's/^  --\([a-z-]*\).*/\1/p')
	# And no others.
	while IFS= read -r option; do
		"$BUILD/bbd" --help | grep -qE -- "^  --$option\b" || fail "bbd has no --$option"
	done < <(sed -n 's/^#\([a-z-]*\) = .*/\1/p' "$TOP/contrib/bbd.conf"; sed 's/\\//g' "$TOP/man/bbd.8" | sed -n '/^\.TP/{n;s/^\.[A-Z]* "\{0,1\}--\([a-z-]*\).*/\1/p}')
}

@test "bb(7) has the variables of the table" {
	local name table

	table=$(sed -n 's/.*{ "\(BB_[A-Z]*\)", BB_OPT_T_.*/\1/p' "$TOP/lib/options.c")
	(($(wc -l <<<"$table") >= 11)) || fail "$table"
	for name in $table; do
		page_names bb.7 "$name"
	done
	expect_equal "$(sed -n '/^\.TP/{n;s/^\.BR \(BB_[A-Z]*\) .*/\1/p}' "$TOP/man/bb.7")" "$table"
	# Defaults are the table's.
	expect_equal "$(grep -c '^Default: 128K\.$' "$TOP/man/bb.7")" 1
}

@test "bbctl(8) has all commands and options" {
	local object verb

	while read -r object verb _; do
		[[ $object != doctor ]] || verb=''
		sed 's/\\//g' "$TOP/man/bbctl.8" | grep -qE "^\.[A-Z]+ \"?$object ?$verb\b" || fail "man/bbctl.8: $object $verb"
	done < <("$BUILD/bbctl" help | grep -E '^  [a-z]+ (show|set|reset)')
	page_names bbctl.8 --socket
	page_names bbctl.8 --json
}

@test "the sample bbd.conf is read by bbd, each line of it" {
	local line

	while IFS= read -r line; do
		case $line in
		dev*) line="dev = lo" ;;
		store*) line="store = $BATS_TEST_TMPDIR" ;;
		esac
		printf '%s\nlend = 1G\n' "$line" >"$BATS_TEST_TMPDIR/conf"
		# A bad line at the end keeps bbd from starting; the ones before it are good.
		printf 'no-such = 1\n' >>"$BATS_TEST_TMPDIR/conf"
		run "$BUILD/bbd" --config "$BATS_TEST_TMPDIR/conf"
		expect_status 2
		expect_output "conf:3: there is no option no-such"
	done < <(sed -n 's/^#\([a-z-]* = .*\)/\1/p' "$TOP/contrib/bbd.conf")
}

@test "the unit starts a program that is installed" {
	grep -qx 'Type=exec' "$TOP/contrib/bbd.service"
	grep -qx 'ExecStart=/usr/local/bin/bbd' "$TOP/contrib/bbd.service"
	type -P systemd-analyze >/dev/null || skip "no systemd-analyze"
	mkdir "$BATS_TEST_TMPDIR/unit"
	sed "s|/usr/local/bin/bbd|$BUILD/bbd|" "$TOP/contrib/bbd.service" >"$BATS_TEST_TMPDIR/unit/bbd.service"
	run systemd-analyze verify --man=no "$BATS_TEST_TMPDIR/unit/bbd.service"
	expect_equal "$output" ""
}
