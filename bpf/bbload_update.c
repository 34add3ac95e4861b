/* SPDX-License-Identifier: MIT */
/* update: policies, overrides, the switch's hosts, and who this host is. */
#include "bbload.h"

#include <endian.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "steer_names.h"
#include "tag.h"

/* Once the arguments are known to be good. The lock is given back by bbload_update(). */
static int ready(struct bbload *b)
{
	return place_need_rights() || place_enter(b) || place_lock(b) ? -1 : 0;
}

/* --- which maps ------------------------------------------------------------------- */

struct target {
	struct place p;
	enum kind kind;
	char maps[PATH_BYTES];
	char name[IF_NAMESIZE + 16];	/* for people */
	char mode[16];
};

static int target_of(struct bbload *b, struct place *p, struct target *t)
{
	json_t *state = state_load(p);

	if (!state)
		return -ENOENT;
	t->p = *p;
	t->kind = state_kind(state);
	place_maps(p, t->kind, t->maps);
	snprintf(t->mode, sizeof(t->mode), "%s", json_string_value(json_object_get(state, "mode")) ?: "");
	snprintf(t->name, sizeof(t->name), "%s", t->kind == KIND_SWITCH ? "switch" : p->dev);
	json_decref(state);
	return 0;
}

/*
 * What is attached in the namespace: to the devices named, else to all; the ports
 * of a switch share maps and count once where once says so.
 * Return: how many, of at most DEVS_MAX; 0 is said.
 */
static unsigned int targets(struct bbload *b, struct target **out, bool once)
{
	unsigned int n, found = 0;
	struct place *list;
	bool sw = false;

	*out = NULL;
	if (ready(b))
		return 0;
	n = place_list(&list);

	*out = calloc(n + 1, sizeof(**out));
	for (unsigned int i = 0; *out && i < n; i++) {
		bool want = !b->ndevs;

		for (unsigned int k = 0; k < b->ndevs; k++)
			want = want || !strcmp(b->dev[k], list[i].dev);
		if (list[i].netns != b->ns_inode || !*list[i].dev || !want || target_of(b, &list[i], &(*out)[found]))
			continue;
		if (once && (*out)[found].kind == KIND_SWITCH && sw)
			continue;
		sw = sw || (*out)[found].kind == KIND_SWITCH;
		found++;
	}
	free(list);
	if (!found)
		bb_error("nothing is attached%s%s%s%s: bbload attach host --dev IFACE", b->ndevs ? " to " : "", b->ndevs ? b->dev[0] : "",
			 b->netns ? " in " : "", b->netns ? b->netns : "");
	return found;
}

/* --- policies ------------------------------------------------------------------------ */

static int policy(struct bbload *b, int argc, char **argv)
{
	struct bb_policy pol = { 0 };
	int cmd = argc > 0 ? bb_cmd_parse(argv[0]) : -EINVAL;
	int action = argc > 1 ? bb_action_parse(argv[1]) : -EINVAL;
	const char *word = action == BB_ACT_RATE ? "rate" : action == BB_ACT_REDIRECT || action == BB_ACT_COPY ? "node" : NULL;
	unsigned int n, k = (unsigned int)cmd;
	struct target *t;
	long value = 0;
	int ret = 0;

	if (cmd < 0) {
		bb_error("update policy wants a command: a name such as read, or 0 to 127%s%s", argc ? ", not " : "", argc ? argv[0] : "");
		return BBLOAD_USAGE;
	}
	if (action < 0) {
		bb_error("update policy %s wants forward, redirect, copy, drop, rate or refuse%s%s", argv[0], argc > 1 ? ", not " : "",
			 argc > 1 ? argv[1] : "");
		return BBLOAD_USAGE;
	}
	/* "rate 1000" and "redirect 3" will do for "rate rate 1000" and "redirect node 3". */
	if (argc == 4 && word && !strcmp(argv[2], word))
		argv[--argc - 1] = argv[3];
	if (argc != (word ? 3 : 2) || (word && !parse_num(argv[2], 1, *word == 'r' ? 0xffffffffL : 65534, &value))) {
		bb_error("update policy %s %s wants %s", argv[0], argv[1],
			 !word ? "nothing after it" : *word == 'r' ? "\"rate R\", R packets a second" : "\"node N\", N from 1 to 65534");
		return BBLOAD_USAGE;
	}
	pol.action = (uint8_t)action;
	pol.rate = action == BB_ACT_RATE ? (uint32_t)value : 0;
	pol.node = action == BB_ACT_RATE ? 0 : (uint16_t)value;
	n = targets(b, &t, true);
	for (unsigned int i = 0; i < n; i++) {
		int fd = map_open(t[i].maps, "bb_policy", false);

		if (fd < 0 || bpf_map_update_elem(fd, &k, &pol, BPF_ANY)) {
			if (fd >= 0)
				bb_error("%s: the policy cannot be set: %m", t[i].name);
			ret = -EIO;
		}
		if (fd >= 0)
			close(fd);
	}
	free(t);
	return n && !ret ? BBLOAD_OK : BBLOAD_FAILED;
}

