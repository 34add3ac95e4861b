/* SPDX-License-Identifier: MIT */
/* bbload: attaches, shows, updates and detaches the BPF programs. Options and verbs. */
#include "bbload.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

const char *const kind_name[KIND_MAX] = { "host", "switch", "client" };
const char *const mode_name[MODE_MAX] = { "auto", "native", "generic", "tc" };

enum opt {
	O_DEV = 1, O_NETNS, O_MODE, O_ALL, O_VIA, O_MAC, O_NO_TCX, O_TENANT, O_NODE, O_PORT, O_KEY, O_JSON, O_VERBOSE,
	O_VERSION, O_HELP, O_MAX
};
#define BIT(o) (1u << (o))
#define EVERYWHERE (BIT(O_VERBOSE) | BIT(O_NETNS))

static const struct opt_desc {
	const char *name, *value, *help;
	char letter;
} opts[O_MAX] = {
	[O_DEV] = { "dev", "IFACE[,IFACE...]", "the devices; may be given several times", 'd' },
	[O_NETNS] = { "netns", "NAME|PATH", "their network namespace", 'n' },
	[O_MODE] = { "mode", "MODE", "native, generic, auto; of a switch also tc, without XDP", 0 },
	[O_ALL] = { "all", NULL, "detach: of all devices in all namespaces", 'a' },
	[O_VIA] = { "via", "ADDR", "attach host: keep this next hop as a permanent neighbour", 0 },
	[O_MAC] = { "mac", "MAC", "its link address, or a node's", 0 },
	[O_NO_TCX] = { "no-tcx", NULL, "attach: use clsact though the kernel has tcx", 0 },
	[O_TENANT] = { "tenant", "N", "update host, update override: which tenant", 0 },
	[O_NODE] = { "node", "N", "update host: the host's number", 0 },
	[O_PORT] = { "port", "N", "update host: its UDP port", 0 },
	[O_KEY] = { "key", "FILE", "update host: the cluster's key", 0 },
	[O_JSON] = { "json", NULL, "show: as JSON", 'j' },
	[O_VERBOSE] = { "verbose", NULL, "say what libbpf and the verifier say", 'v' },
	[O_VERSION] = { "version", NULL, "print the version", 0 },
	[O_HELP] = { "help", NULL, "this text", 'h' },
};

static const struct command {
	const char *name;
	bbload_fn fn;
	unsigned int opts;
	const char *args, *help;
} commands[] = {
	{ "show", bbload_show, BIT(O_DEV) | BIT(O_JSON), "", "what is attached, and what it counts" },
	{ "attach", bbload_attach, BIT(O_DEV) | BIT(O_MODE) | BIT(O_VIA) | BIT(O_MAC) | BIT(O_NO_TCX),
	  "host|switch|client", "attach programs to devices, or replace them under traffic" },
	{ "detach", bbload_detach, BIT(O_DEV) | BIT(O_ALL), "", "remove them, and undo what attach set" },
	{ "update", bbload_update, BIT(O_DEV) | BIT(O_MAC) | BIT(O_TENANT) | BIT(O_NODE) | BIT(O_PORT) | BIT(O_KEY),
	  "[WHAT...]", "change policies, overrides, nodes; alone: read the devices anew" },
	{ "gc", bbload_gc, 0, "", "remove what belongs to devices and namespaces that are gone" },
	{ "selftest", bbload_selftest, 0, "", "run each program on made-up packets" },
};
#define NCOMMANDS (sizeof(commands) / sizeof(commands[0]))

static int usage(FILE *f)
{
	fprintf(f, "usage: bbload [OPTION...] [VERB [ARG...]]\n"
		   "The BPF programs of BlueBridge at this host's devices; without a verb: show.\n\n");
	for (size_t i = 0; i < NCOMMANDS; i++) {
		char text[64];

		snprintf(text, sizeof(text), "%s %s", commands[i].name, commands[i].args);
		fprintf(f, "  %-28s %s\n", text, commands[i].help);
	}
	fprintf(f, "\n"
		   "  update policy COMMAND ACTION [node N|rate R]\n"
		   "      ACTION: forward, redirect, copy, drop, rate or refuse\n"
		   "  update override add NODE:POINTER/BITS to NODE [cmds COMMAND,...] [for SECONDS]\n"
		   "  update override del NODE:POINTER/BITS\n"
		   "  update node NODE --dev PORT --mac MAC\n"
		   "  update node del NODE [--dev DEV]\n"
		   "  update host --node N [--tenant N] [--port N] [--key FILE]\n\n");
	for (int o = 1; o < O_MAX; o++) {
		char text[64];

		snprintf(text, sizeof(text), "%s--%s%s%s", opts[o].letter ? (char[]){ '-', opts[o].letter, ',', ' ', 0 } : "",
			 opts[o].name, opts[o].value ? " " : "", opts[o].value ? opts[o].value : "");
		fprintf(f, "  %-28s %s\n", text, opts[o].help);
	}
	fprintf(f, "\nSee bbload(8).\n");
	return BBLOAD_OK;
}

bool parse_num(const char *s, long min, long max, long *out)
{
	char *end;

	if (*s < '0' || *s > '9' || strlen(s) > 18)
		return false;
	*out = strtol(s, &end, 10);
	return !*end && *out >= min && *out <= max;
}

bool parse_mac(const char *s, uint8_t mac[6])
{
	int n = 0;

	return sscanf(s, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5],
		      &n) == 6 && n == 17 && !s[n];
}

