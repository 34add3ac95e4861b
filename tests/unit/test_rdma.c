/* SPDX-License-Identifier: MIT */
/* Pages by RDMA between two hosts, over a device in memory (rdma_mock.h). */
#include <bluebridge/steer.h> /* before net_world.h, which has a w */

#include "rdma_world.h"

#include "rdma_mock_cm.h"

#define EXTENT (2ULL << 20)
#define LEND (256ULL << 20)

/* Forgets what the mock was told to do, and counts anew. */
static void mock_reset(void)
{
	pthread_mutex_lock(&mock.lock);
	mock.calls = mock.fail_at = mock.wrs = mock.wr_at = 0;
	mock.failed = NULL;
	mock.hold = mock.no_windows = mock.no_device = mock.no_inline = false;
	mock.doorbells = mock.reads = mock.writes = mock.sends = mock.binds = mock.signalled = 0;
	mock.recv_fail_at = mock.recvs = mock.poll_fail_at = mock.polls = 0;
	pthread_mutex_unlock(&mock.lock);
}

static void rdma_stop(void)
{
	struct mock_packet *p, *next;

	rdma_end();
	DL_FOREACH_SAFE(mock.network, p, next) {
		DL_DELETE(mock.network, p);
		free(p->data);
		free(p);
	}
	assert_int_equal(mock.live, 0);
}

/* An extent to which READs go by RDMA. */
static uint64_t begin(void)
{
	uint64_t x;

	mock_reset();
	assert_true(rdma_start(LEND));
	x = create_one(w.net);
	assert_true(connected(10000));
	put_page(x, 1);
	expect_page(x, 1);
	return x;
}

static void pages_go_one_sided(void **state)
{
	struct bb_net_page pages[64];
	static uint8_t data[64][4096];
	struct bb_net_req r = { .cmd = BB_CMD_WRITE, .node = HOME, .boot = BOOT, .pages = pages, .npages = 64 };
	uint64_t x = begin();
	struct bb_home_stats before, after;
	unsigned int bells, signalled;

	assert_int_equal(home_stats().links, 1);
	bb_home_stats(w.home, &before);
	for (unsigned int i = 0; i < 64; i++) { /* every fourth apart from its neighbours */
		pages[i] = (struct bb_net_page){ x + (i + i / 4) * 4096ULL, data[i] };
		fill(data[i], 100 + i);
	}
	bells = mock.doorbells;
	signalled = mock.signalled;
	assert_int_equal(run_on(w.net, &r), BB_ST_OK);
	assert_int_equal(mock.doorbells - bells, 1);	 /* 64 pages, one chain */
	assert_int_equal(mock.signalled - signalled, 1); /* and one completion */
	for (unsigned int i = 0; i < 64; i++)
		expect_home(pages[i].ptr, 100 + i);
	for (unsigned int i = 0; i < 64; i++)
		expect_page(pages[i].ptr, 100 + i);
	for (unsigned int i = 0; i < 60; i += 4) {
		assert_int_equal(read_pages(w.net, pages[i].ptr, 4, BOOT), BB_ST_OK);
		assert_memory_equal(page_read, data[i], 4 * 4096);
	}
	bb_home_stats(w.home, &after);
	assert_int_equal(after.reads - before.reads, 64); /* the test's own looks */
	assert_int_equal(after.writes, before.writes);
	assert_true(stats().rdma_writes >= 64 && stats().rdma_reads >= 64 + 60);
	assert_int_equal(delete_one(x), BB_ST_OK);
	assert_int_equal(home_stats().windows, 0);
	rdma_stop();
}

/* What one flush brings is one doorbell. */
static void reads_of_a_flush_are_one_chain(void **state)
{
	struct bb_net_req r[8];
	uint64_t x = begin();
	unsigned int bells = mock.doorbells, n = 0;

	for (unsigned int i = 0; i < 8; i++) {
		r[i] = (struct bb_net_req){ .cmd = BB_CMD_READ_RUN, .node = HOME, .boot = BOOT, .ptr = x + i * 15 * 4096, .len = 15 * 4096,
					    .deadline = bb_now_ns() + 10 * SECOND, .done = done, .user = &n };
		bb_net_submit(w.net, &r[i]);
	}
	wait_for(w.net, &n, 8);
	assert_int_equal(mock.doorbells - bells, 1);
	for (unsigned int i = 0; i < 8; i++)
		assert_int_equal(r[i].status, BB_ST_OK);
	rdma_stop();
}

