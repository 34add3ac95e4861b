/* SPDX-License-Identifier: MIT */
/*
 * One page of a program under its budget: the words' protocol of
 * include/bluebridge/region.h with all that takes part in it, for spin.
 *
 *	thread()	reads and writes; its faults are queued by the kernel
 *	dropper()	another thread: free, munmap, madvise (preload/page.c)
 *	helper()	takes the page out (preload/batch.c)
 *	pager()		serves faults, writes back, frees slots (daemon/pager/)
 *	network()	loses, repeats, and keeps one copy of a WRITE for later
 *	home()		does a request once (daemon/net/session.c)
 *
 * What a page holds is a version: 0 are zeros, each store makes a new one, and
 * a hash is the version itself. Ring positions count modulo 2 * NSLOTS. gen is
 * left out: words that differ only in it are equal here, so that the model
 * allows more than the code does. Requests have no numbers: all that counts of
 * a late copy is whether the home knows its number as done, or as given up.
 *
 * With -DCRASH bbd is killed once, between any two steps of the pager, and
 * another one comes: recover() is preload/recover.c. What the dead one had sent
 * may still arrive. One home session goes on (daemon/net/udp.c), so that the
 * first packet of the next bbd makes the home refuse what is older.
 *
 * With -DRELAY wake-ups may be left to the helper while it takes other pages out
 * (daemon/pager/relay.c), and bbd takes them back whenever it likes.
 *
 * Every interleaving is searched. Found would be an assertion (lost write,
 * stale read, credit beyond the limit or out of balance, a second write-back)
 * or an invalid end state (an access that nobody wakes). With -DFAULT_x there
 * is one mistake in it, which the search has to find (tests/bats/model.bats).
 */
#define NSLOTS 2
#define LIMIT 1
/*
 * keep in free_slots: the code keeps three quarters of the ring, the least that
 * is right is one slot. The helper makes room for a slot in the ring before the
 * page's word speaks of it; the pager must not pass it in that moment.
 */
#ifdef FAULT_KEEP_NONE
#define KEEP 0
#else
#define KEEP 1
#endif
#ifndef STORES
#define STORES 3
#endif
#ifndef DROPS
#define DROPS 1
#endif

#include "word.pml"

short pw = EMPTY;	/* the page's word */
bool mapped;		/* in the program's page table */
byte mem;		/* what it holds there */
byte hash;		/* of the home copy, where HASHED */
byte slot[NSLOTS];	/* staging memory */
byte head, tail;	/* ctl->stage_head, ctl->stage_tail */
byte credit;		/* ctl->resident */
byte last;		/* what a read has to bring */

byte flt;		/* 0 none, 1 queued by the kernel, 2 read by the pager */
bool parked;
bool lock;		/* bb_rg.lock */

/* The pager's own. */
byte wb;		/* p->wb: a position */
bool wb_open;		/* a request is open: bb_wb */
bool wb_slot;
byte wb_hash;
byte fl;		/* bb_fill: 0 none, 1 asked, 2 answered */
byte fl_v;

/* The wire: WRITEs of the open request, its answer, a copy that is late. */
bool wire;
byte wire_v;
byte ack;		/* 0 none, 1 done, 2 BUSY */
bool late, late_cur, late_known;
byte late_v;

/* The home. */
byte home_v;
bool home_done;		/* the open request */
bool busied;		/* said BUSY once */

#define USED ((head + 2 * NSLOTS - tail) % (2 * NSLOTS))
#define NEXT(pos) ((pos + 1) % (2 * NSLOTS))

/* A wake-up that is left to the helper. */
bool looks;		/* ctl->helper_wakes */
bool to_wake;		/* ctl->to_wake */
bool relayed;		/* pg->relay.prog: the pager's own */

bool killed, dead;	/* bbd: to be, and been; until recover() */
bool late_old;		/* the late copy is of the bbd before */

/* One compare-and-swap of the word. */
#define CAS(ok, w, v) atomic { if :: pw == (w) -> pw = (v); ok = true :: else -> ok = false fi }

