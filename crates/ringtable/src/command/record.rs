//! Requests and replies as they flow through a lane: framed records of whole 64-bit words.
//!
//! ```text
//! request   word 0   bytes of the record u32 | command number u16 | number of arguments u16
//!           …        an u32 length for each argument, filled up to whole words
//!           …        the arguments, each filled up to whole words
//!
//! reply     word 0   bytes of the record u32 | kind u8 | filling bytes at the end u8 | 0 u16
//!           …        by kind: nothing, a 64-bit number, bytes, or (array, map) a count and that many replies
//! ```
//!
//! A record's size comes first, so that either side knows at once how much to wait for, and a value larger than the
//! ring flows through in pieces. Inside an array the sizes of arrays are 0: only the outermost one is needed.
//!
//! Everything here works on private copies (I4): what was checked cannot change any more.

use std::ops::Range;

use super::arguments::Arguments;
use super::commands::COMMANDS;
use super::execute::Command;
use super::reply::{Destination, Reply, ReplyWriter, try_copy};
use crate::limits;
use crate::ring::spsc::{Producer, Ring};
use crate::shm::segment::Mapping;
use crate::table::Held;

/// Bytes of the word that every record begins with.
pub const HEADER_SIZE: usize = 8;
/// Largest head of a request (word 0 and lengths) of a command with few arguments, which is kept on the stack.
const SMALL_HEAD: usize = 64;

/// A record that no honest peer sends. The connection cannot be used any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The size is no multiple of 8, too small for what it should hold, or too large.
    #[error("a record claims {size} bytes (allowed: multiples of 8 from 8 to {max})")]
    Size {
        /// What it claims.
        size: usize,
        /// The largest that is allowed.
        max: usize,
    },
    /// There is no command of that number.
    #[error("there is no command number {0}")]
    Command(u16),
    /// The lengths of the arguments do not add up to the record's size.
    #[error("a record of {size} bytes claims arguments of {claimed} bytes")]
    Arguments {
        /// Size of the record.
        size: usize,
        /// What its arguments would need.
        claimed: usize,
    },
    /// There is no memory for the reply, which is none of the peer's doing.
    #[error("no memory for a reply")]
    NoMemory,
    /// A reply of a kind that there is not, or nested too deeply, or cut off.
    #[error("a reply that cannot be read: {0}")]
    Reply(&'static str),
}

/// The size that a record's first word claims, if it is one that can be.
pub fn record_size(word: u64, max: usize) -> Result<usize, RecordError> {
    let size = (word & 0xffff_ffff) as usize;
    if size < HEADER_SIZE || !size.is_multiple_of(8) || size > max {
        return Err(RecordError::Size { size, max });
    }
    Ok(size)
}

/// Decodes a request from a private copy of its record. `ranges` is a place for the arguments' ranges.
pub fn decode_request<'a>(record: &'a [u8], ranges: &'a mut Vec<Range<usize>>) -> Result<Command<'a>, RecordError> {
    let word = |at: usize| record.get(at..at + 8).map(|bytes| u64::from_ne_bytes(bytes.try_into().unwrap_or_default()));
    let first = word(0).ok_or(RecordError::Size { size: record.len(), max: limits::REQUEST_SIZE_MAX })?;
    let (number, count) = ((first >> 32) as u16, (first >> 48) as usize);
    let spec = COMMANDS.get(usize::from(number)).ok_or(RecordError::Command(number))?;
    let mut at = HEADER_SIZE + (4 * count).next_multiple_of(8);
    let lengths = record
        .get(HEADER_SIZE..HEADER_SIZE + 4 * count)
        .ok_or(RecordError::Arguments { size: record.len(), claimed: at })?;
    ranges.clear();
    for length in lengths.as_chunks::<4>().0 {
        let length = u32::from_ne_bytes(*length) as usize;
        ranges.push(at..at + length);
        at += length.next_multiple_of(8);
    }
    if at != record.len() {
        return Err(RecordError::Arguments { size: record.len(), claimed: at });
    }
    Ok(Command { spec, arguments: Arguments::new(record, ranges) })
}

/// The number of `SET`, whose value may flow past the rest of its record.
const SET: u16 = 1;
/// Most arguments of such a `SET`: more than it has options.
const SET_ARGUMENTS_MAX: usize = 16;

