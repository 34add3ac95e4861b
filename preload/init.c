/* SPDX-License-Identifier: MIT */
/*
 * Start and end of libbb.so in a program: reads the options, decides whether
 * this program is one of ours, and writes BB_STATS at exit. Until bb_region_min
 * is set here every interposed call passes straight through.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "log.h"
#include "private.h"
#include "real.h"

extern char **environ;
extern char *program_invocation_short_name;

#define BUDGET_MIN (4ULL << 20)
/* With no budget named, one is asked for only when the program turns out large. */
#define ASK_BYTES (32ULL << 20)

static void warn_option(const char *message, void *arg)
{
	(void)arg;
	bb_warn("%s", message);
}

static bool wanted(const char *name)
{
	const char *only = bb_opts.str[BB_OPT_ONLY], *skip = bb_opts.str[BB_OPT_SKIP];

	if (only && *only && !bb_list_has(only, name))
		return false;
	return !(skip && *skip && bb_list_has(skip, name));
}

/* Programs overwrite their environment (setproctitle); we read ours later. */
static void keep_strings(void)
{
	static char kept[4096];
	size_t at = 0;

	for (int i = 0; i < BB_OPT_MAX; i++) {
		size_t len = bb_opts.str[i] ? strlen(bb_opts.str[i]) + 1 : 0;

		if (!len)
			continue;
		if (len > sizeof(kept) - at) {
			bb_warn("%s is too long: ignored", bb_opt_table[i].name);
			bb_opts.str[i] = bb_opt_table[i].fallback;
			continue;
		}
		memcpy(kept + at, bb_opts.str[i], len);
		bb_opts.str[i] = kept + at;
		at += len;
	}
}

__attribute__((constructor)) static void start(void)
{
	uint64_t budget, min;

	bb_real_init();
	bb_log_init("libbb", BB_LOG_WARN);
	/* With rights that its caller lacks: whose files and sockets would the caller have us use? */
	if (getauxval(AT_SECURE))
		return;
	bb_options_parse(&bb_opts, environ, warn_option, NULL);
	keep_strings();
	bb_log_level((enum bb_log_level)bb_opts.num[BB_OPT_LOG]);
	if (!wanted(program_invocation_short_name ? program_invocation_short_name : ""))
		return;
	budget = bb_opts.num[BB_OPT_LOCAL];
	if (bb_opts.set[BB_OPT_LOCAL] && budget < BUDGET_MIN) {
		bb_warn("BB_LOCAL=%s is too small to run in: using 4M", bb_opts.str[BB_OPT_LOCAL]);
		budget = BUDGET_MIN;
	}
	min = bb_opts.num[BB_OPT_MIN];
	if (min < BB_PAGE_SIZE) {
		bb_warn("BB_MIN is below a page: using 4K");
		min = BB_PAGE_SIZE;
	}
	bb_rg.as_old = getenv("BB_TEST_NO_MOVE");
	bb_rg.budget = budget;
	bb_rg.local_limit = (int64_t)((budget ? budget : ASK_BYTES) >> BB_PAGE_SHIFT);
	if (bb_fork_init() < 0) {
		bb_warn("cannot register fork handlers: large memory stays with the C library");
		return;
	}
	bb_region_min = (size_t)min;
}

static void write_stats(const char *path)
{
	const struct bb_region_ctl *c = bb_rg.attached == BB_CHILD ? NULL : bb_rg.ctl;
	char buf[1024];
	int fd, n;

	n = bb_format(buf, sizeof(buf),
		      "{\"pid\":%d,\"attached\":%s,\"budget\":%lu,\"charged\":%lu,\"allocated\":%lu,"
		      "\"faults\":%lu,\"fill_zero\":%lu,\"fill_staged\":%lu,\"fill_remote\":%lu,\"prefetched\":%lu,\"unused\":%lu,"
		      "\"opened\":%lu,\"sealed\":%lu,\"evicted\":%lu,\"evicted_clean\":%lu,\"evicted_zero\":%lu,"
		      "\"evict_busy\":%lu,\"written_back\":%lu,\"dropped\":%lu,\"lost\":%lu}\n",
		      (int)getpid(), bb_rg.attached == BB_ATTACHED ? "true" : "false", (unsigned long)bb_rg.budget,
		      (unsigned long)(c ? atomic_load(&c->resident) : 0) << BB_PAGE_SHIFT,
		      c ? (unsigned long)c->alloc_bytes : 0, c ? (unsigned long)c->n_fault : 0,
		      c ? (unsigned long)c->n_fill_zero : 0, c ? (unsigned long)c->n_fill_staged : 0,
		      c ? (unsigned long)c->n_fill_remote : 0, c ? (unsigned long)c->n_prefetch : 0,
		      c ? (unsigned long)c->n_unused : 0,
		      c ? (unsigned long)c->n_open : 0, c ? (unsigned long)c->n_seal : 0,
		      c ? (unsigned long)c->n_evict : 0, c ? (unsigned long)c->n_evict_clean : 0,
		      c ? (unsigned long)c->n_evict_zero : 0, c ? (unsigned long)c->n_evict_busy : 0,
		      c ? (unsigned long)c->n_writeback : 0, c ? (unsigned long)c->n_drop : 0,
		      c ? (unsigned long)c->n_lost : 0);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0) {
		bb_warn("BB_STATS: cannot write %s (%s)", path, strerrordesc_np(errno));
		return;
	}
	if (write(fd, buf, (size_t)n) != n)
		bb_warn("BB_STATS: short write to %s", path);
	close(fd);
}

__attribute__((destructor)) static void end(void)
{
	const char *path = bb_opts.str[BB_OPT_STATS];

	bb_orphan_check();
	if (bb_region_min != SIZE_MAX && path && *path)
		write_stats(path);
}
