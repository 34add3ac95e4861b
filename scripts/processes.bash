# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Processes of a rack, for bbrack. A process is known by its number and its
# start time (field 22 of /proc/PID/stat): a number alone may be another's by
# now.

# The start time of a process that is not a zombie, in REPLY.
proc_start() {
	local line='' f

	REPLY=''
	read -r -d '' line 2>/dev/null <"/proc/$1/stat" || [[ $line ]] || return 1
	read -ra f <<<"${line##*) }"
	[[ ${f[0]} != [ZX] ]] || return 1
	REPLY=${f[19]}
}

# alive PID START
alive() {
	[[ ${1:-} =~ ^[0-9]+$ ]] && proc_start "$1" && [[ $REPLY == "${2:-}" ]]
}

# The "PID START" in a file: into pid and start. Return: is it alive?
read_proc() {
	pid='' start=''
	read -r pid start 2>/dev/null <"$1" || return 1
	alive "$pid" "$start"
}

write_file() {
	printf '%s\n' "${*:2}" >"$1.new" && mv -f "$1.new" "$1"
}

# end_procs TENTHS "PID START"...: SIGTERM, then after so long SIGKILL.
end_procs() {
	local tenths=$1 p pid start left sig=TERM
	shift

	while :; do
		for p; do
			read -r pid start <<<"$p"
			! alive "$pid" "$start" || kill -s "$sig" "$pid" 2>/dev/null || :
		done
		for ((; tenths >= 0; tenths--)); do
			left=
			for p; do
				read -r pid start <<<"$p"
				! alive "$pid" "$start" || left=1
			done
			[[ $left ]] || return 0
			sleep 0.1
		done
		[[ $sig == TERM ]] || return 1
		sig=KILL tenths=30
	done
}

# daemon FILE LOG COMMAND...: in a session of its own, with none of our open
# files; "PID START" to FILE.
daemon() {
	(
		for fd in /proc/"$BASHPID"/fd/*; do
			fd=${fd##*/}
			((fd <= 2 || fd == 255)) || eval "exec $fd>&-"
		done
		exec setsid "${@:3}"
	) </dev/null >>"$2" 2>&1 &
	proc_start "$!" || :
	write_file "$1" "$! $REPLY"
	disown "$!"
}
