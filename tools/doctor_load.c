/* SPDX-License-Identifier: MIT */
/*
 * What slows every fault though nothing is broken: a clock that is a system
 * call, and a kernel that swaps while BlueBridge pages.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "doctor.h"

#define CLOCKSOURCE "/sys/devices/system/clocksource/clocksource0/"

/* A reading from user space costs some 20-60 ns; by way of a device, a microsecond and more. */
#define CLOCK_SLOW_NS 500
#define CLOCK_READINGS 2000

#define SWAP_SAMPLE_US 200000
/* 4 MiB a second, either way: more than strays. */
#define SWAP_BUSY 1024

static void clock_cost(struct doctor *d)
{
	char source[64] = "?", others[256] = "";
	uint64_t best = ~0ULL;

	read_line(CLOCKSOURCE "current_clocksource", source, sizeof(source));
	read_line(CLOCKSOURCE "available_clocksource", others, sizeof(others));
	/* The best of several rounds: others run on this host, too. */
	for (int round = 0; round < 5; round++) {
		uint64_t t = bb_now_ns(), cost;

		for (int i = 0; i < CLOCK_READINGS; i++)
			bb_now_ns();
		cost = (bb_now_ns() - t) / CLOCK_READINGS;
		if (cost < best)
			best = cost;
	}
	if (best < CLOCK_SLOW_NS) {
		check(d, CHECK_OK, "clock", "%s, %llu ns a reading", source, (unsigned long long)best);
		return;
	}
	check(d, CHECK_WARN, "clock", "%s takes %llu ns a reading, several times a fault", source,
	      (unsigned long long)best);
	if (!strcmp(source, "tsc"))
		mend(d, "boot without vdso=0 on the kernel's command line; under a hypervisor ask for a clock that needs no exit");
	else if (strstr(others, "tsc"))
		mend(d, "echo tsc >" CLOCKSOURCE "current_clocksource");
	else
		mend(d, "boot with tsc=reliable on the kernel's command line, if the CPU's clock is steady");
}

/* Pages swapped, both ways. Return: is it known? */
static bool swapped(uint64_t *out)
{
	FILE *f = fopen("/proc/vmstat", "re");
	unsigned long long n;
	char line[128];
	int seen = 0;

	*out = 0;
	if (!f)
		return false;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "pswpin %llu", &n) == 1 || sscanf(line, "pswpout %llu", &n) == 1) {
			*out += n;
			seen++;
		}
	fclose(f);
	return seen == 2;
}

static void swapping(struct doctor *d)
{
	uint64_t before, after, t = bb_now_ns(), rate;

	if (!swapped(&before))
		return;
	usleep(SWAP_SAMPLE_US);
	if (!swapped(&after))
		return;
	rate = (after - before) * 1000000000ULL / (bb_now_ns() - t);
	if (rate < SWAP_BUSY) {
		check(d, CHECK_OK, "swap", "the kernel swaps %llu pages a second", (unsigned long long)rate);
		return;
	}
	check(d, CHECK_WARN, "swap",
	      "the kernel swaps %llu pages a second: programs have more local memory than this host can give",
	      (unsigned long long)rate);
	mend(d, "set \"local = 60%%\" in /etc/bluebridge/bbd.conf, then: systemctl restart bbd; or for one program: bbctl program set REGION budget SIZE");
}

void doctor_load(struct doctor *d)
{
	clock_cost(d);
	swapping(d);
}
