/* SPDX-License-Identifier: MIT */
/*
 * Keeps idle CPUs awake while faults or requests come one after the other.
 *
 * A thread that is woken on an idle CPU waits until that is up again: a few
 * microseconds on hardware, 40 to 60 where a hypervisor has to be asked, which is
 * more than all else of a remote fault. Linux's PM QoS (/dev/cpu_dma_latency) says
 * how long it may take; the request holds for the whole host, and costs power. So
 * it is made when events come close together, and withdrawn when they have not for
 * a while.
 *
 * Each thread has a struct bb_latency of its own (zeroed) and says what comes; the
 * process holds the request while one of them does. Where the device is not ours,
 * all of it does nothing.
 */
#ifndef BB_DAEMON_LATENCY_H
#define BB_DAEMON_LATENCY_H

#include <stdbool.h>
#include <stdint.h>

struct bb_latency {
	uint64_t last;	   /* when the last event came */
	unsigned int near; /* events in a row that came soon after the one before */
	bool holds;
};

/* By main, while it still may open devices. */
void bb_latency_start(void);
/* For tests: what is written there is seen. fd -1: ends. */
void bb_latency_start_at(int fd, int32_t us);
/* "held", "ready", or why not. */
const char *bb_latency_state(void);

/* A fault, or a request, has come. now: bb_now_ns(). */
void bb_latency_event(struct bb_latency *l, uint64_t now);
/* Before the thread sleeps. Return: nanoseconds after which it has to look again, ~0 where it need not. */
uint64_t bb_latency_sleep(struct bb_latency *l, uint64_t now);
/* Before it ends. */
void bb_latency_end(struct bb_latency *l);

#endif
