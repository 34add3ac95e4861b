/* SPDX-License-Identifier: MIT */
/* Asks for a userfaultfd as libbb.so does, looks at its features, closes it. */
#include "pager/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bluebridge/kernel.h>

#define SYSCTL_FILE "/proc/sys/vm/unprivileged_userfaultfd"

static int get(struct bb_uffd_probe *p)
{
	int dev = open(BB_UFFD_DEVICE, O_RDWR | O_CLOEXEC), fd;

	if (dev >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(dev);
		p->way = BB_UFFD_BY_DEVICE;
		if (fd >= 0)
			return fd;
	}
	p->way = BB_UFFD_BY_SYSCALL;
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0)
		return fd;
	p->error = errno;
	p->way = BB_UFFD_USER_MODE;
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (fd < 0)
		p->way = BB_UFFD_NONE;
	return fd;
}

void bb_uffd_probe(struct bb_uffd_probe *p)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct stat st;
	char c;
	int fd;

	memset(p, 0, sizeof(*p));
	p->unprivileged = -1;
	fd = open(SYSCTL_FILE, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		if (read(fd, &c, 1) == 1)
			p->unprivileged = c == '1';
		close(fd);
	}
	p->device_for_all = stat(BB_UFFD_DEVICE, &st) == 0 && (st.st_mode & 0006) == 0006;
	fd = get(p);
	if (fd < 0)
		return;
	if (ioctl(fd, UFFDIO_API, &api) < 0) {
		p->error = errno;
		p->way = BB_UFFD_NONE;
	} else {
		p->move = api.features & UFFD_FEATURE_MOVE;
		p->poison = api.features & UFFD_FEATURE_POISON;
		p->thread_id = api.features & UFFD_FEATURE_THREAD_ID;
	}
	close(fd);
}
