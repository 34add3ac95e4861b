/* SPDX-License-Identifier: MIT */
/*
 * bbd's side of the pinned maps, with real ones where this process may make
 * them (else skipped): attached before and while bbd runs, replaced, detached,
 * refused; what is left by the one that was killed, and by an orderly end.
 */
#include "steer/steer.h"

#include <linux/capability.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "clock.h"
#include "home/home.h"
#include "keep/keep.h"
#include "log.h"
#include "rights.h"
#include "steer/pins.h"
#include "steer_world.h"

#define MIB (1ULL << 20)
#define DEV "bbtest.0"

static const struct bb_home_who alice = { 3, 1, 0 };

static bool may;

static int need_maps(void **state)
{
	if (!may)
		skip();
	steer_detach(); /* what a test that failed left */
	return 0;
}

static struct bb_steer *start(struct bb_home *h, uint32_t boot)
{
	const struct bb_steer_config cfg = { .fs = steer_fs, .dev = DEV, .tenant = 3, .node = 7, .port = 48059, .boot = boot,
					     .k0 = 11, .k1 = 22, .home = h };
	struct bb_steer *s = NULL;

	assert_int_equal(bb_steer_start(&s, &cfg), 0);
	return s;
}

static struct bb_home *home_of(uint64_t lend, struct bb_keep *keep)
{
	struct bb_home_config cfg = { .lend = lend, .keep = keep };
	struct bb_home *h = NULL;

	assert_int_equal(bb_home_new(&h, &cfg), 0);
	return h;
}

static bool is(struct bb_steer *s, enum bb_steer_state state, uint64_t slabs)
{
	struct bb_steer_stats st;

	for (int i = 0; i < 1000; i++) {
		bb_steer_stats(s, &st);
		if (st.state == state && st.slabs == slabs)
			return true;
		usleep(10000);
	}
	print_message("state %d, %llu slabs, %s\n", st.state, (unsigned long long)st.slabs, st.why);
	return false;
}

/* CREATE as a transport does it: again while it is BUSY. */
static uint64_t create(struct bb_home *h)
{
	uint64_t ptr = 0;
	uint8_t st = BB_ST_BUSY;

	for (int i = 0; i < 10000 && st == BB_ST_BUSY; i++) {
		st = bb_home_create(h, alice, 0, &ptr);
		if (st == BB_ST_BUSY)
			usleep(1000);
	}
	assert_int_equal(st, BB_ST_OK);
	return ptr;
}

static void expect_cfg(uint32_t boot, uint32_t flags, uint64_t bytes)
{
	struct bb_steer_cfg *c = steer_map_cfg();

	assert_non_null(c);
	assert_int_equal(c->serial & 1, 0);
	assert_int_equal(c->flags, flags);
	assert_int_equal(c->bytes, bytes);
	assert_int_equal(c->version, BB_STEER_VERSION);
	if (flags) {
		assert_int_equal(c->tenant, 3);
		assert_int_equal(c->node, 7);
		assert_int_equal(c->port, 48059);
		assert_int_equal(c->boot, boot);
		assert_true(c->k0 == 11 && c->k1 == 22);
	} else {
		assert_true(!c->k0 && !c->k1);
	}
	munmap(c, 4096);
}

static void nothing_attached(void **state)
{
	struct bb_home *h = home_of(64 * MIB, NULL);
	struct bb_steer *s = start(h, 5);
	struct bb_steer_stats st;
	uint64_t p;

	assert_true(is(s, BB_STEER_OFF, 0));
	assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_OK); /* never BUSY */
	for (int i = 0; i < BB_POLICY_ENTRIES; i++)
		assert_int_equal(bb_steer_policy(s)[i].action, BB_ACT_FORWARD);
	bb_steer_stop(s, false);
	bb_steer_stats(NULL, &st);
	assert_int_equal(st.state, BB_STEER_OFF);
	bb_home_free(h);
}

