/* SPDX-License-Identifier: MIT */
/* lz4 on the wire; compress.h. */
#include "net/compress.h"

#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <lz4.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define NO_SPEED ((uint32_t)-1)

const char *const bb_compress_name[] = { "off", "auto", "on" };

struct bb_lz4 {
	LZ4_stream_t state;
	char plain[BB_SEG_LARGE];
};

uint32_t bb_link_speed(int sock, const char *dev)
{
	/* The newer call wants two rounds and says no more; every kernel still has this one. */
	struct ethtool_cmd cmd = { .cmd = ETHTOOL_GSET };
	struct ifreq ifr = { .ifr_data = (void *)&cmd };
	uint32_t speed;

	if (!dev || strlen(dev) >= sizeof(ifr.ifr_name))
		return 0;
	strcpy(ifr.ifr_name, dev);
	if (ioctl(sock, SIOCETHTOOL, &ifr))
		return 0;
	speed = ethtool_cmd_speed(&cmd);
	return speed == NO_SPEED || speed == UINT16_MAX ? 0 : speed;
}

struct bb_lz4 *bb_lz4_new(void)
{
	return calloc(1, sizeof(struct bb_lz4));
}

void bb_lz4_free(struct bb_lz4 *z)
{
	free(z);
}

uint32_t bb_lz4_pack(struct bb_lz4 *z, const void *data, uint32_t len, void *out)
{
	int n;

	/* What lz4 looks at twice must be the same twice. */
	memcpy(z->plain, data, len);
	n = LZ4_compress_fast_extState(&z->state, z->plain, out, (int)len, (int)BB_LZ4_MAX(len), 1);
	return n > 0 ? (uint32_t)n : 0;
}

bool bb_lz4_unpack(const void *data, uint32_t n, void *out, uint32_t len)
{
	return n && n <= BB_LZ4_MAX(len) && LZ4_decompress_safe(data, out, (int)n, (int)len) == (int)len;
}
