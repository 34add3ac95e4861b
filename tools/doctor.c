/* SPDX-License-Identifier: MIT */
/*
 * bbctl doctor: what of this host keeps BlueBridge from working well. Every
 * finding has the command that mends it. It only looks; without a bbd it looks
 * at what can be seen then.
 */
#include "doctor.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *text(const char *fmt, va_list ap)
{
	json_t *t = NULL;
	char *s;

	if (vasprintf(&s, fmt, ap) >= 0) {
		t = json_string(s);
		free(s);
	}
	return t ? t : json_string("?"); /* a path need not be UTF-8 */
}

void check(struct doctor *d, enum check_state state, const char *name, const char *fmt, ...)
{
	static const char *const word[] = { "ok", "warn", "fail" };
	json_t *what;
	va_list ap;

	va_start(ap, fmt);
	what = text(fmt, ap);
	va_end(ap);
	json_array_append_new(d->checks, json_pack("{s:s, s:s, s:o, s:n}", "name", name, "state", word[state], "what",
						   what, "mend"));
}

void mend(struct doctor *d, const char *fmt, ...)
{
	json_t *last = json_array_get(d->checks, json_array_size(d->checks) - 1);
	va_list ap;

	va_start(ap, fmt);
	json_object_set_new(last, "mend", text(fmt, ap));
	va_end(ap);
}

bool read_line(const char *path, char *buf, size_t size)
{
	FILE *f = fopen(path, "re");
	bool ok = f && fgets(buf, (int)size, f);

	if (f)
		fclose(f);
	if (ok)
		buf[strcspn(buf, "\n")] = 0;
	return ok;
}

bool read_number(const char *path, long *out)
{
	char buf[64], *end;

	if (!read_line(path, buf, sizeof(buf)))
		return false;
	*out = strtol(buf, &end, 10);
	return end != buf;
}

static void print(const json_t *c)
{
	const char *state = str(c, "state");

	printf("%-4s  %-13s  ", strcmp(state, "fail") ? state : "FAIL", str(c, "name"));
	print_clean(str(c, "what"));
	putchar('\n');
	if (json_is_string(json_object_get(c, "mend"))) {
		printf("%21smend: ", "");
		print_clean(str(c, "mend"));
		putchar('\n');
	}
}

int bbctl_doctor(struct bbctl *b, int argc, char **argv)
{
	struct doctor d = { .b = b, .checks = json_array() };
	unsigned int n[2] = { 0 };
	json_t *c;
	size_t i;
	int r = BBCTL_OK;

	doctor_bbd(&d);
	doctor_kernel(&d);
	doctor_limits(&d);
	doctor_rights(&d);
	doctor_load(&d);
	doctor_net(&d);
	each_item(d.checks, i, c) {
		n[0] += !strcmp(str(c, "state"), "warn");
		n[1] += !strcmp(str(c, "state"), "fail");
	}
	if (b->json) {
		r = bbctl_print_json(json_pack("{s:o}", "checks", d.checks));
	} else {
		each_item(d.checks, i, c)
			print(c);
		printf("\n%zu checks: %zu ok, %u warn, %u FAIL\n", i, i - n[0] - n[1], n[0], n[1]);
		json_decref(d.checks);
	}
	json_decref(d.facts);
	return n[1] ? BBCTL_FAILED : r;
}
