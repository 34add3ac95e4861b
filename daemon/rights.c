/* SPDX-License-Identifier: MIT */
/*
 * Capabilities, and what goes with them: no_new_privs, and memory that nobody
 * can look at. Capabilities belong to threads in Linux; so each drops its own.
 */
#include "rights.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "log.h"

/* Newer than some headers. */
#ifndef CAP_PERFMON
#define CAP_PERFMON 38
#define CAP_BPF 39
#endif

/*
 * Sanitizers map, open and start what they like while they write a report, so
 * builds with them are not filtered. This is the only place that knows.
 */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

static struct bb_rights_config config;
static bool started;
static const char *_Atomic filter = "off (it was not started)";

/* What a thread of this role may use (effective), or hand on (permitted). */
static uint64_t wanted(enum bb_role role, bool permitted)
{
	const uint64_t admin = 1ULL << CAP_NET_ADMIN, bpf = 1ULL << CAP_BPF | 1ULL << CAP_PERFMON,
		       xdp = 1ULL << CAP_NET_RAW | 1ULL << CAP_IPC_LOCK;
	uint64_t caps = 0;

	if (config.kernel && (role == BB_ROLE_STEER || (role == BB_ROLE_MAIN && permitted)))
		caps |= bpf | (config.xdp ? xdp : 0);
	if (role != BB_ROLE_MAIN && role != BB_ROLE_SERVER)
		return caps;
	if (config.routes)
		caps |= admin;
	if (role == BB_ROLE_MAIN && permitted && config.network)
		caps |= admin;
	if (role == BB_ROLE_MAIN && permitted && config.low_port)
		caps |= 1ULL << CAP_NET_BIND_SERVICE;
	return caps;
}

static int drop(enum bb_role role)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2], have[2];

	if (syscall(SYS_capget, &h, d) < 0)
		return -errno;
	memcpy(have, d, sizeof(have));
	for (int i = 0; i < 2; i++) {
		/* Ambient ones fall with the inheritable ones. */
		d[i].permitted &= (uint32_t)(wanted(role, true) >> (32 * i));
		d[i].inheritable &= d[i].permitted;
		d[i].effective = d[i].permitted & (uint32_t)(wanted(role, false) >> (32 * i));
	}
	/* Nothing to drop: the credentials stay the same ones (low.h). */
	if (!memcmp(have, d, sizeof(have)))
		return 0;
	return syscall(SYS_capset, &h, d) < 0 ? -errno : 0;
}

void bb_rights_start(const struct bb_rights_config *cfg)
{
	config = *cfg;
	started = true;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		bb_warn("cannot give up gaining rights by programs started (%m)");
	/* No core file and no debugger of the same user: others' pages and the key are in here. */
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		bb_warn("cannot keep others from reading this process (%m)");
	for (unsigned int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!(wanted(BB_ROLE_MAIN, true) & 1ULL << cap) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 &&
		    errno == EPERM)
			break; /* another user than root, who has none to bound */
	if (SANITIZED) {
		filter = "off (built with a sanitizer)";
	} else if (!cfg->filter) {
		filter = "off (--no-filter)";
	} else {
		filter = "on";
		bb_filter_start();
	}
}

void bb_rights_drop(enum bb_role role)
{
	static const char *const name[] = { "main", "control", "pager", "server", "scrubber", "steer", "rdma" };
	int r;

	_Static_assert(sizeof(name) / sizeof(name[0]) == BB_ROLE_MAX, "every role has a name");
	r = started ? drop(role) : 0;
	if (r < 0)
		bb_warn("the %s thread cannot drop its capabilities (%s)", name[role], strerrordesc_np(-r));
}

void bb_rights_rdma(void)
{
	config.rdma = true;
}

void bb_rights_thread(enum bb_role role)
{
	bb_rights_thread_with(role, NULL, NULL);
}

void bb_rights_thread_with(enum bb_role role, void (*fn)(void *arg), void *arg)
{
	static _Atomic bool warned;
	int r;

	bb_rights_drop(role);
	if (fn)
		fn(arg);
	if (!started || SANITIZED || !config.filter)
		return;
	r = bb_filter_thread(role, &config);
	if (r < 0 && !atomic_exchange(&warned, true)) {
		filter = "off (the kernel refuses it)";
		bb_warn("system calls are not filtered (%s)", strerrordesc_np(-r));
	}
}

const char *bb_rights_filter(void)
{
	return filter;
}

uint64_t bb_rights_refused(const char **last)
{
	return bb_filter_refused(last);
}
