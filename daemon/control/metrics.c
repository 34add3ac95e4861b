/* SPDX-License-Identifier: MIT */
/*
 * bbd's numbers in Prometheus' text format. The programs are asked for once:
 * to count their pages takes a look at every word of them.
 *
 * Labels are numbers and names of our own; nothing that another host or a
 * program calls itself goes in.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "control/control.h"
#include "net/net.h"
#include "steer_names.h"

static void family(FILE *f, const char *name, const char *type, const char *help)
{
	fprintf(f, "# HELP bluebridge_%s %s\n# TYPE bluebridge_%s %s\n", name, help, name, type);
}

static void one(FILE *f, const char *name, const char *type, const char *help, uint64_t value)
{
	family(f, name, type, help);
	fprintf(f, "bluebridge_%s %llu\n", name, (unsigned long long)value);
}

static void labelled(FILE *f, const char *name, const char *label, const char *value, uint64_t n)
{
	fprintf(f, "bluebridge_%s{%s=\"%s\"} %llu\n", name, label, value, (unsigned long long)n);
}

/* A member of each of n structs of that size, a pager or a program each. */
struct member {
	const char *name, *type, *help;
	size_t offset;
};

static uint64_t value_of(const void *s, const struct member *m)
{
	return *(const uint64_t *)((const char *)s + m->offset);
}

/* --- programs ------------------------------------------------------------------ */

static void programs(struct bb_control *c, FILE *f)
{
#define PROGRAM(field, type, help) { "program_" #field, type, help, offsetof(struct bb_program_info, field) }
	static const struct member members[] = {
		PROGRAM(budget, "gauge", "local memory granted, bytes"),
		PROGRAM(charged, "gauge", "local memory charged, bytes"),
		PROGRAM(allocated, "gauge", "live allocations, bytes"),
		PROGRAM(faults, "counter", "faults"),
		PROGRAM(fill_remote, "counter", "faults that went to a home"),
		PROGRAM(fill_staged, "counter", "faults served from the staging ring"),
		PROGRAM(prefetched, "counter", "pages fetched ahead"),
		PROGRAM(unused, "counter", "pages fetched ahead of a walk that then went elsewhere"),
		PROGRAM(evicted, "counter", "pages taken out"),
		PROGRAM(written_back, "counter", "pages written to homes"),
		PROGRAM(lost, "counter", "pages whose only copy is gone"),
	};
#undef PROGRAM
	struct bb_program_info *all = calloc(c->npagers ? c->npagers * BB_PROGRAMS_MAX : 1, sizeof(*all));
	int n = 0;

	if (!all)
		return;
	for (unsigned int k = 0; k < c->npagers; k++)
		n += bb_pager_programs(c->pagers[k], all + n, BB_PROGRAMS_MAX);
	for (size_t m = 0; m < sizeof(members) / sizeof(members[0]); m++) {
		family(f, members[m].name, members[m].type, members[m].help);
		for (int i = 0; i < n; i++)
			fprintf(f, "bluebridge_%s{region=\"%u\",pid=\"%u\"} %llu\n", members[m].name, all[i].region,
				all[i].pid, (unsigned long long)value_of(&all[i], &members[m]));
	}
	free(all);
}

static void faults(struct bb_control *c, FILE *f)
{
	static const unsigned int permille[] = { 500, 900, 990, 999 };

	family(f, "remote_fault_seconds", "summary", "remote page faults, by part");
	for (unsigned int k = 0; k < c->npagers; k++)
		for (int p = 0; p < BB_PART_MAX; p++) {
			const struct bb_hist *h = bb_pager_hist(c->pagers[k], (enum bb_part)p);

			for (size_t q = 0; q < sizeof(permille) / sizeof(permille[0]); q++)
				fprintf(f, "bluebridge_remote_fault_seconds{pager=\"%u\",part=\"%s\",quantile=\"%g\"} %.9f\n",
					k, bb_part_name[p], permille[q] / 1000.0,
					(double)bb_hist_quantile(h, permille[q]) / 1e9);
			fprintf(f, "bluebridge_remote_fault_seconds_sum{pager=\"%u\",part=\"%s\"} %.9f\n", k,
				bb_part_name[p], (double)atomic_load(&h->sum) / 1e9);
			fprintf(f, "bluebridge_remote_fault_seconds_count{pager=\"%u\",part=\"%s\"} %llu\n", k,
				bb_part_name[p], (unsigned long long)atomic_load(&h->count));
		}
}

