/* SPDX-License-Identifier: MIT */
/*
 * Threads that share the credentials of those without capabilities.
 *
 * The files of /dev/infiniband may be written to only with the very credentials (the
 * kernel's object, not its contents) that opened them, and a thread that drops its
 * capabilities gets an object of its own. So one thread drops them first; it opens
 * the device, and makes the threads that will drive it, which inherit its object. It
 * ends before bbd is ready. Without RDMA there is none, and threads are made as ever.
 */
#ifndef BB_DAEMON_LOW_H
#define BB_DAEMON_LOW_H

#include <pthread.h>

/* After bb_rights_start(); by main. Return: 0 or -errno. */
int bb_low_start(void);
/* Runs fn there, or here where there is none, and waits for it. */
void bb_low_call(void (*fn)(void *arg), void *arg);
/* pthread_create() there, or here. Return: 0 or an errno, as that does. */
int bb_low_thread(pthread_t *t, void *(*fn)(void *arg), void *arg);
void bb_low_stop(void);

#endif
