//! Changes of a table that are written, played again, cut off and damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::super::rdb::Checksum;
use super::file::{HEAD, SUM, begun, of_head};
use super::*;
use crate::disk::Error;
use crate::shm::random::random;
use crate::shm::segment::{Mapping, Segment};
use crate::sync::Arc;
use crate::table::{Eviction, Expiry, Guard, Mark, Options, Pairs, Table, Want, Writer};

/// A file that is removed in the end.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("ringtable-test-{:016x}", random())))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A table, and the queue that its changes go to.
fn table() -> (Writer<Mapping>, Arc<Queue>) {
    let segment = Segment::create("ringtable-test", 16 << 20).unwrap();
    let options = Options { buckets: 8, seed: 1, workers: 1, spin_ns: 0, eviction: Eviction::Never };
    let table = Arc::new(Table::create(segment.map_writable().unwrap(), &options).unwrap());
    let queue = Arc::new(Queue::default());
    queue.belongs_to(&table);
    table.write_journal(Box::new(Arc::clone(&queue)));
    (Writer::new(table), queue)
}

type Contents = BTreeMap<Vec<u8>, (Vec<u8>, Option<Expiry>, bool)>;

fn contents(table: &Arc<Table<Mapping>>) -> Contents {
    let (mut pairs, mut cursor) = (Pairs::default(), 0);
    loop {
        cursor = table.scan(cursor, Want::Values, || 0, &mut pairs);
        if cursor == 0 {
            break;
        }
    }
    let entry = |pair: crate::table::Pair<'_>| (pair.value.to_vec(), pair.expiry, pair.is_unevictable);
    pairs.iter().map(|pair| (pair.key.to_vec(), entry(pair))).collect()
}

/// What a file brings a table to.
fn played(path: &std::path::Path, whole: u64) -> Contents {
    let mut found = Contents::new();
    play::<Error>(path, whole, |operation| {
        match operation {
            Operation::Set { key, value, expiry, is_unevictable } => {
                found.insert(key.to_vec(), (value.to_vec(), expiry, is_unevictable));
            }
            Operation::Renew(key, expiry) => found.get_mut(key).unwrap().1 = expiry,
            Operation::Delete(key) => drop(found.remove(key)),
        }
        Ok(())
    })
    .unwrap();
    found
}

fn surveyed(path: &std::path::Path, synced: u64) -> Result<LogContents, Error> {
    survey_log(path, synced, |_| true).map(|contents| contents.expect("it goes on"))
}

