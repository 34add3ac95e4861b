/* SPDX-License-Identifier: MIT */
/* due: of many programs only those are polled that have something to do; nobody's kick is missed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "pager/program.h"

#define N 12u

static struct bb_pager *pg;
static struct bb_program *prog[N];
static int other_end[N];

static struct bb_program *program_new(unsigned int i)
{
	struct bb_program *p = calloc(1, sizeof(*p));
	int sock[2];

	assert_non_null(p);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sock), 0);
	p->pager = pg;
	p->ctl = calloc(1, sizeof(*p->ctl));
	assert_non_null(p->ctl);
	p->uffd = eventfd(0, EFD_NONBLOCK); /* what can be read is all that due.c asks of it */
	p->kick = eventfd(0, EFD_NONBLOCK);
	p->sock = sock[0];
	other_end[i] = sock[1];
	p->next = pg->programs;
	pg->programs = p;
	bb_due_watch(p);
	return p;
}

static int setup(void **state)
{
	pg = calloc(1, sizeof(*pg));
	if (!pg)
		return -1;
	bb_due_init(pg);
	pg->epoll = epoll_create1(EPOLL_CLOEXEC);
	pg->wake = eventfd(0, EFD_NONBLOCK);
	bb_due_watch_own(pg, pg->wake);
	for (unsigned int i = 0; i < N; i++)
		prog[i] = program_new(i);
	pg->many = true;
	pg->sweep_at = UINT64_MAX;
	return 0;
}

static void let_go(unsigned int i)
{
	struct bb_program *p = prog[i];

	bb_due_forget(p);
	close(p->uffd);
	close(p->kick);
	close(p->sock);
	close(other_end[i]);
	free(p->ctl);
	free(p);
	prog[i] = NULL;
}

static int teardown(void **state)
{
	for (unsigned int i = 0; i < N; i++)
		if (prog[i])
			let_go(i);
	close(pg->epoll);
	close(pg->wake);
	free(pg);
	return 0;
}

/* As after a round in which they had nothing to do. */
static void none_is_due(void)
{
	for (unsigned int i = 0; i < N; i++)
		if (prog[i])
			prog[i]->due = prog[i]->ready = false;
	pg->due = NULL;
	pg->due_end = &pg->due;
}

static unsigned int how_many_due(void)
{
	unsigned int n = 0;

	for (const struct bb_program *p = pg->due; p; p = p->due_next)
		n++;
	return n;
}

