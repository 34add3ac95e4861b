/* SPDX-License-Identifier: MIT */
/*
 * The link, the routes and the other hosts. Routes are read from
 * /proc/net/ipv6_route, which lists all tables and needs no rights. All of it
 * belongs to a network namespace: looked at only where bbd is in ours.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/ipv6_route.h>
#include <linux/route.h>

#include <bluebridge/gptr.h>
#include <bluebridge/steer.h>
#include <bluebridge/wire.h>

#include "doctor.h"
#include "steer_names.h"

#define DEVS_MAX 8

/* Both a peer's prefix and our own, and whatever of ours a shorter one covers. */
#define PREFIX_MIN 16

static bool ipv6_off(const char *dev)
{
	char path[96];
	long off;

	snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6", dev);
	return read_number(path, &off) && off;
}

static bool ipv6(struct doctor *d)
{
	struct stat st;

	if (stat("/proc/sys/net/ipv6", &st) < 0) {
		check(d, CHECK_FAIL, "IPv6", "this kernel runs without: a page's name is an IPv6 address");
		mend(d, "boot without ipv6.disable=1");
		return false;
	}
	if (ipv6_off("all")) {
		check(d, CHECK_FAIL, "IPv6", "is off: a page's name is an IPv6 address");
		mend(d, "sysctl -w net.ipv6.conf.all.disable_ipv6=0");
		return false;
	}
	check(d, CHECK_OK, "IPv6", "is on");
	return true;
}

/* --- links ------------------------------------------------------------------ */

/* By ioctl: /sys shows the namespace that it was mounted in. Return: is there one? */
static bool link_state(const char *dev, int *mtu, short *flags)
{
	struct ifreq q = { 0 };
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool ok;

	snprintf(q.ifr_name, sizeof(q.ifr_name), "%s", dev);
	ok = fd >= 0 && ioctl(fd, SIOCGIFMTU, &q) == 0;
	*mtu = q.ifr_mtu;
	ok = ok && ioctl(fd, SIOCGIFFLAGS, &q) == 0;
	*flags = q.ifr_flags;
	if (fd >= 0)
		close(fd);
	return ok;
}

static void link_of(struct doctor *d, const char *dev)
{
	char name[40];
	short flags;
	int mtu;

	snprintf(name, sizeof(name), "link %s", dev);
	if (!link_state(dev, &mtu, &flags)) {
		check(d, CHECK_FAIL, name, "there is no such interface any more");
		mend(d, "set \"dev = IFACE\" in /etc/bluebridge/bbd.conf, then: systemctl restart bbd");
	} else if (!(flags & IFF_UP)) {
		check(d, CHECK_FAIL, name, "is down");
		mend(d, "ip link set dev %s up", dev);
	} else if (ipv6_off(dev)) {
		check(d, CHECK_FAIL, name, "IPv6 is off on it");
		mend(d, "sysctl -w net/ipv6/conf/%s/disable_ipv6=0", dev);
	} else if (!(flags & IFF_RUNNING)) {
		check(d, CHECK_FAIL, name, "has no carrier");
		mend(d, "look at its cable and switch port: ethtool %s", dev);
	} else if (mtu < BB_WIRE_MTU_LARGE) {
		check(d, CHECK_WARN, name, "MTU %d: a page takes four packets; all hosts and switches should have 9000", mtu);
		mend(d, "ip link set dev %s mtu 9000", dev);
	} else {
		check(d, CHECK_OK, name, "MTU %d: a page in one packet", mtu);
	}
}

/* By their pins: to look into the programs would need more rights. */
static void programs(struct doctor *d, const char *dev)
{
	char name[48], path[96];
	struct stat ns;

	if (stat("/proc/self/ns/net", &ns) || bb_steer_dir(name, sizeof(name), ns.st_ino, dev))
		return;
	snprintf(path, sizeof(path), "%s/%s/links", BB_STEER_FS, name);
	if (!access(path, F_OK))
		check(d, CHECK_OK, "programs", "are attached to %s (bbload show)", dev);
	else if (errno == ENOENT)
		check(d, CHECK_OK, "programs", "none at %s: bbd does all by itself (bbload attach host --dev %s)", dev, dev);
}

static void links(struct doctor *d)
{
	const char *dev[DEVS_MAX];
	unsigned int n = 0;
	json_t *node;
	size_t i;

	if (*str(d->facts, "dev"))
		dev[n++] = str(d->facts, "dev");
	each_item(json_object_get(d->facts, "nodes"), i, node) {
		const char *name = str(node, "dev");
		unsigned int k;

		for (k = 0; k < n && strcmp(dev[k], name); k++)
			;
		if (k == n && *name && n < DEVS_MAX && !flag(node, "self"))
			dev[n++] = name;
	}
	for (unsigned int k = 0; k < n; k++)
		link_of(d, dev[k]);
	if (n)
		programs(d, dev[0]);
	if (!n) {
		check(d, CHECK_WARN, "link", "bbd was given no interface, and knows no other host");
		mend(d, "set \"dev = IFACE\" in /etc/bluebridge/bbd.conf, then: systemctl restart bbd");
	}
}