inline wake() { flt = 0 } /* UFFDIO_WAKE: whoever waits, its message read or not */

inline credit_give() { atomic { assert(credit > 0); credit-- } }

/* --- the program ----------------------------------------------------------- */

proctype thread()
{
	byte n;

	do
	:: n < STORES ->
		if
		:: atomic { mapped -> assert(mem == last) }		/* a read */
		:: atomic { mapped -> n++; last = n; mem = n }		/* a write */
		:: atomic { !mapped -> flt = 1 };
			flt == 0
		fi
	:: n == STORES ->
		if
		:: atomic { mapped -> assert(mem == last); break }
		:: atomic { !mapped -> flt = 1 };
			flt == 0
		fi
	od
}

/* drop_some: page_claim, bb_pages_zap, page_empty */
proctype dropper()
{
	short w;
	byte n;
	bool ok, claimed;

	do
	:: n < DROPS ->
		n++;
		atomic { !lock -> lock = true };
		claimed = false;
		do	/* page_claim */
		:: w = pw;
			if
			:: STATE(w) == EMPTY -> break
			:: STATE(w) == RESIDENT || STATE(w) == STAGED || STATE(w) == REMOTE ->
				CAS(ok, w, WITH(w, DROPPING));
				if
				:: ok -> claimed = true; break
				:: else
				fi
			:: else -> STATE(pw) != STATE(w)
			fi
		od;
		atomic {	/* bb_pages_zap */
			if
			:: claimed || mapped -> last = 0
			:: else
			fi;
			ok = mapped;
			mapped = false
		};
		if
		:: claimed ->
			/* page_empty; its credit is counted by the state that it had */
#ifdef FAULT_DROP_NO_WAKE
			atomic { pw = (pw & WB) | EMPTY };
#else
			atomic { ok = (pw & WAIT) != 0; pw = (pw & WB) | EMPTY };
			if
			:: ok -> wake()
			:: else
			fi;
#endif
			if
			:: STATE(w) == RESIDENT -> credit_give()
			:: else
			fi
		:: else
		fi;
		w = 0; ok = false; claimed = false;
		lock = false
	:: n == DROPS -> break
	od
}

/* --- the helper ------------------------------------------------------------ */

/* release_busy; the wake follows the swap */
inline release_busy(set, clear)
{
	atomic { ok = (pw & WAIT) != 0; pw = (pw & ~(clear | M_STATE | WAIT)) | (set) };
#ifndef FAULT_EVICT_NO_WAKE
	if
	:: ok -> wake()
	:: else
	fi
#endif
}

/* What bbd left half done: undo_page, count; then attaching, waking all. */
inline recover()
{
	atomic { w = pw; ok = STATE(w) == FILLING && mapped };	/* has_arrived */
	do
	:: w = pw;
		set = w & ~WB;
#ifdef FAULT_WB_IS_WRITTEN
		if
		:: w & WB -> set = (set | HASHED) & ~DIRTY
		:: else
		fi;
#endif
		if
		:: STATE(w) != FILLING
		:: STATE(w) == FILLING ->
			set = set & ~(WAIT | M_FROM);
			if
#ifndef FAULT_UNDO_BLIND
			:: ok -> set = WITH_SLOT(WITH(set & ~DIRTY, RESIDENT), 0)
			:: !ok && FROM(w) == RESIDENT -> set = EMPTY
			:: !ok && FROM(w) != RESIDENT -> set = WITH(set, FROM(w))
#else
			:: FROM(w) == RESIDENT -> set = EMPTY
			:: FROM(w) != RESIDENT -> set = WITH(set, FROM(w))
#endif
			fi
		fi;
		atomic {
			if
			:: pw == w -> pw = set; break
			:: else
			fi
		}
	od;
	atomic { !lock -> lock = true };
#ifndef FAULT_NO_COUNT
	w = STATE(pw) == RESIDENT;
	credit = w;
#endif
	atomic { lock = false; dead = false };
#ifndef FAULT_NO_WAKE_ALL
	wake()
#endif
}

/* Between two pages of a batch. */
inline look()
{
	atomic { ok = to_wake; to_wake = false };
	if
	:: ok -> wake()
	:: else
	fi;
	ok = false
}

