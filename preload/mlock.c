/* SPDX-License-Identifier: MIT */
/*
 * mlockall(2). The kernel would bring all that is mapped into memory at once:
 * the region's books alone are gigabytes of address space, nearly all of them
 * never touched, and paged memory would come in whole. So it locks what is
 * touched, when it is touched (MCL_ONFAULT). mlock(2) needs none of this.
 */
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "region.h"

__attribute__((visibility("default"))) int mlockall(int flags)
{
	if (bb_region_min != SIZE_MAX && flags && !(flags & ~(MCL_CURRENT | MCL_FUTURE)))
		flags |= MCL_ONFAULT;
	return (int)syscall(SYS_mlockall, flags);
}
