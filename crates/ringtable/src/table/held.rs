//! An entry that the server holds, to read it in place: see [`super::reclaim`] for the protocol.

use super::bucket::Slot;
use super::entry::EntryRef;
use super::lookup::Found;
use super::table::Table;
use crate::sync::{Arc, Memory};

/// An entry that stays where it is until this is dropped, whatever becomes of its key. See [`super::Writer::hold`].
#[derive(Debug)]
pub struct HeldEntry<M: Memory> {
    pub(super) table: Arc<Table<M>>,
    pub(super) start: u64,
    found: Found,
}

impl<M: Memory> HeldEntry<M> {
    /// Holds the entry that a slot of a locked bucket points at.
    pub(super) fn new(table: &Arc<Table<M>>, slot: Slot, entry: EntryRef<'_>) -> Self {
        let (version, expiry, size) = (entry.version(), entry.expiry(), entry.shape.value_size);
        table.reclaimer.hold(slot.at());
        let found = Found { version, expiry, size, visited: true, is_unevictable: slot.is_unevictable() };
        Self { table: Arc::clone(table), start: slot.at(), found }
    }

    /// Holds the entry that begins at this word, whose bucket the caller has locked.
    pub fn of_locked(table: &Arc<Table<M>>, start: u64, entry: EntryRef<'_>) -> Self {
        table.reclaimer.hold(start);
        let (version, expiry, size) = (entry.version(), entry.expiry(), entry.shape.value_size);
        let found = Found { version, expiry, size, visited: true, is_unevictable: false };
        Self { table: Arc::clone(table), start, found }
    }

    /// What belonged to the value when it was taken hold of: expiry and version may have changed since.
    pub fn found(&self) -> Found {
        self.found
    }
}

#[cfg(not(loom))]
impl<M: Memory> HeldEntry<M> {
    fn entry(&self) -> EntryRef<'_> {
        EntryRef::at(self.table.words(), self.start).expect("what is held is an entry that a writer made")
    }

    /// A copy of the key.
    pub fn key(&self) -> Vec<u8> {
        self.entry().key()
    }

    /// The value.
    pub fn bytes(&self) -> &[u8] {
        let entry = self.entry();
        let words = &entry.value_words()[..entry.shape.value_size.div_ceil(8)];
        #[allow(unsafe_code)]
        // SAFETY: the words hold as many bytes, which nobody changes as long as the entry is held: it was complete when
        // its bucket was locked to hold it (I3), and its memory is not used again before `self` is dropped.
        unsafe {
            std::slice::from_raw_parts(words.as_ptr().cast(), entry.shape.value_size)
        }
    }
}

impl<M: Memory> Drop for HeldEntry<M> {
    fn drop(&mut self) {
        self.table.reclaimer.let_go(self.start);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::lookup::Buffer;
    use super::super::{Eviction, Guard, Lookup, Options, Outcome, WriteError, Writer};
    use super::*;
    use crate::sync::{AtomicU64, heap_words};

    type Words = Box<[AtomicU64]>;

    fn writer() -> Writer<Words> {
        let options = Options { buckets: 16, seed: 7, workers: 1, spin_ns: 0, eviction: Eviction::Never };
        Writer::new(Arc::new(Table::create(heap_words(64 << 13), &options).unwrap()))
    }

    fn put(writer: &mut Writer<Words>, key: &[u8], value: &[u8]) {
        assert!(matches!(writer.put(key, value, None, Guard::Always, || 0), Ok(Outcome::Done { .. })));
    }

    #[test]
    fn a_held_value_outlives_its_key() {
        let mut writer = writer();
        put(&mut writer, b"key", b"first");
        let held = writer.hold(b"key", || 0).unwrap();
        let again = writer.hold(b"key", || 0).unwrap();
        assert_eq!(writer.table().reclaimer().holds(), 2);
        put(&mut writer, b"key", b"second");
        for index in 0..100_u64 {
            put(&mut writer, &index.to_ne_bytes(), b"other");
        }
        drop(again);
        writer.rescan();
        assert_eq!(held.bytes(), b"first");
        assert_eq!(held.found().size, 5);
        assert!(writer.hold(b"absent", || 0).is_none());
        drop(held);
        assert_eq!(writer.table().reclaimer().entries_retired(), 1);
        assert!(writer.rescan() > 0);
        assert_eq!(writer.table().reclaimer().entries_retired(), 0);
    }

    #[test]
    fn a_full_table_takes_back_what_nobody_holds_any_more() {
        let mut writer = writer();
        let large = vec![1_u8; 2 << 20];
        put(&mut writer, b"key", &large);
        let held = writer.hold(b"key", || 0).unwrap();
        assert!(writer.delete(b"key", || 0));
        let refused = writer.put(b"other", &large, None, Guard::Always, || 0);
        assert!(matches!(refused, Err(WriteError::OutOfMemory(_))), "4 MiB hold it once: {refused:?}");
        assert!(held.bytes() == large);
        drop(held);
        put(&mut writer, b"other", &large);
        assert!(matches!(writer.get(b"other", || 0, &mut Buffer::default()), Lookup::Hit(_)));
    }
}
