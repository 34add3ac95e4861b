/* SPDX-License-Identifier: MIT */
/* relay: wake-ups that are left to the helper are done once, by it or by us, and nobody sleeps on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include <bluebridge/kernel.h>

#include "pager/program.h"

#define NPAGES BB_EXTENT_PAGES
#define PAUSE_MAX 255

static struct bb_pager *pg;
static struct bb_program *prog;
static uint8_t *memory, page[BB_PAGE_SIZE], run[3 * BB_PAGE_SIZE];

static int setup(void **state)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	pg = calloc(1, sizeof(*pg));
	prog = calloc(1, sizeof(*prog));
	memory = mmap(NULL, NPAGES * BB_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!pg || !prog || memory == MAP_FAILED)
		return -1;
	prog->pager = pg;
	prog->base = (uintptr_t)memory;
	prog->npages = NPAGES;
	prog->limit = NPAGES;
	prog->ctl = aligned_alloc(64, (sizeof(*prog->ctl) + 63) & ~63UL);
	prog->pw = calloc(NPAGES, sizeof(*prog->pw));
	prog->x = calloc(1, sizeof(*prog->x));
	prog->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (!prog->ctl || !prog->pw || !prog->x || prog->uffd < 0 || ioctl(prog->uffd, UFFDIO_API, &api) < 0)
		return -1;
	memset(prog->ctl, 0, sizeof(*prog->ctl));
	reg.range.start = prog->base;
	reg.range.len = NPAGES * BB_PAGE_SIZE;
	memset(page, 'x', sizeof(page));
	memset(run, 'x', sizeof(run));
	return ioctl(prog->uffd, UFFDIO_REGISTER, &reg);
}

static int teardown(void **state)
{
	close(prog->uffd);
	munmap(memory, NPAGES * BB_PAGE_SIZE);
	free(prog->ctl);
	free((void *)prog->pw);
	free(prog->x);
	free(prog);
	free(pg);
	return 0;
}

static void ms(unsigned int n)
{
	const struct timespec t = { .tv_nsec = n * 1000000L };

	nanosleep(&t, NULL);
}

/* --- a thread of the program that waits for a page ----------------------------- */

static struct {
	pthread_t thread;
	uint32_t page;
	_Atomic bool goes_on;
} waiter;

static void *touch(void *arg)
{
	assert_int_equal(*(volatile uint8_t *)(memory + waiter.page * BB_PAGE_SIZE), 'x');
	atomic_store(&waiter.goes_on, true);
	return NULL;
}

/* It has faulted, and the pager has the page for it. */
static void waits_for(uint32_t n)
{
	struct uffd_msg m;

	waiter.page = n;
	atomic_store(&waiter.goes_on, false);
	atomic_store(&prog->pw[n], BB_P_FILLING);
	assert_int_equal(pthread_create(&waiter.thread, NULL, touch, NULL), 0);
	assert_int_equal(read(prog->uffd, &m, sizeof(m)), sizeof(m));
	assert_int_equal(m.arg.pagefault.address, memory + n * BB_PAGE_SIZE);
}

static void installs(uint32_t n)
{
	bb_fill_install(prog, n, 1, page, BB_P_REMOTE, 0, 0);
	assert_int_equal(bb_pw_state(prog->pw[n]), BB_P_RESIDENT);
}

static void goes_on(void)
{
	for (unsigned int i = 0; i < 5000 && !waiter.goes_on; i++)
		ms(1);
	assert_true(waiter.goes_on);
	pthread_join(waiter.thread, NULL);
}

/* The helper between two pages. */
static void helper_looks(uint32_t n)
{
	const uint64_t w = atomic_exchange(&prog->ctl->to_wake, 0);

	assert_int_equal(w >> 32, n);
	assert_int_equal((uint32_t)w, 1);
	bb_fill_wake(prog, n, 1);
}

/* --- tests --------------------------------------------------------------------- */

static void is_woken_at_once_while_the_helper_sleeps(void **state)
{
	waits_for(3);
	installs(3);
	assert_int_equal(prog->ctl->to_wake, 0);
	assert_null(pg->relay.prog);
	goes_on();
}

static void is_left_to_the_helper_that_looks(void **state)
{
	prog->ctl->helper_wakes = 1;
	waits_for(3);
	installs(3);
	assert_ptr_equal(pg->relay.prog, prog);
	ms(5);
	assert_false(waiter.goes_on);
	/* The next one is not left to it before it has done this. */
	assert_false(bb_relay_suits(prog));
	helper_looks(3);
	assert_false(bb_relay_pending(pg));
	goes_on();
	assert_int_equal(prog->relayed, 1);
	assert_int_equal(prog->relay_late, 0);
	assert_true(bb_relay_suits(prog));
}

