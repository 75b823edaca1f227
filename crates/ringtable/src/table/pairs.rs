//! Copies of entries, many in one buffer: what reading a bucket, or walking the table, brings.
//!
//! Entries are small and buckets are read often, so that a buffer which is used again saves two allocations an entry.

use super::bucket::Slot;
use super::entry::{EntryRef, Expiry};
use crate::sync::copy_out;

/// What to copy of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Keys and sizes.
    Keys,
    /// Keys and values.
    Values,
    /// Keys, and values of at most so many bytes.
    SmallValues(usize),
}

/// Other workers or a damaged segment kept a bucket from being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contended;

/// A copy of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value, or nothing if it was not asked for.
    pub value: &'a [u8],
    /// Bytes of the value.
    pub value_size: usize,
    /// When it will be gone.
    pub expiry: Option<Expiry>,
    /// Whether it is never evicted.
    pub is_unevictable: bool,
}

/// Where a pair's bytes are: the key, and right behind it as much of the value as was asked for.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: usize,
    key_size: usize,
    value_copied: usize,
    value_size: usize,
    expiry: Option<Expiry>,
    is_unevictable: bool,
}

/// Copies of entries, in the order in which they were made.
#[derive(Debug, Default)]
pub struct Pairs {
    bytes: Vec<u8>,
    places: Vec<Span>,
}

impl Pairs {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes of all that was copied.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that this keeps allocated for them.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Pair `index`.
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, index: usize) -> Pair<'_> {
        let Span { start, key_size, value_copied, value_size, expiry, is_unevictable } = self.places[index];
        let (key, rest) = self.bytes[start..].split_at(key_size);
        Pair { key, value: &rest[..value_copied], value_size, expiry, is_unevictable }
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Pair<'_>> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Adds a pair which does not expire, and may be evicted; `None` if there is no memory for it.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let value_size = value.len();
        self.push_pair(Pair { key, value, value_size, expiry: None, is_unevictable: false })
    }

    /// Adds a pair; `None` if there is no memory for it.
    pub fn push_pair(&mut self, pair: Pair<'_>) -> Option<()> {
        let Pair { key, value, value_size, expiry, is_unevictable } = pair;
        let (start, key_size, value_copied) = (self.bytes.len(), key.len(), value.len());
        self.bytes.try_reserve(key_size + value_copied).ok()?;
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.places.push(Span { start, key_size, value_copied, value_size, expiry, is_unevictable });
        Some(())
    }

    /// Keeps the first `count` pairs only.
    pub fn truncate(&mut self, count: usize) {
        self.places.truncate(count);
        let ends = self.places.iter().map(|place| place.start + place.key_size + place.value_copied);
        self.bytes.truncate(ends.max().unwrap_or(0));
    }

    /// Forgets all pairs, and keeps the buffer.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.places.clear();
    }

    /// Of the pairs from `start` on, keeps those whose keys are wanted. Their order may change.
    pub(super) fn retain(&mut self, start: usize, is_wanted: impl Fn(&[u8]) -> bool) {
        for place in (start..self.len()).rev() {
            if !is_wanted(self.get(place).key) {
                self.places.swap_remove(place);
            }
        }
    }

    /// Adds a copy of an entry, and of what its slot says of it; `None` if there is no memory for it.
    pub(super) fn push_entry(&mut self, slot: Slot, entry: EntryRef<'_>, want: Want) -> Option<()> {
        let (start, key_size, value_size) = (self.bytes.len(), entry.shape.key_size, entry.shape.value_size);
        let value_copied = match want {
            Want::Values => value_size,
            Want::SmallValues(most) if value_size <= most => value_size,
            Want::Keys | Want::SmallValues(_) => 0,
        };
        self.bytes.try_reserve(key_size + value_copied).ok()?;
        copy_out(entry.key_words(), &mut self.bytes.spare_capacity_mut()[..key_size]);
        if value_copied > 0 {
            copy_out(entry.value_words(), &mut self.bytes.spare_capacity_mut()[key_size..key_size + value_copied]);
        }
        #[allow(unsafe_code)]
        // SAFETY: so many bytes behind the old length were reserved, and have just been written by `copy_out`.
        unsafe {
            self.bytes.set_len(start + key_size + value_copied);
        }
        let (expiry, is_unevictable) = (entry.expiry(), slot.is_unevictable());
        self.places.push(Span { start, key_size, value_copied, value_size, expiry, is_unevictable });
        Some(())
    }
}
