/* SPDX-License-Identifier: MIT */
/*
 * The sending half of HELLO.
 *
 * A packet's tag covers its source address, so the source is chosen here and
 * forced on the packet (IPV6_PKTINFO): for the group the link-local address of
 * the interface; for a host what the kernel would choose, learned from a
 * socket that is connected to it and sends nothing.
 *
 * Names: a lookup may take long, and the caller serves memory. So each runs in
 * a thread of its own on a small block that both hold a reference to; who lets
 * go last frees it. Addresses need no lookup and no thread.
 */
#include "net/announce.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bluebridge/gptr.h>

#include "clock.h"
#include "log.h"

#define RETRY_NS 5000000000ULL

struct lookup {
	atomic_int refs;
	atomic_bool done;
	int error;
	struct sockaddr_in6 addr;
	char name[256];
};

struct target {
	const char *name;
	bool known;	 /* addr is good */
	bool numeric;
	bool complained; /* about its name */
	bool unreachable; /* said that it cannot be sent to */
	uint64_t retry_at;
	struct sockaddr_in6 addr;
	struct lookup *lookup;
};

struct bb_announce {
	const struct bb_peers_config *cfg;
	uint32_t ifindex;
	int joined; /* socket, -1: none */
	bool have_link_addr;
	struct in6_addr link_addr;
	struct in6_addr group;
	uint32_t session;
	uint64_t id;
	struct target *targets;
	unsigned int ntargets;
};

/* --- names -------------------------------------------------------------- */

static void lookup_put(struct lookup *l)
{
	if (atomic_fetch_sub(&l->refs, 1) == 1)
		free(l);
}

static int resolve(const char *name, int flags, struct sockaddr_in6 *out)
{
	const struct addrinfo hints = { .ai_family = AF_INET6, .ai_socktype = SOCK_DGRAM, .ai_flags = flags };
	struct addrinfo *ai = NULL;
	int ret = getaddrinfo(name, NULL, &hints, &ai);

	if (ret)
		return ret;
	memcpy(out, ai->ai_addr, sizeof(*out));
	freeaddrinfo(ai);
	return 0;
}

static void *lookup_thread(void *arg)
{
	struct lookup *l = arg;

	l->error = resolve(l->name, 0, &l->addr);
	atomic_store(&l->done, true);
	lookup_put(l);
	return NULL;
}

static void lookup_start(struct target *t)
{
	struct lookup *l = calloc(1, sizeof(*l));
	pthread_attr_t attr;
	pthread_t thread;

	if (!l)
		return;
	strncpy(l->name, t->name, sizeof(l->name) - 1);
	atomic_init(&l->refs, 2);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	if (pthread_create(&thread, &attr, lookup_thread, l))
		free(l);
	else
		t->lookup = l;
	pthread_attr_destroy(&attr);
}

static bool lookup_finish(struct bb_announce *a, struct target *t, uint64_t now)
{
	struct lookup *l = t->lookup;

	t->lookup = NULL;
	if (l->error) {
		t->retry_at = now + RETRY_NS;
		if (!t->complained)
			bb_warn("cannot find the peer %s: %s; --peer takes an IPv6 address, an address%%interface, or the "
				"name of a host that has an IPv6 address; it is tried again every %u s",
				t->name, gai_strerror(l->error), (unsigned int)(RETRY_NS / 1000000000));
		t->complained = true;
	} else {
		t->addr = l->addr;
		t->known = true;
		if (t->complained)
			bb_info("found the peer %s", t->name);
		t->complained = false;
	}
	lookup_put(l);
	return t->known;
}

bool bb_announce_resolve(struct bb_announce *a, uint64_t now)
{
	bool news = false;

	for (unsigned int i = 0; i < a->ntargets; i++) {
		struct target *t = &a->targets[i];

		if (t->known)
			continue;
		if (t->lookup && atomic_load(&t->lookup->done))
			news |= lookup_finish(a, t, now);
		else if (!t->lookup && now >= t->retry_at)
			lookup_start(t);
	}
	return news;
}

/* --- sending ------------------------------------------------------------ */

