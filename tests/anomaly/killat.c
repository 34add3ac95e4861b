/* SPDX-License-Identifier: MIT */
/*
 * killat.so: kills the program that it is preloaded into by SIGKILL at its
 * KILLAT-th call, 1, 2, 3 ..., of those by which bbload changes anything: so a loop over
 * the numbers, until one is never reached, kills at every step. Even numbers
 * die just after the call, odd ones before it.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

static long left = -1;

static void step(void)
{
	if (left < 0) {
		const char *s = getenv("KILLAT");

		left = s ? atol(s) : 0;
	}
	if (left > 0 && --left == 0)
		kill(getpid(), SIGKILL);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define AROUND(type, call)             \
	do {                           \
		type ret_;             \
		step();                \
		ret_ = call;           \
		step();                \
		return ret_;           \
	} while (0)

EXPORT long syscall(long n, ...)
{
	long a[6];
	va_list ap;

	va_start(ap, n);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	AROUND(long, REAL(syscall)(n, a[0], a[1], a[2], a[3], a[4], a[5]));
}

EXPORT int ioctl(int fd, unsigned long cmd, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, cmd);
	arg = va_arg(ap, void *);
	va_end(ap);
	AROUND(int, REAL(ioctl)(fd, cmd, arg));
}

EXPORT int mkdir(const char *path, mode_t mode) { AROUND(int, REAL(mkdir)(path, mode)); }
EXPORT int rmdir(const char *path) { AROUND(int, REAL(rmdir)(path)); }
EXPORT int unlink(const char *path) { AROUND(int, REAL(unlink)(path)); }
EXPORT int unlinkat(int fd, const char *path, int flags) { AROUND(int, REAL(unlinkat)(fd, path, flags)); }
EXPORT int rename(const char *from, const char *to) { AROUND(int, REAL(rename)(from, to)); }
EXPORT int umount2(const char *path, int flags) { AROUND(int, REAL(umount2)(path, flags)); }
EXPORT ssize_t send(int fd, const void *b, size_t n, int flags) { AROUND(ssize_t, REAL(send)(fd, b, n, flags)); }

EXPORT int mount(const char *what, const char *where, const char *type, unsigned long flags, const void *data)
{
	AROUND(int, REAL(mount)(what, where, type, flags, data));
}
