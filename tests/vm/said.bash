# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# What the bats files of guests share: a guest is booted once a file, in no test's
# own time, and what runs there says what holds. The tests look at what it said; one
# that it did not come to has failed.

# boot KERNEL COMMAND...: which boots that kernel, in setup_file.
boot() {
	local said=$BATS_FILE_TMPDIR/$1

	echo 0 >"$said.rc"
	"${@:2}" >"$said.out" 2>"$said.err" || echo $? >"$said.rc"
	grep -h '^#' "$said.out" | sed "s/^# /# $1: /" >&3 || :
}

# holds KERNEL NAME: its guest said so.
holds() {
	local said=$BATS_FILE_TMPDIR/$1

	[[ $(<"$said.rc") != 77 ]] || skip "$(<"$said.err")"
	grep -q "^ok [0-9]* - $2\$" "$said.out" ||
		fail "kernel $1, exit status $(<"$said.rc"):" "$(<"$said.out")" "$(tail -n 30 "$said.err")"
}

# nothing_else_failed KERNEL NAME: NAME is the first that it says, or why there is no guest.
nothing_else_failed() {
	holds "$1" "$2"
	expect_equal "$(<"$BATS_FILE_TMPDIR/$1.rc")" 0
}
