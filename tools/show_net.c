/* SPDX-License-Identifier: MIT */
/* Packets of the server and the pagers, and the same numbers for Prometheus. */
#include <stdio.h>

#include "bbctl.h"

/* All numbers of an object, then those of the objects in it. */
static void print_counters(const char *name, const json_t *o)
{
	const char *key;
	json_t *v;

	printf("%s:", name);
	each_member((json_t *)o, key, v) {
		if (!json_is_integer(v))
			continue;
		putchar(' ');
		print_clean(key);
		printf(" %llu", (unsigned long long)json_integer_value(v));
	}
	putchar('\n');
	each_member((json_t *)o, key, v) {
		char inner[64];

		if (!json_is_object(v) || !json_object_size(v))
			continue;
		snprintf(inner, sizeof(inner), "  %s", key);
		print_counters(inner, v);
	}
}

int bbctl_net_show(struct bbctl *b, int argc, char **argv)
{
	json_t *r = bbctl_get(b, "net.show"), *p, *k;
	size_t i;

	if (!r)
		return BBCTL_FAILED;
	if (b->json)
		return bbctl_print_json(r);
	print_counters("server", json_object_get(r, "server"));
	k = json_object_get(r, "kernel");
	if (*str(k, "why"))
		printf("kernel: %s (%s)\n", str(k, "state"), str(k, "why"));
	if (json_object_get(k, "commands"))
		print_counters("kernel", k);
	k = json_object_get(r, "rdma");
	if (flag(k, "on"))
		print_counters("rdma", k);
	else
		printf("rdma: off (%s)\n", str(k, "why"));
	each_item(json_object_get(r, "pagers"), i, p) {
		char name[32];

		snprintf(name, sizeof(name), "pager %zu", i);
		print_counters(name, p);
	}
	json_decref(r);
	return BBCTL_OK;
}

int bbctl_metrics_show(struct bbctl *b, int argc, char **argv)
{
	json_t *r = bbctl_get(b, "metrics.show");

	if (!r)
		return BBCTL_FAILED;
	if (b->json)
		return bbctl_print_json(r);
	fputs(str(r, "text"), stdout);
	json_decref(r);
	return BBCTL_OK;
}
