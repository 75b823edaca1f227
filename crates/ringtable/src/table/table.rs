//! The table as the server has it: the segment, and the server's private knowledge of it.

use std::collections::BTreeSet;

use super::bucket::{BucketGuard, Slot};
use super::change::{Change, ChangeSink, Journal, State};
use super::check::outstanding::Outstanding;
use super::error::WriteError;
use super::events::Broadcast;
use super::expiring::Expiring;
use super::header::Constants;
use super::heap::Heap;
use super::hints::Hints;
use super::layout::{
    BUCKET_WORDS, H_BUCKETS, H_CLOSED, H_ENTRIES, HEADER_WORDS, PAGE_BUCKETS, PAGE_WORDS, load_entries, page_map_pages,
};
use super::options::{Eviction, Options};
use super::reclaim::Reclaimer;
use super::sieve::Sieve;
use super::unevictable::Unevictable;
use crate::sync::{AtomicBool, AtomicU64, Memory, Mutex, Ordering};

/// The table as the server has it: the segment, and what is private to the server.
#[derive(Debug)]
pub struct Table<M> {
    memory: M,
    constants: Constants,
    pub(super) heap: Heap,
    /// Where entries go that were unlinked.
    pub(super) reclaimer: Reclaimer,
    /// Bytes that drafts have reserved.
    pub(super) drafts: AtomicU64,
    /// The words at which drafts begin.
    pub(super) draft_starts: Mutex<BTreeSet<u64>>,
    /// Workers that are making room.
    pub(super) searchers: AtomicU64,
    /// Whether a worker is splitting a bucket, or joining two.
    pub(super) splitting: AtomicBool,
    /// Buckets that there were at the beginning, fewer than which there never are.
    pub(super) buckets_min: u64,
    /// The end of the pages that the bucket array has taken, and of those that may have memory behind them.
    pub(super) bucket_pages: AtomicU64,
    /// See [`Self::bucket_pages`].
    pub(super) bucket_pages_dirty: AtomicU64,
    changes: ChangeSink,
    pub(super) eviction: Eviction,
    pub(super) sieve: Sieve,
    /// If entries are evicted by their expiry.
    pub(super) expiring: Option<Expiring>,
    /// What is never evicted.
    pub(super) unevictable: Unevictable,
    pub(super) hints: Hints,
    pub(super) sweep: Mutex<Sweep>,
    pub(super) tally: Tally,
    /// Chains that have to be checked still, if the table was taken over.
    pub(super) outstanding: Option<Outstanding>,
}

/// What is counted of a table. All relaxed: figures for people, and for the decision whether there is something to do.
#[derive(Debug, Default)]
pub struct Tally {
    /// Entries that have an expiry.
    pub expiring: AtomicU64,
    /// Entries that were removed since their time had passed.
    pub expired: AtomicU64,
    /// Entries that were removed to make room.
    pub evicted: AtomicU64,
    /// Entries that were moved to make room in a row.
    pub moved: AtomicU64,
}

/// How far the sweep has come: see [`super::sweep`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Sweep {
    /// The next bucket.
    pub bucket: u64,
    /// When this round, and the one before it, began; entries that expired before that one are gone.
    pub round_ms: u64,
    /// See [`Self::round_ms`].
    pub round_before_ms: u64,
}

/// What has to be known of all entries together for the way in which they are evicted.
pub(super) struct Counted {
    eviction: Eviction,
    pub expiring: Option<Expiring>,
    pub unevictable: Unevictable,
}

impl Counted {
    /// There are no entries yet in the segment of so many words.
    pub fn nothing(words: usize, eviction: Eviction) -> Self {
        let buckets_max = (words / BUCKET_WORDS) as u64;
        let expiring = (eviction == Eviction::VolatileTtl).then(|| Expiring::new(buckets_max));
        Self { eviction, expiring, unevictable: Unevictable::new(words) }
    }

    /// The way in which entries are evicted.
    pub fn eviction(&self) -> Eviction {
        self.eviction
    }
}

impl<M: Memory> Table<M> {
    /// Makes an empty table in fresh memory (all zeroes).
    ///
    /// # Errors
    /// [`WriteError::OutOfMemory`] if the buckets do not fit.
    pub fn create(memory: M, options: &Options) -> Result<Self, WriteError> {
        let words = memory.words().len();
        let pages = (options.buckets as usize).div_ceil(PAGE_BUCKETS);
        let first_page = HEADER_WORDS / PAGE_WORDS + pages;
        if first_page + page_map_pages(words) >= words / PAGE_WORDS {
            return Err(WriteError::OutOfMemory(options.buckets as usize * BUCKET_WORDS * 8));
        }
        let constants = Constants::create(&memory, options);
        let heap = Heap::new(words, first_page);
        let changes = ChangeSink::default();
        let counted = Counted::nothing(words, options.eviction);
        Ok(Self::with(memory, constants, heap, changes, options.buckets, first_page, counted))
    }

    /// The table of a segment, of whose entries the heap and `counted` know.
    pub(super) fn with(
        memory: M,
        constants: Constants,
        heap: Heap,
        changes: ChangeSink,
        buckets_min: u64,
        bucket_pages: usize,
        counted: Counted,
    ) -> Self {
        let Counted { eviction, expiring, unevictable } = counted;
        let sieve = Sieve::default();
        if eviction == Eviction::AllkeysSieve {
            sieve.provide(&heap);
        }
        Self {
            memory,
            constants,
            heap,
            reclaimer: Reclaimer::default(),
            drafts: AtomicU64::new(0),
            draft_starts: Mutex::new(BTreeSet::new()),
            searchers: AtomicU64::new(0),
            splitting: AtomicBool::new(false),
            buckets_min,
            bucket_pages: AtomicU64::new(bucket_pages as u64),
            bucket_pages_dirty: AtomicU64::new(bucket_pages as u64),
            changes,
            eviction,
            sieve,
            expiring,
            unevictable,
            hints: Hints::default(),
            sweep: Mutex::new(Sweep::default()),
            tally: Tally::default(),
            outstanding: None,
        }
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        self.memory.words()
    }

