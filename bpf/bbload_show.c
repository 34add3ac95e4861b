/* SPDX-License-Identifier: MIT */
/* show: what is attached where, as an object; the same for people. */
#include "bbload.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <linux/if_link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "steer_names.h"

static json_t *mac_json(const uint8_t m[6])
{
	return json_sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]);
}

static json_t *cmd_json(unsigned int cmd)
{
	return bb_cmd_name(cmd) ? json_string(bb_cmd_name(cmd)) : json_sprintf("%u", cmd);
}

/* --- programs and maps ---------------------------------------------------------- */

static json_t *program_json(uint32_t id, const char *hook)
{
	struct bpf_prog_info info = { 0 };
	__u32 len = sizeof(info);
	int fd = bpf_prog_get_fd_by_id(id);
	uint64_t tag;
	json_t *o;

	if (fd < 0)
		return NULL;
	if (bpf_obj_get_info_by_fd(fd, &info, &len))
		info.id = id;
	close(fd);
	memcpy(&tag, info.tag, sizeof(tag));
	o = json_pack("{s:s,s:s,s:I,s:o}", "name", info.name, "hook", hook, "id", (json_int_t)id, "tag",
		      json_sprintf("%016llx", (unsigned long long)be64toh(tag)));
	/* Counted only with kernel.bpf_stats_enabled=1. */
	if (o && info.run_cnt) {
		json_object_set_new(o, "run_count", json_integer((json_int_t)info.run_cnt));
		json_object_set_new(o, "run_ns", json_integer((json_int_t)info.run_time_ns));
	}
	return o;
}

static json_t *links_json(const struct place *p, bool *dead)
{
	char path[PATH_BYTES + 300];
	json_t *list = json_array();
	struct dirent *e;
	DIR *d;

	snprintf(path, sizeof(path), "%s/links", p->dir);
	d = opendir(path);
	while (d && (e = readdir(d))) {
		struct bpf_link_info info;
		json_t *o;
		int fd, at;

		snprintf(path, sizeof(path), "%s/links/%s", p->dir, e->d_name);
		fd = e->d_name[0] == '.' ? -1 : bpf_obj_get(path);
		if (fd < 0)
			continue;
		at = link_ifindex(fd, &info);
		close(fd);
		*dead = *dead || !at;
		o = at < 0 ? NULL : program_json(info.prog_id, info.type == BPF_LINK_TYPE_XDP ? "xdp" : "tcx");
		if (o && json_object_set_new(o, "link", json_integer(info.id)) == 0)
			json_array_append_new(list, o);
	}
	if (d)
		closedir(d);
	return list;
}

/* Those at clsact have no link. */
static void filters_json(const struct place *p, json_t *state, json_t *list)
{
	struct bpf_tc_hook hook = { .sz = sizeof(hook), .ifindex = (int)p->ifindex, .attach_point = BPF_TC_INGRESS };
	json_t *c;
	size_t i;

	for (i = 0; (c = json_array_get(json_object_get(state, "changes"), i)); i++) {
		LIBBPF_OPTS(bpf_tc_opts, q, .handle = (__u32)json_integer_value(json_object_get(c, "handle")), .priority = 48059);

		if (q.handle && !bpf_tc_query(&hook, &q))
			json_array_append_new(list, program_json(q.prog_id, "clsact"));
	}
}

static json_t *maps_json(const char *maps)
{
	json_t *list = json_array();
	struct dirent *e;
	DIR *d = opendir(maps);

	while (d && (e = readdir(d))) {
		struct bpf_map_info info = { 0 };
		__u32 len = sizeof(info);
		int fd = e->d_name[0] == '.' ? -1 : map_open(maps, e->d_name, true);

		if (fd < 0)
			continue;
		if (!bpf_obj_get_info_by_fd(fd, &info, &len))
			json_array_append_new(list, json_pack("{s:s,s:I,s:s,s:I}", "name", e->d_name, "id", (json_int_t)info.id, "type",
							      libbpf_bpf_map_type_str((enum bpf_map_type)info.type) ?: "other", "entries",
							      (json_int_t)info.max_entries));
		close(fd);
	}
	if (d)
		closedir(d);
	return list;
}

/* --- what is in the maps ------------------------------------------------------------ */