static void attached_before(void **state)
{
	struct bb_home *h = home_of(192 * MIB, NULL);
	uint64_t p, page[512], n = 0;
	struct bb_home_stats hs;
	struct steer_view v;
	struct bb_steer *s;
	void *data;

	assert_int_equal(steer_attach(DEV, BB_STEER_VERSION, 0), 0);
	s = start(h, 5);
	assert_true(is(s, BB_STEER_SERVES, 1));
	expect_cfg(5, BB_SC_KNOWN | BB_SC_SERVE, 64 * MIB);
	p = create(h);
	assert_int_equal(bb_home_get(h, alice, p, 4096, true, &data), BB_ST_OK);
	memset(data, 0x42, 4096);
	bb_home_put(h, p, 4096, true);
	assert_true(steer_view(&v, bb_home_next_map(h, &n)));
	assert_true(steer_read(&v, p, 3, 1, page, true));
	assert_true(page[0] == 0x4242424242424242 && page[511] == page[0]);
	assert_false(steer_read(&v, p, 3, 2, page, true));
	assert_false(steer_read(&v, p, 4, 1, page, true));
	/* A map does not give memory back, yet its next owner finds zeros. */
	assert_int_equal(bb_home_delete(h, alice, p), BB_ST_OK);
	assert_false(steer_read(&v, p, 3, 1, page, true));
	for (int i = 0; i < 1000 && v.pages[bb_ptr_offset(p)]; i++)
		usleep(10000);
	assert_int_equal(v.pages[bb_ptr_offset(p)], 0);
	for (int i = 0; i < 90; i++)
		create(h);
	assert_true(is(s, BB_STEER_SERVES, 3));
	expect_cfg(5, BB_SC_KNOWN | BB_SC_SERVE, 192 * MIB);
	assert_true(steer_slab_id(0) && steer_slab_id(1) && steer_slab_id(2) && !steer_slab_id(3));
	bb_home_stats(h, &hs);
	assert_int_equal(hs.mapped, 192 * MIB);
	/* An orderly end takes it all out. */
	bb_steer_stop(s, false);
	expect_cfg(5, 0, 0);
	assert_true(!steer_slab_id(0) && !steer_slab_id(1) && !steer_slab_id(2));
	steer_unview(&v);
	bb_home_free(h);
	steer_detach();
}

static void attached_replaced_and_detached(void **state)
{
	struct bb_home *h = home_of(128 * MIB, NULL);
	struct bb_steer *s = start(h, 6);
	uint32_t id;

	for (int i = 0; i < 4; i++)
		create(h);
	assert_true(is(s, BB_STEER_OFF, 0));
	assert_int_equal(steer_attach(DEV, BB_STEER_VERSION, 0), 0);
	assert_true(is(s, BB_STEER_SERVES, 0)); /* memfds stay memfds */
	expect_cfg(6, BB_SC_KNOWN | BB_SC_SERVE, 0);
	for (int i = 0; i < 40; i++)
		create(h);
	assert_true(is(s, BB_STEER_SERVES, 1));
	id = steer_slab_id(1);
	assert_true(id && !steer_slab_id(0));
	/* Other maps at the same place: what is there goes in. */
	steer_detach();
	assert_int_equal(steer_attach(DEV, BB_STEER_VERSION, 0), 0);
	for (int i = 0; i < 1000 && !steer_slab_id(1); i++)
		usleep(10000);
	assert_int_equal(steer_slab_id(1), id);
	assert_true(is(s, BB_STEER_SERVES, 1));
	expect_cfg(6, BB_SC_KNOWN | BB_SC_SERVE, 128 * MIB);
	steer_detach();
	assert_true(is(s, BB_STEER_OFF, 0));
	assert_int_equal(steer_attach(DEV, BB_STEER_VERSION, 0), 0);
	assert_true(is(s, BB_STEER_SERVES, 1));
	bb_steer_stop(s, true);
	bb_home_free(h);
	expect_cfg(6, BB_SC_KNOWN | BB_SC_SERVE, 128 * MIB);
	assert_int_equal(steer_slab_id(1), id);

	/* Another boot: what the one before left is taken out before start() returns. */
	h = home_of(0, NULL);
	s = start(h, 7);
	assert_true(!steer_slab_id(1));
	expect_cfg(7, BB_SC_KNOWN | BB_SC_SERVE, 0);
	bb_steer_stop(s, false);
	s = start(NULL, 7);
	assert_true(is(s, BB_STEER_KNOWN, 0));
	expect_cfg(7, BB_SC_KNOWN, 0);
	bb_steer_stop(s, false);
	bb_home_free(h);
	steer_detach();
}

