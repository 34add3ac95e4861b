/* SPDX-License-Identifier: MIT */
/* What the kernel offers, and its settings of virtual memory. */
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include <bluebridge/gptr.h>

#include "doctor.h"
#include "options.h"
#include "pager/probe.h"

/* The kernel's own default; below it somebody has lowered it. */
#define MAP_COUNT_MIN 65530

static void userfaultfd(struct doctor *d)
{
	struct bb_uffd_probe p;
	struct utsname u = { 0 };

	uname(&u);
	bb_uffd_probe(&p);
	check(d, p.way == BB_UFFD_NONE || p.move ? CHECK_OK : CHECK_WARN, "kernel", "Linux %s%s", u.release,
	      p.way == BB_UFFD_NONE || p.move ? "" : ": before 6.8 pages are copied out (before 5.18 all memory stays local); "
						     "no swap beside O_DIRECT there");
	if (p.way != BB_UFFD_NONE && !p.move)
		mend(d, "apt-get install -t bookworm-backports linux-image-amd64 && reboot");

	switch (p.way) {
	case BB_UFFD_BY_DEVICE:
		check(d, CHECK_OK, "userfaultfd", "by %s", BB_UFFD_DEVICE);
		break;
	case BB_UFFD_BY_SYSCALL:
		check(d, CHECK_OK, "userfaultfd", "by the system call");
		break;
	case BB_UFFD_USER_MODE:
		check(d, CHECK_WARN, "userfaultfd",
		      "for user mode only: system calls on remote memory fail with EFAULT");
		mend(d, "chmod 666 %s, or sysctl -w %s=1", BB_UFFD_DEVICE, BB_UFFD_SYSCTL);
		break;
	case BB_UFFD_NONE:
		check(d, CHECK_FAIL, "userfaultfd", "not to be had (%s): all memory stays local",
		      strerrordesc_np(p.error));
		mend(d, "chmod 666 %s, or sysctl -w %s=1 (in a container: allow the system call in its seccomp profile)",
		     BB_UFFD_DEVICE, BB_UFFD_SYSCTL);
		return;
	}
	if (!p.poison || !p.thread_id) {
		check(d, CHECK_WARN, "features", "userfaultfd is without%s%s", p.poison ? "" : " POISON (Linux 6.6)",
		      p.thread_id ? "" : " THREAD_ID (Linux 4.14)");
		mend(d, "boot Linux 6.8 or newer");
	} else {
		check(d, CHECK_OK, "features", "userfaultfd can POISON and THREAD_ID%s", p.move ? " and MOVE" : "");
	}
	if (p.device_for_all || p.unprivileged == 1 || p.unprivileged < 0) {
		check(d, CHECK_OK, "users", "programs of all users may use userfaultfd");
	} else {
		check(d, CHECK_WARN, "users",
		      "programs of ordinary users get userfaultfd for user mode only (%s=0): their system calls on remote memory fail with EFAULT",
		      BB_UFFD_SYSCTL);
		mend(d, "chmod 666 %s, or sysctl -w %s=1", BB_UFFD_DEVICE, BB_UFFD_SYSCTL);
	}
}

static void memory(struct doctor *d)
{
	char size[32], line[128];
	long n;

	if (read_number("/proc/sys/vm/max_map_count", &n)) {
		/* Where local and paged extents alternate, each is a mapping. */
		bb_size_format((uint64_t)n * BB_EXTENT_SIZE, size, sizeof(size));
		check(d, n < MAP_COUNT_MIN ? CHECK_WARN : CHECK_OK, "mappings",
		      "vm.max_map_count is %ld: %s of memory a program, where it is most scattered", n, size);
		if (n < MAP_COUNT_MIN)
			mend(d, "sysctl -w vm.max_map_count=%d", MAP_COUNT_MIN);
	}
	if (read_number("/proc/sys/vm/overcommit_memory", &n)) {
		check(d, n == 2 ? CHECK_WARN : CHECK_OK, "overcommit", "vm.overcommit_memory is %ld%s", n,
		      n == 2 ? ": the kernel refuses programs memory that other hosts would hold" : "");
		if (n == 2)
			mend(d, "sysctl -w vm.overcommit_memory=0");
	}
	if (read_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof(line))) {
		bool never = strstr(line, "[never]");

		check(d, never ? CHECK_WARN : CHECK_OK, "huge pages", "%s",
		      never			   ? "transparent huge pages are off: local memory is slower than need be" :
		      strstr(line, "[madvise]") ? "transparent huge pages for programs that ask for them" :
						     "transparent huge pages are on");
		if (never)
			mend(d, "echo always >/sys/kernel/mm/transparent_hugepage/enabled");
	} else {
		check(d, CHECK_OK, "huge pages", "this kernel has no transparent huge pages");
	}
}

/* Does bbd keep CPUs awake while faults come? See daemon/latency.h. */
static void wake_ups(struct doctor *d)
{
	const char *state = str(d->facts, "latency");

	if (!d->facts || !*state)
		return;
	if (!strcmp(state, "held") || !strcmp(state, "ready")) {
		check(d, CHECK_OK, "wake-ups", "idle CPUs are kept awake while faults come one after the other");
	} else if (!strcmp(state, "not asked for")) {
		check(d, CHECK_OK, "wake-ups", "bbd --latency off: idle CPUs take their time to wake");
	} else {
		check(d, CHECK_WARN, "wake-ups", "/dev/cpu_dma_latency: %s: faults wait for idle CPUs to wake", state);
		mend(d, "let bbd's user write to /dev/cpu_dma_latency, or bbd --latency off");
	}
}

void doctor_kernel(struct doctor *d)
{
	userfaultfd(d);
	memory(d);
	wake_ups(d);
}
