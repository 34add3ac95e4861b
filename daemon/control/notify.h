/* SPDX-License-Identifier: MIT */
/* Telling the service manager how far we are: the protocol of sd_notify(3). */
#ifndef BB_DAEMON_NOTIFY_H
#define BB_DAEMON_NOTIFY_H

/*
 * Sends state ("READY=1") to the datagram socket that NOTIFY_SOCKET of this
 * environment names. Never waits. Return: 0, also where there is no such
 * variable; -errno.
 */
int bb_notify(char *const *env, const char *state);

#endif
