//! The bytes of a file, taken piece by piece, and the checksum of those that were taken.

use std::io::{ErrorKind, Read};

use super::checksum::Checksum;
use super::error::DecodeError;

/// Bytes that are read at once, and for how many memory is taken before they have come.
const PIECE_SIZE: usize = 256 << 10;

/// Bytes that are read once, from their beginning on.
pub struct Source<R> {
    from: R,
    buffer: Box<[u8]>,
    /// What of the buffer was read and not taken yet.
    next: usize,
    end: usize,
    /// Where in the buffer that begins whose checksum was not computed yet.
    unsummed: usize,
    sum: Checksum,
    /// How many bytes were taken before those of the buffer.
    before: u64,
}

impl<R: Read> Source<R> {
    pub fn new(from: R) -> Self {
        let buffer = vec![0; PIECE_SIZE].into_boxed_slice();
        Self { from, buffer, next: 0, end: 0, unsummed: 0, sum: Checksum::new(), before: 0 }
    }

    /// How many bytes were taken.
    pub fn position(&self) -> u64 {
        self.before + self.next as u64
    }

    /// The checksum of all that was taken before the last byte, which was taken by [`Self::byte`].
    pub fn sum_before_last(&mut self) -> u64 {
        self.sum_to(self.next - 1);
        self.sum.value()
    }

    /// The checksum of all that was taken, to go on with.
    pub fn sum(&mut self) -> Checksum {
        self.sum_to(self.next);
        self.sum.clone()
    }

    /// Begins the checksum anew: all that follows goes on with this one.
    pub fn restart_sum(&mut self, sum: Checksum) {
        self.unsummed = self.next;
        self.sum = sum;
    }

    /// The next byte, which is not taken; `None` at the end.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<u8>, DecodeError> {
        if self.next == self.end && !self.refill()? {
            return Ok(None);
        }
        Ok(Some(self.buffer[self.next]))
    }

    fn sum_to(&mut self, end: usize) {
        self.sum.update(&self.buffer[self.unsummed..end]);
        self.unsummed = end;
    }

    /// Reads more into the buffer, all of which was taken. Returns whether there is more.
    fn refill(&mut self) -> Result<bool, DecodeError> {
        self.sum_to(self.end);
        self.before += self.end as u64;
        (self.next, self.end, self.unsummed) = (0, 0, 0);
        loop {
            match self.from.read(&mut self.buffer) {
                Ok(count) => {
                    self.end = count;
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether all was taken.
    pub fn is_at_end(&mut self) -> Result<bool, DecodeError> {
        Ok(self.next == self.end && !self.refill()?)
    }

    #[cold]
    fn cut_off(&self) -> DecodeError {
        DecodeError::Damaged { at: self.position(), what: "the end of the file, in the middle of something".into() }
    }

    #[inline]
    pub fn byte(&mut self) -> Result<u8, DecodeError> {
        if self.next == self.end && !self.refill()? {
            return Err(self.cut_off());
        }
        self.next += 1;
        Ok(self.buffer[self.next - 1])
    }

    #[inline]
    pub fn bytes<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], DecodeError> {
        let mut bytes = [0; COUNT];
        if let Some(there) = self.buffer[self.next..self.end].first_chunk() {
            bytes = *there;
            self.next += COUNT;
        } else {
            for byte in &mut bytes {
                *byte = self.byte()?;
            }
        }
        Ok(bytes)
    }

    /// Appends so many bytes to `out`.
    #[inline]
    pub fn append(&mut self, size: usize, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let begin = self.position();
        self.pieces(size as u64, |piece| {
            // Not for all that was announced: it may be a lie.
            out.try_reserve(piece.len()).map_err(|_| DecodeError::OutOfMemory { at: begin, size })?;
            out.extend_from_slice(piece);
            Ok(())
        })
    }

    /// Passes over so many bytes.
    pub fn skip(&mut self, size: u64) -> Result<(), DecodeError> {
        self.pieces(size, |_| Ok(()))
    }

    #[inline]
    fn pieces(&mut self, size: u64, mut each: impl FnMut(&[u8]) -> Result<(), DecodeError>) -> Result<(), DecodeError> {
        let mut left = size;
        loop {
            let there = &self.buffer[self.next..self.end];
            let piece = &there[..there.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
            each(piece)?;
            self.next += piece.len();
            left -= piece.len() as u64;
            if left == 0 {
                return Ok(());
            }
            if !self.refill()? {
                return Err(self.cut_off());
            }
        }
    }
}
