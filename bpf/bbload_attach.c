/* SPDX-License-Identifier: MIT */
/*
 * attach: loads a kind's programs and hooks them to devices. Where they are
 * already, their links get the new programs: no packet meets none.
 */
#include "bbload.h"

#include <errno.h>
#include <linux/if_link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

#define ATTACH_TCX_INGRESS ((enum bpf_attach_type)46) /* not in Debian 12's headers */
#define TC_PRIORITY 48059u
#define OBJECTS_MAX 8

struct attach {
	struct bbload *b;
	struct place *p;
	json_t *state;
	enum kind kind;
	enum mode mode;
	struct bpf_object *obj[OBJECTS_MAX];
	unsigned int replaced, made;
};

const char *name_of(const struct bbload *b, const char *dev)
{
	static char name[300];

	snprintf(name, sizeof(name), "%s%s%s", dev, b->netns ? " in " : "", b->netns ? b->netns : "");
	return name;
}

int link_ifindex(int fd, struct bpf_link_info *info)
{
	__u32 len = sizeof(*info);

	memset(info, 0, sizeof(*info));
	if (bpf_obj_get_info_by_fd(fd, info, &len))
		return -errno;
	/* XDP and tcx have it at the same place. */
	return (int)info->xdp.ifindex;
}

/* The program's link that is pinned and alive. Return: a descriptor or -1; a dead pin is removed. */
static int pinned_link(struct attach *a, const char *prog, char path[PATH_BYTES + 64])
{
	struct bpf_link_info info;
	int fd;

	snprintf(path, PATH_BYTES + 64, "%s/links/%s", a->p->dir, prog);
	fd = bpf_obj_get(path);
	if (fd >= 0 && link_ifindex(fd, &info) == (int)a->p->ifindex)
		return fd;
	if (fd >= 0)
		close(fd);
	unlink(path);
	return -1;
}

static int pin_link(struct attach *a, int fd, const char *path)
{
	if (!bpf_obj_pin(fd, path))
		return 0;
	bb_error("%s: cannot pin %s: %m", a->p->dev, path);
	return -1;
}

/* --- XDP ----------------------------------------------------------------------------- */

static void say_holder(struct attach *a)
{
	LIBBPF_OPTS(bpf_xdp_query_opts, q);
	struct bpf_prog_info info = { 0 };
	__u32 len = sizeof(info), id;
	int fd;

	bpf_xdp_query((int)a->p->ifindex, 0, &q);
	id = q.prog_id ? q.prog_id : q.drv_prog_id ? q.drv_prog_id : q.skb_prog_id ? q.skb_prog_id : q.hw_prog_id;
	fd = id ? bpf_prog_get_fd_by_id(id) : -1;
	if (fd >= 0) {
		bpf_obj_get_info_by_fd(fd, &info, &len);
		close(fd);
	}
	bb_error("%s: another XDP program is there (%s, id %u): ip link set dev %s xdp off, or detach it by what attached it",
		 name_of(a->b, a->p->dev), *info.name ? info.name : "without a name", id, a->p->dev);
}

/* Return: 0; -errno, unsaid only where another mode may do. */
static int xdp_attach(struct attach *a, struct bpf_program *prog)
{
	LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = a->mode == MODE_GENERIC ? XDP_FLAGS_SKB_MODE : XDP_FLAGS_DRV_MODE);
	char path[PATH_BYTES + 64];
	__u32 id = 0;
	int fd, ret = 0;

	fd = pinned_link(a, bpf_program__name(prog), path);
	if (fd >= 0) {
		if (bpf_link_update(fd, bpf_program__fd(prog), NULL)) {
			ret = -errno;
			bb_error("%s: %s cannot be replaced (%s): bbload detach --dev %s, then attach", a->p->dev,
				 bpf_program__name(prog), strerror(-ret), a->p->dev);
		}
		close(fd);
		a->replaced++;
		return ret;
	}
	if (!bpf_xdp_query_id((int)a->p->ifindex, 0, &id) && id) {
		say_holder(a);
		return -EBUSY;
	}
	fd = bpf_link_create(bpf_program__fd(prog), (int)a->p->ifindex, BPF_XDP, &opts);
	if (fd < 0) {
		ret = -errno;
		if (ret == -EBUSY || ret == -EEXIST)
			say_holder(a);
		return ret;
	}
	ret = pin_link(a, fd, path);
	close(fd);
	a->made++;
	return ret;
}