/* Sums of all CPUs, those that are not 0; the commands apart. */
static void counts_json(const char *maps, json_t *o)
{
	const int ncpu = libbpf_num_possible_cpus();
	json_t *cmds = json_object(), *rest = json_object();
	uint64_t *v = ncpu > 0 ? calloc((size_t)ncpu, sizeof(*v)) : NULL;
	int fd = map_open(maps, "bb_count", true);

	for (uint32_t i = 0; v && fd >= 0 && i < BB_CNT_MAX; i++) {
		const char *name = i < BB_CNT_NDP ? bb_cmd_name(i) : bb_steer_count_name(i);
		char number[16];
		uint64_t sum = 0;

		if (bpf_map_lookup_elem(fd, &i, v))
			continue;
		for (int c = 0; c < ncpu; c++)
			sum += v[c];
		snprintf(number, sizeof(number), "%u", i);
		if (sum || i >= BB_CNT_NDP)
			json_object_set_new(i < BB_CNT_NDP ? cmds : rest, name ? name : number, json_integer((json_int_t)sum));
	}
	if (fd >= 0)
		close(fd);
	free(v);
	json_object_set_new(o, "commands", cmds);
	json_object_set_new(o, "counters", rest);
}

static json_t *policies_json(const char *maps)
{
	json_t *list = json_array();
	int fd = map_open(maps, "bb_policy", true);

	for (uint32_t i = 0; fd >= 0 && i < BB_POLICY_ENTRIES; i++) {
		struct bb_policy p;
		json_t *o;

		if (bpf_map_lookup_elem(fd, &i, &p) || p.action == BB_ACT_FORWARD)
			continue;
		o = json_pack("{s:o,s:s}", "command", cmd_json(i), "action", bb_action_name(p.action) ?: "unknown");
		if (o && p.action == BB_ACT_RATE)
			json_object_set_new(o, "rate", json_integer(p.rate));
		if (o && (p.action == BB_ACT_REDIRECT || p.action == BB_ACT_COPY))
			json_object_set_new(o, "node", json_integer(p.node));
		json_array_append_new(list, o);
	}
	if (fd >= 0)
		close(fd);
	return list;
}

static json_t *override_json(const struct bb_over_key *k, const struct bb_over *v)
{
	json_t *cmds = json_array(), *o;
	struct timespec now;
	uint64_t ptr;

	memcpy(&ptr, k->ptr, sizeof(ptr));
	for (unsigned int c = 0; c < BB_POLICY_ENTRIES; c++)
		if (~(v->cmds[0] & v->cmds[1]) && v->cmds[c / 64] >> (c % 64) & 1)
			json_array_append_new(cmds, cmd_json(c));
	o = json_pack("{s:i,s:i,s:o,s:i,s:i,s:I}", "tenant", be16toh(k->tenant), "node", be16toh(k->node), "pointer",
		      json_sprintf("%016llx", (unsigned long long)be64toh(ptr)), "bits", (int)k->prefixlen - 32, "to", v->node, "epoch",
		      (json_int_t)v->epoch);
	if (o && json_array_size(cmds))
		json_object_set(o, "commands", cmds); /* all, where it is not there */
	json_decref(cmds);
	clock_gettime(CLOCK_BOOTTIME, &now);
	if (o && v->until) {
		int64_t left = (int64_t)v->until - (int64_t)now.tv_sec * 1000000000 - now.tv_nsec;

		json_object_set_new(o, "seconds_left", json_real(left > 0 ? (double)left / 1e9 : 0));
	}
	return o;
}

static json_t *overrides_json(const char *maps)
{
	struct bb_over_key key, *at = NULL;
	json_t *list = json_array();
	struct bb_over v;
	int fd = map_open(maps, "bb_over", true);

	while (fd >= 0 && !bpf_map_get_next_key(fd, at, &key) && json_array_size(list) < BB_OVER_MAX) {
		at = &key;
		if (!bpf_map_lookup_elem(fd, &key, &v))
			json_array_append_new(list, override_json(&key, &v));
	}
	if (fd >= 0)
		close(fd);
	return list;
}

static void load_json(int fd, uint16_t node, json_t *o)
{
	struct bpf_map_info info = { 0 };
	const int ncpu = libbpf_num_possible_cpus();
	__u32 len = sizeof(info);
	struct bb_load sum = { 0 };
	uint8_t *v;

	/* Its values may have grown since this was built: each begins as we know it. */
	if (fd < 0 || ncpu < 1 || bpf_obj_get_info_by_fd(fd, &info, &len) || info.value_size < sizeof(sum))
		return;
	v = calloc((size_t)ncpu, (info.value_size + 7) & ~7u);
	if (v && !bpf_map_lookup_elem(fd, &node, v))
		for (int c = 0; c < ncpu; c++) {
			const struct bb_load *l = (const void *)(v + (size_t)c * ((info.value_size + 7) & ~7u));

			sum.packets += l->packets;
			sum.bytes += l->bytes;
			sum.creates += l->creates;
		}
	free(v);
	json_object_set_new(o, "packets", json_integer((json_int_t)sum.packets));
	json_object_set_new(o, "bytes", json_integer((json_int_t)sum.bytes));
	json_object_set_new(o, "creates", json_integer((json_int_t)sum.creates));
}

