//! Entries whose value is still arriving.
//!
//! # Design
//!
//! A value that is larger than what a client sends at once flows piece by piece straight into the memory of the entry
//! that it is going to be: there is no second copy of it in the server. The entry is allocated at its full size as soon
//! as the sizes are known ([`Writer::draft`]), but its pages come into being as they are written to, so a client that
//! announces much and sends little takes address space only. A value that has come as a whole flows in the same way,
//! since to copy it at once would take long. [`Writer::put_draft`] publishes it as [`Writer::put`] would. A draft that
//! is dropped gives its memory back.
//!
//! Room for a large entry may take long to find. [`Writer::draft_soon`] leaves such a search to somebody who has the
//! time for it.
//!
//! # Invariants
//!
//! - No slot points at a draft: only who has it touches its memory.
//! - An entry made of a draft always has the word for an expiry, which is not known before the value has come;
//!   [`Expiry::NEVER`] stands for none, as in any large entry.
//! - All drafts of values that are still to come reserve at most one part in [`limits::DRAFTS_SHARE`] of the segment.
//!   Those of values that are here are drafts for some turns only, and are limited by the memory that the values take.

use super::entry::{Expiry, HEADER_WORDS, Shape};
use super::error::{WriteError, check_sizes};
use super::guard::{Guard, Outcome};
use super::heap::Cache;
use super::manner::Manner;
use super::table::Table;
use super::writer::{Sparing, Writer};
use crate::limits;
use crate::sync::{Arc, AtomicU64, Memory, Ordering, copy_in, lock};

/// How a draft is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terms {
    /// The value is still to come. What the key has now is spared, since the condition of its write is not known.
    Arriving,
    /// The value is here, and will be written on this condition.
    Whole(Guard),
}

/// An entry that nobody can find yet.
#[derive(Debug)]
pub struct Draft<M: Memory> {
    table: Arc<Table<M>>,
    /// Where the entry begins; `None` once it belongs to the table.
    start: Option<u64>,
    shape: Shape,
    /// Bytes that count as those of drafts.
    counted: u64,
    /// Bytes of the value that are there.
    filled: usize,
}

impl<M: Memory> Draft<M> {
    /// Bytes of the value that are still missing.
    #[inline]
    pub fn missing(&self) -> usize {
        self.shape.value_size - self.filled
    }

    /// The words of the value from the first missing byte on, which begins a word.
    fn rest(&self) -> &[AtomicU64] {
        let start = self.start.unwrap_or_default() as usize;
        &self.table.memory().words()[start + self.shape.value_at() + self.filled / 8..start + self.shape.words()]
    }

    /// Adds the next bytes of the value.
    ///
    /// # Panics
    /// If they are more than are missing.
    pub fn fill(&mut self, mut bytes: &[u8]) {
        assert!(bytes.len() <= self.missing(), "{} bytes for {} that are missing", bytes.len(), self.missing());
        let behind = self.filled % 8;
        if behind > 0 && !bytes.is_empty() {
            // Relaxed, here and below: nobody else can reach the entry.
            let (first, rest) = bytes.split_at(bytes.len().min(8 - behind));
            let mut word = self.rest()[0].load(Ordering::Relaxed).to_ne_bytes();
            word[behind..behind + first.len()].copy_from_slice(first);
            self.rest()[0].store(u64::from_ne_bytes(word), Ordering::Relaxed);
            self.filled += first.len();
            bytes = rest;
        }
        copy_in(bytes, self.rest());
        self.filled += bytes.len();
    }

    /// Adds the next bytes of the value, at most `size` of them (whole words), which `copy` writes to the words that it
    /// gets. Whatever fills up the last word of a value is replaced by zeroes.
    ///
    /// # Panics
    /// If the value does not stand at a whole word.
    pub fn fill_words(&mut self, size: usize, copy: impl FnOnce(&[AtomicU64])) {
        assert!(self.filled.is_multiple_of(8) && size.is_multiple_of(8), "{size} bytes behind {}", self.filled);
        let added = size.min(self.missing());
        let words = &self.rest()[..added.div_ceil(8)];
        copy(words);
        if let (Some(last), filling @ 1..) = (words.last(), 8 * words.len() - added) {
            last.store(last.load(Ordering::Relaxed) & u64::MAX >> (8 * filling), Ordering::Relaxed);
        }
        self.filled += added;
    }
}

impl<M: Memory> Drop for Draft<M> {
    fn drop(&mut self) {
        // Relaxed: a limit that guards no data.
        self.table.drafts.fetch_sub(self.counted, Ordering::Relaxed);
        if let Some(start) = self.start {
            lock(&self.table.draft_starts).remove(&start);
            // It may be dropped where there is no writer, and is no matter of every day.
            let mut cache = Cache::default();
            self.table.heap.free(self.table.words(), &mut cache, start, self.shape.words());
            self.table.heap.drain(self.table.words(), &mut cache);
        }
    }
}

