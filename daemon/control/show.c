/* SPDX-License-Identifier: MIT */
/*
 * The objects that people and scripts look at, and the few that they may set.
 * One table of commands; each makes a JSON object. Keys and units are what
 * bbctl(8) says: bytes, and nanoseconds or microseconds by name.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "control/control.h"
#include "latency.h"
#include "net/inject.h"
#include "net/net.h"
#include "rights.h"
#include "steer_names.h"

const char *const bb_control_status[BB_ST_MAX] = {
	[BB_ST_OK] = "ok",		     [BB_ST_MALFORMED] = "malformed", [BB_ST_VERSION] = "version",
	[BB_ST_COMMAND] = "command",	     [BB_ST_BOUNDS] = "bounds",	      [BB_ST_GENERATION] = "generation",
	[BB_ST_RIGHTS] = "rights",	     [BB_ST_TENANT] = "tenant",	      [BB_ST_NOSPACE] = "nospace",
	[BB_ST_BOOT] = "boot",		     [BB_ST_STALE] = "stale",	      [BB_ST_BUSY] = "busy",
	[BB_ST_TIMEOUT] = "timeout",	     [BB_ST_UNREACH] = "unreach",
};

const char *const bb_control_command[BB_CONTROL_COMMANDS] = {
	[BB_CMD_HELLO] = "hello",   [BB_CMD_CREATE] = "create", [BB_CMD_ALLOC_WRITE] = "alloc_write",
	[BB_CMD_READ] = "read",	    [BB_CMD_WRITE] = "write",	[BB_CMD_UPDATE] = "update",
	[BB_CMD_DELETE] = "delete", [BB_CMD_INVALIDATE] = "invalidate", [BB_CMD_NACK] = "nack",
	[BB_CMD_INVOKE] = "invoke", [BB_CMD_READ_RUN] = "read_run", [BB_CMD_CLOSE] = "close",
};

static json_t *number(uint64_t v)
{
	return json_integer((json_int_t)v);
}

static json_t *by_status(const uint64_t *counts)
{
	json_t *o = json_object();

	for (int i = 1; i < BB_ST_MAX; i++)
		if (counts[i] && bb_control_status[i])
			json_object_set_new(o, bb_control_status[i], number(counts[i]));
	return o;
}

/* --- nodes ----------------------------------------------------------------- */

static json_t *nodes(struct bb_control *c)
{
	struct bb_peer p[256];
	int n = bb_peers_list(c->peers, p, 256);
	json_t *list = json_array();

	for (int i = 0; i < n; i++) {
		char via[INET6_ADDRSTRLEN] = "", dev[IF_NAMESIZE] = "";
		json_t *o = json_object();

		if (!p[i].self)
			inet_ntop(AF_INET6, &p[i].via, via, sizeof(via));
		if (p[i].ifindex && !if_indextoname(p[i].ifindex, dev))
			dev[0] = 0;
		json_object_set_new(o, "node", number(p[i].node));
		json_object_set_new(o, "name", json_string(p[i].name));
		json_object_set_new(o, "self", json_boolean(p[i].self));
		json_object_set_new(o, "alive", json_boolean(p[i].alive || p[i].self));
		json_object_set_new(o, "key_differs", json_boolean(p[i].key_differs));
		json_object_set_new(o, "boot", number(p[i].boot));
		json_object_set_new(o, "lent", number(p[i].lent));
		json_object_set_new(o, "free", number(p[i].free));
		json_object_set_new(o, "rtt_us", json_real((double)p[i].rtt_ns / 1000.0));
		json_object_set_new(o, "mtu", number(p[i].mtu));
		json_object_set_new(o, "via", json_string(via));
		json_object_set_new(o, "dev", json_string(dev));
		bb_control_transport(&p[i], o);
		bb_control_compress(c, &p[i], o);
		json_array_append_new(list, o);
	}
	return list;
}

static json_t *node_show(struct bb_control *c, json_t *q)
{
	return json_pack("{s:o}", "nodes", nodes(c));
}

