/* SPDX-License-Identifier: MIT */
/* Tables of names, and the names of directories. */
#include "steer_names.h"

#include <bluebridge/steer.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const char *const cmd_name[] = {
	[BB_CMD_NONE] = "none",	      [BB_CMD_HELLO] = "hello",	  [BB_CMD_CREATE] = "create",
	[BB_CMD_ALLOC_WRITE] = "alloc_write", [BB_CMD_READ] = "read",	  [BB_CMD_WRITE] = "write",
	[BB_CMD_UPDATE] = "update",   [BB_CMD_DELETE] = "delete", [BB_CMD_INVALIDATE] = "invalidate",
	[BB_CMD_NACK] = "nack",	      [BB_CMD_INVOKE] = "invoke", [BB_CMD_READ_RUN] = "read_run",
	[BB_CMD_CLOSE] = "close",
};

static const char *const action_name[BB_ACT_MAX] = {
	[BB_ACT_FORWARD] = "forward", [BB_ACT_REDIRECT] = "redirect", [BB_ACT_COPY] = "copy",
	[BB_ACT_DROP] = "drop",	      [BB_ACT_RATE] = "rate",	      [BB_ACT_REFUSE] = "refuse",
};

static const char *const count_name[BB_CNT_MAX - BB_CNT_NDP] = {
	[BB_CNT_NDP - BB_CNT_NDP] = "ndp",
	[BB_CNT_SERVED - BB_CNT_NDP] = "served",
	[BB_CNT_SEGMENTS - BB_CNT_NDP] = "segments",
	[BB_CNT_TORN - BB_CNT_NDP] = "torn",
	[BB_CNT_UP - BB_CNT_NDP] = "up",
	[BB_CNT_REDIRECTED - BB_CNT_NDP] = "redirected",
	[BB_CNT_COPIED - BB_CNT_NDP] = "copied",
	[BB_CNT_PLACED - BB_CNT_NDP] = "placed",
	[BB_CNT_FANNED - BB_CNT_NDP] = "fanned",
	[BB_CNT_NACKED - BB_CNT_NDP] = "nacked",
	[BB_CNT_DROP_TAG - BB_CNT_NDP] = "drop_tag",
	[BB_CNT_DROP_POLICY - BB_CNT_NDP] = "drop_policy",
	[BB_CNT_DROP_RATE - BB_CNT_NDP] = "drop_rate",
	[BB_CNT_DROP_HOPS - BB_CNT_NDP] = "drop_hops",
	[BB_CNT_DROP_NODE - BB_CNT_NDP] = "drop_node",
	[BB_CNT_DROP_MALFORMED - BB_CNT_NDP] = "drop_malformed",
	[BB_CNT_DROP_SEND - BB_CNT_NDP] = "drop_send",
	[BB_CNT_DROP_ANSWER - BB_CNT_NDP] = "drop_answer",
};

static int find(const char *const *names, size_t n, const char *s)
{
	for (size_t i = 0; i < n; i++)
		if (names[i] && !strcmp(names[i], s))
			return (int)i;
	return -EINVAL;
}

const char *bb_cmd_name(unsigned int cmd)
{
	return cmd < COUNT(cmd_name) ? cmd_name[cmd] : NULL;
}

int bb_cmd_parse(const char *s)
{
	char *end;
	long n;

	if (*s < '0' || *s > '9')
		return find(cmd_name, COUNT(cmd_name), s);
	n = strtol(s, &end, 0);
	return !*end && n >= 0 && n <= BB_CMD_MASK ? (int)n : -EINVAL;
}

const char *bb_action_name(unsigned int action)
{
	return action < COUNT(action_name) ? action_name[action] : NULL;
}

int bb_action_parse(const char *s)
{
	return find(action_name, COUNT(action_name), s);
}

const char *bb_steer_count_name(unsigned int which)
{
	return which >= BB_CNT_NDP && which < BB_CNT_MAX ? count_name[which - BB_CNT_NDP] : NULL;
}

/* --- directories ---------------------------------------------------------------- */

static void swap(char *s, char from, char to)
{
	for (; *s; s++)
		if (*s == from)
			*s = to;
}

int bb_steer_dir(char *buf, size_t size, uint64_t netns, const char *dev)
{
	int n = snprintf(buf, size, "n%llu%s%s", (unsigned long long)netns, dev ? ":" : "", dev ? dev : "");

	if (n < 0 || (size_t)n >= size)
		return -ENAMETOOLONG;
	swap(buf, '.', ':');
	return 0;
}

bool bb_steer_dir_parse(const char *name, uint64_t *netns, char dev[IF_NAMESIZE])
{
	char *end;

	if (name[0] != 'n' || name[1] < '0' || name[1] > '9')
		return false;
	errno = 0;
	*netns = strtoull(name + 1, &end, 10);
	dev[0] = '\0';
	if (errno || !*end)
		return !errno;
	if (*end != ':' || !end[1] || strlen(end + 1) >= IF_NAMESIZE)
		return false;
	strcpy(dev, end + 1);
	swap(dev, ':', '.');
	return true;
}
