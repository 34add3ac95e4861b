/* SPDX-License-Identifier: MIT */
/*
 * Extents that move from home A to home B, step by step and with packets put in by
 * hand: what each step leaves where the next one never comes, what a kill between
 * two steps leaves, and WRITEs that were delayed from before the move.
 */
#include "net_world.h"

#include "keep/keep.h"
#include "net/adopt.h"
#include "net/serve.h"

#define A 2
#define B 3
#define OWNER 1
#define BOOT_A 0xaaaau
#define BOOT_B 0xbbbbu
#define TOKEN 77u

struct host {
	uint16_t node;
	uint32_t boot;
	struct bb_home *home;
	struct bb_peers *peers;
	struct bb_adopt *adopt;
	struct bb_serve serve;
	struct bb_keep *keep; /* NULL: it does not outlive itself */
	char path[64];
};

static struct host a, b;
static struct bb_key key;
static struct bb_msg last;
static uint8_t last_payload[4096];
static struct in6_addr last_src;
static unsigned int answers, moved;
static bool attached;

static int take(void *arg, const struct bb_serve_out *o)
{
	uint8_t whole[40 + 4096];

	memcpy(whole, o->iov[0].iov_base, 40);
	if (o->iov[1].iov_len)
		memcpy(whole + 40, o->iov[1].iov_base, o->iov[1].iov_len);
	assert_int_equal(bb_wire_decode(whole, 40 + o->iov[1].iov_len, &last), BB_ST_OK);
	memcpy(last_payload, whole + 40, o->iov[1].iov_len);
	last.payload = last_payload;
	last_src = o->src;
	answers++;
	return 0;
}

static bool may_move(void *arg, uint16_t to)
{
	return attached;
}

static void on_move(void *arg) { moved++; }

/*
 * A packet that the network brings to host h, for the address of node home.
 * Return: status of the answer, or -1 where there was none.
 */
static int put(struct host *h, uint16_t from, uint16_t home, uint8_t cmd, uint64_t ptr, struct bb_msg m, const void *data,
	       size_t len)
{
	const struct bb_gptr src = { .node = from }, dst = { .node = home, .cmd = cmd, .ptr = ptr };
	struct bb_sock_packet p = { .len = 40 + len, .from = { .sin6_family = AF_INET6, .sin6_port = 7 } };
	struct bb_gptr answered;
	uint8_t whole[40 + 4096];
	struct bb_hdr hdr;

	m.version = BB_WIRE_VERSION;
	m.nseg = m.nseg ? m.nseg : 1;
	if (!m.boot)
		m.boot = home == A ? BOOT_A : BOOT_B;
	bb_gptr_encode(&src, &p.from.sin6_addr);
	bb_gptr_encode(&dst, &p.to);
	bb_wire_encode(&hdr, &m);
	bb_wire_seal(&key, &p.from.sin6_addr, &p.to, cmd, &hdr, data, len);
	memcpy(whole, &hdr, 40);
	if (len)
		memcpy(whole + 40, data, len);
	p.data = whole;
	answers = 0;
	bb_serve_packet(&h->serve, &p);
	if (!answers)
		return -1;
	/* From the old address, whoever it is that answers. */
	assert_int_equal(bb_gptr_decode(&last_src, &answered), 1);
	assert_int_equal(answered.node, home);
	assert_int_equal(answered.cmd, cmd | BB_CMD_REPLY);
	assert_true(answered.ptr == ptr);
	return last.status;
}

#define MSG(...) ((struct bb_msg){ __VA_ARGS__ })

static int write_to(struct host *h, uint64_t ptr, uint64_t id, uint64_t floor, uint8_t byte)
{
	uint8_t page[4096];

	memset(page, byte, sizeof(page));
	return put(h, OWNER, A, BB_CMD_WRITE, ptr, MSG(.id = id, .floor = (uint32_t)floor, .length = 4096), page, 4096);
}