/* --- programs -------------------------------------------------------------- */

static json_t *homes_of(const struct bb_program_info *p)
{
	json_t *list = json_array();

	for (unsigned int i = 0; i < p->nnodes; i++)
		json_array_append_new(list, json_pack("{s:i, s:I, s:I}", "node", (int)p->node[i].node, "extents",
						      (json_int_t)p->node[i].extents, "pages",
						      (json_int_t)p->node[i].pages));
	return list;
}

static json_t *program(const struct bb_program_info *p)
{
	json_t *o = json_object();

#define NUMBER(field) json_object_set_new(o, #field, number(p->field))
	NUMBER(region);
	NUMBER(pid);
	/* What a program calls itself need not be UTF-8. */
	json_t *comm = json_string(p->comm);

	json_object_set_new(o, "comm", comm ? comm : json_string("?"));
	NUMBER(base);
	NUMBER(length);
	NUMBER(budget);
	NUMBER(charged);
	NUMBER(allocated);
	json_object_set_new(o, "extents",
			    json_pack("{s:I, s:I, s:I}", "local", (json_int_t)p->extents_local, "managed",
				      (json_int_t)p->extents_managed, "fresh", (json_int_t)p->extents_fresh));
	NUMBER(faults);
	NUMBER(fill_zero);
	NUMBER(fill_staged);
	NUMBER(fill_remote);
	NUMBER(prefetched);
	NUMBER(unused);
	NUMBER(evicted);
	NUMBER(evicted_clean);
	NUMBER(evicted_zero);
	NUMBER(evict_busy);
	NUMBER(written_back);
	NUMBER(lost);
	NUMBER(relayed);
	NUMBER(relay_late);
	NUMBER(single);
	NUMBER(copied);
#undef NUMBER
	json_object_set_new(o, "nodes", homes_of(p));
	return o;
}

static json_t *each_program(struct bb_control *c, json_t *(*make)(const struct bb_program_info *))
{
	json_t *list = json_array();

	for (unsigned int k = 0; k < c->npagers; k++) {
		int n = bb_pager_programs(c->pagers[k], c->info, BB_PROGRAMS_MAX);

		for (int i = 0; i < n; i++)
			json_array_append_new(list, make(&c->info[i]));
	}
	return list;
}

static json_t *program_show(struct bb_control *c, json_t *q)
{
	return json_pack("{s:o}", "programs", each_program(c, program));
}

static json_t *region(const struct bb_program_info *p)
{
	json_t *comm = json_string(p->comm);

	return json_pack("{s:I, s:I, s:o, s:I, s:I, s:o}", "region", (json_int_t)p->region, "pid", (json_int_t)p->pid,
			 "comm", comm ? comm : json_string("?"), "base", (json_int_t)p->base, "length",
			 (json_int_t)p->length, "nodes", homes_of(p));
}

static json_t *region_show(struct bb_control *c, json_t *q)
{
	return json_pack("{s:o}", "regions", each_program(c, region));
}

static json_t *program_set(struct bb_control *c, json_t *q)
{
	json_int_t id, bytes;

	if (json_unpack(q, "{s:I, s:I}", "region", &id, "budget", &bytes) < 0 || id <= 0 || id > UINT32_MAX || bytes < 0)
		return json_string("program.set wants the numbers region and budget (bytes)");
	if (bytes < (json_int_t)BB_BUDGET_MIN)
		return json_string("a budget is at least 4M");
	if (bb_budget_set(&c->budget, (uint32_t)id, (uint64_t)bytes) < 0)
		return json_string("there is no such region");
	bb_control_reckon(c);
	return json_object();
}

/* --- faults ---------------------------------------------------------------- */