/* --- what bbload attached -------------------------------------------------------- */

static void kernel(struct bb_control *c, FILE *f)
{
	struct bb_steer_stats s;

	bb_control_kernel(c, &s);
	one(f, "kernel_serves", "gauge", "1: programs in the kernel answer READs", s.state == BB_STEER_SERVES);
	one(f, "kernel_slabs", "gauge", "slabs of lent memory that they read", s.slabs);
	family(f, "kernel_packets", "counter", "what they did with packets");
	for (unsigned int i = 0; i < BB_CNT_MAX; i++)
		if (bb_steer_count_name(i))
			labelled(f, "kernel_packets", "what", bb_steer_count_name(i), s.count[i]);
	family(f, "kernel_requests", "counter", "requests that they saw, by command");
	for (unsigned int i = 0; i < BB_CNT_NDP; i++)
		if (bb_cmd_name(i))
			labelled(f, "kernel_requests", "command", bb_cmd_name(i), s.count[i]);
}

/* --- home and hosts -------------------------------------------------------------- */

static void home(struct bb_control *c, FILE *f)
{
	struct bb_home_stats h = { 0 };

	if (c->home)
		bb_home_stats(c->home, &h);
	one(f, "home_lent_bytes", "gauge", "memory lent at most", h.lent);
	one(f, "home_used_bytes", "gauge", "memory that others hold", h.used);
	one(f, "home_slab_bytes", "gauge", "slabs that there are", h.grown);
	one(f, "home_mapped_bytes", "gauge", "of these, what the kernel can serve", h.mapped);
	family(f, "home_requests", "counter", "requests done by bbd (kernel_packets: by the kernel)");
	labelled(f, "home_requests", "command", "read", h.reads);
	labelled(f, "home_requests", "command", "write", h.writes);
	labelled(f, "home_requests", "command", "create", h.creates);
	labelled(f, "home_requests", "command", "delete", h.deletes);
	family(f, "home_refused", "counter", "requests refused, by reason");
	for (int i = 1; i < BB_ST_MAX; i++)
		labelled(f, "home_refused", "reason", bb_control_status[i], h.refused[i]);
}

static void nodes(struct bb_control *c, FILE *f)
{
	struct bb_peer p[256];
	int n = bb_peers_list(c->peers, p, 256), i;

	family(f, "node_up", "gauge", "1: the host answers, with our key");
	for (i = 0; i < n; i++)
		fprintf(f, "bluebridge_node_up{node=\"%u\"} %d\n", p[i].node,
			p[i].self || (p[i].alive && !p[i].key_differs));
	family(f, "node_lent_bytes", "gauge", "memory that the host lends at most");
	for (i = 0; i < n; i++)
		fprintf(f, "bluebridge_node_lent_bytes{node=\"%u\"} %llu\n", p[i].node, (unsigned long long)p[i].lent);
	family(f, "node_free_bytes", "gauge", "memory that the host has free to lend");
	for (i = 0; i < n; i++)
		fprintf(f, "bluebridge_node_free_bytes{node=\"%u\"} %llu\n", p[i].node, (unsigned long long)p[i].free);
	family(f, "node_rtt_seconds", "gauge", "smoothed round trip to the host");
	for (i = 0; i < n; i++)
		if (!p[i].self && p[i].rtt_ns)
			fprintf(f, "bluebridge_node_rtt_seconds{node=\"%u\"} %.9f\n", p[i].node,
				(double)p[i].rtt_ns / 1e9);
}

/* --- network --------------------------------------------------------------------- */

