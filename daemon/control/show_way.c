/* SPDX-License-Identifier: MIT */
/* How pages travel: by RDMA or why not, what the home gives, each node's way; compressed or not. */
#include "control/control.h"
#include "net/rdma.h"

void bb_control_transport(const struct bb_peer *p, json_t *o)
{
	const enum bb_rdma_state s = bb_rdma_peer(p->node);
	const char *way = "udp", *why;

	if (p->self) {
		way = "local";
		why = "";
	} else if (!bb_rdma_on()) {
		why = bb_rdma_why();
	} else if (!p->rdma) {
		why = bb_rdma_reason(BB_RDMA_PEER_WITHOUT);
	} else {
		way = s == BB_RDMA_UP ? "rdma" : "udp";
		why = bb_rdma_reason(s);
	}
	json_object_set_new(o, "transport", json_string(way));
	json_object_set_new(o, "transport_why", json_string(why));
}

void bb_control_compress(struct bb_control *c, const struct bb_peer *p, json_t *o)
{
	const enum bb_compress how = bb_peers_config(c->peers)->compress;

	json_object_set_new(o, "lz4", json_boolean(bb_peers_compress(c->peers, p)));
	if (!p->self)
		return;
	json_object_set_new(o, "compress", json_string(bb_compress_name[how]));
	json_object_set_new(o, "link_mbit", json_integer(bb_peers_link_speed(c->peers)));
}

json_t *bb_control_rdma(struct bb_control *c)
{
	struct bb_rdma_home_stats s;

	bb_rdma_home_stats(c->rdma, &s);
	return json_pack("{s:b, s:s, s:s, s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "on", (int)bb_rdma_on(), "device",
			 bb_rdma_on() ? bb_rdma_why() : "", "why", bb_rdma_on() ? "" : bb_rdma_why(), "home",
			 (int)(c->rdma != NULL), "lends", (int)(c->home != NULL), "links", (json_int_t)s.links, "windows", (json_int_t)s.windows, "slabs",
			 (json_int_t)s.slabs, "slabs_refused", (json_int_t)s.refused, "accepted", (json_int_t)s.accepted,
			 "rejected", (json_int_t)s.rejected, "asked", (json_int_t)s.asked, "closed", (json_int_t)s.closed,
			 "slabs_why", s.why);
}