static int read_from(struct host *h, uint64_t ptr)
{
	int st = put(h, OWNER, A, BB_CMD_READ, ptr, MSG(.length = 4096), NULL, 0);

	return st ? -st : last_payload[4095];
}

static uint64_t create(uint64_t id, uint8_t flags)
{
	uint8_t count[4] = { 0, 0, 0, 1 };
	uint64_t x;

	assert_int_equal(put(&a, OWNER, A, BB_CMD_CREATE, 0, MSG(.id = id, .floor = (uint32_t)id, .length = 4, .flags = flags),
			     count, 4), BB_ST_OK);
	assert_int_equal(bb_wire_create_ptrs(&last, &x, 1), 1);
	return x;
}

/* B asks A. */
static int update(uint64_t ptr, uint32_t op, uint32_t token, uint64_t id)
{
	const struct bb_wire_update u = { op, token };
	uint8_t payload[BB_UPDATE_BYTES];

	bb_wire_update_request(&u, payload);
	return put(&a, B, A, BB_CMD_UPDATE, ptr, MSG(.id = id, .floor = (uint32_t)id, .length = BB_UPDATE_BYTES), payload,
		   BB_UPDATE_BYTES);
}

/* Steps of the mover, as mover.c does them. */
static uint64_t step_create(uint64_t ptr)
{
	struct bb_home_who owner = { .node = OWNER };
	struct bb_adopt_entry e = { .ptr = ptr, .boot = BOOT_A, .token = TOKEN, .node = A, .owner = OWNER,
				    .state = BB_ADOPT_COPYING };

	assert_int_equal(bb_home_create(b.home, owner, BB_HOME_ADOPTED, &e.local), BB_ST_OK);
	assert_int_equal(bb_adopt_add(b.adopt, &e), 0);
	return e.local;
}

static void step_copy(uint64_t ptr, uint64_t local)
{
	struct bb_home_who owner = { .node = OWNER };
	void *data;

	for (uint64_t at = 0; at < BB_EXTENT_SIZE; at += 4096) {
		assert_int_equal(put(&a, B, A, BB_CMD_READ, ptr + at, MSG(.length = 4096), NULL, 0), BB_ST_OK);
		assert_int_equal(bb_home_get(b.home, owner, local + at, 4096, true, &data), BB_ST_OK);
		memcpy(data, last_payload, 4096);
		bb_home_put(b.home, local + at, 4096, true);
	}
}

static void step_serve(uint64_t ptr)
{
	struct bb_wire_seen seen[BB_UPDATE_SESSIONS_MAX];
	int n = bb_wire_seen_decode(last.payload, last.length, seen);

	assert_true(n >= 0);
	assert_int_equal(bb_sessions_seed(b.serve.sessions, OWNER, A, seen, (unsigned int)n, bb_now_ns()), 0);
	bb_adopt_set(b.adopt, A, ptr, BB_ADOPT_SERVING);
}

static uint64_t move(uint64_t ptr, uint64_t id)
{
	uint64_t local;

	assert_int_equal(update(ptr, BB_UPDATE_BEGIN, TOKEN, id), BB_ST_OK);
	local = step_create(ptr);
	step_copy(ptr, local);
	bb_adopt_set(b.adopt, A, ptr, BB_ADOPT_COMMITTING);
	assert_int_equal(update(ptr, BB_UPDATE_COMMIT, TOKEN, id + 1), BB_ST_OK);
	step_serve(ptr);
	return local;
}

static void host_start(struct host *h)
{
	const struct bb_home_config hc = { .lend = 256 << 20, .keep = h->keep };

	assert_int_equal(bb_home_new(&h->home, &hc), 0);
	h->peers = world_peers(h->node, h->boot, 0, &key);
	assert_int_equal(bb_adopt_new(&h->adopt, h->home, h->keep), 0);
	assert_int_equal(bb_serve_init(&h->serve, h->peers, h->home, h->keep), 0);
	h->serve.send = take;
	h->serve.adopt = h->adopt;
	h->serve.may_move = may_move;
	h->serve.moved = on_move;
}

