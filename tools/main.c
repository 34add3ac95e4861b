/* SPDX-License-Identifier: MIT */
/*
 * bbctl: looks at bbd and steers it, in the manner of ip(8): bbctl OBJECT VERB.
 * Names may be shortened as long as they are unambiguous.
 */
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bbctl.h"
#include "log.h"
#include "options.h"

static const struct command {
	const char *object, *verb;	/* an object's first verb is its default */
	bbctl_fn fn;
	const char *args, *help;
} commands[] = {
	{ "node", "show", bbctl_node_show, "", "hosts: what they lend, how far they are" },
	{ "program", "show", bbctl_program_show, "[REGION]", "programs: budgets, faults, where their pages are" },
	{ "program", "set", bbctl_program_set, "REGION budget SIZE", "change a program's local memory" },
	{ "region", "show", bbctl_region_show, "", "global regions and the hosts that hold them" },
	{ "fault", "show", bbctl_fault_show, "", "how long faults take, in five parts" },
	{ "fault", "reset", bbctl_fault_reset, "", "start counting from zero" },
	{ "trace", "show", bbctl_trace, "", "single faults: the last ones, or those to come" },
	{ "extent", "show", bbctl_extent_show, "", "extents lent here: whose they are, where they went" },
	{ "extent", "move", bbctl_extent_move, "NODE:POINTER", "take an extent over from its home" },
	{ "home", "show", bbctl_home_show, "", "memory of this host that others use" },
	{ "net", "show", bbctl_net_show, "", "packets: sent, resent, refused" },
	{ "metrics", "show", bbctl_metrics_show, "", "counters in Prometheus' text format" },
	{ "doctor", "show", bbctl_doctor, "", "what is wrong with this host, and what mends it" },
};
#define NCOMMANDS (sizeof(commands) / sizeof(commands[0]))

static int usage(FILE *f, const char *object)
{
	if (!object)
		fprintf(f, "usage: bbctl [-j] [--socket PATH] [OBJECT [VERB [ARG...]]]\n"
			   "Looks at this host's bbd and steers it; without an object: the state of all.\n\n");
	for (size_t i = 0; i < NCOMMANDS; i++) {
		const struct command *c = &commands[i];
		char text[64];

		if (object && strcmp(object, c->object))
			continue;
		snprintf(text, sizeof(text), "%s %s %s", c->object, c->verb, c->args);
		fprintf(f, "  %-32s %s\n", text, c->help);
	}
	if (!object)
		fprintf(f, "\n  -j, --json       print what bbd answers, as JSON\n"
			   "  --socket PATH    bbd's socket (BB_SOCKET, else %s)\n"
			   "  --program PID, --slower US, --count N, --seconds S\n"
			   "                   of trace: whose faults, those that took so long, how many,\n"
			   "                   and the time to wait for them (without: the last ones)\n"
			   "  --version        print the version\n"
			   "  -h, --help       this text\n"
			   "\nNames may be shortened. See bbctl(8).\n",
			bb_opt_table[BB_OPT_SOCKET].fallback);
	return BBCTL_OK;
}

static const char *name_of(const struct command *c, const char *object)
{
	return object ? c->verb : c->object;
}

/*
 * Among objects (object: NULL) or an object's verbs, the one that word names or
 * begins. Return: its full name; NULL with a message where there is none, or several.
 */
static const char *complete(const char *object, const char *word)
{
	const char *found = NULL;
	char list[256] = "";
	size_t at = 0;
	int n = 0;

	for (int pass = 0; pass < 2; pass++) {
		/* First who it could be, then, where that fails, who there is. */
		for (size_t i = 0; i < NCOMMANDS; i++) {
			const char *name = name_of(&commands[i], object);

			if (object && strcmp(object, commands[i].object))
				continue;
			if (!object && i && !strcmp(name, commands[i - 1].object))
				continue;
			if (!strcmp(name, word))
				return name;
			if (pass || !strncmp(name, word, strlen(word))) {
				found = name;
				n += !pass;
				at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%s", at ? ", " : "", name);
			}
		}
		if (n == 1)
			return found;
		if (n > 1)
			break;
	}
	if (n)
		bb_error("%s%s%s: could be %s", object ? object : "", object ? " " : "", word, list);
	else
		bb_error("%s%s%s: there is no such %s; there are %s", object ? object : "", object ? " " : "", word,
			 object ? "verb" : "object", list);
	return NULL;
}