proctype helper()
{
	short w, set;
	byte v, pos;
	bool ok, once;

end:	do
	:: STATE(pw) == RESIDENT && USED < NSLOTS ->	/* pick */
		w = pw;
		if
		:: STATE(w) == RESIDENT ->
			CAS(ok, w, WITH(w, EVICTING))
		:: else -> ok = false
		fi;
		if
		:: !ok
		:: ok ->
			atomic {	/* move_run: UFFDIO_MOVE */
				ok = mapped;
				if
				:: mapped -> v = mem; mapped = false
				:: else
				fi
			};
			if
			:: !ok ->	/* ENOENT */
				release_busy(EMPTY, HASHED | M_RX);
				credit_give()
			:: else ->	/* stage */
				if
				:: v == 0 -> release_busy(EMPTY, HASHED | M_RX)
				:: else ->
					pos = head % NSLOTS;
					slot[pos] = v;
					set = WITH_SLOT(STAGED, pos);
					if
					:: (w & HASHED) && !(w & WB) && hash == v
					:: else -> set = set | DIRTY
					fi;
					head = NEXT(head);
					release_busy(set, M_SLOT | DIRTY);
					/* A page that is STAGED is in a slot that nobody reuses. */
					assert(!(STATE(pw) == STAGED && SLOT(pw) == pos) || USED > 0)
				fi;
				credit_give()	/* run_batch */
			fi
		fi;
		w = 0; set = 0; v = 0; pos = 0; ok = false
#if defined(LATE) || defined(CRASH)
	:: atomic { STATE(pw) == STAGED && USED < NSLOTS ->	/* another page goes out */
		slot[head % NSLOTS] = 99; head = NEXT(head) }
#endif
#ifdef RELAY
	:: !once && !looks -> atomic { once = true; looks = true }	/* other pages go out */
	:: looks && to_wake -> look()
	:: looks -> looks = false; look()
#endif
	:: dead && !looks -> recover();
		w = 0; set = 0; ok = false
	od
}

/* --- the pager ------------------------------------------------------------- */

/* bb_word_leave */
inline word_leave(set, clear)
{
	atomic { ok = (pw & WAIT) != 0; pw = (pw & ~(clear | M_STATE | WAIT | M_FROM)) | (set) };
	if
	:: ok -> wake()
	:: else
	fi
}

/* relay.c: unless the helper has taken it */
inline take_back()
{
	atomic { ok = to_wake; to_wake = false };
	if
	:: ok -> wake()
	:: else
	fi;
	relayed = false
}

/* bb_fill_install, arrived; UFFDIO_COPY wakes unless that is left to the helper, and so does EEXIST */
inline install(v, clear)
{
	atomic {
		left = looks && !relayed;	/* bb_relay_suits */
		assert(credit <= LIMIT);
		if
		:: !mapped -> mapped = true; mem = v
		:: else -> left = false
		fi;
		if
		:: !left -> wake()
		:: else
		fi
	};
	word_leave(RESIDENT, clear | M_SLOT | DIRTY);
	if
	:: left ->	/* bb_relay */
		atomic { relayed = true; to_wake = true };
#ifndef FAULT_NO_TAKE_BACK
		if
		:: !looks -> take_back()
		:: else
		fi;
#endif
		left = false
	:: else
	fi
}

/* bb_page_claim and the claim of fault.c */
inline claim()
{
	atomic {
		if
		:: credit + 1 > LIMIT -> parked = true; got = false
		:: else -> credit++; got = true
		fi
	};
	if
	:: !got
	:: else ->
		CAS(ok, w, FILL_OF(w));
		if
		:: ok
		:: else ->
			credit_give();
			wake();
			got = false
		fi
	fi
}