impl<M: Memory> Writer<M> {
    /// Reserves an entry for a key and a value of this size. That may take as long as it takes to evict so much.
    ///
    /// # Errors
    /// Key or value too long, or no memory, or too much of it in drafts.
    pub fn draft(&mut self, key: &[u8], value_size: usize, terms: Terms) -> Result<Draft<M>, WriteError> {
        let draft = self.draft_within(key, value_size, terms, usize::MAX)?;
        Ok(draft.expect("every size is within"))
    }

    /// The same in some hundred microseconds at most: `None` if room has to be made that is more than
    /// [`limits::ROOM_AT_ONCE_MAX`].
    ///
    /// # Errors
    /// As [`Self::draft`].
    pub fn draft_soon(&mut self, key: &[u8], value_size: usize, terms: Terms) -> Result<Option<Draft<M>>, WriteError> {
        self.draft_within(key, value_size, terms, limits::ROOM_AT_ONCE_MAX)
    }

    fn draft_within(
        &mut self,
        key: &[u8],
        value_size: usize,
        terms: Terms,
        searched_max: usize,
    ) -> Result<Option<Draft<M>>, WriteError> {
        check_sizes(key.len(), value_size)?;
        let shape = Shape { key_size: key.len(), value_size, expires: true };
        let size = shape.words() as u64 * 8;
        let table = Arc::clone(&self.table);
        let counted = if terms == Terms::Arriving { size } else { 0 };
        // Counted before it is looked at, so that two at once cannot both take the rest. Relaxed: as in `drop`.
        let all = table.drafts.fetch_add(counted, Ordering::Relaxed) + counted;
        let mut draft = Draft { table, start: None, shape, counted, filled: 0 };
        if counted > 0 && all > draft.table.words().len() as u64 * 8 / limits::DRAFTS_SHARE {
            return Err(WriteError::OutOfMemory(size as usize));
        }
        let start = match draft.table.allocate(&mut self.cache, shape.words()) {
            Some(start) => start,
            None if size as usize > searched_max => return Ok(None),
            None => {
                let spares = terms != Terms::Whole(Guard::Always);
                self.sparing.hash = spares.then(|| self.table.constants().hash(key));
                let reserved = self.reserve(shape);
                self.sparing = Sparing::default();
                reserved?
            }
        };
        lock(&self.table.draft_starts).insert(start);
        draft.start = Some(start);
        Ok(Some(draft))
    }

    /// Writes a key whose value is a draft, as [`Writer::put_as`] would.
    ///
    /// # Errors
    /// No memory for a bucket, or a full one: then everything is as it was, and the draft is gone.
    ///
    /// # Panics
    /// If the key has not the size that was announced, or bytes of the value are missing.
    pub fn put_draft(
        &mut self,
        key: &[u8],
        mut draft: Draft<M>,
        manner: Manner,
        now_ms: impl Fn() -> u64,
    ) -> Result<Outcome, WriteError> {
        let shape = draft.shape;
        assert!(key.len() == shape.key_size && draft.missing() == 0, "a draft is published as it was announced");
        let start = draft.start.take().unwrap_or_default();
        lock(&self.table.draft_starts).remove(&start);
        let entry = &self.table.words()[start as usize..start as usize + shape.words()];
        // Relaxed: as in `Writer::prepare`.
        entry[0].store(shape.pack(), Ordering::Relaxed);
        entry[HEADER_WORDS].store(manner.lifetime.known().unwrap_or(Expiry::NEVER).0, Ordering::Relaxed);
        copy_in(key, &entry[shape.key_at()..]);
        let hash = self.table.constants().hash(key);
        let outcome = self.publish_entry(hash, key, (start, shape), manner, now_ms);
        // At once, and not with the next dozens: some of this size are all that is in a small cache, and whoever makes
        // room for the next one is another writer, whose hand would come to nothing but to what is used.
        self.tell_arrivals();
        outcome
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::table::lookup::Buffer;
    use crate::table::{Eviction, Lookup, Mark, Options};

    fn writer(megabytes: usize) -> Writer<Box<[AtomicU64]>> {
        let memory = crate::sync::heap_words(megabytes << 17);
        let options = Options { buckets: 8, seed: 1, workers: 1, spin_ns: 0, eviction: Eviction::Never };
        Writer::new(Arc::new(Table::create(memory, &options).unwrap()))
    }

    fn value_of(writer: &mut Writer<Box<[AtomicU64]>>, key: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = Buffer::default();
        matches!(writer.get(key, || 1_000, &mut buffer), Lookup::Hit(_)).then(|| buffer.take())
    }

    #[test]
    fn a_value_that_comes_in_pieces_is_the_same_in_the_end() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut writer = writer(4);
        for size in [0, 1, 7, 8, 4_095, 70_000, 300_001] {
            let value: Vec<u8> = (0..size).map(|_| random.u8(..)).collect();
            let mut draft = writer.draft(b"key", size, Terms::Arriving).unwrap();
            let mut rest = &value[..];
            while !rest.is_empty() {
                let (piece, left) = rest.split_at(random.usize(1..=rest.len().min(9_000)));
                draft.fill(piece);
                rest = left;
            }
            let expiry = random.bool().then_some(Expiry(2_000));
            writer.put_draft(b"key", draft, Manner::new(Guard::Always, expiry, Mark::AsBefore), || 1_000).unwrap();
            assert_eq!(value_of(&mut writer, b"key"), Some(value));
            let Lookup::Hit(found) = writer.get(b"key", || 1_000, &mut Buffer::default()) else { panic!("no key") };
            assert_eq!(found.expiry, expiry);
        }
    }

