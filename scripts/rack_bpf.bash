# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2034,SC2154 # the variables are bbrack's
#
# The BPF programs of a rack, for bbrack: bb_switch at the bridge's ports, and the
# host's at each host. A rack can do without either: where one cannot be had,
# "auto" says why and goes on.

# What bbload says goes to a log: a rack can do without it.
run_bbload() { "$bin/bbload" "$@" >>"$dir/bpf.log" 2>&1; }

# The last thing that it said.
bbload_said() {
	REPLY=$(tail -n 1 "$dir/bpf.log" 2>/dev/null) || :
	REPLY=${REPLY#bbload: }
	REPLY=${REPLY:-it said nothing}
}

# An entry for each host: its port and the link address behind it.
fill_switch() {
	local k

	for ((k = 1; k <= n; k++)); do
		run_bbload --netns "bb-$name-sw" update node "$k" --dev "p$k" --mac "$(host_mac "$k")" || return 1
	done
}

# bb_switch at the ports where it is wanted: into switch, what is there now, and
# switch_why.
attach_switch() {
	local k devs=() wanted=$switch

	[[ $wanted != cable ]] || return 0
	switch=bridge switch_why='as asked for'
	[[ $wanted != bridge ]] || return 0
	for ((k = 1; k <= n; k++)); do devs+=(--dev "p$k"); done
	printf '%s\n' "bpf=1" >>"$dir/meta" # from now on something may be pinned
	if [[ ! -x $bin/bbload ]]; then
		REPLY="there is no bbload in $bin"
	elif run_bbload --netns "bb-$name-sw" attach switch "${devs[@]}" && fill_switch; then
		switch=bpf switch_why=''
		return 0
	else
		bbload_said
	fi
	[[ $wanted == auto ]] || die "--switch bpf: bb_switch cannot be attached: $REPLY"
	[[ ! -x $bin/bbload ]] || run_bbload --netns "bb-$name-sw" detach --all || :
	switch_why=$REPLY
}

attach_hosts() {
	local k wanted=$host_programs

	host_programs=off hosts_why='as asked for'
	[[ $wanted != off ]] || return 0
	if [[ ! -x $bin/bbload ]]; then
		hosts_why="there is no bbload in $bin"
	else
		host_programs=on hosts_why=''
		printf '%s\n' "bpf=1" >>"$dir/meta"
		for ((k = 1; k <= n; k++)); do
			run_bbload --netns "bb-$name-h$k" attach host --dev eth0 && continue
			bbload_said
			host_programs=off hosts_why=$REPLY
			break
		done
	fi
	[[ $host_programs == off ]] || return 0
	[[ $wanted == auto ]] || die "--host-programs on: they cannot be attached: $hosts_why"
	for ((k = 1; k <= n; k++)); do
		[[ ! -x $bin/bbload ]] || run_bbload --netns "bb-$name-h$k" detach --all || :
	done
}

# What was pinned for the rack's namespaces is of nobody once they are gone.
forget_bpf() {
	local b

	b=$(meta bin)/bbload
	[[ $(meta bpf) && -x $b ]] || return 0
	timeout 60 "$b" gc >/dev/null 2>&1 || { say "bbload gc has failed: see \"bbload show\""; return 1; }
}

host_mac() { printf '02:bb:00:00:%02x:%02x' $(($1 >> 8)) $(($1 & 255)); }

# kind_text SWITCH WHY
kind_text() {
	if [[ $1 == bpf ]]; then printf 'the switch program'; elif [[ $1 == cable ]]; then printf 'a cable'; else printf 'a plain bridge%s' "${2:+ ($2)}"; fi
}