static void is_woken_where_the_helper_is_late(void **state)
{
	unsigned int pause = 1;

	prog->ctl->helper_wakes = 1;
	for (uint32_t n = 0; n < 10; n++) {
		waits_for(n);
		installs(n);
		ms(1);
		assert_false(bb_relay_pending(pg));
		goes_on();
		assert_int_equal(prog->ctl->to_wake, 0);
		assert_int_equal(prog->relay_late, n + 1);
		/* Longer and longer it is not asked. */
		for (unsigned int i = 0; i < pause; i++)
			assert_false(bb_relay_suits(prog));
		pause = pause * 2 + 1 > PAUSE_MAX ? PAUSE_MAX : pause * 2 + 1;
	}
	/* Until it comes in time. */
	waits_for(20);
	installs(20);
	helper_looks(20);
	assert_false(bb_relay_pending(pg));
	goes_on();
	assert_true(bb_relay_suits(prog));
}

static void is_woken_where_the_helper_stops_looking(void **state)
{
	prog->ctl->helper_wakes = 1;
	assert_true(bb_relay_suits(prog));
	waits_for(3);
	prog->ctl->helper_wakes = 0; /* after the pager has seen that it looks */
	assert_int_equal(ioctl(prog->uffd, UFFDIO_COPY,
			       &(struct uffdio_copy){ .dst = prog->base + 3 * BB_PAGE_SIZE, .src = (uintptr_t)page,
						      .len = BB_PAGE_SIZE, .mode = UFFDIO_COPY_MODE_DONTWAKE }), 0);
	bb_relay(prog, 3, 1);
	assert_null(pg->relay.prog);
	goes_on();
}

static void is_woken_where_the_program_leaves(void **state)
{
	prog->ctl->helper_wakes = 1;
	waits_for(3);
	installs(3);
	bb_relay_forget(prog);
	assert_null(pg->relay.prog);
	assert_int_equal(prog->ctl->to_wake, 0);
	goes_on();
}

static void is_not_left_to_it_in_a_crowd(void **state)
{
	unsigned int asked = 0;

	prog->ctl->helper_wakes = 1;
	pg->fills_due = 2;
	assert_false(bb_relay_suits(prog));
	pg->fills_due = 1;
	while (!bb_relay_suits(prog))
		assert_in_range(++asked, 1, 1000);
	assert_in_range(asked, 16, 255);
}

/* A run crosses two mappings: the kernel takes it page by page, and only one wake-up can be left. */
static void of_a_run_in_parts_each_is_woken(void **state)
{
	uint32_t left;

	prog->ctl->helper_wakes = 1;
	assert_int_equal(mprotect(memory + 4 * BB_PAGE_SIZE, BB_PAGE_SIZE, PROT_READ), 0);
	waits_for(3);
	prog->pw[4] = prog->pw[5] = BB_P_FILLING;
	bb_fill_install(prog, 3, 3, run, BB_P_REMOTE, 0, 0);
	for (uint32_t n = 3; n < 6; n++)
		assert_int_equal(bb_pw_state(prog->pw[n]), BB_P_RESIDENT);
	left = (uint32_t)(prog->ctl->to_wake >> 32);
	if (left == 3)
		helper_looks(3);
	else
		ms(1);
	bb_relay_pending(pg);
	goes_on();
}

static void what_is_fetched_ahead_has_nobody_to_wake(void **state)
{
	prog->ctl->helper_wakes = 1;
	prog->pw[5] = BB_P_FILLING;
	bb_fill_install(prog, 5, 1, page, BB_P_REMOTE, BB_PW_PREFETCH, 0);
	assert_null(pg->relay.prog);
	assert_int_equal(prog->ctl->to_wake, 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(is_woken_at_once_while_the_helper_sleeps),
		TEST(is_left_to_the_helper_that_looks),
		TEST(is_woken_where_the_helper_is_late),
		TEST(is_woken_where_the_helper_stops_looking),
		TEST(is_woken_where_the_program_leaves),
		TEST(is_not_left_to_it_in_a_crowd),
		TEST(of_a_run_in_parts_each_is_woken),
		TEST(what_is_fetched_ahead_has_nobody_to_wake),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