static void creates_and_deletes_are_messages(void **state)
{
	struct bb_net_req r = { .cmd = BB_CMD_CREATE, .node = HOME, .len = 20 };
	uint64_t asked, ptrs[20];
	struct bb_home_stats s;

	begin();
	asked = home_stats().asked;
	assert_int_equal(run_on(w.net, &r), BB_ST_OK);
	assert_int_equal(r.nptrs, 20);
	memcpy(ptrs, r.ptrs, sizeof(ptrs));
	for (int i = 0; i < 20; i++)
		assert_int_equal(delete_one(ptrs[i]), BB_ST_OK);
	assert_int_equal(home_stats().asked - asked, 21);
	assert_int_equal(delete_one(ptrs[0]), BB_ST_GENERATION); /* as UDP says it */
	bb_home_stats(w.home, &s);
	assert_int_equal(s.extents, 1);
	rdma_stop();
}

/* The key of memory that was freed is worth nothing, to read and to write. */
static void old_keys_are_dead(void **state)
{
	const struct bb_home_who who = { .node = ASKER };
	uint8_t zeros[4096] = { 0 }, page[4096];
	uint64_t x = begin(), y = 0;
	struct mock_region *m, *window = NULL;
	struct mock_qp *q;
	uint32_t rkey;
	uint64_t addr;
	void *data;

	DL_FOREACH(mock.regions, m)
		if (m->is_mw && m->bound)
			window = m;
	assert_non_null(window);
	rkey = window->rkey;
	addr = window->addr;
	q = qp_by(window->qpn);
	assert_non_null(remote(q, rkey, addr, 4096, IBV_ACCESS_REMOTE_WRITE));
	/* No other queue pair may use it, and nothing beyond the extent. */
	DL_FOREACH(mock.qps, q)
		if (q->q.qp_num != window->qpn)
			assert_null(remote(q, rkey, addr, 4096, IBV_ACCESS_REMOTE_READ));
	assert_null(remote(qp_by(window->qpn), rkey, addr + EXTENT - 4095, 4096, IBV_ACCESS_REMOTE_READ));
	/* Freed at the home, behind the asker's back, and given to another. */
	assert_int_equal(bb_home_delete(w.home, who, x), BB_ST_OK);
	DL_FOREACH(mock.qps, q)
		assert_null(remote(q, rkey, addr, 4096, IBV_ACCESS_REMOTE_READ));
	do {
		usleep(1000); /* it is scrubbed */
		assert_int_equal(bb_home_create(w.home, (struct bb_home_who){ .node = 3 }, 0, &y), BB_ST_OK);
	} while (bb_ptr_offset(y) != bb_ptr_offset(x));
	fill(page, 9);
	/* The asker still believes in its window: its WRITE must end as refused, its READ too. */
	assert_int_equal(write_page(w.net, x, page, BOOT), BB_ST_GENERATION);
	assert_int_equal(read_pages(w.net, x, 1, BOOT), BB_ST_GENERATION);
	assert_int_equal(bb_home_get(w.home, (struct bb_home_who){ .node = 3 }, y, 4096, false, &data), BB_ST_OK);
	assert_memory_equal(data, zeros, 4096);
	bb_home_put(w.home, y, 4096, false);
	rdma_stop();
}

/* A move takes the window away before its bytes are read; what others may read has none. */
static void moved_and_shared_have_no_window(void **state)
{
	struct bb_net_req r = { .cmd = BB_CMD_CREATE, .node = HOME, .len = 1, .flags = BB_F_SHARED };
	struct bb_home_who owner, mover = { .node = 3, .boot = 7 };
	uint64_t x = begin(), windows;
	uint8_t page[4096];

	assert_int_equal(run_on(w.net, &r), BB_ST_OK);
	windows = home_stats().windows;
	put_page(r.ptrs[0], 5);
	expect_page(r.ptrs[0], 5);
	assert_int_equal(home_stats().windows, windows);
	assert_int_equal(windows, 1);
	assert_int_equal(bb_home_move_begin(w.home, mover, HOME, x, 99, bb_now_ns(), &owner), BB_ST_OK);
	assert_int_equal(home_stats().windows, 0);
	/* The asker's next WRITE waits until the move has ended, like one by UDP. */
	assert_int_equal(bb_home_move_abort(w.home, mover, x, 99), BB_ST_OK);
	fill(page, 6);
	assert_int_equal(write_page(w.net, x, page, BOOT), BB_ST_OK);
	expect_home(x, 6);
	rdma_stop();
}

