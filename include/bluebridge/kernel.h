/* SPDX-License-Identifier: MIT */
/*
 * Constants of the kernel's user interface that are newer than the headers of
 * the oldest distribution that we build on (Debian 12, headers of 6.1). Every
 * use is guarded by a run-time probe, so a value here promises nothing of the
 * kernel that we run on.
 */
#ifndef BLUEBRIDGE_KERNEL_H
#define BLUEBRIDGE_KERNEL_H

#include <linux/types.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#ifndef USERFAULTFD_IOC_NEW /* Linux 6.1: /dev/userfaultfd */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#ifndef UFFD_USER_MODE_ONLY /* Linux 5.11 */
#define UFFD_USER_MODE_ONLY 1
#endif

#ifndef UFFDIO_POISON /* Linux 6.6 */
#define UFFD_FEATURE_POISON (1 << 14)
#define _UFFDIO_POISON 0x08
struct uffdio_poison {
	struct uffdio_range range;
	__u64 mode;
	__s64 updated;
};
#define UFFDIO_POISON _IOWR(UFFDIO, _UFFDIO_POISON, struct uffdio_poison)
#endif

#ifndef UFFDIO_MOVE /* Linux 6.8 */
#define UFFD_FEATURE_MOVE (1 << 16)
#define _UFFDIO_MOVE 0x05
#define UFFDIO_MOVE_MODE_DONTWAKE ((__u64)1 << 0)
#define UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES ((__u64)1 << 1)
struct uffdio_move {
	__u64 dst;
	__u64 src;
	__u64 len;
	__u64 mode;
	__s64 move; /* bytes moved, or -errno */
};
#define UFFDIO_MOVE _IOWR(UFFDIO, _UFFDIO_MOVE, struct uffdio_move)
#endif

#ifndef PAGEMAP_SCAN /* Of <linux/fs.h>, Linux 6.7; on an open /proc/self/pagemap */
#define PAGE_IS_HUGE (1 << 6)
struct page_region {
	__u64 start, end;
	__u64 categories;
};
struct pm_scan_arg {
	__u64 size, flags;
	__u64 start, end, walk_end;
	__u64 vec, vec_len, max_pages;
	__u64 category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
#endif

/* Of <linux/if_xdp.h>, Linux 6.6: packets of more than one chunk. */
#ifndef XDP_USE_SG
#define XDP_USE_SG (1 << 4)
#define XDP_PKT_CONTD (1 << 0)
#endif

#ifndef MADV_PAGEOUT /* Linux 5.4 */
#define MADV_COLD 20
#define MADV_PAGEOUT 21
#endif

#ifndef MADV_POPULATE_READ /* Linux 5.14 */
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

#ifndef MADV_DONTNEED_LOCKED /* Linux 5.18 */
#define MADV_DONTNEED_LOCKED 24
#endif

/* Of <linux/sched/types.h>, whose struct sched_param is the C library's as well. */
struct bb_sched_attr {
	__u32 size, policy;
	__u64 flags;
	__s32 nice;
	__u32 priority;
	__u64 runtime; /* of SCHED_OTHER, since Linux 6.12: nanoseconds that it runs in one go */
	__u64 deadline, period;
};

#endif