static void host_new(struct host *h, uint16_t node, uint32_t boot)
{
	*h = (struct host){ .node = node, .boot = boot };
	host_start(h);
}

static void host_free(struct host *h)
{
	bb_serve_fini(&h->serve);
	bb_adopt_free(h->adopt);
	bb_peers_free(h->peers);
	bb_home_free(h->home);
}

static int set_up(void **state)
{
	memset(&key, 0, sizeof(key));
	bb_key_derive(&key);
	host_new(&a, A, BOOT_A);
	host_new(&b, B, BOOT_B);
	attached = true;
	moved = 0;
	return 0;
}

static int tear_down(void **state)
{
	host_free(&a);
	host_free(&b);
	return 0;
}

/* Both with a keeper. */
static int set_up_kept(void **state)
{
	struct host *all[] = { &a, &b };

	memset(&key, 0, sizeof(key));
	bb_key_derive(&key);
	attached = true;
	/* Keepers fork: before any thread. */
	for (int i = 0; i < 2; i++) {
		*all[i] = (struct host){ .node = i ? B : A, .boot = i ? BOOT_B : BOOT_A };
		snprintf(all[i]->path, sizeof(all[i]->path), "/tmp/bb-test-move-%d-%d", (int)getpid(), i);
		assert_int_equal(bb_keep_open(&all[i]->keep, all[i]->path, 60000), 0);
	}
	host_start(&a);
	host_start(&b);
	return 0;
}

static int tear_down_kept(void **state)
{
	host_free(&a);
	host_free(&b);
	bb_keep_close(a.keep, false);
	bb_keep_close(b.keep, false);
	return 0;
}

/* It is killed, and another goes on: nothing is written at the end of the one before. */
static void restart(struct host *h)
{
	host_free(h);
	bb_keep_close(h->keep, true);
	assert_int_equal(bb_keep_open(&h->keep, h->path, 60000), 0);
	host_start(h);
}

/* --- the whole of it ------------------------------------------------------------ */

static void test_answers_from_the_old_address(void **state)
{
	uint64_t x = create(1, 0), y = create(2, 0), local;
	struct bb_home_stats st;

	for (unsigned int i = 0; i < BB_EXTENT_PAGES; i++)
		assert_int_equal(write_to(&a, x + i * 4096, 3 + i, 3 + i, (uint8_t)(i * 7 + 1)), BB_ST_OK);
	assert_int_equal(write_to(&a, y, 1000, 1000, 5), BB_ST_OK);
	assert_int_equal(read_from(&b, x), -BB_ST_BOUNDS);
	local = move(x, 1);
	assert_int_equal(moved, 1);
	for (unsigned int i = 0; i < BB_EXTENT_PAGES; i++)
		assert_int_equal(read_from(&b, x + i * 4096), (uint8_t)(i * 7 + 1));
	assert_int_equal(last.boot, BOOT_A);
	assert_int_equal(write_to(&b, x + 4096, 1001, 1001, 200), BB_ST_OK);
	assert_int_equal(last.boot, BOOT_A);
	assert_int_equal(read_from(&b, x + 4096), 200);
	/* The old home has it no more; what did not move is as it was. */
	assert_int_equal(read_from(&a, x), -BB_ST_BUSY);
	assert_int_equal(write_to(&a, x, 1002, 1002, 1), BB_ST_BUSY);
	assert_int_equal(read_from(&a, y), 5);
	assert_int_equal(read_from(&b, y), -BB_ST_BOUNDS);
	/* Rights, boot and bounds are looked at as there. */
	assert_int_equal(put(&b, 9, A, BB_CMD_READ, x, MSG(.length = 4096), NULL, 0), BB_ST_RIGHTS);
	assert_int_equal(put(&b, OWNER, A, BB_CMD_READ, x, MSG(.length = 4096, .boot = BOOT_B), NULL, 0), BB_ST_BOOT);
	assert_int_equal(put(&b, OWNER, A, BB_CMD_READ, x + (1ULL << 48), MSG(.length = 4096), NULL, 0), BB_ST_BOUNDS);
	assert_int_equal(put(&b, OWNER, A, BB_CMD_READ_RUN, x + BB_EXTENT_SIZE - 4096, MSG(.length = 8192), NULL, 0), BB_ST_BOUNDS);
	/* It does not move on, by neither name; nor is its place given to another. */
	assert_int_equal(update(x, BB_UPDATE_BEGIN, TOKEN + 1, 9), BB_ST_RIGHTS);
	assert_true(create(1010, 0) != x);
	/* Freed there, and then here. */
	assert_int_equal(put(&b, OWNER, A, BB_CMD_DELETE, x, MSG(.id = 1011, .floor = 1011), NULL, 0), BB_ST_OK);
	assert_int_equal(moved, 2);
	assert_false(bb_home_alive(b.home, local));
	assert_int_equal(put(&b, OWNER, A, BB_CMD_DELETE, x, MSG(.id = 1011, .floor = 1011), NULL, 0), BB_ST_OK);
	assert_int_equal(read_from(&b, x), -BB_ST_GENERATION);
	assert_int_equal(update(x, BB_UPDATE_RELEASE, TOKEN, 10), BB_ST_OK);
	assert_int_equal(update(x, BB_UPDATE_RELEASE, TOKEN, 11), BB_ST_GENERATION);
	bb_adopt_remove(b.adopt, A, x);
	assert_int_equal(read_from(&b, x), -BB_ST_BOUNDS);
	bb_home_stats(b.home, &st);
	assert_int_equal(st.extents, 0);
	bb_home_stats(a.home, &st);
	assert_int_equal(st.extents, 2);
}

