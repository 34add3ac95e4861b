/* SPDX-License-Identifier: MIT */
/*
 * A bbd that records which pages its programs touch: the traces that
 * scripts/bench/policy.c is fed with.
 *
 * Theory of operation
 * -------------------
 * It is bbd, linked with --wrap so that three of its functions pass here. A
 * program gets a budget of BUDGET pages, far below what BB_LOCAL may say, so
 * nearly every change from one page to another is a fault; each fault message
 * that comes from the kernel is a record. Zeros that bbd fills ahead, where a
 * program walks upwards, are records too. The file, BB_BENCH_TRACE, is mapped
 * before bbd gives up its rights; the driver has made it as long as it shall be.
 *
 * What a trace does not say: touches of a page that is among the last hundred
 * or two, first touches of what was filled before the program attached (one
 * extent), what the program gave back (munmap, free). Threads that run beside
 * each other are in the order in which their faults were read.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bluebridge/kernel.h>

#include "clock.h"
#include "pager/program.h"
#include "policy/trace.h"

#define BUDGET 128

static struct pol_file *file;
static size_t capacity;
static __thread struct bb_program *now; /* whose messages are being read */

int __real_bb_fault_poll(struct bb_program *p);
ssize_t __real_bb_program_read(int fd, void *buf, size_t len);
void __real_bb_fill_install(struct bb_program *p, uint32_t page, uint32_t n, const void *data, enum bb_page_state from_state,
			    bb_pw set, bb_pw clear);
int __wrap_bb_fault_poll(struct bb_program *p);
ssize_t __wrap_bb_program_read(int fd, void *buf, size_t len);
void __wrap_bb_fill_install(struct bb_program *p, uint32_t page, uint32_t n, const void *data, enum bb_page_state from_state,
			    bb_pw set, bb_pw clear);

/* Before main(): bbd's environment and files are of no concern to it later. */
__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("BB_BENCH_TRACE");
	struct stat st;
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;

	if (fd < 0 || fstat(fd, &st) < 0 || (size_t)st.st_size < sizeof(*file)) {
		fprintf(stderr, "tracer: BB_BENCH_TRACE=%s: cannot use it; it is a file of the length that the trace may have\n",
			path ? path : "");
		_exit(3);
	}
	file = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (file == MAP_FAILED) {
		fprintf(stderr, "tracer: cannot map %s\n", path);
		_exit(3);
	}
	capacity = ((size_t)st.st_size - sizeof(*file)) / sizeof(file->at[0]);
	file->magic = POL_MAGIC;
}

static void record(uint64_t page)
{
	const uint64_t i = atomic_load_explicit(&file->n, memory_order_relaxed);

	if (i == capacity) {
		file->lost++;
		return;
	}
	file->at[i].page = (uint32_t)page;
	file->at[i].us = (uint32_t)(bb_now_ns() / 1000);
	atomic_store_explicit(&file->n, i + 1, memory_order_release);
}

int __wrap_bb_fault_poll(struct bb_program *p)
{
	int got;

	if (p->limit > BUDGET)
		bb_program_set_budget(p, ((uint64_t)p->nslots + BUDGET) << BB_PAGE_SHIFT);
	now = p;
	got = __real_bb_fault_poll(p);
	now = NULL;
	return got;
}

ssize_t __wrap_bb_program_read(int fd, void *buf, size_t len)
{
	const ssize_t n = __real_bb_program_read(fd, buf, len);
	const struct uffd_msg *m = buf;

	if (!now || fd != now->uffd || n <= 0)
		return n;
	for (size_t i = 0; i < (size_t)n / sizeof(*m); i++) {
		const uint64_t off = m[i].arg.pagefault.address - now->base;

		if (m[i].event == UFFD_EVENT_PAGEFAULT && off >> BB_PAGE_SHIFT < now->npages)
			record(off >> BB_PAGE_SHIFT);
	}
	return n;
}

void __wrap_bb_fill_install(struct bb_program *p, uint32_t page, uint32_t n, const void *data, enum bb_page_state from_state,
			    bb_pw set, bb_pw clear)
{
	__real_bb_fill_install(p, page, n, data, from_state, set, clear);
	for (uint32_t i = 1; i < n; i++)
		record(page + i);
}
