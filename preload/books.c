/* SPDX-License-Identifier: MIT */
/*
 * The region's books in a memfd, to be shared with bbd: made when the program
 * attaches, and copied when it forks.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fds.h"
#include "private.h"

int bb_books_new(struct bb_books *b)
{
	struct bb_region *g = &bb_rg;
	struct bb_region_layout l = bb_region_layout(g->npages, g->nslots);
	uint32_t used = g->rw_top; /* free memory that is kept warm may lie behind the last allocation */
	uint8_t *all;
	int r;

	b->fd = (int)syscall(SYS_memfd_create, "bluebridge", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (b->fd < 0)
		return -errno;
	if (ftruncate(b->fd, (off_t)l.size) < 0 ||
	    fcntl(b->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		r = -errno;
		goto fail;
	}
	all = bb_sys_mmap(NULL, l.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, b->fd, 0);
	if (all == MAP_FAILED) {
		r = -ENOMEM;
		goto fail;
	}
	r = bb_fd_hide(b->fd);
	if (r < 0) {
		bb_sys_munmap(all, l.size);
		goto fail;
	}
	b->fd = r;
	b->ctl = (struct bb_region_ctl *)all;
	b->x = (struct bb_extent *)(all + l.extents);
	b->pw = (_Atomic bb_pw *)(all + l.words);
	b->hash = (struct bb_hash *)(all + l.hashes);
	b->slots = (struct bb_slot *)(all + l.slots);
	b->stage = all + l.data;
	memcpy(b->ctl, g->ctl, sizeof(*b->ctl));
	b->ctl->helper_wakes = 0;
	b->ctl->to_wake = 0;
	b->ctl->magic = BB_REGION_MAGIC;
	b->ctl->version = BB_REGION_VERSION;
	b->ctl->base = g->base;
	b->ctl->npages = g->npages;
	b->ctl->nslots = g->nslots;
	memcpy(b->x, g->x, used * sizeof(*g->x));
	return 0;
fail:
	close(b->fd);
	b->fd = -1;
	return r;
}

void bb_books_free(struct bb_books *b)
{
	bb_sys_munmap(b->ctl, bb_region_layout(bb_rg.npages, bb_rg.nslots).size);
	bb_fd_close(b->fd);
	b->fd = -1;
}

/* Counters are a process's own: the child begins at 0. */
static void forget_counts(struct bb_region_ctl *c)
{
	_Atomic uint64_t *const count[] = { &c->n_evict,     &c->n_evict_clean, &c->n_evict_zero,  &c->n_evict_busy,
					    &c->n_seal,	     &c->n_drop,	&c->n_fault,	   &c->n_fill_zero,
					    &c->n_fill_staged, &c->n_fill_remote, &c->n_prefetch,  &c->n_unused,
					    &c->n_open,	   &c->n_writeback, &c->n_lost };

	for (size_t i = 0; i < sizeof(count) / sizeof(count[0]); i++)
		atomic_store(count[i], 0);
}

void bb_books_copy(struct bb_books *b)
{
	struct bb_region *g = &bb_rg;
	uint32_t used = g->rw_top;
	uint64_t tail = atomic_load(&g->ctl->stage_tail), head = atomic_load(&g->ctl->stage_head);

	forget_counts(b->ctl);
	for (uint32_t e = 0; e < used; e++) {
		uint32_t first = e * BB_EXTENT_PAGES;

		if (bb_xstate(e) != BB_X_MANAGED)
			continue;
		for (uint32_t i = first; i < first + BB_EXTENT_PAGES; i++) {
			bb_pw w = atomic_load(&g->pw[i]) & ~BB_PW_WAIT;

			/* HASHED and WB: a clean page, of which a second copy is being made. */
			if ((w & BB_PW_WB) && !(w & BB_PW_HASHED) && bb_pw_state(w) == BB_P_STAGED)
				w |= BB_PW_DIRTY;
			w &= ~BB_PW_WB;
			atomic_store(&b->pw[i], w);
			if (w & BB_PW_HASHED)
				b->hash[i] = g->hash[i];
		}
	}
	for (; tail < head; tail++) {
		uint32_t s = (uint32_t)(tail & (g->nslots - 1));

		b->slots[s] = g->slots[s];
		memcpy(b->stage + ((size_t)s << BB_PAGE_SHIFT), g->stage + ((size_t)s << BB_PAGE_SHIFT), BB_PAGE_SIZE);
	}
}

void bb_books_use(const struct bb_books *b)
{
	struct bb_region *g = &bb_rg;

	if (g->pw) { /* shared ones: one mapping */
		bb_sys_munmap(g->ctl, g->lay.size);
	} else {
		bb_sys_munmap(g->ctl, sizeof(*g->ctl));
		bb_sys_munmap(g->x, g->nextents * sizeof(*g->x));
	}
	g->ctl = b->ctl;
	g->x = b->x;
	g->pw = b->pw;
	g->hash = b->hash;
	g->slots = b->slots;
	g->stage = b->stage;
	g->memfd = b->fd;
	g->lay = bb_region_layout(g->npages, g->nslots);
	(void)bb_sys_madvise(g->ctl, g->lay.size, MADV_DONTFORK);
}

int bb_books_own(void)
{
	struct bb_region *g = &bb_rg;
	const int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	uint32_t used = g->rw_top;
	struct bb_region_ctl *ctl = bb_sys_mmap(NULL, sizeof(*ctl), prot, flags, -1, 0);
	struct bb_extent *x = bb_sys_mmap(NULL, g->nextents * sizeof(*x), prot, flags, -1, 0);

	if ((void *)ctl == MAP_FAILED || (void *)x == MAP_FAILED)
		return -ENOMEM;
	memcpy(ctl, g->ctl, sizeof(*ctl));
	memcpy(x, g->x, used * sizeof(*x));
	bb_sys_munmap(g->ctl, g->lay.size);
	g->ctl = ctl;
	g->x = x;
	g->pw = NULL;
	g->hash = NULL;
	g->slots = NULL;
	g->stage = NULL;
	return 0;
}