static void test_refused(void **state)
{
	struct bb_home_who who = { .node = B };
	uint64_t x = create(1, 0), shared = create(2, BB_F_SHARED), theirs, own;
	struct bb_msg m = MSG(.id = 50, .floor = 50, .length = BB_UPDATE_BYTES);
	uint8_t bad[BB_UPDATE_BYTES] = { 0, 0, 0, 9 };

	assert_int_equal(bb_home_create(a.home, who, 0, &theirs), BB_ST_OK);
	who.node = A;
	assert_int_equal(bb_home_create(a.home, who, 0, &own), BB_ST_OK);
	attached = false;
	assert_int_equal(update(x, BB_UPDATE_BEGIN, TOKEN, 1), BB_ST_COMMAND);
	attached = true;
	assert_int_equal(update(shared, BB_UPDATE_BEGIN, TOKEN, 2), BB_ST_RIGHTS);
	assert_int_equal(update(theirs, BB_UPDATE_BEGIN, TOKEN, 3), BB_ST_RIGHTS);
	assert_int_equal(update(own, BB_UPDATE_BEGIN, TOKEN, 4), BB_ST_RIGHTS);
	assert_int_equal(update(x + (1ULL << 48), BB_UPDATE_BEGIN, TOKEN, 5), BB_ST_GENERATION);
	assert_int_equal(update(x + (1ULL << 40), BB_UPDATE_BEGIN, TOKEN, 6), BB_ST_BOUNDS);
	assert_int_equal(update(x + 4096, BB_UPDATE_BEGIN, TOKEN, 7), BB_ST_MALFORMED);
	assert_int_equal(update(x, BB_UPDATE_COMMIT, TOKEN, 8), BB_ST_GENERATION);
	assert_int_equal(update(x, BB_UPDATE_RELEASE, TOKEN, 9), BB_ST_GENERATION);
	assert_int_equal(update(x, BB_UPDATE_ABORT, TOKEN, 10), BB_ST_OK);
	assert_int_equal(put(&a, B, A, BB_CMD_UPDATE, x, m, bad, sizeof(bad)), BB_ST_MALFORMED);
	assert_int_equal(put(&a, B, A, BB_CMD_UPDATE, x, MSG(.id = 51, .floor = 51), NULL, 0), BB_ST_MALFORMED);
	assert_int_equal(write_to(&a, x, 3, 3, 1), BB_ST_OK);
	/* READ is the owner's, and the mover's only while it moves. */
	assert_int_equal(put(&a, B, A, BB_CMD_READ, x, MSG(.length = 4096), NULL, 0), BB_ST_RIGHTS);
	assert_int_equal(update(x, BB_UPDATE_BEGIN, TOKEN, 12), BB_ST_OK);
	assert_int_equal(put(&a, B, A, BB_CMD_READ, x, MSG(.length = 4096), NULL, 0), BB_ST_OK);
	assert_int_equal(put(&a, 9, A, BB_CMD_READ, x, MSG(.length = 4096), NULL, 0), BB_ST_RIGHTS);
	assert_int_equal(update(x, BB_UPDATE_ABORT, TOKEN, 13), BB_ST_OK);
	assert_int_equal(put(&a, B, A, BB_CMD_READ, x, MSG(.length = 4096), NULL, 0), BB_ST_RIGHTS);
}

