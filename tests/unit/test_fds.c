/* SPDX-License-Identifier: MIT */
/* preload/fds.c: hidden descriptors survive all that a program may do to close them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "../../preload/fds.c"

/* The test's own close and dup2 are those of fds.c; behind them is the kernel. */
static int k_close(int fd)
{
	return (int)syscall(SYS_close, fd);
}

static int k_dup3(int from, int to, int flags)
{
	return (int)syscall(SYS_dup3, from, to, flags);
}

static int k_dup2(int from, int to)
{
	return from == to ? fcntl(from, F_GETFD) < 0 ? -1 : to : k_dup3(from, to, 0);
}

static bool no_close_range;

static int k_close_range(unsigned int first, unsigned int last, int flags)
{
	if (no_close_range) {
		errno = ENOSYS;
		return -1;
	}
	return (int)syscall(436, first, last, flags);
}

struct bb_real bb_real = {.close = k_close, .dup2 = k_dup2, .dup3 = k_dup3, .close_range = k_close_range};

static int make_hidden(void)
{
	int fd = eventfd(7, 0), h;

	assert_true(fd >= 0);
	h = bb_fd_hide(fd);
	assert_true(h >= 0);
	if (h != fd) {
		assert_int_equal(fcntl(fd, F_GETFD), -1);
		assert_true(h > 100);
	}
	assert_int_equal(fcntl(h, F_GETFD), FD_CLOEXEC);
	return h;
}

static void still_there(int fd)
{
	uint64_t v = 1;

	assert_int_equal(write(fd, &v, sizeof(v)), sizeof(v));
}

static void test_close(void **state)
{
	int h = make_hidden(), fd;

	errno = 0;
	assert_int_equal(close(h), -1);
	assert_int_equal(errno, EBADF);
	errno = 0;
	assert_int_equal(dup2(1, h), -1);
	assert_int_equal(errno, EBADF);
	assert_int_equal(dup2(h, 50), -1);
	assert_int_equal(dup2(h, h), -1);
	assert_int_equal(dup3(1, h, O_CLOEXEC), -1);
	assert_int_equal(errno, EBADF);
	assert_int_equal(dup3(h, h, 0), -1);
	assert_int_equal(errno, EINVAL);
	fd = dup2(1, 60);
	assert_int_equal(fd, 60);
	assert_int_equal(close(60), 0);
	still_there(h);
	bb_fd_close(h);
	assert_int_equal(fcntl(h, F_GETFD), -1);
	bb_fd_close(-1);
}

/* In a child, since everything else is closed. Return: what closing left open, as bits. */
static int after(void (*fn)(unsigned int), const int *h)
{
	int status, left = 0;
	pid_t pid = fork();

	if (!pid) {
		dup2(0, 40);
		dup2(0, 200);
		fn((unsigned int)h[1]);
		for (int i = 0; i < 3; i++)
			left |= (fcntl(h[i], F_GETFD) >= 0) << i;
		left |= (fcntl(40, F_GETFD) >= 0) << 3;
		left |= (fcntl(200, F_GETFD) >= 0) << 4;
		_exit(left);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void all_range(unsigned int h)
{
	close_range(3, UINT_MAX, 0);
}

static void only_ours(unsigned int h)
{
	if (close_range(h, h, 0))
		_exit(99);
}

static void up_to_ours(unsigned int h)
{
	close_range(100, h, 0);
}

static void from(unsigned int h)
{
	errno = 5;
	closefrom(41);
	if (errno != 5)
		_exit(98);
}

static void from_negative(unsigned int h)
{
	closefrom(-5);
}

static void loop(unsigned int h)
{
	for (int fd = 3; fd < 30000; fd++)
		close(fd);
}

static void bad_range(unsigned int h)
{
	if (close_range(20, 10, 0) != -1 || errno != EINVAL || close_range(3, UINT_MAX, 0x800) != -1)
		_exit(97);
}

static void test_ranges(void **state)
{
	int h[3] = {make_hidden(), make_hidden(), make_hidden()};

	for (int i = 0; i < 2; i++, no_close_range = true) {
		if (!i) {
			assert_int_equal(after(all_range, h), 7);
			assert_int_equal(after(only_ours, h), 31);
			assert_int_equal(after(up_to_ours, h), 15);
			assert_int_equal(after(bad_range, h), 31);
		}
		assert_int_equal(after(from, h), 15);
		assert_int_equal(after(from_negative, h), 7);
		assert_int_equal(after(loop, h), 7);
	}
	no_close_range = false;
	for (int i = 0; i < 3; i++)
		bb_fd_close(h[i]);
}

static void test_limits(void **state)
{
	struct rlimit old, low = {.rlim_cur = 32, .rlim_max = 32};
	int h[BB_FDS_MAX], n, fd;

	/* A full table refuses and leaves the descriptor as it was. */
	for (n = 0; n < BB_FDS_MAX; n++)
		h[n] = make_hidden();
	fd = eventfd(0, 0);
	assert_int_equal(bb_fd_hide(fd), -ENFILE);
	assert_int_equal(close(fd), 0);
	for (n = 0; n < BB_FDS_MAX; n++)
		bb_fd_close(h[n]);
	assert_int_equal(bb_fd_hide(9999), -EBADF);
	/* No number left: hidden where it is. */
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	low.rlim_max = old.rlim_max;
	fd = eventfd(0, 0);
	low.rlim_cur = (rlim_t)fd + 1;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	h[0] = bb_fd_hide(fd);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(h[0], fd);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(close(fd), -1);
	bb_fd_close(fd);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_close),
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_limits),
	};

	return cmocka_run_group_tests_name("fds", tests, NULL, NULL);
}
