/* SPDX-License-Identifier: MIT */
/*
 * A clone(2) that goes past the C library: the child has no pager for the
 * parent's paged memory, so it must not see that memory at all. Fills 64 MiB,
 * clones, and tells how the child that reads it ended. Exit 0 where it died or
 * read right bytes, 1 where it read anything else.
 */
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	const size_t pages = 64 * 256;
	struct rlimit none = { 0, 0 };
	uint64_t *p = malloc(pages * 4096);
	int status;
	long pid;

	if (!p)
		return 2;
	setrlimit(RLIMIT_CORE, &none);
	for (size_t i = 0; i < pages; i++)
		p[i * 512] = i + 1;
	pid = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, 0);
	if (pid < 0)
		return 2;
	if (!pid) {
		for (size_t i = 0; i < pages; i++)
			if (p[i * 512] != i + 1)
				_exit(1);
		_exit(0);
	}
	if (waitpid((pid_t)pid, &status, 0) != pid)
		return 2;
	if (WIFSIGNALED(status))
		printf("the child ended by signal %d\n", WTERMSIG(status));
	else
		printf("the child read %s\n", WEXITSTATUS(status) ? "wrong bytes" : "right bytes");
	return WIFEXITED(status) && WEXITSTATUS(status);
}
