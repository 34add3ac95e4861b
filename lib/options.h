/* SPDX-License-Identifier: MIT */
/*
 * The one table of BB_ variables (lib/options.c). It feeds the environment
 * scan of libbb.so, the daemon's and bbrun's --help, the man page bb(7) and
 * the tests. An unknown BB_ name or a bad value earns one warning that names
 * it and the fix; the default holds then.
 */
#ifndef BB_LIB_OPTIONS_H
#define BB_LIB_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum bb_opt {
	BB_OPT_LOCAL,	 /* size; 0: not set, ask bbd */
	BB_OPT_MIN,	 /* size */
	BB_OPT_SOCKET,	 /* string */
	BB_OPT_LOG,	 /* error warn info debug */
	BB_OPT_ONLY,	 /* comma-separated program names; empty: all */
	BB_OPT_SKIP,	 /* comma-separated program names */
	BB_OPT_PREFETCH, /* on off */
	BB_OPT_PLACE,	 /* spread local NODE */
	BB_OPT_SITES,	 /* file for the call-site profile */
	BB_OPT_SHARE,	 /* path prefix of shared datasets */
	BB_OPT_STATS,	 /* file for counters as JSON at exit */
	BB_OPT_MAX
};

enum bb_opt_type { BB_OPT_T_SIZE, BB_OPT_T_STRING, BB_OPT_T_ENUM, BB_OPT_T_BOOL };

struct bb_opt_desc {
	const char *name;	/* "BB_LOCAL" */
	enum bb_opt_type type;
	const char *fallback;	/* default, as text */
	const char *metavar;	/* "SIZE" */
	const char *choices;	/* enum: "error warn info debug" */
	const char *help;	/* one line */
};

extern const struct bb_opt_desc bb_opt_table[BB_OPT_MAX];

struct bb_options {
	uint64_t num[BB_OPT_MAX];	/* sizes, booleans, index of a choice */
	const char *str[BB_OPT_MAX];	/* into environ, or the default */
	bool set[BB_OPT_MAX];		/* given by the user, and good */
};

typedef void (*bb_opt_warn_fn)(const char *message, void *arg);

/*
 * Fills *o from an environment block (environ). No allocation, no locale.
 * warn is called once a bad or unknown BB_ name. Names that other parts of the
 * project own (BB_NODE, BB_TEST_*, BB_BENCH_*) are left alone.
 */
void bb_options_parse(struct bb_options *o, char *const *env, bb_opt_warn_fn warn, void *arg);

/* "64K", "1.5G", "4096": K M G T, powers of 1024. Return: 0 or -EINVAL/-ERANGE. */
int bb_size_parse(const char *s, uint64_t *out);
/* "1.5G" into buf. Return: buf. */
char *bb_size_format(uint64_t bytes, char *buf, size_t len);
/* Is name an element of the comma-separated list? */
bool bb_list_has(const char *list, const char *name);

#endif
