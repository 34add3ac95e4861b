/* SPDX-License-Identifier: MIT */
/*
 * Slabs of lent memory. A store's files have no name (O_TMPFILE, or unlinked
 * at once), so a daemon that is killed leaves nothing on the disk. Room on
 * the disk is taken before an extent is handed out: a full disk is then an
 * answer to CREATE, never a SIGBUS in the middle of a WRITE.
 */
#include "slab.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "keep/keep.h"
#include "log.h"
#include "options.h"

/* An unnamed file in the store. Return: fd or -errno. */
static int store_file(int dir)
{
	char name[64];
	int fd = openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd >= 0)
		return fd;
	if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)
		return -errno;
	for (unsigned int i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), ".bbd-slab-%d-%u", (int)getpid(), i);
		fd = openat(dir, name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (fd >= 0) {
			unlinkat(dir, name, 0);
			return fd;
		}
		if (errno != EEXIST)
			break;
	}
	return -errno;
}

static const char *const kind_name[BB_SLAB_KINDS] = { "home.slab.", "home.file.", "home.map." };

static void slab_name(char name[BB_KEEP_NAME], enum bb_slab_kind kind, uint64_t index)
{
	snprintf(name, BB_KEEP_NAME, "%s%llu", kind_name[kind], (unsigned long long)index);
}

unsigned int bb_slabs_kept(struct bb_keep *keep)
{
	unsigned int n = 0;

	for (int kind = 0; kind < BB_SLAB_KINDS; kind++)
		n += bb_keep_list(keep, kind_name[kind], NULL, 0);
	return n;
}

/* Return: fd of a new slab, all zeros, that is kept; or -errno. */
static int slab_open(const struct bb_slabs *s, uint64_t index)
{
	char name[BB_KEEP_NAME];
	bool found;
	int fd, ret;

	slab_name(name, s->dir >= 0 ? BB_SLAB_FILE : BB_SLAB_MEMFD, index);
	if (s->dir < 0)
		return bb_keep_memory(s->keep, name, BB_SLAB_SIZE, &found);
	fd = store_file(s->dir);
	if (fd < 0)
		return fd;
	/* Where each write takes new room (btrfs), reserving would be in vain. */
	ioctl(fd, FS_IOC_SETFLAGS, &(int){ FS_NOCOW_FL });
	ret = ftruncate(fd, (off_t)BB_SLAB_SIZE) ? -errno : bb_keep_put(s->keep, name, fd);
	if (ret) {
		close(fd);
		return ret;
	}
	return fd;
}

/* Maps slab index, which is not grown yet. Return: 0 or -errno; the descriptor is ours only then. */
static int slab_map(struct bb_slabs *s, uint64_t index, int fd, enum bb_slab_kind kind)
{
	uint8_t *at = s->base + (index << BB_SLAB_SHIFT);
	struct bb_slab_side *side = NULL;
	int ret;

	if (kind == BB_SLAB_MAP) {
		side = mmap(NULL, sizeof(*side), PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)BB_SLAB_SIZE);
		if (side == MAP_FAILED)
			return -errno;
		madvise(side, sizeof(*side), MADV_DONTFORK);
	}
	if (mmap(at, BB_SLAB_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, 0) == MAP_FAILED) {
		ret = -errno;
		if (side)
			munmap(side, sizeof(*side));
		return ret;
	}
	/* Other programs' data has no place in a core file or in a child. */
	madvise(at, BB_SLAB_SIZE, MADV_DONTDUMP);
	madvise(at, BB_SLAB_SIZE, MADV_DONTFORK);
	s->slab[index] = (struct bb_slab){ .fd = fd, .kind = kind, .side = side };
	return 0;
}