/* --- late WRITEs, and twice ---------------------------------------------------------- */

static void test_writes_across(void **state)
{
	uint64_t x = create(1, 0);
	uint8_t old[4096];

	memset(old, 66, sizeof(old));
	/* 2 is open, and holds the floor down; 3 was acknowledged, and 4 is newer than it. */
	assert_int_equal(write_to(&a, x, 3, 2, 30), BB_ST_OK);
	assert_int_equal(write_to(&a, x, 4, 2, 40), BB_ST_OK);
	/* Half of 5 has arrived. */
	assert_int_equal(put(&a, OWNER, A, BB_CMD_WRITE, x + 8192, MSG(.id = 5, .floor = 2, .nseg = 2, .length = 4096), old, 4096), -1);
	assert_int_equal(update(x, BB_UPDATE_BEGIN, TOKEN, 1), BB_ST_OK);
	/* While it moves: later, please, as often as it comes; READ goes on. */
	assert_int_equal(write_to(&a, x, 6, 2, 60), BB_ST_BUSY);
	assert_int_equal(write_to(&a, x, 6, 2, 60), BB_ST_BUSY);
	assert_int_equal(put(&a, OWNER, A, BB_CMD_DELETE, x, MSG(.id = 7, .floor = 2), NULL, 0), BB_ST_BUSY);
	assert_int_equal(read_from(&a, x), 40);
	step_copy(x, step_create(x));
	bb_adopt_set(b.adopt, A, x, BB_ADOPT_COMMITTING);
	/* Steered too early: B knows that it does not know. */
	assert_int_equal(write_to(&b, x, 8, 2, 80), BB_ST_BUSY);
	assert_int_equal(update(x, BB_UPDATE_COMMIT, TOKEN, 2), BB_ST_OK);
	step_serve(x);
	/* Nothing that A has seen is done at B: not what was done, nor what was BUSY. */
	for (uint64_t id = 2; id <= 7; id++)
		assert_int_equal(write_to(&b, x, id, 2, 99), BB_ST_STALE);
	assert_int_equal(put(&b, OWNER, A, BB_CMD_WRITE, x + 12288, MSG(.id = 5, .floor = 2, .nseg = 2, .seg = 1, .length = 4096),
			     old, 4096), BB_ST_STALE);
	assert_int_equal(read_from(&b, x), 40);
	assert_int_equal(read_from(&b, x + 8192), 66);
	assert_int_equal(read_from(&b, x + 12288), 0);
	/* Under a new id, once. */
	assert_int_equal(write_to(&b, x, 8, 8, 80), BB_ST_OK);
	assert_int_equal(write_to(&b, x, 9, 8, 90), BB_ST_OK);
	assert_int_equal(write_to(&b, x, 8, 8, 80), BB_ST_OK);
	assert_int_equal(read_from(&b, x), 90);
	/* The same session number towards B itself is another session. */
	assert_int_equal(put(&b, OWNER, B, BB_CMD_DELETE, x, MSG(.id = 1, .floor = 1), NULL, 0), BB_ST_GENERATION);
}