/* --- routes ----------------------------------------------------------------- */

static bool covers(const struct in6_addr *net, unsigned int bits, const struct in6_addr *a)
{
	for (unsigned int i = 0; i < bits; i++)
		if ((net->s6_addr[i / 8] ^ a->s6_addr[i / 8]) >> (7 - i % 8) & 1)
			return false;
	return true;
}

static bool parse_hex(const char *hex, struct in6_addr *a)
{
	for (int i = 0; i < 16; i++)
		if (sscanf(hex + 2 * i, "%2hhx", &a->s6_addr[i]) != 1)
			return false;
	return true;
}

/* Is the address's way a route of ours, local or not? The longest prefix decides. */
static bool routed(const struct in6_addr *a, bool local)
{
	FILE *f = fopen("/proc/net/ipv6_route", "re");
	unsigned int bits, flags, best = 0;
	char line[256], dst[33];
	bool found = false;

	while (f && fgets(line, sizeof(line), f)) {
		struct in6_addr net;

		if (sscanf(line, "%32s %x %*s %*x %*s %*x %*x %*x %x", dst, &bits, &flags) != 3 || bits > 128 ||
		    strlen(dst) != 32 || !parse_hex(dst, &net) || bits < PREFIX_MIN || bits < best ||
		    !covers(&net, bits, a))
			continue;
		/* bbload's, of adopted pages, in a table of its own. */
		if (bits == PREFIX_MIN && flags & RTF_LOCAL)
			continue;
		/* Several of one length: any that will do. */
		if (bits > best)
			found = false;
		best = bits;
		if (!(flags & RTF_REJECT) && !(flags & RTF_LOCAL) == !local)
			found = true;
	}
	if (f)
		fclose(f);
	return found;
}

static void routes(struct doctor *d)
{
	uint16_t tenant = (uint16_t)num(d->facts, "tenant"), self = (uint16_t)num(d->facts, "node");
	struct bb_gptr g = { .tenant = tenant, .node = self };
	struct in6_addr a = { 0 };
	unsigned int there = 0, want = 0;
	json_t *n;
	size_t i;

	bb_gptr_encode(&g, &a);
	if (routed(&a, true)) {
		check(d, CHECK_OK, "own prefix", "fdbb:%x:%x::/48 is local", tenant, self);
	} else {
		check(d, CHECK_FAIL, "own prefix", "fdbb:%x:%x::/48 is not local: pages of this host reach nobody", tenant,
		      self);
		mend(d, "ip -6 route replace local fdbb:%x:%x::/48 dev lo", tenant, self);
	}
	each_item(json_object_get(d->facts, "nodes"), i, n) {
		if (flag(n, "self") || !flag(n, "alive") || flag(n, "key_differs"))
			continue;
		want++;
		g.node = (uint16_t)num(n, "node");
		bb_gptr_encode(&g, &a);
		if (routed(&a, false)) {
			there++;
			continue;
		}
		check(d, CHECK_FAIL, "route", "none to node %u, fdbb:%x:%x::/48: its memory cannot be used", g.node, tenant,
		      g.node);
		mend(d, "ip -6 route replace fdbb:%x:%x::/48 via %s dev %s", tenant, g.node, str(n, "via"), str(n, "dev"));
	}
	if (want && there == want)
		check(d, CHECK_OK, "routes", "to %u of %u hosts", there, want);
}

/* --- how pages travel ------------------------------------------------------- */

/* Such a device has a parent. Linux up to 6.12 at least does not survive a packet to one whose address is gone. */
static void soft_roce(struct doctor *d, const char *device)
{
	const char *dev = str(d->facts, "dev");
	char path[128];
	long keep;

	snprintf(path, sizeof(path), "/sys/class/infiniband/%.*s/parent", (int)strcspn(device, " "), device);
	if (access(path, F_OK))
		return;
	snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/keep_addr_on_down", dev);
	if (!read_number(path, &keep) || keep > 0)
		return;
	check(d, CHECK_WARN, "transport",
	      "%s is soft-RoCE: if %s loses its address, as when it goes down, a packet that comes then may crash the kernel", device,
	      dev);
	mend(d, "sysctl -w net/ipv6/conf/%s/keep_addr_on_down=1", dev);
}

