/* SPDX-License-Identifier: MIT */
/*
 * What bbload would have pinned, without it: a bpffs in a mount namespace of
 * the test's own, maps as bpf/maps.h has them, and a reader that does what the
 * program does that answers READs.
 */
#ifndef BB_TESTS_STEER_WORLD_H
#define BB_TESTS_STEER_WORLD_H

#include <bluebridge/steer.h>

#include <errno.h>
#include <linux/bpf.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "home/slab.h"
#include "steer_names.h"

static char steer_fs[32], steer_pins[128];
static int steer_cfg = -1, steer_slabs = -1, steer_policy = -1, steer_count = -1;

static int steer_bpf(int cmd, union bpf_attr *a)
{
	return (int)syscall(__NR_bpf, cmd, a, sizeof(*a));
}

static int steer_new_map(uint32_t type, uint32_t flags, uint32_t value, uint32_t entries, int inner)
{
	union bpf_attr a;

	memset(&a, 0, sizeof(a));
	a.map_type = type;
	a.map_flags = flags;
	a.key_size = 4;
	a.value_size = value;
	a.max_entries = entries;
	if (inner >= 0)
		a.inner_map_fd = (uint32_t)inner;
	return steer_bpf(BPF_MAP_CREATE, &a);
}

static int steer_pin(int fd, const char *name)
{
	char path[200];
	union bpf_attr a;

	snprintf(path, sizeof(path), "%s/maps/%s", steer_pins, name);
	memset(&a, 0, sizeof(a));
	a.pathname = (uintptr_t)path;
	a.bpf_fd = (uint32_t)fd;
	return steer_bpf(BPF_OBJ_PIN, &a);
}

static void steer_close(void)
{
	int *all[] = { &steer_cfg, &steer_slabs, &steer_policy, &steer_count };

	for (int i = 0; i < 4; i++) {
		if (*all[i] >= 0)
			close(*all[i]);
		*all[i] = -1;
	}
}

/* Once, before any thread. Return: may maps be made and pinned here? */
__attribute__((unused)) static bool steer_world(void)
{
	int fd;

	strcpy(steer_fs, "/tmp/bb-test-steer-XXXXXX");
	if (!mkdtemp(steer_fs))
		return false;
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("bpf", steer_fs, "bpf", 0, NULL)) {
		rmdir(steer_fs);
		return false;
	}
	fd = steer_new_map(BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE, 4096, 1, -1);
	if (fd < 0)
		return false;
	close(fd);
	return true;
}

__attribute__((unused)) static void steer_world_end(void)
{
	umount2(steer_fs, MNT_DETACH);
	rmdir(steer_fs);
}

/* As bbload attach. cfg_value: of bb_cfg, where it is to be another than it should. Return: 0 or -1. */
__attribute__((unused)) static int steer_attach(const char *dev, uint32_t version, uint32_t cfg_value)
{
	struct bb_steer_cfg c = { .version = version };
	const uint32_t zero = 0;
	union bpf_attr a;
	char name[64], maps[160];
	struct stat ns;
	int inner;

	steer_close();
	if (stat("/proc/self/ns/net", &ns) || bb_steer_dir(name, sizeof(name), ns.st_ino, dev))
		return -1;
	snprintf(steer_pins, sizeof(steer_pins), "%s/%s", steer_fs, name);
	snprintf(maps, sizeof(maps), "%s/maps", steer_pins);
	if ((mkdir(steer_pins, 0700) && errno != EEXIST) || (mkdir(maps, 0700) && errno != EEXIST))
		return -1;
	inner = steer_new_map(BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE, BB_PAGE_SIZE, BB_SLAB_ENTRIES, -1);
	steer_slabs = steer_new_map(BPF_MAP_TYPE_ARRAY_OF_MAPS, 0, 4, BB_STEER_SLABS_MAX, inner);
	close(inner);
	steer_cfg = steer_new_map(BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE, cfg_value ? cfg_value : sizeof(c), 1, -1);
	steer_policy = steer_new_map(BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE, sizeof(struct bb_policy), BB_POLICY_ENTRIES, -1);
	steer_count = steer_new_map(BPF_MAP_TYPE_PERCPU_ARRAY, 0, sizeof(uint64_t), BB_CNT_MAX, -1);
	if (inner < 0 || steer_slabs < 0 || steer_cfg < 0 || steer_policy < 0 || steer_count < 0)
		return -1;
	memset(&a, 0, sizeof(a));
	a.map_fd = (uint32_t)steer_cfg;
	a.key = (uintptr_t)&zero;
	a.value = (uintptr_t)&c;
	if (!cfg_value && steer_bpf(BPF_MAP_UPDATE_ELEM, &a))
		return -1;
	return steer_pin(steer_cfg, "bb_cfg") || steer_pin(steer_slabs, "bb_slabs") || steer_pin(steer_policy, "bb_policy") ||
	       steer_pin(steer_count, "bb_count");
}

