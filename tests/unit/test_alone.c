/* SPDX-License-Identifier: MIT */
/* alone: bbd has ended, and what is staged is the only copy: it is there until it has been put back, or dropped. */
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

#include "../../preload/alone.c"

/* --- the rest of libbb.so ------------------------------------------------------ */

struct bb_region bb_rg;
uintptr_t bb_region_base;
size_t bb_region_size;

void bb_lock(struct bb_lock *l) { (void)l; }
void bb_unlock(struct bb_lock *l) { (void)l; }
void bb_lost_put(uint32_t page) { (void)page; }
bool bb_last_thread(void) { return false; }

void bb_pages_wake(uint32_t first, uint32_t n)
{
	struct uffdio_range r = { bb_addr_of(first), (uint64_t)n << BB_PAGE_SHIFT };

	ioctl(bb_rg.uffd, UFFDIO_WAKE, &r);
}

/* --- a region of one extent ---------------------------------------------------- */

#define SLOTS 64

static pthread_t helper;
static bool runs;

static void *serves(void *arg)
{
	bb_alone_serve();
	return arg;
}

static int setup(void **state)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct bb_region *g = &bb_rg;
	uint8_t *m = mmap(NULL, BB_EXTENT_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (m == MAP_FAILED)
		return -1;
	memset(g, 0, sizeof(*g));
	g->base = bb_region_base = (uintptr_t)m;
	bb_region_size = BB_EXTENT_SIZE;
	g->rw_top = g->nextents = 1;
	g->npages = BB_EXTENT_PAGES;
	g->nslots = SLOTS;
	g->ctl = aligned_alloc(64, (sizeof(*g->ctl) + 63) & ~63UL);
	g->x = calloc(1, sizeof(*g->x));
	g->pw = calloc(BB_EXTENT_PAGES, sizeof(*g->pw));
	g->stage = mmap(NULL, SLOTS * BB_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	g->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (!g->ctl || !g->x || !g->pw || g->stage == MAP_FAILED || g->uffd < 0 || ioctl(g->uffd, UFFDIO_API, &api) < 0)
		return -1;
	memset(g->ctl, 0, sizeof(*g->ctl));
	memset(g->stage, 'x', SLOTS * BB_PAGE_SIZE);
	g->x[0].state = BB_X_MANAGED;
	reg.range.start = g->base;
	reg.range.len = BB_EXTENT_SIZE;
	return ioctl(g->uffd, UFFDIO_REGISTER, &reg);
}

static void helper_serves(void)
{
	assert_int_equal(pthread_create(&helper, NULL, serves, NULL), 0);
	runs = true;
}

static int teardown(void **state)
{
	struct bb_region *g = &bb_rg;

	atomic_store(&g->ctl->closing, 1);
	if (runs)
		pthread_join(helper, NULL);
	runs = false;
	close(g->uffd);
	munmap((void *)g->base, BB_EXTENT_SIZE);
	munmap(g->stage, SLOTS * BB_PAGE_SIZE);
	free(g->ctl);
	free(g->x);
	free((void *)g->pw);
	return 0;
}

static void ms(unsigned int n)
{
	const struct timespec t = { .tv_nsec = n * 1000000L };

	nanosleep(&t, NULL);
}

static struct {
	pthread_t thread;
	uint32_t page;
	_Atomic int has; /* -1 not yet */
} reader;

static void *reads(void *arg)
{
	atomic_store(&reader.has, *(volatile uint8_t *)bb_addr_of(reader.page));
	return arg;
}

static void reads_from(uint32_t page)
{
	reader.page = page;
	atomic_store(&reader.has, -1);
	assert_int_equal(pthread_create(&reader.thread, NULL, reads, NULL), 0);
}

static void has_read(uint8_t want)
{
	for (unsigned int i = 0; i < 5000 && reader.has < 0; i++)
		ms(1);
	assert_int_equal(reader.has, want);
	pthread_join(reader.thread, NULL);
}

static bb_pw staged(uint32_t slot)
{
	return bb_pw_with_slot(BB_P_STAGED | BB_PW_DIRTY, slot);
}

/* --- tests --------------------------------------------------------------------- */

static void what_is_staged_comes_back(void **state)
{
	bb_rg.pw[3] = staged(5);
	helper_serves();
	reads_from(3);
	has_read('x');
	reads_from(4);
	has_read(0);
	assert_int_equal(bb_pw_state(bb_rg.pw[3]), BB_P_RESIDENT);
	assert_int_equal(bb_pw_state(bb_rg.pw[4]), BB_P_RESIDENT);
}

/* UFFDIO_COPY fails, as where the kernel has no memory. */
static void what_cannot_be_put_back_now_is_kept(void **state)
{
	bb_rg.pw[3] = staged(5);
	assert_int_equal(mprotect(bb_rg.stage, SLOTS * BB_PAGE_SIZE, PROT_NONE), 0);
	helper_serves();
	reads_from(3);
	ms(30);
	assert_int_equal(reader.has, -1);
	assert_int_not_equal(bb_pw_state(bb_rg.pw[3]), BB_P_RESIDENT);
	assert_int_equal(mprotect(bb_rg.stage, SLOTS * BB_PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
	has_read('x');
}

/* While it is being put back the program drops it, as page.c would. */
static void what_is_dropped_does_not_come_back(void **state)
{
	bb_pw w = staged(5);

	bb_rg.pw[3] = w;
	assert_int_equal(mprotect(bb_rg.stage, SLOTS * BB_PAGE_SIZE, PROT_NONE), 0);
	helper_serves();
	reads_from(3);
	ms(5);
	while (!atomic_compare_exchange_weak(&bb_rg.pw[3], &w, bb_pw_with(w, BB_P_DROPPING)))
		w = staged(5);
	assert_int_equal(mprotect(bb_rg.stage, SLOTS * BB_PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
	ms(5);
	assert_int_equal(bb_pw_state(bb_rg.pw[3]), BB_P_DROPPING);
	assert_int_equal(reader.has, -1);
	atomic_store(&bb_rg.pw[3], BB_P_EMPTY);
	bb_pages_wake(3, 1);
	has_read(0);
}

/* It is there, by an installation that woke nobody. */
static void who_waits_for_what_is_there_is_woken(void **state)
{
	struct uffdio_copy c = { .dst = bb_addr_of(3), .src = (uintptr_t)bb_rg.stage, .len = BB_PAGE_SIZE,
				 .mode = UFFDIO_COPY_MODE_DONTWAKE };
	struct uffd_msg m;

	bb_rg.pw[3] = staged(5);
	reads_from(3);
	for (unsigned int i = 0; i < 5000 && read(bb_rg.uffd, &m, sizeof(m)) != sizeof(m); i++)
		ms(1);
	assert_int_equal(m.arg.pagefault.address, bb_addr_of(3));
	assert_int_equal(ioctl(bb_rg.uffd, UFFDIO_COPY, &c), 0);
	ms(5);
	assert_int_equal(reader.has, -1);
	serve(3);
	has_read('x');
	assert_int_equal(bb_pw_state(bb_rg.pw[3]), BB_P_RESIDENT);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(what_is_staged_comes_back),
		TEST(what_cannot_be_put_back_now_is_kept),
		TEST(what_is_dropped_does_not_come_back),
		TEST(who_waits_for_what_is_there_is_woken),
	};

	bb_log_level(BB_LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