/* Options of trace alone. Return: one that was given, or NULL. */
static const char *of_trace(const struct bbctl *b)
{
	return b->program ? "program" : b->slower ? "slower" : b->count ? "count" : b->seconds ? "seconds" : NULL;
}

static int run(struct bbctl *b, int argc, char **argv)
{
	const char *object, *verb = NULL;

	if (of_trace(b) && (!argc || strncmp(argv[0], "trace", strlen(argv[0])))) {
		bb_error("--%s is an option of bbctl trace", of_trace(b));
		return BBCTL_USAGE;
	}
	if (!argc)
		return bbctl_show(b, 0, argv);
	if (!strcmp(argv[0], "help")) {
		if (argc == 1)
			return usage(stdout, NULL);
		object = complete(NULL, argv[1]);
		return object ? usage(stdout, object) : BBCTL_USAGE;
	}
	object = complete(NULL, argv[0]);
	if (!object)
		return BBCTL_USAGE;
	if (argc > 1 && !strcmp(argv[1], "help"))
		return usage(stdout, object);
	if (argc > 1) {
		verb = complete(object, argv[1]);
		if (!verb)
			return BBCTL_USAGE;
	}
	for (size_t i = 0; i < NCOMMANDS; i++) {
		const struct command *c = &commands[i];

		if (strcmp(c->object, object) || (verb && strcmp(c->verb, verb)))
			continue;
		argc -= argc > 1 ? 2 : 1;
		if (!*c->args && argc) {
			bb_error("%s %s takes no \"%s\"; bbctl help %s", c->object, c->verb, argv[2], c->object);
			return BBCTL_USAGE;
		}
		return c->fn(b, argc, verb ? argv + 2 : argv + 1);
	}
	return BBCTL_USAGE;
}

/* Other BB_ variables are for other programs. */
static void about_socket(const char *message, void *arg)
{
	if (strstr(message, "BB_SOCKET"))
		bb_warn("%s", message);
}

int main(int argc, char **argv)
{
	static const struct option lo[] = {
		{ "json", no_argument, NULL, 'j' },    { "socket", required_argument, NULL, 's' },
		{ "version", no_argument, NULL, 'V' }, { "help", no_argument, NULL, 'h' },
		{ "program", required_argument, NULL, 'P' }, { "slower", required_argument, NULL, 'L' },
		{ "count", required_argument, NULL, 'C' }, { "seconds", required_argument, NULL, 'S' },
		{ 0 },
	};
	struct bbctl b = { 0 };
	struct bb_options env;
	int o, status;

	bb_log_init("bbctl", BB_LOG_WARN);
	bb_options_parse(&env, environ, about_socket, NULL);
	b.socket = env.str[BB_OPT_SOCKET];
	b.socket_given = env.set[BB_OPT_SOCKET];
	opterr = 0;
	while ((o = getopt_long(argc, argv, ":jhV", lo, NULL)) >= 0) {
		switch (o) {
		case 'j':
			b.json = true;
			break;
		case 's':
			b.socket = optarg;
			b.socket_given = true;
			break;
		case 'P':
			b.program = optarg;
			break;
		case 'L':
			b.slower = optarg;
			break;
		case 'C':
			b.count = optarg;
			break;
		case 'S':
			b.seconds = optarg;
			break;
		case 'V':
			printf("bbctl %s\n", BB_VERSION);
			return BBCTL_OK;
		case 'h':
			return usage(stdout, NULL);
		default:
			bb_error("%s: %s; see bbctl --help", argv[optind - 1],
				 o == ':' ? "wants a value" : "there is no such option");
			return BBCTL_USAGE;
		}
	}
	status = run(&b, argc - optind, argv + optind);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		bb_error("cannot write to standard output: %m");
		return BBCTL_FAILED;
	}
	return status;
}
