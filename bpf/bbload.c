/* SPDX-License-Identifier: MIT */
/* bbload: attaches, shows, updates and detaches the BPF programs. */
#include <stdio.h>

#include "bb_host.skel.h"
#include "bb_read.skel.h"
#include "bb_switch.skel.h"

int main(void)
{
	struct bb_host *h = bb_host__open_and_load();

	printf("%d\n", h != NULL);
	bb_host__destroy(h);
	return h ? 0 : 1;
}
