/* SPDX-License-Identifier: MIT */
/*
 * bbctl trace: single faults, with what each of their five parts took. Without
 * --seconds the last ones that bbd remembers; with it those that come, until the
 * time is over or there were --count of them. bbd remembers some thousands a
 * program: who reads more slowly than they come is told how many went by.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bbctl.h"
#include "clock.h"
#include "log.h"

#define COUNT 20	/* the last ones, where nothing else is said */
#define COUNT_MAX 100000
#define SECONDS_MAX 86400
#define PAUSE_US 20000
#define REGIONS 1024

static const char *const part_name[] = { "enter", "directory", "get", "exit", "other" };
#define PARTS (sizeof(part_name) / sizeof(part_name[0]))

struct fault {
	uint64_t end, address, pages, total, part[PARTS];
	unsigned int node;
	uint32_t region, pid;
	char kind[16], pointer[48], comm[32];
};

/* How far a region has been read. */
struct place {
	uint32_t region, pid;
	uint64_t at;
	char comm[32];
};

struct trace {
	struct bbctl *b;
	json_t *nodes;
	uint64_t pid, slower_ns, count, until, lost;
	bool follow, titled;
	int64_t to_real;	/* from bbd's clock to that of the calendar */
	struct place place[REGIONS];
	size_t nplaces;
	struct fault *f;	/* found, not yet printed */
	size_t n, cap;
	uint64_t printed;
};

/* --- arguments --------------------------------------------------------------- */

static int bad(const char *name, const char *value, const char *wants)
{
	bb_error("--%s %s: wants %s", name, value, wants);
	return -EINVAL;
}

/* In thousandths or the like: n of them are one. */
static int decimal(const char *s, double max, double n, uint64_t *out)
{
	char *end;
	double v;

	if (*s < '0' || *s > '9' || strspn(s, "0123456789.") != strlen(s))
		return -EINVAL;
	v = strtod(s, &end);
	if (*end || !(v <= max))
		return -EINVAL;
	*out = (uint64_t)(v * n);
	return 0;
}

static int arguments(struct trace *t, const struct bbctl *b)
{
	uint64_t seconds = 0;

	t->count = b->seconds ? UINT64_MAX : COUNT;
	if (b->program && (strchr(b->program, '.') || decimal(b->program, INT32_MAX, 1, &t->pid) < 0 || !t->pid))
		return bad("program", b->program, "the number of a process, as bbctl program shows it");
	if (b->slower && decimal(b->slower, 1e9, 1e3, &t->slower_ns) < 0)
		return bad("slower", b->slower, "microseconds, at most 1000000000");
	if (b->count && (strchr(b->count, '.') || decimal(b->count, COUNT_MAX, 1, &t->count) < 0 || !t->count))
		return bad("count", b->count, "a number from 1 to 100000");
	if (b->seconds && (decimal(b->seconds, SECONDS_MAX, 1e9, &seconds) < 0 || !seconds))
		return bad("seconds", b->seconds, "more than 0 and at most 86400");
	t->follow = b->seconds;
	t->until = bb_now_ns() + seconds;
	return 0;
}

/* --- printing ---------------------------------------------------------------- */

static const char *host(const struct trace *t, unsigned int node)
{
	json_t *n;
	size_t i;

	each_item(t->nodes, i, n)
		if (node && num(n, "node") == node)
			return str(n, "name");
	return "";
}

static void title(void)
{
	printf("%-15s %8s %-10s %12s %10s", "TIME", "PID", "KIND", "NODE", "TOTAL, µs");
	for (size_t i = 0; i < PARTS; i++)
		printf(" %9s", part_name[i]);
	printf("  %-16s %s\n", "ADDRESS", "POINTER");
}

