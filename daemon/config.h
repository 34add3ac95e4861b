/* SPDX-License-Identifier: MIT */
/*
 * bbd's options: one table for the command line, the configuration file
 * ("name = value" lines), --help and the man page.
 */
#ifndef BB_DAEMON_CONFIG_H
#define BB_DAEMON_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "log.h"
#include "net/compress.h"

#define BB_PEERS_MAX 64
#define BB_CPUS_MAX 16

struct bb_config {
	uint16_t node, tenant, port;
	const char *dev;
	const char *peers[BB_PEERS_MAX + 1];
	unsigned int npeers;
	bool discover, routes, prefetch, embedded, filter, kernel, xdp, latency, rdma, must_rdma;
	uint64_t lend, quota;
	bool lend_set;
	const char *store, *socket, *key;
	uint64_t local;		/* bytes for the programs of this host, together */
	unsigned int pagers;
	int cpus[BB_CPUS_MAX];	/* pager i runs on cpus[i % ncpus], the server on the last */
	unsigned int ncpus;
	uint32_t spin_us;
	uint32_t deadline_ms;
	unsigned int replicas;	/* copies of each page */
	uint32_t keep_ms;	/* memory outlives us for so long */
	bool keep_set;
	enum bb_compress compress;
	enum bb_log_level log;
};

struct bb_option_desc {
	const char *name;
	const char *metavar; /* NULL: takes no value */
	const char *fallback;
	const char *help;
};

extern const struct bb_option_desc bb_config_table[];
extern const unsigned int bb_config_count;

/*
 * Return: 0: go on; 1: something was printed (--help, --version), exit 0;
 * -EINVAL: a message was given, exit 2. Strings live as long as argv, or for
 * ever (those of the file).
 */
int bb_config_parse(struct bb_config *c, int argc, char **argv);

/* One "name = value"; where says where it stands, for messages. Return: 0 or -EINVAL. */
int bb_config_set(struct bb_config *c, const char *name, const char *value, const char *where);
int bb_config_file(struct bb_config *c, const char *path, bool must_exist);

#endif
