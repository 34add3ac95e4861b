/* SPDX-License-Identifier: MIT */
/*
 * A program that attaches to bbd and then does what libbb.so never does: while
 * threads of it fault, others write anything into the shared books, play with
 * the descriptors that bbd holds too, and change the memory that is paged. It
 * may hurt itself only. Each attack is a process of its own, ended by SIGKILL.
 *
 *	bbhostile SOCKET SEED SECONDS
 *
 * Exit status: 0 when the time is over; 1 where bbd could not be reached.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <bluebridge/kernel.h>
#include <bluebridge/local.h>
#include <bluebridge/region.h>

#define NPAGES (BB_EXTENT_PAGES * 8)
#define NSLOTS 256u
#define SIZE ((size_t)NPAGES << BB_PAGE_SHIFT)

static struct {
	uint8_t *base, *map;
	struct bb_region_layout lay;
	struct bb_region_ctl *ctl;
	struct bb_extent *x;
	_Atomic bb_pw *pw;
	struct bb_hash *hash;
	struct bb_slot *slots;
	int sock, uffd, memfd, kick;
	uint64_t seed;
} a;

static uint64_t rnd(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static int dial(const char *path)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	struct timeval limit = { .tv_sec = 5 };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (fd >= 0 && connect(fd, (struct sockaddr *)&un, sizeof(un)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* --- descriptors, good and bad ------------------------------------------------- */

static int make_uffd(uint64_t *r, uint64_t *features)
{
	static const uint64_t some[] = { 0, UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP, UFFD_FEATURE_EVENT_REMAP,
					 UFFD_FEATURE_EVENT_FORK, UFFD_FEATURE_SIGBUS, UFFD_FEATURE_POISON };
	struct uffdio_api api = { .api = UFFD_API, .features = some[rnd(r) % 6] };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0 && rnd(r) % 16 && ioctl(fd, UFFDIO_API, &api) < 0) {
		api = (struct uffdio_api){ .api = UFFD_API };
		ioctl(fd, UFFDIO_API, &api);
	}
	*features = rnd(r) % 4 ? api.features : rnd(r);
	return fd;
}

static int make_memfd(uint64_t *r)
{
	unsigned int huge = rnd(r) % 12 ? 0 : MFD_HUGETLB;
	size_t size = huge ? (a.lay.size + (2 << 20) - 1) & ~(size_t)((2 << 20) - 1) : a.lay.size;
	int fd = memfd_create("hostile", MFD_CLOEXEC | MFD_ALLOW_SEALING | huge);

	if (fd >= 0 && ftruncate(fd, (off_t)(rnd(r) % 12 ? size : rnd(r) % (2 * size))) < 0)
		return fd;
	fcntl(fd, F_ADD_SEALS, rnd(r) % 12 ? F_SEAL_SHRINK | F_SEAL_GROW : (int)(rnd(r) % 32));
	return fd;
}

static int make_kick(uint64_t *r)
{
	int p[2];

	if (rnd(r) % 12 == 0)
		return pipe(p) ? -1 : p[rnd(r) % 2];
	return eventfd((unsigned int)rnd(r), rnd(r) % 2 ? EFD_SEMAPHORE : 0);
}

static bool attach(const char *path, uint64_t *r)
{
	struct bb_attach_req req = { .magic = BB_ATTACH_MAGIC, .size = sizeof(req), .pid = (uint32_t)rnd(r),
				     .budget = rnd(r) % 4 ? 8u << 20 : rnd(r), .staging_pages = NSLOTS,
				     .place = rnd(r) % 4 ? 0 : (uint16_t)rnd(r), .place_node = (uint16_t)(rnd(r) % 4) };
	struct iovec iov = { &req, sizeof(req) };
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(16 * sizeof(int))];
	} c = { 0 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = c.buf };
	struct bb_attach_rep rep;
	int fds[16], n = rnd(r) % 16 ? 3 : (int)(rnd(r) % 16);

	a.uffd = make_uffd(r, &req.uffd_features);
	a.memfd = make_memfd(r);
	a.kick = make_kick(r);
	a.map = mmap(NULL, a.lay.size, PROT_READ | PROT_WRITE, MAP_SHARED, a.memfd, 0);
	if (a.uffd < 0 || a.memfd < 0 || a.kick < 0)
		return false;
	if (a.map != MAP_FAILED) {
		a.ctl = (void *)a.map;
		a.x = (void *)(a.map + a.lay.extents);
		a.pw = (void *)(a.map + a.lay.words);
		a.hash = (void *)(a.map + a.lay.hashes);
		a.slots = (void *)(a.map + a.lay.slots);
		a.ctl->magic = BB_REGION_MAGIC;
		a.ctl->version = BB_REGION_VERSION;
		a.ctl->base = rnd(r) % 16 ? (uintptr_t)a.base : rnd(r);
		a.ctl->npages = rnd(r) % 16 ? NPAGES : rnd(r);
		a.ctl->nslots = rnd(r) % 16 ? NSLOTS : (uint32_t)rnd(r);
		a.ctl->stage_tail = a.ctl->stage_head = rnd(r) % 4 ? 0 : rnd(r);
	}
	for (int i = 0; i < 16; i++)
		fds[i] = i == 0 ? a.uffd : i == 1 ? a.memfd : i == 2 ? a.kick : a.sock;
	if (rnd(r) % 16 == 0)
		fds[rnd(r) % 3] = fds[rnd(r) % 3];
	if (rnd(r) % 16 == 0)
		req.flags = (uint32_t)(rnd(r) % 4), req.region = (uint32_t)(rnd(r) % 300);
	m.msg_controllen = n ? CMSG_SPACE((size_t)n * sizeof(int)) : 0;
	c.h = (struct cmsghdr){ .cmsg_len = CMSG_LEN((size_t)n * sizeof(int)), .cmsg_level = SOL_SOCKET,
				.cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(&c.h), fds, (size_t)n * sizeof(int));
	if (rnd(r) % 16 == 0)
		iov.iov_len = rnd(r) % sizeof(req);
	if (sendmsg(a.sock, &m, MSG_NOSIGNAL) < 0)
		return false;
	if (iov.iov_len != sizeof(req))
		return false; /* cut short: that was it */
	return recv(a.sock, &rep, sizeof(rep), 0) == sizeof(rep) && !rep.error && a.map != MAP_FAILED;
}

