/* SPDX-License-Identifier: MIT */
/*
 * See sockets.h.
 *
 * Theory of operation
 * -------------------
 * A device's queue takes one socket, and it is given to the first pager that asks
 * for pages. Answers are led to it only once that pager looks there, so none is
 * lost; when it is taken back the pager hands on what has come, and what comes
 * later is asked for again. It is taken back when the programs are detached, when
 * the device is gone or another one of that name, or has another link address.
 */
#include <netinet/in.h> /* the C library's IPv6 before the kernel's */

#include "steer/sockets.h"

#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "net/xsk.h"

#define AGAIN_NS 5000000000ULL
#define BUSY_NS 300000000ULL
#define LOOK_MS 500
#define SOON_MS 20

void bb_sockets_init(struct bb_sockets *s, const char *dev, const char *dir)
{
	*s = (struct bb_sockets){ .dev = dev, .dir = dir, .fd = -1, .map = -1 };
}

void bb_sockets_forget(struct bb_sockets *s)
{
	if (s->map >= 0)
		close(s->map);
	s->map = -1;
	s->led = false;
}

static void take_back(struct bb_sockets *s)
{
	struct bb_xsk *x;

	bb_xsk_ask(s->user);
	x = bb_xsk_collect(s->user);
	if (!x)
		return;
	bb_xsk_free(x);
	s->x = NULL;
	s->led = false;
}

/* Return: 0 or -errno; the device as it is now. */
static int device(struct bb_sockets *s, unsigned int *ifindex, uint8_t mac[6])
{
	struct ifreq r = { 0 };

	if (s->fd < 0)
		s->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (s->fd < 0)
		return -errno;
	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", s->dev);
	if (ioctl(s->fd, SIOCGIFINDEX, &r))
		return -errno;
	*ifindex = (unsigned int)r.ifr_ifindex;
	if (ioctl(s->fd, SIOCGIFHWADDR, &r))
		return -errno;
	memcpy(mac, r.ifr_hwaddr.sa_data, 6);
	return 0;
}

static void failed(struct bb_sockets *s, int err, uint64_t now)
{
	/* The one before goes a moment after its end. */
	s->again_at = now + (err == -EBUSY ? BUSY_NS : AGAIN_NS);
	if (err == s->said)
		return;
	if (err != -EBUSY || s->said == -EAGAIN)
		bb_info("no AF_XDP socket at %s (%s)%s: answers come by UDP", s->dev, strerrordesc_np(-err),
			err == -EBUSY ? ": another program has its queue 0" : "");
	s->said = err == -EBUSY && s->said != -EAGAIN ? -EAGAIN : err;
}

/* For a pager that wants one. */
static void make(struct bb_sockets *s, unsigned int user, uint64_t now)
{
	struct bb_xsk *x;
	int ret = device(s, &s->ifindex, s->mac);

	if (!ret)
		ret = bb_xsk_new(&x, s->ifindex, s->mac);
	if (ret) {
		failed(s, ret, now);
		return;
	}
	if (!bb_xsk_offer(user, x)) {
		bb_xsk_free(x);
		return;
	}
	s->x = x;
	s->user = user;
	s->said = 0;
}

static void lead(struct bb_sockets *s, uint64_t now)
{
	const int ret = bb_pins_put_socket(s->map, s->user, bb_xsk_fd(s->x));

	s->led = !ret;
	if (!ret) {
		bb_info("pager %u: answers come by AF_XDP", s->user);
		return;
	}
	failed(s, ret, now);
	take_back(s);
}

int bb_sockets_look(struct bb_sockets *s, bool attached)
{
	const uint64_t now = bb_now_ns();
	unsigned int ifindex;
	enum bb_seat seat;
	uint8_t mac[6];

	if (attached && s->map < 0)
		s->map = bb_pins_open_sockets(s->dir);
	if (s->x) {
		seat = bb_xsk_seat(s->user);
		if (s->map < 0 || seat == BB_SEAT_ASKED || seat == BB_SEAT_LEFT || device(s, &ifindex, mac) ||
		    ifindex != s->ifindex || memcmp(mac, s->mac, sizeof(mac)))
			take_back(s);
		else if (seat == BB_SEAT_USED && !s->led)
			lead(s, now);
	}
	for (unsigned int i = 0; !s->x && s->map >= 0 && now >= s->again_at && i < BB_XSK_MAX; i++)
		if (bb_xsk_seat(i) == BB_SEAT_WANTED)
			make(s, i, now);
	return s->x && !s->led ? SOON_MS : LOOK_MS;
}

void bb_sockets_fini(struct bb_sockets *s)
{
	if (s->x) {
		bb_xsk_leave(s->user);
		take_back(s);
	}
	bb_sockets_forget(s);
	if (s->fd >= 0)
		close(s->fd);
}
