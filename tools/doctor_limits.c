/* SPDX-License-Identifier: MIT */
/* Limits and rights: of bbd where it can be seen, else of who asks. */
#include <inttypes.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "doctor.h"
#include "options.h"

/* A program takes bbd three descriptors. */
#define NOFILE_MIN 4096
#define MEMLOCK_MIN (8u << 20)

static void proc_path(const struct doctor *d, const char *name, char path[64])
{
	if (d->pid)
		snprintf(path, 64, "/proc/%d/%s", (int)d->pid, name);
	else
		snprintf(path, 64, "/proc/self/%s", name);
}

/* A line that begins with key. Return: what follows the key, in buf; NULL: not there. */
static const char *proc_field(const struct doctor *d, const char *file, const char *key, char buf[256])
{
	const char *value = NULL;
	char path[64];
	FILE *f;

	proc_path(d, file, path);
	f = fopen(path, "re");
	if (!f)
		return NULL;
	while (!value && fgets(buf, 256, f))
		if (!strncmp(buf, key, strlen(key)))
			value = buf + strlen(key);
	fclose(f);
	return value;
}

static uint64_t effective_caps(const struct doctor *d)
{
	char buf[256];
	const char *v = proc_field(d, "status", "CapEff:", buf);
	uint64_t caps = 0;

	return v && sscanf(v, "%" SCNx64, &caps) == 1 ? caps : 0;
}

/* Hard limit; RLIM_INFINITY where there is none. Return: is it known? */
static bool hard_limit(const struct doctor *d, const char *key, unsigned long long *out)
{
	char buf[256], soft[32], hard[32];
	const char *v = proc_field(d, "limits", key, buf);

	if (!v || sscanf(v, "%31s %31s", soft, hard) != 2)
		return false;
	if (!strcmp(hard, "unlimited"))
		*out = RLIM_INFINITY;
	else if (sscanf(hard, "%llu", out) != 1)
		return false;
	return true;
}

static void files(struct doctor *d)
{
	const char *who = d->pid ? "bbd" : "this shell";
	unsigned long long n;

	if (!hard_limit(d, "Max open files", &n))
		return;
	check(d, n < NOFILE_MIN ? CHECK_WARN : CHECK_OK, "open files", "%s may have %llu%s", who, n,
	      n < NOFILE_MIN ? ": each program takes bbd three" : "");
	if (n >= NOFILE_MIN)
		return;
	if (d->pid)
		mend(d, "prlimit --pid %d --nofile=65536:65536 (for good: LimitNOFILE=65536 in bbd.service)", (int)d->pid);
	else
		mend(d, "ulimit -n 65536");
}

static void locked(struct doctor *d)
{
	char size[32];
	struct rlimit r;

	/* This one is the programs' own. */
	if (getrlimit(RLIMIT_MEMLOCK, &r) < 0)
		return;
	if (r.rlim_max == RLIM_INFINITY) {
		check(d, CHECK_OK, "locked memory", "no limit here");
		return;
	}
	bb_size_format(r.rlim_max, size, sizeof(size));
	check(d, r.rlim_max < MEMLOCK_MIN ? CHECK_WARN : CHECK_OK, "locked memory",
	      "programs may lock %s%s", size, r.rlim_max < MEMLOCK_MIN ? ": mlock and io_uring fail beyond it" : "");
	if (r.rlim_max < MEMLOCK_MIN)
		mend(d, "ulimit -l %u (for good: memlock in /etc/security/limits.conf)", MEMLOCK_MIN >> 10);
}

static void rights(struct doctor *d)
{
	bool may = effective_caps(d) >> CAP_NET_ADMIN & 1;

	if (d->facts && flag(d->facts, "embedded"))
		return; /* sets no routes */
	if (d->facts && !d->pid)
		return;
	check(d, may ? CHECK_OK : CHECK_WARN, "rights", "%s %s CAP_NET_ADMIN%s", d->pid ? "bbd" : "this user",
	      may ? "has" : "is without", may ? "" : ": routes have to be set by hand");
	if (may)
		return;
	if (d->pid)
		mend(d, "setcap cap_net_admin+ep \"$(readlink /proc/%d/exe)\", and start bbd again", (int)d->pid);
	else
		mend(d, "start bbd as root, or: setcap cap_net_admin+ep \"$(command -v bbd)\"");
}

void doctor_limits(struct doctor *d)
{
	files(d);
	locked(d);
	rights(d);
}
