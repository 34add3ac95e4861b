/* SPDX-License-Identifier: MIT */
/* Opening, checking and changing the pinned maps. */
#include "steer/pins.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "log.h"

/* The kernel fills in a value for each CPU that could ever be plugged in, 8192 at most. */
#define CPUS_MAX 8192

static int call(int cmd, union bpf_attr *attr)
{
	long r = syscall(__NR_bpf, cmd, attr, sizeof(*attr));

	return r < 0 ? -errno : (int)r;
}

static uint64_t user(const void *p)
{
	return (uint64_t)(uintptr_t)p;
}

static int elem(int cmd, int map, const void *key, const void *value)
{
	union bpf_attr a;

	memset(&a, 0, sizeof(a));
	a.map_fd = (uint32_t)map;
	a.key = user(key);
	a.value = user(value);
	return call(cmd, &a);
}

static int map_info(int fd, struct bpf_map_info *info)
{
	union bpf_attr a;

	memset(info, 0, sizeof(*info));
	memset(&a, 0, sizeof(a));
	a.info.bpf_fd = (uint32_t)fd;
	a.info.info_len = sizeof(*info);
	a.info.info = user(info);
	return call(BPF_OBJ_GET_INFO_BY_FD, &a);
}

/* --- opening --------------------------------------------------------------- */

struct wanted {
	const char *name;
	uint32_t type, flags, key, value, entries;
};

static const struct wanted cfg_map = { "bb_cfg", BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE, 4, sizeof(struct bb_steer_cfg), 1 };
static const struct wanted slabs_map = { "bb_slabs", BPF_MAP_TYPE_ARRAY_OF_MAPS, 0, 4, 4, BB_STEER_SLABS_MAX };
static const struct wanted policy_map = { "bb_policy", BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE, 4, sizeof(struct bb_policy),
					  BB_POLICY_ENTRIES };
/* Programs of another version may count more or less. */
static const struct wanted count_map = { "bb_count", BPF_MAP_TYPE_PERCPU_ARRAY, 0, 4, sizeof(uint64_t), 0 };

static const struct wanted over_map = { "bb_over", BPF_MAP_TYPE_LPM_TRIE, BPF_F_NO_PREALLOC, sizeof(struct bb_over_key),
					sizeof(struct bb_over), BB_OVER_MAX };
static const struct wanted nodes_map = { "bb_nodes", BPF_MAP_TYPE_HASH, 0, 2, sizeof(struct bb_node), BB_NODES_MAX };
static const struct wanted adopted_map = { "bb_adopted", BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC, sizeof(struct bb_adopted_key),
					   sizeof(struct bb_adopted), BB_OVER_MAX };
static const struct wanted dev_map = { "bb_dev", BPF_MAP_TYPE_ARRAY, 0, 4, sizeof(struct bb_dev), 1 };

/* Return: fd or -errno with why filled in (not for -ENOENT). */
static int open_map(const char *dir, const struct wanted *w, struct stat *st, char *why, size_t size)
{
	struct bpf_map_info info;
	union bpf_attr a;
	char path[256];
	int fd, ret;

	snprintf(path, sizeof(path), "%s/maps/%s", dir, w->name);
	if (st && stat(path, st))
		return -errno;
	memset(&a, 0, sizeof(a));
	a.pathname = user(path);
	fd = call(BPF_OBJ_GET, &a);
	if (fd < 0) {
		if (fd != -ENOENT)
			snprintf(why, size, "cannot open %s (%s)%s", path, strerrordesc_np(-fd),
				 fd == -EPERM || fd == -EACCES ? ": bbd needs to be root, or CAP_BPF and the pins' owner" : "");
		return fd;
	}
	ret = map_info(fd, &info);
	if (!ret && (info.type != w->type || info.map_flags != w->flags || info.key_size != w->key ||
		     info.value_size != w->value || (w->entries && info.max_entries != w->entries)))
		ret = -EPROTO;
	if (!ret)
		return fd;
	close(fd);
	snprintf(why, size, "%s is not as this bbd knows it (%s): bbload and bbd are of different versions; attach with the "
		 "bbload of this one", path, strerrordesc_np(-ret));
	return ret;
}

static void close_moves(struct bb_pins *p)
{
	int *fd[] = { &p->over, &p->nodes, &p->adopted, &p->dev };

	for (int i = 0; i < 4; i++) {
		if (*fd[i] >= 0)
			close(*fd[i]);
		*fd[i] = -1;
	}
}

