//! Entries that are never evicted, whatever the policy: locks, counters, sessions in a table that is a cache besides.
//!
//! # Design
//!
//! A bit of an entry's slot says so. A write sets it, clears it, or leaves it as it is ([`Mark`]); a new key is
//! evictable unless it is told otherwise. Such an entry may expire, be deleted and be moved like any other; the
//! policies pass over it, and so does what evicts out of order, to clear pages or to make way in a bucket. The sieve
//! has no id of it.
//!
//! So that a cache stays one, such entries have a limit of their own, beyond which a write is refused: half of the
//! table unless told otherwise.
//!
//! # Invariants
//!
//! - The counts change with the slot, while its bucket is locked. They are exact when all workers rest.
//! - All accesses are relaxed: counts that guard no data. Each is added to before it is looked at, so that two at once
//!   cannot both take the rest.

use super::error::WriteError;
use super::heap::{CLASSES, kind_of, taken_words};
use super::layout::PAGE_WORDS;
use crate::limits;
use crate::sync::{AtomicU64, Ordering};

/// What a write says of whether its entry may be evicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    /// As before; a new key may.
    #[default]
    AsBefore,
    /// It may.
    Evictable,
    /// It may not.
    Unevictable,
}

impl Mark {
    /// The word of `SET` that says so; `None` if none has to.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::AsBefore => None,
            Self::Evictable => Some("EVICTABLE"),
            Self::Unevictable => Some("UNEVICTABLE"),
        }
    }

    /// Whether the entry is unevictable after the write, if it was before or not.
    #[inline]
    pub(super) fn is_unevictable(self, before: bool) -> bool {
        match self {
            Self::AsBefore => before,
            Self::Evictable => false,
            Self::Unevictable => true,
        }
    }
}

/// How much of a table is never evicted.
#[derive(Debug)]
pub struct Unevictable {
    entries: AtomicU64,
    bytes: AtomicU64,
    bytes_max: AtomicU64,
    /// By size class: slots; behind those, pages of extents.
    classes: Box<[AtomicU64]>,
}

impl Unevictable {
    /// None yet, in a table of so many words.
    pub(super) fn new(words: usize) -> Self {
        Self {
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            bytes_max: AtomicU64::new(words as u64 * 8 / limits::UNEVICTABLE_SHARE),
            classes: (0..=CLASSES).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Sets how many bytes there may be.
    pub fn limit(&self, bytes: u64) {
        self.bytes_max.store(bytes, Ordering::Relaxed);
    }

    /// How many bytes there may be.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max.load(Ordering::Relaxed)
    }

    /// Bytes of such entries: those that they take of the table.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Such entries.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Slots of a size class that such entries have; behind the last class, pages of extents.
    pub(super) fn amount(&self, kind: usize) -> u64 {
        self.classes[kind].load(Ordering::Relaxed)
    }

    /// Takes note that an entry of `after` words, if it is one, takes the place of one of `before` words, if that is.
    ///
    /// # Errors
    /// If there would be too many bytes, and more than now: then nothing has changed.
    pub(super) fn replace(&self, before: Option<usize>, after: Option<usize>) -> Result<(), WriteError> {
        let (left, come) = (before.map_or(0, bytes_of), after.map_or(0, bytes_of));
        let all = self.bytes.fetch_add(come, Ordering::Relaxed) + come;
        if come > left && all - left > self.bytes_max() {
            self.bytes.fetch_sub(come, Ordering::Relaxed);
            return Err(WriteError::UnevictableFull(self.bytes_max()));
        }
        self.bytes.fetch_sub(left, Ordering::Relaxed);
        if let Some(words) = after {
            let (kind, amount) = amount_of(words);
            self.classes[kind].fetch_add(amount, Ordering::Relaxed);
            self.entries.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(words) = before {
            let (kind, amount) = amount_of(words);
            self.classes[kind].fetch_sub(amount, Ordering::Relaxed);
            self.entries.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Its counts, for another server.
    pub(super) fn save(&self) -> Vec<u64> {
        let classes = self.classes.iter().map(|count| count.load(Ordering::Relaxed));
        [self.entries(), self.bytes()].into_iter().chain(classes).collect()
    }

    /// Takes counts over. `None` if they are none.
    pub(super) fn restore(&self, saved: &[u64]) -> Option<()> {
        let (&[entries, bytes], classes) = saved.split_first_chunk()?;
        if classes.len() != self.classes.len() {
            return None;
        }
        self.entries.store(entries, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
        self.classes.iter().zip(classes).for_each(|(count, &saved)| count.store(saved, Ordering::Relaxed));
        Some(())
    }

    /// Takes note of an entry that is there, however much there may be.
    pub(super) fn adopt(&self, words: usize) {
        let most = self.bytes_max.swap(u64::MAX, Ordering::Relaxed);
        // Nothing is too much now.
        let _ = self.replace(None, Some(words));
        self.limit(most);
    }

    /// Whether that would be done now.
    pub(super) fn may_replace(&self, before: Option<usize>, after: usize) -> bool {
        let (left, come) = (before.map_or(0, bytes_of), bytes_of(after));
        come <= left || self.bytes() + come - left <= self.bytes_max()
    }

    /// Takes note that an entry of so many words has gone.
    pub(super) fn depart(&self, words: usize) {
        // What takes nothing is never refused.
        let _ = self.replace(Some(words), None);
    }
}

/// Bytes that an entry of so many words takes.
fn bytes_of(words: usize) -> u64 {
    taken_words(words) as u64 * 8
}

/// The place of an entry of so many words among the counts by size, and what it counts there.
pub(super) fn amount_of(words: usize) -> (usize, u64) {
    let kind = kind_of(words);
    (kind, if kind < CLASSES { 1 } else { words.div_ceil(PAGE_WORDS) as u64 })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_too_much_is_refused_and_what_becomes_less_is_not() {
        const PAGE: usize = PAGE_WORDS;
        let unevictable = Unevictable::new(2 * 10 * PAGE);
        let most = (10 * PAGE * 8) as u64;
        assert_eq!(unevictable.bytes_max(), most);
        unevictable.replace(None, Some(9 * PAGE)).unwrap();
        assert_eq!(unevictable.replace(None, Some(2 * PAGE)), Err(WriteError::UnevictableFull(most)));
        assert!(!unevictable.may_replace(None, 2 * PAGE) && unevictable.may_replace(None, PAGE));
        assert_eq!((unevictable.entries(), unevictable.bytes()), (1, most - PAGE as u64 * 8));
        unevictable.replace(Some(9 * PAGE), Some(10 * PAGE)).unwrap();
        assert_eq!(unevictable.replace(Some(10 * PAGE), Some(11 * PAGE)), Err(WriteError::UnevictableFull(most)));
        unevictable.limit(100);
        unevictable.replace(Some(10 * PAGE), Some(10 * PAGE)).unwrap();
        unevictable.replace(Some(10 * PAGE), Some(5 * PAGE)).unwrap();
        assert_eq!((unevictable.entries(), unevictable.amount(CLASSES)), (1, 5));
        unevictable.replace(Some(5 * PAGE), Some(10)).unwrap();
        assert_eq!((unevictable.amount(CLASSES), unevictable.amount(kind_of(10))), (0, 1));
        unevictable.depart(10);
        assert_eq!((unevictable.entries(), unevictable.bytes()), (0, 0));
        assert!((0..=CLASSES).all(|kind| unevictable.amount(kind) == 0));
    }
}
