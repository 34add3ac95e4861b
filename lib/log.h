/* SPDX-License-Identifier: MIT */
/*
 * Messages for people, on stderr. A message says what, on what, why, and what
 * to do. One write(2) a message, no allocation, no stdio, errno preserved: it
 * is safe inside an interposed malloc. The prefix ("bbd", "libbb") is set once.
 */
#ifndef BB_LIB_LOG_H
#define BB_LIB_LOG_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>

enum bb_log_level { BB_LOG_ERROR = 0, BB_LOG_WARN, BB_LOG_INFO, BB_LOG_DEBUG };

void bb_log_init(const char *prefix, enum bb_log_level level);
void bb_log_level(enum bb_log_level level);
/* A subset of printf: %s %d %u %ld %lu %lld %llu %zu %x %lx %llx %p %c %% %m, with width and 0. */
void bb_log(enum bb_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same formatter into a buffer, always terminated. Return: length that it has. */
int bb_vformat(char *buf, unsigned int size, const char *fmt, va_list ap);
int bb_format(char *buf, unsigned int size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#define bb_error(...) bb_log(BB_LOG_ERROR, __VA_ARGS__)
#define bb_warn(...) bb_log(BB_LOG_WARN, __VA_ARGS__)
#define bb_info(...) bb_log(BB_LOG_INFO, __VA_ARGS__)
#define bb_debug(...) bb_log(BB_LOG_DEBUG, __VA_ARGS__)

/* Says it once a call site. */
#define bb_warn_once(...)                                          \
	do {                                                       \
		static atomic_flag said_ = ATOMIC_FLAG_INIT;       \
		if (!atomic_flag_test_and_set(&said_))             \
			bb_warn(__VA_ARGS__);                      \
	} while (0)

#endif
