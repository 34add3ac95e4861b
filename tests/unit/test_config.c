/* SPDX-License-Identifier: MIT */
/* bbd's options and budgets. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "budget.h"
#include "config.h"
#include "memory.h"

static int parse(struct bb_config *c, int n, const char *const *args)
{
	char *argv[20] = { (char *)(uintptr_t)"bbd" };
	char cfg[] = "/tmp/bb-test-config-XXXXXX";
	int fd = mkstemp(cfg), r; /* keeps a file of this machine out of it */

	assert_true(fd >= 0);
	close(fd);
	argv[1] = (char *)(uintptr_t)"--config";
	argv[2] = cfg;
	if (n)
		for (int i = 0; i < n; i++)
		argv[3 + i] = (char *)(uintptr_t)args[i];
	r = bb_config_parse(c, n + 3, argv);
	unlink(cfg);
	return r;
}

static void defaults(void **state)
{
	struct bb_config c;

	assert_int_equal(parse(&c, 0, NULL), 0);
	assert_true(c.node >= 1);
	assert_int_equal(c.port, 48059);
	assert_int_equal(c.pagers, 1);
	assert_int_equal(c.lend, 0);
	assert_true(c.discover && c.routes && c.prefetch && !c.embedded);
	assert_true(c.local > 0);
}

static void good_values(void **state)
{
	static const char *const a[] = { "--node", "7", "--lend", "1.5G", "--cpu", "0,0", "--local", "50%", "--peer", "::1", "--peer=::2" };
	struct bb_config c;

	assert_int_equal(parse(&c, 11, a), 0);
	assert_int_equal(c.node, 7);
	assert_int_equal(c.lend, 3ULL << 29);
	assert_int_equal(c.ncpus, 2);
	assert_int_equal(c.npeers, 2);
	assert_string_equal(c.peers[1], "::2");
}

static void bad_values(void **state)
{
	static const char *const bad[][2] = {
		{ "--node", "0" },	{ "--node", "65535" }, { "--node", "x" },     { "--lend", "lots" },
		{ "--lend", "-1" },	{ "--port", "0" },     { "--cpu", "99999" },  { "--cpu", "" },
		{ "--local", "101%" },	{ "--local", "%" },    { "--spin", "-5" },    { "--deadline", "1" },
		{ "--log", "loud" },	{ "--pagers", "65" },  { "--tenant", "70000" }, { "--dev", "no-such-link" },
		{ "--nonsense", "1" },	{ "--store", "/tmp" }, { "--quota", "1X" },   { "word", "word" },
		{ "--keep", "-1" },	{ "--replicas", "3" },	{ "--kernel", "on" },	{ "--keep", "100000" },
		{ "--socket", "" },	{ "--key", "" },       { "--store", "" },     { "--peer", "" },
		{ "--xdp", "on" },	{ "--transport", "tcp" }, { "--compress", "yes" }, { "--transport", "rdma" },
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct bb_config c;

		if (parse(&c, 2, bad[i]) != -EINVAL)
			fail_msg("%s %s was taken", bad[i][0], bad[i][1]);
	}
}

static int with_file(struct bb_config *c, const char *text)
{
	char path[] = "/tmp/bb-test-config-XXXXXX";
	int fd = mkstemp(path), r;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
	r = bb_config_file(c, path, true);
	unlink(path);
	return r;
}

static void file(void **state)
{
	struct bb_config c;

	memset(&c, 0, sizeof(c));
	c.discover = true;
	assert_int_equal(with_file(&c, "# hosts\n node = 9\nlend=2G # much\n\nno-discover = yes\npeer = fe80::1%lo"), 0);
	assert_int_equal(c.node, 9);
	assert_int_equal(c.lend, 2ULL << 30);
	assert_false(c.discover);
	assert_string_equal(c.peers[0], "fe80::1%lo");
	free((void *)(uintptr_t)c.peers[0]);
	assert_int_equal(with_file(&c, "node 9\n"), -EINVAL);
	assert_int_equal(with_file(&c, "colour = red\n"), -EINVAL);
	assert_int_equal(with_file(&c, "embedded = perhaps\n"), -EINVAL);
	assert_int_equal(with_file(&c, "socket =\n"), -EINVAL);
	assert_int_equal(bb_config_file(&c, "/no/such/file", true), -EINVAL);
	assert_int_equal(bb_config_file(&c, "/no/such/file", false), 0);
	assert_int_equal(bb_config_file(&c, "/tmp", true), -EINVAL);
}

/* --- memory ------------------------------------------------------------------ */

static char root[] = "/tmp/bb-test-memory-XXXXXX";

