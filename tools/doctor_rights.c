/* SPDX-License-Identifier: MIT */
/* What a bbd that runs may still do: capabilities and filter of each of its threads. */
#include <dirent.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "doctor.h"

/*
 * Of the thread bbd-steer alone: CAP_BPF, CAP_PERFMON for maps of their true size,
 * CAP_NET_RAW and CAP_IPC_LOCK for AF_XDP sockets.
 */
#define STEER (1ULL << 39 | 1ULL << 38 | 1ULL << CAP_NET_RAW | 1ULL << CAP_IPC_LOCK)

struct seen {
	unsigned int threads, filtered, may_gain;
	uint64_t caps; /* of all threads together, but for steer's */
	bool steer;
};

static void look_at(const char *path, struct seen *s)
{
	char line[256];
	FILE *f = fopen(path, "re");
	bool steer = false;
	uint64_t caps;
	int mode;

	if (!f)
		return; /* it has ended meanwhile */
	s->threads++;
	while (fgets(line, sizeof(line), f)) {
		if (!strcmp(line, "Name:\tbbd-steer\n")) {
			steer = true;
		} else if (!strncmp(line, "CapEff:", 7)) {
			caps = strtoull(line + 7, NULL, 16);
			s->steer |= steer && caps & STEER;
			s->caps |= steer ? caps & ~STEER : caps;
		} else if (sscanf(line, "Seccomp: %d", &mode) == 1) {
			s->filtered += mode == 2;
		} else if (sscanf(line, "NoNewPrivs: %d", &mode) == 1) {
			s->may_gain += !mode;
		}
	}
	fclose(f);
}

static bool look_at_all(pid_t pid, struct seen *s)
{
	char path[300];
	struct dirent *e;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while ((e = readdir(dir))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%s/status", (int)pid, e->d_name);
		look_at(path, s);
	}
	closedir(dir);
	return s->threads > 0;
}

void doctor_rights(struct doctor *d)
{
	const char *filter = str(d->facts, "filter");
	unsigned long long refused = num(d->facts, "refused");
	struct seen s = { 0 };

	if (!d->facts || !*filter || !d->pid || !look_at_all(d->pid, &s))
		return;
	if (s.caps & ~(1ULL << CAP_NET_ADMIN)) {
		check(d, CHECK_FAIL, "least rights", "bbd has kept capabilities that it does not need (%#" PRIx64 ")", s.caps);
		mend(d, "systemctl restart bbd");
	} else if (refused) {
		check(d, CHECK_WARN, "least rights", "bbd tried %llu system calls that it may not make, the last %s: see its log",
		      refused, str(d->facts, "refused_last"));
		mend(d, "report it; bbd --no-filter goes on without");
	} else if (strcmp(filter, "on") || s.filtered != s.threads || s.may_gain) {
		check(d, CHECK_WARN, "least rights", "%u of bbd's %u threads have their system calls filtered; the filter is %s",
		      s.filtered, s.threads, filter);
		mend(d, "start bbd without --no-filter, on a kernel with CONFIG_SECCOMP_FILTER");
	} else {
		check(d, CHECK_OK, "least rights", "%s%s; system calls of all %u threads are filtered",
		      s.caps ? "no capability but CAP_NET_ADMIN" : "no capabilities",
		      s.steer ? ", those of BPF and AF_XDP for one thread" : "", s.threads);
	}
}