/// Bytes of the head (word 0 and lengths) of a record that begins with `word`, if that may be a `SET` with a large
/// value.
#[inline]
pub fn large_set(word: u64) -> Option<usize> {
    let (size, number, count) = ((word & 0xffff_ffff) as usize, (word >> 32) as u16, (word >> 48) as usize);
    let may_be = size >= limits::LARGE_VALUE_SIZE && number == SET && (2..=SET_ARGUMENTS_MAX).contains(&count);
    may_be.then_some(HEADER_SIZE + (4 * count).next_multiple_of(8))
}

/// The sizes of key and value of a record with this head, for which [`large_set`] holds, if the value is large indeed
/// and lies within the record.
pub fn large_set_sizes(head: &[u8]) -> Option<(usize, usize)> {
    let [size, _, key, value, ..] = *head.as_chunks::<4>().0 else { return None };
    let [size, key, value] = [size, key, value].map(|bytes| u32::from_ne_bytes(bytes) as usize);
    let filled_up = head.len() + key.next_multiple_of(8) + value.next_multiple_of(8);
    (key <= limits::KEY_SIZE_MAX && value >= limits::LARGE_VALUE_SIZE && filled_up <= size).then_some((key, value))
}

/// Makes the record of a `SET` one with an empty value, since the value is not in it. Returns its size.
pub fn cut_value(record: &mut [u8]) -> usize {
    let [size, _, _, value, ..] = record.as_chunks_mut::<4>().0 else { return record.len() };
    let cut = (u32::from_ne_bytes(*value) as usize).next_multiple_of(8);
    let left = u32::from_ne_bytes(*size) as usize - cut;
    *size = (left as u32).to_ne_bytes();
    *value = [0; 4];
    left
}

/// A request ready to be written: its head, and where its arguments are.
pub struct RequestHead<'a> {
    small: [u8; SMALL_HEAD],
    large: Vec<u8>,
    used: usize,
    arguments: &'a [&'a [u8]],
    size: usize,
}

impl<'a> RequestHead<'a> {
    /// The request for command `number` with `arguments`.
    ///
    /// # Errors
    /// If it has too many arguments, or is too large.
    #[inline]
    pub fn new(number: u16, arguments: &'a [&'a [u8]]) -> Result<Self, RecordError> {
        let count = arguments.len();
        let used = HEADER_SIZE + (4 * count).next_multiple_of(8);
        let size = used + arguments.iter().map(|argument| argument.len().next_multiple_of(8)).sum::<usize>();
        if size > limits::REQUEST_SIZE_MAX || count > usize::from(u16::MAX) {
            return Err(RecordError::Size { size, max: limits::REQUEST_SIZE_MAX });
        }
        let mut head = Self { small: [0; SMALL_HEAD], large: Vec::new(), used, arguments, size };
        let bytes = if used <= SMALL_HEAD {
            &mut head.small[..used]
        } else {
            head.large.resize(used, 0);
            &mut head.large[..]
        };
        let word = size as u64 | u64::from(number) << 32 | (count as u64) << 48;
        bytes[..8].copy_from_slice(&word.to_ne_bytes());
        for (argument, length) in arguments.iter().zip(bytes[8..].as_chunks_mut::<4>().0) {
            *length = (argument.len() as u32).to_ne_bytes();
        }
        Ok(head)
    }

    /// Bytes of the whole record.
    #[inline]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The pieces of the record, each to be filled up to whole words.
    #[inline]
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let head = if self.large.is_empty() { &self.small[..self.used] } else { &self.large[..] };
        std::iter::once(head).chain(self.arguments.iter().copied())
    }

    /// Appends the whole record to `out`.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        for piece in self.pieces() {
            out.extend_from_slice(piece);
            out.resize(out.len().next_multiple_of(8), 0);
        }
    }

    /// Writes the whole record; there must be room.
    #[inline]
    pub fn write(&self, producer: &mut Producer, ring: Ring<'_>) {
        for piece in self.pieces() {
            producer.write(ring, piece);
        }
    }
}

/// The kinds of reply records.
mod kind {
    pub const NIL: u8 = 0;
    pub const OK: u8 = 1;
    pub const STATUS: u8 = 2;
    pub const ERROR: u8 = 3;
    pub const INTEGER: u8 = 4;
    pub const BOOLEAN: u8 = 5;
    pub const DOUBLE: u8 = 6;
    pub const BULK: u8 = 7;
    pub const ARRAY: u8 = 8;
    pub const MAP: u8 = 9;
}