/* --- overrides -------------------------------------------------------------------------- */

static const char *next_word(int *argc, char ***argv)
{
	if (!*argc)
		return NULL;
	--*argc;
	return *(*argv)++;
}

/* "3:1234000000200000/43" */
static bool parse_prefix(const char *s, uint16_t *node, struct bb_over_key *key)
{
	unsigned long long ptr;
	unsigned int nd, bits;
	int end = 0;
	uint64_t be;

	if (sscanf(s, "%5u:%16llx/%2u%n", &nd, &ptr, &bits, &end) != 3 || s[end] || nd < 1 || nd > 65534 || bits > 64)
		return false;
	*node = (uint16_t)nd;
	key->prefixlen = 32 + bits;
	key->node = htobe16(*node);
	if (bits < 64)
		ptr &= ~(~0ULL >> bits);
	be = htobe64(ptr);
	memcpy(key->ptr, &be, sizeof(be));
	return true;
}

static bool parse_cmds(const char *list, __u64 cmds[2])
{
	char *copy = strdup(list), *save = NULL;
	bool ok = copy && *copy;

	cmds[0] = cmds[1] = 0;
	for (char *w = copy ? strtok_r(copy, ",", &save) : NULL; w && ok; w = strtok_r(NULL, ",", &save)) {
		int c = bb_cmd_parse(w);

		ok = c >= 0;
		if (ok)
			cmds[c / 64] |= 1ULL << (c % 64);
	}
	free(copy);
	return ok && (cmds[0] || cmds[1]);
}

static int override_change(const struct target *t, const struct bb_over_key *key, const struct bb_over *o)
{
	struct bb_steer_cfg *cfg = map_cfg(t->maps);
	int fd = cfg ? map_open(t->maps, "bb_over", false) : -1, ret = 0;

	if (fd < 0) {
		map_cfg_put(cfg);
		return -EIO;
	}
	/*
	 * bbd counts in the same way: one up before an entry that was not there, one
	 * down after one that was. While the count is 0 nobody looks.
	 */
	if (o) {
		__atomic_fetch_add(&cfg->overrides, 1, __ATOMIC_SEQ_CST);
		if (bpf_map_update_elem(fd, key, o, BPF_NOEXIST)) {
			ret = -errno;
			__atomic_fetch_sub(&cfg->overrides, 1, __ATOMIC_SEQ_CST);
			if (ret == -EEXIST)
				ret = bpf_map_update_elem(fd, key, o, BPF_EXIST) ? -errno : 0;
		}
	} else if (bpf_map_delete_elem(fd, key)) {
		ret = -errno;
	} else {
		__atomic_fetch_sub(&cfg->overrides, 1, __ATOMIC_SEQ_CST);
	}
	close(fd);
	map_cfg_put(cfg);
	return ret;
}

