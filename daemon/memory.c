/* SPDX-License-Identifier: MIT */
/* The memory of the host and of its cgroups: see memory.h. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "memory.h"

#define PATH_BYTES 1200

static bool read_number(const char *dir, const char *name, uint64_t *out)
{
	char path[PATH_BYTES + 40];
	unsigned long long n;
	bool ok;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "re");
	if (!f)
		return false;
	ok = fscanf(f, "%llu", &n) == 1; /* "max" is no number: no bound */
	fclose(f);
	if (ok)
		*out = n;
	return ok;
}

/* The number after a key that begins a line: of /proc/meminfo, or a group's memory.stat. 0: not there. */
static uint64_t read_key(const char *dir, const char *name, const char *key)
{
	char path[PATH_BYTES + 40], line[256];
	unsigned long long found = 0;
	size_t n = strlen(key);
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "re");
	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, key, n) && strchr(": ", line[n]) && sscanf(line + n + 1, "%llu", &found) == 1)
			break;
	fclose(f);
	return found;
}

struct version {
	const char *mount, *max, *used, *cache;
};

static const struct version v1 = { "/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file" };
static const struct version v2 = { "", "memory.max", "memory.current", "inactive_file" };

/*
 * What one hierarchy leaves: its bounds, or with room what is free below them.
 * Files that were read and are idle count as used there, but go when asked.
 */
static uint64_t least(uint64_t bytes, const char *root, const struct version *v, char *group, bool room)
{
	char dir[PATH_BYTES];
	uint64_t limit, now, cache;
	char *slash;

	for (;;) {
		snprintf(dir, sizeof(dir), "%s/sys/fs/cgroup%s%s", root, v->mount, group);
		if (read_number(dir, v->max, &limit)) {
			if (room && read_number(dir, v->used, &now)) {
				cache = read_key(dir, "memory.stat", v->cache);
				now -= cache < now ? cache : now;
				limit = limit > now ? limit - now : 0;
			}
			if (limit < bytes)
				bytes = limit;
		}
		slash = strrchr(group, '/');
		if (!slash)
			return bytes;
		*slash = 0;
	}
}

static uint64_t bounded(uint64_t bytes, const char *root, bool room)
{
	char path[PATH_BYTES], line[512];
	FILE *f;

	snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
	f = fopen(path, "re");
	if (!f)
		return bytes;
	while (fgets(line, sizeof(line), f)) {
		char *list = strchr(line, ':'), *group = list ? strchr(list + 1, ':') : NULL;

		if (!group)
			continue;
		*list++ = 0;
		*group++ = 0;
		group[strcspn(group, "\n")] = 0;
		if (!strcmp(line, "0") && !*list)
			bytes = least(bytes, root, &v2, group, room);
		else if (!strcmp(list, "memory"))
			bytes = least(bytes, root, &v1, group, room);
	}
	fclose(f);
	return bytes;
}

static uint64_t of_host(const char *root, const char *key)
{
	char dir[PATH_BYTES];

	snprintf(dir, sizeof(dir), "%s/proc", root);
	return read_key(dir, "meminfo", key) << 10;
}

uint64_t bb_memory_total(const char *root)
{
	return bounded(of_host(root, "MemTotal"), root, false);
}

uint64_t bb_memory_available(const char *root)
{
	return bounded(of_host(root, "MemAvailable"), root, true);
}
