/* SPDX-License-Identifier: MIT */
/* Where things are: rights, namespaces, devices, the bpffs and the directories in it. */
#include "bbload.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/magic.h>
#include <linux/sockios.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "log.h"
#include "steer_names.h"

#define RUN "/run/bluebridge"
#define NETNS_DIR "/run/netns/"

/* --- rights ------------------------------------------------------------------- */

int place_need_rights(void)
{
	static const struct {
		int bit;
		const char *name;
	} need[] = { { 12, "CAP_NET_ADMIN" }, { 21, "CAP_SYS_ADMIN" } };
	static const struct {
		int bit;
		const char *name;
	} fine[] = { { 38, "CAP_PERFMON" }, { 39, "CAP_BPF" } };
	unsigned long long eff = ~0ULL;
	char line[256], lacks[96] = "";
	FILE *f = fopen("/proc/self/status", "re");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "CapEff: %llx", &eff) == 1)
			break;
	if (f)
		fclose(f);
	for (size_t i = 0; i < 2; i++)
		if (!(eff >> need[i].bit & 1))
			sprintf(lacks + strlen(lacks), "%s%s", *lacks ? ", " : "", need[i].name);
	for (size_t i = 0; i < 2; i++) /* CAP_SYS_ADMIN stands for them */
		if (!(eff >> fine[i].bit & 1) && !(eff >> 21 & 1))
			sprintf(lacks + strlen(lacks), "%s%s", *lacks ? ", " : "", fine[i].name);
	if (!*lacks)
		return 0;
	bb_error("lacks %s: run it as root (sudo bbload ...)", lacks);
	return -EPERM;
}

/* --- namespaces ------------------------------------------------------------------ */

static int enter_fd(int fd, const char *what)
{
	if (!setns(fd, CLONE_NEWNET))
		return 0;
	if (errno == EINVAL)
		bb_error("%s is no network namespace; see \"ip netns\"", what);
	else
		bb_error("cannot enter the network namespace %s: %m", what);
	return -1;
}

static void say_no_netns(const char *name)
{
	DIR *d = opendir(NETNS_DIR);
	char list[300] = "";
	struct dirent *e;

	while (d && (e = readdir(d)) && strlen(list) < 200)
		if (e->d_name[0] != '.')
			snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s", *list ? ", " : "", e->d_name);
	if (d)
		closedir(d);
	bb_error("there is no network namespace %s; there %s%s", name, *list ? "are " : "are none", list);
}

static int note_ns(struct bbload *b)
{
	socklen_t len = sizeof(b->ns_cookie);
	struct stat st;
	int fd;

	if (stat("/proc/thread-self/ns/net", &st)) {
		bb_error("cannot look at /proc/thread-self/ns/net: %m; is /proc mounted?");
		return -1;
	}
	b->ns_inode = st.st_ino;
	b->ns_cookie = 0;
	fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd >= 0) {
		/* Not before Linux 5.14: then an inode that is given again is not told apart. */
		getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &b->ns_cookie, &len);
		close(fd);
	}
	return 0;
}

int place_enter(struct bbload *b)
{
	char path[300];
	int fd, ret;

	if (!b->netns)
		return note_ns(b);
	snprintf(path, sizeof(path), "%s%s", strchr(b->netns, '/') ? "" : NETNS_DIR, b->netns);
	fd = *b->netns ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd < 0) {
		if (!*b->netns || errno == ENOENT)
			say_no_netns(*b->netns ? b->netns : "\"\"");
		else
			bb_error("cannot open the network namespace %s: %m", path);
		return -1;
	}
	ret = enter_fd(fd, b->netns);
	close(fd);
	return ret ? ret : note_ns(b);
}

/* Return: a descriptor of the file, where it is that namespace, or -1. */
static int open_inode(const char *path, uint64_t inode)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && (fstat(fd, &st) || st.st_ino != inode)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

int place_enter_inode(struct bbload *b, uint64_t inode)
{
	static const struct {
		const char *dir, *rest;
	} where[] = { { NETNS_DIR, "" }, { "/proc/", "/ns/net" } };
	int fd = -1;

	if (b->ns_inode == inode)
		return 0;
	for (int i = 0; i < 2 && fd < 0; i++) {
		DIR *d = opendir(where[i].dir);
		struct dirent *e;

		while (d && fd < 0 && (e = readdir(d))) {
			char path[300];

			if (e->d_name[0] == '.' || (i && (e->d_name[0] < '0' || e->d_name[0] > '9')))
				continue;
			snprintf(path, sizeof(path), "%s%s%s", where[i].dir, e->d_name, where[i].rest);
			fd = open_inode(path, inode);
		}
		if (d)
			closedir(d);
	}
	if (fd < 0)
		return -ENOENT;
	if (setns(fd, CLONE_NEWNET)) {
		close(fd);
		return -ENOENT;
	}
	close(fd);
	return note_ns(b) ? -ENOENT : 0;
}

