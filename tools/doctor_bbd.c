/* SPDX-License-Identifier: MIT */
/* Is there a bbd, is it ours, and does it have the key that it should have? */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "doctor.h"
#include "options.h"
#include "tag.h"

#define KEY_FILE "/etc/bluebridge/key"

static void running(struct doctor *d)
{
	char err[256];
	int r = bbctl_ask(d->b, json_pack("{s:s}", "cmd", "doctor.facts"), &d->facts, &d->pid, err);

	if (r == 0) {
		check(d, CHECK_OK, "bbd", "node %llu answers at %s%s", (unsigned long long)num(d->facts, "node"),
		      d->b->socket, flag(d->facts, "embedded") ? " (embedded)" : "");
		return;
	}
	d->pid = 0;
	if (r == -ENOENT && !d->b->socket_given) {
		check(d, CHECK_WARN, "bbd",
		      "none runs: bbrun starts one for itself, with memory of this host alone; that of others needs bbd");
		mend(d, "systemctl start bbd, or: bbd --dev IFACE");
		return;
	}
	check(d, CHECK_FAIL, "bbd", "%s", err);
	if (r == -EACCES)
		mend(d, "chmod 666 %s", d->b->socket);
	else if (r == -ENOENT)
		mend(d, "systemctl start bbd, or: bbd --dev IFACE --socket %s", d->b->socket);
	else
		mend(d, "systemctl restart bbd");
}

/* May the programs of other users attach? That of bbrun is for its own alone. */
static void access_to(struct doctor *d)
{
	const char *path = d->b->socket;
	struct stat st;

	if (!d->facts || flag(d->facts, "embedded") || stat(path, &st) < 0)
		return;
	if ((st.st_mode & 0222) == 0222) {
		check(d, CHECK_OK, "socket", "programs of all users may attach");
		return;
	}
	check(d, CHECK_WARN, "socket", "%s has mode %04o: programs of other users stay in local memory", path,
	      st.st_mode & 07777);
	mend(d, "chmod 666 %s", path);
}

static void version(struct doctor *d)
{
	const char *v = str(d->facts, "version");

	if (!d->facts)
		return;
	if (!strcmp(v, BB_VERSION)) {
		check(d, CHECK_OK, "version", "bbd and bbctl are %s", v);
		return;
	}
	check(d, CHECK_FAIL, "version", "bbd is %s, bbctl %s: programs started now may not understand it", v, BB_VERSION);
	mend(d, "systemctl restart bbd");
}

/* Does bbd still use what the file holds? */
static void key_in_use(struct doctor *d, const char *path)
{
	const char *in_use = str(d->facts, "key_id");
	struct bb_key k;
	char id[9];
	int r = bb_key_load(&k, path);

	if (r < 0) {
		check(d, CHECK_FAIL, "key", "%s cannot be used (%s)", path, strerrordesc_np(-r));
		mend(d, "copy it from another host: scp HOST:%s %s && chmod 600 %s", path, path, path);
		return;
	}
	bb_key_id(&k, id);
	explicit_bzero(&k, sizeof(k));
	if (d->facts && strcmp(id, in_use)) {
		check(d, CHECK_FAIL, "key", "%s holds key %s, but bbd was started with key %s", path, id, in_use);
		mend(d, "systemctl restart bbd");
		return;
	}
	check(d, CHECK_OK, "key", "%s, key %s, mode 0600", path, id);
}

static void key(struct doctor *d)
{
	const char *path = d->facts ? str(d->facts, "key_file") : KEY_FILE;
	struct stat st;

	if (d->facts && flag(d->facts, "embedded"))
		return; /* talks to nobody */
	if (stat(path, &st) < 0) {
		if (errno == EACCES) {
			check(d, CHECK_OK, "key", "%s is not for this user to see", path);
		} else if (d->facts) {
			check(d, CHECK_FAIL, "key", "%s: %s; bbd will make another at its next start, which no host knows",
			      path, strerrordesc_np(errno));
			mend(d, "copy it from another host: scp HOST:%s %s && chmod 600 %s", path, path, path);
		} else {
			check(d, CHECK_WARN, "key", "%s is not there: the first bbd makes it, the others need a copy", path);
			mend(d, "scp HOST:%s %s && chmod 600 %s", path, path, path);
		}
		return;
	}
	if ((st.st_mode & 07777) != 0600) {
		bool open = st.st_mode & 077;

		check(d, open ? CHECK_FAIL : CHECK_WARN, "key", "%s has mode %04o%s", path, st.st_mode & 07777,
		      open ? ": who reads it reads and writes all lent memory" : "");
		mend(d, "chmod 600 %s", path);
		return;
	}
	/* Never makes one: it is there. */
	if (eaccess(path, R_OK) < 0)
		check(d, CHECK_OK, "key", "%s, mode 0600", path);
	else
		key_in_use(d, path);
}

/* Does the kernel answer READs, and if not, why? */
static void kernel(struct doctor *d)
{
	const json_t *k = json_object_get(d->facts, "kernel");
	const char *state = str(k, "state"), *why = str(k, "why"), *dev = str(d->facts, "dev");
	const uint64_t grown = num(d->facts, "grown"), mapped = num(d->facts, "mapped");
	char all[32], part[32];

	if (!k || flag(d->facts, "embedded"))
		return;
	if (!strcmp(state, "refused")) {
		check(d, CHECK_WARN, "kernel reads", "%s", why);
		mend(d, "bbload detach --dev %s && bbload attach host --dev %s", dev, dev);
	} else if (!strcmp(state, "off") && *dev && strcmp(why, "--kernel off")) {
		check(d, CHECK_OK, "kernel reads", "READs are answered by bbd: %s (bbload attach host --dev %s)", why, dev);
	} else if (strcmp(state, "serves")) {
		check(d, CHECK_OK, "kernel reads", "READs are answered by bbd: %s", why);
	} else if (mapped < grown) {
		check(d, CHECK_OK, "kernel reads",
		      "READs are answered in the kernel for %s of %s; the rest was lent while no programs were attached",
		      bb_size_format(mapped, part, sizeof(part)), bb_size_format(grown, all, sizeof(all)));
	} else {
		check(d, CHECK_OK, "kernel reads", "READs are answered in the kernel");
	}
}

void doctor_bbd(struct doctor *d)
{
	running(d);
	access_to(d);
	version(d);
	key(d);
	kernel(d);
}