static void server(struct bb_control *c, FILE *f)
{
	struct bb_server_stats s = { 0 };

	if (c->server)
		bb_server_stats(c->server, &s);
	one(f, "server_rx_packets", "counter", "packets that came to the server", s.rx_packets);
	one(f, "server_tx_packets", "counter", "packets that the server sent", s.tx_packets);
	family(f, "server_dropped", "counter", "packets that were not served, by reason");
	labelled(f, "server_dropped", "reason", "bad_tag", s.bad_tag);
	labelled(f, "server_dropped", "reason", "malformed", s.malformed);
	labelled(f, "server_dropped", "reason", "bad_version", s.bad_version);
	labelled(f, "server_dropped", "reason", "bad_command", s.bad_command);
	labelled(f, "server_dropped", "reason", "foreign_tenant", s.foreign_tenant);
	labelled(f, "server_dropped", "reason", "duplicates", s.duplicates);
	labelled(f, "server_dropped", "reason", "stale", s.stale);
	labelled(f, "server_dropped", "reason", "policy", s.policy);
	one(f, "server_lz4_rx", "counter", "segments that came compressed", s.lz4_rx);
	one(f, "server_lz4_tx", "counter", "segments that left compressed", s.lz4_tx);
	one(f, "server_lz4_raw", "counter", "segments that did not become shorter", s.lz4_raw);
	one(f, "server_lz4_saved_bytes", "counter", "bytes that the server's segments were shorter by", s.lz4_saved);
	family(f, "server_requests", "counter", "requests, by command");
	for (unsigned int i = 0; i < BB_CONTROL_COMMANDS; i++)
		if (bb_control_command[i])
			labelled(f, "server_requests", "command", bb_control_command[i], s.by_cmd[i]);
}

static void clients(struct bb_control *c, FILE *f)
{
#define CLIENT(field, help) { "client_" #field, "counter", help, offsetof(struct bb_net_stats, field) }
	static const struct member members[] = {
		CLIENT(tx_packets, "packets that a pager sent"),
		CLIENT(rx_packets, "packets that came to a pager"),
		CLIENT(tx_xdp, "of these, by AF_XDP"),
		CLIENT(rx_xdp, "of these, by AF_XDP"),
		CLIENT(tx_bytes, "bytes that a pager sent"),
		CLIENT(rx_bytes, "bytes that came to a pager"),
		CLIENT(rdma_reads, "pages read by RDMA"),
		CLIENT(rdma_writes, "pages written by RDMA"),
		CLIENT(rdma_links, "RDMA connections made"),
		CLIENT(rdma_breaks, "RDMA connections that broke"),
		CLIENT(lz4_rx, "segments that came compressed"),
		CLIENT(lz4_tx, "segments that left compressed"),
		CLIENT(lz4_raw, "segments that did not become shorter"),
		CLIENT(lz4_saved, "bytes that a pager's segments were shorter by"),
		CLIENT(resent, "packets sent once more"),
		CLIENT(timeouts, "requests that ended by their deadline"),
		CLIENT(bad_tag, "packets of another key"),
		CLIENT(malformed, "packets that make no sense"),
		CLIENT(stale, "answers that nobody waits for"),
	};
#undef CLIENT
	static struct bb_net_stats s[BB_PAGERS_MAX]; /* the control thread's alone */

	for (unsigned int k = 0; k < c->npagers; k++)
		bb_pager_net_stats(c->pagers[k], &s[k]);
	for (size_t m = 0; m < sizeof(members) / sizeof(members[0]); m++) {
		family(f, members[m].name, members[m].type, members[m].help);
		for (unsigned int k = 0; k < c->npagers; k++)
			fprintf(f, "bluebridge_%s{pager=\"%u\"} %llu\n", members[m].name, k,
				(unsigned long long)value_of(&s[k], &members[m]));
	}
	family(f, "client_nacks", "counter", "requests that a home refused, by reason");
	for (unsigned int k = 0; k < c->npagers; k++)
		for (int i = 1; i < BB_ST_MAX; i++)
			fprintf(f, "bluebridge_client_nacks{pager=\"%u\",reason=\"%s\"} %llu\n", k, bb_control_status[i],
				(unsigned long long)s[k].nacks[i]);
}

json_t *bb_control_metrics(struct bb_control *c)
{
	char *text = NULL;
	size_t len = 0;
	json_t *r;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return NULL;
	family(f, "build_info", "gauge", "the version that runs");
	fprintf(f, "bluebridge_build_info{version=\"%s\"} 1\n", BB_VERSION);
	home(c, f);
	kernel(c, f);
	nodes(c, f);
	programs(c, f);
	faults(c, f);
	server(c, f);
	clients(c, f);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	r = json_pack("{s:s}", "text", text);
	free(text);
	return r;
}
