/* SPDX-License-Identifier: MIT */
/* See low.h. One call at a time, all from main. */
#include "low.h"

#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <errno.h>

#include "rights.h"

static pthread_t thread;
static bool runs;
static sem_t asked, answered;
static void (*call)(void *arg); /* NULL: end */
static void *call_arg;

static void wait_on(sem_t *s)
{
	while (sem_wait(s) && errno == EINTR)
		;
}

static void *loop(void *unused)
{
	bb_rights_drop(BB_ROLE_PAGER);
	for (;;) {
		wait_on(&asked);
		if (!call)
			return NULL;
		call(call_arg);
		sem_post(&answered);
	}
}

int bb_low_start(void)
{
	sigset_t mine, old;
	int r;

	sem_init(&asked, 0, 0);
	sem_init(&answered, 0, 0);
	/* What it makes inherits this: signals are for the control thread. */
	sigemptyset(&mine);
	sigaddset(&mine, SIGTERM);
	sigaddset(&mine, SIGINT);
	sigaddset(&mine, SIGHUP);
	sigaddset(&mine, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &mine, &old);
	r = -pthread_create(&thread, NULL, loop, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	runs = !r;
	return r;
}

void bb_low_call(void (*fn)(void *arg), void *arg)
{
	if (!runs) {
		fn(arg);
		return;
	}
	call = fn;
	call_arg = arg;
	sem_post(&asked);
	wait_on(&answered);
}

struct make {
	pthread_t *t;
	void *(*fn)(void *arg);
	void *arg;
	int r;
};

static void make(void *arg)
{
	struct make *m = arg;

	m->r = pthread_create(m->t, NULL, m->fn, m->arg);
}

int bb_low_thread(pthread_t *t, void *(*fn)(void *arg), void *arg)
{
	struct make m = { t, fn, arg, 0 };

	bb_low_call(make, &m);
	return m.r;
}

void bb_low_stop(void)
{
	if (!runs)
		return;
	call = NULL;
	sem_post(&asked);
	pthread_join(thread, NULL);
	runs = false;
}