static void write_to(int fd)
{
	const uint64_t one = 1;

	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

static void who_comes_is_due_and_may_kick(void **state)
{
	assert_int_equal(how_many_due(), N);
	assert_ptr_equal(pg->due, prog[0]); /* in the order in which they came */
	for (unsigned int i = 0; i < N; i++)
		assert_int_equal(atomic_load(&prog[i]->ctl->bbd_wants), 1);
}

static void only_who_faults_is_due(void **state)
{
	none_is_due();
	bb_pager_look(pg, 0);
	assert_int_equal(how_many_due(), 0);
	write_to(prog[7]->uffd);
	write_to(prog[3]->uffd);
	bb_pager_look(pg, 0);
	bb_pager_look(pg, 0); /* still there, and once in the list */
	assert_int_equal(how_many_due(), 2);
	assert_true(prog[3]->ready && prog[3]->due && prog[7]->ready && prog[7]->due);
	/* Who waits for answers to come must not sleep over what can be read. */
	assert_false(bb_due_ask(pg));
}

/* The helper takes the leave with its kick: it must have it again before its ring is looked at. */
static void a_kick_is_asked_for_again(void **state)
{
	none_is_due();
	for (int i = 0; i < 3; i++) {
		assert_int_equal(atomic_exchange(&prog[5]->ctl->bbd_wants, 0), 1);
		write_to(prog[5]->kick);
		bb_pager_look(pg, 0);
		assert_int_equal(how_many_due(), 1);
		assert_true(prog[5]->due && !prog[5]->ready);
		none_is_due();
	}
	bb_due_awake(pg); /* for many it stays */
	assert_int_equal(atomic_load(&prog[5]->ctl->bbd_wants), 1);
	assert_true(bb_due_ask(pg));
	atomic_store(&prog[5]->ctl->stage_head, 1);
	write_to(prog[5]->kick);
	bb_pager_look(pg, 0);
	assert_false(bb_due_ask(pg));
}

/* The thread must not sleep before all of the programs that have become many may kick. */
static void no_sleep_before_all_may_kick(void **state)
{
	none_is_due();
	assert_true(bb_due_ask(pg));
	pg->sweep_at = 0;
	assert_false(bb_due_ask(pg));
}

static void who_hangs_up_is_watched_no_more(void **state)
{
	none_is_due();
	write_to(prog[2]->uffd);
	bb_pager_look(pg, 0);
	close(other_end[2]);
	other_end[2] = -1;
	bb_pager_look(pg, 0);
	assert_true(prog[2]->gone && pg->some_gone);
	none_is_due();
	write_to(prog[2]->kick);
	bb_pager_look(pg, 0);
	assert_int_equal(how_many_due(), 0);
}

/* The program keeps its descriptors: events of one that is freed must not come. */
static void who_is_freed_is_not_heard_of(void **state)
{
	int uffd = dup(prog[4]->uffd), kick = dup(prog[4]->kick);

	assert_true(prog[4]->due);
	let_go(4);
	assert_int_equal(how_many_due(), N - 1);
	let_go(N - 1); /* the last of the list */
	let_go(0);     /* and the first */
	assert_int_equal(how_many_due(), N - 3);
	write_to(uffd);
	write_to(kick);
	none_is_due();
	bb_pager_look(pg, 0);
	assert_int_equal(how_many_due(), 0);
	write_to(prog[1]->uffd);
	bb_pager_look(pg, 0);
	assert_ptr_equal(pg->due, prog[1]);
	close(uffd);
	close(kick);
}

/* Who waits for a slot can do nothing before there is one: to be rung in each round would be all that it does. */
static void a_helper_that_waits_for_a_slot_sleeps_on(void **state)
{
	struct bb_region_ctl *c = prog[0]->ctl;

	atomic_store(&c->helper_sleeps, BB_HELPER_SLOT);
	bb_program_ring(prog[0]);
	assert_int_equal(atomic_load(&c->helper_bell), 0);
	bb_program_ring_slots(prog[0]);
	assert_int_equal(atomic_load(&c->helper_bell), 1);
	assert_int_equal(atomic_load(&c->helper_sleeps), BB_HELPER_AWAKE);
	atomic_store(&c->helper_sleeps, BB_HELPER_IDLE);
	bb_program_ring(prog[0]);
	assert_int_equal(atomic_load(&c->helper_bell), 2);
	bb_program_ring(prog[0]); /* it is awake */
	assert_int_equal(atomic_load(&c->helper_bell), 2);
}

/* Nothing wakes the thread for these: it must not sleep before the next round. */
static void what_no_event_tells_of(void **state)
{
	struct bb_program *p = prog[4];

	pg->cfg.replicas = 2;
	for (unsigned int i = 0; i < N; i++)
		prog[i]->sync.look_at = UINT64_MAX;
	for (int many = 0; many < 2; many++) {
		none_is_due();
		pg->many = many;
		assert_true(bb_due_ask(pg));
		if (many) {
			write_to(p->kick);
			bb_pager_look(pg, 0);
			assert_int_equal(how_many_due(), 1);
			assert_true(bb_due_ask(pg));
		}
		atomic_store(&p->ctl->asked, 1); /* WILLNEED */
		assert_false(bb_due_ask(pg));
		atomic_store(&p->ctl->asked, 0);
		p->pf.nwant = 1;
		assert_false(bb_due_ask(pg));
		assert_true(bb_due_waits(pg));
		p->pf.nwant = 0;
		p->sync.to = 3; /* a second copy: the next step is ours, but for an answer that is due */
		assert_false(bb_due_ask(pg));
		assert_true(bb_due_waits(pg));
		p->sync.busy = true;
		assert_true(bb_due_ask(pg));
		assert_false(bb_due_waits(pg));
		p->sync.busy = false;
		p->sync.to = 0;
		p->sync.look_at = 0;
		assert_false(bb_due_ask(pg));
		p->sync.look_at = UINT64_MAX;
		p->parked_n = 1;
		assert_false(bb_due_ask(pg));
		p->parked_n = 0;
		assert_true(bb_due_ask(pg));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(who_comes_is_due_and_may_kick, setup, teardown),
		cmocka_unit_test_setup_teardown(only_who_faults_is_due, setup, teardown),
		cmocka_unit_test_setup_teardown(a_kick_is_asked_for_again, setup, teardown),
		cmocka_unit_test_setup_teardown(no_sleep_before_all_may_kick, setup, teardown),
		cmocka_unit_test_setup_teardown(who_hangs_up_is_watched_no_more, setup, teardown),
		cmocka_unit_test_setup_teardown(who_is_freed_is_not_heard_of, setup, teardown),
		cmocka_unit_test_setup_teardown(a_helper_that_waits_for_a_slot_sleeps_on, setup, teardown),
		cmocka_unit_test_setup_teardown(what_no_event_tells_of, setup, teardown),
	};

	return cmocka_run_group_tests_name("due", tests, NULL, NULL);
}
