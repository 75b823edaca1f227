//! Models of the checks of a table that was taken over: a worker that goes over all chains, beside another one that
//! changes a key, and a reader.
//!
//! The table has one damaged entry, in the chain of the wanted key.
//!
//! # Allowed
//!
//! - Either of the two workers checks the chain, before anything in it is changed.
//! - The reader finds the wanted key's value, before or after a change. Or `Contended`: it came while the chain was
//!   locked.
//!
//! # Forbidden
//!
//! - A chain that is changed before it was checked, or checked twice: the damage would be counted twice, and memory be
//!   free twice.
//! - That all is said to be checked while something is not.

use loom::thread;

use super::adopt::Damage;
use super::bucket::SLOTS;
use super::loom_table::{FOREIGN, Key, NEW, OLD, Seen, Stage, Words, get, put};
use super::{Eviction, Reader, Table, Writer};
use crate::sync::{Arc, Ordering, model};

/// A table that was taken over: of two entries of a chain the other key's is damaged.
fn taken_over() -> (Arc<Table<Words>>, Reader<Words>, Key, Key) {
    let stage = Stage::new(2).wanted(0, (0, 2)).other(1, (0, 2));
    let Stage { mut writer, reader, wanted, other, .. } = stage;
    put(&mut writer, &other, FOREIGN);
    writer.release();
    let table = Arc::clone(writer.table());
    let hash = table.constants().hash(&other);
    let home = table.bucket(0);
    let slot = (0..SLOTS).map(|index| home.slot(index)).find(|slot| slot.tag() == super::bucket::tag(hash));
    let start = slot.expect("it is there").at() as usize;
    // Another version than any server gives.
    table.words()[start + 1].store(2, Ordering::Relaxed);
    let (table, report) = Table::adopt(Arc::clone(table.memory()), Eviction::Never, &[]).expect("it is a table");
    assert_eq!((report.all_damage(), table.unchecked()), (0, 2), "the model is too small: it was looked at at once");
    (Arc::new(table), reader, wanted, other)
}

#[test]
fn a_check_of_all_against_an_update() {
    let outcomes = model::bounded_outcomes(|| {
        let (table, reader, wanted, other) = taken_over();
        let checking = {
            let mut writer = Writer::new(Arc::clone(&table));
            thread::spawn(move || {
                writer.check_some(2);
                writer
            })
        };
        let mut writer = Writer::new(Arc::clone(&table));
        let was_checked = table.unchecked() < 2;
        let version = put(&mut writer, &wanted, NEW);
        assert!(table.unchecked() < 2, "forbidden: a chain was changed before it was checked");
        let mut checker = checking.join().expect("the other worker ends");
        let found = table.found().expect("it was taken over");
        assert_eq!((found.damaged(Damage::Entry), found.entries), (1, 1), "forbidden: checked twice, or not at all");
        assert_eq!(table.unchecked(), 0, "forbidden: a chain is left out");
        assert_eq!(get(&reader, &wanted), (Seen::New, Some(version)), "forbidden: the update is undone");
        assert_eq!(get(&reader, &other).0, Seen::Miss, "forbidden: a damaged entry is there");
        assert_eq!(table.entries(), 1, "forbidden: entries are counted twice, or not at all");
        [&mut writer, &mut checker].into_iter().for_each(Writer::release);
        let shape = super::entry::Shape { key_size: size_of::<Key>(), value_size: NEW.len(), expires: false };
        assert_eq!(
            table.heap().usage().allocated,
            8 * shape.words() as u64,
            "forbidden: memory is lost, or free twice"
        );
        was_checked
    });
    assert_eq!(outcomes.len(), 2, "the model is too small: it was always checked, or never");
}

#[test]
fn a_reader_against_a_check() {
    let outcomes = model::bounded_outcomes(|| {
        let (table, reader, wanted, _) = taken_over();
        let reading = thread::spawn(move || get(&reader, &wanted));
        let mut writer = Writer::new(Arc::clone(&table));
        while writer.check_some(2) {}
        let (seen, _) = reading.join().expect("the reader ends");
        assert!([Seen::Old, Seen::Contended].contains(&seen), "forbidden: {seen:?} while a chain is checked");
        seen == Seen::Old
    });
    assert!(OLD != NEW && outcomes.len() == 2, "the model is too small: the reader was never in the way");
}