static int send_hello(struct bb_announce *a, int sock, const struct in6_addr *src, const struct sockaddr_in6 *to,
		      uint32_t ifindex, struct bb_hello *hello)
{
	union {
		struct cmsghdr align;
		uint8_t buf[CMSG_SPACE(sizeof(struct in6_pktinfo))];
	} control = { 0 };
	struct {
		struct bb_hdr h;
		uint8_t body[BB_HELLO_BYTES];
	} pkt = { 0 };
	struct iovec iov = { &pkt, sizeof(pkt) };
	struct sockaddr_in6 dst = *to;
	struct msghdr m = {
		.msg_name = &dst,
		.msg_namelen = sizeof(dst),
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof(control.buf),
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	struct in6_pktinfo pi = { .ipi6_addr = *src, .ipi6_ifindex = ifindex };

	hello->stamp = bb_now_ns();
	bb_hello_encode(hello, pkt.body);
	pkt.h.version = BB_WIRE_VERSION;
	pkt.h.nseg = htobe16(1);
	pkt.h.length = htobe32(BB_HELLO_BYTES);
	pkt.h.boot = htobe32(a->cfg->boot);
	pkt.h.session = htobe32(a->session);
	pkt.h.id = htobe64(++a->id);
	pkt.h.tag = htobe64(bb_tag(&a->cfg->key, src, &dst.sin6_addr, &pkt.h, bb_digest(&a->cfg->key, pkt.body, BB_HELLO_BYTES)));
	c->cmsg_level = IPPROTO_IPV6;
	c->cmsg_type = IPV6_PKTINFO;
	c->cmsg_len = CMSG_LEN(sizeof(pi));
	memcpy(CMSG_DATA(c), &pi, sizeof(pi));
	return sendmsg(sock, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int bb_announce_to(struct bb_announce *a, int sock, const struct sockaddr_in6 *to, struct bb_hello *hello)
{
	struct sockaddr_in6 self;
	socklen_t len = sizeof(self);
	int mtu = 0, ret, fd;

	fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)to, sizeof(*to)) || getsockname(fd, (struct sockaddr *)&self, &len)) {
		ret = -errno;
		close(fd);
		return ret;
	}
	len = sizeof(mtu);
	if (getsockopt(fd, IPPROTO_IPV6, IPV6_MTU, &mtu, &len) || mtu < 1280)
		mtu = 0;
	close(fd);
	hello->mtu = (uint32_t)mtu;
	ret = send_hello(a, sock, &self.sin6_addr, to, to->sin6_scope_id, hello);
	return ret ? ret : mtu;
}

static bool find_link_addr(struct bb_announce *a)
{
	struct ifaddrs *list, *i;

	a->have_link_addr = false;
	if (getifaddrs(&list))
		return false;
	for (i = list; i && !a->have_link_addr; i = i->ifa_next) {
		const struct sockaddr_in6 *s = (const struct sockaddr_in6 *)i->ifa_addr;

		if (!s || s->sin6_family != AF_INET6 || strcmp(i->ifa_name, a->cfg->dev) ||
		    !IN6_IS_ADDR_LINKLOCAL(&s->sin6_addr))
			continue;
		a->link_addr = s->sin6_addr;
		a->have_link_addr = true;
	}
	freeifaddrs(list);
	return a->have_link_addr;
}

/* Sockets that may speak from any address do not notice that one has gone. */
static bool still_ours(const struct bb_announce *a)
{
	const struct sockaddr_in6 at = {
		.sin6_family = AF_INET6,
		.sin6_addr = a->link_addr,
		.sin6_scope_id = a->ifindex,
	};
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool gone = fd >= 0 && bind(fd, (const struct sockaddr *)&at, sizeof(at)) && errno == EADDRNOTAVAIL;

	if (fd >= 0)
		close(fd);
	return !gone;
}

