/* SPDX-License-Identifier: MIT */
/*
 * The Unix socket of bbd, served by a thread of its own: programs that attach, and
 * control sessions of JSON lines (bbctl, scripts). Every wait has a deadline,
 * the number of callers is bounded, and nothing that a caller sends can do more
 * than end its own session.
 *
 *	control.c   sockets and sessions
 *	attach.c    checks what a program hands over, finds it a pager
 *	show.c      the objects that people look at
 *	metrics.c   the same for Prometheus
 *	trace.c     single faults of programs
 */
#ifndef BB_DAEMON_CONTROL_H
#define BB_DAEMON_CONTROL_H

#include <jansson.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "budget.h"
#include "config.h"
#include "home/home.h"
#include "moving.h"
#include "net/peers.h"
#include "net/server.h"
#include "pager/pager.h"
#include "steer/steer.h"

#define BB_PROGRAMS_MAX 256

struct bb_control {
	const struct bb_config *cfg;
	struct bb_peers *peers;
	struct bb_keep *keep;
	struct bb_home *home;	  /* NULL: nothing lent */
	struct bb_server *server; /* NULL: embedded */
	struct bb_moving moving;  /* extents, from home to home */
	struct bb_steer *steer;	  /* NULL: embedded, no --dev, --kernel off */
	struct bb_rdma_home *rdma; /* NULL: no device, or nothing lent */
	struct bb_pager *pagers[BB_PAGERS_MAX];
	unsigned int npagers, next_pager;
	pid_t self; /* who dials from there has a connection of a pager's, for a fork child */
	const char *key_file;
	char key_id[9];
	struct bb_budget budget;
	/* Programs that are in the budget; seen: the pager has listed it. */
	struct {
		uint32_t region;
		bool seen;
		uint64_t since;
	} known[BB_BUDGET_PROGRAMS];
	struct bb_program_info info[BB_PROGRAMS_MAX]; /* scratch */
};

/* --- control.c --- */

/* Takes the socket. Return: its descriptor, or -errno with a message given. */
int bb_control_listen(const char *path);
/* Serves until *stop. */
void bb_control_run(struct bb_control *c, int listener, const atomic_int *stop);

/* --- attach.c --- */

/* A request and its descriptors (closed if not used). The socket is consumed. */
void bb_control_attach(struct bb_control *c, int sock, struct bb_attach_req *req, int *fds, int nfds,
		       const struct ucred *who);
/* Programs that have ended leave the budget; shares move. */
void bb_control_reckon(struct bb_control *c);

/* --- show.c --- */

/* How pages travel to and from a node, and why: keys "transport" and "transport_why" of o. */
void bb_control_transport(const struct bb_peer *p, json_t *o);
void bb_control_compress(struct bb_control *c, const struct bb_peer *p, json_t *o);
json_t *bb_control_rdma(struct bb_control *c);
#define BB_CONTROL_COMMANDS (BB_CMD_CLOSE + 1)
extern const char *const bb_control_status[BB_ST_MAX];
extern const char *const bb_control_command[BB_CONTROL_COMMANDS]; /* NULL: no command */

/* What bbload attached, as of now, with why it does not serve. Return: its state in a word. */
const char *bb_control_kernel(struct bb_control *c, struct bb_steer_stats *s);
/* One request. may_set: the caller may change things. Return: a new reference. */
json_t *bb_control_answer(struct bb_control *c, json_t *request, bool may_set);

/* --- extent.c --- */

json_t *bb_control_extent_show(struct bb_control *c, json_t *q);
json_t *bb_control_extent_move(struct bb_control *c, json_t *q);	/* begins it */
json_t *bb_control_extent_moving(struct bb_control *c, json_t *q); /* how far it is */

/* --- trace.c --- */

json_t *bb_control_trace_list(struct bb_control *c, json_t *q);
json_t *bb_control_trace_read(struct bb_control *c, json_t *q);

/* --- metrics.c --- */

json_t *bb_control_metrics(struct bb_control *c);

#endif
