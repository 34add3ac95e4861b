/* SPDX-License-Identifier: MIT */
/*
 * Reading bbd's options. Every bad one earns one message that names it, what
 * is wrong, and what would be right.
 */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bluebridge/local.h>
#include <bluebridge/wire.h>

#include "config.h"
#include "memory.h"
#include "options.h"

#define CONFIG_FILE "/etc/bluebridge/bbd.conf"

enum { O_NODE, O_TENANT, O_DEV, O_PEER, O_NO_DISCOVER, O_NO_ROUTES, O_PORT, O_LEND, O_STORE, O_QUOTA, O_LOCAL, O_SOCKET,
       O_KEY, O_CONFIG, O_PAGERS, O_CPU, O_SPIN, O_DEADLINE, O_REPLICAS, O_KEEP, O_KERNEL, O_XDP, O_TRANSPORT, O_COMPRESS, O_LATENCY, O_NO_PREFETCH, O_NO_FILTER, O_EMBEDDED,
       O_LOG, O_VERSION, O_HELP, O_MAX };

const struct bb_option_desc bb_config_table[] = {
	[O_NODE] = { "node", "N", "from /etc/machine-id", "number of this host, 1 to 65534, unlike any other's" },
	[O_TENANT] = { "tenant", "N", "0", "tenant whose memory this is" },
	[O_DEV] = { "dev", "IFACE", NULL, "interface to the other hosts" },
	[O_PEER] = { "peer", "ADDR", NULL, "address of another host; may be given again" },
	[O_NO_DISCOVER] = { "no-discover", NULL, NULL, "do not look for hosts on the link" },
	[O_NO_ROUTES] = { "no-routes", NULL, NULL, "leave the routing tables alone" },
	[O_PORT] = { "port", "N", "48059", "UDP port, the same on all hosts" },
	[O_LEND] = { "lend", "SIZE", "0", "memory to lend to others (embedded: 80% of what is available)" },
	[O_STORE] = { "store", "DIR", NULL, "keep lent memory in files there" },
	[O_QUOTA] = { "quota", "SIZE", "0", "what one host may borrow at most; 0: no bound" },
	[O_LOCAL] = { "local", "SIZE|PCT%", "80%", "local memory for the programs of this host, together" },
	[O_SOCKET] = { "socket", "PATH", BB_SOCKET_DEFAULT, "where programs and bbctl find this bbd" },
	[O_KEY] = { "key", "FILE", "/etc/bluebridge/key", "key that all hosts share; made if it is not there" },
	[O_CONFIG] = { "config", "FILE", CONFIG_FILE, "read options from it, name = value a line" },
	[O_PAGERS] = { "pagers", "N", "1", "pager threads" },
	[O_CPU] = { "cpu", "LIST", NULL, "CPUs of the pagers, in turn; the server takes the last" },
	[O_SPIN] = { "spin", "USEC", "50", "poll that long after work before sleeping" },
	[O_DEADLINE] = { "deadline", "MSEC", "5000", "after that a page that cannot be had raises SIGBUS" },
	[O_REPLICAS] = { "replicas", "N", "1", "copies of each page at different hosts: 1 or 2" },
	[O_KEEP] = { "keep", "SECONDS", "60", "for so long memory outlives a bbd that is killed; 0: not (embedded: 0)" },
	[O_KERNEL] = { "kernel", "auto|off", "auto", "whether programs that bbload attached serve lent memory" },
	[O_XDP] = { "xdp", "auto|off", "auto", "whether answers come by AF_XDP where bbload attached programs" },
	[O_TRANSPORT] = { "transport", "auto|udp|rdma", "auto", "how pages travel; rdma: bbd does not start without an RDMA device" },
	[O_COMPRESS] = { "compress", "auto|on|off", "auto", "whether pages travel compressed (lz4); auto: where a link is slow" },
	[O_LATENCY] = { "latency", "auto|off", "auto", "whether idle CPUs are kept awake while faults come one after the other" },
	[O_NO_PREFETCH] = { "no-prefetch", NULL, NULL, "fetch no page ahead" },
	[O_NO_FILTER] = { "no-filter", NULL, NULL, "do not filter the system calls of bbd's own threads" },
	[O_EMBEDDED] = { "embedded", NULL, NULL, "no network: only this host's own memory or --store" },
	[O_LOG] = { "log", "LEVEL", "info", "error, warn, info or debug" },
	[O_VERSION] = { "version", NULL, NULL, "print the version" },
	[O_HELP] = { "help", NULL, NULL, "print this text" },
};
const unsigned int bb_config_count = O_MAX;

