//! Models of reclaiming: a client that pins an entry, or a worker that holds it, against a worker that replaces it and
//! would use its memory again. The real table, reader's half and reclaimer; the client's pins are a word on the heap.
//!
//! Using memory again becomes a question: whether the client's last look at the entry is seen by the worker that has
//! got the memory back. It looks at the very end of its view, by storing a mark. If the memory is free at the right
//! time, the mark has always been made, and is seen: it happened before.
//!
//! # Allowed
//!
//! - The client pins the old entry: the memory is kept, and freed when it has let go, or not at all.
//! - The client finds the new entry, which is there to stay; the old one is freed at once.
//! - It finds neither, because the change got in its way each time.
//!
//! # Forbidden
//!
//! - The memory of an entry is used again while a view of it, or a hold, is looked at. Each of the two fences missing
//!   allows that: the client's pin may become visible after it has looked at the version, or the server may look at
//!   the pin before its change is visible. Relaxed instead of Release or Acquire, for clearing a pin and looking at
//!   it, or for letting go of a hold, lets the last look come later than it seems.
//! - A view of anything but one of the key's values.
//!
//! # What this cannot show
//!
//! Loom has no load that sees a later store: that the client's looks are over before the memory is written to again is
//! shown by a mark that it stores at the end, and by that alone. `what_is_pinned_stays_while_everything_is_replaced` in
//! `tests` looks at the values themselves, on real threads.

use loom::thread;

use super::heap::Cache;
use super::layout::PAGE_WORDS;
use super::reader::Reader;
use super::reclaim::{HazardRecord, Pinned, pin, unpin};
use super::{Eviction, Guard, Options, Outcome, Table, Writer};
use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering, as_uninit, copy_out, heap_words, model};

type Words = Arc<Box<[AtomicU64]>>;

const PAGES: usize = 5;
const KEY: &[u8] = b"the key.";
/// One word each: what is torn is for other models.
const OLD: &[u8] = b"old, old";
const NEW: &[u8] = b"newest..";

impl HazardRecord for Words {
    fn pins(&self) -> &[AtomicU64] {
        self
    }
}

/// What a client or a holder got.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Seen {
    Old,
    New,
    Contended,
    /// The server had not answered yet, so nothing may be pinned.
    TooEarly,
}

/// What became of the memory of the old entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Became {
    FreedAtOnce,
    FreedLater,
    Kept,
}

fn no_time() -> u64 {
    0
}

fn put(writer: &mut Writer<Words>, value: &[u8]) {
    let done = writer.put(KEY, value, None, Guard::Always, no_time);
    assert!(matches!(done, Ok(Outcome::Done { .. })), "the table has room: {done:?}");
}

/// A table that has the key, and a reader of it.
fn table() -> (Writer<Words>, Reader<Words>) {
    let words: Words = Arc::new(heap_words(PAGES * PAGE_WORDS));
    let options = Options { buckets: 2, seed: 42, workers: 1, spin_ns: 0, eviction: Eviction::Never };
    let mut writer = Writer::new(Arc::new(Table::create(Arc::clone(&words), &options).expect("the buckets fit")));
    put(&mut writer, OLD);
    (writer, Reader::attach(words).expect("it is a table"))
}

/// A client that makes a view, looks at it, marks that it has looked for the last time, and lets go.
fn view(reader: &Reader<Words>, word: &AtomicU64, looked: &AtomicBool) -> Seen {
    match pin(reader.words(), word, reader.hash(KEY), KEY, no_time) {
        Pinned::Hit(found, words) => {
            let mut value = vec![0; found.size];
            copy_out(&reader.words()[words], as_uninit(&mut value));
            // Relaxed, here and where it is loaded: it is what has to be ordered.
            looked.store(true, Ordering::Relaxed);
            unpin(word);
            if value == OLD {
                Seen::Old
            } else if value == NEW {
                Seen::New
            } else {
                panic!("forbidden: {value:?}")
            }
        }
        Pinned::Contended => Seen::Contended,
        Pinned::Miss => panic!("forbidden: a miss, though the key was there throughout"),
    }
}

/// A worker that replaces the value, and uses the memory of the old one again as soon as it may: now or a moment later.
/// Returns what became of it, and whether its last look was over by then.
fn replace(writer: &mut Writer<Words>, looked: &AtomicBool) -> (Became, bool) {
    put(writer, NEW);
    let memory = if writer.table().reclaimer().entries_retired() == 0 {
        Became::FreedAtOnce
    } else if writer.rescan() > 0 {
        Became::FreedLater
    } else {
        Became::Kept
    };
    (memory, looked.load(Ordering::Relaxed))
}

fn check(seen: Seen, (memory, looked): (Became, bool)) -> (Seen, Became) {
    if seen == Seen::Old && memory != Became::Kept {
        assert!(looked, "forbidden: memory is used again while somebody looks at it");
    }
    (seen, memory)
}

/// One worker replaces the value of which a client makes a view.
#[test]
fn a_view_against_an_update() {
    let outcomes = model::outcomes(|| {
        let (mut writer, reader) = table();
        let (pins, looked): (Words, _) = (Arc::new(heap_words(1)), Arc::new(AtomicBool::new(false)));
        writer.table().reclaimer().register(Box::new(Arc::clone(&pins)));
        let viewing = {
            let (pins, looked) = (Arc::clone(&pins), Arc::clone(&looked));
            thread::spawn(move || (view(&reader, &pins[0], &looked), reader))
        };
        let became = replace(&mut writer, &looked);
        let (seen, _) = viewing.join().expect("the client ends");
        check(seen, became)
    });
    let allowed = [
        (Seen::Old, Became::FreedAtOnce), // it had let go before
        (Seen::Old, Became::FreedLater),
        (Seen::Old, Became::Kept),
        (Seen::New, Became::FreedAtOnce),
        (Seen::Contended, Became::FreedAtOnce),
    ];
    for outcome in allowed {
        assert!(outcomes.contains(&outcome), "the model is too small: no {outcome:?} among {outcomes:?}");
    }
}

