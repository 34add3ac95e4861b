/* SPDX-License-Identifier: MIT */
/*
 * Which system calls each thread of bbd may make.
 *
 * Theory of operation
 * -------------------
 * A thread loads its filter before it reads its first byte from outside, and
 * filters can only become narrower. libseccomp turns the lists below into BPF.
 * What is allowed whatever its arguments costs nothing: the kernel keeps a
 * bitmap of it. Of the calls whose arguments are looked at only ioctl (a
 * userfaultfd's) is on the path of a fault; it comes first in the program.
 *
 * Whatever else is called raises SIGSYS in the thread that called. The handler
 * says it once for each thread's kind and call, counts it, and makes the call
 * fail with EPERM; ENOSYS where nobody here knows the call, for then it is one
 * that a newer C library tries first. So the handler must do with what every
 * list has: write and exit_group.
 *
 * A new call in a thread's code belongs in the list here. Where it is missing
 * the tests fail by the message (tests/bats/common.bash looks for it).
 */
#include "rights.h"

#include <errno.h>
#include <seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <ucontext.h>
#include <unistd.h>

#include "log.h"

#define CALLS 512
#ifndef SYS_SECCOMP
#define SYS_SECCOMP 1 /* si_code; the C library's headers do not have it */
#endif

/* The C library, memory, time, and talking on sockets that are there. */
static const char common[] =
	"read write close lseek fstat newfstatat fcntl futex clock_gettime clock_getres clock_nanosleep nanosleep "
	"gettimeofday time getpid gettid getuid geteuid getrandom sched_yield sched_getaffinity getcpu madvise munmap "
	"mremap brk rt_sigreturn rt_sigprocmask restart_syscall exit exit_group "
	"sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg shutdown setsockopt getsockopt getsockname "
	"poll ppoll epoll_wait epoll_pwait epoll_ctl epoll_create1 eventfd2 ";
/* Lent memory grows in the server's thread, and in a pager's for its own programs. */
static const char home[] = "memfd_create ftruncate fallocate msync dup ";
static const char store[] = "openat unlinkat mkdirat fstatfs statfs fsync fdatasync ";
static const char control[] = "accept4 readlink readlinkat openat fstatfs unlink memfd_create "
			      "ftruncate dup ";
/* connect: of a socket that sends nothing, to ask for the MTU of a path. */
static const char pager[] = "connect preadv2 ";
/* The pins are looked at by stat(2); maps are made, read and filled. bind: of the name that says whose they are. */
static const char steer[] = "bpf stat statx bind ";
/* Discovery: a socket that asks the kernel for a route, the interfaces' names. */
static const char server[] = "bind connect uname ";
/* Names of peers: the C library's resolver, in a thread of its own. */
static const char names[] = "openat stat access faccessat readlink set_robust_list rseq statx pread64 fstatfs "
			    "getpeername getdents64 prctl ";
/* Nobody but an intruder makes these in a thread that has an allow-list (bpf: but steer). */
static const char foreign[] =
	"execve execveat fork vfork ptrace process_vm_readv process_vm_writev pidfd_getfd mount umount2 move_mount "
	"open_tree fsopen pivot_root chroot setns unshare init_module finit_module delete_module kexec_load "
	"kexec_file_load bpf perf_event_open open_by_handle_at setuid setgid setreuid setregid setresuid setresgid "
	"setgroups capset personality keyctl add_key request_key io_uring_setup reboot ";
/* Main keeps what a new bbd may need that it starts; these need no capability. */
static const char not_main[] = "ptrace process_vm_readv process_vm_writev pidfd_getfd personality keyctl add_key "
			       "request_key ";

static const char *const role_name[] = { "main", "control", "pager", "server", "scrubber", "steer", "rdma" };
static const char *call_name[CALLS];
static bool is_foreign[CALLS];
static _Atomic bool said[BB_ROLE_MAX][CALLS];
static _Atomic uint64_t refused;
static const char *_Atomic last_refused;
static __thread enum bb_role my_role;

