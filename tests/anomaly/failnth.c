/* SPDX-License-Identifier: MIT */
/*
 * failnth.so: fails one system call, ioctl or allocation of one program or
 * library, to see what it makes of that.
 *
 * Theory of operation
 * -------------------
 * Preloaded, it stands before the C library's functions that can fail. A call
 * counts if it comes from FAILNTH_IN (a library's name; unset: the program
 * itself), told by its return address; all others pass. The places that calls
 * come from are numbered in the order in which they are first reached, in a
 * file (FAILNTH_STATE) that all processes of a run map. At place FAILNTH_SITE
 * (1, 2, 3 ...) the calls FAILNTH_COUNT (1) to FAILNTH_COUNT + FAILNTH_TIMES (1)
 * - 1 fail, with the error number FAILNTH_VARIANT of those that the kernel has
 * for it; the file then says what was done. So a loop over the places ends at
 * the first that is never reached. Or, with FAILNTH_CALL (a function's, ioctl's
 * or system call's name) and FAILNTH_EVERY, one in so many such calls fails.
 *
 * A failed call is not made. It looks like one that the kernel refused: what
 * cannot fail (close, UFFDIO_WAKE of a range of ours) is left alone, and so are
 * errors that would be a lie about what is there (EEXIST of a page that is not).
 * But UFFDIO_MOVE that says EEXIST has moved a page: so does Linux 6.18.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bluebridge/kernel.h>

#define SITES 1022
#define EXPORT __attribute__((visibility("default")))

struct site {
	_Atomic uint64_t at; /* offset in the object */
	_Atomic uint32_t calls;
	uint32_t pad;
};

struct state {
	_Atomic uint32_t nsites, injected;
	char text[120];
	struct site site[SITES];
};

static struct state *state;
static uintptr_t lo, hi, base;
static const char *object;
static const char *want_call;
static uint32_t every, want_site, want_count = 1, times = 1, variant;

static int find(struct dl_phdr_info *info, size_t size, void *arg)
{
	const char *name = strrchr(info->dlpi_name, '/');

	(void)size;
	(void)arg;
	name = name ? name + 1 : info->dlpi_name;
	if (object ? strcmp(name, object) != 0 : *info->dlpi_name != 0)
		return 0;
	base = info->dlpi_addr;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];

		if (p->p_type == PT_LOAD && (p->p_flags & PF_X)) {
			lo = base + p->p_vaddr;
			hi = lo + p->p_memsz;
		}
	}
	return 1;
}

static uint32_t number(const char *name, uint32_t fallback)
{
	const char *s = getenv(name);

	return s ? (uint32_t)strtoul(s, NULL, 10) : fallback;
}

