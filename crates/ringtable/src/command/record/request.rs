//! Requests as records, in both directions; and the large value of a `SET`, which may flow past the rest of its record.

use std::ops::Range;

use super::frame::{HEADER_SIZE, RecordError};
use crate::command::arguments::Arguments;
use crate::limits;
use crate::ring::spsc::{Producer, Ring};

/// Largest head of a request (word 0 and lengths) of a command with few arguments, which is kept on the stack.
const SMALL_HEAD: usize = 64;

/// Decodes a request from a private copy of its record: the number of its command, whether there is one or not, and its
/// arguments. `ranges` is a place for the arguments' ranges.
pub fn decode_request<'a>(
    record: &'a [u8],
    ranges: &'a mut Vec<Range<usize>>,
) -> Result<(u16, Arguments<'a>), RecordError> {
    let word = |at: usize| record.get(at..at + 8).map(|bytes| u64::from_ne_bytes(bytes.try_into().unwrap_or_default()));
    let first = word(0).ok_or(RecordError::Size { size: record.len(), max: limits::REQUEST_SIZE_MAX })?;
    let (number, count) = ((first >> 32) as u16, (first >> 48) as usize);
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
    Ok((number, Arguments::new(record, ranges)))
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

#[cfg(test)]
mod tests {
    use super::super::frame::record_size;
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
            let (number, decoded) = decode_request(&record, &mut ranges).unwrap();
            assert_eq!(number, 1);
            assert!(decoded.iter().eq(arguments.iter().copied()));
        }
    }

    #[test]
    fn a_large_value_can_be_cut_out_of_its_record() {
        assert_eq!(crate::command::number("SET"), SET);
        let value = vec![1; limits::LARGE_VALUE_SIZE + 3];
        let whole = request(SET, &[b"key", &value, b"PX", b"5"]);
        let head = large_set(u64::from_ne_bytes(whole[..8].try_into().unwrap())).unwrap();
        let (key_size, value_size) = large_set_sizes(&whole[..head]).unwrap();
        assert_eq!((key_size, value_size), (3, value.len()));
        let mut cut = [&whole[..head + 8], &whole[head + 8 + value_size.next_multiple_of(8)..]].concat();
        assert_eq!(cut_value(&mut cut), cut.len());
        let mut ranges = Vec::new();
        let (_, arguments) = decode_request(&cut, &mut ranges).unwrap();
        assert!(arguments.iter().eq([b"key".as_slice(), b"", b"PX", b"5"]));
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
        for (at, bytes) in [(6, [3, 0]), (6, [255, 255]), (8, [255, 255]), (12, [0, 0])] {
            let mut bad = good.clone();
            bad[at..at + 2].copy_from_slice(&bytes);
            assert!(decode_request(&bad, &mut ranges).is_err(), "{bytes:?} at {at}");
        }
        assert!(record_size(4, 100).is_err() && record_size(12, 100).is_err() && record_size(104, 100).is_err());
    }
}
