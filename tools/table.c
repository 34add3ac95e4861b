/* SPDX-License-Identifier: MIT */
/*
 * Columns for people, as wide as what stands in them. Names come from other
 * hosts and programs: what could steer a terminal is printed as a question mark.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bbctl.h"
#include "options.h"

#define COLUMNS_MAX 20

struct table {
	unsigned int ncols;
	bool right[COLUMNS_MAX];
	char **cell; /* row by row, the head first */
	size_t n, cap;
};

static void add(struct table *t, char *s)
{
	if (t->n == t->cap) {
		size_t cap = t->cap ? 2 * t->cap : 64;
		char **cell = realloc(t->cell, cap * sizeof(*cell));

		if (!cell) {
			free(s);
			return;
		}
		t->cell = cell;
		t->cap = cap;
	}
	t->cell[t->n++] = s;
}

struct table *table_new(const char *head)
{
	struct table *t = calloc(1, sizeof(*t));

	while (t && *head && t->ncols < COLUMNS_MAX) {
		size_t len;

		t->right[t->ncols] = *head == '>';
		head += *head == '>';
		len = strcspn(head, "|");
		add(t, strndup(head, len));
		t->ncols++;
		head += len + (head[len] == '|');
	}
	return t;
}

static void clean(char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			*s = '?';
}

void table_cell(struct table *t, const char *fmt, ...)
{
	char *s;
	va_list ap;

	if (!t)
		return;
	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		s = NULL;
	va_end(ap);
	if (s)
		clean(s);
	add(t, s);
}

void table_size(struct table *t, const json_t *bytes)
{
	char buf[32];

	table_cell(t, "%s", bb_size_format((uint64_t)json_integer_value(bytes), buf, sizeof(buf)));
}

void table_number(struct table *t, const json_t *n)
{
	table_cell(t, "%llu", (unsigned long long)json_integer_value(n));
}

/* Columns that a text takes: characters of UTF-8, not bytes. */
static int width(const char *s)
{
	int n = 0;

	for (; s && *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

void table_print(struct table *t)
{
	int wide[COLUMNS_MAX] = { 0 };

	if (!t)
		return;
	for (size_t i = 0; i < t->n; i++)
		if (width(t->cell[i]) > wide[i % t->ncols])
			wide[i % t->ncols] = width(t->cell[i]);
	for (size_t i = 0; i < t->n; i++) {
		unsigned int c = (unsigned int)(i % t->ncols);
		const char *s = t->cell[i] ? t->cell[i] : "";
		int pad = wide[c] - width(s);
		bool last = c + 1 == t->ncols || i + 1 == t->n;

		printf("%*s%s%*s%s", t->right[c] ? pad : 0, "", s, t->right[c] || last ? 0 : pad, "",
		       last ? "\n" : "  ");
	}
	for (size_t i = 0; i < t->n; i++)
		free(t->cell[i]);
	free(t->cell);
	free(t);
}

void print_clean(const char *s)
{
	for (; *s; s++)
		putchar((unsigned char)*s < 0x20 || *s == 0x7f ? '?' : *s);
}

uint64_t num(const json_t *o, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(o, key));
}

double real(const json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

const char *str(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

bool flag(const json_t *o, const char *key)
{
	return json_is_true(json_object_get(o, key));
}