fn seeded() -> fastrand::Rng {
    let seed = std::env::var("RINGTABLE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(fastrand::u64(..));
    println!("RINGTABLE_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

fn change(writer: &mut Writer<Mapping>, random: &mut fastrand::Rng) {
    let key = random.u8(..40).to_string();
    let key = key.as_bytes();
    let expiry = random.bool().then(|| Expiry(random.u64(1_000..1 << 40)));
    match random.u8(..10) {
        0..5 => {
            let most = 1 << random.u32(..15);
            let value: Vec<u8> = (0..random.usize(..most)).map(|_| random.u8(..)).collect();
            let mark = [Mark::AsBefore, Mark::Evictable, Mark::Unevictable][random.usize(..3)];
            writer.put_marked(key, &value, expiry, Guard::Always, mark, || 0).unwrap();
        }
        5 | 6 => {
            writer.renew(key, expiry, Guard::Always, || 0).unwrap();
        }
        7 | 8 => {
            writer.delete(key, || 0);
        }
        _ if random.u8(..10) == 0 => {
            let mut next = Some(0);
            while let Some(first) = next {
                next = writer.clear_some(first, 1);
            }
        }
        _ => {}
    }
}

#[test]
fn what_is_logged_makes_another_table_the_same_wherever_it_is_cut() {
    let mut random = seeded();
    let file = Temporary::new();
    let (mut writer, queue) = table();
    let mut log = LogFile::create(&file.0, 0).unwrap();
    let mut states = vec![(log.size(), Contents::new())];
    let mut spare = Batch::default();
    for _ in 0..60 {
        for _ in 0..random.u32(1..20) {
            change(&mut writer, &mut random);
        }
        let batch = queue.take(spare, Some(Duration::ZERO));
        assert_eq!(batch.end, queue.position());
        if !batch.is_empty() {
            log.append(&batch).unwrap();
            states.push((log.size(), contents(writer.table())));
        }
        if random.u8(..4) == 0 {
            log.sync().unwrap();
            assert!(log.is_synced());
        }
        spare = queue.release(batch);
    }
    drop(spare);
    assert_eq!(queue.held(), 0);
    assert_eq!(writer.table().reclaimer().holds(), 0);
    let whole = fs::read(&file.0).unwrap();
    let found = surveyed(&file.0, log.size()).unwrap();
    assert_eq!((found.whole, found.size), (log.size(), whole.len() as u64));
    assert!(found.records > 100);
    assert!(played(&file.0, found.whole) == states.last().unwrap().1);
    // Cut off anywhere, also with something behind that was never written so: the last batch before that counts.
    for _ in 0..300 {
        let cut = random.usize(..=whole.len());
        let mut torn = whole[..cut].to_vec();
        match random.u8(..3) {
            0 => torn.extend_from_slice(&[0; 100]),
            1 => torn.extend((0..50).map(|_| random.u8(..))),
            _ => {}
        }
        fs::write(&file.0, &torn).unwrap();
        let expected = states.iter().rev().find(|(end, _)| *end <= cut as u64);
        let found = surveyed(&file.0, 0);
        match expected {
            // The first line was on the disk before anybody heard of the file.
            None => assert!(matches!(found, Err(Error::Damaged { .. }))),
            Some((end, state)) => {
                let found = found.unwrap();
                assert_eq!(found.whole, *end);
                assert!(played(&file.0, found.whole) == *state);
            }
        }
        // But not if it was on the disk as a whole.
        if cut < whole.len() {
            assert!(matches!(surveyed(&file.0, log.size()), Err(Error::Damaged { .. })), "{cut}");
        }
    }
}

#[test]
fn damage_of_what_was_synced_is_told_from_a_torn_tail() {
    let mut random = seeded();
    let file = Temporary::new();
    let (mut writer, queue) = table();
    let mut log = LogFile::create(&file.0, 0).unwrap();
    let (mut ends, mut states) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        for _ in 0..10 {
            change(&mut writer, &mut random);
        }
        // A value that looks like a batch, and is none: nobody knows the nonce.
        writer.put(b"key", b"\n#ringtable-sum 0123456789abcdef 35 99999999\n", None, Guard::Always, || 0).unwrap();
        log.append(&queue.take(Batch::default(), Some(Duration::ZERO))).unwrap();
        log.sync().unwrap();
        ends.push(log.size());
        states.push(contents(writer.table()));
    }
    let whole = fs::read(&file.0).unwrap();
    let last = ends[ends.len() - 2];
    for _ in 0..300 {
        let mut damaged = whole.clone();
        let bit = random.usize(..8 * whole.len());
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(&file.0, &damaged).unwrap();
        let found = surveyed(&file.0, 0);
        if (bit / 8) < last as usize {
            // A later batch says that this one was on the disk.
            let Err(Error::Damaged { error, .. }) = found else { panic!("bit {bit}: {found:?}") };
            let place = error.to_string();
            assert!(place.starts_with("at byte "), "{place}");
        } else {
            assert_eq!(found.unwrap().whole, last);
            assert!(played(&file.0, last) == states[states.len() - 2]);
        }
    }
}

/// A file with one batch, in which this stands, and whose line says that so much was on the disk.
fn file_of(text: &[u8], synced: u64) -> Vec<u8> {
    let mut file = format!("{HEAD}{:016x} {:016x} {:016x}\n", 7, 0, of_head(7, 0)).into_bytes();
    append_batch(&mut file, text, synced);
    file
}

fn append_batch(file: &mut Vec<u8>, text: &[u8], synced: u64) {
    let line = format!(" {} {synced}\n", file.len());
    let mut sum = begun(7);
    sum.update(text);
    sum.update(line.as_bytes());
    file.extend_from_slice(text);
    file.extend_from_slice(format!("{SUM}{:016x}{line}", sum.value()).as_bytes());
}

#[test]
fn a_command_that_no_log_has_is_damage() {
    let file = Temporary::new();
    let text = b"*2\r\n$3\r\nDEL\r\n$1\r\na\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n";
    let whole = file_of(text, 0);
    let size = whole.len() as u64;
    fs::write(&file.0, &whole).unwrap();
    assert_eq!(surveyed(&file.0, size).unwrap(), LogContents { records: 2, whole: size, size });
    for bad in [&b"*1\r\n$8\r\nFLUSHALL\r\n"[..], b"*3\r\n$4\r\nINCR\r\n$1\r\nk\r\n$1\r\n1\r\n", b"*9\r\n", b"hello\n"]
    {
        let bad = file_of(&[text, bad].concat(), 0);
        fs::write(&file.0, &bad).unwrap();
        assert!(matches!(surveyed(&file.0, bad.len() as u64), Err(Error::Damaged { whole: 0, .. })));
    }
    // No file begins without its first line.
    for none in [&b""[..], text] {
        fs::write(&file.0, none).unwrap();
        assert!(matches!(surveyed(&file.0, 0), Err(Error::Damaged { whole: 0, .. })));
    }
}

#[test]
fn values_full_of_what_looks_like_the_end_of_a_batch_cost_no_more_than_others() {
    let file = Temporary::new();
    let head = file_of(b"", 0).len();
    // Each of them says that its batch begins where the damage does.
    let bait = format!("#ringtable-sum 0123456789abcdef {head} 9999999999\n").repeat(2_000);
    let set = |value: &str| format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{value}\r\n", value.len());
    for is_synced in [false, true] {
        let mut torn = file_of(b"", 0);
        torn.extend_from_slice(b"damage\n");
        append_batch(&mut torn, set(&bait).as_bytes(), if is_synced { head as u64 + 1 } else { head as u64 });
        fs::write(&file.0, &torn).unwrap();
        let found = surveyed(&file.0, 0);
        assert_eq!(matches!(found, Err(Error::Damaged { .. })), is_synced, "{found:?}");
    }
}

#[test]
fn the_next_file_says_how_much_of_one_was_on_the_disk() {
    let folder = std::env::temp_dir().join(format!("ringtable-test-{:016x}", random()));
    fs::create_dir(&folder).unwrap();
    let (mut writer, queue) = table();
    let mut first = LogFile::create(&changes_path(&folder, 1), 0).unwrap();
    let mut log = |log: &mut LogFile, key: &[u8]| {
        writer.put(key, b"value", None, Guard::Always, || 0).unwrap();
        log.append(&queue.take(Batch::default(), Some(Duration::ZERO))).unwrap();
    };
    log(&mut first, b"a");
    first.sync().unwrap();
    log(&mut first, b"b");
    assert!(!first.is_synced());
    let mut second = LogFile::create(&changes_path(&folder, 2), first.synced()).unwrap();
    log(&mut second, b"c");
    let records = |found: Vec<(PathBuf, LogContents)>| found.iter().map(|(_, found)| found.records).collect::<Vec<_>>();
    assert_eq!(records(survey_logs(&folder, &[1, 2], |_| true).unwrap().unwrap()), [2, 1]);
    for (left, expected) in
        [(first.size() - 1, Some([1, 1])), (first.synced(), Some([1, 1])), (first.synced() - 1, None)]
    {
        super::super::file::truncate(first.path(), left).unwrap();
        match expected {
            Some(expected) => assert_eq!(records(survey_logs(&folder, &[1, 2], |_| true).unwrap().unwrap()), expected),
            None => assert!(matches!(survey_logs(&folder, &[1, 2], |_| true), Err(Error::Damaged { .. }))),
        }
    }
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn what_is_queued_counts_and_what_is_dropped_does_not() {
    let (mut writer, queue) = table();
    writer.put(b"key", &[1; 10_000], None, Guard::Always, || 0).unwrap();
    let before = queue.position();
    assert!(before > 10_000);
    assert_eq!(writer.table().reclaimer().holds(), 1);
    assert_eq!(queue.drop_records(true), before);
    assert_eq!(writer.table().reclaimer().holds(), 0);
    writer.put(b"key", b"", None, Guard::Always, || 0).unwrap();
    assert_eq!((queue.position(), queue.drop_records(false)), (before, before));
    writer.delete(b"key", || 0);
    let batch = queue.take(Batch::default(), Some(Duration::ZERO));
    assert_eq!((batch.records, batch.size(), batch.end), (1, 22, before + 22));
    assert_eq!(batch.pieces().collect::<Vec<_>>().concat(), b"*2\r\n$3\r\nDEL\r\n$3\r\nkey\r\n");
    // A bell that was rung before is heard.
    queue.ring();
    assert!(queue.take(Batch::default(), None).is_empty());
}

/// Lines of a manifest, with their checksum.
fn summed(lines: &str) -> String {
    format!("{lines}{SUM}{:016x}\n", Checksum::of(lines.as_bytes()))
}

#[test]
fn a_manifest_is_as_redis_writes_it() {
    let folder = std::env::temp_dir().join(format!("ringtable-test-{:016x}", random()));
    fs::create_dir(&folder).unwrap();
    assert_eq!(Manifest::read(&folder).unwrap(), None);
    let manifest = Manifest { base: 2, changes: vec![3, 5] };
    manifest.write(&folder).unwrap();
    assert_eq!(Manifest::read(&folder).unwrap().unwrap(), manifest);
    assert_eq!(manifest.next(), 6);
    let path = folder.join("appendonly.aof.manifest");
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(
        text,
        summed(
            "file appendonly.aof.2.base.rdb seq 2 type b\nfile appendonly.aof.3.incr.aof seq 3 type i\n\
             file appendonly.aof.5.incr.aof seq 5 type i\n"
        )
    );
    fs::create_dir(folder.join("appendonly.aof.7.incr.aof")).unwrap();
    for name in [
        "appendonly.aof.1.base.rdb",
        "appendonly.aof.2.base.rdb",
        "appendonly.aof.4.incr.aof",
        "other",
        ".ringtable-01",
    ] {
        fs::write(folder.join(name), b"").unwrap();
    }
    manifest.remove_others(&folder).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["appendonly.aof.2.base.rdb", "appendonly.aof.7.incr.aof", "appendonly.aof.manifest", "other"]);
    // Also at the end of a line nothing may be missing.
    for (at, _) in text.match_indices('\n') {
        for cut in [at, at + 1].into_iter().filter(|&cut| cut < text.len()) {
            fs::write(&path, &text[..cut]).unwrap();
            assert!(matches!(Manifest::read(&folder), Err(Error::Damaged { .. })), "{cut}");
        }
    }
    let beyond = format!("file appendonly.aof.{0}.base.rdb seq {0} type b\n", u64::MAX);
    for bad in [
        "",
        &beyond,
        "file ../etc/passwd seq 1 type b\n",
        "file appendonly.aof.2.base.rdb seq 1 type b\n",
        "file appendonly.aof.2.base.rdb seq 2 type b\nfile appendonly.aof.1.base.rdb seq 1 type h\n",
        "file appendonly.aof.3.incr.aof seq 3 type i\n",
    ] {
        fs::write(&path, summed(bad)).unwrap();
        assert!(matches!(Manifest::read(&folder), Err(Error::Damaged { .. })), "{bad:?}");
    }
    fs::remove_dir_all(&folder).unwrap();
}