static json_t *nodes_json(const char *maps)
{
	int fd = map_open(maps, "bb_nodes", true), load = map_open(maps, "bb_load", true);
	uint16_t key, *at = NULL;
	json_t *list = json_array();
	struct bb_node n;

	while (fd >= 0 && !bpf_map_get_next_key(fd, at, &key) && json_array_size(list) < BB_NODES_MAX) {
		char dev[IF_NAMESIZE] = "";
		json_t *o;

		at = &key;
		if (bpf_map_lookup_elem(fd, &key, &n))
			continue;
		if_indextoname(n.ifindex, dev);
		o = json_pack("{s:i,s:s,s:I,s:o,s:o}", "node", key, "port", dev, "ifindex", (json_int_t)n.ifindex, "mac", mac_json(n.mac),
			      "port_mac", mac_json(n.smac));
		if (o)
			load_json(load, key, o);
		json_array_append_new(list, o);
	}
	if (fd >= 0)
		close(fd);
	if (load >= 0)
		close(load);
	return list;
}

static json_t *host_json(const char *maps)
{
	struct bb_steer_cfg c = { 0 };
	const uint32_t zero = 0;
	int fd = map_open(maps, "bb_cfg", true);

	if (fd >= 0) {
		bpf_map_lookup_elem(fd, &zero, &c);
		close(fd);
	}
	return json_pack("{s:i,s:b,s:b,s:i,s:i,s:i,s:i,s:I,s:I}", "version", (int)c.version, "known", !!(c.flags & BB_SC_KNOWN), "serves",
			 !!(c.flags & BB_SC_SERVE), "tenant", c.tenant, "node", c.node, "port", c.port, "overrides", c.overrides, "boot",
			 (json_int_t)c.boot, "bytes", (json_int_t)c.bytes);
}

/* --- a device ---------------------------------------------------------------------------- */

static json_t *place_json(struct bbload *b, struct place *p)
{
	json_t *state = state_load(p), *links, *o;
	bool ns = !place_enter_inode(b, p->netns), dead = false;
	const enum kind kind = state ? state_kind(state) : KIND_HOST;
	const char *mode = json_string_value(json_object_get(state, "mode")), *word = "ok";
	char maps[PATH_BYTES];

	if (ns)
		place_look(p);
	place_maps(p, kind, maps);
	links = links_json(p, &dead);
	if (!ns || (state && (uint64_t)json_integer_value(json_object_get(state, "netns_cookie")) != b->ns_cookie))
		word = "namespace gone";
	else if (dead || (state && !state_is_of(b, state, p)))
		word = "device gone";
	else
		filters_json(p, state, links);
	if (!strcmp(word, "ok") && (!state || !json_array_size(links)))
		word = "incomplete";
	o = json_pack("{s:s,s:s,s:I,s:s,s:s,s:s,s:o,s:O?,s:o,s:o}", "dev", p->dev, "netns",
		      json_string_value(json_object_get(state, "netns")) ?: "", "netns_inode", (json_int_t)p->netns, "kind",
		      state ? kind_name[kind] : "unknown", "mode", mode ? mode : "unknown", "state", word, "programs", links, "changes",
		      json_object_get(state, "changes"), "host", host_json(maps), "maps", maps_json(maps));
	if (o) {
		json_object_set_new(o, "ifindex", json_integer(p->ifindex));
		counts_json(maps, o);
		json_object_set_new(o, "policies", policies_json(maps));
		json_object_set_new(o, "overrides", overrides_json(maps));
		if (kind == KIND_SWITCH)
			json_object_set_new(o, "nodes", nodes_json(maps));
	}
	json_decref(state);
	return o;
}

static const char *text(const json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key)) ?: "";
}