/* A WRITE that is in the network when its connection ends never lands on what came after it. */
static void late_writes_do_not_land(void **state)
{
	uint8_t old[4096], new[4096];
	struct bb_net_page p = { 0, old };
	struct bb_net_req r = { .cmd = BB_CMD_WRITE, .node = HOME, .boot = BOOT, .pages = &p, .npages = 1, .done = done };
	uint64_t x = begin();
	unsigned int n = 0;

	fill(old, 7);
	fill(new, 8);
	p.ptr = x;
	r.user = &n;
	r.deadline = bb_now_ns() + SECOND / 5;
	mock.hold = true;
	bb_net_submit(w.net, &r);
	wait_for(w.net, &n, 1);
	assert_int_equal(r.status, BB_ST_TIMEOUT);
	assert_non_null(mock.network);
	assert_int_equal(write_page(w.net, x, new, BOOT), BB_ST_OK);
	mock_release(); /* the old one arrives */
	expect_home(x, 8);
	expect_page(x, 8);
	assert_int_equal(stats().rdma_breaks, 1);
	rdma_stop();
}

/* The same, while the home does not answer CLOSE: then nothing is written at all. */
static void writes_wait_for_close(void **state)
{
	uint8_t page[4096];
	struct bb_net_page p = { 0, page };
	struct bb_net_req r = { .cmd = BB_CMD_WRITE, .node = HOME, .boot = BOOT, .pages = &p, .npages = 1, .done = done };
	uint64_t x = begin();
	unsigned int n = 0;

	fill(page, 7);
	p.ptr = x;
	r.user = &n;
	mock.wr_at = mock.wrs + 1;
	mock.wr_status = IBV_WC_RETRY_EXC_ERR;
	bb_server_stop(w.server, true);
	r.deadline = bb_now_ns() + SECOND / 4;
	bb_net_submit(w.net, &r);
	wait_for(w.net, &n, 1);
	assert_int_equal(r.status, BB_ST_TIMEOUT);
	expect_home(x, 1);
	/* It is there again: all goes on. */
	assert_int_equal(bb_server_start(&w.server, w.there, w.home,
					 &(struct bb_server_config){ .cpu = -1, .close = bb_rdma_home_close, .close_arg = there }), 0);
	put_page(x, 3);
	expect_home(x, 3);
	rdma_stop();
}

/* After every kind of completion with an error the request is done by UDP, and RDMA comes back. */
static void completions_with_errors(void **state)
{
	static const enum ibv_wc_status how[] = { IBV_WC_RETRY_EXC_ERR, IBV_WC_REM_ACCESS_ERR, IBV_WC_RNR_RETRY_EXC_ERR,
						  IBV_WC_LOC_PROT_ERR, IBV_WC_WR_FLUSH_ERR, IBV_WC_GENERAL_ERR };
	uint64_t x = begin();
	unsigned int links = 1;

	for (unsigned int i = 0; i < sizeof(how) / sizeof(how[0]); i++)
		for (int write = 0; write < 2; write++) {
			pthread_mutex_lock(&mock.lock);
			mock.wr_at = mock.wrs + 1;
			mock.wr_status = how[i];
			pthread_mutex_unlock(&mock.lock);
			if (write)
				put_page(x, 50 + i);
			expect_page(x, write ? 50 + i : i ? 49 + i : 1);
			assert_int_equal(stats().rdma_breaks, links);
			usleep(110000); /* the table of peers is looked at again */
			for (int k = 0; k < 100 && bb_rdma_peer(HOME) != BB_RDMA_UP; k++) {
				expect_page(x, write ? 50 + i : i ? 49 + i : 1);
				connected(100);
			}
			assert_int_equal(bb_rdma_peer(HOME), BB_RDMA_UP);
			assert_int_equal(stats().rdma_links, ++links);
		}
	rdma_stop();
}

/* Without windows, without inline data: the same bytes. */
static void lesser_devices(void **state)
{
	uint64_t x;

	for (int i = 0; i < 3; i++) {
		mock_reset();
		mock.no_windows = i & 1;
		mock.no_inline = i & 2;
		assert_true(rdma_start(LEND));
		x = create_one(w.net);
		assert_true(connected(10000));
		for (unsigned int k = 0; k < 20; k++) {
			put_page(x + k * 4096, k);
			expect_page(x + k * 4096, k);
		}
		assert_true(stats().rdma_reads >= 20 && stats().rdma_writes >= 20);
		assert_int_equal(mock.binds > 0, !mock.no_windows);
		assert_int_equal(delete_one(x), BB_ST_OK);
		assert_int_equal(home_stats().windows, 0);
		rdma_stop();
	}
}

static void the_peer_restarts(void **state)
{
	uint64_t x = begin();

	expect_page(x, 1);
	hear(BB_HELLO_RDMA, BOOT + 1);
	usleep(110000);
	assert_int_equal(read_pages(w.net, x, 1, BOOT + 1), BB_ST_BOOT); /* the server here is still the old one */
	assert_int_equal(stats().rdma_breaks, 1);
	rdma_stop();
}

