/* SPDX-License-Identifier: MIT */
/* The RDMA device, for the files of daemon/net/rdma*.c alone. */
#ifndef BB_DAEMON_RDMA_DEV_H
#define BB_DAEMON_RDMA_DEV_H

#include <netinet/in.h> /* the C library's IPv6 before the kernel's */

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include <bluebridge/gptr.h>

#include "net/rdma.h"

struct bb_rdma_dev {
	struct ibv_context *verbs;
	struct ibv_device_attr attr;
	uint8_t port;
	uint32_t ifindex;
	bool windows;	 /* of type 2: bound to one queue pair */
	uint8_t rd_atom; /* READs under way a queue pair, as asker */
	uint8_t rd_resp; /* the same as home */
};

/* NULL: there is none. */
const struct bb_rdma_dev *bb_rdma_dev(void);
/* Is its port active? What rdma_cm sends while it is not breaks soft-RoCE for good (its QP 1 stays in error). */
bool bb_rdma_port_up(void);
/* For bbctl and doctor. */
void bb_rdma_set_state(unsigned int pager, uint16_t node, enum bb_rdma_state s);

/* A node's address that connections are made to and from: computed from its number, never looked up. */
static inline struct sockaddr_in6 bb_rdma_address(uint16_t tenant, uint16_t node, uint16_t port)
{
	const struct bb_gptr g = { .tenant = tenant, .node = node };
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_port = htons(port) };

	bb_gptr_encode(&g, &a.sin6_addr);
	return a;
}

#define BB_RDMA_PRIVATE 64u /* bytes of private data; none of ours has more */
/*
 * The channel's next event, acknowledged (one that is not keeps its identifier from
 * being destroyed), with its private data copied to data. Return: false: there is none.
 */
bool bb_rdma_next_event(struct rdma_event_channel *cm, struct rdma_cm_event *out, uint8_t data[BB_RDMA_PRIVATE]);

/* rdma_addr.c: the address on an interface. Return: 0, 1 where it was there, -errno. */
int bb_rdma_addr_set(uint32_t ifindex, const struct in6_addr *a);
int bb_rdma_addr_clear(uint32_t ifindex, const struct in6_addr *a);

#endif
