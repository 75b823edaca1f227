//! Memory of entries that no slot points at any more, while somebody may still be reading it.
//!
//! # Design
//!
//! A reader that copies needs nothing of this: it finds out afterwards that its copy is void. Two kinds of readers do
//! not copy, and keep the memory of an entry from being used again:
//!
//! - **Pins** are those of clients, for views: words in a client's own memory (a [`HazardRecord`]), each of which names
//!   an entry by the word it begins at. They are hazard pointers across processes.
//! - **Holds** are the server's own, for replies that are read out of an entry for longer than a turn.
//!
//! Whatever a writer has unlinked goes through `Table::retire` ([`super::memory`]). With neither hazard records nor
//! holds it is free at once. Else it goes to the *retire list*, from which `Table::rescan` frees what nobody pins or
//! holds. Looking at all hazard records for each entry would be expensive, so entries are gathered, a few of them, and
//! looked up together.
//!
//! # The pin protocol
//!
//! ```text
//! client                                   server
//! find the entry, under version v          unlink the entry, version to v + 2 (unlock)
//! store its first word into the pin        fence(SeqCst)           [S]
//! fence(SeqCst)            [C]             load the number of hazard records; look at the pins
//! version is still v -> pinned             not pinned -> free
//! else clear the pin, and try again
//! ```
//!
//! The fences are totally ordered: if C comes first, the server sees the pin; if S does, the client sees that the
//! version has changed. The client lets go by clearing the pin with Release, and the server looks at pins with Acquire:
//! so whoever uses the memory again does so after the client's last look at it.
//!
//! - One fence for each entry is enough, however late its pins are looked at: what is ordered behind S stays so. And a
//!   client cannot begin to pin an entry that was unlinked before S.
//! - A client asks for its hazard record to be registered before it pins anything. The answer comes before its fence C,
//!   so the order of the fences covers the number of hazard records, too.
//! - A hold is taken under the lock of the entry's bucket. A worker that unlinks the entry locks the bucket later, and
//!   sees the hold.
//!
//! # Invariants
//!
//! - Pins are foreign input (I4): they are loaded once and compared, and nothing else is done with them.
//! - A client holds back at most as many entries as it has pins, and a client that is gone none.
//!
//! # Not promised
//!
//! Nobody tells us when a pin is cleared. So somebody has to look from time to time while the retire list is not empty.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use super::bucket::BucketRef;
use super::layout::{H_BUCKETS, address, bucket_start, load_buckets};
use super::lookup::{self, Found};
use crate::limits;
use crate::sync::{AtomicU64, Mutex, Ordering, fence, lock, spin_loop};

/// Words that a client pins entries with.
pub trait HazardRecord: Send + Sync {
    /// All of them; 0 pins nothing.
    fn pins(&self) -> &[AtomicU64];
}

/// What an attempt to pin an entry came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// The value lies in these words of the segment, and stays there until [`unpin`].
    Hit(Found, Range<usize>),
    /// There is no such key, or its time has passed.
    Miss,
    /// Writers got in the way too often: try again later.
    Contended,
}

/// Pins the entry of a key: the client's half of the protocol. `pin` is empty, and on a registered hazard record; it is
/// empty again unless the answer is [`Pinned::Hit`].
pub fn pin(words: &[AtomicU64], pin: &AtomicU64, hash: u64, key: &[u8], now_ms: impl Fn() -> u64) -> Pinned {
    for _ in 0..limits::READ_RETRIES_MAX {
        match try_pin(words, pin, hash, key, &now_ms) {
            Some(hit @ Pinned::Hit(..)) => {
                failpoint!("pin.checked");
                return hit;
            }
            Some(other) => {
                unpin(pin);
                return other;
            }
            None => spin_loop(),
        }
    }
    unpin(pin);
    Pinned::Contended
}