static int print_one(struct trace *t, const struct fault *f)
{
	uint64_t real = f->end + (uint64_t)t->to_real;
	time_t s = (time_t)(real / 1000000000);
	char clock[16], where[32] = "-";
	struct tm tm;
	json_t *o;

	if (t->b->json) {
		o = json_pack("{s:I, s:I, s:I, s:s, s:s, s:i, s:s, s:s, s:I, s:I, s:I}", "time_ns", (json_int_t)real, "region",
			      (json_int_t)f->region, "pid", (json_int_t)f->pid, "comm", f->comm, "kind", f->kind, "node",
			      (int)f->node, "host", host(t, f->node), "pointer", f->pointer, "address",
			      (json_int_t)f->address, "pages", (json_int_t)f->pages, "total_ns", (json_int_t)f->total);
		for (size_t i = 0; i < PARTS; i++) {
			char name[24];

			snprintf(name, sizeof(name), "%s_ns", part_name[i]);
			json_object_set_new(o, name, json_integer((json_int_t)f->part[i]));
		}
		return o ? bbctl_print_json(o) : BBCTL_FAILED;
	}
	if (!t->titled)
		title();
	t->titled = true;
	strftime(clock, sizeof(clock), "%H:%M:%S", localtime_r(&s, &tm));
	printf("%s.%06u %8u %-10s ", clock, (unsigned int)(real % 1000000000 / 1000), f->pid, f->kind);
	if (f->node)
		snprintf(where, sizeof(where), "%u %s", f->node, host(t, f->node));
	printf("%*s", (int)(12 - (strlen(where) < 12 ? strlen(where) : 12)), "");
	print_clean(where);
	printf(" %9.1f", (double)f->total / 1000);
	for (size_t i = 0; i < PARTS; i++)
		printf(" %9.1f", (double)f->part[i] / 1000);
	printf("  %-16llx %s\n", (unsigned long long)f->address, f->pointer);
	return BBCTL_OK;
}

static int by_end(const void *va, const void *vb)
{
	const struct fault *a = va, *b = vb;

	return a->end < b->end ? -1 : a->end > b->end;
}

/* In the order of time, as many as are wanted. */
static int print_all(struct trace *t)
{
	int status = BBCTL_OK;
	size_t i = 0;

	qsort(t->f, t->n, sizeof(*t->f), by_end);
	if (!t->follow && t->n > t->count)
		i = t->n - t->count;
	for (; i < t->n && t->printed < t->count && status == BBCTL_OK; i++, t->printed++)
		status = print_one(t, &t->f[i]);
	t->n = 0;
	if (fflush(stdout) != 0)
		status = BBCTL_FAILED; /* main says so */
	return status;
}

/* --- reading ----------------------------------------------------------------- */

static int keep(struct trace *t, const struct place *w, const json_t *a)
{
	struct fault *f;

	if (json_array_size(a) != 6 + PARTS) {
		bb_error("what answers at %s is no bbd of this version", t->b->socket);
		return -EPROTO;
	}
	/* Only the last ones are wanted: forget the others now and then. */
	if (!t->follow && t->n >= 2 * COUNT_MAX) {
		qsort(t->f, t->n, sizeof(*t->f), by_end);
		memmove(t->f, t->f + t->n - COUNT_MAX, COUNT_MAX * sizeof(*t->f));
		t->n = COUNT_MAX;
	}
	if (t->n == t->cap) {
		size_t cap = t->cap ? 2 * t->cap : 1024;
		struct fault *more = realloc(t->f, cap * sizeof(*more));

		if (!more) {
			bb_error("out of memory");
			return -ENOMEM;
		}
		t->f = more;
		t->cap = cap;
	}
	f = &t->f[t->n++];
	*f = (struct fault){
		.region = w->region,
		.pid = w->pid,
		.end = (uint64_t)json_integer_value(json_array_get(a, 0)),
		.address = (uint64_t)json_integer_value(json_array_get(a, 1)),
		.pages = (uint64_t)json_integer_value(json_array_get(a, 2)),
		.node = (unsigned int)json_integer_value(json_array_get(a, 4)),
	};
	snprintf(f->comm, sizeof(f->comm), "%s", w->comm);
	snprintf(f->kind, sizeof(f->kind), "%s", json_is_string(json_array_get(a, 3)) ? json_string_value(json_array_get(a, 3)) : "?");
	snprintf(f->pointer, sizeof(f->pointer), "%s",
		 json_is_string(json_array_get(a, 5)) ? json_string_value(json_array_get(a, 5)) : "");
	for (size_t i = 0; i < PARTS; i++) {
		f->part[i] = (uint64_t)json_integer_value(json_array_get(a, 6 + i));
		f->total += f->part[i];
	}
	return 0;
}