/// Writes one reply as a record to the end of a buffer that holds whole records.
pub struct RecordWriter<'a, D = Vec<u8>> {
    out: &'a mut D,
    start: usize,
    /// Bytes of the record that are not in the buffer.
    held: usize,
    nested: bool,
}

impl<'a, D: Destination> RecordWriter<'a, D> {
    /// A writer of one reply. Call [`Self::finish`] when it is complete.
    #[inline]
    pub fn new(out: &'a mut D) -> Self {
        let start = out.bytes().len();
        Self { out, start, held: 0, nested: false }
    }

    /// Puts the size of an array or map into its first word. Returns the size of the record.
    #[inline]
    pub fn finish(self) -> usize {
        let out = self.out.bytes();
        let size = out.len() - self.start + self.held;
        if self.nested {
            out[self.start..self.start + 4].copy_from_slice(&(size as u32).to_ne_bytes());
        }
        size
    }

    /// Begins a reply of so many bytes. Returns how many it takes to fill it up.
    #[inline]
    fn begin(&mut self, kind: u8, size: usize) -> usize {
        let whole = HEADER_SIZE + size.next_multiple_of(8);
        let filling = whole - HEADER_SIZE - size;
        let word = whole as u64 | u64::from(kind) << 32 | (filling as u64) << 40;
        self.out.bytes().extend_from_slice(&word.to_ne_bytes());
        filling
    }

    #[inline]
    fn put(&mut self, kind: u8, bytes: &[u8]) {
        let filling = self.begin(kind, bytes.len());
        let out = self.out.bytes();
        out.extend_from_slice(bytes);
        out.extend_from_slice(&[0; 8][..filling]);
    }

    fn open(&mut self, kind: u8, count: usize) {
        self.nested = true;
        let out = self.out.bytes();
        out.extend_from_slice(&(u64::from(kind) << 32).to_ne_bytes());
        out.extend_from_slice(&(count as u64).to_ne_bytes());
    }
}

impl<D: Destination> ReplyWriter for RecordWriter<'_, D> {
    #[inline]
    fn ok(&mut self) {
        self.put(kind::OK, &[]);
    }

    fn status(&mut self, text: &str) {
        self.put(kind::STATUS, text.as_bytes());
    }

    fn error(&mut self, message: &str) {
        self.put(kind::ERROR, message.as_bytes());
    }

    fn nil(&mut self) {
        self.put(kind::NIL, &[]);
    }

    fn integer(&mut self, value: i64) {
        self.put(kind::INTEGER, &value.to_ne_bytes());
    }

    fn boolean(&mut self, value: bool) {
        self.put(kind::BOOLEAN, &u64::from(value).to_ne_bytes());
    }

    fn bulk(&mut self, bytes: &[u8]) {
        self.put(kind::BULK, bytes);
    }

    /// The value's whole words are held, so that pieces of whole words go out; what is behind them is copied.
    fn value(&mut self, held: Held<Mapping>) {
        let size = held.bytes().len();
        let (whole, rest) = (size / 8 * 8, size % 8);
        let mut last = [0; 8];
        last[..rest].copy_from_slice(&held.bytes()[whole..]);
        let filling = self.begin(kind::BULK, size);
        self.held += self.out.hold(held, whole);
        self.out.bytes().extend_from_slice(&last[..rest + filling]);
    }

    fn array(&mut self, count: usize) {
        self.open(kind::ARRAY, count);
    }

    fn map(&mut self, pairs: usize) {
        self.open(kind::MAP, pairs);
    }

    fn double(&mut self, value: f64) {
        self.put(kind::DOUBLE, &value.to_ne_bytes());
    }
}

/// Decodes one reply from a private copy of its record; it counts as dropped if there is no memory for it once more.
pub fn decode_reply(record: &[u8]) -> Result<Reply, RecordError> {
    let mut rest = record;
    match decode_nested(&mut rest, 0) {
        Ok(_) if !rest.is_empty() => Err(RecordError::Reply("more bytes than it needs")),
        Err(RecordError::NoMemory) => Ok(Reply::Dropped(record.len())),
        decoded => decoded,
    }
}

/// The same from a record that is not needed any more: a string of bytes, which may be large, stays where it is.
pub fn decode_owned(mut record: Vec<u8>) -> Result<Reply, RecordError> {
    let word = record.first_chunk::<8>().map_or(0, |word| u64::from_ne_bytes(*word));
    let (kind, filling) = ((word >> 32) as u8, (word >> 40) as usize & 0xff);
    let fits = record_size(word, limits::REPLY_SIZE_MAX) == Ok(record.len());
    if kind != kind::BULK || !fits || filling >= 8 || filling > record.len() - HEADER_SIZE {
        return decode_reply(&record);
    }
    record.truncate(record.len() - filling);
    record.drain(..HEADER_SIZE);
    Ok(Reply::Bulk(record))
}

