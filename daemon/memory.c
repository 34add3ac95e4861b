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

/* A line of /proc/meminfo, in bytes. */
static uint64_t meminfo(const char *root, const char *key)
{
	char path[PATH_BYTES], line[256];
	unsigned long long kib = 0;
	size_t n = strlen(key);
	FILE *f;

	snprintf(path, sizeof(path), "%s/proc/meminfo", root);
	f = fopen(path, "re");
	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, key, n) && line[n] == ':' && sscanf(line + n + 1, "%llu", &kib) == 1)
			break;
	fclose(f);
	return kib << 10;
}

/* What one hierarchy leaves: its bounds, or with room what is free below them. */
static uint64_t least(uint64_t bytes, const char *mount, char *group, const char *max, const char *used, bool room)
{
	char dir[PATH_BYTES];
	uint64_t limit, now;
	char *slash;

	for (;;) {
		snprintf(dir, sizeof(dir), "%s%s", mount, group);
		if (read_number(dir, max, &limit)) {
			if (room && read_number(dir, used, &now))
				limit = limit > now ? limit - now : 0;
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
	char path[PATH_BYTES], line[512], mount[600];
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
		if (!strcmp(line, "0") && !*list) {
			snprintf(mount, sizeof(mount), "%s/sys/fs/cgroup", root);
			bytes = least(bytes, mount, group, "memory.max", "memory.current", room);
		} else if (!strcmp(list, "memory")) {
			snprintf(mount, sizeof(mount), "%s/sys/fs/cgroup/memory", root);
			bytes = least(bytes, mount, group, "memory.limit_in_bytes", "memory.usage_in_bytes", room);
		}
	}
	fclose(f);
	return bytes;
}

uint64_t bb_memory_total(const char *root)
{
	return bounded(meminfo(root, "MemTotal"), root, false);
}

uint64_t bb_memory_available(const char *root)
{
	return bounded(meminfo(root, "MemAvailable"), root, true);
}
