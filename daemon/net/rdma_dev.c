/* SPDX-License-Identifier: MIT */
/*
 * Finds the RDMA device of an interface: the port in whose table of GIDs that
 * interface stands. Everything that opens files happens here, at the start, for
 * bbd's threads may open none later. A device that comes later is not seen until
 * bbd is started anew.
 */
#include <arpa/inet.h>

#include "net/rdma_dev.h"

#include <errno.h>
#include <net/if.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "log.h"
#include "low.h"

#define GIDS 1024
#define GID_TRIES 200 /* of 10 ms: the kernel enters an address a moment later */
#define PAGERS 64
#define RD_ATOM 16

static struct bb_rdma_dev device;
static struct ibv_context **devices; /* held, so that they stay open */
static bool on, address_ours;
static struct in6_addr address;
static char why[160] = "it was not looked for";
/* enum bb_rdma_state, by node. */
static _Atomic uint8_t state[1 << 16];

const struct bb_rdma_dev *bb_rdma_dev(void)
{
	return on ? &device : NULL;
}

bool bb_rdma_port_up(void)
{
	struct ibv_port_attr p;

	return !ibv_query_port(device.verbs, device.port, &p) && p.state == IBV_PORT_ACTIVE;
}

bool bb_rdma_on(void)
{
	return on;
}

const char *bb_rdma_why(void)
{
	return why;
}

void bb_rdma_off(const char *reason)
{
	on = false;
	snprintf(why, sizeof(why), "%s", reason);
}

/* --- what people see ---------------------------------------------------------- */

void bb_rdma_set_state(unsigned int pager, uint16_t node, enum bb_rdma_state s)
{
	state[node] = (uint8_t)s;
}

enum bb_rdma_state bb_rdma_peer(uint16_t node)
{
	return (enum bb_rdma_state)state[node];
}

const char *bb_rdma_reason(enum bb_rdma_state s)
{
	static const char *const text[BB_RDMA_STATES] = {
		[BB_RDMA_UNUSED] = "nothing was asked of it yet",
		[BB_RDMA_PEER_WITHOUT] = "it takes no RDMA connections",
		[BB_RDMA_CONNECTING] = "a connection is being made",
		[BB_RDMA_UP] = "",
		[BB_RDMA_PORT_DOWN] = "the device's port is not active",
		[BB_RDMA_NO_ROUTE] = "no RDMA path leads to its address",
		[BB_RDMA_REFUSED] = "it refused the connection",
		[BB_RDMA_NO_ANSWER] = "it does not answer a connection",
		[BB_RDMA_BROKE] = "the connection broke",
		[BB_RDMA_LATE] = "an answer did not come in time",
		[BB_RDMA_HUNG_UP] = "it ended the connection",
		[BB_RDMA_GONE] = "the device is gone",
		[BB_RDMA_NO_MEANS] = "a queue pair could not be had here",
	};

	return s < BB_RDMA_STATES && text[s] ? text[s] : "?";
}

/* --- the search ------------------------------------------------------------------ */