static void test_asked_twice(void **state)
{
	uint64_t x = create(1, 0), local;
	struct bb_wire_owner o;

	assert_int_equal(update(x, BB_UPDATE_BEGIN, TOKEN, 1), BB_ST_OK);
	assert_int_equal(update(x, BB_UPDATE_BEGIN, TOKEN, 1), BB_ST_OK);
	assert_true(bb_wire_owner_decode(last.payload, last.length, &o));
	assert_int_equal(o.node, OWNER);
	assert_int_equal(update(x, BB_UPDATE_BEGIN, TOKEN + 1, 2), BB_ST_BUSY);
	assert_int_equal(update(x, BB_UPDATE_COMMIT, TOKEN + 1, 3), BB_ST_GENERATION);
	local = step_create(x);
	step_copy(x, local);
	bb_adopt_set(b.adopt, A, x, BB_ADOPT_COMMITTING);
	for (int i = 0; i < 3; i++)
		assert_int_equal(update(x, BB_UPDATE_COMMIT, TOKEN, 4), BB_ST_OK);
	/* Another process of B, that does not know whether its predecessor was heard. */
	assert_int_equal(update(x, BB_UPDATE_COMMIT, TOKEN, 5), BB_ST_OK);
	step_serve(x);
	/* A late one of each. */
	assert_int_equal(update(x, BB_UPDATE_BEGIN, TOKEN, 1), BB_ST_STALE);
	assert_int_equal(update(x, BB_UPDATE_ABORT, TOKEN, 6), BB_ST_OK);
	assert_int_equal(read_from(&a, x), -BB_ST_BUSY);
	assert_int_equal(read_from(&b, x), 0);
}

/* --- the mover goes away ------------------------------------------------------------- */

static void test_mover_gone(void **state)
{
	struct bb_home_who owner, mover = { .node = B };
	uint64_t x = create(1, 0);

	assert_int_equal(write_to(&a, x, 2, 2, 20), BB_ST_OK);
	/* Long ago. */
	assert_int_equal(bb_home_move_begin(a.home, mover, A, x, TOKEN, bb_now_ns() - BB_HOME_LEASE_NS - 1, &owner), BB_ST_OK);
	assert_int_equal(read_from(&a, x), 20);
	assert_int_equal(write_to(&a, x, 3, 3, 30), BB_ST_OK);
	assert_int_equal(read_from(&a, x), 30);
	/* Too late: what B has read is no longer all. */
	assert_int_equal(update(x, BB_UPDATE_COMMIT, TOKEN, 1), BB_ST_GENERATION);
	/* As long as nobody has written it may still end. */
	assert_int_equal(bb_home_move_begin(a.home, mover, A, x, TOKEN, bb_now_ns() - BB_HOME_LEASE_NS - 1, &owner), BB_ST_OK);
	assert_int_equal(update(x, BB_UPDATE_COMMIT, TOKEN, 2), BB_ST_OK);
	/* Places for moves come back. */
	for (uint64_t i = 0; i < 2 * BB_HOME_MOVES; i++)
		assert_int_equal(bb_home_move_begin(a.home, mover, A, create(10 + i, 0), TOKEN, bb_now_ns() - BB_HOME_LEASE_NS - 1,
						    &owner), BB_ST_OK);
	for (uint64_t i = 0; i < BB_HOME_MOVES; i++)
		assert_int_equal(bb_home_move_begin(a.home, mover, A, x = create(100 + i, 0), TOKEN, bb_now_ns(), &owner), BB_ST_OK);
	assert_int_equal(bb_home_move_begin(a.home, mover, A, create(200, 0), TOKEN, bb_now_ns(), &owner), BB_ST_BUSY);
	assert_int_equal(bb_home_move_abort(a.home, mover, x, TOKEN), BB_ST_OK);
	assert_int_equal(bb_home_move_begin(a.home, mover, A, create(201, 0), TOKEN, bb_now_ns(), &owner), BB_ST_OK);
}

