//! A new expiry for an entry that is there, or none any more.
//!
//! # Design
//!
//! An entry that has the word for an expiry ([`super::entry`]) gets it in place: while its bucket is locked, the word
//! changes, and with it the entry's version and the code in its slot. So it costs the same whatever the value's size,
//! needs no memory, and works in a full table.
//!
//! An entry without the word is small, and written anew. From then on it has the word. To take an expiry away never
//! needs that: an entry that has one has the word.
//!
//! To everybody else it is a change like any other: a write on condition of the version from before is refused, and
//! listeners are told.
//!
//! # Why readers need nothing for it
//!
//! A reader believes what it has seen of an entry only if the bucket's version held all the while, so it has expiry and
//! version both from before or both from after. A worker with a copy made outside of the lock (`relocate` in
//! [`super::evict`]) compares the entry's version under the lock. Views and holds show bytes of the value, which do not
//! change.

use super::change::Change;
use super::entry::Expiry;
use super::error::WriteError;
use super::guard::{Guard, Outcome};
use super::writer::{Writer, announce_expiry};
use super::{entry, expiry_code};
use crate::limits;
use crate::sync::{Memory, as_uninit, copy_out};

impl<M: Memory> Writer<M> {
    /// Gives a key a new expiry. Returns whether it is there; one whose time has passed is removed.
    ///
    /// # Errors
    /// No memory for an entry that has to be written anew: then everything is as it was.
    pub fn expire(&mut self, key: &[u8], expiry: Expiry, now_ms: impl Fn() -> u64) -> Result<bool, WriteError> {
        self.renew(key, Some(expiry), Guard::Present, now_ms).map(|outcome| outcome != Outcome::Refused)
    }

