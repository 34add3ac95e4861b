/* SPDX-License-Identifier: MIT */
/* Pinned maps, from outside of the programs. */
#include "bbload.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "log.h"

int map_open(const char *maps, const char *name, bool quiet)
{
	char path[PATH_BYTES + 64];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", maps, name);
	fd = bpf_obj_get(path);
	if (fd >= 0)
		return fd;
	fd = -errno;
	if (!quiet)
		bb_error("%s: %s; attach first", path, strerror(-fd));
	return fd;
}

/* Through the mapping, not as one value: bbd writes other members of it at the same time. */
struct bb_steer_cfg *map_cfg(const char *maps)
{
	int fd = map_open(maps, "bb_cfg", false);
	void *m;

	if (fd < 0)
		return NULL;
	m = mmap(NULL, sizeof(struct bb_steer_cfg), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (m == MAP_FAILED) {
		bb_error("%s/bb_cfg cannot be mapped: %m", maps);
		return NULL;
	}
	return m;
}

void map_cfg_put(struct bb_steer_cfg *cfg)
{
	if (cfg)
		munmap(cfg, sizeof(*cfg));
}

int map_dev_set(int fd, const struct place *p)
{
	struct bb_dev d = { .mtu = p->mtu, .ifindex = p->ifindex };
	const __u32 zero = 0;

	memcpy(d.mac, p->mac, sizeof(d.mac));
	d.flags = p->redirect ? BB_DEV_REDIRECT : 0;
	return bpf_map_update_elem(fd, &zero, &d, BPF_ANY) ? -errno : 0;
}

int map_dev_fill(const char *maps, const struct place *p)
{
	int fd = map_open(maps, "bb_dev", true), ret;

	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	ret = map_dev_set(fd, p);
	close(fd);
	return ret;
}

int map_port(const char *maps, unsigned int ifindex, bool add)
{
	struct bpf_devmap_val v = { .ifindex = ifindex };
	int fd = map_open(maps, "bb_ports", true), ret = 0;

	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	if (add ? bpf_map_update_elem(fd, &ifindex, &v, BPF_ANY) : bpf_map_delete_elem(fd, &ifindex))
		ret = -errno;
	close(fd);
	return ret;
}