static int bad(const char *where, const char *name, const char *value, const char *wanted)
{
	bb_error("%s: %s=%s: wants %s", where, name, value, wanted);
	return -EINVAL;
}

static int number(const char *s, unsigned long min, unsigned long max, unsigned long *out)
{
	char *end;

	errno = 0;
	*out = strtoul(s, &end, 10);
	return !isdigit((unsigned char)*s) || *end || errno || *out < min || *out > max ? -EINVAL : 0;
}

static uint16_t node_of_machine(void)
{
	char id[64] = "";
	uint32_t h = 2166136261u; /* FNV-1a */
	FILE *f = fopen("/etc/machine-id", "re");

	if (f) {
		if (!fgets(id, sizeof(id), f))
			id[0] = 0;
		fclose(f);
	}
	for (const char *s = id; *s && *s != '\n'; s++)
		h = (h ^ (unsigned char)*s) * 16777619u;
	return (uint16_t)(1 + h % 65534);
}

static int set_cpus(struct bb_config *c, const char *value)
{
	const char *s = value;
	char *end;

	c->ncpus = 0;
	while (*s && c->ncpus < BB_CPUS_MAX) {
		long n = strtol(s, &end, 10);

		if (end == s || n < 0 || n >= sysconf(_SC_NPROCESSORS_CONF) || (*end && *end != ','))
			return -EINVAL;
		c->cpus[c->ncpus++] = (int)n;
		s = *end ? end + 1 : end;
	}
	return *s || !c->ncpus ? -EINVAL : 0;
}

static int set_local(struct bb_config *c, const char *value)
{
	unsigned long pct;
	char num[8];
	size_t n = strlen(value);

	if (n && n < sizeof(num) && value[n - 1] == '%') {
		memcpy(num, value, n - 1);
		num[n - 1] = 0;
		if (number(num, 1, 100, &pct) < 0)
			return -EINVAL;
		c->local = bb_memory_total("") / 100 * pct;
		return 0;
	}
	return bb_size_parse(value, &c->local);
}

static int find(const char *name)
{
	for (int i = 0; i < O_MAX; i++)
		if (!strcmp(bb_config_table[i].name, name))
			return i;
	return -1;
}