/* Its owner's process has ended for good: nothing of it stays, whatever state it is in. */
static void test_owner_gone(void **state)
{
	struct bb_home_who owner = { .node = OWNER }, o, mover = { .node = B };
	uint64_t x = create(1, 0), y = create(2, 0), local;
	struct bb_home_stats st;

	local = move(x, 1);
	assert_int_equal(bb_home_move_begin(a.home, mover, A, y, TOKEN, bb_now_ns(), &o), BB_ST_OK);
	assert_int_equal(bb_home_reclaim(a.home, owner), 2 * BB_EXTENT_SIZE);
	bb_home_stats(a.home, &st);
	assert_int_equal(st.extents, 0);
	assert_int_equal(update(y, BB_UPDATE_COMMIT, TOKEN, 3), BB_ST_GENERATION);
	assert_int_equal(bb_home_reclaim(b.home, owner), BB_EXTENT_SIZE);
	assert_false(bb_home_alive(b.home, local));
	assert_int_equal(read_from(&b, x), -BB_ST_GENERATION);
	assert_int_equal(update(x, BB_UPDATE_RELEASE, TOKEN, 4), BB_ST_GENERATION);
}

/* --- killed between two steps --------------------------------------------------------- */

static uint64_t extents_of(struct host *h)
{
	struct bb_home_stats st;

	bb_home_stats(h->home, &st);
	return st.extents;
}

static void test_old_home_killed(void **state)
{
	uint64_t x = create(1, 0), y = create(2, 0);
	struct bb_home_extent e;

	assert_int_equal(write_to(&a, x, 3, 3, 30), BB_ST_OK);
	assert_int_equal(write_to(&a, y, 4, 4, 40), BB_ST_OK);
	assert_int_equal(update(x, BB_UPDATE_BEGIN, TOKEN, 1), BB_ST_OK);
	step_copy(x, step_create(x));
	bb_adopt_set(b.adopt, A, x, BB_ADOPT_COMMITTING);
	/* Before the commit: it knows nothing of it. */
	restart(&a);
	assert_int_equal(write_to(&a, x, 5, 5, 50), BB_ST_OK);
	assert_int_equal(update(x, BB_UPDATE_COMMIT, TOKEN, 2), BB_ST_GENERATION);
	assert_int_equal(read_from(&a, x), 50);
	/* After it: it is B's. */
	move(y, 3);
	restart(&a);
	assert_int_equal(read_from(&a, y), -BB_ST_BUSY);
	assert_int_equal(write_to(&a, y, 6, 6, 60), BB_ST_BUSY);
	assert_int_equal(update(y, BB_UPDATE_COMMIT, TOKEN, 5), BB_ST_OK);
	assert_int_equal(extents_of(&a), 2);
	for (uint32_t i = 0; bb_home_next(a.home, &i, &e);)
		assert_true(e.ptr == y ? e.moved && e.to == B : e.ptr == x && !e.moved);
	assert_int_equal(read_from(&b, y), 40);
	assert_int_equal(update(y, BB_UPDATE_RELEASE, TOKEN, 6), BB_ST_OK);
	assert_int_equal(extents_of(&a), 1);
}

/* What it had seen last before it was killed is not known any more: it says more, never less. */
static void test_old_home_killed_sessions(void **state)
{
	uint64_t x = create(1, 0);

	assert_int_equal(write_to(&a, x, 300, 100, 30), BB_ST_OK);
	assert_int_equal(write_to(&a, x, 301, 100, 31), BB_ST_OK);
	restart(&a);
	assert_int_equal(write_to(&a, x + 4096, 101, 100, 1), BB_ST_OK);
	move(x, 1);
	assert_int_equal(write_to(&b, x, 300, 100, 30), BB_ST_STALE);
	assert_int_equal(write_to(&b, x, 301, 301, 31), BB_ST_STALE);
	assert_int_equal(read_from(&b, x), 31);
	assert_int_equal(write_to(&b, x, 1000, 1000, 99), BB_ST_OK);
}