static void no_device(void **state)
{
	uint64_t x;

	mock_reset();
	mock.no_device = true;
	assert_false(rdma_start(LEND));
	assert_string_equal(bb_rdma_why(), "this machine has no RDMA device that user space may open");
	x = create_one(w.net);
	put_page(x, 1);
	expect_page(x, 1);
	assert_int_equal(stats().rdma_reads, 0);
	rdma_stop();
}

/* Has what was to fail failed, or is there no device at all? */
static bool broken(void)
{
	bool b;

	pthread_mutex_lock(&mock.lock);
	b = mock.failed || (mock.wr_at && mock.wrs >= mock.wr_at) || mock.no_device;
	b |= (mock.recv_fail_at && mock.recvs >= mock.recv_fail_at) || (mock.poll_fail_at && mock.polls >= mock.poll_fail_at);
	pthread_mutex_unlock(&mock.lock);
	return b;
}

/* Several extents, pages of all of them, some freed: whatever fails, every byte is right. */
static void job(void)
{
	uint64_t x[3];

	for (int i = 0; i < 3; i++)
		x[i] = create_one(w.net);
	/* All calls are made where none fails: so it is waited for what takes its time. */
	for (int i = 0; i < 400 && !broken() && !stats().rdma_writes; i++) {
		connected(20);
		put_page(x[0] + 100 * 4096, (unsigned int)i);
	}
	for (int round = 0; round < 2; round++) {
		for (unsigned int k = 0; k < 6; k++)
			put_page(x[k % 3] + k * 4096, 10 * (unsigned int)round + k);
		for (unsigned int k = 0; k < 6; k++)
			expect_page(x[k % 3] + k * 4096, 10 * (unsigned int)round + k);
		connected(20);
	}
	for (unsigned int k = 0; k < 6; k++)
		expect_home(x[k % 3] + k * 4096, 10 + k);
	/* Whether or not the answer to a CREATE is heard, nothing is left behind. */
	for (int i = 0; i < 3; i++) {
		uint64_t more = create_one(w.net);

		put_page(more, 99);
		expect_page(more, 99);
		assert_int_equal(delete_one(more), BB_ST_OK);
	}
	for (int i = 0; i < 3; i++)
		assert_int_equal(delete_one(x[i]), BB_ST_OK);
	assert_int_equal(home_stats().windows, 0);
}

static void every_call_fails_once(void **state)
{
	struct bb_home_stats s;
	unsigned int n, calls = 0, spared = 0;

	for (n = 1; spared < 3; n++) {
		mock_reset();
		mock.fail_at = n;
		rdma_start(LEND);
		job();
		bb_home_stats(w.home, &s);
		/* An extent whose window could not be closed is not lent again, and counts as used. */
		assert_true(s.extents == 0);
		rdma_stop();
		if (mock.failed)
			print_message("# call %u, %s, failed: nothing lost\n", n, mock.failed);
		/* How many there are depends on the moment: the end is where three runs in turn have fewer. */
		spared = mock.failed ? 0 : spared + 1;
		calls += mock.failed != NULL;
	}
	assert_true(calls > 40);
}

static void every_work_request_fails_once(void **state)
{
	struct bb_home_stats s;
	unsigned int n, spared = 0;

	for (n = 1; spared < 3; n++) {
		mock_reset();
		mock.wr_at = n;
		mock.wr_status = n % 2 ? IBV_WC_RETRY_EXC_ERR : IBV_WC_REM_ACCESS_ERR;
		rdma_start(LEND);
		job();
		bb_home_stats(w.home, &s);
		assert_int_equal(s.extents, 0);
		rdma_stop();
		spared = mock.wrs < n ? spared + 1 : 0;
	}
	assert_true(n > 20);
}

/* A buffer that cannot be posted, a queue of completions that cannot be read. */
static void odd_failures(void **state)
{
	for (unsigned int n = 1; n < 3000; n = n * 3 + 1) {
		mock_reset();
		mock.recv_fail_at = n;
		rdma_start(LEND);
		job();
		rdma_stop();
	}
	for (unsigned int n = 1; n < 300; n = n * 2 + 1) {
		mock_reset();
		mock.poll_fail_at = n;
		rdma_start(LEND);
		job();
		rdma_stop();
	}
}