int bb_announce_group(struct bb_announce *a, int sock, struct bb_hello *hello)
{
	const struct sockaddr_in6 to = {
		.sin6_family = AF_INET6,
		.sin6_port = htobe16(a->cfg->port),
		.sin6_addr = a->group,
		.sin6_scope_id = a->ifindex,
	};
	struct ifreq ifr = { 0 };
	int ret;

	if ((!a->have_link_addr || !still_ours(a)) && !find_link_addr(a))
		return -EADDRNOTAVAIL;
	strncpy(ifr.ifr_name, a->cfg->dev, sizeof(ifr.ifr_name) - 1);
	hello->mtu = ioctl(sock, SIOCGIFMTU, &ifr) ? 0 : (uint32_t)ifr.ifr_mtu;
	ret = send_hello(a, sock, &a->link_addr, &to, a->ifindex, hello);
	if (ret) {
		/* The address or the interface itself may have changed: look again. */
		uint32_t ifindex = if_nametoindex(a->cfg->dev);

		a->have_link_addr = false;
		if (ifindex && ifindex != a->ifindex) {
			a->ifindex = ifindex;
			a->joined = -1;
		}
	}
	return ret;
}

void bb_announce_configured(struct bb_announce *a, int sock, struct bb_hello *hello)
{
	for (unsigned int i = 0; i < a->ntargets; i++) {
		struct target *t = &a->targets[i];
		struct sockaddr_in6 to = t->addr;
		struct bb_gptr g;
		int ret;

		if (!t->known)
			continue;
		to.sin6_port = htobe16(a->cfg->port);
		/* The address of a host's memory: the command says what we want of it. */
		if (bb_gptr_decode(&to.sin6_addr, &g) && g.cmd == BB_CMD_NONE)
			to.sin6_addr.s6_addr[6] = BB_CMD_HELLO;
		ret = bb_announce_to(a, sock, &to, hello);
		if (ret >= 0) {
			t->unreachable = false;
			continue;
		}
		if (!t->unreachable) {
			errno = -ret;
			bb_warn("cannot send to the peer %s: %m; it is tried again every second", t->name);
		}
		t->unreachable = true;
		/* Its name may have got another address. */
		if (!t->numeric) {
			t->known = false;
			t->retry_at = bb_now_ns() + RETRY_NS;
		}
	}
}

void bb_announce_join(struct bb_announce *a, int sock)
{
	const struct ipv6_mreq mr = { .ipv6mr_multiaddr = a->group, .ipv6mr_interface = a->ifindex };
	const int off = 0;

	if (!a->ifindex || !a->cfg->discover || a->joined == sock)
		return;
	a->joined = sock;
	if (setsockopt(sock, IPPROTO_IPV6, IPV6_JOIN_GROUP, &mr, sizeof(mr)) && errno != EADDRINUSE)
		bb_warn("cannot join %s on %s: %m; hosts are not discovered there, name them by --peer", BB_HELLO_GROUP,
			a->cfg->dev);
	setsockopt(sock, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, &off, sizeof(off));
}

uint32_t bb_announce_ifindex(const struct bb_announce *a)
{
	return a->ifindex;
}

int bb_announce_new(struct bb_announce **out, const struct bb_peers_config *cfg)
{
	struct bb_announce *a = calloc(1, sizeof(*a));
	unsigned int n = 0;

	if (!a)
		return -ENOMEM;
	a->cfg = cfg;
	a->joined = -1;
	inet_pton(AF_INET6, BB_HELLO_GROUP, &a->group);
	if (cfg->dev) {
		a->ifindex = if_nametoindex(cfg->dev);
		if (!a->ifindex) {
			bb_error("there is no network interface %s; \"ip link\" lists those that there are", cfg->dev);
			free(a);
			return -ENODEV;
		}
	}
	while (cfg->peers && cfg->peers[n])
		n++;
	a->targets = calloc(n ? n : 1, sizeof(*a->targets));
	/* They go on rising where a bbd goes on in the place, and as the boot, of another. */
	a->session = cfg->boot;
	a->id = bb_now_ns();
	if (!a->targets) {
		free(a->targets);
		free(a);
		return -ENOMEM;
	}
	a->ntargets = n;
	for (unsigned int i = 0; i < n; i++) {
		struct target *t = &a->targets[i];

		t->name = cfg->peers[i];
		t->numeric = t->known = !resolve(t->name, AI_NUMERICHOST, &t->addr);
	}
	*out = a;
	return 0;
}

void bb_announce_free(struct bb_announce *a)
{
	if (!a)
		return;
	for (unsigned int i = 0; i < a->ntargets; i++)
		if (a->targets[i].lookup)
			lookup_put(a->targets[i].lookup);
	free(a->targets);
	free(a);
}