static const char *why_no_xdp(const struct place *p, int err)
{
	static char text[160];

	if (err == -ERANGE || (err == -EINVAL && p->mtu > 1500))
		snprintf(text, sizeof(text), "its driver (%s) does not do XDP at MTU %u", p->driver, p->mtu);
	else if (err == -EOPNOTSUPP || err == -EINVAL)
		snprintf(text, sizeof(text), "its driver (%s) has no XDP", *p->driver ? p->driver : "unknown");
	else
		snprintf(text, sizeof(text), "%s", strerror(-err));
	return text;
}

/* --- tc -------------------------------------------------------------------------------- */

static struct bpf_tc_hook hook_of(const struct place *p)
{
	return (struct bpf_tc_hook){ .sz = sizeof(struct bpf_tc_hook), .ifindex = (int)p->ifindex, .attach_point = BPF_TC_INGRESS };
}

int attach_tc_undo(const struct place *p, const json_t *change)
{
	struct bpf_tc_hook hook = hook_of(p);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = (__u32)json_integer_value(json_object_get(change, "handle")), .priority = TC_PRIORITY);
	int ret;

	if (opts.handle) {
		ret = bpf_tc_detach(&hook, &opts);
		return ret == -ENOENT || ret == -EINVAL ? 0 : ret;
	}
	/* The clsact that we made goes, unless others have come to use it. */
	if (net_filters(p->ifindex) > 0)
		return 0;
	hook.attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS;
	ret = bpf_tc_hook_destroy(&hook);
	return ret == -ENOENT || ret == -EINVAL ? 0 : ret;
}

static json_t *find_filter(json_t *state, unsigned int handle)
{
	json_t *list = json_object_get(state, "changes"), *c;
	size_t i;

	for (i = 0; (c = json_array_get(list, i)); i++)
		if (json_integer_value(json_object_get(c, "handle")) == handle)
			return c;
	return NULL;
}

static int clsact_attach(struct attach *a, struct bpf_program *prog, unsigned int handle)
{
	struct bpf_tc_hook hook = hook_of(a->p);
	LIBBPF_OPTS(bpf_tc_opts, opts, .prog_fd = bpf_program__fd(prog), .handle = handle, .priority = TC_PRIORITY, .flags = BPF_TC_F_REPLACE);
	LIBBPF_OPTS(bpf_tc_opts, query, .handle = handle, .priority = TC_PRIORITY);
	int ret;

	ret = bpf_tc_query(&hook, &query);
	if (ret && !find_filter(a->state, handle)) {
		if (!net_clsact_there(a->p->ifindex) && !state_find(a->state, "clsact") &&
		    state_note(a->p, a->state, json_pack("{s:s}", "what", "clsact")))
			return -EIO;
		ret = bpf_tc_hook_create(&hook);
		if (ret && ret != -EEXIST) {
			bb_error("%s: cannot make a clsact (%s): is there another ingress qdisc? tc qdisc show dev %s", a->p->dev,
				 strerror(-ret), a->p->dev);
			return ret;
		}
		if (state_note(a->p, a->state, json_pack("{s:s,s:i}", "what", "filter", "handle", (int)handle)))
			return -EIO;
	}
	ret = bpf_tc_attach(&hook, &opts);
	if (ret)
		bb_error("%s: cannot attach %s to clsact: %s (%s)", a->p->dev, bpf_program__name(prog), strerror(-ret), object_said());
	else if (query.prog_id)
		a->replaced++;
	else
		a->made++;
	return ret;
}

static int tc_attach(struct attach *a, struct bpf_program *prog, unsigned int handle)
{
	char path[PATH_BYTES + 64];
	int fd, ret = 0;

	fd = pinned_link(a, bpf_program__name(prog), path);
	if (fd >= 0) {
		if (bpf_link_update(fd, bpf_program__fd(prog), NULL)) {
			ret = -errno;
			bb_error("%s: %s cannot be replaced: %s", a->p->dev, bpf_program__name(prog), strerror(-ret));
		}
		close(fd);
		a->replaced++;
		return ret;
	}
	if (a->b->no_tcx || find_filter(a->state, handle))
		return clsact_attach(a, prog, handle);
	fd = bpf_link_create(bpf_program__fd(prog), (int)a->p->ifindex, ATTACH_TCX_INGRESS, NULL);
	if (fd < 0 && (errno == EINVAL || errno == EOPNOTSUPP)) {
		bb_info("%s: this kernel has no tcx (Linux 6.6): clsact is used", a->p->dev);
		return clsact_attach(a, prog, handle);
	}
	if (fd < 0) {
		ret = -errno;
		bb_error("%s: cannot attach %s to tcx: %s", a->p->dev, bpf_program__name(prog), strerror(-ret));
		return ret;
	}
	ret = pin_link(a, fd, path);
	close(fd);
	a->made++;
	return ret;
}

