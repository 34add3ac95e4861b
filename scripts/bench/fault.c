/* SPDX-License-Identifier: MIT */
/*
 * The program whose faults are measured. It fills a buffer, page by page, with
 * words derived from page number and version, and then does what standard
 * input says, one line a time, answering each with one line of JSON:
 *
 *	rand OPS WRITES		touch OPS random pages, WRITES percent written
 *	seq OPS			touch the next OPS pages in order
 *	check			compare every page of the buffer
 *
 * The time of a touch is that of the first access to the page; the whole page
 * is compared after it. "slow" are the touches of more than 2 microseconds:
 * a page that is here takes less than 1 us, the cheapest fault that a userfaultfd
 * resolves several microseconds, and nothing lies between. So "slow" are the
 * faults. That nearly all of them went to another host is what the driver
 * checks against the daemon's count.
 */
#include "bench.h"

#define FAULT_NS 2000
#define OPS_MAX (1UL << 20)

const char *const bench_name = "fault";

static uint64_t npages, at, rng = 7;
static uint8_t *buffer;
static uint32_t *version;
static struct samples slow, fast;

static uint64_t seed_of(uint64_t page)
{
	return mix(page << 32 ^ version[page] ^ 0xbbUL << 24);
}

static uint8_t *page_at(uint64_t page)
{
	return buffer + page * PAGE;
}

static void check(uint64_t page)
{
	unsigned int i = words_differ(page_at(page), WORDS, seed_of(page));

	if (i != WORDS)
		fail("page %lu of %lu at %p, word %u: other bytes than were written (version %u)", page, npages,
		     (void *)page_at(page), i, version[page]);
}

static void touch(uint64_t page, bool write)
{
	volatile uint64_t *first = (volatile uint64_t *)(void *)page_at(page);
	uint64_t t = bb_now_ns(), took, old = *first;

	if (write)
		*first = old;
	took = bb_now_ns() - t;
	samples_add(took > FAULT_NS ? &slow : &fast, took);
	check(page);
	if (write) {
		version[page]++;
		words_fill(page_at(page), WORDS, seed_of(page));
	}
}

static void run(const char *what, uint64_t ops, unsigned int writes)
{
	bool random = *what == 'r';
	uint64_t t, ns;

	slow.n = fast.n = 0;
	t = bb_now_ns();
	for (uint64_t i = 0; i < ops; i++) {
		uint64_t page = random ? random_below(&rng, npages) : at++ % npages;

		touch(page, writes && random_below(&rng, 100) < writes);
	}
	ns = bb_now_ns() - t;
	printf("{\"ops\":%lu,\"ns\":%lu,", ops, ns);
	samples_print("slow", &slow);
	printf(",");
	samples_print("fast", &fast);
	printf(",\"verified\":true}\n");
}

int main(int argc, char **argv)
{
	char line[128], what[16];

	if (argc != 2)
		bad_option("an argument", "expected the buffer's size");
	npages = arg_size("size", argv[1]) / PAGE;
	samples_init(&slow, OPS_MAX);
	samples_init(&fast, OPS_MAX);
	version = own_alloc(npages * sizeof(*version));
	buffer = malloc((npages + 1) * PAGE);
	if (!buffer)
		fail("cannot allocate %lu pages", npages);
	buffer = (uint8_t *)(((uintptr_t)buffer + PAGE - 1) & ~(PAGE - 1));
	for (uint64_t i = 0; i < npages; i++)
		words_fill(page_at(i), WORDS, seed_of(i));
	printf("{\"pid\":%d,\"pages\":%lu}\n", (int)getpid(), npages);
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		uint64_t ops = 0;
		unsigned int writes = 0;

		if (sscanf(line, "%15s %lu %u", what, &ops, &writes) < 1)
			continue;
		if (!strcmp(what, "check")) {
			for (uint64_t i = 0; i < npages; i++)
				check(i);
			printf("{\"verified\":true}\n");
		} else if ((!strcmp(what, "rand") || !strcmp(what, "seq")) && ops && ops <= OPS_MAX) {
			run(what, ops, writes);
		} else {
			bad_option("a command", line);
		}
		fflush(stdout);
	}
	return 0;
}
