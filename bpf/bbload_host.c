/* SPDX-License-Identifier: MIT */
/*
 * What the programs need of the host: each thing is written down before it is
 * set, and only set where it was not so before.
 *
 * feature   A frame that native XDP hands from one veth to another loses the note
 *           that its checksum is still to be made: so it is made before.
 * peer      A veth gives what XDP sends to its other end's own receive queue,
 *           which is there only where that has an XDP program or GRO.
 * rule, route  Pointers of other hosts' prefixes, whose pages this one has adopted,
 *           are for this host; those that it would forward as a router stay so.
 * neigh     A next hop that no flood of the neighbour table can push out.
 */
#include "bbload.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/neighbour.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

/* --- checksums -------------------------------------------------------------------- */

static int checksums_on(const char *dev, void *arg)
{
	return net_features_on(dev, "tx-checksum-", arg);
}

static int checksums_off(const struct place *p, json_t *state)
{
	json_t *names = json_array();
	int ret;

	ret = checksums_on(p->dev, names);
	if (!ret && json_array_size(names)) {
		ret = state_note(p, state, json_pack("{s:s,s:O}", "what", "feature", "off", names));
		if (!ret)
			ret = net_features_set(p->dev, names, false);
	}
	json_decref(names);
	if (ret)
		bb_error("%s: checksum offload cannot be turned off (%s): ethtool -K %s tx off", p->dev, strerror(-ret), p->dev);
	return ret;
}

/* --- the other end -------------------------------------------------------------------- */

/* Runs fn in the peer's namespace. */
static int at_peer(const struct place *p, int (*fn)(const char *dev, void *arg), void *arg)
{
	int here = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC), ns = -1, ret;
	char dev[IF_NAMESIZE];
	unsigned int peer;

	ret = here < 0 ? -errno : net_peer(p->ifindex, &peer, &ns);
	if (!ret && ns >= 0 && setns(ns, CLONE_NEWNET))
		ret = -errno;
	if (!ret) {
		ret = if_indextoname(peer, dev) ? fn(dev, arg) : -ENOENT;
		if (ns >= 0 && setns(here, CLONE_NEWNET)) {
			bb_error("cannot come back to the network namespace: %m");
			ret = -errno;
		}
	}
	if (ns >= 0)
		close(ns);
	if (here >= 0)
		close(here);
	return ret;
}

/* arg: json array of the features to turn on; it is left empty where they are not needed. */
static int peer_look(const char *dev, void *arg)
{
	unsigned int ifindex = if_nametoindex(dev);
	json_t *on = json_array();
	uint32_t id = 0;

	if ((bpf_xdp_query_id((int)ifindex, 0, &id) || !id) && !net_features_on(dev, "rx-gro", on) && !json_array_size(on))
		json_array_append_new(arg, json_string("rx-gro"));
	json_decref(on);
	return 0;
}

static int peer_on(const char *dev, void *arg)
{
	return net_features_set(dev, arg, true);
}

static int peer_off(const char *dev, void *arg)
{
	return net_features_set(dev, arg, false);
}

/* Looks at the peer by look, and turns what that found on or off there. */
static int peer_set(const struct place *p, json_t *state, int (*look)(const char *, void *), bool on)
{
	json_t *want = json_array();
	int ret;

	ret = at_peer(p, look, want);
	if (!ret && json_array_size(want)) {
		ret = state_note(p, state, json_pack("{s:s,s:O}", "what", "peer", on ? "on" : "off", want));
		if (!ret)
			ret = at_peer(p, on ? peer_on : peer_off, want);
	}
	json_decref(want);
	return ret;
}

static int peer_ready(const struct place *p, json_t *state)
{
	int ret = peer_set(p, state, peer_look, true);

	/* The ports of a switch send by XDP what a host's veth has given to them. */
	if (!ret && state_kind(state) == KIND_SWITCH)
		ret = peer_set(p, state, checksums_on, false);
	if (ret == -ENOENT) {
		bb_info("%s: its other end is in no namespace with a name: there XDP or \"ethtool -K DEV gro on tx off\" is needed",
			p->dev);
		return 0;
	}
	if (ret)
		bb_error("%s: its other end cannot be made ready (%s): there, ethtool -K DEV gro on tx off", p->dev, strerror(-ret));
	return ret;
}

/* --- adopted pages ------------------------------------------------------------------------ */

static bool forwards(const char *dev)
{
	char path[96], c = '0';
	FILE *f;

	snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/forwarding", dev);
	f = fopen(path, "re");
	if (f) {
		if (fread(&c, 1, 1, f) != 1)
			c = '0';
		fclose(f);
	}
	return c != '0';
}