/// One attempt; `None` if a change got in between.
fn try_pin(words: &[AtomicU64], pin: &AtomicU64, hash: u64, key: &[u8], now_ms: &impl Fn() -> u64) -> Option<Pinned> {
    let buckets = load_buckets(words)?;
    let home = BucketRef::at(words, bucket_start(address(hash, buckets)))?;
    let version = home.begin_read()?;
    let found = lookup::find(words, home, hash, key)?.filter(|(_, entry)| !entry.has_expired(now_ms));
    let answer = found.map_or(Pinned::Miss, |(slot, entry)| {
        // Ordered by the fence. Release besides: as in `unpin`, for what the pin named before. A worker that sees this
        // store need not have seen that one.
        pin.store(slot.at(), Ordering::Release);
        let value = slot.at() as usize + entry.shape.value_at();
        let size = entry.shape.value_size;
        let found = Found {
            version: entry.version(),
            expiry: entry.expiry(),
            size,
            visited: slot.is_visited(),
            is_unevictable: slot.is_unevictable(),
        };
        Pinned::Hit(found, value..value + size.div_ceil(8))
    });
    failpoint!("pin.stored");
    // SeqCst: [C] of the module header, pairs with [S] in `Reclaimer::is_nobody_there`.
    fence(Ordering::SeqCst);
    // As for a reader that copies: the entry was the key's, and its sizes real, if the version holds; and if the bucket
    // is still the key's, a miss is a miss.
    let still = |count: u64| count == buckets || count != 0 && address(hash, count) == address(hash, buckets);
    // Relaxed: as in the lookup.
    (home.end_read(version) && still(words[H_BUCKETS].load(Ordering::Relaxed))).then_some(answer)
}

/// Lets go of a pinned entry, which is not looked at any more.
///
/// Release: pairs with the Acquire in `Keepers::pinned_words`, so that the memory is used again after our last look.
#[inline]
pub fn unpin(pin: &AtomicU64) {
    pin.store(0, Ordering::Release);
}

/// Names a hazard record that was registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HazardRecordId(u64);

/// An entry that no slot points at.
#[derive(Clone, Copy, Debug)]
struct Retired {
    start: u64,
    words: usize,
}

/// What a hold counts in the word that counts hazard records, too.
const HOLD: u64 = 1 << 32;

/// Who keeps memory, and which memory waits for them.
#[derive(Debug, Default)]
pub struct Reclaimer {
    /// Number of hazard records, and of holds in the upper half: with neither there is nothing to do.
    keepers: AtomicU64,
    /// Entries in the retire list: so that who finds none needs no lock.
    waiting: AtomicU64,
    state: Mutex<Keepers>,
}

#[derive(Default)]
struct Keepers {
    records: Vec<(HazardRecordId, Box<dyn HazardRecord>)>,
    next_record: u64,
    /// How often an entry is held, by its first word.
    holds: BTreeMap<u64, u64>,
    retired: Vec<Retired>,
    /// Words of all entries in the retire list.
    words: usize,
    /// How many entries have come since the hazard records were last looked at, and their words.
    gathered: usize,
    gathered_words: usize,
    /// A place for what is pinned, kept from scan to scan.
    pinned: Vec<u64>,
}

impl fmt::Debug for Keepers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, holds, retired, .. } = self;
        write!(formatter, "{} records, {} holds, {} entries retired", records.len(), holds.len(), retired.len())
    }
}

impl Reclaimer {
    /// Lets the pins of a hazard record count.
    pub fn register(&self, record: Box<dyn HazardRecord>) -> HazardRecordId {
        let mut state = lock(&self.state);
        let id = HazardRecordId(state.next_record);
        state.next_record += 1;
        state.records.push((id, record));
        // Relaxed: whoever has to see it is behind a fence that comes after our answer, see the module header.
        self.keepers.fetch_add(1, Ordering::Relaxed);
        id
    }

    /// Lets the pins of a hazard record count no more. What they kept is freed by the next scan.
    pub fn unregister(&self, id: HazardRecordId) {
        let mut state = lock(&self.state);
        if let Some(index) = state.records.iter().position(|(registered, _)| *registered == id) {
            state.records.swap_remove(index);
            // Release: as in `let_go`.
            self.keepers.fetch_sub(1, Ordering::Release);
        }
    }

    /// Keeps the memory of the entry that begins at word `start`. Only for the holder of its bucket's lock.
    pub(super) fn hold(&self, start: u64) {
        *lock(&self.state).holds.entry(start).or_default() += 1;
        // Relaxed: a worker that unlinks the entry acquires the bucket's lock after us.
        self.keepers.fetch_add(HOLD, Ordering::Relaxed);
    }

    /// Undoes [`Self::hold`]. What it kept is freed by the next scan.
    pub(super) fn let_go(&self, start: u64) {
        let mut state = lock(&self.state);
        if let Some(count) = state.holds.get_mut(&start) {
            *count -= 1;
            if *count == 0 {
                state.holds.remove(&start);
            }
            // Release: pairs with the Acquire in `is_nobody_there`, for who sees that nobody is left and asks no more.
            self.keepers.fetch_sub(HOLD, Ordering::Release);
        }
    }