/* A file below root, and the directories on the way. */
static void tell(const char *path, const char *text)
{
	char full[200];
	FILE *f;

	snprintf(full, sizeof(full), "%s/%s", root, path);
	for (char *s = full + sizeof(root); (s = strchr(s, '/')); *s++ = '/') {
		*s = 0;
		mkdir(full, 0700);
	}
	f = fopen(full, "we");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void unlink_told(const char *path)
{
	char full[200];

	snprintf(full, sizeof(full), "%s/%s", root, path);
	assert_int_equal(unlink(full), 0);
}

static void memory(void **state)
{
	char rm[64];

	assert_non_null(mkdtemp(root));
	assert_int_equal(bb_memory_total(root), 0);
	tell("proc/meminfo", "MemTotal: 4096 kB\nMemFree: 16 kB\nMemAvailable: 2048 kB\n");
	assert_int_equal(bb_memory_total(root), 4096 << 10);
	assert_int_equal(bb_memory_available(root), 2048 << 10);

	/* Version 2: an ancestor's bound is ours. */
	tell("proc/self/cgroup", "0::/a/b\n");
	tell("sys/fs/cgroup/a/b/memory.max", "max\n");
	tell("sys/fs/cgroup/a/b/memory.current", "4096\n");
	assert_int_equal(bb_memory_total(root), 4096 << 10);
	tell("sys/fs/cgroup/a/memory.max", "1048576\n");
	tell("sys/fs/cgroup/a/memory.current", "1000000\n");
	assert_int_equal(bb_memory_total(root), 1048576);
	assert_int_equal(bb_memory_available(root), 48576);
	/* A group that is full of files that nobody needs has room. */
	tell("sys/fs/cgroup/a/memory.stat", "anon 7\ninactive_file_x 9\ninactive_file 500000\n");
	assert_int_equal(bb_memory_available(root), 548576);
	tell("sys/fs/cgroup/a/memory.stat", "inactive_file 99999999\n");
	assert_int_equal(bb_memory_available(root), 1048576);
	unlink_told("sys/fs/cgroup/a/memory.stat");
	tell("sys/fs/cgroup/a/memory.current", "2000000\n");
	assert_int_equal(bb_memory_available(root), 0);

	/* Version 1, whose group may be mounted as the root; no bound is a large number. */
	tell("proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/x/y\n1:name=systemd:/a\n0::/\n");
	tell("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
	assert_int_equal(bb_memory_total(root), 4096 << 10);
	tell("sys/fs/cgroup/memory/memory.limit_in_bytes", "524288\n");
	tell("sys/fs/cgroup/memory/memory.usage_in_bytes", "4288\n");
	assert_int_equal(bb_memory_total(root), 524288);
	assert_int_equal(bb_memory_available(root), 520000);
	tell("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 4000\n");
	assert_int_equal(bb_memory_available(root), 524000);

	/* What cannot be read bounds nothing. */
	tell("proc/self/cgroup", "nonsense\n0:\n:::::\n\n");
	assert_int_equal(bb_memory_total(root), 4096 << 10);
	snprintf(rm, sizeof(rm), "rm -rf %s", root);
	assert_int_equal(system(rm), 0);
}

static void budgets(void **state)
{
	static struct bb_budget b;

	bb_budget_init(&b, 1024ULL << 20);
	assert_int_equal(bb_budget_quote(&b, 0), 1024ULL << 20);
	assert_int_equal(bb_budget_add(&b, 1, 0), 0);
	assert_int_equal(b.program[0].granted, 1024ULL << 20);
	assert_int_equal(bb_budget_quote(&b, 0), 512ULL << 20);
	assert_int_equal(bb_budget_add(&b, 65, 256ULL << 20), 0);
	assert_int_equal(bb_budget_add(&b, 129, 0), 0);
	assert_int_equal(b.program[0].granted, 384ULL << 20);
	assert_int_equal(b.program[1].granted, 256ULL << 20);
	assert_int_equal(b.program[2].granted, 384ULL << 20);
	bb_budget_remove(&b, 65);
	assert_int_equal(b.n, 2);
	assert_int_equal(b.program[0].granted, 512ULL << 20);
	assert_int_equal(bb_budget_set(&b, 1, 1), 0);
	assert_int_equal(b.program[0].granted, BB_BUDGET_MIN);
	assert_int_equal(bb_budget_set(&b, 77, 1), -ENOENT);
	/* Named budgets beyond what there is: the others still get the least. */
	assert_int_equal(bb_budget_add(&b, 193, 4096ULL << 20), 0);
	assert_int_equal(b.program[1].granted, BB_BUDGET_MIN);
	while (b.n < BB_BUDGET_PROGRAMS)
		assert_int_equal(bb_budget_add(&b, 1000 + b.n, 0), 0);
	assert_int_equal(bb_budget_add(&b, 1, 0), -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults), cmocka_unit_test(good_values), cmocka_unit_test(bad_values),
		cmocka_unit_test(file),	    cmocka_unit_test(memory),	 cmocka_unit_test(budgets),
	};

	bb_log_init("test", BB_LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