static int set(struct bb_config *c, int o, const char *v, const char *where)
{
	static const char *const levels[] = { "error", "warn", "info", "debug" };
	const char *name = bb_config_table[o].name;
	unsigned long n;

	/* An empty socket path would be a name that nobody finds. */
	if (bb_config_table[o].metavar && !*v)
		return bad(where, name, v, "a value");
	switch (o) {
	case O_NODE:
		if (number(v, 1, 65534, &n) < 0)
			return bad(where, name, v, "a number from 1 to 65534");
		c->node = (uint16_t)n;
		return 0;
	case O_TENANT:
		if (number(v, 0, 65535, &n) < 0)
			return bad(where, name, v, "a number from 0 to 65535");
		c->tenant = (uint16_t)n;
		return 0;
	case O_PORT:
		if (number(v, 1, 65535, &n) < 0)
			return bad(where, name, v, "a UDP port");
		c->port = (uint16_t)n;
		return 0;
	case O_DEV:
		if (!if_nametoindex(v))
			return bad(where, name, v, "a network interface that exists here");
		c->dev = v;
		return 0;
	case O_PEER:
		if (c->npeers == BB_PEERS_MAX)
			return bad(where, name, v, "no more than 64 peers; discovery finds the others");
		c->peers[c->npeers++] = v;
		return 0;
	case O_NO_DISCOVER:
		c->discover = false;
		return 0;
	case O_NO_ROUTES:
		c->routes = false;
		return 0;
	case O_LEND:
		c->lend_set = true;
		return bb_size_parse(v, &c->lend) < 0 ? bad(where, name, v, "a size like 4G") : 0;
	case O_QUOTA:
		return bb_size_parse(v, &c->quota) < 0 ? bad(where, name, v, "a size like 4G") : 0;
	case O_LOCAL:
		return set_local(c, v) < 0 ? bad(where, name, v, "a size like 4G, or a share like 50%") : 0;
	case O_STORE:
		c->store = v;
		return 0;
	case O_SOCKET:
		c->socket = v;
		return 0;
	case O_KEY:
		c->key = v;
		return 0;
	case O_PAGERS:
		if (number(v, 1, 64, &n) < 0)
			return bad(where, name, v, "a number from 1 to 64");
		c->pagers = (unsigned int)n;
		return 0;
	case O_CPU:
		return set_cpus(c, v) < 0 ? bad(where, name, v, "a list of CPUs like 0,1") : 0;
	case O_SPIN:
		if (number(v, 0, 1000000, &n) < 0)
			return bad(where, name, v, "microseconds, at most a million");
		c->spin_us = (uint32_t)n;
		return 0;
	case O_DEADLINE:
		if (number(v, 10, 600000, &n) < 0)
			return bad(where, name, v, "milliseconds from 10 to 600000");
		c->deadline_ms = (uint32_t)n;
		return 0;
	case O_REPLICAS:
		if (number(v, 1, 2, &n) < 0)
			return bad(where, name, v, "1 or 2");
		c->replicas = (unsigned int)n;
		return 0;
	case O_KEEP:
		if (number(v, 0, 86400, &n) < 0)
			return bad(where, name, v, "seconds, at most 86400");
		c->keep_ms = (uint32_t)n * 1000;
		c->keep_set = true;
		return 0;
	case O_KERNEL:
		if (strcmp(v, "auto") && strcmp(v, "off"))
			return bad(where, name, v, "auto or off");
		c->kernel = *v == 'a';
		return 0;
	case O_XDP:
		if (strcmp(v, "auto") && strcmp(v, "off"))
			return bad(where, name, v, "auto or off");
		c->xdp = *v == 'a';
		return 0;
	case O_LATENCY:
		if (strcmp(v, "auto") && strcmp(v, "off"))
			return bad(where, name, v, "auto or off");
		c->latency = *v == 'a';
		return 0;
	case O_COMPRESS:
		for (n = 0; n < 3; n++)
			if (!strcmp(v, bb_compress_name[n])) {
				c->compress = (enum bb_compress)n;
				return 0;
			}
		return bad(where, name, v, "auto, on or off");
	case O_TRANSPORT:
		if (strcmp(v, "auto") && strcmp(v, "udp") && strcmp(v, "rdma"))
			return bad(where, name, v, "auto, udp or rdma");
		c->rdma = *v != 'u';
		c->must_rdma = *v == 'r';
		return 0;
	case O_NO_PREFETCH:
		c->prefetch = false;
		return 0;
	case O_NO_FILTER:
		c->filter = false;
		return 0;
	case O_EMBEDDED:
		c->embedded = true;
		return 0;
	case O_LOG:
		for (n = 0; n < 4; n++)
			if (!strcmp(v, levels[n])) {
				c->log = (enum bb_log_level)n;
				return 0;
			}
		return bad(where, name, v, "error, warn, info or debug");
	default:
		return bad(where, name, v ? v : "", "the command line");
	}
}

int bb_config_set(struct bb_config *c, const char *name, const char *value, const char *where)
{
	int o = find(name);

	if (o < 0 || o == O_CONFIG || o == O_VERSION || o == O_HELP) {
		bb_error("%s: there is no option %s; bbd --help lists them", where, name);
		return -EINVAL;
	}
	if (!bb_config_table[o].metavar) {
		if (!strcmp(value, "no") || !strcmp(value, "off") || !strcmp(value, "0"))
			return 0;
		if (*value && strcmp(value, "yes") && strcmp(value, "on") && strcmp(value, "1"))
			return bad(where, name, value, "yes or no");
	}
	return set(c, o, value, where);
}