static int adopt(const struct place *p, json_t *state)
{
	int ret;

	if (forwards(p->dev)) {
		bb_info("%s forwards IPv6: pointers of other hosts are not made local", p->dev);
		return 0;
	}
	ret = net_route_there();
	if (!ret) {
		ret = state_note(p, state, json_pack("{s:s}", "what", "route"));
		if (!ret)
			ret = net_route_change(true);
	}
	if (ret >= 0 || ret == -EEXIST)
		ret = net_rule_there(p->dev);
	if (!ret) {
		ret = state_note(p, state, json_pack("{s:s,s:s}", "what", "rule", "dev", p->dev));
		if (!ret)
			ret = net_rule_change(p->dev, true);
	}
	if (ret >= 0 || ret == -EEXIST)
		return 0;
	bb_error("%s: cannot make adopted pages local (%s): ip -6 rule add iif %s lookup %d; ip -6 route add local fdbb::/16 dev lo table %d",
		 p->dev, strerror(-ret), p->dev, BB_TABLE, BB_TABLE);
	return ret;
}

/* --- the next hop ---------------------------------------------------------------------------- */

static int next_hop(struct bbload *b, const struct place *p, json_t *state)
{
	struct neigh was, n = { .state = NUD_PERMANENT };
	struct in6_addr via;
	char mac[18];
	json_t *c;
	int ret;

	if (inet_pton(AF_INET6, b->via, &via) != 1) {
		bb_error("--via is an IPv6 address, not \"%s\"", b->via);
		return -EINVAL;
	}
	ret = net_neigh_get(p->ifindex, &via, &was);
	if (!ret && b->mac) {
		parse_mac(b->mac, n.mac);
	} else if (!ret) {
		struct neigh now = was;

		if (!(was.state & (NUD_REACHABLE | NUD_STALE | NUD_PERMANENT | NUD_DELAY | NUD_PROBE)))
			ret = net_neigh_resolve(p->ifindex, &via, &now);
		if (ret) {
			bb_error("%s: the next hop %s does not answer (%s); give its link address by --mac", p->dev, b->via,
				 strerror(-ret));
			return ret;
		}
		memcpy(n.mac, now.mac, 6);
	}
	if (!ret && was.state == NUD_PERMANENT && !memcmp(was.mac, n.mac, 6))
		return 0;
	c = state_find(state, "neigh");
	if (!ret && c && json_string_value(json_object_get(c, "via")) && strcmp(json_string_value(json_object_get(c, "via")), b->via))
		c = NULL;
	if (!ret && !c) {
		snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", was.mac[0], was.mac[1], was.mac[2], was.mac[3],
			 was.mac[4], was.mac[5]);
		ret = state_note(p, state, json_pack("{s:s,s:s,s:s}", "what", "neigh", "via", b->via, "was",
						     was.state == NUD_PERMANENT ? mac : ""));
	}
	if (!ret)
		ret = net_neigh_set(p->ifindex, &via, &n);
	if (ret)
		bb_error("%s: cannot set the neighbour %s: %s", p->dev, b->via, strerror(-ret));
	return ret;
}

/* --- all of it ---------------------------------------------------------------------------------- */

int host_prepare(struct bbload *b, const struct place *p, json_t *state, enum mode mode)
{
	const bool veth = !strcmp(p->driver, "veth");
	int ret = 0;

	if (veth && mode == MODE_NATIVE) {
		if (state_kind(state) != KIND_SWITCH)
			ret = checksums_off(p, state);
		if (!ret)
			ret = peer_ready(p, state);
	}
	if (!ret && state_kind(state) == KIND_HOST)
		ret = adopt(p, state);
	if (!ret && b->via)
		ret = next_hop(b, p, state);
	return ret;
}

static int neigh_undo(const struct place *p, const json_t *change)
{
	const char *via = json_string_value(json_object_get(change, "via"));
	const char *was = json_string_value(json_object_get(change, "was"));
	struct neigh n = { .state = NUD_PERMANENT };
	struct in6_addr a;
	int ret;

	if (!via || inet_pton(AF_INET6, via, &a) != 1)
		return -EINVAL;
	if (was && parse_mac(was, n.mac))
		return net_neigh_set(p->ifindex, &a, &n);
	ret = net_neigh_del(p->ifindex, &a);
	return ret == -ENOENT ? 0 : ret;
}

int host_undo(const struct place *p, const json_t *change, bool device)
{
	const char *what = json_string_value(json_object_get(change, "what"));
	const char *dev = json_string_value(json_object_get(change, "dev"));
	int ret = 0;

	if (!strcmp(what, "rule"))
		ret = net_rule_change(dev ? dev : p->dev, false);
	else if (!strcmp(what, "route"))
		ret = net_route_change(false);
	else if (!device)
		return 0; /* it took that along */
	else if (!strcmp(what, "feature"))
		ret = net_features_set(p->dev, json_object_get(change, "off"), true);
	else if (!strcmp(what, "peer"))
		ret = json_object_get(change, "on") ? at_peer(p, peer_off, json_object_get(change, "on")) :
						      at_peer(p, peer_on, json_object_get(change, "off"));
	else if (!strcmp(what, "filter") || !strcmp(what, "clsact"))
		ret = attach_tc_undo(p, change);
	else if (!strcmp(what, "neigh"))
		return neigh_undo(p, change);
	return ret == -ENOENT || ret == -ESRCH || ret == -EAFNOSUPPORT ? 0 : ret > 0 ? 0 : ret;
}
