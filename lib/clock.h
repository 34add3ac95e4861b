/* SPDX-License-Identifier: MIT */
/* The monotonic clock in nanoseconds, and a pause for spinning. */
#ifndef BB_LIB_CLOCK_H
#define BB_LIB_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t bb_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

static inline void bb_cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

#endif