static void slab_unmap(struct bb_slabs *s, uint64_t index)
{
	struct bb_slab *slab = &s->slab[index];

	mmap(s->base + (index << BB_SLAB_SHIFT), BB_SLAB_SIZE, PROT_NONE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
	if (slab->side)
		munmap(slab->side, sizeof(*slab->side));
	*slab = (struct bb_slab){ .fd = -1 };
}

static uint64_t slabs(const struct bb_slabs *s)
{
	return atomic_load_explicit(&s->grown, memory_order_relaxed) >> BB_SLAB_SHIFT;
}

static void add(struct bb_slabs *s)
{
	atomic_store_explicit(&s->grown, (slabs(s) + 1) << BB_SLAB_SHIFT, memory_order_release);
}

int bb_slabs_grow(struct bb_slabs *s)
{
	const uint64_t index = slabs(s);
	int fd, ret;

	if (index << BB_SLAB_SHIFT >= s->size)
		return -ENOSPC;
	if (s->ahead == BB_AHEAD_READY) {
		s->ahead = BB_AHEAD_NONE;
		add(s);
		return 0;
	}
	if (s->maps && s->ahead != BB_AHEAD_FAILED)
		return -EAGAIN;
	s->ahead = BB_AHEAD_NONE;
	fd = slab_open(s, index);
	if (fd < 0)
		return fd;
	ret = slab_map(s, index, fd, s->dir >= 0 ? BB_SLAB_FILE : BB_SLAB_MEMFD);
	if (ret)
		close(fd);
	else
		add(s);
	return ret;
}

/* --- maps, made ahead ----------------------------------------------------- */

void bb_slabs_maps(struct bb_slabs *s, bool on)
{
	s->maps = on && s->dir < 0;
	if (s->ahead == BB_AHEAD_WANTED || s->ahead == BB_AHEAD_FAILED)
		s->ahead = BB_AHEAD_NONE;
}

bool bb_slabs_want(struct bb_slabs *s)
{
	if (!s->maps || s->ahead != BB_AHEAD_NONE || atomic_load(&s->grown) >= s->size)
		return false;
	s->ahead = BB_AHEAD_WANTED;
	return true;
}

bool bb_slabs_claim(struct bb_slabs *s, uint64_t *index)
{
	if (s->ahead != BB_AHEAD_WANTED)
		return false;
	s->ahead = BB_AHEAD_MAKING;
	*index = slabs(s);
	return true;
}

int bb_slabs_prepare(struct bb_slabs *s, uint64_t index, int fd)
{
	char name[BB_KEEP_NAME];
	int ret = slab_map(s, index, fd, BB_SLAB_MAP);

	if (ret)
		return ret;
	slab_name(name, BB_SLAB_MAP, index);
	ret = bb_keep_put(s->keep, name, fd);
	if (ret)
		slab_unmap(s, index);
	return ret;
}

void bb_slabs_made(struct bb_slabs *s, bool ok)
{
	s->ahead = ok ? BB_AHEAD_READY : BB_AHEAD_FAILED;
}

int bb_slabs_next_map(const struct bb_slabs *s, uint64_t *index)
{
	const uint64_t n = slabs(s) + (s->ahead == BB_AHEAD_READY);

	for (; *index < n; ++*index)
		if (s->slab[*index].kind == BB_SLAB_MAP)
			return s->slab[*index].fd;
	return -1;
}

void bb_slabs_publish(struct bb_slabs *s, uint64_t offset, uint64_t word)
{
	struct bb_slab_side *side = s->slab[offset >> BB_SLAB_SHIFT].side;

	if (side)
		atomic_store(&side->word[(offset & (BB_SLAB_SIZE - 1)) >> BB_EXTENT_SHIFT], word);
}

void bb_slabs_settle(struct bb_slabs *s)
{
	for (uint64_t i = 0; i < slabs(s); i++) {
		struct bb_slab_side *side = s->slab[i].side;

		for (unsigned int k = 0; side && k < BB_SLAB_PAGES; k++) {
			uint32_t seq = atomic_load_explicit(&side->seq[k], memory_order_relaxed);

			/* The version rises, so that whoever copies it now sees that it was torn. */
			if (seq & BB_SEQ_WRITERS)
				atomic_store(&side->seq[k], (seq | BB_SEQ_WRITERS) + 1);
		}
	}
}

/* --- what a predecessor left ------------------------------------------------ */

/* The predecessor's slab of that number. Return: fd or -ENOENT. */
static int slab_kept(const struct bb_slabs *s, uint64_t index, enum bb_slab_kind *kind)
{
	char name[BB_KEEP_NAME];
	int fd;

	for (*kind = 0; *kind < BB_SLAB_KINDS; ++*kind) {
		slab_name(name, *kind, index);
		fd = bb_keep_get(s->keep, name);
		if (fd >= 0)
			return fd;
	}
	return -ENOENT;
}

static int map_kept(struct bb_slabs *s, uint64_t n)
{
	enum bb_slab_kind kind;

	for (uint64_t i = 0; i < n; i++) {
		int fd = slab_kept(s, i, &kind), ret;

		if (fd < 0)
			return -EUCLEAN;
		ret = slab_map(s, i, fd, kind);
		if (ret) {
			close(fd);
			return ret;
		}
		add(s);
	}
	return 0;
}

static int punch(const struct bb_slabs *s, uint64_t offset, uint64_t len)
{
	int ret;

	do {
		ret = fallocate(s->slab[offset >> BB_SLAB_SHIFT].fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				(off_t)(offset & (BB_SLAB_SIZE - 1)), (off_t)len);
	} while (ret && errno == EINTR);
	return ret ? -errno : 0;
}

int bb_slabs_back(struct bb_slabs *s, uint64_t offset, uint64_t len)
{
	const off_t at = (off_t)(offset & (BB_SLAB_SIZE - 1));
	const struct bb_slab *slab = &s->slab[offset >> BB_SLAB_SHIFT];
	const int fd = slab->fd;
	int ret;

	if (slab->kind != BB_SLAB_FILE)
		return 0;
	do {
		ret = fallocate(fd, 0, at, (off_t)len) ? -errno : 0;
	} while (ret == -EINTR);
	/* Some network file systems cannot reserve: the C library then writes. */
	if (ret == -EOPNOTSUPP)
		ret = -posix_fallocate(fd, at, (off_t)len);
	if (ret) {
		punch(s, offset, len); /* a part may have been taken */
		return ret == -EDQUOT || ret == -EFBIG ? -ENOSPC : ret;
	}
	return 0;
}

void bb_slabs_discard(struct bb_slabs *s, uint64_t offset, uint64_t len)
{
	struct bb_slab *slab = &s->slab[offset >> BB_SLAB_SHIFT];

	/*
	 * Where no hole can be punched the bytes must still go; the room is there.
	 * A map has no holes: its memory goes when all of it does. Behind a hole a NIC
	 * would go on to use pages that nobody else sees any more.
	 */
	atomic_fetch_add(&s->punching, 1);
	if (slab->kind == BB_SLAB_MAP || atomic_load(&slab->pinned) || punch(s, offset, len))
		memset(s->base + offset, 0, len);
	atomic_fetch_sub(&s->punching, 1);
}

int bb_slabs_pin(struct bb_slabs *s, uint64_t index)
{
	const struct timespec ms = { .tv_nsec = 1000000 };

	if (s->slab[index].kind == BB_SLAB_FILE)
		return -EOPNOTSUPP;
	atomic_store(&s->slab[index].pinned, true);
	/* Who looked before that is at it for some milliseconds at most. */
	for (int i = 0; atomic_load(&s->punching); i++) {
		if (i == 1000) {
			atomic_store(&s->slab[index].pinned, false);
			return -ETIMEDOUT;
		}
		nanosleep(&ms, NULL);
	}
	return 0;
}

void bb_slabs_unpin(struct bb_slabs *s, uint64_t index)
{
	atomic_store(&s->slab[index].pinned, false);
}

/* One descriptor a slab: ask for what the whole of it will need. */
static void raise_nofile(uint64_t slabs)
{
	const rlim_t need = slabs + 512;
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r) || r.rlim_cur >= need)
		return;
	if (r.rlim_max < need)
		r.rlim_max = need; /* root may */
	r.rlim_cur = need;
	if (!setrlimit(RLIMIT_NOFILE, &r))
		return;
	getrlimit(RLIMIT_NOFILE, &r);
	r.rlim_cur = r.rlim_max;
	setrlimit(RLIMIT_NOFILE, &r);
	if (r.rlim_max < need)
		bb_warn("lending needs %llu file descriptors and the limit is %llu, so less can be lent; "
			"raise it (LimitNOFILE= of the service, or ulimit -n)",
			(unsigned long long)need, (unsigned long long)r.rlim_max);
}

