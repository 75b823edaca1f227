//! An entry: key, value and expiry in one piece of memory. Once it is published, key and value never change (I3).
//!
//! ```text
//! word 0   value length u32 | key length u16 | flags u16
//! word 1   version: the bucket's version at the last change, never the same twice for a key
//! word 2   expiry, wall-clock ms since 1970, or 2^64 - 1 for none   (only with FLAG_EXPIRY)
//! …        key, filled up with zeroes to whole words
//! …        value, filled up likewise; values of 4 KiB and more begin at a multiple of 64 bytes
//! ```
//!
//! The expiry is optional because most entries have none, and 8 bytes of 40 are much. The version costs 8 bytes an
//! entry and buys compare-and-set that is immune to a key's being deleted and made again in the same memory.
//!
//! An entry that has the word for an expiry can be given another one in place ([`super::lifetime`]). Large entries have
//! the word from the beginning, since they are expensive to write anew ([`EXPIRY_WORD_SIZE`]).

use crate::limits;
use crate::sync::{AtomicU64, Ordering};

/// Words before the key of an entry without expiry.
pub const HEADER_WORDS: usize = 2;
/// Flag: word 2 is an expiry.
pub const FLAG_EXPIRY: u64 = 1;
/// Entries that have at least so many bytes with the word for an expiry have it, whether they expire or not: 8 bytes of
/// 256 are little, and to write the rest anew for a new expiry is expensive.
pub const EXPIRY_WORD_SIZE: usize = 256;
/// Values of at least so many bytes begin at a multiple of 64 bytes.
pub const ALIGNED_VALUE_SIZE: usize = 4_096;
const ALIGNED_WORDS: usize = 8;

/// When an entry ceases to be: wall-clock milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry(pub u64);

impl Expiry {
    /// In an entry that has the word for an expiry: it has none.
    pub const NEVER: Self = Self(u64::MAX);

    /// Whether the entry is gone at `now_ms`.
    #[inline]
    pub fn has_passed(self, now_ms: u64) -> bool {
        self.0 <= now_ms
    }
}

/// The sizes and flags of an entry, as its first word tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of the key.
    pub key_size: usize,
    /// Bytes of the value.
    pub value_size: usize,
    /// Whether there is the word for an expiry.
    pub expires: bool,
}

impl Shape {
    /// The shape of an entry to be written, which has an expiry or not.
    #[inline]
    pub fn of(key_size: usize, value_size: usize, has_expiry: bool) -> Self {
        let shape = Self { key_size, value_size, expires: true };
        Self { expires: has_expiry || shape.words() * 8 >= EXPIRY_WORD_SIZE, ..shape }
    }

    /// The first word of the entry.
    #[inline]
    pub fn pack(self) -> u64 {
        let flags = if self.expires { FLAG_EXPIRY } else { 0 };
        self.value_size as u64 | (self.key_size as u64) << 32 | flags << 48
    }

    /// The shape that a first word tells; `None` if no writer makes such.
    #[inline]
    pub fn unpack(word: u64) -> Option<Self> {
        let shape = Self {
            value_size: (word & 0xffff_ffff) as usize,
            key_size: (word >> 32 & 0xffff) as usize,
            expires: word >> 48 == FLAG_EXPIRY,
        };
        (shape.value_size <= limits::VALUE_SIZE_MAX && word >> 48 <= FLAG_EXPIRY).then_some(shape)
    }

    /// Word of the key, from the start of the entry.
    #[inline]
    pub fn key_at(self) -> usize {
        HEADER_WORDS + usize::from(self.expires)
    }

    /// Word of the value, from the start of the entry.
    #[inline]
    pub fn value_at(self) -> usize {
        let at = self.key_at() + self.key_size.div_ceil(8);
        if self.value_size >= ALIGNED_VALUE_SIZE { at.next_multiple_of(ALIGNED_WORDS) } else { at }
    }

    /// Words of the whole entry.
    #[inline]
    pub fn words(self) -> usize {
        self.value_at() + self.value_size.div_ceil(8)
    }
}

/// The words of one entry, whose shape was checked against the segment.
#[derive(Clone, Copy)]
pub struct EntryRef<'a> {
    /// What the first word says.
    pub shape: Shape,
    words: &'a [AtomicU64],
}

impl<'a> EntryRef<'a> {
    /// The entry that begins at word `start`, if its start and its claimed size lie within the segment.
    #[inline]
    pub fn at(segment: &'a [AtomicU64], start: u64) -> Option<Self> {
        let rest = segment.get(usize::try_from(start).ok()?..)?;
        // Relaxed here and below: readers check the bucket's version afterwards, writers hold the bucket.
        let shape = Shape::unpack(rest.first()?.load(Ordering::Relaxed))?;
        let words = rest.get(..shape.words())?;
        Some(Self { shape, words })
    }

