/* SPDX-License-Identifier: MIT */
/*
 * Places that bpftrace, perf and SystemTap can listen at while a program runs:
 * a nop each, and a note in the ELF file that says where it is and where its
 * arguments are. Nothing asks whether somebody listens, so arguments must be at
 * hand anyway. doc/trace.md lists all; tests/bats/trace.bats compares.
 */
#ifndef BB_LIB_USDT_H
#define BB_LIB_USDT_H

#define SDT_USE_VARIADIC	   /* STAP_PROBEV */
#define STAP_SDT_ARG_CONSTRAINT nr /* numbers and registers: readers do not understand every address */
#include <sys/sdt.h>

#define BB_PROBE(name, ...) STAP_PROBEV(bluebridge, name, __VA_ARGS__)

#endif