/* The pagers' histograms, added up. */
static void add(struct bb_hist *sum, const struct bb_hist *h)
{
	uint64_t max = atomic_load(&h->max);

	atomic_fetch_add(&sum->count, atomic_load(&h->count));
	atomic_fetch_add(&sum->sum, atomic_load(&h->sum));
	if (max > atomic_load(&sum->max))
		atomic_store(&sum->max, max);
	for (int i = 0; i < BB_HIST_BUCKETS; i++)
		atomic_fetch_add(&sum->bucket[i], atomic_load(&h->bucket[i]));
}

static json_t *histogram(const struct bb_hist *h)
{
	uint64_t n = atomic_load(&h->count);

	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "count", (json_int_t)n, "mean_ns",
			 (json_int_t)(n ? atomic_load(&h->sum) / n : 0), "p50_ns",
			 (json_int_t)bb_hist_quantile(h, 500), "p90_ns", (json_int_t)bb_hist_quantile(h, 900), "p95_ns",
			 (json_int_t)bb_hist_quantile(h, 950), "p99_ns",
			 (json_int_t)bb_hist_quantile(h, 990), "p999_ns", (json_int_t)bb_hist_quantile(h, 999),
			 "max_ns", (json_int_t)atomic_load(&h->max));
}

static json_t *faults(struct bb_control *c)
{
	json_t *remote = json_object(), *local;
	struct bb_hist sum;

	for (int part = 0; part < BB_PART_MAX; part++) {
		memset(&sum, 0, sizeof(sum));
		for (unsigned int k = 0; k < c->npagers; k++)
			add(&sum, bb_pager_hist(c->pagers[k], (enum bb_part)part));
		json_object_set_new(remote, bb_part_name[part], histogram(&sum));
	}
	memset(&sum, 0, sizeof(sum));
	for (unsigned int k = 0; k < c->npagers; k++)
		add(&sum, bb_pager_hist_local(c->pagers[k]));
	local = histogram(&sum);
	return json_pack("{s:o, s:o}", "remote", remote, "local", local);
}

static json_t *fault_show(struct bb_control *c, json_t *q)
{
	return faults(c);
}

static json_t *fault_reset(struct bb_control *c, json_t *q)
{
	for (unsigned int k = 0; k < c->npagers; k++)
		bb_pager_hist_reset(c->pagers[k]);
	return json_object();
}

/* --- what bbload attached ------------------------------------------------------ */

const char *bb_control_kernel(struct bb_control *c, struct bb_steer_stats *s)
{
	static const char *const state[] = { "off", "refused", "attached", "serves" };

	bb_steer_stats(c->steer, s);
	if (!c->steer)
		strcpy(s->why, c->cfg->embedded ? "embedded" : !c->cfg->dev ? "no --dev" : "--kernel off");
	else if (s->state == BB_STEER_OFF)
		strcpy(s->why, "no programs are attached");
	return state[s->state];
}

static json_t *kernel(struct bb_control *c)
{
	struct bb_steer_stats s;
	const char *state = bb_control_kernel(c, &s);
	json_t *o = json_pack("{s:s, s:s, s:I}", "state", state, "why", s.why, "slabs", (json_int_t)s.slabs), *cmds;

	if (s.state < BB_STEER_KNOWN)
		return o;
	cmds = json_object();
	for (unsigned int i = 0; i < BB_CNT_MAX; i++) {
		char cmd[8];

		if (bb_steer_count_name(i)) {
			json_object_set_new(o, bb_steer_count_name(i), number(s.count[i]));
		} else if (s.count[i]) {
			snprintf(cmd, sizeof(cmd), "%u", i);
			json_object_set_new(cmds, bb_cmd_name(i) ? bb_cmd_name(i) : cmd, number(s.count[i]));
		}
	}
	json_object_set_new(o, "commands", cmds);
	return o;
}

/* --- home and network ------------------------------------------------------- */

