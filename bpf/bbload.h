/* SPDX-License-Identifier: MIT */
/*
 * What the parts of bbload share.
 *
 *	bbload.c	  options and verbs
 *	bbload_place.c	  namespaces, devices, the bpffs and the directories in it, rights
 *	bbload_state.c	  what attach changed of the host: written down before, undone by detach
 *	bbload_host.c	  those changes: checksums, neighbour, rule, route
 *	bbload_netlink.c  rtnetlink and ethtool
 *	bbload_object.c	  programs: which there are, loaded with the maps that are pinned
 *	bbload_attach.c	  attach
 *	bbload_detach.c	  detach, gc
 *	bbload_maps.c	  pinned maps from outside
 *	bbload_update.c	  update
 *	bbload_show.c	  show
 *	bbload_test.c	  selftest
 *
 * Theory of operation
 * -------------------
 * Everything that stays is a pin in BB_STEER_FS or a line in a state file. A
 * program's link is pinned after it was made: whoever is killed between the two
 * leaves nothing, because the link ends with its last descriptor. A change of
 * the host is written down before it is made, with what was there before: whoever
 * is killed after that leaves what detach undoes, or what was never done.
 *
 * One lock, the directory BB_STEER_STATE, is held by all but show and selftest: attaching
 * is rare. Who holds it may remove the directory; who waited looks whether his is still there.
 *
 * Inodes of namespaces are given again soon: the state file has the namespace's
 * cookie too (SO_NETNS_COOKIE), which is not, and the device's index.
 */
#ifndef BB_BPF_BBLOAD_H
#define BB_BPF_BBLOAD_H

#include <jansson.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <bluebridge/steer.h>

/* Exit statuses, as bbctl's. */
enum { BBLOAD_OK = 0, BBLOAD_FAILED = 1, BBLOAD_USAGE = 2 };

enum kind { KIND_HOST, KIND_SWITCH, KIND_CLIENT, KIND_MAX };
/* MODE_TC: a switch without XDP, whose tcx program does all. */
enum mode { MODE_AUTO, MODE_NATIVE, MODE_GENERIC, MODE_TC, MODE_MAX };

extern const char *const kind_name[KIND_MAX];
extern const char *const mode_name[MODE_MAX];

#define DEVS_MAX 256

struct bbload {
	bool json, all, verbose, no_tcx;
	const char *netns;	/* as given; NULL: the caller's */
	enum mode mode;
	unsigned int ndevs;
	char dev[DEVS_MAX][IF_NAMESIZE];
	const char *via, *mac, *key;
	int tenant, node, port;	/* -1: not given */
	/* of the namespace that we are in */
	uint64_t ns_inode, ns_cookie;
	int lock;
};

/* --- bbload_place.c --------------------------------------------------------- */

#define PATH_BYTES 128

/* A device that something is, or will be, attached to. */
struct place {
	uint64_t netns;		/* inode */
	char dev[IF_NAMESIZE];	/* "": the maps of the namespace's switch */
	char dir[80];		/* nINODE:DEV, with its path */
	char state[80];
	/* Of the device, where it was looked at: */
	unsigned int ifindex, mtu;
	uint8_t mac[6];
	char driver[32];
	bool redirect;		/* bb_dev: BB_DEV_REDIRECT */
};

/* Messages are given by all of these. */
int place_need_rights(void);
/* Enters the namespace that was asked for; fills ns_inode and ns_cookie. */
int place_enter(struct bbload *b);
/* Enters that of an inode, for what is attached there. Return: 0; -ENOENT, unsaid, where it is gone. */
int place_enter_inode(struct bbload *b, uint64_t inode);
int place_lock(struct bbload *b);
void place_unlock(struct bbload *b);
/* The bpffs; mounted where it is not there. */
int place_mount(void);
bool place_mounted(void);
/* Unmounts it and removes the directories, once they are empty. */
void place_unmount(void);
void place_of(struct place *p, uint64_t netns, const char *dev);
/* Looks at the device in the namespace that we are in. Return: 0 or -errno. */
int place_look(struct place *p);
/* Must its programs answer by a redirect? */
bool place_redirects(const struct place *p, const char *mode);
int place_mkdirs(const struct place *p);
/* Directory of the device's maps (the switch's are shared). */
void place_maps(const struct place *p, enum kind kind, char out[PATH_BYTES]);
/* Pins below dir/sub, and the directory. Return: was anything there? */
bool place_remove(const char *dir, const char *sub);
/* All there are, by directory or state file, the switches' maps too. */
unsigned int place_list(struct place **list);

/* --- bbload_state.c ----------------------------------------------------------- */

/* Return: a new reference; NULL where there is none (unreadable ones are said). */
json_t *state_load(const struct place *p);
int state_save(const struct place *p, json_t *state);
json_t *state_new(struct bbload *b, const struct place *p, enum kind kind);
enum kind state_kind(const json_t *state);
/* Is the state of this namespace and device, not of another with its number or name? */
bool state_is_of(const struct bbload *b, const json_t *state, const struct place *p);
/* Writes down a change (consumed) that is about to be made. */
int state_note(const struct place *p, json_t *state, json_t *change);
json_t *state_find(json_t *state, const char *what);
/*
 * Undoes all changes, the last first. device: false where it is gone with what
 * was changed of it. What other places of the namespace still need goes to their state.
 */