static long long num(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

static void print_sums(const char *head, json_t *o)
{
	const char *key;
	json_t *v;
	bool any = false;

	json_object_foreach(o, key, v) {
		if (!json_integer_value(v))
			continue;
		printf("%s %s %lld", any ? "," : head, key, json_integer_value(v));
		any = true;
	}
	if (any)
		putchar('\n');
}

static void print_place(json_t *o, bool maps_too)
{
	const json_t *h = json_object_get(o, "host");
	json_t *e;
	size_t i, k;

	printf("%s%s%s: %s, %s mode, %s\n", text(o, "dev"), *text(o, "netns") ? " in " : "", text(o, "netns"), text(o, "kind"),
	       text(o, "mode"), text(o, "state"));
	for (i = 0; (e = json_array_get(json_object_get(o, "programs"), i)); i++) {
		printf("  program %s at %s, id %lld, tag %s", text(e, "name"), text(e, "hook"), num(e, "id"), text(e, "tag"));
		if (num(e, "run_count"))
			printf(", %lld runs of %lld ns", num(e, "run_count"), num(e, "run_ns") / num(e, "run_count"));
		putchar('\n');
	}
	for (i = 0; maps_too && (e = json_array_get(json_object_get(o, "changes"), i)); i++) {
		char *s = json_dumps(e, JSON_COMPACT);

		printf("  set %s\n", s ? s : "");
		free(s);
	}
	if (!maps_too) {
		printf("  maps are those of the port before\n");
		return;
	}
	if (json_is_true(json_object_get(h, "known")))
		printf("  tenant %lld, node %lld, port %lld%s\n", num(h, "tenant"), num(h, "node"), num(h, "port"),
		       json_is_true(json_object_get(h, "serves")) ? ", answers READ in the kernel" : "");
	print_sums("  requests:", json_object_get(o, "commands"));
	print_sums("  counted:", json_object_get(o, "counters"));
	for (i = 0; (e = json_array_get(json_object_get(o, "policies"), i)); i++) {
		printf("  policy %s %s", text(e, "command"), text(e, "action"));
		if (json_object_get(e, "rate"))
			printf(" rate %lld", num(e, "rate"));
		if (json_object_get(e, "node"))
			printf(" node %lld", num(e, "node"));
		putchar('\n');
	}
	for (i = 0; (e = json_array_get(json_object_get(o, "overrides"), i)); i++) {
		json_t *c;

		printf("  override %lld:%s/%lld to %lld", num(e, "node"), text(e, "pointer"), num(e, "bits"), num(e, "to"));
		for (k = 0; (c = json_array_get(json_object_get(e, "commands"), k)); k++)
			printf("%s%s", k ? "," : " cmds ", json_string_value(c));
		if (json_object_get(e, "seconds_left"))
			printf(" for %.0f", json_real_value(json_object_get(e, "seconds_left")));
		if (num(e, "tenant"))
			printf(" (tenant %lld)", num(e, "tenant"));
		putchar('\n');
	}
	for (i = 0; (e = json_array_get(json_object_get(o, "nodes"), i)); i++)
		printf("  node %lld at %s, %s: %lld packets, %lld bytes, %lld creates\n", num(e, "node"), text(e, "port"), text(e, "mac"),
		       num(e, "packets"), num(e, "bytes"), num(e, "creates"));
}

int bbload_show(struct bbload *b, int argc, char **argv)
{
	json_t *list = json_array(), *o;
	long long sw = 0;
	struct place *all;
	unsigned int n;
	uint64_t asked;
	size_t i;

	if (place_need_rights() || place_enter(b))
		return BBLOAD_FAILED;
	asked = b->ns_inode;
	n = place_list(&all);
	for (unsigned int k = 0; k < n; k++) {
		bool want = *all[k].dev && (!b->ndevs || all[k].netns == asked) && (!b->netns || all[k].netns == asked);

		for (unsigned int d = 0; want && d <= b->ndevs; d++) {
			if (b->ndevs && d == b->ndevs)
				want = false;
			else if (!b->ndevs || !strcmp(b->dev[d], all[k].dev))
				break;
		}
		if (want)
			json_array_append_new(list, place_json(b, &all[k]));
	}
	free(all);
	if (b->json) {
		json_t *root = json_pack("{s:O}", "attached", list);

		json_dumpf(root, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(root);
	} else if (!json_array_size(list)) {
		printf("nothing is attached\n");
	}
	for (i = 0; !b->json && (o = json_array_get(list, i)); i++) {
		const bool is_switch = !strcmp(text(o, "kind"), "switch");

		print_place(o, !is_switch || num(o, "netns_inode") != sw);
		if (is_switch)
			sw = num(o, "netns_inode");
	}
	json_decref(list);
	return BBLOAD_OK;
}
