#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# make install, the README, and the test machinery itself.
# shellcheck disable=SC2030,SC2031 # a test is a function, its variables stay there

load common

setup() { cd "$TOP" || exit; }

# A make of its own: what the outer one exports is not for it.
make_install() { env -u MAKEFLAGS -u MAKELEVEL -u MAKEOVERRIDES make --no-print-directory B="${B:-build}" install "$@"; }

@test "install puts everything in its place" {
	local f

	run make_install DESTDIR="$BATS_TEST_TMPDIR/root" PREFIX=/usr
	expect_status 0
	for f in bin/bbd bin/bbctl bin/bbload bin/bbrun bin/bbrack lib/bluebridge/libbb.so lib/bluebridge/processes.bash share/man/man1/bbrun.1 share/man/man1/bbrack.1 share/man/man8/bbload.8 \
		share/doc/bluebridge/README.md; do
		[[ -s $BATS_TEST_TMPDIR/root/usr/$f ]] || fail "no $f"
		[[ ! -L $BATS_TEST_TMPDIR/root/usr/$f ]] || fail "$f is a link"
	done
	for f in bbd bbctl bbload bbrun bbrack; do
		[[ -x $BATS_TEST_TMPDIR/root/usr/bin/$f ]] || fail "$f cannot be run"
	done
}

@test "installed programs find each other" {
	run make_install DESTDIR= PREFIX="$BATS_TEST_TMPDIR/prefix"
	expect_status 0
	export XDG_RUNTIME_DIR=$BATS_TEST_TMPDIR
	cd /
	# shellcheck disable=SC2016 # for the shell under bbrun
	run "$BATS_TEST_TMPDIR/prefix/bin/bbrun" sh -c 'readlink -f "$LD_PRELOAD"'
	expect_status 0
	expect_equal "$output" "$BATS_TEST_TMPDIR/prefix/lib/bluebridge/libbb.so"
	PATH=$BATS_TEST_TMPDIR/prefix/bin:$PATH run bbrun true
	expect_status 0
}

@test "install refuses a relative prefix and a missing build" {
	run scripts/install "$BATS_TEST_TMPDIR" usr "$BUILD"
	expect_status 1
	expect_output "absolute path"
	run scripts/install "$BATS_TEST_TMPDIR" /usr "$BATS_TEST_TMPDIR/no-build"
	expect_status 1
	expect_output "is not built"
}

@test "the README names commands that exist" {
	local word

	for word in "sudo make demo" "sudo make check"; do
		grep -qF "$word" README.md || fail "README.md does not name $word"
	done
	run make -n B="${B:-build}" demo
	expect_output scripts/demo
	run make -n B="${B:-build}" check
	expect_output scripts/check
	# Every script and program that it names is there.
	while IFS= read -r word; do
		[[ -e $word ]] || fail "README.md names $word, which is not there"
	done < <(grep -oE '\b(scripts|doc|tests)/[A-Za-z0-9_./-]*[A-Za-z0-9]' README.md | sort -u)
}

@test "the man pages can be read" {
	local page

	type -P man >/dev/null || type -P groff >/dev/null || skip "neither man nor groff"
	for page in man/*.[1-8]; do
		run groff -man -Tascii -ww -z "$page"
		expect_status 0
		expect_equal "$output" "" "$page"
	done
}

@test "a man page names all options of its program" {
	local program option

	for program in bbrun bbrack; do
		while IFS= read -r option; do
			sed 's/\\//g' "man/$program.1" | grep -qF -- "$option" || fail "man/$program.1 says nothing of $option"
		done < <("$BUILD/$program" --help | grep -oE '^ +(-[a-z], )?--[a-z-]+' | grep -oE -- '--[a-z-]+')
	done
}

# --- a failing test fails ------------------------------------------------------

@test "bats: an assertion that does not hold fails its test" {
	{
		printf 'load %s\n' "$TOP/tests/bats/common"
		printf '@test "%s; true" { %s; true; }\n' \
			one 'run true; expect_status 1' \
			two 'run echo a; expect_output b' \
			three 'expect_equal a b' \
			four 'run echo 1; expect_json ". == 2"' \
			five 'eventually 0 false'
	} >"$BATS_TEST_TMPDIR/bad.bats"
	run bats --tap "$BATS_TEST_TMPDIR/bad.bats"
	expect_status 1
	expect_equal "$(grep -c '^not ok' <<<"$output")" 5
}

@test "check: failures, crashes, hangs and skips are counted" {
	local dir=$BATS_TEST_TMPDIR/tree

	mkdir -p "$dir/scripts" "$dir/tests/unit" "$dir/tests/fuzz" "$dir/tests/bats" "$dir/out/tests"
	# The counting is the script's own; what it builds and runs is made up.
	sed -e 's/^scripts\/deps .*//' -e 's/UNIT_SECONDS=120/UNIT_SECONDS=1/' scripts/check >"$dir/scripts/check"
	chmod +x "$dir/scripts/check"
	printf 'all tests:\n' >"$dir/Makefile"
	: >"$dir/tests/fuzz/fuzz_f.c"
	printf '#!/bin/sh\necho "fuzz: 7 rounds"\n' >"$dir/out/tests/fuzz_f"
	printf '#!/bin/sh\necho 1..3; echo "ok 1 - a"; echo "not ok 2 - b"; echo "# why"; echo "not ok 3 # SKIP c"; exit 1\n' >"$dir/out/tests/test_mixed"
	printf '#!/bin/sh\necho 1..3; echo "ok 1 - a"; kill -SEGV $$\n' >"$dir/out/tests/test_crash"
	printf '#!/bin/sh\necho 1..1; sleep 30\n' >"$dir/out/tests/test_hang"
	printf '#!/bin/sh\necho 1..2; echo "ok 1 - a"\n' >"$dir/out/tests/test_short"
	printf '#!/bin/sh\nexit 77\n' >"$dir/out/tests/test_none"
	printf '#!/usr/bin/env bats\n@test "one" { true; }\n@test "two" { skip no; }\n@test "three" { false; }\n' >"$dir/tests/bats/b.bats"
	chmod +x "$dir"/out/tests/*
	for t in mixed crash hang short none; do : >"$dir/tests/unit/test_$t.c"; done
	B=out run "$dir/scripts/check" unit/ fuzz/fuzz bats/
	expect_status 1
	# mixed 1 1 1, crash 1 1, hang 0 1, short 1 1, none 0 0 1, fuzz 1, bats 1 1 1
	expect_equal "${lines[-1]}" "5 passed, 5 failed, 3 skipped"
	expect_output "ended by signal 11"
	expect_output "no end within 1 s"
	expect_output "1 of 2 tests ran"
	expect_output "# why"
	B=out run "$dir/scripts/check" fuzz/fuzz
	expect_status 0
	expect_equal "${lines[-1]}" "1 passed, 0 failed, 0 skipped"
	B=out run "$dir/scripts/check" no-such-part
	expect_status 2
}