/* What is needed for extents to move: all of it, or nothing of it. */
static void open_moves(struct bb_pins *p, const char *dir)
{
	char why[200] = "";

	p->over = open_map(dir, &over_map, NULL, why, sizeof(why));
	p->nodes = open_map(dir, &nodes_map, NULL, why, sizeof(why));
	p->adopted = open_map(dir, &adopted_map, NULL, why, sizeof(why));
	p->dev = open_map(dir, &dev_map, NULL, why, sizeof(why));
	if (p->over >= 0 && p->nodes >= 0 && p->adopted >= 0 && p->dev >= 0)
		return;
	if (*why)
		bb_warn("steer: no extent can move: %s", why);
	close_moves(p);
}

int bb_pins_open(struct bb_pins *p, const char *dir, char *why, size_t size)
{
	uint32_t version;
	int fd, ret;

	*p = (struct bb_pins){ .slabs = -1, .count = -1, .policy = -1, .over = -1, .nodes = -1, .adopted = -1, .dev = -1 };
	fd = open_map(dir, &cfg_map, &p->seen[0], why, size);
	if (fd < 0)
		return fd;
	p->cfg = mmap(NULL, BB_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ret = p->cfg == MAP_FAILED ? -errno : 0;
	close(fd);
	if (ret) {
		p->cfg = NULL;
		snprintf(why, size, "cannot map bb_cfg of %s (%s)", dir, strerrordesc_np(-ret));
		return ret;
	}
	version = __atomic_load_n(&p->cfg->version, __ATOMIC_ACQUIRE);
	if (version != BB_STEER_VERSION) {
		ret = version ? -EPROTO : -ENOENT; /* 0: bbload is still at it */
		snprintf(why, size, "the programs at %s are of version %u, this bbd knows %d: attach with its bbload", dir,
			 version, BB_STEER_VERSION);
		goto err;
	}
	ret = p->slabs = open_map(dir, &slabs_map, &p->seen[1], why, size);
	if (ret >= 0)
		ret = p->policy = open_map(dir, &policy_map, NULL, why, size);
	if (ret >= 0)
		ret = p->count = open_map(dir, &count_map, NULL, why, size);
	if (ret >= 0) {
		open_moves(p, dir);
		return 0;
	}
err:
	bb_pins_close(p);
	return ret;
}

void bb_pins_close(struct bb_pins *p)
{
	if (p->cfg)
		munmap(p->cfg, BB_PAGE_SIZE);
	if (p->slabs >= 0)
		close(p->slabs);
	if (p->policy >= 0)
		close(p->policy);
	if (p->count >= 0)
		close(p->count);
	close_moves(p);
	*p = (struct bb_pins){ .slabs = -1, .count = -1, .policy = -1, .over = -1, .nodes = -1, .adopted = -1, .dev = -1 };
}

bool bb_pins_same(const struct bb_pins *p, const char *dir)
{
	static const char *const name[2] = { "bb_cfg", "bb_slabs" };
	char path[256];
	struct stat st;

	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/maps/%s", dir, name[i]);
		if (stat(path, &st) || st.st_dev != p->seen[i].st_dev || st.st_ino != p->seen[i].st_ino ||
		    st.st_ctim.tv_sec != p->seen[i].st_ctim.tv_sec || st.st_ctim.tv_nsec != p->seen[i].st_ctim.tv_nsec)
			return false;
	}
	return true;
}

/* --- slabs ------------------------------------------------------------------ */

int bb_pins_new_slab(void)
{
	union bpf_attr a;

	memset(&a, 0, sizeof(a));
	a.map_type = BPF_MAP_TYPE_ARRAY;
	a.map_flags = BPF_F_MMAPABLE;
	a.key_size = sizeof(uint32_t);
	a.value_size = BB_PAGE_SIZE;
	a.max_entries = BB_SLAB_ENTRIES;
	memcpy(a.map_name, "bb_slab", sizeof("bb_slab"));
	return call(BPF_MAP_CREATE, &a);
}

int bb_pins_put_slab(const struct bb_pins *p, uint32_t index, int fd)
{
	struct bpf_map_info info;
	const uint32_t value = (uint32_t)fd;
	uint32_t id = 0;

	/* A map is looked up as its number. */
	if (!elem(BPF_MAP_LOOKUP_ELEM, p->slabs, &index, &id) && !map_info(fd, &info) && info.id == id)
		return 0;
	return elem(BPF_MAP_UPDATE_ELEM, p->slabs, &index, &value);
}

void bb_pins_clear_slabs(const struct bb_pins *p, const uint8_t *stays)
{
	const uint64_t end = (__atomic_load_n(&p->cfg->bytes, __ATOMIC_SEQ_CST) + (1u << BB_STEER_SLAB_SHIFT) - 1) >> BB_STEER_SLAB_SHIFT;
	uint32_t id = 0;

	/* Linux before 6.8 waits for an RCU grace period at each look and each change. */
	for (uint32_t i = 0; i < BB_STEER_SLABS_MAX && i < end; i++)
		if (!stays[i] && !elem(BPF_MAP_LOOKUP_ELEM, p->slabs, &i, &id))
			elem(BPF_MAP_DELETE_ELEM, p->slabs, &i, NULL);
}