/* Waits for rdma_cm's answer to a connection request with these bytes. Return: the reason, 0: none was given. */
static int refused(const void *data, uint8_t len)
{
	struct rdma_event_channel *ch = rdma_create_event_channel();
	struct rdma_conn_param p = { .private_data = data, .private_data_len = len };
	struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_port = htons(PORT) };
	const struct bb_gptr g = { .node = HOME };
	struct rdma_cm_event *e;
	struct rdma_cm_id *id;
	int reason = 0;

	bb_gptr_encode(&g, &to.sin6_addr);
	assert_int_equal(rdma_create_id(ch, &id, NULL, RDMA_PS_TCP), 0);
	memcpy(&((struct mock_id *)id)->dst, &to, sizeof(to));
	assert_int_equal(rdma_connect(id, &p), 0);
	while (rdma_get_cm_event(ch, &e)) /* blocks: it always comes, or the test is stopped */
		;
	assert_int_equal(e->event, RDMA_CM_EVENT_REJECTED);
	if (e->param.conn.private_data)
		reason = ((const uint8_t *)e->param.conn.private_data)[1];
	rdma_ack_cm_event(e);
	rdma_destroy_id(id);
	rdma_destroy_event_channel(ch);
	return reason;
}

/* A forged, foreign, replayed or old request opens nothing, and harms nothing. */
static void who_may_connect(void **state)
{
	const struct bb_rdma_open good = { .pager = 0, .node = ASKER, .home = HOME, .boot = 0xa11ce, .home_boot = BOOT, .number = 5 };
	uint64_t x = begin();
	uint8_t b[56] = { 0 };
	struct bb_rdma_open o;
	struct bb_key key = w.key;

	bb_rdma_open_encode(&w.key, &good, b);
	assert_int_equal(refused(b, sizeof(b)), BB_RDMA_REJ_NUMBER); /* below that of the connection that is there */
	o = good;
	o.number = ~0ULL;
	o.home_boot++;
	bb_rdma_open_encode(&w.key, &o, b);
	assert_int_equal(refused(b, sizeof(b)), BB_RDMA_REJ_BOOT);
	o = good;
	o.number = ~0ULL;
	memset(key.raw, 1, sizeof(key.raw));
	assert_int_equal(bb_key_derive(&key), 0);
	bb_rdma_open_encode(&key, &o, b);
	assert_int_equal(refused(b, sizeof(b)), 0);
	o.tenant = 1;
	bb_rdma_open_encode(&w.key, &o, b);
	assert_int_equal(refused(b, sizeof(b)), 0);
	o = good;
	o.home = 9;
	bb_rdma_open_encode(&w.key, &o, b);
	assert_int_equal(refused(b, sizeof(b)), 0);
	b[0] = 2;
	assert_int_equal(refused(b, sizeof(b)), BB_RDMA_REJ_VERSION);
	assert_int_equal(refused(b, 0), 0);
	assert_int_equal(home_stats().rejected, 7);
	expect_page(x, 1);
	assert_int_equal(stats().rdma_breaks, 0);
	rdma_stop();
}

/* What the operator forbids goes by no way: the connection ends, and UDP says no. */
static void policies(void **state)
{
	static struct bb_policy pol[BB_POLICY_ENTRIES];
	uint64_t x;

	rdma_policy = pol;
	x = begin();
	__atomic_store_n(&pol[BB_CMD_WRITE].action, BB_ACT_REFUSE, __ATOMIC_RELAXED);
	for (int i = 0; i < 5000 && home_stats().links; i++)
		usleep(1000);
	assert_int_equal(home_stats().links, 0);
	assert_int_equal(home_stats().windows, 0);
	expect_page(x, 1); /* only WRITE is refused */
	__atomic_store_n(&pol[BB_CMD_WRITE].action, BB_ACT_FORWARD, __ATOMIC_RELAXED);
	rdma_policy = NULL;
	put_page(x, 2);
	expect_home(x, 2);
	rdma_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_go_one_sided),
		cmocka_unit_test(reads_of_a_flush_are_one_chain),
		cmocka_unit_test(creates_and_deletes_are_messages),
		cmocka_unit_test(old_keys_are_dead),
		cmocka_unit_test(moved_and_shared_have_no_window),
		cmocka_unit_test(late_writes_do_not_land),
		cmocka_unit_test(writes_wait_for_close),
		cmocka_unit_test(completions_with_errors),
		cmocka_unit_test(lesser_devices),
		cmocka_unit_test(the_peer_restarts),
		cmocka_unit_test(no_device),
		cmocka_unit_test(who_may_connect),
		cmocka_unit_test(policies),
		cmocka_unit_test(every_call_fails_once),
		cmocka_unit_test(every_work_request_fails_once),
		cmocka_unit_test(odd_failures),
	};

	bb_log_init("test", BB_LOG_ERROR);
	if (world_namespace())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