    /// Gives the table a number of its own, before anybody else has the segment.
    pub fn name(&mut self, id: u64) {
        self.constants.name(&self.memory, id);
    }

    /// The segment's memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// What stays the same for the life of the table.
    pub fn constants(&self) -> &Constants {
        &self.constants
    }

    /// Number of entries.
    pub fn entries(&self) -> u64 {
        load_entries(self.words())
    }

    /// Number of buckets.
    pub fn buckets(&self) -> u64 {
        // Acquire: pairs with the Release in `Writer::split_one`; the last bucket is there.
        self.words()[H_BUCKETS].load(Ordering::Acquire)
    }

    /// Bytes that belong to nobody, in whole pages.
    pub fn free_bytes(&self) -> u64 {
        (self.heap.free_pages() * PAGE_WORDS * 8) as u64
    }

    /// What became of the memory for entries.
    pub fn heap(&self) -> &Heap {
        &self.heap
    }

    /// What is counted.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What happens when memory is short.
    pub fn eviction(&self) -> Eviction {
        self.eviction
    }

    /// The hazard records of readers, if their hints are of any use.
    pub fn hints(&self) -> Option<&Hints> {
        (self.eviction == Eviction::AllkeysSieve).then_some(&self.hints)
    }

    /// What is never evicted, and how much of that there may be.
    pub fn unevictable(&self) -> &Unevictable {
        &self.unevictable
    }

    /// Bytes reserved for values that are still arriving.
    pub fn draft_bytes(&self) -> u64 {
        // Relaxed: a figure for people.
        self.drafts.load(Ordering::Relaxed)
    }

    /// Has all changes from now on noted, which nobody makes yet.
    pub fn write_journal(&self, journal: Box<dyn Journal>) {
        self.changes.write_journal(journal);
    }

    /// Has the journal take note of what a key has come to, which nobody else is told.
    pub(super) fn note_state(&self, state: State<'_>) {
        self.changes.note_state(state);
    }

    /// Whether all changes are noted.
    pub(super) fn has_journal(&self) -> bool {
        self.changes.has_journal()
    }

    /// Who watches, and what they are told.
    pub fn events(&self) -> &Broadcast {
        self.changes.events()
    }

    /// Forgets a watcher.
    pub fn unwatch(&self) {
        self.events().unwatch(self.words());
    }

    /// Has changes told until the end of the server, whoever leaves: nothing is missing then.
    pub fn watch_to_the_end(&self) {
        self.events().watch_to_the_end();
    }

    /// Ends the time in which watchers of a server that is dead may come again; see [`Broadcast::await_no_more`].
    pub fn await_watchers_no_more(&self) {
        self.events().await_no_more(self.words());
    }

    /// Who keeps memory from being used again.
    pub fn reclaimer(&self) -> &Reclaimer {
        &self.reclaimer
    }

    /// Tells readers that the server has stopped in good order.
    pub fn close(&self) {
        // Relaxed: a hint to look at the socket; see `Reader::is_closed`.
        self.words()[H_CLOSED].store(1, Ordering::Relaxed);
    }

    pub(super) fn add_entries(&self, change: i64) {
        // Relaxed: see `load_entries`.
        self.words()[H_ENTRIES].fetch_add(change as u64, Ordering::Relaxed);
    }

    /// Takes note of an entry in the chain of a locked bucket that was replaced by another one, as far as it expires:
    /// of the slot and of the words of each.
    pub(super) fn recount(&self, bucket: u64, before: Option<(Slot, usize)>, after: Option<(Slot, usize)>) {
        let count = &self.tally.expiring;
        let expires = |entry: Option<(Slot, usize)>| entry.is_some_and(|(slot, _)| slot.expires());
        match (expires(before), expires(after)) {
            (false, true) => drop(count.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(count.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        if let Some(expiring) = &self.expiring {
            let words =
                |entry: Option<(Slot, usize)>| entry.filter(|(slot, _)| slot.is_volatile()).map(|(_, words)| words);
            let (before, after) = (words(before), words(after));
            if before == after {
                return;
            }
            if let Some(words) = before {
                expiring.leave(bucket);
                expiring.depart(words);
            }
            if let Some(words) = after {
                expiring.come(bucket);
                expiring.arrive(words);
            }
        }
    }

    /// The version of what the holder of a bucket changes. Unique for the key: the bucket's version goes up with every
    /// change, also across splits.
    pub(super) fn version_of_change(&self, guard: &BucketGuard<'_>) -> u64 {
        self.constants.first_version + guard.version + 1
    }

    /// Tells the listeners of a change to a key whose bucket is locked still: see [`super::change`]. Sets
    /// `published` if watchers were told.
    #[inline]
    pub(super) fn tell(&self, change: Change<'_>, published: &mut bool) {
        if self.changes.tell(self.words(), change) {
            *published = true;
        }
    }

    /// Tells the journal that a key goes, with all others. The entry may be damaged, and then nobody knows whose it is.
    pub(super) fn tell_journal_of(&self, start: u64) {
        self.changes.note_removal(self.words(), start);
    }
}