static void refuses_others(void **state)
{
	struct bb_home *h = home_of(64 * MIB, NULL);
	struct bb_steer_stats st;
	struct bb_steer *s;
	uint64_t p;

	assert_int_equal(steer_attach(DEV, BB_STEER_VERSION + 1, 0), 0);
	s = start(h, 8);
	assert_true(is(s, BB_STEER_REFUSED, 0));
	bb_steer_stats(s, &st);
	assert_non_null(strstr(st.why, "version 3"));
	assert_int_equal(bb_home_create(h, alice, 0, &p), BB_ST_OK);
	steer_detach();
	assert_true(is(s, BB_STEER_OFF, 0));
	assert_int_equal(steer_attach(DEV, BB_STEER_VERSION, sizeof(struct bb_steer_cfg) + 8), 0);
	assert_true(is(s, BB_STEER_REFUSED, 0));
	bb_steer_stats(s, &st);
	assert_non_null(strstr(st.why, "bb_cfg is not as this bbd knows it"));
	steer_detach();
	/* bbload is still at it. */
	assert_int_equal(steer_attach(DEV, 0, 0), 0);
	assert_true(is(s, BB_STEER_OFF, 0));
	bb_steer_stop(s, false);
	bb_home_free(h);
	steer_detach();
}

/* Two of one device: the second leaves it alone, and takes over when the first has gone. */
static void one_bbd_at_a_time(void **state)
{
	struct bb_home *h = home_of(64 * MIB, NULL), *g = home_of(64 * MIB, NULL);
	struct bb_steer *s, *t;
	uint32_t id;

	assert_int_equal(steer_attach(DEV, BB_STEER_VERSION, 0), 0);
	s = start(h, 20);
	assert_true(is(s, BB_STEER_SERVES, 1));
	id = steer_slab_id(0);
	t = start(g, 21);
	assert_true(is(t, BB_STEER_REFUSED, 0));
	create(g);
	expect_cfg(20, BB_SC_KNOWN | BB_SC_SERVE, 64 * MIB);
	assert_int_equal(steer_slab_id(0), id);
	bb_steer_stop(s, true);
	for (int i = 0; i < 1000 && steer_slab_id(0) == id; i++)
		usleep(10000);
	assert_true(is(t, BB_STEER_SERVES, 0)); /* its first slab is a memfd already */
	assert_int_equal(steer_slab_id(0), 0);
	bb_steer_stop(t, false);
	bb_home_free(h);
	bb_home_free(g);
	steer_detach();
}

static void policies_and_counters(void **state)
{
	struct bb_steer *s = start(NULL, 9);
	const struct bb_policy *p = bb_steer_policy(s);
	struct bb_policy drop = { .action = BB_ACT_DROP };
	uint64_t value[8192] = { 5, 6 };
	uint32_t key = BB_CMD_WRITE;
	struct bb_steer_stats st;
	union bpf_attr a;

	assert_int_equal(steer_attach(DEV, BB_STEER_VERSION, 0), 0);
	assert_true(is(s, BB_STEER_KNOWN, 0));
	memset(&a, 0, sizeof(a));
	a.map_fd = (uint32_t)steer_policy;
	a.key = (uintptr_t)&key;
	a.value = (uintptr_t)&drop;
	assert_int_equal(steer_bpf(BPF_MAP_UPDATE_ELEM, &a), 0);
	assert_int_equal(p[BB_CMD_WRITE].action, BB_ACT_DROP); /* at once, without a look */
	assert_int_equal(p[BB_CMD_READ].action, BB_ACT_FORWARD);
	key = BB_CNT_SERVED;
	a.map_fd = (uint32_t)steer_count;
	a.value = (uintptr_t)value;
	assert_int_equal(steer_bpf(BPF_MAP_UPDATE_ELEM, &a), 0);
	bb_steer_stats(s, &st);
	assert_int_equal(st.count[BB_CNT_SERVED], sysconf(_SC_NPROCESSORS_CONF) > 1 ? 11 : 5);
	assert_int_equal(st.count[BB_CNT_TORN], 0);
	steer_detach();
	assert_true(is(s, BB_STEER_OFF, 0));
	assert_int_equal(p[BB_CMD_WRITE].action, BB_ACT_FORWARD);
	bb_steer_stats(s, &st);
	assert_int_equal(st.count[BB_CNT_SERVED], 0);
	bb_steer_stop(s, false);
}

/* --- SIGKILL --------------------------------------------------------------------- */

static uint64_t *was;
static char path[128];