int bb_config_file(struct bb_config *c, const char *path, bool must_exist)
{
	char *line = NULL, where[300];
	size_t cap = 0;
	unsigned int no = 0;
	int r = 0;
	FILE *f = fopen(path, "re");

	if (!f) {
		if (!must_exist && errno == ENOENT)
			return 0;
		bb_error("%s: %s", path, strerrordesc_np(errno));
		return -EINVAL;
	}
	while (r == 0 && getline(&line, &cap, f) >= 0) {
		char *name = line + strspn(line, " \t"), *eq, *end, *value;

		no++;
		name[strcspn(name, "#\n")] = 0;
		if (!*name)
			continue;
		snprintf(where, sizeof(where), "%s:%u", path, no);
		eq = strchr(name, '=');
		if (!eq) {
			bb_error("%s: wants \"name = value\"", where);
			r = -EINVAL;
			break;
		}
		for (end = eq; end > name && strchr(" \t", end[-1]); end--)
			;
		*end = 0;
		value = eq + 1 + strspn(eq + 1, " \t");
		for (end = value + strlen(value); end > value && strchr(" \t\r", end[-1]); end--)
			;
		*end = 0;
		value = strdup(value); /* lives as long as bbd */
		r = value ? bb_config_set(c, name, value, where) : -ENOMEM;
	}
	if (r == 0 && ferror(f)) { /* a directory, a bad disk */
		bb_error("%s: %s", path, strerrordesc_np(errno));
		r = -EINVAL;
	}
	free(line);
	fclose(f);
	return r;
}

static void help(void)
{
	printf("usage: bbd [OPTION...]\n"
	       "The BlueBridge daemon of a host: pages for its programs, lends its memory.\n\n");
	for (int i = 0; i < O_MAX; i++) {
		const struct bb_option_desc *d = &bb_config_table[i];
		char name[40];

		snprintf(name, sizeof(name), "--%s%s%s", d->name, d->metavar ? " " : "", d->metavar ? d->metavar : "");
		printf("  %-20s %s%s%s%s\n", name, d->help, d->fallback ? " (" : "", d->fallback ? d->fallback : "",
		       d->fallback ? ")" : "");
	}
	printf("\nSizes take K, M, G, T. See bbd(8).\n");
}

int bb_config_parse(struct bb_config *c, int argc, char **argv)
{
	struct option lo[O_MAX + 1] = { 0 };
	const char *file = NULL;
	int i, o, r;

	memset(c, 0, sizeof(*c));
	c->port = BB_UDP_PORT;
	c->discover = c->routes = c->prefetch = c->filter = c->kernel = c->xdp = c->rdma = c->latency = true;
	c->socket = BB_SOCKET_DEFAULT;
	c->key = NULL;
	c->pagers = 1;
	c->spin_us = 50;
	c->deadline_ms = 5000;
	c->keep_ms = 60000;
	c->replicas = 1;
	c->compress = BB_COMPRESS_AUTO;
	c->log = BB_LOG_INFO;
	c->local = bb_memory_total("") / 100 * 80;
	for (i = 0; i < O_MAX; i++)
		lo[i] = (struct option){ bb_config_table[i].name,
					 bb_config_table[i].metavar ? required_argument : no_argument, NULL, 256 + i };

	/* The file first, so that the command line has the last word. */
	opterr = 0;
	optind = 0;
	while ((o = getopt_long(argc, argv, ":", lo, NULL)) >= 0) {
		if (o == 256 + O_HELP) {
			help();
			return 1;
		}
		if (o == 256 + O_VERSION) {
			printf("bbd %s\n", BB_VERSION);
			return 1;
		}
		if (o == 256 + O_CONFIG)
			file = optarg;
		if (o == ':' || o == '?') {
			bb_error("%s: %s; bbd --help lists the options", argv[optind - 1],
				 o == ':' ? "wants a value" : "there is no such option");
			return -EINVAL;
		}
	}
	if (optind < argc) {
		bb_error("%s: bbd takes options only; see bbd --help", argv[optind]);
		return -EINVAL;
	}
	r = bb_config_file(c, file ? file : CONFIG_FILE, file != NULL);
	if (r < 0)
		return r;
	optind = 0; /* from the start again */
	while ((o = getopt_long(argc, argv, ":", lo, NULL)) >= 0)
		if (o >= 256 && o != 256 + O_CONFIG && set(c, o - 256, optarg, "bbd") < 0)
			return -EINVAL;
	if (!c->node)
		c->node = node_of_machine();
	if (c->embedded && !c->keep_set)
		c->keep_ms = 0;
	if (c->embedded && !c->lend_set)
		c->lend = c->store ? 1ULL << 40 : bb_memory_available("") / 100 * 80;
	if (c->must_rdma && (c->embedded || !c->dev)) {
		bb_error("--transport rdma: %s", c->embedded ? "an embedded bbd speaks to no other host" :
							      "give the interface of the RDMA device by --dev");
		return -EINVAL;
	}
	if (c->store && !c->lend) {
		bb_error("--store %s: nothing is lent: give --lend SIZE as well", c->store);
		return -EINVAL;
	}
	return 0;
}