__attribute__((unused)) static void steer_detach(void)
{
	static const char *const name[] = { "maps/bb_cfg", "maps/bb_slabs", "maps/bb_policy", "maps/bb_count", "maps", "" };
	char path[200];

	for (int i = 0; i < 6; i++) {
		snprintf(path, sizeof(path), "%s/%s", steer_pins, name[i]);
		remove(path);
	}
	steer_close();
}

__attribute__((unused)) static struct bb_steer_cfg *steer_map_cfg(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, steer_cfg, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* The map's number that lies under an index; 0: none. */
__attribute__((unused)) static uint32_t steer_slab_id(uint32_t index)
{
	union bpf_attr a;
	uint32_t id = 0;

	memset(&a, 0, sizeof(a));
	a.map_fd = (uint32_t)steer_slabs;
	a.key = (uintptr_t)&index;
	a.value = (uintptr_t)&id;
	return steer_bpf(BPF_MAP_LOOKUP_ELEM, &a) ? 0 : id;
}

/* --- a slab as a reader sees it --------------------------------------------- */

struct steer_view {
	uint8_t *pages;
	struct bb_slab_side *side;
};

static bool steer_view(struct steer_view *v, int fd)
{
	v->pages = mmap(NULL, BB_SLAB_SIZE, PROT_READ, MAP_SHARED, fd, 0);
	v->side = mmap(NULL, sizeof(*v->side), PROT_READ, MAP_SHARED, fd, BB_SLAB_SIZE);
	return v->pages != MAP_FAILED && v->side != MAP_FAILED;
}

static void steer_unview(struct steer_view *v)
{
	munmap(v->pages, BB_SLAB_SIZE);
	munmap(v->side, sizeof(*v->side));
}

static uint64_t steer_word(const struct steer_view *v, uint64_t ptr)
{
	return atomic_load(&v->side->word[(bb_ptr_offset(ptr) & (BB_SLAB_SIZE - 1)) >> BB_EXTENT_SHIFT]);
}

static uint32_t steer_seq(const struct steer_view *v, uint64_t ptr)
{
	return atomic_load(&v->side->seq[(bb_ptr_offset(ptr) & (BB_SLAB_SIZE - 1)) >> BB_PAGE_SHIFT]);
}

static _Thread_local unsigned int steer_reads;
/* What happens when a reader of this thread has copied half a page; NULL: now and then it loses its CPU. */
static _Thread_local void (*steer_halfway)(void);

/*
 * READ of a page as the program does it: word, count, copy, both again. Return:
 * true: served. checks: without them it does not look a second time.
 */
__attribute__((unused)) static bool steer_read(const struct steer_view *v, uint64_t ptr, uint16_t tenant, uint16_t node, uint64_t page[512],
		       bool checks)
{
	const uint64_t *from = (const uint64_t *)(v->pages + (bb_ptr_offset(ptr) & (BB_SLAB_SIZE - 1) & ~(uint64_t)BB_PAGE_MASK));
	const uint64_t word = steer_word(v, ptr);
	const uint32_t seq = steer_seq(v, ptr);

	if (!(word & BB_XW_LIVE) || bb_xw_gen(word) != bb_ptr_gen(ptr) || bb_xw_tenant(word) != tenant ||
	    (bb_xw_owner(word) != node && !(word & BB_XW_SHARED)))
		return false;
	if (checks && seq & BB_SEQ_WRITERS)
		return false;
	for (int i = 0; i < 512; i++) {
		page[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
		if (i != 256)
			continue;
		if (steer_halfway)
			steer_halfway();
		else if (++steer_reads % 8 == 0)
			sched_yield();
	}
	__atomic_signal_fence(__ATOMIC_SEQ_CST); /* loads stay in order on x86-64 */
	return !checks || (steer_seq(v, ptr) == seq && steer_word(v, ptr) == word);
}

#endif