/* serve, with serve_empty, serve_staged, serve_remote, serve_resident */
inline serve()
{
	parked = false;
	do
	:: w = pw;
		if
		:: STATE(w) == EMPTY ->
			claim();
			if
			:: got -> install(0, HASHED | M_RX)
			:: else
			fi;
			break
		:: STATE(w) == STAGED ->
			claim();
			if
			:: got -> install(slot[SLOT(w)], 0)
			:: else
			fi;
			break
		:: STATE(w) == REMOTE ->
			claim();
			if
			:: got -> fl = 1
			:: else
			fi;
			break
		:: STATE(w) == RESIDENT ->
			CAS(ok, w, FILL_OF(w));
			if
			:: ok ->
#ifdef FAULT_CREDIT_TWICE
				credit++;
#endif
				install(0, 0)
			:: else -> wake()
			fi;
			break
		:: STATE(w) == FILLING -> break
		:: STATE(w) == EVICTING || STATE(w) == DROPPING ->
#ifdef FAULT_WAIT_BLIND
			pw = w | WAIT;
			break
#else
			CAS(ok, w, w | WAIT);
			if
			:: ok -> break
			:: else
			fi
#endif
		fi
	od
}

/* write_back, at most one slot of it */
inline write_back()
{
	w = pw;
	pos = wb % NSLOTS;
	if
	:: STATE(w) != STAGED || SLOT(w) != pos || !(w & DIRTY) ->
		wb = NEXT(wb)
#ifndef FAULT_SECOND_WRITE
	:: STATE(w) == STAGED && SLOT(w) == pos && (w & DIRTY) && (w & WB)	/* break */
#endif
	:: else ->
#ifdef FAULT_HASHED_EARLY
		CAS(ok, w, (w | WB | HASHED) & ~DIRTY);
#else
		CAS(ok, w, (w & ~HASHED) | WB);
#endif
		if
		:: ok ->
			atomic {
				assert(!wb_open);
				wb_open = true;
				wb_slot = pos;
				wb_hash = slot[pos];
#ifdef FAULT_HASHED_EARLY
				hash = slot[pos];
#endif
				wire = true;
				wire_v = slot[pos];
				home_done = false;
				late_cur = false
			}
		:: else
		fi;
		wb = NEXT(wb)
	fi
}

/* written */
inline written()
{
	got = (ack == 1);
	atomic { wb_open = false; ack = 0; wire = false };
	if
	:: !got -> wb = tail
	:: else -> hash = wb_hash
	fi;
	do
	:: w = pw;
		set = w & ~WB;
		if
		:: !got || STATE(w) == EMPTY || STATE(w) == DROPPING
		:: else ->
			set = set | HASHED;
			if
#ifdef FAULT_DIRTY_ANY_SLOT
			:: STATE(w) == STAGED -> set = set & ~DIRTY
#else
			:: STATE(w) == STAGED && SLOT(w) == wb_slot -> set = set & ~DIRTY
#endif
			:: else
			fi
		fi;
		CAS(ok, w, set);
		if
		:: ok -> break
		:: else
		fi
	od
}

/* free_slots, at most one slot of it */
inline free_slots()
{
	w = pw;
	pos = tail % NSLOTS;
	if
	:: STATE(w) == STAGED && SLOT(w) == pos ->
#ifdef FAULT_FREE_DIRTY
		if
		:: w & WB
#else
		if
		:: (w & DIRTY) || (w & WB) ->
			if
			:: !(w & WB) -> wb = tail
			:: else
			fi
		:: !(w & (DIRTY | WB)) && !(w & HASHED) ->
			CAS(ok, w, w | DIRTY);
			wb = tail
#endif
		:: else ->
			assert(!mapped);
			CAS(ok, w, WITH_SLOT(WITH(w, REMOTE), 0));
			if
			:: ok -> tail = NEXT(tail)
			:: else
			fi
		fi
#ifndef FAULT_FREE_SENDING
	:: !(STATE(w) == STAGED && SLOT(w) == pos) && wb_open && wb_slot == pos	/* slot_busy */
#endif
	:: else -> tail = NEXT(tail)
	fi
}