/* --- what moved ----------------------------------------------------------------- */

int bb_pins_override(const struct bb_pins *p, const struct bb_over_key *key, const struct bb_over *value)
{
	struct bb_over was = { 0 };
	int ret;

	if (!value) {
		ret = elem(BPF_MAP_DELETE_ELEM, p->over, key, NULL);
		if (!ret)
			__atomic_fetch_sub(&p->cfg->overrides, 1, __ATOMIC_SEQ_CST);
		return ret;
	}
	/* Nobody looks while the count is 0: up before an entry that was not there, as bbload does. */
	if (!elem(BPF_MAP_LOOKUP_ELEM, p->over, key, &was) && was.flags == value->flags)
		return elem(BPF_MAP_UPDATE_ELEM, p->over, key, value);
	__atomic_fetch_add(&p->cfg->overrides, 1, __ATOMIC_SEQ_CST);
	ret = elem(BPF_MAP_UPDATE_ELEM, p->over, key, value);
	if (ret)
		__atomic_fetch_sub(&p->cfg->overrides, 1, __ATOMIC_SEQ_CST);
	return ret;
}

int bb_pins_dev(const struct bb_pins *p, struct bb_dev *out)
{
	const uint32_t zero = 0;

	memset(out, 0, sizeof(*out));
	return elem(BPF_MAP_LOOKUP_ELEM, p->dev, &zero, out);
}

int bb_pins_node(const struct bb_pins *p, uint16_t node, const struct bb_node *n)
{
	return elem(BPF_MAP_UPDATE_ELEM, p->nodes, &node, n);
}

int bb_pins_adopted(const struct bb_pins *p, const struct bb_adopted_key *key, const struct bb_adopted *value)
{
	return value ? elem(BPF_MAP_UPDATE_ELEM, p->adopted, key, value) : elem(BPF_MAP_DELETE_ELEM, p->adopted, key, NULL);
}

/* All entries of a map, key and value sizes given. Return: how many. */
static uint32_t dump(int map, size_t key, size_t value, void **keys, void **values)
{
	uint32_t n = 0, room = 0;

	*keys = *values = NULL;
	for (;;) {
		void *k, *v;

		if (n == room) {
			room = room ? 2 * room : 64;
			k = reallocarray(*keys, room, key);
			if (k)
				*keys = k;
			v = reallocarray(*values, room, value);
			if (v)
				*values = v;
			if (!k || !v)
				return n;
		}
		k = (uint8_t *)*keys + n * key;
		if (elem(BPF_MAP_GET_NEXT_KEY, map, n ? (uint8_t *)k - key : NULL, k) || n >= BB_OVER_MAX)
			return n;
		if (elem(BPF_MAP_LOOKUP_ELEM, map, k, (uint8_t *)*values + n * value))
			memset((uint8_t *)*values + n * value, 0, value);
		n++;
	}
}

uint32_t bb_pins_overrides(const struct bb_pins *p, struct bb_over_key **keys, struct bb_over **values)
{
	return dump(p->over, sizeof(**keys), sizeof(**values), (void **)keys, (void **)values);
}

uint32_t bb_pins_all_adopted(const struct bb_pins *p, struct bb_adopted_key **keys, struct bb_adopted **values)
{
	return dump(p->adopted, sizeof(**keys), sizeof(**values), (void **)keys, (void **)values);
}

/* --- sockets ------------------------------------------------------------------- */

int bb_pins_open_sockets(const char *dir)
{
	static const struct wanted xsk_map = { "bb_xsk", BPF_MAP_TYPE_XSKMAP, 0, 4, 4, BB_XSK_MAX };
	char why[200];

	return open_map(dir, &xsk_map, NULL, why, sizeof(why));
}

int bb_pins_put_socket(int map, uint32_t user, int fd)
{
	const uint32_t value = (uint32_t)fd;

	return elem(BPF_MAP_UPDATE_ELEM, map, &user, &value);
}

/* --- counters ----------------------------------------------------------------- */

uint64_t bb_pins_count(const struct bb_pins *p, uint32_t which)
{
	static uint64_t value[CPUS_MAX]; /* one thread counts */
	uint64_t sum = 0;

	/* What is beyond the last CPU stays 0. */
	if (elem(BPF_MAP_LOOKUP_ELEM, p->count, &which, value))
		return 0;
	for (unsigned int i = 0; i < CPUS_MAX; i++)
		sum += value[i];
	return sum;
}