/* The next name of a list, copied to name. Return: false at its end. */
static bool next_name(const char **list, char name[32])
{
	size_t n;

	*list += strspn(*list, " ");
	n = strcspn(*list, " ");
	if (!n || n >= 32)
		return false;
	memcpy(name, *list, n);
	name[n] = 0;
	*list += n;
	return true;
}

/* --- a call that is not allowed ------------------------------------------- */

/*
 * The C library's malloc, before it first gives back the end of a thread's
 * heap, reads this file, and does the right thing where it cannot.
 */
static bool is_of_malloc(int nr, const ucontext_t *uc)
{
	static const char file[] = "/proc/sys/vm/overcommit_memory";
	const char *path = NULL;

	if (nr != SCMP_SYS(openat))
		return false;
#if defined(__x86_64__)
	path = (const char *)uc->uc_mcontext.gregs[REG_RSI];
#elif defined(__aarch64__)
	path = (const char *)uc->uc_mcontext.regs[1];
#endif
	return path && !strcmp(path, file);
}

static void on_refused(int sig, siginfo_t *si, void *context)
{
	ucontext_t *uc = context;
	const int nr = si->si_syscall, saved = errno;
	const bool known = nr >= 0 && nr < CALLS && call_name[nr];
	const char *what = known ? call_name[nr] : "a call";

	if (si->si_code != SYS_SECCOMP) /* somebody's kill(2): nothing was called */
		return;
	if (is_of_malloc(nr, uc))
		goto out;
	atomic_fetch_add(&refused, 1);
	last_refused = what;
	if (known && is_foreign[nr]) {
		bb_error("the %s thread called %s, which bbd never does: bbd was broken into, and ends", role_name[my_role],
			 what);
		_exit(BB_RIGHTS_EXIT);
	}
	if (nr < 0 || nr >= CALLS || !atomic_exchange(&said[my_role][nr], true))
		bb_error("the %s thread may not call %s (number %d): refused; if it should, start bbd with --no-filter and "
			 "report this", role_name[my_role], what, nr);
out:
#if defined(__x86_64__)
	uc->uc_mcontext.gregs[REG_RAX] = known ? -EPERM : -ENOSYS;
#elif defined(__aarch64__)
	uc->uc_mcontext.regs[0] = (unsigned long long)(known ? -EPERM : -ENOSYS);
#endif
	errno = saved;
}

void bb_filter_start(void)
{
	struct sigaction sa = { .sa_sigaction = on_refused, .sa_flags = SA_SIGINFO | SA_NODEFER };
	const char *list = foreign;
	char name[32];

	for (int i = 0; i < CALLS; i++)
		call_name[i] = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, i);
	while (next_name(&list, name)) {
		int nr = seccomp_syscall_resolve_name(name);

		if (nr >= 0 && nr < CALLS)
			is_foreign[nr] = true;
	}
	sigaction(SIGSYS, &sa, NULL);
}

uint64_t bb_filter_refused(const char **last)
{
	*last = last_refused;
	return refused;
}

/* --- the filters ----------------------------------------------------------- */

static int add_list(scmp_filter_ctx f, uint32_t action, const char *list)
{
	char name[32];

	while (next_name(&list, name)) {
		int nr = seccomp_syscall_resolve_name(name), r;

		if (nr < 0)
			continue; /* not on this architecture */
		r = seccomp_rule_add(f, action, nr, 0);
		if (r < 0 && r != -EEXIST)
			return r;
	}
	return 0;
}

/* Return: 0 or the first error of the calls before. */
static int first(int a, int b)
{
	return a < 0 ? a : b;
}

/* An ioctl of one kind: the second byte of its number. */
static int add_ioctl(scmp_filter_ctx f, unsigned int kind)
{
	return seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				SCMP_A1_32(SCMP_CMP_MASKED_EQ, 0xff00, (uint64_t)kind << 8));
}

/* A socket of a family: AF_UNIX is what the C library asks for the names of interfaces. */
static int add_socket(scmp_filter_ctx f, int family)
{
	return seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0_32(SCMP_CMP_EQ, (uint64_t)family));
}