static json_t *home_show(struct bb_control *c, json_t *q)
{
	struct bb_home_stats s = { 0 };
	struct bb_steer_stats k;

	if (c->home)
		bb_home_stats(c->home, &s);
	bb_steer_stats(c->steer, &k);
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "lent", (json_int_t)s.lent, "used",
			 (json_int_t)s.used, "extents", (json_int_t)s.extents, "grown", (json_int_t)s.grown, "mapped",
			 (json_int_t)s.mapped, "reads", (json_int_t)s.reads, "kernel_reads",
			 (json_int_t)k.count[BB_CNT_SERVED], "writes", (json_int_t)s.writes, "creates", (json_int_t)s.creates, "deletes", (json_int_t)s.deletes,
			 "refused", by_status(s.refused));
}

static json_t *server(struct bb_control *c)
{
	struct bb_server_stats s = { 0 };
	json_t *cmds = json_object();

	if (c->server)
		bb_server_stats(c->server, &s);
	for (size_t i = 0; i < BB_CONTROL_COMMANDS; i++)
		if (bb_control_command[i] && s.by_cmd[i])
			json_object_set_new(cmds, bb_control_command[i], number(s.by_cmd[i]));
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "rx_packets", (json_int_t)s.rx_packets,
			 "tx_packets", (json_int_t)s.tx_packets, "bad_tag", (json_int_t)s.bad_tag, "malformed",
			 (json_int_t)s.malformed, "bad_version", (json_int_t)s.bad_version, "bad_command",
			 (json_int_t)s.bad_command, "foreign_tenant", (json_int_t)s.foreign_tenant, "duplicates",
			 (json_int_t)s.duplicates, "stale", (json_int_t)s.stale, "adopted", (json_int_t)s.adopted,
			 "policy", (json_int_t)s.policy, "lz4_rx", (json_int_t)s.lz4_rx, "lz4_tx", (json_int_t)s.lz4_tx,
			 "lz4_raw", (json_int_t)s.lz4_raw, "lz4_saved", (json_int_t)s.lz4_saved, "commands", cmds);
}

static json_t *net_show(struct bb_control *c, json_t *q)
{
	json_t *pagers = json_array();

	for (unsigned int k = 0; k < c->npagers; k++) {
		struct bb_net_stats s = { 0 };

		bb_pager_net_stats(c->pagers[k], &s);
		json_array_append_new(
			pagers, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "tx_packets",
					  (json_int_t)s.tx_packets, "rx_packets", (json_int_t)s.rx_packets, "tx_xdp",
					  (json_int_t)s.tx_xdp, "rx_xdp", (json_int_t)s.rx_xdp, "tx_bytes",
					  (json_int_t)s.tx_bytes, "rx_bytes", (json_int_t)s.rx_bytes, "rdma_reads", (json_int_t)s.rdma_reads, "rdma_writes",
					  (json_int_t)s.rdma_writes, "rdma_links", (json_int_t)s.rdma_links, "rdma_breaks",
					  (json_int_t)s.rdma_breaks, "resent",
					  (json_int_t)s.resent, "again", (json_int_t)s.again, "timeouts", (json_int_t)s.timeouts, "bad_tag",
					  (json_int_t)s.bad_tag, "malformed", (json_int_t)s.malformed, "stale",
					  (json_int_t)s.stale, "lz4_rx", (json_int_t)s.lz4_rx, "lz4_tx", (json_int_t)s.lz4_tx, "lz4_raw",
					  (json_int_t)s.lz4_raw, "lz4_saved", (json_int_t)s.lz4_saved, "nacks", by_status(s.nacks)));
	}
	return json_pack("{s:o, s:o, s:o, s:o}", "server", server(c), "kernel", kernel(c), "rdma", bb_control_rdma(c), "pagers",
			 pagers);
}

/* Of a bbd under test, see net/inject.h: shows the faults of its network, and sets others. */
static json_t *net_faults(struct bb_control *c, json_t *q)
{
	const char *text = json_string_value(json_object_get(q, "set"));
	json_t *done = json_object();
	struct bb_inject_stats s;

	if (text && bb_inject_set(text)) {
		json_decref(done);
		return json_string("these faults are not understood; they are like drop=5,dup=5,delay=5,seed=1, or off");
	}
	bb_inject_stats(&s);
	for (int i = 0; i < BB_INJECT_WHATS; i++)
		json_object_set_new(done, bb_inject_name[i], number(s.done[i]));
	return json_pack("{s:s, s:I, s:o}", "faults", s.text, "seen", (json_int_t)s.seen, "done", done);
}