    /// The entry's version.
    #[inline]
    pub fn version(self) -> u64 {
        self.words[1].load(Ordering::Relaxed)
    }

    /// The entry's expiry, if it has one.
    #[inline]
    pub fn expiry(self) -> Option<Expiry> {
        if !self.shape.expires {
            return None;
        }
        Some(Expiry(self.words[HEADER_WORDS].load(Ordering::Relaxed))).filter(|&expiry| expiry != Expiry::NEVER)
    }

    /// Gives it another version and expiry, for which it has the word. Only for the holder of its bucket, who unlocks
    /// it with a higher version.
    ///
    /// Relaxed: as for slots, the fences of the bucket's lock keep a reader from believing a part of it.
    #[inline]
    pub(super) fn set_lifetime(self, version: u64, expiry: Expiry) {
        debug_assert!(self.shape.expires, "without the word this would be the key");
        self.words[1].store(version, Ordering::Relaxed);
        // Release: behind the version, for a server that comes after one that has died in between: no version ever has
        // two expiries.
        self.words[HEADER_WORDS].store(expiry.0, Ordering::Release);
    }

    /// Whether its time has passed. `now_ms` is asked only if it has one.
    #[inline]
    pub fn has_expired(self, now_ms: impl Fn() -> u64) -> bool {
        self.expiry().is_some_and(|expiry| expiry.has_passed(now_ms()))
    }

    /// The key, filled up to whole words.
    #[inline]
    pub fn key_words(self) -> &'a [AtomicU64] {
        &self.words[self.shape.key_at()..][..self.shape.key_size.div_ceil(8)]
    }

    /// A copy of the key.
    pub fn key(self) -> Vec<u8> {
        let mut key = vec![0; self.shape.key_size];
        crate::sync::copy_out(self.key_words(), crate::sync::as_uninit(&mut key));
        key
    }

    /// The value, filled up to whole words.
    #[inline]
    pub fn value_words(self) -> &'a [AtomicU64] {
        &self.words[self.shape.value_at()..]
    }

    /// A copy of the value, if it has so many bytes at most.
    pub fn small_value(self, most: usize) -> Option<Vec<u8>> {
        let size = Some(self.shape.value_size).filter(|&size| size <= most)?;
        let mut value = vec![0; size];
        crate::sync::copy_out(self.value_words(), crate::sync::as_uninit(&mut value));
        Some(value)
    }

    /// Whether the entry's key is `key`.
    #[inline]
    pub fn has_key(self, key: &[u8]) -> bool {
        self.shape.key_size == key.len() && crate::sync::equal(self.key_words(), key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_survive_packing() {
        for (key_size, value_size, expires) in
            [(0, 0, false), (16, 100, false), (65_535, limits::VALUE_SIZE_MAX, true), (1, 4_096, true)]
        {
            let shape = Shape { key_size, value_size, expires };
            assert_eq!(Shape::unpack(shape.pack()), Some(shape));
            assert!(shape.words() * 8 >= 16 + key_size + value_size);
        }
    }

    #[test]
    fn large_entries_have_the_word_for_an_expiry() {
        for (key_size, value_size, words) in
            [(16, 100, 17), (8, 216, 30), (8, 217, 32), (8, 300, 42), (65_535, 0, 8_195)]
        {
            let shape = Shape::of(key_size, value_size, false);
            assert_eq!((shape.words(), shape.expires), (words, words > 30), "{key_size} {value_size}");
            assert!(Shape::of(key_size, value_size, true).expires);
        }
    }

    #[test]
    fn nonsense_is_no_shape() {
        assert_eq!(Shape::unpack(limits::VALUE_SIZE_MAX as u64 + 1), None);
        assert_eq!(Shape::unpack(2 << 48), None);
        assert_eq!(Shape::unpack(u64::MAX), None);
    }

    #[test]
    fn an_entry_that_claims_more_than_the_segment_holds_is_refused() {
        let segment = crate::sync::heap_words(8);
        segment[4].store(Shape { key_size: 8, value_size: 8, expires: false }.pack(), Ordering::Relaxed);
        assert!(EntryRef::at(&segment, 4).is_some());
        segment[5].store(Shape { key_size: 8, value_size: 8, expires: false }.pack(), Ordering::Relaxed);
        assert!(EntryRef::at(&segment, 5).is_none());
        assert!(EntryRef::at(&segment, 8).is_none());
        assert!(EntryRef::at(&segment, u64::MAX).is_none());
    }
}