static void lives_and_is_killed(void)
{
	struct bb_home_config cfg = { .lend = 128 * MIB };
	const struct bb_steer_config sc = { .fs = steer_fs, .dev = DEV, .tenant = 3, .node = 7, .port = 48059, .boot = 10,
					    .k0 = 11, .k1 = 22 };
	struct bb_steer_config with = sc;
	struct bb_steer *s;
	void *data;

	if (bb_keep_open(&cfg.keep, path, 60000) || bb_home_new(&with.home, &cfg) || bb_steer_start(&s, &with))
		_exit(1);
	*was = create(with.home);
	if (bb_home_get(with.home, alice, *was, 4096, true, &data))
		_exit(2);
	memset(data, 0x33, 4096);
	bb_home_put(with.home, *was, 4096, true);
	raise(SIGKILL);
}

/* The kernel's view of slab 0, through the pinned map alone. */
static bool view_pinned(struct steer_view *v)
{
	union bpf_attr a;
	int fd;
	bool ok;

	memset(&a, 0, sizeof(a));
	a.map_id = steer_slab_id(0);
	fd = steer_bpf(BPF_MAP_GET_FD_BY_ID, &a);
	ok = fd >= 0 && steer_view(v, fd);
	close(fd);
	return ok;
}

static void killed_and_followed(void **state)
{
	char dir[] = "/tmp/bb-test-steer-XXXXXX";
	struct bb_keep *k = NULL;
	uint64_t page[512];
	struct steer_view v;
	struct bb_steer *s;
	struct bb_home *h;
	uint32_t id, serial;
	int status;
	pid_t pid;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/sock", dir);
	was = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_int_equal(steer_attach(DEV, BB_STEER_VERSION, 0), 0);
	pid = fork();
	if (!pid)
		lives_and_is_killed();
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	/* Nobody is there, and it can be read. */
	expect_cfg(10, BB_SC_KNOWN | BB_SC_SERVE, 64 * MIB);
	assert_true(view_pinned(&v));
	assert_true(steer_read(&v, *was, 3, 1, page, true));
	assert_true(page[100] == 0x3333333333333333);
	id = steer_slab_id(0);

	/* The next one has the same memory; to the kernel nothing has happened. */
	serial = steer_map_cfg()->serial;
	assert_int_equal(bb_keep_open(&k, path, 60000), 0);
	h = home_of(128 * MIB, k);
	assert_true(steer_read(&v, *was, 3, 1, page, true));
	s = start(h, 10);
	assert_int_equal(steer_map_cfg()->serial, serial);
	assert_int_equal(steer_slab_id(0), id);
	assert_true(steer_read(&v, *was, 3, 1, page, true));
	assert_int_equal(bb_home_delete(h, alice, *was), BB_ST_OK);
	assert_false(steer_read(&v, *was, 3, 1, page, true));
	bb_steer_stop(s, false);
	steer_unview(&v);
	bb_home_free(h);
	bb_keep_close(k, false);
	rmdir(dir);
	steer_detach();
}

static void in_the_middle_of_a_change(void **state)
{
	struct bb_steer_cfg *c;
	struct bb_steer *s;

	assert_int_equal(steer_attach(DEV, BB_STEER_VERSION, 0), 0);
	s = start(NULL, 12);
	bb_steer_stop(s, true);
	c = steer_map_cfg();
	c->serial |= 1; /* killed there */
	s = start(NULL, 12);
	expect_cfg(12, BB_SC_KNOWN, 0);
	bb_steer_stop(s, false);
	steer_detach();
}

/* One was killed when it had put a slab in and not yet said so: only cfg->bytes knows where it may be. */
static void killed_with_a_slab_half_given(void **state)
{
	const uint32_t key = 5, no = 6;
	struct bb_steer_cfg *c;
	struct bb_steer *s;
	union bpf_attr a;
	uint32_t fd;

	assert_int_equal(steer_attach(DEV, BB_STEER_VERSION, 0), 0);
	fd = (uint32_t)bb_pins_new_slab();
	memset(&a, 0, sizeof(a));
	a.map_fd = (uint32_t)steer_slabs;
	a.key = (uintptr_t)&key;
	a.value = (uintptr_t)&fd;
	assert_int_equal(steer_bpf(BPF_MAP_UPDATE_ELEM, &a), 0);
	c = steer_map_cfg();
	c->bytes = 6 * 64 * MIB;
	c->serial |= 1;
	/* Beyond it there can be none, and none is looked for: 16,384 looks take minutes on older kernels. */
	a.key = (uintptr_t)&no;
	assert_int_equal(steer_bpf(BPF_MAP_UPDATE_ELEM, &a), 0);
	s = start(NULL, 13);
	assert_int_equal(steer_slab_id(5), 0);
	assert_int_not_equal(steer_slab_id(6), 0);
	expect_cfg(13, BB_SC_KNOWN, 0);
	bb_steer_stop(s, false);
	munmap(c, 4096);
	close((int)fd);
	steer_detach();
}

