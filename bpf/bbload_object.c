/* SPDX-License-Identifier: MIT */
/*
 * The programs, as the build has made them, and how one is loaded: with the maps
 * that are pinned already where they are defined alike, so that what is attached
 * and what replaces it count and steer with the same.
 */
#include "bbload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bb_host.skel.h"
#include "bb_read.skel.h"
#include "bb_switch.skel.h"

#include "log.h"

const struct object objects[] = {
	{ "bb_host", 1u << KIND_HOST | 1u << KIND_CLIENT, bb_host__elf_bytes },
	{ "bb_read", 1u << KIND_HOST, bb_read__elf_bytes },
	{ "bb_switch", 1u << KIND_SWITCH, bb_switch__elf_bytes },
};
const unsigned int nobjects = sizeof(objects) / sizeof(objects[0]);

/* --- what libbpf says ------------------------------------------------------------ */

static char said[400];
static bool say_all;

static int listen_to(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	char line[sizeof(said)];

	if (say_all && level != LIBBPF_DEBUG) {
		va_list again;

		va_copy(again, ap);
		vfprintf(stderr, fmt, again);
		va_end(again);
	}
	vsnprintf(line, sizeof(line), fmt, ap);
	/* The verifier's log has its reason near the end, and counts of instructions after it. */
	if (level == LIBBPF_WARN && !strstr(line, "BEGIN PROG LOAD LOG") && !strstr(line, "failed to load object")) {
		snprintf(said, sizeof(said), "%s", strncmp(line, "libbpf: ", 8) ? line : line + 8);
		said[strcspn(said, "\n")] = '\0';
	}
	return 0;
}

void object_init(bool verbose)
{
	say_all = verbose;
	libbpf_set_print(listen_to);
}

const char *object_said(void)
{
	return *said ? said : "no reason was given";
}

/* --- loading -------------------------------------------------------------------------- */

enum hook object_hook(const struct object *o, const struct bpf_program *p)
{
	const char *section = bpf_program__section_name(p);

	if (bpf_program__type(p) == BPF_PROG_TYPE_XDP)
		return strcmp(bpf_program__name(p), o->name) ? HOOK_NONE : HOOK_XDP;
	if (bpf_program__type(p) == BPF_PROG_TYPE_SCHED_CLS && (!strcmp(section, "tc") || !strncmp(section, "tcx/ingress", 11)))
		return HOOK_TC;
	return HOOK_NONE;
}

/* A program of generic mode that says it knows fragments hands tc a packet without its Ethernet header. */
static void without_frags(struct bpf_object *obj)
{
	struct bpf_program *p;

	bpf_object__for_each_program(p, obj) {
		if (bpf_program__type(p) != BPF_PROG_TYPE_XDP)
			continue;
		/* There and back: libbpf forgets what the section's name had said. */
		bpf_program__set_type(p, BPF_PROG_TYPE_SOCKET_FILTER);
		bpf_program__set_type(p, BPF_PROG_TYPE_XDP);
		bpf_program__set_expected_attach_type(p, BPF_XDP);
		bpf_program__set_flags(p, bpf_program__flags(p) & ~BPF_F_XDP_HAS_FRAGS);
	}
}

static bool same_map(int fd, const struct bpf_map *m)
{
	struct bpf_map_info info = { 0 };
	__u32 len = sizeof(info);

	/* The kernel adds that flag to device maps by itself. */
	return !bpf_obj_get_info_by_fd(fd, &info, &len) && info.type == bpf_map__type(m) && info.key_size == bpf_map__key_size(m) &&
	       info.value_size == bpf_map__value_size(m) && info.max_entries == bpf_map__max_entries(m) &&
	       (info.map_flags & ~BPF_F_RDONLY_PROG) == (bpf_map__map_flags(m) & ~BPF_F_RDONLY_PROG);
}

/* Gives the object the pinned map, or takes the pin of another definition away. */
static int take_pinned(struct bpf_map *m, const char *path)
{
	int fd = bpf_obj_get(path), ret = 0;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (same_map(fd, m)) {
		ret = bpf_map__reuse_fd(m, fd);
	} else {
		bb_warn("map %s is defined anew: what %s held is not kept", bpf_map__name(m), path);
		unlink(path);
	}
	close(fd);
	return ret;
}

/* Is what is pinned of another version of the layout? Then none of it is used. */
static void drop_old_version(const char *maps)
{
	int fd = map_open(maps, "bb_cfg", true);
	struct bb_steer_cfg *cfg;
	__u32 version;

	if (fd < 0)
		return;
	close(fd);
	cfg = map_cfg(maps);
	version = cfg ? cfg->version : 0;
	map_cfg_put(cfg);
	if (!version || version == BB_STEER_VERSION)
		return;
	bb_warn("the maps in %s are of version %u, these programs of %u: what they held is not kept", maps, version,
		BB_STEER_VERSION);
	place_remove(maps, "."); /* what is in it: "." itself cannot be removed */
}

static int load_failed(const struct object *o, int err)
{
	if (err == -EPERM)
		bb_error("%s: the kernel refuses it (%s); it wants CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and a container may forbid bpf(2): run it on the host as root",
			 o->name, object_said());
	else if (err == -ENOMEM || err == -E2BIG)
		bb_error("%s: no memory for its maps (%s); raise the cgroup's limit or \"ulimit -l\"", o->name, object_said());
	else if (err == -ENOSYS)
		bb_error("%s: this kernel has no bpf(2) (CONFIG_BPF_SYSCALL)", o->name);
	else
		bb_error("%s: the kernel does not take it: %s (%s); it wants Linux 5.18 or newer; --verbose shows all", o->name,
			 object_said(), strerror(-err));
	return err;
}

int object_load(const struct object *o, const char *maps, bool frags, struct bpf_object **out)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = o->name);
	char path[PATH_BYTES + 64];
	struct bpf_object *obj;
	struct bpf_map *m;
	size_t size;
	const void *bytes = o->bytes(&size);
	int ret = 0;

	said[0] = '\0';
	if (maps)
		drop_old_version(maps);
	obj = bpf_object__open_mem(bytes, size, &opts);
	if (!obj) {
		bb_error("%s: libbpf cannot read it: %s", o->name, object_said());
		return -EINVAL;
	}
	if (!frags)
		without_frags(obj);
	bpf_object__for_each_map(m, obj) {
		if (!maps || bpf_map__is_internal(m))
			continue;
		snprintf(path, sizeof(path), "%s/%s", maps, bpf_map__name(m));
		ret = take_pinned(m, path);
		if (ret)
			goto out;
	}
	ret = bpf_object__load(obj);
	if (ret)
		goto out;
	bpf_object__for_each_map(m, obj) {
		if (!maps || bpf_map__is_internal(m))
			continue;
		snprintf(path, sizeof(path), "%s/%s", maps, bpf_map__name(m));
		if (bpf_obj_pin(bpf_map__fd(m), path) && errno != EEXIST) {
			ret = -errno;
			snprintf(said, sizeof(said), "cannot pin %s", path);
			goto out;
		}
	}
	*out = obj;
	return 0;
out:
	load_failed(o, ret);
	bpf_object__close(obj);
	return ret;
}