static int store_open(struct bb_slabs *s, const char *store, uint64_t size)
{
	char want[16], have[16];
	struct statvfs v;
	int fd, ret;

	s->dir = open(store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->dir < 0) {
		ret = -errno;
		bb_error("cannot open the store %s: %m; --store takes a directory that exists", store);
		return ret;
	}
	fd = store_file(s->dir);
	if (fd < 0) {
		ret = fd;
		errno = -fd;
		bb_error("cannot make a file in the store %s: %m; --store takes a directory that bbd may write to", store);
		close(s->dir);
		s->dir = -1;
		return ret;
	}
	close(fd);
	if (!fstatvfs(s->dir, &v) && (uint64_t)v.f_bavail * v.f_frsize < size)
		bb_warn("the store %s has %s free, less than the %s to be lent; CREATE is refused when it is full", store,
			bb_size_format((uint64_t)v.f_bavail * v.f_frsize, have, sizeof(have)),
			bb_size_format(size, want, sizeof(want)));
	return 0;
}

int bb_slabs_init(struct bb_slabs *s, uint64_t size, const char *store, struct bb_keep *keep)
{
	const uint64_t kept = bb_slabs_kept(keep);
	uint64_t nslabs = (size + BB_SLAB_SIZE - 1) >> BB_SLAB_SHIFT;
	char text[16];
	int ret;

	if (nslabs < kept)
		nslabs = kept;
	memset(s, 0, sizeof(*s));
	s->size = nslabs << BB_SLAB_SHIFT;
	s->dir = -1;
	s->keep = keep;
	if (!nslabs)
		return 0;
	s->slab = calloc(nslabs, sizeof(*s->slab));
	if (!s->slab)
		return -ENOMEM;
	if (store) {
		ret = store_open(s, store, size);
		if (ret)
			goto err_slab;
	}
	s->base = mmap(NULL, s->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (s->base == MAP_FAILED) {
		ret = -errno;
		s->base = NULL;
		bb_error("cannot reserve %s of address space to lend: %m", bb_size_format(s->size, text, sizeof(text)));
		goto err_dir;
	}
	raise_nofile(nslabs);
	ret = map_kept(s, kept);
	if (!ret)
		return 0;
	bb_slabs_fini(s);
	return ret;

err_dir:
	if (s->dir >= 0)
		close(s->dir);
err_slab:
	free(s->slab);
	s->slab = NULL;
	return ret;
}

void bb_slabs_fini(struct bb_slabs *s)
{
	const uint64_t n = slabs(s) + (s->ahead == BB_AHEAD_READY);

	if (s->base)
		munmap(s->base, s->size);
	for (uint64_t i = 0; i < n; i++) {
		if (s->slab[i].side)
			munmap(s->slab[i].side, sizeof(*s->slab[i].side));
		close(s->slab[i].fd);
	}
	if (s->dir >= 0)
		close(s->dir);
	free(s->slab);
	memset(s, 0, sizeof(*s));
	s->dir = -1;
}