static int override(struct bbload *b, int argc, char **argv)
{
	const char *verb = next_word(&argc, &argv), *what = next_word(&argc, &argv), *w;
	const bool add = verb && !strcmp(verb, "add");
	struct bb_over_key key = { .tenant = 0 };
	struct bb_over o = { .cmds = { ~0ULL, ~0ULL } };
	struct timespec now;
	struct target *t;
	long value = 0;
	uint16_t node;
	unsigned int n;
	int ret = 0;

	if (!verb || (!add && strcmp(verb, "del")) || !what || !parse_prefix(what, &node, &key)) {
		bb_error("update override wants add or del, and NODE:POINTER/BITS such as 3:1234000000200000/43");
		return BBLOAD_USAGE;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	o.epoch = (uint32_t)now.tv_sec;
	while (add && (w = next_word(&argc, &argv))) {
		const char *arg = next_word(&argc, &argv);

		if (arg && !strcmp(w, "to") && parse_num(arg, 1, 65534, &value)) {
			o.node = (uint16_t)value;
		} else if (arg && !strcmp(w, "cmds") && parse_cmds(arg, o.cmds)) {
			;
		} else if (arg && !strcmp(w, "for") && parse_num(arg, 1, 1000000000, &value)) {
			clock_gettime(CLOCK_BOOTTIME, &now);
			o.until = (uint64_t)(now.tv_sec + value) * 1000000000ULL + (uint64_t)now.tv_nsec;
		} else {
			bb_error("update override add %s: \"%s%s%s\" is not understood: to NODE, cmds COMMAND,..., for SECONDS", what, w,
				 arg ? " " : "", arg ? arg : "");
			return BBLOAD_USAGE;
		}
	}
	if (argc || (add && !o.node)) {
		bb_error("update override %s %s %s", verb, what, add ? "wants \"to NODE\"" : "wants nothing more");
		return BBLOAD_USAGE;
	}
	n = targets(b, &t, true);
	for (unsigned int i = 0; i < n; i++) {
		struct bb_steer_cfg *cfg = map_cfg(t[i].maps);
		int one;

		/* A host's own tenant, unless another is named. */
		key.tenant = htobe16((uint16_t)(b->tenant >= 0 ? b->tenant : cfg ? cfg->tenant : 0));
		map_cfg_put(cfg);
		one = cfg ? override_change(&t[i], &key, add ? &o : NULL) : -EIO;
		if (one)
			bb_error("%s: override %s: %s", t[i].name, what,
				 one == -ENOENT ? "there is none" : one == -ENOSPC ? "all entries are taken" : strerror(-one));
		ret = ret ? ret : one;
	}
	free(t);
	return n && !ret ? BBLOAD_OK : BBLOAD_FAILED;
}

/* --- hosts, and how they are reached -------------------------------------------------------------------- */

/* host: whose own entries are meant, for overrides that lead there; NULL: the switch's. */
static int node_change(struct bbload *b, const struct place *host, uint16_t node, const struct bb_node *entry)
{
	struct place shared;
	char maps[PATH_BYTES];
	int fd, ret = 0;

	place_of(&shared, b->ns_inode, "");
	place_maps(host ? host : &shared, host ? KIND_HOST : KIND_SWITCH, maps);
	fd = map_open(maps, "bb_nodes", true);
	if (fd < 0) {
		bb_error("no switch is attached%s%s: bbload attach switch --dev PORT,PORT", b->netns ? " in " : "", b->netns ? b->netns : "");
		return BBLOAD_FAILED;
	}
	if (entry ? bpf_map_update_elem(fd, &node, entry, BPF_ANY) : bpf_map_delete_elem(fd, &node))
		ret = -errno;
	close(fd);
	if (ret)
		bb_error("node %u: %s", node, ret == -ENOENT ? "there is no entry for it" : strerror(-ret));
	return ret ? BBLOAD_FAILED : BBLOAD_OK;
}

static int node(struct bbload *b, int argc, char **argv)
{
	const bool del = argc && !strcmp(argv[0], "del");
	struct bb_node n = { 0 };
	struct place p;
	json_t *state;
	int kind;
	long num;

	if (argc && (del || !strcmp(argv[0], "add"))) {
		argc--;
		argv++;
	}
	if (argc != 1 || !parse_num(argv[0], 1, 65534, &num)) {
		bb_error("update node wants a number from 1 to 65534%s%s", argc ? ", not " : "", argc ? argv[argc - 1] : "");
		return BBLOAD_USAGE;
	}
	if (del ? b->ndevs > 1 || b->mac : b->ndevs != 1 || !b->mac) {
		bb_error("update node %s", del ? "del takes one --dev, of a host, and no --mac" : "wants --dev PORT and --mac MAC of the host");
		return BBLOAD_USAGE;
	}
	if (ready(b))
		return BBLOAD_FAILED;
	if (del && !b->ndevs)
		return node_change(b, NULL, (uint16_t)num, NULL);
	place_of(&p, b->ns_inode, b->dev[0]);
	if (place_look(&p)) {
		bb_error("there is no device %s; see \"ip link\"", name_of(b, b->dev[0]));
		return BBLOAD_FAILED;
	}
	state = state_load(&p);
	kind = state ? (int)state_kind(state) : -1;
	json_decref(state);
	if (kind != KIND_SWITCH && kind != KIND_HOST) {
		bb_error("%s is no port of a switch, nor a host's: bbload attach switch --dev %s", name_of(b, b->dev[0]), b->dev[0]);
		return BBLOAD_FAILED;
	}
	if (del)
		return node_change(b, kind == KIND_HOST ? &p : NULL, (uint16_t)num, NULL);
	n.ifindex = p.ifindex;
	memcpy(n.smac, p.mac, 6);
	parse_mac(b->mac, n.mac);
	return node_change(b, kind == KIND_HOST ? &p : NULL, (uint16_t)num, &n);
}

/* --- this host ---------------------------------------------------------------------------------- */

/* What bbd writes where it runs: for hosts and routers without one. */
static int host(struct bbload *b, int argc, char **argv)
{
	const char *file = b->key ? b->key : "/etc/bluebridge/key";
	struct bb_key key = { 0 };
	unsigned int n, ok = 0;
	struct target *t;
	int ret;

	if (argc || b->node < 0) {
		bb_error("update host %s%s", argc ? "takes no " : "wants --node N", argc ? argv[0] : "");
		return BBLOAD_USAGE;
	}
	/* Looked at first: bb_key_load() would make one, which nobody else has. */
	ret = access(file, R_OK) ? -errno : bb_key_load(&key, file);
	if (ret < 0) {
		bb_error("the key %s cannot be read: %s%s", file, ret == -EPERM ? "others may read it" : strerror(-ret),
			 ret == -EPERM ? "; chmod 600 it" : "; --key names another");
		return BBLOAD_FAILED;
	}
	n = targets(b, &t, true);
	for (unsigned int i = 0; i < n; i++) {
		struct bb_steer_cfg *cfg = map_cfg(t[i].maps);

		if (!cfg)
			continue;
		__atomic_fetch_add(&cfg->serial, 1, __ATOMIC_SEQ_CST);
		cfg->tenant = (uint16_t)(b->tenant < 0 ? 0 : b->tenant);
		cfg->node = (uint16_t)b->node;
		cfg->port = (uint16_t)(b->port < 0 ? BB_UDP_PORT : b->port);
		cfg->k0 = key.k0;
		cfg->k1 = key.k1;
		__atomic_fetch_or(&cfg->flags, BB_SC_KNOWN, __ATOMIC_SEQ_CST);
		__atomic_fetch_add(&cfg->serial, 1, __ATOMIC_SEQ_CST);
		map_cfg_put(cfg);
		ok++;
	}
	free(t);
	explicit_bzero(&key, sizeof(key));
	return n && ok == n ? BBLOAD_OK : BBLOAD_FAILED;
}

/* --- the devices anew ------------------------------------------------------------------------------- */

/* The address of a switch's port stands in the entries of the hosts behind it. */
static void refresh_nodes(const struct target *t)
{
	int fd = map_open(t->maps, "bb_nodes", true);
	uint16_t key, *at = NULL;
	struct bb_node n;

	while (fd >= 0 && !bpf_map_get_next_key(fd, at, &key)) {
		at = &key;
		if (bpf_map_lookup_elem(fd, &key, &n) || n.ifindex != t->p.ifindex || !memcmp(n.smac, t->p.mac, 6))
			continue;
		memcpy(n.smac, t->p.mac, 6);
		bpf_map_update_elem(fd, &key, &n, BPF_EXIST);
	}
	if (fd >= 0)
		close(fd);
}

static int devices(struct bbload *b)
{
	struct target *t;
	unsigned int n = targets(b, &t, false);
	int ret = 0;

	for (unsigned int i = 0; i < n; i++) {
		int one = place_look(&t[i].p);

		if (one) {
			bb_error("%s: the device is gone: bbload gc", t[i].p.dev);
		} else if (t[i].kind == KIND_SWITCH) {
			refresh_nodes(&t[i]);
			one = map_port(t[i].maps, t[i].p.ifindex, true);
		} else {
			t[i].p.redirect = place_redirects(&t[i].p, t[i].mode);
			one = map_dev_fill(t[i].maps, &t[i].p);
		}
		ret = ret ? ret : one;
	}
	free(t);
	return n && !ret ? BBLOAD_OK : BBLOAD_FAILED;
}

int bbload_update(struct bbload *b, int argc, char **argv)
{
	static const struct {
		const char *name;
		bbload_fn fn;
	} what[] = { { "policy", policy }, { "override", override }, { "node", node }, { "host", host } };
	size_t i = 0;
	int ret;

	while (argc && i < 4 && strcmp(what[i].name, argv[0]))
		i++;
	if (i == 4) {
		bb_error("update %s: there are policy, override, node, host, or nothing", argv[0]);
		return BBLOAD_USAGE;
	}
	ret = argc ? what[i].fn(b, argc - 1, argv + 1) : devices(b);
	if (b->lock >= 0)
		place_unlock(b);
	return ret;
}