/* --- a device ----------------------------------------------------------------------------- */

static void close_objects(struct attach *a)
{
	for (unsigned int i = 0; i < nobjects; i++) {
		bpf_object__close(a->obj[i]);
		a->obj[i] = NULL;
	}
}

static int load(struct attach *a, const char *maps)
{
	int ret = 0;

	for (unsigned int i = 0; i < nobjects && !ret; i++)
		if (objects[i].kinds >> a->kind & 1)
			ret = object_load(&objects[i], maps, a->mode == MODE_NATIVE, &a->obj[i]);
	return ret;
}

/* All programs of a hook. Return: 0 or the first error. */
static int hook_all(struct attach *a, enum hook hook)
{
	unsigned int handle = 0;
	struct bpf_program *p;
	int ret = 0;

	for (unsigned int i = 0; i < nobjects; i++) {
		if (!a->obj[i])
			continue;
		bpf_object__for_each_program(p, a->obj[i]) {
			if (object_hook(&objects[i], p) != hook || ret)
				continue;
			handle++;
			ret = hook == HOOK_XDP ? xdp_attach(a, p) : tc_attach(a, p, handle);
		}
	}
	return ret;
}

static int fill_maps(struct attach *a, const char *maps)
{
	struct bb_steer_cfg *cfg = map_cfg(maps);

	if (!cfg)
		return -EIO;
	cfg->version = BB_STEER_VERSION;
	map_cfg_put(cfg);
	a->p->redirect = place_redirects(a->p, mode_name[a->mode]);
	if (map_dev_fill(maps, a->p) || (a->kind == KIND_SWITCH && map_port(maps, a->p->ifindex, true))) {
		bb_error("%s: cannot fill the maps in %s: %m", a->p->dev, maps);
		return -EIO;
	}
	return 0;
}

static int hook_with(struct attach *a, const char *maps, bool may_retry)
{
	const char *was = json_string_value(json_object_get(a->state, "mode"));
	int ret;

	ret = load(a, maps);
	if (!ret)
		ret = fill_maps(a, maps);
	if (!ret && (!was || strcmp(was, mode_name[a->mode]))) {
		json_object_set_new(a->state, "mode", json_string(mode_name[a->mode]));
		ret = state_save(a->p, a->state);
	}
	if (ret)
		return ret;
	ret = a->mode == MODE_TC ? 0 : hook_all(a, HOOK_XDP);
	if (ret && ret != -EBUSY && ret != -EEXIST && may_retry) {
		bb_warn("%s: generic mode, slower than native: %s", name_of(a->b, a->p->dev), why_no_xdp(a->p, ret));
		return -EAGAIN;
	}
	if (ret && ret != -EBUSY && ret != -EEXIST && !a->replaced)
		bb_error("%s: cannot attach in %s mode: %s%s", name_of(a->b, a->p->dev), mode_name[a->mode], why_no_xdp(a->p, ret),
			 a->mode == MODE_NATIVE ? "; --mode generic works without" : "");
	if (!ret)
		ret = hook_all(a, HOOK_TC);
	if (!ret)
		ret = host_prepare(a->b, a->p, a->state, a->mode);
	return ret;
}

/* Which mode the pinned XDP link is in; MODE_AUTO: there is none. */
static enum mode mode_now(struct attach *a)
{
	const char *was = json_string_value(json_object_get(a->state, "mode"));
	char path[PATH_BYTES + 64];
	enum mode mode = MODE_AUTO;

	for (unsigned int i = 0; i < nobjects; i++) {
		int fd = objects[i].kinds >> a->kind & 1 ? pinned_link(a, objects[i].name, path) : -1;
		struct bpf_link_info info;

		if (fd < 0)
			continue;
		if (link_ifindex(fd, &info) > 0 && info.type == BPF_LINK_TYPE_XDP && was)
			mode = strcmp(was, "generic") ? MODE_NATIVE : MODE_GENERIC;
		close(fd);
	}
	return mode;
}