#define UNWRITTEN (wb != head)
#define WB_WAITS (STATE(pw) == STAGED && SLOT(pw) == wb % NSLOTS && (pw & WB))
#define SENDING (wb_open && wb_slot == tail % NSLOTS)
#ifdef FAULT_FREE_SENDING
#undef SENDING
#define SENDING false
#endif
#define FREE_WAITS ((STATE(pw) == STAGED && SLOT(pw) == tail % NSLOTS && (pw & WB)) || SENDING)

proctype pager()
{
	short w, set;
	byte pos;
	bool ok, got, left;

end_again:
	{
end:	do
	:: flt == 1 -> atomic { if :: flt == 1 -> flt = 2 :: else fi };	/* bb_fault_poll */
		serve();
		w = 0; ok = false; got = false
	:: parked && credit < LIMIT -> serve();			/* bb_fault_unpark */
		w = 0; ok = false; got = false
	:: fl == 2 ->						/* done */
		assert(fl_v == hash && (pw & HASHED));		/* intact */
		install(fl_v, 0);
		fl = 0; fl_v = 0; ok = false
#ifdef RELAY
	:: relayed && !to_wake -> relayed = false		/* bb_relay_pending */
#ifndef FAULT_NO_TAKE_BACK
	:: relayed && to_wake -> take_back(); ok = false	/* the helper is late */
#endif
#endif
	:: UNWRITTEN && !WB_WAITS -> write_back();
		w = 0; pos = 0; ok = false
	:: ack -> written();
		w = 0; set = 0; ok = false; got = false
	:: tail != wb && USED > KEEP && !FREE_WAITS -> free_slots();
		w = 0; pos = 0; ok = false
	:: atomic { wb_open && !wire && !ack -> wire = true; wire_v = slot[wb_slot] }	/* again */
	od
	} unless { killed };
	/* What it had sent is under way, what it knew is gone. */
	atomic {
		killed = false;
		if
		:: wire -> late = true; late_v = wire_v; late_cur = true; late_known = home_done
		:: true
		fi;
		late_old = late;
		if
		:: late && late_cur && home_done -> late_known = true
		:: else
		fi;
		late_cur = false;
		wire = false; wire_v = 0; ack = 0; wb_open = false; wb_slot = 0; wb_hash = 0; home_done = false;
		parked = false; fl = 0; fl_v = 0; wb = 0; relayed = false;
		w = 0; set = 0; pos = 0; ok = false; got = false; left = false;
		dead = true
	};
	atomic {	/* the next one: bb_program_new */
		!dead ->
#ifdef FAULT_TAIL_AT_HEAD
		tail = head;
#endif
		wb = tail
	};
	goto end_again
}

/* SIGKILL */
proctype killer() { killed = true }

/* --- the others ------------------------------------------------------------ */

/* bb_sessions_slot and the WRITE behind it, of the open request */
inline arrive(v)
{
	if
	:: !home_done -> home_v = v; home_done = true
	:: else
	fi;
#ifdef FAULT_NEW_SESSION
	late_known = late_known || !late_old;
#else
	late_known = true;	/* it is done, or below the floor */
#endif
	ack = 1
}

proctype home()
{
end:	do
	:: atomic { wire ->
		wire = false;
		if
#ifdef LATE
		:: !late -> late = true; late_cur = true; late_known = false; late_v = wire_v
#endif
		:: true
		fi;
		if
#ifdef LATE
		:: !home_done && !busied -> busied = true; ack = 2;
			if
			:: late && !late_cur -> late_known = true
			:: else
			fi
#endif
		:: wb_open -> arrive(wire_v)
		:: true		/* lost */
		fi }
	:: atomic { late ->
		late = false;
		if
#ifndef FAULT_NO_NUMBERS
		:: late_known		/* done before, or STALE */
		:: !late_known && late_cur && wb_open -> arrive(late_v)
		:: !late_known && !(late_cur && wb_open) -> home_v = late_v
#else
		:: home_v = late_v
#endif
		fi;
		late_cur = false; late_known = false; late_old = false; late_v = 0 }
	:: atomic { fl == 1 -> fl_v = home_v; fl = 2 }	/* READ */
	od
}


init { atomic { run thread(); run dropper(); run helper(); run pager(); run home();
#ifdef CRASH
	run killer()
#endif
} }