/* --- the lock ------------------------------------------------------------------------ */

int place_lock(struct bbload *b)
{
	struct stat here, there;

	for (;;) {
		if ((mkdir(RUN, 0755) && errno != EEXIST) || (mkdir(BB_STEER_STATE, 0755) && errno != EEXIST && errno != ENOENT)) {
			bb_error("cannot make %s: %m", BB_STEER_STATE);
			return -1;
		}
		b->lock = open(BB_STEER_STATE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (b->lock < 0) {
			if (errno == ENOENT)
				continue;
			bb_error("cannot open %s: %m", BB_STEER_STATE);
			return -1;
		}
		if (!flock(b->lock, LOCK_EX) && !fstat(b->lock, &here) && !stat(BB_STEER_STATE, &there) &&
		    here.st_ino == there.st_ino && here.st_dev == there.st_dev)
			return 0;
		close(b->lock); /* it was removed meanwhile */
	}
}

void place_unlock(struct bbload *b)
{
	place_unmount();
	close(b->lock);
	b->lock = -1;
}

/* --- the bpffs ------------------------------------------------------------------------- */

bool place_mounted(void)
{
	struct statfs s;

	return !statfs(BB_STEER_FS, &s) && (unsigned int)s.f_type == BPF_FS_MAGIC;
}

/* A mount that "ip netns exec" takes along when it ends would take all pins along. */
static bool mount_would_vanish(void)
{
	struct stat ours, parents;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)getppid());
	return !stat("/proc/self/ns/mnt", &ours) && !stat(path, &parents) && ours.st_ino != parents.st_ino;
}

