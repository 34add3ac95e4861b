/* SPDX-License-Identifier: MIT */
/* One datagram to the service manager: see notify.h. */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/notify.h"
#include "log.h"

#define NAME "NOTIFY_SOCKET="

int bb_notify(char *const *env, const char *state)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	const char *path = NULL;
	size_t len;
	int fd, r = 0;

	for (; *env && !path; env++)
		if (!strncmp(*env, NAME, strlen(NAME)))
			path = *env + strlen(NAME);
	if (!path || !*path)
		return 0;
	len = strlen(path);
	if ((*path != '/' && *path != '@') || len >= sizeof(un.sun_path)) {
		bb_warn("%s%s: wants the path of a socket; the service manager is not told", NAME, path);
		return -EINVAL;
	}
	memcpy(un.sun_path, path, len);
	if (*path == '@')
		un.sun_path[0] = 0; /* a name without a file */
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || sendto(fd, state, strlen(state), MSG_NOSIGNAL | MSG_DONTWAIT, (struct sockaddr *)&un,
			     (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0) {
		r = -errno;
		bb_warn("%s%s: %s; the service manager is not told", NAME, path, strerrordesc_np(-r));
	}
	if (fd >= 0)
		close(fd);
	return r;
}
