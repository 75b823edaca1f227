//! Files that are written and read again, and files that are damaged.

use super::format::{REMARK_CHECKSUM, opcode};
use super::*;
use crate::table::Expiry;

/// An entry of its own memory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    key: Vec<u8>,
    value: Vec<u8>,
    expiry: Option<Expiry>,
    is_unevictable: bool,
}

impl Owned {
    fn new(key: &[u8], value: &[u8]) -> Self {
        Self { key: key.to_vec(), value: value.to_vec(), expiry: None, is_unevictable: false }
    }

    fn of(entry: Entry<'_>) -> Self {
        let Entry { key, value, expiry, is_unevictable } = entry;
        Self { key: key.to_vec(), value: value.to_vec(), expiry, is_unevictable }
    }

    fn entry(&self) -> Entry<'_> {
        let Self { key, value, expiry, is_unevictable } = self;
        Entry { key, value, expiry: *expiry, is_unevictable: *is_unevictable }
    }
}

/// What was read of a file before its end, or before its damage.
#[derive(Debug, Default)]
struct Read {
    entries: Vec<Owned>,
    skipped: Vec<Skipped>,
    /// How many entries came before the last checksum.
    checked: usize,
}

fn file_of(entries: &[Owned]) -> Vec<u8> {
    let mut encoder = Encoder::begin(Vec::new(), entries.len() as u64, 0).unwrap();
    for entry in entries {
        encoder.entry(&entry.entry()).unwrap();
    }
    encoder.finish().unwrap().1
}

fn read(file: &[u8]) -> (Read, Result<bool, DecodeError>) {
    let mut read = Read::default();
    let outcome = (|| {
        let mut decoder = Decoder::begin(file)?;
        loop {
            match decoder.next_item()? {
                Item::Entry => read.entries.push(Owned::of(decoder.entry())),
                Item::Skipped(what) => read.skipped.push(what),
                Item::Checked => read.checked = read.entries.len(),
                Item::End { is_checked } => return Ok(is_checked),
            }
        }
    })();
    (read, outcome)
}

/// The items of a file of Redis between its first bytes and its end.
fn foreign(items: &[u8]) -> Vec<u8> {
    let mut file = [b"REDIS0011", items, &[opcode::END]].concat();
    file.extend_from_slice(&Checksum::of(&file).to_le_bytes());
    file
}

#[test]
fn what_is_written_is_read() {
    let entries = [
        Owned::new(b"key", b"value"),
        Owned::new(b"", b""),
        Owned { expiry: Some(Expiry(1_700_000_000_123)), ..Owned::new(b"expires", b"soon") },
        Owned { is_unevictable: true, ..Owned::new(b"stays", b"1") },
        Owned { expiry: Some(Expiry(7)), is_unevictable: true, ..Owned::new(b"both", b"\x00\xff") },
        Owned::new(&[b'k'; 65_535], &[7; 100]),
        Owned::new(b"63", &[1; 63]),
        Owned::new(b"64", &[2; 64]),
        Owned::new(b"16383", &[3; 16_383]),
        Owned::new(b"16384", &[4; 16_384]),
        Owned::new(b"large", &vec![5; 6 << 20]),
    ];
    let (read, outcome) = read(&file_of(&entries));
    assert!(outcome.unwrap(), "it has a checksum");
    assert!(read.entries == entries && read.skipped.is_empty());
    assert_eq!(read.checked, entries.len());
}

/// Byte by byte, so that no version of ours reads its own mistakes only.
#[test]
fn a_file_is_as_the_format_says() {
    let file = file_of(&[Owned { expiry: Some(Expiry(0x0102)), is_unevictable: true, ..Owned::new(b"k", b"value") }]);
    let head =
        [b"REDIS0009\xfa\x09ringtable\x05", env!("CARGO_PKG_VERSION").as_bytes(), b"\xfe\x00\xfb\x01\x00"].concat();
    let entry = b"\xfc\x02\x01\x00\x00\x00\x00\x00\x00\xf9\xff\x00\x01k\x05value";
    let before = [&head[..], entry].concat();
    let remark = format!("\x0dringtable-crc\x10{:016x}", Checksum::of(&before));
    let all = [&before[..], b"\xfa", remark.as_bytes(), b"\xff"].concat();
    assert_eq!(file, [&all[..], &Checksum::of(&all).to_le_bytes()].concat());
}