/// The client pins another entry with the same pin, as soon as it has let go of the first.
#[test]
fn two_views_against_an_update() {
    const OTHER: &[u8] = b"another.";
    let outcomes = model::bounded_outcomes(|| {
        let (mut writer, reader) = table();
        let done = writer.put(OTHER, OLD, None, Guard::Always, no_time);
        assert!(matches!(done, Ok(Outcome::Done { .. })), "the table has room: {done:?}");
        let (pins, looked): (Words, _) = (Arc::new(heap_words(1)), Arc::new(AtomicBool::new(false)));
        writer.table().reclaimer().register(Box::new(Arc::clone(&pins)));
        let viewing = {
            let (pins, looked) = (Arc::clone(&pins), Arc::clone(&looked));
            thread::spawn(move || {
                let seen = view(&reader, &pins[0], &looked);
                let _ = pin(reader.words(), &pins[0], reader.hash(OTHER), OTHER, no_time);
                (seen, reader)
            })
        };
        let became = replace(&mut writer, &looked);
        let (seen, _) = viewing.join().expect("the client ends");
        check(seen, became)
    });
    for outcome in [(Seen::Old, Became::Kept), (Seen::Old, Became::FreedAtOnce), (Seen::Old, Became::FreedLater)] {
        assert!(outcomes.contains(&outcome), "the model is too small: no {outcome:?} among {outcomes:?}");
    }
}

/// The client's hazard record is registered by one worker while another one replaces the value, and may not know of it.
#[test]
fn a_first_view_against_an_update() {
    let outcomes = model::bounded_outcomes(|| {
        let (writer, reader) = table();
        let (pins, looked): (Words, _) = (Arc::new(heap_words(1)), Arc::new(AtomicBool::new(false)));
        let answered = Arc::new(AtomicBool::new(false));
        let viewing = {
            let (pins, looked, answered) = (Arc::clone(&pins), Arc::clone(&looked), Arc::clone(&answered));
            thread::spawn(move || {
                // Acquire: as a client sees its reply in the lane.
                let answered = answered.load(Ordering::Acquire);
                (if answered { view(&reader, &pins[0], &looked) } else { Seen::TooEarly }, reader)
            })
        };
        let updating = {
            let (mut writer, looked) = (Writer::new(Arc::clone(writer.table())), Arc::clone(&looked));
            thread::spawn(move || replace(&mut writer, &looked))
        };
        writer.table().reclaimer().register(Box::new(Arc::clone(&pins)));
        // Release: as a worker publishes a reply.
        answered.store(true, Ordering::Release);
        let became = updating.join().expect("the other worker ends");
        let (seen, _) = viewing.join().expect("the client ends");
        check(seen, became)
    });
    for outcome in [(Seen::Old, Became::Kept), (Seen::Old, Became::FreedAtOnce), (Seen::New, Became::FreedAtOnce)] {
        assert!(outcomes.contains(&outcome), "the model is too small: no {outcome:?} among {outcomes:?}");
    }
}

/// One worker holds the entry that another one replaces.
#[test]
fn a_hold_against_an_update() {
    let outcomes = model::outcomes(|| {
        let (mut writer, reader) = table();
        let looked = Arc::new(AtomicBool::new(false));
        let holding = {
            let (mut writer, looked) = (Writer::new(Arc::clone(writer.table())), Arc::clone(&looked));
            thread::spawn(move || {
                let held = writer.hold(KEY, no_time).expect("the key was there throughout");
                let mut value = vec![0; OLD.len()];
                let entry = super::entry::EntryRef::at(reader.words(), held.start).expect("it is an entry");
                copy_out(entry.value_words(), as_uninit(&mut value));
                looked.store(true, Ordering::Relaxed);
                drop(held);
                (if value == OLD { Seen::Old } else { Seen::New }, reader)
            })
        };
        let became = replace(&mut writer, &looked);
        let (seen, _) = holding.join().expect("the holder ends");
        check(seen, became)
    });
    for outcome in [(Seen::Old, Became::Kept), (Seen::Old, Became::FreedLater), (Seen::New, Became::FreedAtOnce)] {
        assert!(outcomes.contains(&outcome), "the model is too small: no {outcome:?} among {outcomes:?}");
    }
}

/// Two workers retire entries while a client lets go of one of them: whoever looks last frees it.
#[test]
fn nothing_is_left_behind() {
    model::bounded_outcomes(|| {
        let (mut writer, _) = table();
        let pins: Words = Arc::new(heap_words(1));
        let table = Arc::clone(writer.table());
        table.reclaimer().register(Box::new(Arc::clone(&pins)));
        pins[0].store(17, Ordering::Relaxed);
        let retiring = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.reclaimer().retire(17, 2, |_, _| {}))
        };
        unpin(&pins[0]);
        put(&mut writer, NEW);
        retiring.join().expect("the other worker ends");
        writer.rescan();
        assert_eq!(
            table.reclaimer().entries_retired(),
            0,
            "forbidden: memory that nobody keeps stays in the retire list"
        );
        table.rescan(&mut Cache::default());
    });
}
