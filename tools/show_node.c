/* SPDX-License-Identifier: MIT */
/* Hosts, and the memory of this one that others use. */
#include <stdio.h>

#include "bbctl.h"
#include "options.h"

static const char *state(const json_t *n)
{
	if (flag(n, "self"))
		return "self";
	if (flag(n, "key_differs"))
		return "other key";
	return flag(n, "alive") ? "alive" : "silent";
}

void print_nodes(const json_t *nodes)
{
	struct table *t = table_new("NODE|NAME|STATE|>LENT|>FREE|>RTT µs|>MTU|VIA|DEV|BY|LZ4");
	json_t *n;
	size_t i;

	each_item(nodes, i, n) {
		bool self = flag(n, "self");

		table_number(t, json_object_get(n, "node"));
		table_cell(t, "%s", str(n, "name"));
		table_cell(t, "%s", state(n));
		table_size(t, json_object_get(n, "lent"));
		table_size(t, json_object_get(n, "free"));
		if (self || real(n, "rtt_us") <= 0)
			table_cell(t, "-");
		else
			table_cell(t, "%.1f", real(n, "rtt_us"));
		if (self || !num(n, "mtu"))
			table_cell(t, "-");
		else
			table_number(t, json_object_get(n, "mtu"));
		table_cell(t, "%s", *str(n, "via") ? str(n, "via") : "-");
		table_cell(t, "%s", *str(n, "dev") ? str(n, "dev") : "-");
		table_cell(t, "%s", *str(n, "transport") ? str(n, "transport") : "-");
		table_cell(t, "%s", self ? (*str(n, "compress") ? str(n, "compress") : "-") : flag(n, "lz4") ? "yes" : "no");
	}
	table_print(t);
}

int bbctl_node_show(struct bbctl *b, int argc, char **argv)
{
	json_t *r = bbctl_get(b, "node.show");

	if (!r)
		return BBCTL_FAILED;
	if (b->json)
		return bbctl_print_json(r);
	print_nodes(json_object_get(r, "nodes"));
	json_decref(r);
	return BBCTL_OK;
}

void print_home(const json_t *h)
{
	const json_t *refused = json_object_get(h, "refused");
	const char *why;
	char lent[32], used[32], kernel[48] = "";
	json_t *n;

	if (!num(h, "lent")) {
		printf("home: nothing is lent\n");
		return;
	}
	if (num(h, "kernel_reads"))
		snprintf(kernel, sizeof(kernel), " and %llu in the kernel", (unsigned long long)num(h, "kernel_reads"));
	printf("home: %s of %s lent is in use, %llu extents; %llu reads%s, %llu writes, %llu creates, %llu deletes\n",
	       bb_size_format(num(h, "used"), used, sizeof(used)), bb_size_format(num(h, "lent"), lent, sizeof(lent)),
	       (unsigned long long)num(h, "extents"), (unsigned long long)num(h, "reads"), kernel,
	       (unsigned long long)num(h, "writes"), (unsigned long long)num(h, "creates"),
	       (unsigned long long)num(h, "deletes"));
	if (!json_object_size(refused))
		return;
	printf("home: refused");
	each_member((json_t *)refused, why, n) {
		putchar(' ');
		print_clean(why);
		printf(" %llu", (unsigned long long)json_integer_value(n));
	}
	putchar('\n');
}

int bbctl_home_show(struct bbctl *b, int argc, char **argv)
{
	json_t *r = bbctl_get(b, "home.show");

	if (!r)
		return BBCTL_FAILED;
	if (b->json)
		return bbctl_print_json(r);
	print_home(r);
	json_decref(r);
	return BBCTL_OK;
}