void state_undo(const struct place *p, json_t *state, bool device);

/* --- bbload_host.c ------------------------------------------------------------ */

/* What the host needs. Return: 0 or -errno, said. */
int host_prepare(struct bbload *b, const struct place *p, json_t *state, enum mode mode);
int host_undo(const struct place *p, const json_t *change, bool device);

/* --- bbload_attach.c --- */

/* Undoes a "filter" or "clsact" of the state. */
int attach_tc_undo(const struct place *p, const json_t *change);

/* --- bbload_netlink.c ---------------------------------------------------------- */

#define BB_TABLE 100

int net_rule_there(const char *dev);
int net_rule_change(const char *dev, bool add);
int net_route_there(void);	/* local fdbb::/16 in BB_TABLE */
int net_route_change(bool add);

struct neigh {
	uint8_t mac[6];
	uint16_t state;	/* NUD_*; 0: there is none */
};

int net_neigh_get(unsigned int ifindex, const struct in6_addr *via, struct neigh *n);
int net_neigh_set(unsigned int ifindex, const struct in6_addr *via, const struct neigh *n);
int net_neigh_del(unsigned int ifindex, const struct in6_addr *via);
/* Has the kernel look for it, for a second. */
int net_neigh_resolve(unsigned int ifindex, const struct in6_addr *via, struct neigh *n);

/* The other end of a veth. ns: a descriptor of its namespace, -1 where it is ours. Return: 0, -ENOENT, -errno. */
int net_peer(unsigned int ifindex, unsigned int *peer, int *ns);

int net_clsact_there(unsigned int ifindex);
/* Filters at the device's clsact. Return: how many, or -errno. */
int net_filters(unsigned int ifindex);

/* Names of the device's features that begin so and are on, and can be turned off. */
int net_features_on(const char *dev, const char *begin, json_t *names);
int net_features_set(const char *dev, const json_t *names, bool on);

/* --- bbload_object.c ------------------------------------------------------------ */

struct object {
	const char *name;	/* and of its XDP program */
	unsigned int kinds;	/* bits */
	const void *(*bytes)(size_t *size);
};

extern const struct object objects[];
extern const unsigned int nobjects;

enum hook { HOOK_NONE, HOOK_XDP, HOOK_TC };

/* What of an object is attached, and where; the rest is called by it. */
enum hook object_hook(const struct object *o, const struct bpf_program *p);
/*
 * Loads it with the maps that are pinned in maps, and pins those that were not
 * (NULL: pins nothing). frags false: without BPF_F_XDP_HAS_FRAGS.
 * Return: 0 or -errno, said unless quiet.
 */
int object_load(const struct object *o, const char *maps, bool frags, struct bpf_object **out);
/* What libbpf or the verifier said last. */
const char *object_said(void);
void object_init(bool verbose);

/* --- bbload_maps.c ---------------------------------------------------------------- */

/* Return: a descriptor, or -errno, said unless quiet. */
int map_open(const char *maps, const char *name, bool quiet);
struct bb_steer_cfg *map_cfg(const char *maps);	/* mapped; NULL is said */
void map_cfg_put(struct bb_steer_cfg *cfg);
/* bb_dev, where there is one: what the device's address and MTU are. fd: of that map. */
int map_dev_set(int fd, const struct place *p);
int map_dev_fill(const char *maps, const struct place *p);
/* bb_ports: the device's entry. */
int map_port(const char *maps, unsigned int ifindex, bool add);

/* --- the verbs: argv is what follows ------------------------------------------------ */

typedef int (*bbload_fn)(struct bbload *b, int argc, char **argv);

int bbload_attach(struct bbload *b, int argc, char **argv);
int bbload_detach(struct bbload *b, int argc, char **argv);
int bbload_gc(struct bbload *b, int argc, char **argv);
int bbload_update(struct bbload *b, int argc, char **argv);
int bbload_show(struct bbload *b, int argc, char **argv);
int bbload_selftest(struct bbload *b, int argc, char **argv);

/* Removes all of a place: links, maps, changes. device: is it still there? */
void detach_place(const struct bbload *b, struct place *p, json_t *state, bool ns, bool device);
/* Of a place of this namespace: is its device gone, or another one now? */
bool place_stale(const struct bbload *b, struct place *p, json_t *state);
/* Which device a link is attached to: 0 where it is gone, -errno where it is no such link. */
int link_ifindex(int fd, struct bpf_link_info *info);
/* "eth0" or "eth0 in h1": for messages. */
const char *name_of(const struct bbload *b, const char *dev);

bool parse_mac(const char *s, uint8_t mac[6]);
/* Return: is it a number of that range? */
bool parse_num(const char *s, long min, long max, long *out);

#endif