    /// Gives a key another expiry, or none, if it is there and `guard` holds; one whose time has passed is removed. To
    /// take away what an entry does not have changes nothing, and is done.
    ///
    /// # Errors
    /// As [`Self::expire`].
    pub fn renew(
        &mut self,
        key: &[u8],
        expiry: Option<Expiry>,
        guard: Guard,
        now_ms: impl Fn() -> u64,
    ) -> Result<Outcome, WriteError> {
        if key.len() > limits::KEY_SIZE_MAX {
            return Ok(Outcome::Refused);
        }
        let hash = self.table.constants().hash(key);
        loop {
            let Self { table, published, has_written, commits, .. } = self;
            let locked = table.lock(hash);
            let Some((bucket, index, entry)) = table.find(&locked, hash, key).entry else {
                locked.unlock_unchanged();
                return Ok(Outcome::Refused);
            };
            if entry.has_expired(&now_ms) {
                locked.unlock_unchanged();
                self.delete_expired(key, now_ms);
                return Ok(Outcome::Refused);
            }
            let version = entry.version();
            if !guard.allows(Some(version)) {
                locked.unlock_unchanged();
                return Ok(Outcome::Refused);
            }
            if expiry.is_none() && entry.expiry().is_none() {
                locked.unlock_unchanged();
                return Ok(Outcome::Done { version, inserted: false });
            }
            if entry.shape.expires {
                let version = table.version_of_change(&locked);
                let at = expiry.unwrap_or(Expiry::NEVER);
                announce_expiry(commits, table, &locked, bucket.slot(index).at(), at);
                entry.set_lifetime(version, at);
                failpoint!("expire.changed");
                let slot = bucket.slot(index);
                let code = expiry_code::code(expiry);
                // As when the key is written, this is a use of it.
                bucket.set_slot(index, slot.with_expiry_code(code).with_visited(true));
                table.tell(Change::Renewed(key, slot.at()), published);
                *has_written = true;
                let words = entry.shape.words();
                table.count_expiring(locked.bucket, Some((slot, words)), Some((slot.with_expiry_code(code), words)));
                locked.unlock();
                failpoint!("expire.unlocked");
                return Ok(Outcome::Done { version, inserted: false });
            }
            let mut bytes = [0; entry::EXPIRY_WORD_SIZE];
            let value = &mut bytes[..entry.shape.value_size];
            copy_out(entry.value_words(), as_uninit(value));
            locked.unlock_unchanged();
            let outcome = self.put(key, value, expiry, Guard::Version(version), &now_ms)?;
            // Another write was faster: the guard may hold for what that has left.
            if outcome != Outcome::Refused || guard == Guard::Version(version) {
                return Ok(outcome);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::lookup::{Buffer, Found};
    use super::super::{Eviction, Lookup, Options, Reader, Table};
    use super::*;
    use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering, heap_words};

    type Words = Arc<Box<[AtomicU64]>>;

    const START: u64 = 1_700_000_000_000;

    fn table(pages: usize, eviction: Eviction) -> (Writer<Words>, Reader<Words>) {
        let words: Words = Arc::new(heap_words(pages * super::super::layout::PAGE_WORDS));
        let options = Options { buckets: 16, seed: 7, workers: 1, spin_ns: 0, eviction };
        let table = Table::create(Arc::clone(&words), &options).unwrap();
        (Writer::new(Arc::new(table)), Reader::attach(words).unwrap())
    }

    fn put(writer: &mut Writer<Words>, key: &[u8], size: usize, expiry: Option<Expiry>) -> Result<(), WriteError> {
        writer.put(key, &vec![size as u8; size], expiry, Guard::Always, || START).map(drop)
    }

    fn found(reader: &Reader<Words>, key: &[u8], now_ms: u64) -> Option<Found> {
        match reader.get(key, || now_ms, &mut Buffer::default()) {
            Lookup::Hit(found) => Some(found),
            Lookup::Miss | Lookup::Expired => None,
            other => panic!("{other:?}"),
        }
    }

    /// Where the entry of a key begins, and the code in its slot.
    fn slot(writer: &Writer<Words>, key: &[u8]) -> (u64, u64) {
        let table = writer.table();
        let hash = table.constants().hash(key);
        let guard = table.lock(hash);
        let (bucket, index, _) = table.find(&guard, hash, key).entry.unwrap();
        let slot = bucket.slot(index);
        guard.unlock_unchanged();
        (slot.at(), slot.expiry_code())
    }

    #[test]
    fn an_entry_that_has_the_word_stays_where_it_is() {
        for (size, expires, stays) in
            [(100, false, false), (100, true, true), (300, false, true), (1 << 20, false, true), (1 << 20, true, true)]
        {
            let (mut writer, reader) = table(64, Eviction::Never);
            let first = expires.then_some(Expiry(START + 1));
            put(&mut writer, b"key", size, first).unwrap();
            let mut before = (slot(&writer, b"key").0, found(&reader, b"key", START).unwrap());
            assert_eq!(before.1.expiry, first);
            let mut stays = stays;
            for (n, at_ms) in [START + 5_000, START + 90_000, START + 2_000].into_iter().enumerate() {
                let allocated = writer.table().heap().usage().allocated;
                assert_eq!(writer.expire(b"key", Expiry(at_ms), || START), Ok(true));
                let (start, code) = slot(&writer, b"key");
                assert_eq!(start == before.0, stays, "{size} {expires} {n}");
                assert!(!stays || allocated == writer.table().heap().usage().allocated);
                assert_eq!(code, expiry_code::code(Some(Expiry(at_ms))));
                let after = found(&reader, b"key", START).unwrap();
                assert!(after.version > before.1.version && after.expiry == Some(Expiry(at_ms)) && after.size == size);
                assert_eq!(writer.table().tally().expiring.load(Ordering::Relaxed), 1);
                // A copy that was made before is not swung in.
                let guarded = writer.put(b"key", b"", None, Guard::Version(before.1.version), || START);
                assert_eq!(guarded, Ok(Outcome::Refused));
                (before, stays) = ((start, after), true);
            }
            assert!(found(&reader, b"key", START + 2_000).is_none());
            assert_eq!(writer.expire(b"key", Expiry(START + 9_000), || START + 2_000), Ok(false), "it has passed");
            assert_eq!(writer.table().entries(), 0, "and is removed");
            assert_eq!(writer.table().tally().expiring.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn an_expiry_is_taken_away_where_it_stands() {
        for size in [100, 1 << 20] {
            let (mut writer, reader) = table(64, Eviction::VolatileTtl);
            put(&mut writer, b"key", size, Some(Expiry(START + 1_000))).unwrap();
            let (start, before) = (slot(&writer, b"key").0, found(&reader, b"key", START).unwrap());
            let renew =
                |writer: &mut Writer<Words>, expiry, guard| writer.renew(b"key", expiry, guard, || START).unwrap();
            assert_eq!(renew(&mut writer, None, Guard::Version(before.version + 2)), Outcome::Refused);
            let done = renew(&mut writer, None, Guard::Version(before.version));
            let after = found(&reader, b"key", START + 5_000).unwrap();
            assert!(after.version > before.version && after.expiry.is_none() && after.size == size);
            assert_eq!(done, Outcome::Done { version: after.version, inserted: false });
            assert_eq!(slot(&writer, b"key"), (start, 0));
            assert_eq!(writer.table().tally().expiring.load(Ordering::Relaxed), 0);
            // Once more is no change.
            assert_eq!(renew(&mut writer, None, Guard::Present), done);
            assert_eq!(found(&reader, b"key", START), Some(after));
            assert_eq!(writer.renew(b"absent", None, Guard::Always, || START), Ok(Outcome::Refused));
        }
    }

    #[test]
    fn a_full_table_gives_a_new_expiry() {
        let (mut writer, reader) = table(64, Eviction::Never);
        let mut keys = Vec::new();
        while put(&mut writer, &keys.len().to_le_bytes(), 500, None).is_ok() {
            keys.push(keys.len());
        }
        put(&mut writer, b"the rest", 1, None).unwrap_or_default();
        let usage = format!("{:?}", writer.table().heap().usage());
        for key in &keys {
            assert_eq!(writer.expire(&key.to_le_bytes(), Expiry(START + 5_000), || START), Ok(true));
        }
        assert_eq!(usage, format!("{:?}", writer.table().heap().usage()));
        assert!(keys.iter().all(|key| found(&reader, &key.to_le_bytes(), START + 4_999).is_some()));
        while !writer.sweep_some(100, START + 1_000) {}
        assert!(writer.table().entries() >= keys.len() as u64);
        while !writer.sweep_some(100, START + 5_000) {}
        while !writer.sweep_some(100, START + 5_000) {}
        assert!(writer.table().entries() <= 1, "the sweep looks at the slots' codes");
    }

    #[test]
    fn a_full_cache_evicts_nothing_for_a_new_expiry() {
        for eviction in [Eviction::AllkeysSieve, Eviction::VolatileTtl] {
            let (mut writer, _) = table(64, eviction);
            let evicted = |writer: &Writer<Words>| writer.table().tally().evicted.load(Ordering::Relaxed);
            let mut keys = 0_u64;
            while evicted(&writer) == 0 {
                put(&mut writer, &keys.to_le_bytes(), 2_000, Some(Expiry(START + 1_000))).unwrap();
                keys += 1;
            }
            let before = evicted(&writer);
            for key in 0..keys {
                writer.expire(&key.to_le_bytes(), Expiry(START + 2_000), || START).unwrap();
            }
            assert_eq!(evicted(&writer), before);
            assert_eq!(writer.table().entries(), keys - before);
        }
    }

    #[test]
    fn what_is_held_keeps_its_bytes_and_what_it_was_found_with() {
        let (mut writer, _) = table(64, Eviction::Never);
        put(&mut writer, b"key", 70_000, None).unwrap();
        let before = writer.hold(b"key", || START).unwrap();
        writer.expire(b"key", Expiry(START + 1), || START).unwrap();
        let after = writer.hold(b"key", || START).unwrap();
        assert_eq!((before.found().expiry, after.found().expiry), (None, Some(Expiry(START + 1))));
        assert!(before.found().version < after.found().version);
        assert!(
            before.bytes().as_ptr() == after.bytes().as_ptr() && before.bytes() == vec![70_000_usize as u8; 70_000]
        );
    }

    /// Each expiry is later than the one before, as each version is higher: so a version has one expiry, and a higher
    /// one no earlier. Entries are moved meanwhile.
    #[test]
    fn readers_see_an_expiry_with_its_own_version() {
        let (mut writer, reader) = table(64, Eviction::Never);
        let keys = [(b"small".as_slice(), 20), (b"large", 3_000)];
        for (key, size) in keys {
            put(&mut writer, key, size, Some(Expiry(START))).unwrap();
        }
        let (stop, mover) = (AtomicBool::new(false), Arc::clone(writer.table()));
        let changes = AtomicU64::new(0);
        let mut at_ms = START;
        let seen = std::thread::scope(|scope| {
            let read = || {
                let mut seen = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    for (key, size) in keys {
                        let mut value = Buffer::default();
                        match reader.get(key, || 0, &mut value) {
                            Lookup::Hit(found) => {
                                assert!(value.bytes() == vec![size as u8; size]);
                                let one = (key, found.version, found.expiry.unwrap());
                                if seen.iter().rev().take(2).all(|seen| *seen != one) {
                                    changes.fetch_add(1, Ordering::Relaxed);
                                    seen.push(one);
                                }
                            }
                            Lookup::Contended => {}
                            other => panic!("{other:?}"),
                        }
                    }
                }
                seen
            };
            let readers = [scope.spawn(read), scope.spawn(read)];
            let moving = scope.spawn(|| {
                let mut writer = Writer::new(mover);
                while !stop.load(Ordering::Relaxed) {
                    for (key, _) in keys {
                        let start = slot(&writer, key).0;
                        writer.relocate(start, false);
                    }
                }
            });
            while changes.load(Ordering::Relaxed) < 2_000 {
                at_ms += 1;
                for (key, _) in keys {
                    assert_eq!(writer.expire(key, Expiry(at_ms), || 0), Ok(true));
                }
                if at_ms.is_multiple_of(100) {
                    std::thread::yield_now();
                }
            }
            stop.store(true, Ordering::Relaxed);
            moving.join().unwrap();
            readers.map(|reader| reader.join().unwrap()).concat()
        });
        assert!(writer.table().tally().moved.load(Ordering::Relaxed) > 0);
        for (key, _) in keys {
            let mut pairs: Vec<_> = seen.iter().filter(|seen| seen.0 == key).map(|seen| (seen.1, seen.2)).collect();
            pairs.sort_unstable();
            pairs.dedup();
            for two in pairs.windows(2) {
                assert!(two[0].0 < two[1].0 && two[0].1 <= two[1].1, "forbidden: {two:?}");
            }
            assert_eq!(found(&reader, key, 0).unwrap().expiry, Some(Expiry(at_ms)), "a move undid a change");
        }
    }
}