static int attach_modes(struct attach *a, const char *maps)
{
	enum mode now = mode_now(a), want = a->b->mode;
	int ret;

	/* Between veths tcx is quicker: XDP would copy each packet (bb_switch.bpf.c has the figures). */
	if (want == MODE_AUTO && now == MODE_AUTO && a->kind == KIND_SWITCH && !strcmp(a->p->driver, "veth"))
		want = MODE_TC;

	if (now != MODE_AUTO && want != MODE_AUTO && want != now) {
		bb_warn("%s: from %s to %s mode: for a moment nothing is attached", a->p->dev, mode_name[now], mode_name[want]);
		place_remove(a->p->dir, "links");
		if (place_mkdirs(a->p))
			return -EIO;
		now = MODE_AUTO;
	}
	a->mode = now != MODE_AUTO ? now : want == MODE_AUTO ? MODE_NATIVE : want;
	ret = hook_with(a, maps, now == MODE_AUTO && want == MODE_AUTO);
	if (ret == -EAGAIN) {
		close_objects(a);
		a->mode = MODE_GENERIC;
		ret = hook_with(a, maps, false);
	}
	close_objects(a);
	return ret;
}

static int attach_device(struct bbload *b, enum kind kind, const char *dev)
{
	struct place p, shared;
	struct attach a = { .b = b, .p = &p, .kind = kind };
	char maps[PATH_BYTES];
	int ret;

	place_of(&p, b->ns_inode, dev);
	ret = place_look(&p);
	if (ret) {
		bb_error("there is no device %s%s; see \"ip link\"", name_of(b, dev), ret == -ENODEV ? "" : " that can be looked at");
		return ret;
	}
	a.state = state_load(&p);
	if (place_stale(b, &p, a.state)) {
		bb_warn("%s: what was attached to a device that is gone is removed", dev);
		detach_place(b, &p, a.state, !a.state || (uint64_t)json_integer_value(json_object_get(a.state, "netns_cookie")) == b->ns_cookie, false);
		json_decref(a.state);
		a.state = NULL;
		place_look(&p);
		if (place_mount())
			return -EIO;
	}
	if (a.state && state_kind(a.state) != kind) {
		bb_error("%s is attached as %s: bbload detach --dev %s first", name_of(b, dev), kind_name[state_kind(a.state)], dev);
		json_decref(a.state);
		return -EBUSY;
	}
	place_of(&shared, b->ns_inode, "");
	if (!a.state) {
		a.state = state_new(b, &p, kind);
		ret = !a.state || state_save(&p, a.state);
	}
	if (!ret)
		ret = place_mkdirs(&p) || (kind == KIND_SWITCH && place_mkdirs(&shared));
	place_maps(&p, kind, maps);
	if (!ret)
		ret = attach_modes(&a, maps);
	if (!ret)
		printf("%s: %s %s, %s mode\n", name_of(b, dev), kind_name[kind], a.replaced ? "replaced" : "attached", mode_name[a.mode]);
	else if (!a.replaced)
		detach_place(b, &p, a.state, true, true);
	json_decref(a.state);
	return ret;
}

int bbload_attach(struct bbload *b, int argc, char **argv)
{
	int kind = 0, ret = 0;
	bool any = false;

	while (argc == 1 && kind < KIND_MAX && strcmp(argv[0], kind_name[kind]))
		kind++;
	if (argc != 1 || kind == KIND_MAX) {
		bb_error("attach wants host, switch or client%s%s", argc == 1 ? ", not " : "", argc == 1 ? argv[0] : "");
		return BBLOAD_USAGE;
	}
	if (b->mode == MODE_TC && kind != KIND_SWITCH) {
		bb_error("--mode tc is of a switch: a %s has programs at XDP", kind_name[kind]);
		return BBLOAD_USAGE;
	}
	if (!b->ndevs || (b->ndevs > 1 && kind != KIND_SWITCH)) {
		bb_error("attach %s wants %s", kind_name[kind], kind == KIND_SWITCH ? "its ports: --dev IFACE,IFACE" : "one device: --dev IFACE");
		return BBLOAD_USAGE;
	}
	if ((b->via || b->mac) && (kind == KIND_SWITCH || !b->via)) {
		bb_error("%s", b->via ? "a switch has no next hop: --via is of a host" : "--mac wants --via, the next hop that it belongs to");
		return BBLOAD_USAGE;
	}
	for (unsigned int i = 0; i < nobjects; i++)
		any = any || objects[i].kinds >> kind & 1;
	if (!any) {
		bb_error("this bbload was built without programs for a %s", kind_name[kind]);
		return BBLOAD_FAILED;
	}
	if (place_need_rights() || place_enter(b) || place_lock(b))
		return BBLOAD_FAILED;
	ret = place_mount();
	for (unsigned int i = 0; i < b->ndevs && !ret; i++)
		ret = attach_device(b, (enum kind)kind, b->dev[i]);
	place_unlock(b);
	return ret ? BBLOAD_FAILED : BBLOAD_OK;
}
