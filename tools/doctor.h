/* SPDX-License-Identifier: MIT */
/* The parts of bbctl doctor: each looks at one side of the host and reports. */
#ifndef BB_TOOLS_DOCTOR_H
#define BB_TOOLS_DOCTOR_H

#include "bbctl.h"

enum check_state { CHECK_OK, CHECK_WARN, CHECK_FAIL };

struct doctor {
	struct bbctl *b;
	json_t *checks;
	json_t *facts;	/* of bbd; NULL where none answers */
	pid_t pid;	/* bbd's; 0 where it cannot be seen */
};

/* One finding: what is so, and why that matters. */
void check(struct doctor *d, enum check_state state, const char *name, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* The command that mends the last finding. */
void mend(struct doctor *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* First line of a file, without its end. Return: is there one? */
bool read_line(const char *path, char *buf, size_t size);
bool read_number(const char *path, long *out);

void doctor_kernel(struct doctor *d);
void doctor_limits(struct doctor *d);
void doctor_load(struct doctor *d);
void doctor_bbd(struct doctor *d); /* first of all: finds facts and pid */
void doctor_rights(struct doctor *d);
void doctor_net(struct doctor *d);

#endif
