/* SPDX-License-Identifier: MIT */
/* The formatter against the C library's, and what a message looks like. */
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SAME(...)                                                              \
	do {                                                                   \
		char a_[512], b_[512];                                         \
		int n_ = bb_format(a_, sizeof(a_), __VA_ARGS__);               \
		int m_ = snprintf(b_, sizeof(b_), __VA_ARGS__);                \
		assert_string_equal(a_, b_);                                   \
		assert_int_equal(n_, m_);                                      \
	} while (0)

static void format_as_printf(void **state)
{
	errno = ENOENT;
	SAME("plain %% text");
	SAME("%s|%8s|%-8s|%.3s|%.*s", "abc", "abc", "abc", "abcdef", 2, "xyz");
	SAME("%d %d %d %5d %05d %-5d|", 0, -1, 2147483647, -42, -42, 42);
	SAME("%d %ld %lld", (int)-2147483647 - 1, INT64_MIN, (long long)INT64_MIN);
	SAME("%u %lu %llu %zu", 4294967295u, UINT64_MAX, (unsigned long long)UINT64_MAX, (size_t)7);
	SAME("%x %lx %llx %08x %2x", 0xdeadbeefu, UINT64_MAX, 1ULL << 40, 0xabu, 0x123u);
	SAME("%c%c", 'o', 'k');
	SAME("%p", (void *)0x1234);
	SAME("%m");
	SAME("%*d|%-*d|", 6, 5, 6, 5);
}

static void format_is_bounded(void **state)
{
	/* Not constants, or the compiler refuses such calls. */
	volatile int least = -2147483647 - 1;
	const char *volatile none = NULL;
	char buf[8];

	memset(buf, 'x', sizeof(buf));
	assert_int_equal(bb_format(buf, 4, "%s", "abcdef"), 6);
	assert_string_equal(buf, "abc");
	assert_int_equal(buf[4], 'x');
	assert_int_equal(bb_format(buf, 0, "%d", 12345), 5);
	assert_int_equal(buf[0], 'a');
	assert_true(bb_format(buf, sizeof(buf), "%*d", 2000000000, 1) <= 1001);
	assert_true(bb_format(buf, sizeof(buf), "%*d", least, 1) <= 1001);
	assert_int_equal(bb_format(buf, sizeof(buf), "%s", none), 6);
	assert_string_equal(buf, "(null)");
}

/* Runs one message with fd 2 in a pipe. Return: its bytes. */
static int capture(char *out, size_t size, enum bb_log_level level, const char *arg)
{
	int fd[2], keep = dup(2), n;

	assert_int_equal(pipe(fd), 0);
	assert_int_equal(fcntl(fd[0], F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(dup2(fd[1], 2), 2);
	errno = EPERM;
	bb_log(level, "about %s: %m", arg);
	assert_int_equal(errno, EPERM);
	dup2(keep, 2);
	n = (int)read(fd[0], out, size - 1);
	out[n > 0 ? n : 0] = '\0';
	close(fd[0]);
	close(fd[1]);
	close(keep);
	return n;
}

static void message_shape(void **state)
{
	char out[4096], lengthy[3000];
	int n;

	bb_log_init("bbd", BB_LOG_WARN);
	capture(out, sizeof(out), BB_LOG_WARN, "x");
	assert_string_equal(out, "bbd: warning: about x: Operation not permitted\n");
	capture(out, sizeof(out), BB_LOG_ERROR, "y");
	assert_string_equal(out, "bbd: error: about y: Operation not permitted\n");
	assert_int_equal(capture(out, sizeof(out), BB_LOG_INFO, "z"), -1);
	bb_log_level(BB_LOG_DEBUG);
	capture(out, sizeof(out), BB_LOG_DEBUG, "\033[2Jq");
	assert_string_equal(out, "bbd: debug: about ?[2Jq: Operation not permitted\n");

	memset(lengthy, 'a', sizeof(lengthy));
	lengthy[sizeof(lengthy) - 1] = '\0';
	n = capture(out, sizeof(out), BB_LOG_INFO, lengthy);
	assert_int_equal(n, 1023);
	assert_string_equal(out + n - 4, "...\n");
}

/* A program without a standard error gives number 2 to a file of its own. */
static void no_stderr_no_message(void **state)
{
	int fd[2], keep = dup(2);
	char c;

	close(2);
	bb_log_init("libbb", BB_LOG_DEBUG);
	assert_int_equal(pipe(fd), 0);
	fcntl(fd[0], F_SETFL, O_NONBLOCK);
	if (fd[1] != 2)
		dup2(fd[1], 2);
	bb_error("nobody may see this");
	assert_int_equal(read(fd[0], &c, 1), -1);
	if (fd[1] != 2)
		close(fd[1]);
	dup2(keep, 2);
	close(fd[0]);
	close(keep);
	bb_log_init("libbb", BB_LOG_WARN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(format_as_printf),
		cmocka_unit_test(format_is_bounded),
		cmocka_unit_test(message_shape),
		cmocka_unit_test(no_stderr_no_message),
	};

	return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