static void transport(struct doctor *d)
{
	const json_t *r = json_object_get(d->facts, "rdma");
	json_t *n;
	size_t i;

	if (!r)
		return;
	if (!flag(r, "on")) {
		check(d, CHECK_OK, "transport", "pages travel by UDP: %s", str(r, "why"));
		return;
	}
	check(d, CHECK_OK, "transport", "RDMA: %s", str(r, "device"));
	soft_roce(d, str(r, "device"));
	if (flag(r, "lends") && !flag(r, "home")) {
		check(d, CHECK_WARN, "transport", "memory that this host lends is served by UDP alone: bbd's log says why");
		mend(d, "LimitMEMLOCK=infinity in the service (ulimit -l unlimited), then: systemctl restart bbd");
	} else if (num(r, "slabs_refused")) {
		check(d, CHECK_WARN, "transport", "%llu slabs of lent memory could not be registered (%s): their pages go by UDP",
		      (unsigned long long)num(r, "slabs_refused"), str(r, "slabs_why"));
		mend(d, "LimitMEMLOCK=infinity in the service (ulimit -l unlimited), then: systemctl restart bbd");
	}
	each_item(json_object_get(d->facts, "nodes"), i, n) {
		const bool rdma = !strcmp(str(n, "transport"), "rdma");

		if (flag(n, "self") || !flag(n, "alive"))
			continue;
		check(d, CHECK_OK, "transport", "pages of node %u (%s) travel by %s%s%s", (unsigned int)num(n, "node"),
		      str(n, "name"), rdma ? "RDMA" : "UDP", rdma ? "" : ": ", rdma ? "" : str(n, "transport_why"));
	}
}

/* --- hosts ------------------------------------------------------------------ */

static void peers(struct doctor *d)
{
	unsigned int alive = 0, others = 0;
	uint64_t lent = 0;
	json_t *n;
	size_t i;

	each_item(json_object_get(d->facts, "nodes"), i, n) {
		unsigned int node = (unsigned int)num(n, "node");

		if (flag(n, "self"))
			continue;
		others++;
		if (flag(n, "key_differs")) {
			check(d, CHECK_FAIL, "node", "%u (%s) has another key: neither believes the other", node,
			      str(n, "name"));
			mend(d, "scp %s %s:%s, then there: systemctl restart bbd", str(d->facts, "key_file"),
			     *str(n, "name") ? str(n, "name") : "HOST", str(d->facts, "key_file"));
		} else if (!flag(n, "alive")) {
			check(d, CHECK_WARN, "node", "%u (%s) does not answer", node, str(n, "name"));
			mend(d, "there: systemctl start bbd, and bbctl doctor");
		} else {
			alive++;
			lent += num(n, "lent");
			if (num(n, "mtu") && num(n, "mtu") < BB_WIRE_MTU_LARGE) {
				check(d, CHECK_WARN, "node", "%u (%s): the path carries %llu bytes, a page takes four packets",
				      node, str(n, "name"), (unsigned long long)num(n, "mtu"));
				mend(d, "ip link set dev %s mtu 9000, there and on the switches too",
				     *str(n, "dev") ? str(n, "dev") : "IFACE");
			}
		}
	}
	if (!others) {
		check(d, CHECK_WARN, "hosts", "bbd has found no other: there is no memory but this host's");
		mend(d, "start bbd on another host of the link, or name one: bbd --peer ADDR; UDP port %llu must be open",
		     (unsigned long long)num(d->facts, "port"));
	} else if (alive && !lent) {
		check(d, CHECK_WARN, "hosts", "none of %u lends memory", alive);
		mend(d, "there: set \"lend = SIZE\" in /etc/bluebridge/bbd.conf, then: systemctl restart bbd");
	} else if (alive) {
		check(d, CHECK_OK, "hosts", "%u of %u alive, with this host's key", alive, others);
	}
}

/* Another network namespace has other links and routes. */
static bool same_net(const struct doctor *d)
{
	char path[64];
	struct stat ours, its;

	if (!d->pid || stat("/proc/self/ns/net", &ours) < 0)
		return false;
	snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)d->pid);
	/* Of another user's process it is not shown: then the usual is assumed. */
	if (stat(path, &its) < 0)
		return true;
	return ours.st_dev == its.st_dev && ours.st_ino == its.st_ino;
}

void doctor_net(struct doctor *d)
{
	if (d->facts && flag(d->facts, "embedded")) {
		check(d, CHECK_OK, "network", "an embedded bbd uses none");
		return;
	}
	if (!d->facts) {
		ipv6(d);
		return;
	}
	if (!same_net(d)) {
		check(d, CHECK_WARN, "network", "bbd runs in another network namespace: its links and routes are not seen here");
		if (d->pid)
			mend(d, "nsenter -t %d -n bbctl --socket %s doctor", (int)d->pid, d->b->socket);
		else
			mend(d, "run bbctl doctor where bbd runs");
	} else if (ipv6(d)) {
		links(d);
		routes(d);
	}
	transport(d);
	peers(d);
}