    #[test]
    fn what_fills_up_the_last_word_is_not_believed() {
        let mut writer = writer(4);
        let mut draft = writer.draft(b"key", 11, Terms::Arriving).unwrap();
        let scribble = |words: &[AtomicU64]| words.iter().for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
        draft.fill_words(8, scribble);
        draft.fill_words(64, scribble);
        assert_eq!(draft.missing(), 0);
        let start = draft.start.unwrap() as usize;
        assert_eq!(writer.table().memory()[start + draft.shape.words() - 1].load(Ordering::Relaxed), 0xff_ffff);
    }

    #[test]
    fn a_long_search_is_left_to_somebody_with_time() {
        let memory = crate::sync::heap_words(16 << 17);
        let options = Options { buckets: 8, seed: 1, workers: 1, spin_ns: 0, eviction: Eviction::AllkeysSieve };
        let mut writer = Writer::new(Arc::new(Table::create(memory, &options).unwrap()));
        let (large, terms) = (2 * limits::ROOM_AT_ONCE_MAX, Terms::Arriving);
        assert!(writer.draft_soon(b"key", large, terms).unwrap().is_some(), "there is room");
        for number in 0..40_000_u32 {
            writer.put(&number.to_ne_bytes(), &[0; 1_000], None, Guard::Always, || 0).unwrap();
        }
        let entries = writer.table().entries();
        assert!(writer.draft_soon(b"key", large, terms).unwrap().is_none());
        assert_eq!((writer.table().entries(), writer.table().draft_bytes()), (entries, 0), "nothing has gone for it");
        assert!(writer.draft_soon(b"key", limits::LARGE_VALUE_SIZE, terms).unwrap().is_some());
        assert!(writer.draft(b"key", large, terms).is_ok());
        assert!(writer.table().entries() < entries);
    }

    #[test]
    fn what_is_used_stays_whichever_writer_makes_room_for_large_entries() {
        let memory = crate::sync::heap_words(16 << 17);
        let options = Options { buckets: 8, seed: 1, workers: 1, spin_ns: 0, eviction: Eviction::AllkeysSieve };
        let table = Arc::new(Table::create(memory, &options).unwrap());
        let [mut writer, mut other, mut reader] = [(); 3].map(|()| Writer::new(Arc::clone(&table)));
        let size = 1 << 20;
        let mut write = |key: &[u8]| {
            let mut draft = other.draft(key, size, Terms::Arriving).unwrap();
            other.release();
            draft.fill(&vec![1; size]);
            writer.put_draft(key, draft, Manner::new(Guard::Always, None, Mark::AsBefore), || 0).unwrap();
        };
        write(b"used");
        for number in 0..100_u32 {
            assert!(value_of(&mut reader, b"used").is_some(), "evicted for the one before number {number}");
            write(&number.to_ne_bytes());
        }
    }

    #[test]
    fn a_draft_that_is_not_wanted_leaves_nothing_behind() {
        let mut writer = writer(8);
        let (free, size) = (writer.table().free_bytes(), 1 << 20);
        let first = writer.draft(b"key", size, Terms::Arriving).unwrap();
        assert!(writer.table().free_bytes() < free);
        assert_eq!(
            writer.draft(b"key", size, Terms::Arriving).unwrap_err(),
            WriteError::OutOfMemory(first.shape.words() * 8)
        );
        drop(first);
        assert_eq!(writer.table().free_bytes(), free);
        // Nor one that is refused.
        let mut draft = writer.draft(b"key", size, Terms::Arriving).unwrap();
        draft.fill(&vec![1; size]);
        assert_eq!(
            writer.put_draft(b"key", draft, Manner::new(Guard::Present, None, Mark::AsBefore), || 0),
            Ok(Outcome::Refused)
        );
        assert_eq!(writer.table().free_bytes(), free);
        assert_eq!(writer.table().draft_bytes(), 0);
        // One whose value is here is a draft for a moment only.
        let first = writer.draft(b"key", size, Terms::Arriving).unwrap();
        assert!(writer.draft(b"key", size, Terms::Whole(Guard::Always)).is_ok());
        drop(first);
        let size = limits::VALUE_SIZE_MAX + 1;
        assert_eq!(writer.draft(b"key", size, Terms::Arriving).unwrap_err(), WriteError::ValueTooLarge(size));
    }
}
