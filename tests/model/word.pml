/* SPDX-License-Identifier: MIT */
/*
 * A page's word, as in include/bluebridge/region.h, but for gen and with one
 * bit each for slot and rx.
 */
#define EMPTY 0
#define RESIDENT 1
#define STAGED 2
#define REMOTE 3
#define FILLING 4
#define EVICTING 5
#define DROPPING 6
#define LOST 7

#define M_STATE 7
#define WAIT 8
#define HASHED 16
#define WB 32
#define DIRTY 64
#define M_FROM 384	/* << 7 */
#define M_SLOT 512	/* << 9 */
#define M_RX 1024	/* << 10 */

#define STATE(w) ((w) & M_STATE)
#define WITH(w, s) (((w) & ~M_STATE) | (s))			/* bb_pw_with */
#define FROM(w) (((w) & M_FROM) >> 7)				/* bb_pw_from */
#define SLOT(w) (((w) & M_SLOT) >> 9)				/* bb_pw_slot */
#define RX(w) (((w) & M_RX) >> 10)				/* bb_pw_rx */
#define WITH_SLOT(w, n) (((w) & ~M_SLOT) | ((n) << 9))		/* bb_pw_with_slot */
#define WITH_RX(w, n) (((w) & ~M_RX) | ((n) << 10))		/* bb_pw_with_rx */
/* bb_pw_filling */
#ifdef FAULT_NO_FROM
#define FILL_OF(w) (((w) & ~(M_STATE | WAIT | M_FROM)) | (REMOTE << 7) | FILLING)
#else
#define FILL_OF(w) (((w) & ~(M_STATE | WAIT | M_FROM)) | (((w) & 3) << 7) | FILLING)
#endif