/* Only threads: a process would not share our memory. clone3 hides its flags; without it clone is called. */
static int add_threads(scmp_filter_ctx f)
{
	const uint64_t thread = 0x00010000; /* CLONE_THREAD */
	int r = seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);

	return first(r, seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1, SCMP_A0(SCMP_CMP_MASKED_EQ, thread, thread)));
}

/* Memory that can be run is made by the loader alone, which is done. */
static int add_memory(scmp_filter_ctx f)
{
	int r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2_32(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));

	return first(r, seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
					 SCMP_A2_32(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)));
}

static int add_role(scmp_filter_ctx f, enum bb_role role, const struct bb_rights_config *cfg)
{
	int r;

	if (role == BB_ROLE_MAIN)
		return add_list(f, SCMP_ACT_ERRNO(EPERM), not_main);
	r = seccomp_syscall_priority(f, SCMP_SYS(ioctl), 255);
	if (role == BB_ROLE_PAGER)
		r = first(r, add_ioctl(f, 0xaa)); /* a userfaultfd's */
	if (role == BB_ROLE_SERVER || role == BB_ROLE_CONTROL) {
		r = first(r, add_ioctl(f, 0x89)); /* a socket's: names of interfaces */
		r = first(r, add_socket(f, AF_UNIX));
	}
	/* The pager's queue pairs, and everybody who takes an extent away: its windows. */
	if (cfg->rdma && role != BB_ROLE_STEER && role != BB_ROLE_SCRUBBER)
		r = first(r, add_ioctl(f, 0x1b));
	r = first(r, add_list(f, SCMP_ACT_ALLOW, common));
	r = first(r, add_memory(f));
	/* abort(3), of the C library's own checks. */
	r = first(r, seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, SCMP_A0(SCMP_CMP_EQ, (uint64_t)getpid())));
	if (role == BB_ROLE_CONTROL)
		return first(r, add_list(f, SCMP_ACT_ALLOW, control));
	if (role == BB_ROLE_STEER) {
		if (cfg->xdp) {
			r = first(r, add_socket(f, AF_XDP));
			r = first(r, add_socket(f, AF_UNIX)); /* the device's number and address */
			r = first(r, add_ioctl(f, 0x89));
		}
		return first(r, add_list(f, SCMP_ACT_ALLOW, steer));
	}
	r = first(r, add_list(f, SCMP_ACT_ALLOW, home));
	if (cfg->store) {
		r = first(r, add_list(f, SCMP_ACT_ALLOW, store));
		r = first(r, add_ioctl(f, 0x66)); /* a file's flags */
	}
	if (role == BB_ROLE_SCRUBBER || role == BB_ROLE_RDMA)
		return r;
	if (role == BB_ROLE_PAGER) {
		r = first(r, add_socket(f, AF_UNIX)); /* to ourselves, for a child of a program in a chroot */
		return first(r, add_list(f, SCMP_ACT_ALLOW, pager));
	}
	r = first(r, add_list(f, SCMP_ACT_ALLOW, server));
	r = first(r, add_socket(f, AF_INET6));
	r = first(r, add_socket(f, AF_INET)); /* names of interfaces, and of peers */
	r = first(r, add_socket(f, AF_NETLINK));
	if (cfg->names) {
		r = first(r, add_list(f, SCMP_ACT_ALLOW, names));
		r = first(r, add_threads(f));
	}
	return r;
}

int bb_filter_thread(enum bb_role role, const struct bb_rights_config *cfg)
{
	/* Main hands its filter on by an upgrade: the next bbd need not add another. */
	if (role == BB_ROLE_MAIN && prctl(PR_GET_SECCOMP, 0, 0, 0, 0) > 0)
		return 0;
	const uint32_t rest = role == BB_ROLE_MAIN ? SCMP_ACT_ALLOW : SCMP_ACT_TRAP;
	scmp_filter_ctx f = seccomp_init(rest);
	int r;

	if (!f)
		return -ENOMEM;
	my_role = role;
	r = add_role(f, role, cfg);
	/* We run nobody's code: no need to slow ourselves down against Spectre variant 4. */
	seccomp_attr_set(f, SCMP_FLTATR_CTL_SSB, 1);
	r = first(r, seccomp_load(f));
	seccomp_release(f);
	return r;
}