/* --- what its threads do --------------------------------------------------------- */

static void *touch(void *arg)
{
	uint64_t r = a.seed ^ (uintptr_t)arg;

	for (;;) {
		volatile uint8_t *p = a.base + rnd(&r) % SIZE;

		if (rnd(&r) % 2)
			*p = (uint8_t)r;
		else
			(void)*p;
	}
	return NULL;
}

/* Words that look right lead further in than random ones. */
static bb_pw a_word(uint64_t *r)
{
	bb_pw w = rnd(r) & (BB_PW_FLAGS | BB_PW_GEN);

	if (rnd(r) % 8 == 0)
		return rnd(r);
	w = bb_pw_with(w, (enum bb_page_state)(rnd(r) % 9));
	w = bb_pw_with_slot(w, (uint32_t)(rnd(r) % (NSLOTS + 4)));
	return bb_pw_with_rx(w, (uint32_t)(rnd(r) % 12));
}

static void *scribble(void *arg)
{
	uint64_t r = a.seed ^ 0x5a5a5a5a;
	const uint64_t odd[] = { 0, 1, UINT64_MAX, INT64_MAX, (uint64_t)INT64_MIN, NSLOTS, NPAGES };

	for (;;) {
		uint32_t page = (uint32_t)(rnd(&r) % NPAGES);
		uint64_t v = rnd(&r) % 2 ? odd[rnd(&r) % 7] : rnd(&r);

		switch (rnd(&r) % 12) {
		case 0 ... 4:
			atomic_store(&a.pw[page], a_word(&r));
			break;
		case 5:
			atomic_store(&a.x[page / BB_EXTENT_PAGES].state, rnd(&r) % 8 ? BB_X_MANAGED : (uint8_t)(rnd(&r) % 7));
			break;
		case 6:
			a.hash[page].w[v % 3] = (uint32_t)v;
			break;
		case 7:
			atomic_store(&a.slots[rnd(&r) % NSLOTS].page, rnd(&r) % 2 ? page : v);
			break;
		case 8: /* stages a page as the helper would, or nearly */
			v = atomic_load(&a.ctl->stage_head);
			atomic_store(&a.slots[v % NSLOTS].page, page);
			atomic_store(&a.pw[page],
				     bb_pw_with_slot((rnd(&r) % 4 ? BB_PW_DIRTY : 0) | BB_P_STAGED, (uint32_t)(v % NSLOTS)));
			if (v - atomic_load(&a.ctl->stage_tail) < NSLOTS)
				atomic_store(&a.ctl->stage_head, v + 1);
			break;
		case 9:
			atomic_store(&a.ctl->resident, rnd(&r) % 2 ? 0 : (int64_t)v);
			break;
		case 10:
			if (rnd(&r) % 64 == 0)
				((_Atomic uint64_t *)a.map)[rnd(&r) % 64] = v; /* the fixed part, too */
			else
				atomic_store(rnd(&r) % 2 ? &a.ctl->limit : &a.ctl->low, (int64_t)v);
			break;
		default:
			if (rnd(&r) % 4096 == 0)
				atomic_store(rnd(&r) % 2 ? &a.ctl->stage_head : &a.ctl->stage_tail, v);
			break;
		}
	}
	return NULL;
}

