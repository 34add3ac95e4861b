/* SPDX-License-Identifier: MIT */
/*
 * A program with large memory that starts others, in every way there is.
 *
 *	bbspawn TOPIC [MIB [COUNT]]	(48 MiB, 3 times each)
 *
 * TOPIC is one of those in the table below, or "all". After each start the
 * whole memory is checked, and changed, so that pages are on the way while
 * children begin. The children are this same program: they tell what arguments
 * and environment they got, and hold large memory of their own.
 */
#include "held.h"

#include <errno.h>
#include <spawn.h>
#include <stdbool.h>
#include <sys/wait.h>

extern char **environ;

static struct held h;
static char self[4096];
static int count = 3;

static void ended(pid_t pid, int want, const char *what)
{
	int status;

	while (waitpid(pid, &status, 0) != pid)
		if (errno != EINTR)
			fail("%s: waitpid: %s", what, strerror(errno));
	if (!WIFEXITED(status) || WEXITSTATUS(status) != want)
		fail("%s: the child ended with status %x instead of exit %d", what, status, want);
}

/* What the children do: a sum over their own memory, seen as the exit status. */
static int be_child(int argc, char **argv)
{
	struct held mine;

	if (argc != 4 || strcmp(argv[2], "an argument") || !getenv("BBSPAWN_ENV") || strcmp(getenv("BBSPAWN_ENV"), "kept"))
		fail("child: wrong arguments or environment");
	held_new(&mine, 8, 3);
	held_check(&mine, "child");
	return atoi(argv[3]);
}

static void topic_exec(int i)
{
	char status[16];
	pid_t pid;

	snprintf(status, sizeof(status), "%d", i + 1);
	pid = fork();
	if (!pid) {
		execl(self, self, "--child", "an argument", status, NULL);
		_exit(99);
	}
	held_write(&h, (size_t)i % 3, 3, (unsigned int)i + 10);
	ended(pid, i + 1, "fork, exec");
}

/* Nothing may stop the child of a vfork, which borrows the parent's memory. */
static void topic_vfork(int i)
{
	char status[16];
	pid_t pid;

	snprintf(status, sizeof(status), "%d", i + 1);
	pid = vfork();
	if (!pid) {
		execl(self, self, "--child", "an argument", status, NULL);
		_exit(99);
	}
	held_write(&h, (size_t)i % 3, 3, (unsigned int)i + 20);
	ended(pid, i + 1, "vfork, exec");
	pid = vfork();
	if (!pid) {
		execl("/nonexistent", "nonexistent", NULL);
		_exit(55);
	}
	ended(pid, 55, "vfork, failed exec");
}

static void topic_spawn(int i)
{
	char status[16], *const args[] = { self, (char *)"--child", (char *)"an argument", status, NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	int e;
	pid_t pid;

	snprintf(status, sizeof(status), "%d", i + 1);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", 0, 0);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
	e = posix_spawn(&pid, self, &actions, &attr, args, environ);
	if (e)
		fail("posix_spawn: %s", strerror(e));
	held_write(&h, (size_t)i % 3, 3, (unsigned int)i + 30);
	ended(pid, i + 1, "posix_spawn");
	e = posix_spawn(&pid, "/nonexistent", NULL, NULL, args, environ);
	if (e != ENOENT)
		fail("posix_spawn of what is not there: %d", e);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
}

static void topic_system(int i)
{
	char command[8192];
	int status;

	snprintf(command, sizeof(command), "'%s' --child 'an argument' %d", self, i + 1);
	status = system(command);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != i + 1)
		fail("system: status %x", status);
	held_write(&h, (size_t)i % 3, 3, (unsigned int)i + 40);
}

/* What goes through the pipe comes from paged memory, and comes back as it was. */
static void topic_popen(int i)
{
	char line[128];
	FILE *f = popen("cksum >/dev/null; echo done", "w");

	if (!f || fwrite(h.mem, 4096, h.pages, f) != h.pages || pclose(f))
		fail("popen for writing: %s", strerror(errno));
	f = popen("echo one; echo two", "r");
	if (!f || !fgets(line, sizeof(line), f) || strcmp(line, "one\n") || !fgets(line, sizeof(line), f) ||
	    strcmp(line, "two\n") || pclose(f))
		fail("popen for reading");
	held_write(&h, (size_t)i % 3, 3, (unsigned int)i + 50);
}

/* fork itself: the child holds what the parent held, and both go on. */
static void topic_fork(int i)
{
	size_t page = (size_t)i * 7919 % h.pages;
	pid_t pid = fork();

	if (pid < 0)
		fail("fork %d: %s", i, strerror(errno));
	if (!pid) {
		for (size_t k = 0; k < 16; k++) {
			size_t p = (page + k * 601) % h.pages;

			for (unsigned int w = 0; w < HELD_WORDS; w++)
				if (h.mem[p * HELD_WORDS + w] != held_word(p, h.version[p], w))
					fail("child %d: page %zu is wrong", i, p);
			held_put(&h, p, 200);
		}
		_exit(i % 100);
	}
	for (size_t k = 0; k < 8; k++)
		held_put(&h, (page + k * 1201) % h.pages, (unsigned int)i % 199);
	ended(pid, i % 100, "fork");
}

/* All at a time: the children live until the last is born. */
static void topic_crowd(int i)
{
	enum { CROWD = 12 };
	pid_t pid[CROWD];
	int go[2];
	char c;

	if (pipe(go) < 0)
		fail("pipe: %s", strerror(errno));
	for (int k = 0; k < CROWD; k++) {
		pid[k] = fork();
		if (pid[k] < 0)
			fail("fork: %s", strerror(errno));
		if (!pid[k]) {
			close(go[1]);
			held_write(&h, (size_t)k, CROWD, 201);
			if (read(go[0], &c, 1) != 0)
				fail("crowd: the pipe said something");
			held_check(&h, "one of a crowd");
			_exit(k);
		}
		held_write(&h, (size_t)k, 3 * CROWD, (unsigned int)(i + k) % 199);
	}
	close(go[0]);
	close(go[1]);
	for (int k = 0; k < CROWD; k++)
		ended(pid[k], k, "one of a crowd");
}

static const struct {
	const char *name;
	void (*run)(int i);
} topic[] = {
	{ "exec", topic_exec },	  { "vfork", topic_vfork }, { "spawn", topic_spawn }, { "system", topic_system },
	{ "popen", topic_popen }, { "fork", topic_fork },   { "crowd", topic_crowd },
};

int main(int argc, char **argv)
{
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	bool found = false;

	app_name = "bbspawn";
	if (n < 0)
		fail("where am I?");
	if (argc > 1 && !strcmp(argv[1], "--child"))
		return be_child(argc, argv);
	if (argc < 2)
		return fprintf(stderr, "usage: bbspawn TOPIC [MIB [COUNT]]\n"), 2;
	if (argc > 3)
		count = atoi(argv[3]);
	setenv("BBSPAWN_ENV", "kept", 1);
	held_new(&h, argc > 2 ? (size_t)atoi(argv[2]) : 48, 1);
	for (size_t t = 0; t < sizeof(topic) / sizeof(topic[0]); t++) {
		if (strcmp(argv[1], "all") && strcmp(argv[1], topic[t].name))
			continue;
		found = true;
		for (int i = 0; i < count; i++)
			topic[t].run(i);
		held_check(&h, topic[t].name);
		printf("bbspawn %s: %d times, every byte right\n", topic[t].name, count);
		fflush(stdout);
	}
	return found ? 0 : 2;
}
