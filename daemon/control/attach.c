/* SPDX-License-Identifier: MIT */
/* A program attaches: what it hands over is checked, and a pager is found. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "control/control.h"
#include "log.h"

#define GRACE_NS 10000000000ULL

static bool is_kind(int fd, const char *kind)
{
	char path[32], link[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		return false;
	link[n] = 0;
	return !strncmp(link, kind, strlen(kind));
}

static uint64_t free_memory(struct bb_control *c)
{
	struct bb_peer p[64];
	int n = bb_peers_list(c->peers, p, 64);
	uint64_t sum = 0;

	for (int i = 0; i < n; i++)
		if (p[i].alive)
			sum += p[i].free;
	return sum;
}

static void reply(struct bb_control *c, int sock, int error, uint64_t budget, const char *message)
{
	struct bb_attach_rep rep = {
		.magic = BB_ATTACH_MAGIC,
		.size = sizeof(rep),
		.error = error,
		.budget = budget,
		.lent = free_memory(c),
	};

	snprintf(rep.message, sizeof(rep.message), "%s", message);
	if (send(sock, &rep, sizeof(rep), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		bb_debug("attach: the program left (error %d)", errno);
}

void bb_control_attach(struct bb_control *c, int sock, struct bb_attach_req *req, int *fds, int nfds,
		       const struct ucred *who)
{
	const char *why = NULL;
	unsigned int pager;
	uint64_t granted;
	uint32_t region;

	/* The number that we see, not the one in the program's own namespace. */
	if (who->pid != getpid()) /* a connection that a pager made for a fork child (want_socket) */
		req->pid = (uint32_t)who->pid;
	req->comm[sizeof(req->comm) - 1] = 0;
	if (req->flags == BB_ATTACH_QUERY && !nfds) {
		reply(c, sock, 0, bb_budget_quote(&c->budget, req->budget), "");
		close(sock);
		return;
	}
	if (req->flags & ~(uint32_t)BB_ATTACH_AGAIN)
		why = "unknown flags: libbb.so and bbd are of different versions";
	else if (nfds != 3)
		why = "three descriptors are wanted";
	else if ((req->flags & BB_ATTACH_AGAIN) && (!req->region || (req->region - 1) % BB_PAGERS_MAX >= c->npagers))
		why = "there is no such region";
	else if (!is_kind(fds[0], "anon_inode:[userfaultfd]"))
		why = "the first descriptor is no userfaultfd";
	else if (!is_kind(fds[2], "anon_inode:[eventfd]"))
		why = "the third descriptor is no eventfd";
	else if (c->budget.n == BB_BUDGET_PROGRAMS)
		why = "too many programs on this host";
	if (why) {
		bb_warn("program %u: attach refused: %s", req->pid, why);
		reply(c, sock, -EINVAL, 0, why);
		for (int i = 0; i < nfds; i++)
			close(fds[i]);
		close(sock);
		return;
	}
	/* A region belongs to one pager for good; that of a child to its parent's. */
	if (req->flags & BB_ATTACH_AGAIN)
		pager = (req->region - 1) % BB_PAGERS_MAX;
	else
		pager = c->next_pager++ % c->npagers;
	granted = bb_budget_quote(&c->budget, req->budget);
	region = bb_pager_attach(c->pagers[pager], req, granted, sock, fds[0], fds[1], fds[2]);
	if (!region || bb_budget_add(&c->budget, region, req->budget) < 0)
		return;
	c->known[c->budget.n - 1].region = region;
	c->known[c->budget.n - 1].seen = false;
	c->known[c->budget.n - 1].since = bb_now_ns();
	bb_control_reckon(c);
}

static void forget(struct bb_control *c, unsigned int i)
{
	unsigned int last = c->budget.n - 1;

	bb_budget_remove(&c->budget, c->known[i].region);
	c->known[i] = c->known[last];
}

void bb_control_reckon(struct bb_control *c)
{
	static uint32_t here[BB_BUDGET_PROGRAMS]; /* the control thread's alone */
	uint64_t now = bb_now_ns();
	unsigned int i, k;

	for (k = 0; k < c->npagers; k++) {
		int n = bb_pager_regions(c->pagers[k], here, BB_BUDGET_PROGRAMS);

		for (i = c->budget.n; i-- > 0;) {
			bool there = n == BB_BUDGET_PROGRAMS;

			if ((c->known[i].region - 1) % BB_PAGERS_MAX != k)
				continue;
			for (int j = 0; j < n && !there; j++)
				there = here[j] == c->known[i].region;
			if (there)
				c->known[i].seen = true;
			else if (c->known[i].seen || now - c->known[i].since > GRACE_NS)
				forget(c, i);
		}
	}
	for (i = 0; i < c->budget.n; i++)
		bb_pager_set_budget(c->pagers[(c->budget.program[i].region - 1) % BB_PAGERS_MAX],
				    c->budget.program[i].region, c->budget.program[i].granted);
}
