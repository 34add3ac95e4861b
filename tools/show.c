/* SPDX-License-Identifier: MIT */
/* The state of a host on one page: what bbctl shows when it is asked nothing. */
#include <stdio.h>

#include "bbctl.h"

int bbctl_show(struct bbctl *b, int argc, char **argv)
{
	json_t *s = bbctl_get(b, "show");

	if (!s)
		return BBCTL_FAILED;
	if (b->json)
		return bbctl_print_json(s);
	printf("bbd ");
	print_clean(str(s, "version"));
	printf(", pid %llu, at %s\n\n", (unsigned long long)num(s, "pid"), b->socket);
	print_nodes(json_object_get(s, "nodes"));
	putchar('\n');
	print_programs(json_object_get(s, "programs"));
	putchar('\n');
	print_home(json_object_get(s, "home"));
	putchar('\n');
	print_faults(json_object_get(s, "faults"));
	json_decref(s);
	return BBCTL_OK;
}
