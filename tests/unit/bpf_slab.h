/* SPDX-License-Identifier: MIT */
/* A slab of lent memory as a map, and a home's word and counts in it, for tests of bb_read. */
#pragma GCC diagnostic ignored "-Wunused-function"

#ifndef BB_TEST_BPF_SLAB_H
#define BB_TEST_BPF_SLAB_H

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <bpf/bpf.h>

#include <bluebridge/steer.h>

struct slab {
	int fd;
	uint8_t *at;
};

/* Return: 0 or -errno. */
static int slab_make(struct slab *s)
{
	LIBBPF_OPTS(bpf_map_create_opts, o, .map_flags = BPF_F_MMAPABLE);

	s->fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "bb_slab", sizeof(uint32_t), BB_PAGE_SIZE, BB_SLAB_ENTRIES, &o);
	if (s->fd < 0)
		return s->fd;
	s->at = mmap(NULL, (size_t)BB_SLAB_ENTRIES * BB_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
	return s->at == MAP_FAILED ? -1 : 0;
}

static uint8_t *slab_page(const struct slab *s, unsigned int n)
{
	return s->at + (size_t)n * BB_PAGE_SIZE;
}

static _Atomic uint64_t *slab_word(const struct slab *s, unsigned int extent)
{
	return (_Atomic uint64_t *)slab_page(s, BB_SLAB_WORDS) + extent;
}

static _Atomic uint32_t *slab_seq(const struct slab *s, unsigned int page)
{
	return (_Atomic uint32_t *)slab_page(s, BB_SLAB_SEQS) + page;
}

#endif