static int missing(int error, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int missing(int error, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	return error;
}

/* Is there an entry of this interface, of RoCE v2, with this address (NULL: any)? Its port, or 0. */
static uint32_t port_of(struct ibv_context *c, uint32_t ifindex, const struct in6_addr *a, struct ibv_gid_entry *gids)
{
	ssize_t n = ibv_query_gid_table(c, gids, GIDS, 0);

	for (ssize_t i = 0; i < n; i++)
		if (gids[i].gid_type == IBV_GID_TYPE_ROCE_V2 && gids[i].ndev_ifindex == ifindex &&
		    (!a || !memcmp(&gids[i].gid, a, sizeof(*a))))
			return gids[i].port_num;
	return 0;
}

static void open_devices(void *n)
{
	const struct rdma_addrinfo hints = { .ai_flags = RAI_NUMERICHOST, .ai_family = AF_INET6, .ai_port_space = RDMA_PS_TCP };
	struct rdma_addrinfo *none;

	devices = rdma_get_devices(n);
	/* For this alone: librdmacm looks once for the service that InfiniBand has (ibacm), and a pager may not. */
	if (devices && !rdma_getaddrinfo("::1", NULL, &hints, &none))
		rdma_freeaddrinfo(none);
}

static int find(const struct bb_rdma_config *cfg, struct ibv_gid_entry *gids)
{
	struct ibv_device **list;
	int n = 0;

	/* librdmacm writes to standard error where there is none at all. */
	list = ibv_get_device_list(&n);
	if (list)
		ibv_free_device_list(list);
	if (n)
		bb_low_call(open_devices, &n);
	if (!devices || !n)
		return missing(-ENODEV, "this machine has no RDMA device that user space may open");
	device.ifindex = if_nametoindex(cfg->dev);
	for (int i = 0; i < n && !device.verbs; i++) {
		device.port = (uint8_t)port_of(devices[i], device.ifindex, NULL, gids);
		if (device.port)
			device.verbs = devices[i];
	}
	return device.verbs ? 0 : missing(-ENODEV, "no RDMA device belongs to %s", cfg->dev);
}

static int know(void)
{
	const unsigned int type2 = IBV_DEVICE_MEM_WINDOW_TYPE_2A | IBV_DEVICE_MEM_WINDOW_TYPE_2B;
	struct ibv_port_attr p;
	int i, r;

	r = ibv_query_device(device.verbs, &device.attr);
	if (r)
		return missing(-r, "%s: its properties cannot be had (%s)", ibv_get_device_name(device.verbs->device),
			       strerrordesc_np(r));
	if (ibv_query_port(device.verbs, device.port, &p) || p.state != IBV_PORT_ACTIVE)
		return missing(-ENETDOWN, "%s: port %u is not active", ibv_get_device_name(device.verbs->device), device.port);
	device.windows = device.attr.device_cap_flags & type2;
	i = device.attr.max_qp_init_rd_atom;
	device.rd_atom = (uint8_t)(i < 1 ? 1 : i > RD_ATOM ? RD_ATOM : i);
	i = device.attr.max_qp_rd_atom;
	device.rd_resp = (uint8_t)(i < 1 ? 1 : i > RD_ATOM ? RD_ATOM : i);
	return 0;
}

static int take_address(const struct bb_rdma_config *cfg, struct ibv_gid_entry *gids)
{
	const struct timespec moment = { .tv_nsec = 10000000 };
	char text[INET6_ADDRSTRLEN] = "";
	int r = 0;

	address = bb_rdma_address(cfg->tenant, cfg->node, 0).sin6_addr;
	inet_ntop(AF_INET6, &address, text, sizeof(text));
	if (port_of(device.verbs, device.ifindex, &address, gids) == device.port && !cfg->addresses)
		return 0;
	if (cfg->addresses)
		r = bb_rdma_addr_set(device.ifindex, &address);
	address_ours = cfg->addresses && r >= 0;
	for (int i = 0; i < GID_TRIES; i++) {
		if (port_of(device.verbs, device.ifindex, &address, gids) == device.port)
			return 0;
		if (r < 0 || !cfg->addresses)
			break;
		nanosleep(&moment, NULL);
	}
	return missing(-EADDRNOTAVAIL, "%s is no address of %s (ip addr add %s/128 dev %s nodad preferred_lft 0)%s%s", text,
		       cfg->dev, text, cfg->dev, r < 0 ? ": " : "", r < 0 ? strerrordesc_np(-r) : "");
}

int bb_rdma_open(const struct bb_rdma_config *cfg)
{
	const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
	struct ibv_gid_entry *gids;
	int r;

	if (!cfg->dev)
		return missing(-ENODEV, "no --dev");
	gids = calloc(GIDS, sizeof(*gids));
	if (!gids)
		return missing(-ENOMEM, "out of memory");
	memset(&device, 0, sizeof(device));
	r = find(cfg, gids);
	/* Registered memory is locked memory. Who may not raise this is refused then, and says so. */
	if (!r)
		setrlimit(RLIMIT_MEMLOCK, &all);
	if (!r)
		r = know();
	if (!r)
		r = take_address(cfg, gids);
	free(gids);
	if (r) {
		bb_rdma_close(false);
		return r;
	}
	on = true;
	missing(0, "%s port %u", ibv_get_device_name(device.verbs->device), device.port);
	return 0;
}

void bb_rdma_keep_address(void)
{
	if (on && address_ours && !bb_rdma_addr_set(device.ifindex, &address))
		bb_info("rdma: the address of this node was gone from its interface, and is set again");
}

void bb_rdma_close(bool leave)
{
	on = false;
	if (address_ours && !leave)
		bb_rdma_addr_clear(device.ifindex, &address);
	address_ours = false;
	if (devices)
		rdma_free_devices(devices);
	devices = NULL;
	device.verbs = NULL;
}

bool bb_rdma_next_event(struct rdma_event_channel *cm, struct rdma_cm_event *out, uint8_t data[BB_RDMA_PRIVATE])
{
	struct rdma_cm_event *e;
	size_t len = 0;

	if (rdma_get_cm_event(cm, &e))
		return false;
	*out = *e;
	switch (e->event) {
	case RDMA_CM_EVENT_CONNECT_REQUEST:
	case RDMA_CM_EVENT_ESTABLISHED:
	case RDMA_CM_EVENT_REJECTED:
		len = e->param.conn.private_data ? e->param.conn.private_data_len : 0;
		len = len < BB_RDMA_PRIVATE ? len : BB_RDMA_PRIVATE;
		if (len)
			memcpy(data, e->param.conn.private_data, len);
		out->param.conn.private_data = data;
		out->param.conn.private_data_len = (uint8_t)len;
		break;
	default:
		break;
	}
	rdma_ack_cm_event(e);
	return true;
}