__attribute__((constructor(101))) static void start(void)
{
	const char *path = getenv("FAILNTH_STATE");
	void *p;
	int fd;

	if (!path)
		return;
	object = getenv("FAILNTH_IN");
	want_site = number("FAILNTH_SITE", 0);
	want_call = getenv("FAILNTH_CALL");
	every = number("FAILNTH_EVERY", 0);
	want_count = number("FAILNTH_COUNT", 1);
	times = number("FAILNTH_TIMES", 1);
	variant = number("FAILNTH_VARIANT", 0);
	fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || syscall(SYS_ftruncate, fd, sizeof(*state)) < 0)
		abort();
	p = (void *)syscall(SYS_mmap, NULL, sizeof(*state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		abort();
	syscall(SYS_close, fd);
	dl_iterate_phdr(find, NULL);
	state = p;
}

static struct site *site_of(uint64_t at, uint32_t *n)
{
	for (uint32_t i = 0; i < SITES; i++) {
		uint64_t none = 0;

		if (atomic_load(&state->site[i].at) == at ||
		    (!atomic_load(&state->site[i].at) && atomic_compare_exchange_strong(&state->site[i].at, &none, at)) ||
		    atomic_load(&state->site[i].at) == at) {
			*n = i + 1;
			if (*n > atomic_load(&state->nsites))
				atomic_store(&state->nsites, *n);
			return &state->site[i];
		}
	}
	return NULL;
}

/* One in so many, but not in step with what is tried again in turn. */
static uint32_t mix(uint32_t z)
{
	z = (z ^ z >> 16) * 0x45d9f3bu;
	z = (z ^ z >> 16) * 0x45d9f3bu;
	return z ^ z >> 16;
}

/* Return: the error that the call from there ends in, or 0. */
static int fails(const char *name, const void *from, const int *errors)
{
	uintptr_t a = (uintptr_t)from;
	uint32_t n, calls, count = 0;
	struct site *s;
	int error;

	if (!state || a < lo || a >= hi)
		return 0;
	s = site_of(a - base, &n);
	if (!s)
		return 0;
	calls = atomic_fetch_add(&s->calls, 1) + 1;
	if (want_call && every ? strcmp(name, want_call) != 0 || mix(calls) % every
			       : n != want_site || calls < want_count || calls - want_count >= times)
		return 0;
	while (errors[count])
		count++;
	error = errors[variant % count];
	if (!atomic_fetch_add(&state->injected, 1))
		snprintf(state->text, sizeof(state->text), "%s %d 0x%lx call %u variants %u", name, error,
			 (unsigned long)(a - base), calls, count);
	errno = error;
	return error;
}

typedef long call6(long, long, long, long, long, long);

static call6 *real(const char *name)
{
	/* ISO C has no conversion from an object's to a function's pointer. */
	union {
		void *p;
		call6 *f;
	} u = { .p = dlsym(RTLD_NEXT, name) };

	if (!u.f)
		abort();
	return u.f;
}

#define ERRORS(...) ((const int[]){ __VA_ARGS__, 0 })

/* Integers and pointers lie in the same registers, named arguments or not. */
#define STAND(name, bad, ...)                                                                                          \
	EXPORT long stand_##name(long a, long b, long c, long d, long e, long f) __asm__(#name);                       \
	long stand_##name(long a, long b, long c, long d, long e, long f)                                              \
	{                                                                                                              \
		static call6 *next;                                                                                    \
		int error = fails(#name, __builtin_return_address(0), ERRORS(__VA_ARGS__));                            \
                                                                                                                       \
		if (error)                                                                                             \
			return bad;                                                                                    \
		if (!next)                                                                                             \
			next = real(#name);                                                                            \
		return next(a, b, c, d, e, f);                                                                         \
	}

STAND(mmap, -1, ENOMEM)
STAND(munmap, -1, ENOMEM)
STAND(madvise, -1, EAGAIN, ENOMEM)
STAND(open, -1, EMFILE, EACCES, ENOENT)
STAND(openat, -1, EMFILE, EACCES, ENOENT)
STAND(stat, -1, EACCES, ENOENT)
STAND(fstat, -1, ENOMEM)
STAND(lstat, -1, EACCES)
STAND(fstatvfs, -1, EIO)
STAND(access, -1, EACCES)
STAND(link, -1, EMLINK, EPERM)
STAND(unlink, -1, EPERM)
STAND(unlinkat, -1, EPERM)
STAND(mkdir, -1, EACCES, ENOSPC)
STAND(chmod, -1, EPERM)
STAND(fchmod, -1, EPERM)
STAND(fsync, -1, EIO)
STAND(readlink, -1, EACCES)
STAND(socket, -1, EMFILE, ENOBUFS, EAFNOSUPPORT)
STAND(bind, -1, EADDRINUSE, EACCES)
STAND(listen, -1, EADDRINUSE)
STAND(connect, -1, ECONNREFUSED, EAGAIN)
STAND(accept4, -1, EMFILE, ECONNABORTED, ENOMEM)
STAND(setsockopt, -1, ENOPROTOOPT, ENOMEM, EPERM)
STAND(getsockopt, -1, ENOPROTOOPT)
STAND(getsockname, -1, ENOBUFS)
STAND(send, -1, ENOBUFS, EPERM, EAGAIN, EPIPE)
STAND(sendto, -1, ENOBUFS, EPERM, ENETUNREACH, EMSGSIZE, ECONNREFUSED)
STAND(sendmsg, -1, ENOBUFS, EPERM, ENETUNREACH, EMSGSIZE, ECONNREFUSED)
STAND(sendmmsg, -1, ENOBUFS, EPERM, ENETUNREACH, EMSGSIZE, ECONNREFUSED)
STAND(recv, -1, EINTR, ENOMEM, ECONNRESET)
STAND(recvfrom, -1, EINTR, ENOMEM, ECONNREFUSED)
STAND(recvmsg, -1, EINTR, ENOMEM, ECONNREFUSED)
STAND(recvmmsg, -1, EINTR, ENOMEM, ECONNREFUSED)
STAND(read, -1, EINTR, EIO)
STAND(pread, -1, EINTR, EIO)
STAND(write, -1, EINTR, ENOSPC, EIO)
STAND(fcntl, -1, EMFILE, EINVAL)
STAND(eventfd, -1, EMFILE, ENOMEM)
STAND(memfd_create, -1, EMFILE, ENOMEM)
STAND(mkostemp, -1, EACCES, ENOSPC)
STAND(ftruncate, -1, ENOSPC, EINTR)
STAND(fallocate, -1, ENOSPC, ENOMEM, EINTR)
STAND(posix_fallocate, error, ENOSPC, ENOMEM)
STAND(poll, -1, EINTR, ENOMEM)
STAND(ppoll, -1, EINTR, ENOMEM)
STAND(epoll_create1, -1, EMFILE, ENOMEM)
STAND(epoll_ctl, -1, ENOMEM, ENOSPC)
STAND(epoll_wait, -1, EINTR)
STAND(fork, -1, EAGAIN, ENOMEM)
STAND(prctl, -1, EINVAL, EPERM)
STAND(setrlimit, -1, EPERM)
STAND(getrlimit, -1, EINVAL)
STAND(setsid, -1, EPERM)
STAND(dup2, -1, EMFILE)
STAND(getrandom, -1, EINTR)
STAND(getifaddrs, -1, ENOMEM)
STAND(gethostname, -1, ENAMETOOLONG)
STAND(if_nametoindex, 0, ENODEV)
STAND(sched_setaffinity, -1, EINVAL)
STAND(getaddrinfo, EAI_MEMORY, ENOMEM)
STAND(pthread_create, error, EAGAIN, EPERM)
STAND(fopen, 0, EMFILE, EACCES)
STAND(open_memstream, 0, ENOMEM)
STAND(strdup, 0, ENOMEM)
STAND(reallocarray, 0, ENOMEM)

/* These come before anything can be looked up. */
#define HEAP(name, ...)                                                                                                \
	extern void *__libc_##name(__VA_ARGS__);                                                                       \
	EXPORT void *stand_##name(size_t a, size_t b) __asm__(#name);                                                  \
	void *stand_##name(size_t a, size_t b)                                                                         \
	{                                                                                                              \
		if (fails(#name, __builtin_return_address(0), ERRORS(ENOMEM)))                                         \
			return NULL;                                                                                   \
		return CALL_##name;                                                                                    \
	}
#define CALL_malloc ((void)b, __libc_malloc(a))
#define CALL_calloc __libc_calloc(a, b)
HEAP(malloc, size_t)
HEAP(calloc, size_t, size_t)

/* --- ioctl: by request ------------------------------------------------------- */

/* What Linux 6.18 makes of a page that it had to wait for. */
static long moved(long fd, struct uffdio_move *m)
{
	const uint64_t len = m->len;
	long r;

	m->len = 4096;
	r = real("ioctl")(fd, UFFDIO_MOVE, (long)m, 0, 0, 0);
	m->len = len;
	if (r == 0) {
		m->move = -EEXIST;
		errno = EEXIST;
	}
	return -1;
}

EXPORT long stand_ioctl(long fd, unsigned long request, void *arg) __asm__("ioctl");
long stand_ioctl(long fd, unsigned long request, void *arg)
{
	static call6 *next;
	const void *from = __builtin_return_address(0);
	int error;

	switch (request) {
	case USERFAULTFD_IOC_NEW:
		error = fails("USERFAULTFD_IOC_NEW", from, ERRORS(EMFILE, EPERM));
		break;
	case UFFDIO_API:
		error = fails("UFFDIO_API", from, ERRORS(EINVAL));
		break;
	case UFFDIO_REGISTER:
		error = fails("UFFDIO_REGISTER", from, ERRORS(ENOMEM));
		break;
	case UFFDIO_UNREGISTER:
		error = fails("UFFDIO_UNREGISTER", from, ERRORS(ENOMEM));
		break;
	case UFFDIO_COPY:
		error = fails("UFFDIO_COPY", from, ERRORS(ENOMEM, EAGAIN, ENOENT));
		if (error)
			((struct uffdio_copy *)arg)->copy = -error;
		break;
	case UFFDIO_ZEROPAGE:
		error = fails("UFFDIO_ZEROPAGE", from, ERRORS(ENOMEM, EAGAIN));
		break;
	case UFFDIO_MOVE:
		error = fails("UFFDIO_MOVE", from, ERRORS(EBUSY, EAGAIN, ENOMEM, EINVAL, EEXIST));
		if (error == EEXIST)
			return moved(fd, arg);
		if (error)
			((struct uffdio_move *)arg)->move = -error;
		break;
	case UFFDIO_POISON:
		error = fails("UFFDIO_POISON", from, ERRORS(EAGAIN, ENOMEM));
		break;
	case UFFDIO_WAKE:
		error = 0;
		break;
	default:
		error = fails("ioctl", from, ERRORS(ENOTTY, ENODEV));
	}
	if (error)
		return -1;
	if (!next)
		next = real("ioctl");
	return next(fd, (long)request, (long)arg, 0, 0, 0);
}

/* --- syscall: by number ------------------------------------------------------- */

static int syscall_fails(long n, const void *from)
{
	switch (n) {
	case SYS_mmap:
		return fails("SYS_mmap", from, ERRORS(ENOMEM));
	case SYS_munmap:
		return fails("SYS_munmap", from, ERRORS(ENOMEM));
	case SYS_mprotect:
		return fails("SYS_mprotect", from, ERRORS(ENOMEM));
	case SYS_madvise:
		return fails("SYS_madvise", from, ERRORS(ENOMEM, EAGAIN));
	case SYS_mremap:
		return fails("SYS_mremap", from, ERRORS(ENOMEM));
	case SYS_memfd_create:
		return fails("SYS_memfd_create", from, ERRORS(EMFILE, ENOMEM));
	case SYS_userfaultfd:
		return fails("SYS_userfaultfd", from, ERRORS(EPERM, EMFILE));
	case SYS_futex:
		return fails("SYS_futex", from, ERRORS(EINTR, EAGAIN));
	case SYS_capset:
		return fails("SYS_capset", from, ERRORS(EPERM));
	case SYS_pidfd_open:
		return fails("SYS_pidfd_open", from, ERRORS(EMFILE, ESRCH));
	case SYS_pidfd_getfd:
		return fails("SYS_pidfd_getfd", from, ERRORS(EPERM, EMFILE));
	default:
		return 0;
	}
}

static long bare(long n, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	if (ret < 0 && ret > -4096) {
		errno = (int)-ret;
		return -1;
	}
	return ret;
}

EXPORT long stand_syscall(long n, long a, long b, long c, long d, long e, long f) __asm__("syscall");
long stand_syscall(long n, long a, long b, long c, long d, long e, long f)
{
	if (syscall_fails(n, __builtin_return_address(0)))
		return -1;
	return bare(n, a, b, c, d, e, f);
}