fn take<'a>(rest: &mut &'a [u8], size: usize) -> Result<&'a [u8], RecordError> {
    let (taken, left) = rest.split_at_checked(size).ok_or(RecordError::Reply("cut off"))?;
    *rest = left;
    Ok(taken)
}

fn take_word(rest: &mut &[u8]) -> Result<u64, RecordError> {
    let bytes = take(rest, 8)?;
    Ok(u64::from_ne_bytes(bytes.try_into().map_err(|_| RecordError::Reply("cut off"))?))
}

/// So many elements, each made by `next`.
fn collect<T>(count: usize, mut next: impl FnMut() -> Result<T, RecordError>) -> Result<Vec<T>, RecordError> {
    let mut elements = Vec::new();
    for _ in 0..count {
        elements.try_reserve(1).map_err(|_| RecordError::NoMemory)?;
        elements.push(next()?);
    }
    Ok(elements)
}

fn decode_nested(rest: &mut &[u8], depth: usize) -> Result<Reply, RecordError> {
    if depth > limits::REPLY_DEPTH_MAX {
        return Err(RecordError::Reply("nested too deeply"));
    }
    let word = take_word(rest)?;
    let (kind, filling) = ((word >> 32) as u8, (word >> 40) as usize & 0xff);
    if kind == kind::ARRAY || kind == kind::MAP {
        let count = take_word(rest)? as usize;
        // Every reply has a word at least: a count beyond that is a lie, and must not become an allocation.
        if count > rest.len() / HEADER_SIZE {
            return Err(RecordError::Reply("more elements than bytes"));
        }
        if kind == kind::ARRAY {
            return collect(count, || decode_nested(rest, depth + 1)).map(Reply::Array);
        }
        let pair = || Ok((decode_nested(rest, depth + 1)?, decode_nested(rest, depth + 1)?));
        return collect(count, pair).map(Reply::Map);
    }
    let size = record_size(word, limits::REPLY_SIZE_MAX)? - HEADER_SIZE;
    let bytes = take(rest, size)?;
    let bytes = size
        .checked_sub(filling)
        .filter(|_| filling < 8)
        .map(|length| &bytes[..length])
        .ok_or(RecordError::Reply("filled up beyond its size"))?;
    let number = || -> Result<[u8; 8], RecordError> {
        bytes.try_into().map_err(|_| RecordError::Reply("a number that has not 8 bytes"))
    };
    let text = || String::from_utf8_lossy(bytes).into_owned();
    Ok(match kind {
        kind::NIL => Reply::Nil,
        kind::OK => Reply::Status("OK".into()),
        kind::STATUS => Reply::Status(text().into()),
        kind::ERROR => Reply::Error(text()),
        kind::INTEGER => Reply::Integer(i64::from_ne_bytes(number()?)),
        kind::BOOLEAN => Reply::Boolean(u64::from_ne_bytes(number()?) != 0),
        kind::DOUBLE => Reply::Double(f64::from_ne_bytes(number()?)),
        kind::BULK => Reply::Bulk(try_copy(bytes).ok_or(RecordError::NoMemory)?),
        _ => return Err(RecordError::Reply("of an unknown kind")),
    })
}