    /// Takes an entry that was unlinked from a bucket that is unlocked by now. `free` is called for each entry that
    /// nobody keeps.
    #[inline]
    pub(super) fn retire(&self, start: u64, words: usize, mut free: impl FnMut(u64, usize)) {
        if self.is_nobody_there() {
            free(start, words);
        } else {
            self.retire_slowly(Retired { start, words }, free);
        }
    }

    /// Whether there are neither hazard records nor holds, so that all that was unlinked before is free.
    #[inline]
    pub(super) fn is_nobody_there(&self) -> bool {
        // SeqCst: [S] of the module header, pairs with [C] in `pin`.
        fence(Ordering::SeqCst);
        // Acquire: pairs with the Release in `let_go`, so that memory is used again after the holder's last look at it.
        self.keepers.load(Ordering::Acquire) == 0
    }

    #[cold]
    fn retire_slowly(&self, entry: Retired, mut free: impl FnMut(u64, usize)) {
        let mut state = lock(&self.state);
        if state.records.is_empty() && !state.holds.contains_key(&entry.start) {
            drop(state);
            return free(entry.start, entry.words);
        }
        state.retired.push(entry);
        failpoint!("retire.listed");
        state.words += entry.words;
        state.gathered += 1;
        state.gathered_words += entry.words;
        if state.gathered >= limits::RETIRED_MAX || state.gathered_words * 8 >= limits::RETIRED_SIZE_MAX {
            state.scan(free);
        }
        self.note(&state);
    }

    /// Calls `free` for each entry in the retire list that nobody pins or holds any more. Returns how many bytes they
    /// have.
    pub(super) fn rescan(&self, free: impl FnMut(u64, usize)) -> u64 {
        // Relaxed: a worker that has put an entry there looks again itself, sooner or later.
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let mut state = lock(&self.state);
        let freed = state.scan(free);
        self.note(&state);
        freed
    }

    /// The words at which entries in the retire list begin.
    pub(super) fn retired(&self) -> Vec<u64> {
        lock(&self.state).retired.iter().map(|entry| entry.start).collect()
    }

    /// Takes what was unlinked before this server was there, and somebody may pin still: where it begins, and how many
    /// words it has.
    pub(super) fn wait_for(&self, retired: Vec<(u64, usize)>) {
        let mut state = lock(&self.state);
        state.words += retired.iter().map(|&(_, words)| words).sum::<usize>();
        state.retired.extend(retired.into_iter().map(|(start, words)| Retired { start, words }));
        self.note(&state);
    }

    fn note(&self, state: &Keepers) {
        // Relaxed: written by holders of the lock, and a hint to all others.
        self.waiting.store(state.retired.len() as u64, Ordering::Relaxed);
    }

    /// Entries that wait in the retire list.
    #[inline]
    pub fn entries_retired(&self) -> u64 {
        // Relaxed: see `note`.
        self.waiting.load(Ordering::Relaxed)
    }

    /// Bytes of the entries that wait in the retire list.
    pub fn bytes_retired(&self) -> u64 {
        lock(&self.state).words as u64 * 8
    }

    /// How many entries may be kept where they are at most.
    pub(super) fn keepers_max(&self) -> u64 {
        self.hazard_records() * limits::PINS_MAX as u64 + self.holds() + self.entries_retired()
    }

    /// The words at which what is kept begins, pinned, held or in the retire list, in no order; nonsense in pins
    /// included.
    pub(super) fn kept(&self) -> Vec<u64> {
        if self.keepers_max() == 0 {
            return Vec::new();
        }
        let state = lock(&self.state);
        let retired = state.retired.iter().map(|entry| entry.start);
        state.pinned_words().chain(state.holds.keys().copied()).chain(retired).collect()
    }

    /// Clients that may pin.
    pub fn hazard_records(&self) -> u64 {
        // Relaxed: a figure for people, here and below.
        self.keepers.load(Ordering::Relaxed) % HOLD
    }

    /// Holds that were not let go of.
    pub fn holds(&self) -> u64 {
        self.keepers.load(Ordering::Relaxed) / HOLD
    }
}