int place_mount(void)
{
	bool made;

	if (place_mounted())
		return 0;
	if (mount_would_vanish()) {
		bb_error("a mount made here would end with \"ip netns exec\": run bbload outside of it, with --netns NAME");
		return -1;
	}
	made = !mkdir(BB_STEER_FS, 0700);
	if (!made && errno != EEXIST) {
		bb_error("cannot make %s: %m", BB_STEER_FS);
		return -1;
	}
	if (!mount("bpf", BB_STEER_FS, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700"))
		return 0;
	if (errno == ENODEV)
		bb_error("cannot mount a bpffs at %s: this kernel has none (CONFIG_BPF_SYSCALL)", BB_STEER_FS);
	else
		bb_error("cannot mount a bpffs at %s: %m; in a container: mount -t bpf bpf %s on the host, and share it",
			 BB_STEER_FS, BB_STEER_FS);
	if (made)
		rmdir(BB_STEER_FS);
	return -1;
}

static bool empty(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	bool none = true;

	/* Names with a dot are the kernel's own (maps.debug). */
	while (d && none && (e = readdir(d)))
		none = strchr(e->d_name, '.') != NULL;
	if (d)
		closedir(d);
	return none;
}

/* iproute2 makes itself at home in whatever bpffs it finds: what it left empty goes. */
static void drop_iproute2(void)
{
	static const char *const names[] = { "ip", "xdp", "tc" };
	char path[sizeof(BB_STEER_FS) + 16];

	for (unsigned int i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/%s", BB_STEER_FS, names[i]);
		if (!unlink(path)) /* a link to one of the others */
			continue;
		snprintf(path, sizeof(path), "%s/%s/globals", BB_STEER_FS, names[i]);
		rmdir(path);
		*strrchr(path, '/') = 0;
		rmdir(path);
	}
}

void place_unmount(void)
{
	if (place_mounted()) {
		drop_iproute2();
		if (!empty(BB_STEER_FS))
			return;
		/* bbd may still have a directory open. */
		if (umount2(BB_STEER_FS, MNT_DETACH))
			bb_warn("cannot unmount %s: %m", BB_STEER_FS);
	}
	/*
	 * As long as something is attached: where another mount namespace has it
	 * mounted, to remove the directory takes the mount away there, with all pins.
	 */
	if (rmdir(BB_STEER_STATE) && errno != ENOENT)
		return;
	rmdir(BB_STEER_FS);
	rmdir(RUN);
}

/* --- places ------------------------------------------------------------------------------ */

void place_of(struct place *p, uint64_t netns, const char *dev)
{
	char name[48] = "";

	*p = (struct place){ .netns = netns };
	snprintf(p->dev, sizeof(p->dev), "%s", dev);
	bb_steer_dir(name, sizeof(name), netns, *dev ? dev : NULL);
	snprintf(p->dir, sizeof(p->dir), "%s/%s", BB_STEER_FS, name);
	snprintf(p->state, sizeof(p->state), "%s/%s.json", BB_STEER_STATE, name);
}

int place_look(struct place *p)
{
	struct ethtool_drvinfo drv = { .cmd = ETHTOOL_GDRVINFO };
	struct ifreq q = { 0 };
	int ret = 0, fd;

	p->ifindex = if_nametoindex(p->dev);
	if (!p->ifindex)
		return -ENODEV;
	fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	snprintf(q.ifr_name, sizeof(q.ifr_name), "%s", p->dev);
	if (ioctl(fd, SIOCGIFMTU, &q))
		ret = -errno;
	p->mtu = (unsigned int)q.ifr_mtu;
	if (!ret && ioctl(fd, SIOCGIFHWADDR, &q))
		ret = -errno;
	memcpy(p->mac, q.ifr_hwaddr.sa_data, 6);
	q.ifr_data = (void *)&drv;
	if (!ret && !ioctl(fd, SIOCETHTOOL, &q))
		snprintf(p->driver, sizeof(p->driver), "%s", drv.driver);
	close(fd);
	return ret;
}

bool place_redirects(const struct place *p, const char *mode)
{
	return !strcmp(p->driver, "veth") && !strcmp(mode, mode_name[MODE_NATIVE]);
}

static int make(const char *path)
{
	if (!mkdir(path, 0700) || errno == EEXIST)
		return 0;
	bb_error("cannot make %s: %m", path);
	return -1;
}

int place_mkdirs(const struct place *p)
{
	char sub[PATH_BYTES + 8];

	if (make(p->dir))
		return -1;
	snprintf(sub, sizeof(sub), "%s/links", p->dir);
	if (*p->dev && make(sub))
		return -1;
	snprintf(sub, sizeof(sub), "%s/maps", p->dir);
	return make(sub);
}

void place_maps(const struct place *p, enum kind kind, char out[PATH_BYTES])
{
	struct place all;

	place_of(&all, p->netns, "");
	snprintf(out, PATH_BYTES, "%s/maps", kind == KIND_SWITCH ? all.dir : p->dir);
}

bool place_remove(const char *dir, const char *sub)
{
	char path[PATH_BYTES + 16];
	struct dirent *e;
	bool any = false;
	DIR *d;

	snprintf(path, sizeof(path), "%s/%s", dir, sub);
	d = opendir(path);
	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.' && !unlinkat(dirfd(d), e->d_name, 0))
			any = true;
	if (d)
		closedir(d);
	return !rmdir(path) || any;
}

static void list_add(struct place **list, unsigned int *n, const char *name)
{
	struct place p, *more;
	char dev[IF_NAMESIZE];
	uint64_t netns;

	if (!bb_steer_dir_parse(name, &netns, dev))
		return;
	place_of(&p, netns, dev);
	for (unsigned int i = 0; i < *n; i++)
		if (!strcmp((*list)[i].dir, p.dir))
			return;
	more = realloc(*list, (*n + 1) * sizeof(**list));
	if (!more)
		return;
	*list = more;
	more[(*n)++] = p;
}

static int by_dir(const void *a, const void *b)
{
	return strcmp(((const struct place *)a)->dir, ((const struct place *)b)->dir);
}

unsigned int place_list(struct place **list)
{
	unsigned int n = 0;
	struct dirent *e;
	DIR *d;

	*list = NULL;
	d = place_mounted() ? opendir(BB_STEER_FS) : NULL;
	while (d && (e = readdir(d)))
		list_add(list, &n, e->d_name);
	if (d)
		closedir(d);
	d = opendir(BB_STEER_STATE);
	while (d && (e = readdir(d))) {
		char *end = strstr(e->d_name, ".json");

		if (end && !end[5]) {
			*end = '\0';
			list_add(list, &n, e->d_name);
		}
	}
	if (d)
		closedir(d);
	if (n)
		qsort(*list, n, sizeof(**list), by_dir);
	return n;
}