/// Whether a reply record is a plain OK: the one reply that is worth not decoding.
#[inline]
pub fn is_ok(word: u64) -> bool {
    word == HEADER_SIZE as u64 | u64::from(kind::OK) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(number: u16, arguments: &[&[u8]]) -> Vec<u8> {
        let head = RequestHead::new(number, arguments).unwrap();
        let mut record = Vec::new();
        head.append_to(&mut record);
        assert_eq!(record.len(), head.size());
        record
    }

    #[test]
    fn requests_survive_the_lane() {
        let many: Vec<&[u8]> = vec![b"argument"; 100];
        for arguments in [&[][..], &[b"key".as_slice()], &[b"", b"12345678", &[7; 1000]], &many] {
            let record = request(1, arguments);
            let mut ranges = Vec::new();
            let command = decode_request(&record, &mut ranges).unwrap();
            assert_eq!(command.spec.name, "SET");
            assert!(command.arguments.iter().eq(arguments.iter().copied()));
        }
    }

    #[test]
    fn a_large_value_can_be_cut_out_of_its_record() {
        assert_eq!(super::super::number("SET"), SET);
        let value = vec![1; limits::LARGE_VALUE_SIZE + 3];
        let whole = request(SET, &[b"key", &value, b"PX", b"5"]);
        let head = large_set(u64::from_ne_bytes(whole[..8].try_into().unwrap())).unwrap();
        let (key_size, value_size) = large_set_sizes(&whole[..head]).unwrap();
        assert_eq!((key_size, value_size), (3, value.len()));
        let mut cut = [&whole[..head + 8], &whole[head + 8 + value_size.next_multiple_of(8)..]].concat();
        assert_eq!(cut_value(&mut cut), cut.len());
        let mut ranges = Vec::new();
        let command = decode_request(&cut, &mut ranges).unwrap();
        assert!(command.arguments.iter().eq([b"key".as_slice(), b"", b"PX", b"5"]));
        // Small ones, other commands, and values that reach beyond the record are left alone.
        for other in [request(SET, &[b"key", b"value"]), request(0, &[&value]), request(SET, &[&value])] {
            assert_eq!(large_set(u64::from_ne_bytes(other[..8].try_into().unwrap())), None);
        }
        let mut lie = whole[..head].to_vec();
        lie[12..16].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(large_set_sizes(&lie), None);
    }

    #[test]
    fn a_request_that_lies_is_refused() {
        let good = request(1, &[b"key", b"value"]);
        let mut ranges = Vec::new();
        for size in 0..good.len() {
            assert!(decode_request(&good[..size], &mut ranges).is_err(), "cut to {size}");
        }
        for (at, bytes) in [(4, [99, 0]), (6, [3, 0]), (6, [255, 255]), (8, [255, 255]), (12, [0, 0])] {
            let mut bad = good.clone();
            bad[at..at + 2].copy_from_slice(&bytes);
            assert!(decode_request(&bad, &mut ranges).is_err(), "{bytes:?} at {at}");
        }
        assert!(record_size(4, 100).is_err() && record_size(12, 100).is_err() && record_size(104, 100).is_err());
    }

    #[test]
    fn replies_survive_the_lane() {
        let mut out = Vec::new();
        let mut writer = RecordWriter::new(&mut out);
        writer.map(1);
        writer.bulk(b"list");
        writer.array(8);
        writer.ok();
        writer.status("PONG");
        writer.error("ERR no");
        writer.nil();
        writer.integer(-5);
        writer.boolean(true);
        writer.double(0.5);
        writer.array(0);
        let size = writer.finish();
        assert_eq!(record_size(u64::from_ne_bytes(out[..8].try_into().unwrap()), 1 << 20), Ok(size));
        let list = vec![
            Reply::Status("OK".into()),
            Reply::Status("PONG".into()),
            Reply::Error("ERR no".into()),
            Reply::Nil,
            Reply::Integer(-5),
            Reply::Boolean(true),
            Reply::Double(0.5),
            Reply::Array(vec![]),
        ];
        let expected = Reply::Map(vec![(Reply::Bulk(b"list".to_vec()), Reply::Array(list))]);
        assert_eq!(decode_reply(&out), Ok(expected));
        for bytes in [&b""[..], b"1234567", b"12345678", &[7; 1000]] {
            let mut out = Vec::new();
            let mut writer = RecordWriter::new(&mut out);
            writer.bulk(bytes);
            writer.finish();
            assert_eq!(decode_owned(out), Ok(Reply::Bulk(bytes.to_vec())));
        }
        for cut in 0..out.len() {
            assert!(decode_reply(&out[..cut]).is_err());
        }
    }

    #[test]
    fn random_bytes_are_never_more_than_an_error() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut ranges = Vec::new();
        for _ in 0..100_000 {
            let mut bytes = vec![0; random.usize(..96)];
            random.fill(&mut bytes);
            if bytes.len() > 7 && random.bool() {
                bytes[4] = random.u8(..10); // a kind, or a command, that exists
                bytes[5..8].fill(0);
                bytes[..4].copy_from_slice(&(random.u32(..13) * 8).to_ne_bytes());
            }
            let _ = decode_request(&bytes, &mut ranges);
            assert_eq!(decode_reply(&bytes).is_ok(), decode_owned(bytes).is_ok());
        }
    }
}
