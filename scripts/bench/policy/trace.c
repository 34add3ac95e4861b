/* SPDX-License-Identifier: MIT */
/* Reading a trace, see trace.h. */
#include "trace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bluebridge/gptr.h>

#define PAGES_MAX (1u << 28) /* a terabyte of region */

int pol_trace_make(struct pol_trace *t, const uint32_t *page, size_t n)
{
	uint32_t top = 0, next = 0, *place = NULL;
	bool *seen = NULL;
	int r = -ENOMEM;

	memset(t, 0, sizeof(*t));
	for (size_t i = 0; i < n; i++) {
		if (page[i] >= PAGES_MAX)
			return -EINVAL;
		if (page[i] / BB_EXTENT_PAGES >= top)
			top = page[i] / BB_EXTENT_PAGES + 1;
	}
	place = calloc(top + 1, sizeof(*place));
	t->page = malloc((n + 1) * sizeof(*t->page));
	if (!place || !t->page)
		goto out;
	for (size_t i = 0; i < n; i++)
		place[page[i] / BB_EXTENT_PAGES] = 1;
	for (uint32_t e = 0; e < top; e++)
		if (place[e]) {
			place[e] = next;
			next += BB_EXTENT_PAGES;
		}
	t->npages = next;
	seen = calloc(next + 1, sizeof(*seen));
	if (!seen)
		goto out;
	for (size_t i = 0; i < n; i++) {
		const uint32_t p = place[page[i] / BB_EXTENT_PAGES] + page[i] % BB_EXTENT_PAGES;

		t->footprint += !seen[p];
		seen[p] = true;
		if (!t->n || t->page[t->n - 1] != p)
			t->page[t->n++] = p;
	}
	r = 0;
out:
	free(place);
	free(seen);
	if (r)
		pol_trace_free(t);
	return r;
}

int pol_trace_load(struct pol_trace *t, const char *path)
{
	const int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct pol_file *f = MAP_FAILED;
	uint32_t *page = NULL;
	struct stat st = { 0 };
	uint64_t n = 0;
	int r = 0;

	if (fd < 0 || fstat(fd, &st) < 0)
		r = -errno;
	else if ((size_t)st.st_size < sizeof(*f))
		r = -EINVAL;
	else if ((f = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0)) == MAP_FAILED)
		r = -errno;
	if (fd >= 0)
		close(fd);
	if (r)
		return r;
	n = atomic_load(&f->n);
	if (f->magic != POL_MAGIC || n > ((size_t)st.st_size - sizeof(*f)) / sizeof(f->at[0]))
		r = -EINVAL;
	else if (f->lost)
		r = -EOVERFLOW;
	else if (!(page = calloc(n + 1, sizeof(*page))))
		r = -ENOMEM;
	for (uint64_t i = 0; !r && i < n; i++)
		page[i] = f->at[i].page;
	if (!r)
		r = pol_trace_make(t, page, n);
	if (!r && n)
		t->us = f->at[n - 1].us - f->at[0].us;
	free(page);
	munmap(f, (size_t)st.st_size);
	return r;
}

void pol_trace_free(struct pol_trace *t)
{
	free(t->page);
	memset(t, 0, sizeof(*t));
}