impl Keepers {
    /// What is pinned.
    ///
    /// Acquire: pairs with the Release in `unpin` and `try_pin`, so that memory is used again after the client's last
    /// look.
    fn pinned_words(&self) -> impl Iterator<Item = u64> {
        let pins = self.records.iter().flat_map(|(_, record)| record.pins());
        pins.map(|pin| pin.load(Ordering::Acquire)).filter(|&start| start != 0)
    }

    /// Frees what nobody keeps. Returns how many bytes that is.
    fn scan(&mut self, mut free: impl FnMut(u64, usize)) -> u64 {
        let mut pinned = std::mem::take(&mut self.pinned);
        pinned.clear();
        pinned.extend(self.pinned_words());
        pinned.sort_unstable();
        failpoint!("retire.looked");
        let before = self.words;
        self.retired.retain(|entry| {
            let kept = self.holds.contains_key(&entry.start) || pinned.binary_search(&entry.start).is_ok();
            if !kept {
                self.words -= entry.words;
                free(entry.start, entry.words);
            }
            kept
        });
        (self.pinned, self.gathered, self.gathered_words) = (pinned, 0, 0);
        (before - self.words) as u64 * 8
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::{Arc, heap_words};

    type Words = Box<[AtomicU64]>;

    impl HazardRecord for Arc<Words> {
        fn pins(&self) -> &[AtomicU64] {
            self
        }
    }

    /// A reclaimer with one hazard record, its pins, and what it has freed.
    fn reclaimer() -> (Reclaimer, Arc<Words>, HazardRecordId) {
        let (reclaimer, pins) = (Reclaimer::default(), Arc::new(heap_words(limits::PINS_MAX)));
        let id = reclaimer.register(Box::new(Arc::clone(&pins)));
        (reclaimer, pins, id)
    }

    #[test]
    fn with_nobody_around_memory_is_free_at_once() {
        let mut freed = Vec::new();
        Reclaimer::default().retire(64, 3, |start, words| freed.push((start, words)));
        assert_eq!(freed, [(64, 3)]);
    }

    #[test]
    fn what_is_pinned_waits_and_the_rest_is_freed_in_batches() {
        let (reclaimer, pins, _) = reclaimer();
        pins[63].store(5_000, Ordering::Relaxed);
        let mut freed = Vec::new();
        for index in 0..limits::RETIRED_MAX as u64 {
            assert!(freed.is_empty(), "the records are not looked at for each entry");
            reclaimer.retire(5_000 - index * 10, 10, |start, _| freed.push(start));
        }
        assert_eq!(freed.len(), limits::RETIRED_MAX - 1);
        assert!(!freed.contains(&5_000));
        assert_eq!((reclaimer.entries_retired(), reclaimer.bytes_retired()), (1, 80));
        pins[63].store(0, Ordering::Relaxed);
        assert_eq!(reclaimer.rescan(|start, _| freed.push(start)), 80);
        assert!(freed.contains(&5_000));
        assert_eq!((reclaimer.entries_retired(), reclaimer.bytes_retired()), (0, 0));
    }

    #[test]
    fn a_large_entry_is_looked_up_at_once() {
        let (reclaimer, _, _) = reclaimer();
        let mut freed = 0;
        reclaimer.retire(1, limits::RETIRED_SIZE_MAX / 8, |_, words| freed += words);
        assert_eq!(freed, limits::RETIRED_SIZE_MAX / 8);
    }

    #[test]
    fn the_pins_of_one_who_is_gone_count_no_more() {
        let (reclaimer, pins, id) = reclaimer();
        pins[0].store(64, Ordering::Relaxed);
        reclaimer.retire(64, 1, |_, _| {});
        assert_eq!(reclaimer.rescan(|_, _| panic!("it is pinned")), 0);
        reclaimer.unregister(id);
        reclaimer.unregister(id);
        assert_eq!(reclaimer.hazard_records(), 0);
        assert_eq!(reclaimer.rescan(|_, _| {}), 8);
    }

    #[test]
    fn nonsense_in_pins_is_compared_and_nothing_else() {
        let (reclaimer, pins, _) = reclaimer();
        for (index, pin) in pins.iter().enumerate() {
            pin.store(u64::MAX - index as u64 % 3, Ordering::Relaxed);
        }
        reclaimer.retire(64, 1, |_, _| {});
        assert_eq!(reclaimer.rescan(|_, _| {}), 8);
    }
}
