/* SPDX-License-Identifier: MIT */
/*
 * Is the helper the last thread of the program?
 *
 * A process ends with its last thread: where main's thread ends by
 * pthread_exit(), or by the system call itself, and the others are through.
 * Our helper must not keep it alive. The C library ends the process when the
 * helper returns, for then it is the last that it knows.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "private.h"

/* Has main's thread ended? Such a one has no memory any more. */
static bool main_has_ended(void)
{
	static char mark;
	char c;
	struct iovec to = { &c, 1 }, from = { &mark, 1 };
	ssize_t n = syscall(SYS_process_vm_readv, getpid(), &to, 1UL, &from, 1UL, 0UL);

	return n < 0 && errno == ESRCH;
}

/* The status that main's thread left, as wait(2) has it: field 52. 0 where that cannot be had. */
static int status_left(void)
{
	char buf[1024], *p;
	int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);

	if (fd >= 0)
		bb_sys_close(fd);
	if (n <= 0)
		return 0;
	buf[n] = 0;
	p = strrchr(buf, ')'); /* the end of field 2 */
	for (int field = 2; p && field < 52; field++)
		p = strchr(p + 1, ' ');
	return p ? (int)strtol(p + 1, NULL, 10) : 0;
}

bool bb_last_thread(void)
{
	int keep = errno, status;
	struct stat st;
	bool last;

	last = main_has_ended() && stat("/proc/self/task", &st) == 0 && st.st_nlink == 2 + 2; /* main's, and ours */
	if (last) {
		/* Not by pthread_exit: no handlers are to run, and the status counts. */
		status = status_left();
		if (status)
			syscall(SYS_exit_group, status >> 8 & 0xff);
	}
	errno = keep;
	return last;
}