#[test]
fn the_checksum_is_that_of_redis() {
    // The example in the source of Redis (`crc64.c`).
    assert_eq!(Checksum::of(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
}

#[test]
fn there_is_a_checksum_behind_each_block() {
    let entries: Vec<_> = (0..3_000_u32).map(|n| Owned::new(&n.to_be_bytes(), &[n as u8; 5_000])).collect();
    let file = file_of(&entries);
    let marks = file.windows(REMARK_CHECKSUM.len()).filter(|window| *window == REMARK_CHECKSUM).count();
    assert_eq!(marks as u64, file.len() as u64 / encoder::BLOCK_SIZE + 1);
    // Damage in the last block costs nothing that stands before it.
    let mut damaged = file.clone();
    let place = file.len() - 100_000;
    damaged[place] ^= 1;
    let (read, outcome) = read(&damaged);
    let Err(DecodeError::Damaged { at, .. }) = outcome else { panic!("{outcome:?}") };
    assert!(at > place as u64 && read.checked > 2_000, "{at} {}", read.checked);
    assert!(read.entries[..read.checked] == entries[..read.checked]);
}

#[test]
fn each_flipped_bit_and_each_cut_is_found() {
    let entries: Vec<_> = (0..20_u32)
        .map(|n| Owned { expiry: n.is_multiple_of(3).then_some(Expiry(9)), ..Owned::new(&n.to_be_bytes(), b"value") })
        .collect();
    let file = file_of(&entries);
    let remark = file.windows(REMARK_CHECKSUM.len()).position(|window| window == REMARK_CHECKSUM).unwrap() - 2;
    for size in 0..file.len() {
        let (_, outcome) = read(&file[..size]);
        assert!(matches!(outcome, Err(DecodeError::Damaged { at, .. }) if at <= size as u64), "{size}: {outcome:?}");
    }
    for bit in 0..file.len() * 8 {
        let mut damaged = file.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let (read, outcome) = read(&damaged);
        assert!(outcome.is_err(), "bit {bit} is another one, and nobody notices");
        // The remark tells of what stands before it.
        assert!(read.checked == 0 || bit / 8 >= remark);
    }
    let (_, outcome) = read(&[&file[..], b"!"].concat());
    assert!(matches!(outcome, Err(DecodeError::Damaged { .. })), "{outcome:?}");
}

#[test]
fn strings_of_all_kinds_are_read() {
    let items = [
        &b"\x00\x01a\xc0\xfe"[..],
        b"\x00\x01b\xc1\x00\x80",
        b"\x00\x01c\xc2\x15\xcd\x5b\x07",
        b"\x00\x01d\xc3\x04\x04\x00a\x20\x00",
        b"\x00\xc0\x07\x80\x00\x00\x00\x02hi",
        b"\x00\x01e\x81\x00\x00\x00\x00\x00\x00\x00\x02hi",
        b"\x00\x01f\x40\x02hi",
        b"\xfd\x02\x00\x00\x00\x00\x01g\x00",
        b"\xf8\x07\xf9\xff\x00\x01h\x00",
    ];
    let (read, outcome) = read(&foreign(&items.concat()));
    assert!(outcome.unwrap());
    let expected = [
        Owned::new(b"a", b"-2"),
        Owned::new(b"b", b"-32768"),
        Owned::new(b"c", b"123456789"),
        Owned::new(b"d", b"aaaa"),
        Owned::new(b"7", b"hi"),
        Owned::new(b"e", b"hi"),
        Owned::new(b"f", b"hi"),
        Owned { expiry: Some(Expiry(2_000)), ..Owned::new(b"g", b"") },
        // The highest frequency means something in our own files only.
        Owned::new(b"h", b""),
    ];
    assert_eq!(read.entries, expected);
}

#[test]
fn what_a_table_cannot_have_is_passed_over() {
    let key = b"\x03key";
    let stream = |code: u8| {
        let counts: &[u8] = if code >= 19 { &[1, 5, 1, 5, 1, 0, 0, 1] } else { &[1, 5, 1] };
        let seen: &[u8] = if code >= 21 { &[9; 16] } else { &[9; 8] };
        let group: &[u8] = if code >= 19 { b"\x05group\x05\x01\x01" } else { b"\x05group\x05\x01" };
        let pending = [&[1][..], &[3; 24], &[1]].concat();
        let consumer = [&[1][..], b"\x01c", seen, &[1], &[3; 16]].concat();
        [&[1][..], b"\x02id\x04pack", counts, &[1], group, &pending, &consumer].concat()
    };
    let module = b"\x2a\x02\x07\x01\x05\x03abcd\x04abcdefgh\x05\x02hi\x00";
    let values: &[(u8, &[u8], &str)] = &[
        (1, b"\x02\x01a\xc0\x07", "lists"),
        (2, b"\x01\x01a", "sets"),
        (3, b"\x02\x01a\x033.5\x01b\xfe", "sorted sets"),
        (4, b"\x01\x01f\x01v", "hashes"),
        (5, b"\x01\x01abcdefgh8", "sorted sets"),
        (7, module, "values of modules"),
        (9, b"\x03zip", "hashes"),
        (10, b"\x03zip", "lists"),
        (11, b"\x03int", "sets"),
        (12, b"\x03zip", "sorted sets"),
        (13, b"\xc3\x04\x04\x00a\x20\x00", "hashes"),
        (14, b"\x02\x01a\x01b", "lists"),
        (15, &stream(15), "streams"),
        (16, b"\x03lst", "hashes"),
        (17, b"\x03lst", "sorted sets"),
        (18, b"\x02\x01\x01a\x02\x03lst", "lists"),
        (19, &stream(19), "streams"),
        (20, b"\x03lst", "sets"),
        (21, &stream(21), "streams"),
        (24, b"12345678\x01\x05\x01f\x01v", "hashes"),
        (25, b"12345678\x03lst", "hashes"),
    ];
    for (code, value, name) in values {
        let items = [&[*code][..], key, value, b"\x00\x03end\x04here"].concat();
        let (read, outcome) = read(&foreign(&items));
        assert!(outcome.is_ok(), "type {code}: {outcome:?}");
        assert_eq!((read.skipped, read.entries), (vec![Skipped::Type(name)], vec![Owned::new(b"end", b"here")]));
        // Whatever is missing of it is missed, and nothing is read twice.
        for size in 0..items.len() {
            assert!(super::tests::read(&[b"REDIS0011", &items[..size]].concat()).1.is_err());
        }
    }
    let beside: &[(&[u8], Skipped)] = &[
        (b"\xf5\x04code", Skipped::Functions),
        (b"\xf7\x2a\x02\x01\x02\x07\x00", Skipped::ModuleData),
        (b"\xfe\x01\x00\x01k\x01v\xfe\x00", Skipped::OtherDatabase),
        (&[b"\x00\x80\x00\x01\x00\x00", &[b'k'; 65_536][..], b"\x01v"].concat(), Skipped::LongKey),
    ];
    for (item, expected) in beside {
        let (read, outcome) = read(&foreign(&[item, &b"\xf4\x01\x02\x03\x00\x03end\x04here"[..]].concat()));
        assert!(outcome.is_ok(), "{expected:?}: {outcome:?}");
        assert_eq!((read.skipped, read.entries), (vec![*expected], vec![Owned::new(b"end", b"here")]));
    }
}

#[test]
fn a_file_of_valkey_is_read() {
    let items = b"\xf3\x03job\x01\x00\x05\x16\x01h\x01\x01f\x01v12345678\x00\x03key\x05value";
    let mut file = [b"VALKEY080", &items[..], &[opcode::END]].concat();
    file.extend_from_slice(&Checksum::of(&file).to_le_bytes());
    let (read, outcome) = read(&file);
    assert!(outcome.unwrap());
    assert_eq!((read.skipped, read.entries), (vec![Skipped::Type("hashes")], vec![Owned::new(b"key", b"value")]));
}

#[test]
fn lies_and_nonsense_are_errors_that_name_the_byte() {
    let cases: &[(&[u8], u64, &str)] = &[
        (b"\x00\x01k\x80\xff\xff\xff\xff", 17, "the end"),
        (b"\x00\x01k\x81\xff\xff\xff\xff\xff\xff\xff\xff", 21, "the end"),
        (b"\x00\x01k\xc3\x01\x80\x20\x00\x00\x00", 12, "1 bytes that were 536870912 bytes"),
        (b"\x00\x01k\xc3\x02\x05\x00a", 12, "a compressed string that is damaged"),
        (b"\x00\x01k\xc4", 12, "a string of kind 4"),
        (b"\xfe\xc0", 10, "a string of kind 0, where a length should be"),
        (b"\x00\x90", 10, "144, which begins no length"),
        (b"\x63\x01k", 9, "a value of type 99"),
        (b"\x07\x01k\x2a\x09", 13, "a piece of kind 9"),
        (b"\xfa\x0dringtable-crc\x02xy", 9, "a checksum that is not that"),
        (b"\xff12345678", 10, "a checksum that is not that"),
    ];
    for (items, place, words) in cases {
        let (_, outcome) = read(&[b"REDIS0011", *items].concat());
        let error = outcome.unwrap_err();
        assert!(error.to_string().contains(words), "{items:?}: {error}");
        let (DecodeError::Damaged { at, .. } | DecodeError::Unknown { at, .. }) = error else { panic!("{error:?}") };
        assert_eq!(at, *place, "{items:?}: {error}");
    }
    for file in [&b""[..], b"REDIS", b"REDIS00x1", b"*3\r\n$3\r\nSET", b"VALKEYxyz"] {
        let (_, outcome) = read(file);
        assert!(matches!(outcome, Err(DecodeError::Damaged { at: 0, .. })), "{outcome:?}");
    }
    // The checksum that Redis leaves out.
    let (_, outcome) = read(b"REDIS0011\xff\x00\x00\x00\x00\x00\x00\x00\x00");
    assert!(!outcome.unwrap());
    let (_, outcome) = read(b"REDIS0003\xff");
    assert!(!outcome.unwrap());
}

#[test]
fn random_files_survive_whatever_is_changed_in_them() {
    let seed = std::env::var("RINGTABLE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(fastrand::u64(..));
    println!("RINGTABLE_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..200 {
        let mut entries = Vec::new();
        for n in 0..random.u32(..50) {
            let most = 1 << random.u32(..12);
            let value = vec![n as u8; random.usize(..most)];
            let expiry = random.bool().then(|| Expiry(random.u64(..1 << 60)));
            entries.push(Owned { expiry, is_unevictable: random.bool(), ..Owned::new(&n.to_be_bytes(), &value) });
        }
        let mut file = file_of(&entries);
        let (whole, outcome) = read(&file);
        assert!(outcome.unwrap() && whole.entries == entries);
        let before = file.clone();
        for _ in 0..random.u32(1..4) {
            let (begin, count) = (random.usize(..file.len()), random.usize(..8));
            let end = (begin + count).min(file.len());
            match random.u8(..3) {
                0 => drop(file.drain(begin..end)),
                1 => file[begin..end].fill_with(|| random.u8(..)),
                _ => drop(file.splice(begin..begin, before[..count.min(before.len())].to_vec())),
            }
            if file.is_empty() {
                break;
            }
        }
        let (read, outcome) = read(&file);
        assert!(file == before || outcome.is_err());
        assert!(read.entries[..read.checked] == entries[..read.checked]);
    }
}