static void *meddle(void *arg)
{
	uint64_t r = a.seed ^ 0xc3c3c3c3, one = 1;

	for (;;) {
		uint8_t *at = a.base + (rnd(&r) % NPAGES << BB_PAGE_SHIFT);
		size_t len = (rnd(&r) % 64 + 1) << BB_PAGE_SHIFT;
		struct uffdio_register reg = { .range = { (uintptr_t)a.base, SIZE }, .mode = UFFDIO_REGISTER_MODE_MISSING };
		struct bb_msg m = { BB_MSG_MAGIC, (uint32_t)(rnd(&r) % 4), (uint32_t)rnd(&r), 0, { rnd(&r), 0 } };

		switch (rnd(&r) % 12) {
		case 0:
			madvise(at, len, MADV_DONTNEED);
			break;
		case 1:
			mprotect(at, len, rnd(&r) % 2 ? PROT_READ : PROT_READ | PROT_WRITE);
			break;
		case 2:
			if (rnd(&r) % 16 == 0)
				munmap(at, len);
			break;
		case 3:
			ioctl(a.uffd, UFFDIO_UNREGISTER, &reg.range);
			break;
		case 4:
			ioctl(a.uffd, UFFDIO_REGISTER, &reg);
			break;
		case 5: /* the flag of a file that bbd reads */
			fcntl(a.uffd, F_SETFL, rnd(&r) % 8 ? O_NONBLOCK : 0);
			fcntl(a.kick, F_SETFL, rnd(&r) % 2 ? O_NONBLOCK : 0);
			break;
		case 6:
			fallocate(a.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				  (off_t)(rnd(&r) % a.lay.size & ~(uint64_t)BB_PAGE_MASK), (off_t)len);
			break;
		case 7:
			if (rnd(&r) % 8 == 0)
				(void)!send(a.sock, &m, rnd(&r) % 8 ? sizeof(m) : rnd(&r) % sizeof(m), MSG_NOSIGNAL | MSG_DONTWAIT);
			break;
		case 8:
			if (rnd(&r) % 64 == 0 && fork() == 0) {
				usleep(20000);
				_exit(0);
			}
			break;
		default:
			(void)!write(a.kick, &one, sizeof(one));
			usleep(200);
		}
	}
	return NULL;
}

static void attack(const char *path, uint64_t seed)
{
	uint64_t r = seed * 0x9e3779b97f4a7c15ULL | 1;
	struct uffdio_register reg;
	pthread_t t;
	char *p;

	a.seed = r;
	a.lay = bb_region_layout(NPAGES, NSLOTS);
	p = mmap(NULL, SIZE + BB_EXTENT_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	a.base = (uint8_t *)(((uintptr_t)p + BB_EXTENT_SIZE - 1) & ~(BB_EXTENT_SIZE - 1));
	a.sock = dial(path);
	if (a.sock < 0)
		_exit(1);
	if (rnd(&r) % 8 == 0) { /* no request at all */
		for (int i = 0; i < 64; i++)
			(void)!send(a.sock, &r, rnd(&r) % 8 + 1, MSG_NOSIGNAL | MSG_DONTWAIT);
		_exit(0);
	}
	if (!attach(path, &r))
		_exit(0);
	reg = (struct uffdio_register){ .range = { (uintptr_t)a.base, SIZE }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	ioctl(a.uffd, UFFDIO_REGISTER, &reg);
	for (uint32_t e = 0; e < NPAGES / BB_EXTENT_PAGES; e++)
		atomic_store(&a.x[e].state, rnd(&r) % 4 ? BB_X_MANAGED : BB_X_FRESH);
	pthread_create(&t, NULL, touch, (void *)1);
	pthread_create(&t, NULL, touch, (void *)2);
	pthread_create(&t, NULL, meddle, NULL);
	/* At first only what the words of an honest program would lead to. */
	usleep(rnd(&r) % 20000);
	pthread_create(&t, NULL, scribble, NULL);
	usleep(20000 + rnd(&r) % 200000);
	kill(getpid(), SIGKILL);
}

int main(int argc, char **argv)
{
	uint64_t seed, n;
	time_t end;
	int st;

	if (argc != 4) {
		fprintf(stderr, "usage: bbhostile SOCKET SEED SECONDS\n");
		return 2;
	}
	seed = strtoull(argv[2], NULL, 0);
	end = time(NULL) + atoi(argv[3]);
	for (n = 0; time(NULL) < end; n++) {
		pid_t pid = fork();

		if (!pid) {
			alarm(20); /* its default ends it, whatever hangs */
			attack(argv[1], seed + n);
		}
		if (pid < 0 || waitpid(pid, &st, 0) < 0 || (WIFEXITED(st) && WEXITSTATUS(st))) {
			fprintf(stderr, "bbhostile: seed %lu: bbd cannot be reached\n", (unsigned long)(seed + n));
			return 1;
		}
	}
	printf("bbhostile: %lu attacks from seed %lu on\n", (unsigned long)n, (unsigned long)seed);
	return 0;
}