/* --- all of it -------------------------------------------------------------- */

static json_t *show(struct bb_control *c, json_t *q)
{
	return json_pack("{s:s, s:i, s:o, s:o, s:o, s:o}", "version", BB_VERSION, "pid", (int)getpid(), "nodes",
			 nodes(c), "programs", each_program(c, program), "home", home_show(c, q), "faults", faults(c));
}

static json_t *doctor_facts(struct bb_control *c, json_t *q)
{
	const struct bb_config *f = c->cfg;
	const char *last = NULL;
	uint64_t refused = bb_rights_refused(&last);
	struct bb_home_stats h = { 0 };

	if (c->home)
		bb_home_stats(c->home, &h);

	return json_pack("{s:s, s:i, s:i, s:i, s:i, s:s, s:s, s:s, s:b, s:s, s:s, s:I, s:s, s:o, s:o, s:I, s:I, s:o}", "version", BB_VERSION, "pid",
			 (int)getpid(), "node", (int)f->node, "tenant", (int)f->tenant, "port", (int)f->port, "dev",
			 f->dev ? f->dev : "", "key_id", c->key_id, "key_file", c->key_file, "embedded",
			 (int)f->embedded, "latency", bb_latency_state(), "filter", bb_rights_filter(), "refused",
			 (json_int_t)refused, "refused_last", last ? last : "", "kernel", kernel(c), "rdma", bb_control_rdma(c),
			 "grown", (json_int_t)h.grown, "mapped",
			 (json_int_t)h.mapped, "nodes", nodes(c));
}

static json_t *metrics_show(struct bb_control *c, json_t *q)
{
	return bb_control_metrics(c);
}

static const struct {
	const char *name;
	json_t *(*fn)(struct bb_control *c, json_t *q); /* a string is an error message */
	bool sets; /* for root and bbd's own user */
} commands[] = {
	{ "show", show, false },
	{ "node.show", node_show, false },
	{ "program.show", program_show, false },
	{ "program.set", program_set, true },
	{ "region.show", region_show, false },
	{ "fault.show", fault_show, false },
	{ "fault.reset", fault_reset, true },
	{ "home.show", home_show, false },
	{ "net.show", net_show, false },
	{ "extent.show", bb_control_extent_show, false },
	{ "extent.move", bb_control_extent_move, true },
	{ "extent.moving", bb_control_extent_moving, false },
	{ "net.faults", net_faults, true },
	{ "metrics.show", metrics_show, false },
	/* Which pages a program touches when is nobody else's business. */
	{ "trace.list", bb_control_trace_list, true },
	{ "trace.read", bb_control_trace_read, true },
	{ "doctor.facts", doctor_facts, false },
};

json_t *bb_control_answer(struct bb_control *c, json_t *request, bool may_set)
{
	const char *name = json_string_value(json_object_get(request, "cmd"));
	json_t *r;

	for (size_t i = 0; name && i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(commands[i].name, name) || (commands[i].fn == net_faults && !bb_inject_enabled()))
			continue;
		if (commands[i].sets && !may_set)
			return json_pack("{s:b, s:s}", "ok", 0, "error", "only root and bbd's own user may change things, or look at single faults");
		r = commands[i].fn(c, request);
		if (json_is_string(r))
			return json_pack("{s:b, s:o}", "ok", 0, "error", r);
		return json_pack("{s:b, s:o}", "ok", 1, "result", r ? r : json_null());
	}
	return json_pack("{s:b, s:s}", "ok", 0, "error", name ? "there is no such command" : "\"cmd\" is missing");
}
