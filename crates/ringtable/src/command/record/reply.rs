//! Replies as records, in both directions.

use super::frame::{HEADER_SIZE, RecordError, record_size};
use crate::command::reply::{Destination, Reply, ReplyWriter, try_copy};
use crate::limits;
use crate::shm::segment::Mapping;
use crate::table::HeldEntry;

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
    /// An array that is nobody's reply.
    pub const PUSH: u8 = 10;
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
    fn value(&mut self, held: HeldEntry<Mapping>) {
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

    fn push(&mut self, count: usize) {
        self.open(kind::PUSH, count);
    }
}

/// Decodes one reply from a private copy of its record; it counts as dropped if there is no memory for it once more.
pub fn decode_reply(record: &[u8]) -> Result<Reply, RecordError> {
    let mut rest = record;
    match decode_nested(&mut rest, 0) {
        Ok(_) if !rest.is_empty() => Err(RecordError::Reply("more bytes than it needs")),
        Err(RecordError::NoMemory) => Ok(dropped(is_push(first_word(record)), record.len())),
        decoded => decoded,
    }
}

/// The same from a record that is not needed any more: a string of bytes, which may be large, stays where it is.
pub fn decode_owned(mut record: Vec<u8>) -> Result<Reply, RecordError> {
    let word = first_word(&record);
    let (kind, filling) = ((word >> 32) as u8, (word >> 40) as usize & 0xff);
    let fits = record_size(word, limits::REPLY_SIZE_MAX) == Ok(record.len());
    if kind != kind::BULK || !fits || filling >= 8 || filling > record.len() - HEADER_SIZE {
        return decode_reply(&record);
    }
    record.truncate(record.len() - filling);
    record.drain(..HEADER_SIZE);
    Ok(Reply::Bulk(record))
}

/// What stands in the place of a record of so many bytes that there was no memory for.
pub fn dropped(is_push: bool, size: usize) -> Reply {
    if is_push { Reply::Push(Vec::new()) } else { Reply::Dropped(size) }
}

fn first_word(record: &[u8]) -> u64 {
    record.first_chunk::<8>().map_or(0, |word| u64::from_ne_bytes(*word))
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
    if matches!(kind, kind::ARRAY | kind::MAP | kind::PUSH) {
        let count = take_word(rest)? as usize;
        // Every reply has a word at least: a count beyond that is a lie, and must not become an allocation.
        if count > rest.len() / HEADER_SIZE {
            return Err(RecordError::Reply("more elements than bytes"));
        }
        match kind {
            kind::ARRAY => return collect(count, || decode_nested(rest, depth + 1)).map(Reply::Array),
            kind::PUSH if depth == 0 => return collect(count, || decode_nested(rest, depth + 1)).map(Reply::Push),
            kind::PUSH => return Err(RecordError::Reply("a push inside of another reply")),
            _ => {}
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

/// Whether a record is nobody's reply.
#[inline]
pub fn is_push(word: u64) -> bool {
    (word >> 32) as u8 == kind::PUSH
}

/// Whether a reply record is a plain OK: the one reply that is worth not decoding.
#[inline]
pub fn is_ok(word: u64) -> bool {
    word == HEADER_SIZE as u64 | u64::from(kind::OK) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut pushed = Vec::new();
        let mut writer = RecordWriter::new(&mut pushed);
        writer.push(2);
        writer.bulk(b"news");
        writer.integer(7);
        assert_eq!(writer.finish(), pushed.len());
        assert_eq!(decode_reply(&pushed), Ok(Reply::Push(vec![Reply::Bulk(b"news".to_vec()), Reply::Integer(7)])));
        assert!(is_push(first_word(&pushed)) && !is_push(first_word(&out)));
        let mut nested = Vec::new();
        let mut writer = RecordWriter::new(&mut nested);
        writer.array(1);
        writer.push(0);
        writer.finish();
        assert!(decode_reply(&nested).is_err());
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
}
