/* SPDX-License-Identifier: MIT */
/*
 * Descriptors of our own (userfaultfd, memfd, socket, eventfd) inside of a
 * program that believes to own them all.
 *
 * A hidden descriptor has a high number, so that the program's own come out as
 * they would without us, and does not exist for close, dup2, dup3 (EBADF, as
 * beyond the limit), close_range and closefrom (which skip it). It is closed
 * on exec. All of it is async-signal-safe and fork-safe; in a fork child the
 * parent's hidden descriptors are still hidden until bb_fd_close().
 */
#ifndef BB_PRELOAD_FDS_H
#define BB_PRELOAD_FDS_H

#define BB_FDS_MAX 16

/*
 * Moves fd out of the program's way. fd itself is closed. Where no high number
 * is free the descriptor stays as it is (but hidden, and closed on exec).
 * Return: the new number, or -errno (fd is then still open, and not hidden).
 */
int bb_fd_hide(int fd);

/* Closes a descriptor of ours, hidden or not. fd < 0: nothing happens. */
void bb_fd_close(int fd);

#endif
