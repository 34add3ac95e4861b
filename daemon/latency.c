/* SPDX-License-Identifier: MIT */
#include "latency.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

#define DEVICE "/dev/cpu_dma_latency"
#define DRIVER "/sys/devices/system/cpu/cpuidle/current_driver"
#define NEAR_NS 500000ULL   /* programs that fault, or ask, so often wait for us */
#define NEAR_MANY 8u	    /* events in a row */
#define HOLD_NS 20000000ULL /* after the last one; to withdraw it wakes every CPU */
#define ANY 2000000000	    /* what the kernel takes for "as you like" */
#define SHALLOW 2	    /* microseconds: the first state of hardware */

static struct {
	pthread_mutex_t lock;
	int fd;
	int32_t us;
	unsigned int holders;
	const char *why; /* fd is -1 */
} request = { .lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1, .why = "not asked for" };

static _Atomic bool can;

/* Return: whether the kernel's idle states are those of a guest that stops its CPU. */
static bool halts(void)
{
	char name[16] = "";
	int fd = open(DRIVER, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, name, sizeof(name) - 1);

	if (fd >= 0)
		close(fd);
	return n > 0 && !strncmp(name, "haltpoll", 8);
}

static void ask_for(int32_t us)
{
	if (write(request.fd, &us, sizeof(us)) != (ssize_t)sizeof(us))
		bb_warn_once(DEVICE ": cannot be written (error %d): wake-ups take as long as they do", errno);
}

void bb_latency_start_at(int fd, int32_t us)
{
	pthread_mutex_lock(&request.lock);
	request.fd = fd;
	request.us = us;
	request.holders = 0;
	pthread_mutex_unlock(&request.lock);
	atomic_store(&can, fd >= 0);
}

void bb_latency_start(void)
{
	const int fd = open(DEVICE, O_WRONLY | O_CLOEXEC);

	if (fd < 0) {
		request.why = strerrordesc_np(errno);
		bb_debug(DEVICE ": %s: idle CPUs are woken as slowly as they are", request.why);
		return;
	}
	/* To spin in idle is the only way for a guest; hardware has a state that is quick enough. */
	bb_latency_start_at(fd, halts() ? 0 : SHALLOW);
}

const char *bb_latency_state(void)
{
	const char *state;

	pthread_mutex_lock(&request.lock);
	state = request.fd < 0 ? request.why : request.holders ? "held" : "ready";
	pthread_mutex_unlock(&request.lock);
	return state;
}

static void hold(struct bb_latency *l, bool on)
{
	pthread_mutex_lock(&request.lock);
	l->holds = on;
	if (on && !request.holders++)
		ask_for(request.us);
	else if (!on && !--request.holders)
		ask_for(ANY);
	pthread_mutex_unlock(&request.lock);
}

void bb_latency_event(struct bb_latency *l, uint64_t now)
{
	l->near = now - l->last < NEAR_NS ? l->near + 1 : 0;
	l->last = now;
	if (l->near >= NEAR_MANY && !l->holds && atomic_load_explicit(&can, memory_order_relaxed))
		hold(l, true);
}

uint64_t bb_latency_sleep(struct bb_latency *l, uint64_t now)
{
	if (!l->holds)
		return ~0ULL;
	if (now < l->last + HOLD_NS)
		return l->last + HOLD_NS - now;
	bb_latency_end(l);
	return ~0ULL;
}

void bb_latency_end(struct bb_latency *l)
{
	l->near = 0;
	if (l->holds)
		hold(l, false);
}
