/* SPDX-License-Identifier: MIT */
/*
 * What the test programs share. They know nothing of BlueBridge: run plainly
 * they are the reference, run under libbb.so they are the test.
 */
#ifndef BB_TESTS_APP_H
#define BB_TESTS_APP_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *app_name;

/* One line on stderr and exit 1: a mismatch, or a call that must not fail. */
static inline __attribute__((noreturn, format(printf, 1, 2))) void fail(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s: ", app_name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	_exit(1);
}

/* Bad options: exit 2. */
static inline __attribute__((noreturn)) void bad_option(const char *name, const char *value)
{
	fprintf(stderr, "%s: bad value for %s: %s (see --help)\n", app_name, name, value);
	exit(2);
}

static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

/* "64K", "256M", "2G", "4096". */
static inline uint64_t parse_size(const char *name, const char *s)
{
	char *end;
	uint64_t v = strtoull(s, &end, 10);
	unsigned int shift = 0;

	switch (*end) {
	case 'T':
	case 't':
		shift += 10;
		/* fall through */
	case 'G':
	case 'g':
		shift += 10;
		/* fall through */
	case 'M':
	case 'm':
		shift += 10;
		/* fall through */
	case 'K':
	case 'k':
		shift += 10;
		end++;
	}
	if (end == s || *end || *s == '-' || v > UINT64_MAX >> shift)
		bad_option(name, s);
	return v << shift;
}

static inline double parse_double(const char *name, const char *s)
{
	char *end;
	double v = strtod(s, &end);

	if (end == s || *end || !(v >= 0))
		bad_option(name, s);
	return v;
}

/* splitmix64: a stream of numbers, and a mixer of one. */
static inline uint64_t mix(uint64_t z)
{
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

static inline uint64_t next_random(uint64_t *state)
{
	return mix(*state += 0x9e3779b97f4a7c15ULL);
}

static inline uint64_t random_below(uint64_t *state, uint64_t n)
{
	return (uint64_t)((unsigned __int128)next_random(state) * n >> 64);
}

#endif