/* --- how long, and how much ---------------------------------------------------------- */

static void no_pause(void **state)
{
	struct bb_home *h = home_of(512 * MIB, NULL);
	uint64_t worst = 0, t;
	unsigned int busy = 0;
	struct bb_steer *s;

	assert_int_equal(steer_attach(DEV, BB_STEER_VERSION, 0), 0);
	s = start(h, 13);
	assert_true(is(s, BB_STEER_SERVES, 1));
	for (int i = 0; i < 200; i++) {
		uint64_t ptr;
		uint8_t st;

		t = bb_now_ns();
		st = bb_home_create(h, alice, 0, &ptr);
		t = bb_now_ns() - t;
		if (t > worst)
			worst = t;
		busy += st == BB_ST_BUSY;
		/* A brisk pace, at which one ahead is enough: 200 MiB/s. */
		usleep(10000);
	}
	print_message("worst CREATE %.2f ms, %u of 200 BUSY\n", (double)worst / 1e6, busy);
	assert_true(busy < 100);
	bb_steer_stop(s, false);
	bb_home_free(h);
	steer_detach();
}

/* A thread that may do what bbd-steer may. Return: of what it did. */
static int as_steer(int (*fn)(void))
{
	const struct bb_rights_config cfg = { .filter = true, .kernel = true, .network = true };
	int status;
	pid_t pid = fork();

	if (!pid) {
		bb_rights_start(&cfg);
		bb_rights_thread(BB_ROLE_STEER);
		_exit(fn());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static FILE *areas;

/* Memory of the kernel's of more than 100 MiB in one piece: none of ours should be. */
static int large_areas(void)
{
	unsigned long size;
	char line[512];
	int n = 0;

	rewind(areas);
	while (fgets(line, sizeof(line), areas))
		n += sscanf(line, "%*s %lu", &size) == 1 && size > 100 * MIB && strstr(line, "array_map_alloc");
	return n;
}

static int makes_a_slab(void)
{
	const int before = large_areas();
	int fd = steer_new_map(BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE, BB_PAGE_SIZE, BB_SLAB_ENTRIES, -1);
	struct bpf_map_info info;
	union bpf_attr a;
	struct stat st;
	void *p;

	if (fd < 0)
		return 1;
	p = mmap(NULL, BB_SLAB_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED || stat(steer_pins, &st))
		return 2;
	memset(&info, 0, sizeof(info));
	memset(&a, 0, sizeof(a));
	a.info.bpf_fd = (uint32_t)fd;
	a.info.info_len = sizeof(info);
	a.info.info = (uintptr_t)&info;
	if (steer_bpf(BPF_OBJ_GET_INFO_BY_FD, &a))
		return 3;
	/* As large as its values, not the next power of two (rights.h). */
	return large_areas() > before ? 4 : 0;
}

static void with_the_least_rights(void **state)
{
	areas = fopen("/proc/vmallocinfo", "re");
	assert_non_null(areas);
	assert_int_equal(steer_attach(DEV, BB_STEER_VERSION, 0), 0);
	assert_int_equal(as_steer(makes_a_slab), 0);
	steer_detach();
	fclose(areas);
}

#define TEST(f) cmocka_unit_test_setup(f, need_maps)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(nothing_attached),	    TEST(attached_before),	 TEST(attached_replaced_and_detached),
		TEST(refuses_others),	    TEST(one_bbd_at_a_time), TEST(policies_and_counters), TEST(killed_and_followed),
		TEST(in_the_middle_of_a_change), TEST(killed_with_a_slab_half_given), TEST(no_pause), TEST(with_the_least_rights),
	};
	int r;

	bb_log_init("test_steer", BB_LOG_ERROR);
	may = steer_world();
	r = cmocka_run_group_tests_name("steer", tests, NULL, NULL);
	steer_world_end();
	return r;
}
