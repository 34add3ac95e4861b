/* SPDX-License-Identifier: MIT */
/* detach: nothing is left. gc: the same for what belongs to devices and namespaces that are gone. */
#include "bbload.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

/* Each pinned link's device: calls fn, which may close nothing. */
static void each_link(const struct place *p, void (*fn)(int fd, void *arg), void *arg)
{
	char path[PATH_BYTES + 300];
	struct dirent *e;
	DIR *d;

	snprintf(path, sizeof(path), "%s/links", p->dir);
	d = opendir(path);
	while (d && (e = readdir(d))) {
		int fd;

		snprintf(path, sizeof(path), "%s/links/%s", p->dir, e->d_name);
		fd = e->d_name[0] == '.' ? -1 : bpf_obj_get(path);
		if (fd < 0)
			continue;
		fn(fd, arg);
		close(fd);
	}
	if (d)
		closedir(d);
}

static void see_dead(int fd, void *arg)
{
	struct bpf_link_info info;

	if (!link_ifindex(fd, &info))
		*(bool *)arg = true;
}

static void end_link(int fd, void *arg)
{
	/* Even where somebody else holds it open. */
	bpf_link_detach(fd);
}

bool place_stale(const struct bbload *b, struct place *p, json_t *state)
{
	bool dead = false;

	place_look(p);
	if (state)
		return !state_is_of(b, state, p);
	each_link(p, see_dead, &dead);
	/* Pins without a state: somebody has removed that; nobody knows whose they are. */
	return dead || !access(p->dir, F_OK);
}

/* Maps of a switch go with its last port. */
static void drop_shared(const struct place *p)
{
	struct place *list, all;
	unsigned int n = place_list(&list);
	bool used = false;

	for (unsigned int i = 0; i < n; i++) {
		json_t *s = list[i].netns == p->netns ? state_load(&list[i]) : NULL;

		used = used || (s && state_kind(s) == KIND_SWITCH);
		json_decref(s);
	}
	free(list);
	if (used)
		return;
	place_of(&all, p->netns, "");
	place_remove(all.dir, "maps");
	rmdir(all.dir);
}

void detach_place(const struct bbload *b, struct place *p, json_t *state, bool ns, bool device)
{
	char maps[PATH_BYTES];

	each_link(p, end_link, NULL);
	place_remove(p->dir, "links");
	if (state && ns)
		state_undo(p, state, device);
	if (state && ns && device && state_kind(state) == KIND_SWITCH) {
		place_maps(p, KIND_SWITCH, maps);
		map_port(maps, p->ifindex, false);
	}
	place_remove(p->dir, "maps");
	rmdir(p->dir);
	unlink(p->state);
	drop_shared(p);
}

/* Return: was there anything? */
static bool detach_one(struct bbload *b, struct place *p, bool only_gone)
{
	json_t *state = state_load(p);
	bool ns = !place_enter_inode(b, p->netns), device = false;

	if (ns && state)
		ns = (uint64_t)json_integer_value(json_object_get(state, "netns_cookie")) == b->ns_cookie;
	if (ns && state) {
		unsigned int was = (unsigned int)json_integer_value(json_object_get(state, "ifindex"));
		char now[IF_NAMESIZE];

		/* It may have another name by now: what was changed of it is undone there. */
		device = if_indextoname(was, now) != NULL;
		if (device) {
			struct place renamed = *p;

			snprintf(renamed.dev, sizeof(renamed.dev), "%s", now);
			place_look(&renamed);
			p->ifindex = renamed.ifindex;
			if (strcmp(p->dev, now)) {
				bb_info("%s is called %s now", p->dev, now);
				snprintf(p->dev, sizeof(p->dev), "%s", now);
			}
		}
	}
	if (!*p->dev && only_gone) {
		drop_shared(p); /* of a switch that is */
		json_decref(state);
		return access(p->dir, F_OK) != 0;
	}
	if (only_gone && (device || (ns && !state && !place_stale(b, p, NULL)))) {
		json_decref(state);
		return false;
	}
	detach_place(b, p, state, ns, device);
	json_decref(state);
	return true;
}

int bbload_detach(struct bbload *b, int argc, char **argv)
{
	unsigned int n, done = 0;
	struct place *list;

	if (!b->all == !b->ndevs) {
		bb_error("detach wants --dev IFACE or --all%s", b->all ? ", not both" : "");
		return BBLOAD_USAGE;
	}
	if (place_need_rights() || place_enter(b) || place_lock(b))
		return BBLOAD_FAILED;
	n = place_list(&list);
	for (unsigned int i = 0; i < b->ndevs; i++) {
		struct place p;

		place_of(&p, b->ns_inode, b->dev[i]);
		if (access(p.dir, F_OK) && access(p.state, F_OK))
			continue;
		done += detach_one(b, &p, false);
		printf("%s: detached\n", name_of(b, b->dev[i]));
	}
	for (unsigned int i = 0; b->all && i < n; i++) {
		const uint64_t inode = b->ns_inode;

		if (!*list[i].dev || (b->netns && list[i].netns != inode))
			continue;
		done += detach_one(b, &list[i], false);
		printf("%s: detached\n", list[i].dev);
	}
	free(list);
	if (!done)
		bb_info("nothing is attached there");
	place_unlock(b);
	return BBLOAD_OK;
}

int bbload_gc(struct bbload *b, int argc, char **argv)
{
	struct place *list;
	unsigned int n;

	if (place_need_rights() || place_enter(b) || place_lock(b))
		return BBLOAD_FAILED;
	n = place_list(&list);
	for (int pass = 0; pass < 2; pass++)
		for (unsigned int i = 0; i < n; i++)
			if ((*list[i].dev == 0) == pass && detach_one(b, &list[i], true))
				printf("%s: removed\n", list[i].dir + sizeof(BB_STEER_FS));
	free(list);
	place_unlock(b);
	return BBLOAD_OK;
}
