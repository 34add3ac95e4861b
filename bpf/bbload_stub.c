/* SPDX-License-Identifier: MIT */
#include "bbload.h"
int bbload_update(struct bbload *b, int argc, char **argv) { return 0; }
int bbload_show(struct bbload *b, int argc, char **argv) { return 0; }
int bbload_selftest(struct bbload *b, int argc, char **argv) { return 0; }