static void test_new_home_killed(void **state)
{
	uint64_t x = create(1, 0), orphan;
	struct bb_home_who owner = { .node = OWNER };
	struct bb_adopt_entry e;

	assert_int_equal(write_to(&a, x, 2, 2, 20), BB_ST_OK);
	/* Between the extent and its entry, and while it copies: nothing is left. */
	assert_int_equal(update(x, BB_UPDATE_BEGIN, TOKEN, 1), BB_ST_OK);
	assert_int_equal(bb_home_create(b.home, owner, BB_HOME_ADOPTED, &orphan), BB_ST_OK);
	step_copy(x, step_create(x));
	assert_int_equal(extents_of(&b), 2);
	restart(&b);
	assert_int_equal(extents_of(&b), 0);
	assert_int_equal(bb_adopt_count(b.adopt), 0);
	assert_int_equal(read_from(&b, x), -BB_ST_BOUNDS);
	assert_int_equal(update(x, BB_UPDATE_ABORT, TOKEN, 2), BB_ST_OK);
	/* It has asked, and does not know the answer. */
	assert_int_equal(update(x, BB_UPDATE_BEGIN, TOKEN, 3), BB_ST_OK);
	step_copy(x, step_create(x));
	bb_adopt_set(b.adopt, A, x, BB_ADOPT_COMMITTING);
	assert_int_equal(update(x, BB_UPDATE_COMMIT, TOKEN, 4), BB_ST_OK);
	restart(&b);
	assert_true(bb_adopt_find(b.adopt, A, x + 5000, &e));
	assert_int_equal(e.state, BB_ADOPT_COMMITTING);
	assert_int_equal(e.token, TOKEN);
	assert_int_equal(read_from(&b, x), -BB_ST_BUSY);
	assert_int_equal(update(x, BB_UPDATE_COMMIT, e.token, 5), BB_ST_OK);
	step_serve(x);
	assert_int_equal(write_to(&b, x + 4096, 3, 3, 30), BB_ST_OK);
	/* It serves on, and knows what is stale. */
	restart(&b);
	assert_int_equal(read_from(&b, x), 20);
	assert_int_equal(read_from(&b, x + 4096), 30);
	assert_int_equal(write_to(&b, x, 2, 2, 99), BB_ST_STALE);
	assert_int_equal(put(&b, OWNER, A, BB_CMD_DELETE, x, MSG(.id = 4, .floor = 4), NULL, 0), BB_ST_OK);
	/* And what it still has to say. */
	restart(&b);
	assert_true(bb_adopt_find(b.adopt, A, x, &e));
	assert_int_equal(e.state, BB_ADOPT_LEAVING);
	assert_int_equal(extents_of(&b), 0);
	assert_int_equal(update(x, BB_UPDATE_RELEASE, e.token, 6), BB_ST_OK);
	assert_int_equal(extents_of(&a), 0);
}

/* It has started anew: what went there is lost, and said to be. */
static void test_new_home_lost(void **state)
{
	uint64_t x = create(1, 0);

	world_hear(a.peers, B, BOOT_B, 0);
	move(x, 1);
	assert_int_equal(bb_home_moved_lost(a.home, B, BOOT_B), 0);
	assert_int_equal(bb_home_moved_lost(a.home, 9, BOOT_B + 1), 0);
	assert_int_equal(read_from(&a, x), -BB_ST_BUSY);
	assert_int_equal(bb_home_moved_lost(a.home, B, BOOT_B + 1), 1);
	assert_int_equal(read_from(&a, x), -BB_ST_GENERATION);
	assert_int_equal(extents_of(&a), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_answers_from_the_old_address, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_writes_across, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_asked_twice, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_mover_gone, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_owner_gone, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_new_home_lost, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_old_home_killed, set_up_kept, tear_down_kept),
		cmocka_unit_test_setup_teardown(test_old_home_killed_sessions, set_up_kept, tear_down_kept),
		cmocka_unit_test_setup_teardown(test_new_home_killed, set_up_kept, tear_down_kept),
	};

	bb_log_init("test_move", BB_LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