static int add_devs(struct bbload *b, const char *list)
{
	while (*list) {
		size_t len = strcspn(list, ",");

		if (!len || len >= IF_NAMESIZE || memchr(list, '/', len) || memchr(list, ':', len) ||
		    (len <= 2 && !strncmp(list, "..", len))) {
			bb_error("--dev: \"%.*s\" cannot be the name of a device", (int)len, list);
			return -1;
		}
		if (b->ndevs == DEVS_MAX) {
			bb_error("--dev: more than %d devices", DEVS_MAX);
			return -1;
		}
		snprintf(b->dev[b->ndevs++], IF_NAMESIZE, "%.*s", (int)len, list);
		list += len;
		if (*list == ',' && !*++list) {
			bb_error("--dev: a name is missing after the comma");
			return -1;
		}
	}
	return 0;
}

static int option(struct bbload *b, int o, const char *value)
{
	uint8_t mac[6];
	long n;

	switch (o) {
	case O_DEV:
		if (!*value) {
			bb_error("--dev wants the name of a device");
			return -1;
		}
		return add_devs(b, value);
	case O_NETNS:
		b->netns = value;
		return 0;
	case O_MODE:
		for (int m = 0; m < MODE_MAX; m++)
			if (!strcmp(value, mode_name[m])) {
				b->mode = (enum mode)m;
				return 0;
			}
		bb_error("--mode is native, generic, auto or tc, not \"%s\"", value);
		return -1;
	case O_MAC:
		if (!parse_mac(value, mac)) {
			bb_error("--mac is a link address such as 02:00:00:00:00:01, not \"%s\"", value);
			return -1;
		}
		b->mac = value;
		return 0;
	case O_TENANT:
		if (!parse_num(value, 0, 65535, &n)) {
			bb_error("--tenant is 0 to 65535, not \"%s\"", value);
			return -1;
		}
		b->tenant = (int)n;
		return 0;
	case O_NODE:
		if (!parse_num(value, 1, 65534, &n)) {
			bb_error("--node is 1 to 65534, not \"%s\"", value);
			return -1;
		}
		b->node = (int)n;
		return 0;
	case O_PORT:
		if (!parse_num(value, 1, 65535, &n)) {
			bb_error("--port is 1 to 65535, not \"%s\"", value);
			return -1;
		}
		b->port = (int)n;
		return 0;
	case O_ALL:
		b->all = true;
		return 0;
	case O_VIA:
		b->via = value;
		return 0;
	case O_NO_TCX:
		b->no_tcx = true;
		return 0;
	case O_KEY:
		b->key = value;
		return 0;
	case O_JSON:
		b->json = true;
		return 0;
	case O_VERBOSE:
		b->verbose = true;
		bb_log_level(BB_LOG_INFO);
		return 0;
	}
	return -1;
}

static const struct command *find_command(const char *word)
{
	const struct command *found = NULL;
	int n = 0;

	for (size_t i = 0; i < NCOMMANDS; i++)
		if (!strncmp(commands[i].name, word, strlen(word))) {
			found = &commands[i];
			n++;
		}
	if (n == 1 && *word)
		return found;
	bb_error("%s: there is no such verb; there are show, attach, detach, update, gc, selftest", word);
	return NULL;
}

static int run(struct bbload *b, unsigned int given, int argc, char **argv)
{
	const struct command *c = argc ? find_command(argv[0]) : &commands[0];

	if (!c)
		return BBLOAD_USAGE;
	for (int o = 1; o < O_MAX; o++)
		if ((given & BIT(o)) && !((c->opts | EVERYWHERE) & BIT(o))) {
			bb_error("%s takes no --%s; see bbload --help", c->name, opts[o].name);
			return BBLOAD_USAGE;
		}
	argc -= argc > 0;
	argv++;
	if (!*c->args && argc) {
		bb_error("%s takes no \"%s\"; see bbload --help", c->name, argv[0]);
		return BBLOAD_USAGE;
	}
	return c->fn(b, argc, argv);
}

int main(int argc, char **argv)
{
	struct bbload b = { .tenant = -1, .node = -1, .port = -1, .lock = -1 };
	struct option lo[O_MAX + 1] = { 0 };
	char letters[2 * O_MAX + 2] = ":";
	unsigned int given = 0;
	int o, i, status;

	bb_log_init("bbload", BB_LOG_WARN);
	for (i = 1; i < O_MAX; i++) {
		lo[i - 1] = (struct option){ opts[i].name, opts[i].value ? required_argument : no_argument, NULL, i };
		if (opts[i].letter)
			sprintf(letters + strlen(letters), "%c%s", opts[i].letter, opts[i].value ? ":" : "");
	}
	opterr = 0;
	while ((o = getopt_long(argc, argv, letters, lo, NULL)) >= 0) {
		for (i = 1; i < O_MAX && o >= O_MAX; i++)
			if (opts[i].letter == o)
				o = i;
		if (o < 1 || o >= O_MAX) {
			bb_error("%s: %s; see bbload --help", argv[optind - 1],
				 o == ':' ? "wants a value" : "there is no such option");
			return BBLOAD_USAGE;
		}
		if (o == O_VERSION) {
			printf("bbload %s\n", BB_VERSION);
			return BBLOAD_OK;
		}
		if (o == O_HELP)
			return usage(stdout);
		if (option(&b, o, optarg))
			return BBLOAD_USAGE;
		given |= BIT(o);
	}
	object_init(b.verbose);
	status = run(&b, given, argc - optind, argv + optind);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		bb_error("cannot write to standard output: %m");
		return BBLOAD_FAILED;
	}
	return status;
}
