/* SPDX-License-Identifier: MIT */
/*
 * What the parts of bbctl share.
 *
 *	main.c		options, objects and verbs
 *	conn.c		one request to bbd, one answer
 *	table.c		columns for people
 *	show*.c		what the objects look like
 *	trace.c		single faults, as they come
 *	doctor*.c	what is wrong with this host, and the command that mends it
 */
#ifndef BB_TOOLS_BBCTL_H
#define BB_TOOLS_BBCTL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Exit statuses. */
enum { BBCTL_OK = 0, BBCTL_FAILED = 1, BBCTL_USAGE = 2 };

struct bbctl {
	const char *socket;
	bool socket_given;	/* by the user, not the default */
	bool json;
	/* of bbctl trace, as they were given; NULL: not given */
	const char *program, *slower, *count, *seconds;
};

/* argv: what follows the verb. Return: an exit status; messages were given. */
typedef int (*bbctl_fn)(struct bbctl *b, int argc, char **argv);

/* As jansson's foreach, but also for tools that do not read its headers. */
#define each_item(list, i, item) for (i = 0; (item = json_array_get(list, i)) != NULL; i++)
#define each_member(o, key, value)                                                                             \
	for (void *it_ = json_object_iter(o);                                                                  \
	     it_ && (key = json_object_iter_key(it_), value = json_object_iter_value(it_), true);              \
	     it_ = json_object_iter_next(o, it_))

/* --- conn.c --- */

/*
 * Sends the request (consumed) and waits for the answer, 5 s for all of it.
 * pid: of the bbd that listens, as seen from here (0: not to be seen); may be NULL.
 * Return: 0 and *result, a new reference; -errno with why in err (of 256 bytes);
 * -EREMOTEIO where bbd refused, with bbd's own words.
 */
int bbctl_ask(struct bbctl *b, json_t *request, json_t **result, pid_t *pid, char err[256]);
/* A command without arguments, errors said. Return: the result, or NULL. */
json_t *bbctl_get(struct bbctl *b, const char *cmd);
/* Prints o as JSON if that is wanted, and drops it. Return: an exit status. */
int bbctl_print_json(json_t *o);

/* --- table.c --- */

struct table;

/* "NODE|NAME|>FREE": a column a word, > aligns it to the right. */
struct table *table_new(const char *head);
void table_cell(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void table_size(struct table *t, const json_t *bytes); /* 1.5G */
void table_number(struct table *t, const json_t *n);
/* Prints and frees. */
void table_print(struct table *t);
/* Prints text of others: no terminal escapes. */
void print_clean(const char *s);

/* Members of objects; 0 or "" where they are not there. */
uint64_t num(const json_t *o, const char *key);
double real(const json_t *o, const char *key);
const char *str(const json_t *o, const char *key);
bool flag(const json_t *o, const char *key);

/* --- show.c, show_*.c --- */

int bbctl_show(struct bbctl *b, int argc, char **argv);
int bbctl_node_show(struct bbctl *b, int argc, char **argv);
int bbctl_program_show(struct bbctl *b, int argc, char **argv);
int bbctl_program_set(struct bbctl *b, int argc, char **argv);
int bbctl_region_show(struct bbctl *b, int argc, char **argv);
int bbctl_fault_show(struct bbctl *b, int argc, char **argv);
int bbctl_fault_reset(struct bbctl *b, int argc, char **argv);
int bbctl_extent_show(struct bbctl *b, int argc, char **argv);
int bbctl_extent_move(struct bbctl *b, int argc, char **argv);
int bbctl_home_show(struct bbctl *b, int argc, char **argv);
int bbctl_net_show(struct bbctl *b, int argc, char **argv);
int bbctl_metrics_show(struct bbctl *b, int argc, char **argv);

/* --- trace.c --- */

int bbctl_trace(struct bbctl *b, int argc, char **argv);

/* The parts that bbctl_show puts together. */
void print_nodes(const json_t *nodes);
void print_programs(const json_t *programs);
void print_faults(const json_t *faults);
void print_home(const json_t *home);

/* --- doctor.c --- */

int bbctl_doctor(struct bbctl *b, int argc, char **argv);

#endif