/* All that the region has now. Return: 0, also where it has gone; -errno, said. */
static int read_region(struct trace *t, struct place *w, uint64_t head)
{
	while (w->at < head) {
		json_t *r = NULL, *a;
		uint64_t lost;
		char err[256];
		size_t i;
		int e = bbctl_ask(t->b, json_pack("{s:s, s:I, s:I, s:I}", "cmd", "trace.read", "region", (json_int_t)w->region,
						  "at", (json_int_t)w->at, "slower_ns", (json_int_t)t->slower_ns),
				  &r, NULL, err);

		if (e == -EREMOTEIO && !strcmp(err, "there is no such region"))
			return 0;
		if (e < 0) {
			bb_error("%s", err);
			return e;
		}
		if (num(r, "at") <= w->at)
			head = w->at; /* it has begun anew */
		w->at = num(r, "at");
		lost = num(r, "lost");
		t->lost += lost;
		if (lost && t->b->json && bbctl_print_json(json_pack("{s:I, s:I, s:I}", "region", (json_int_t)w->region, "pid",
								     (json_int_t)w->pid, "lost", (json_int_t)lost)) != BBCTL_OK)
			e = -EIO;
		each_item(json_object_get(r, "faults"), i, a)
			if (e == 0)
				e = keep(t, w, a);
		json_decref(r);
		if (e < 0)
			return e;
		if (t->follow && (t->printed + t->n >= t->count || bb_now_ns() >= t->until))
			return 0;
	}
	return 0;
}

static struct place *place_of(struct trace *t, const json_t *p, bool first, uint64_t kept)
{
	uint64_t head = num(p, "head"), back = 0;
	struct place *w;

	for (size_t i = 0; i < t->nplaces; i++)
		if (t->place[i].region == num(p, "region") && t->place[i].pid == num(p, "pid"))
			return &t->place[i];
	if (t->nplaces == REGIONS)
		return NULL;
	w = &t->place[t->nplaces++];
	w->region = (uint32_t)num(p, "region");
	w->pid = (uint32_t)num(p, "pid");
	snprintf(w->comm, sizeof(w->comm), "%s", str(p, "comm"));
	/* A program that comes later is read from its first fault. */
	if (t->follow && !first)
		return w;
	if (!t->follow)
		back = t->slower_ns || t->count > kept ? kept : t->count;
	w->at = head > back ? head - back : 0;
	return w;
}

/* Reads once what all programs have. Return: programs there, -errno. */
static int look(struct trace *t, bool first)
{
	json_t *r = bbctl_get(t->b, "trace.list"), *p;
	int n = 0, e = 0;
	size_t i;

	if (!r)
		return -EIO;
	if (first) {
		struct timespec now;

		clock_gettime(CLOCK_REALTIME, &now);
		t->to_real = (int64_t)((uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec - num(r, "now_ns"));
	}
	each_item(json_object_get(r, "programs"), i, p) {
		struct place *w;

		if (t->pid && num(p, "pid") != t->pid)
			continue;
		n++;
		w = place_of(t, p, first, num(r, "kept"));
		if (w && e == 0)
			e = read_region(t, w, num(p, "head"));
	}
	json_decref(r);
	return e < 0 ? e : n;
}

static int run(struct trace *t)
{
	int n = look(t, true), status = n < 0 ? BBCTL_FAILED : BBCTL_OK;

	if (!n && t->pid) {
		bb_error("no program %llu has memory on other hosts; bbctl program shows those that have",
			 (unsigned long long)t->pid);
		return BBCTL_FAILED;
	}
	if (status == BBCTL_OK)
		status = print_all(t);
	while (t->follow && status == BBCTL_OK && t->printed < t->count && (n || !t->pid)) {
		uint64_t now = bb_now_ns();

		if (now >= t->until)
			break;
		usleep(t->until - now < PAUSE_US * 1000ULL ? (useconds_t)((t->until - now) / 1000 + 1) : PAUSE_US);
		n = look(t, false);
		status = n < 0 ? BBCTL_FAILED : print_all(t);
	}
	if (t->lost && !t->b->json)
		bb_warn("%llu faults went by unread: they came faster than they were printed",
			(unsigned long long)t->lost);
	return status;
}

int bbctl_trace(struct bbctl *b, int argc, char **argv)
{
	struct trace *t = calloc(1, sizeof(*t));
	json_t *nodes;
	int status;

	if (!t) {
		bb_error("out of memory");
		return BBCTL_FAILED;
	}
	t->b = b;
	if (arguments(t, b) < 0) {
		free(t);
		return BBCTL_USAGE;
	}
	nodes = bbctl_get(b, "node.show");
	t->nodes = json_object_get(nodes, "nodes");
	status = nodes ? run(t) : BBCTL_FAILED;
	json_decref(nodes);
	free(t->f);
	free(t);
	return status;
}
