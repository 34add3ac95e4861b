/* SPDX-License-Identifier: MIT */
/*
 * A parent and a child step by step, so that somebody outside can count what
 * each step costs.
 *
 *	bbshare MIB
 *
 * Fills MIB of memory and says "filled". Then each line on standard input is a
 * step, answered by "done" when it is over and every byte was right:
 *	fork		makes the child
 *	parent read	all pages are read and checked, by the parent
 *	child read	the same by the child
 *	parent write N	N pages next to each other are written
 *	child write N
 *	end		the child ends
 */
#include "held.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/wait.h>

static struct held h;
static FILE *to_child, *from_child;
static pid_t child;

static void step(const char *who, const char *what)
{
	unsigned int n;

	if (!strcmp(what, "read"))
		held_check(&h, who);
	else if (sscanf(what, "write %u", &n) == 1 && n <= h.pages)
		for (size_t p = 0; p < n; p++)
			held_put(&h, p, child ? 20 : 30);
	else
		fail("%s cannot do this: %s", who, what);
}

static void be_child(int in, int out)
{
	FILE *f = fdopen(in, "r");
	char line[80];

	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = 0;
		step("child", line);
		if (write(out, "\n", 1) != 1)
			break;
	}
	_exit(0);
}

static void make_child(void)
{
	int to[2], from[2];

	if (pipe(to) < 0 || pipe(from) < 0)
		fail("pipe: %s", strerror(errno));
	fflush(stdout);
	child = fork();
	if (child < 0)
		fail("fork: %s", strerror(errno));
	if (!child) {
		close(to[1]);
		close(from[0]);
		be_child(to[0], from[1]);
	}
	close(to[0]);
	close(from[1]);
	to_child = fdopen(to[1], "w");
	from_child = fdopen(from[0], "r");
	if (!to_child || !from_child)
		fail("fdopen: %s", strerror(errno));
}

static void say(const char *what)
{
	printf("%s\n", what);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	char line[80];
	int status = 0;

	app_name = "bbshare";
	held_new(&h, argc > 1 ? (size_t)atoi(argv[1]) : 24, 1);
	say("filled");
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (!strcmp(line, "fork")) {
			make_child();
		} else if (!strncmp(line, "parent ", 7)) {
			step("parent", line + 7);
		} else if (!strncmp(line, "child ", 6) && to_child) {
			fprintf(to_child, "%s\n", line + 6);
			fflush(to_child);
			if (fgetc(from_child) != '\n')
				fail("the child is gone");
		} else if (!strcmp(line, "end") && to_child) {
			fclose(to_child);
			if (waitpid(child, &status, 0) != child || status)
				fail("the child ended with status %x", status);
		} else {
			fail("what is \"%s\"?", line);
		}
		say("done");
	}
	held_check(&h, "parent, at its end");
	return 0;
}
