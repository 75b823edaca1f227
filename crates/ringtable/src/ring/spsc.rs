//! A single-producer single-consumer byte stream in shared memory.
//!
//! # Design
//!
//! Two free-running positions count bytes written and bytes read since the beginning (a u64 does not wrap in practice;
//! at 10 GB/s it would take 58 years), each on a cache line pair of its own. The ring's size is a power of two, so a
//! position's lower bits are its place. Records are framed by the codec above; here everything is whole words of 8
//! bytes, and a record may be larger than the ring: it flows through in pieces.
//!
//! Each side keeps its own position privately and a cached copy of the peer's, which it loads again only when the copy
//! does not suffice; it publishes once per batch.
//!
//! # Invariants
//!
//! - `head <= tail <= head + size`, all multiples of 8. A side that finds the peer's position to violate this gets
//!   [`PositionError`] and must not use the ring again (I4): the peer is broken or hostile.
//! - The producer writes only words in `[tail, head + size)`, the consumer reads only words in `[head, tail)`.
//!
//! # Edges
//!
//! Full: [`Producer::write`] takes fewer bytes, possibly none. Empty: [`Consumer::available`] is 0. A dead peer is not
//! noticed here, but by its socket.
//!
//! Source: L. Lamport, "Proving the correctness of multiprocess programs", 1977; cached positions as in J. Giacomoni
//! et al., "FastForward for efficient pipeline parallelism", PPoPP 2008, and in Agrona's one-to-one ring.

use crate::sync::{AtomicU64, Ordering, copy_in, copy_out, copy_words};

/// The three parts of a ring in shared memory.
#[derive(Clone, Copy)]
pub struct Ring<'a> {
    /// Bytes written. Stored by the producer only.
    pub tail: &'a AtomicU64,
    /// Bytes read. Stored by the consumer only.
    pub head: &'a AtomicU64,
    /// The bytes; a power of two of words.
    pub data: &'a [AtomicU64],
}

impl<'a> Ring<'a> {
    fn size(&self) -> u64 {
        self.data.len() as u64 * 8
    }

    /// The `size` bytes (whole words) from `position` on, as at most two slices: up to the end, and from the start.
    fn pieces(&self, position: u64, size: usize) -> (&'a [AtomicU64], &'a [AtomicU64]) {
        let start = (position / 8) as usize & (self.data.len() - 1);
        let words = size / 8;
        let first = words.min(self.data.len() - start);
        (&self.data[start..start + first], &self.data[..words - first])
    }
}

/// The peer published a position that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("position {found} of the other side is out of range: ours is {ours}, the ring has {size} bytes")]
pub struct PositionError {
    /// What the peer published.
    pub found: u64,
    /// Our own position.
    pub ours: u64,
    /// Size of the ring in bytes.
    pub size: u64,
}

/// The writing side's private state.
#[derive(Debug, Default)]
pub struct Producer {
    tail: u64,
    published: u64,
    head_seen: u64,
}

impl Producer {
    /// Goes on where another producer, which is dead, has come to: `tail`, published or not.
    ///
    /// # Errors
    /// If the peer's position is out of range for that.
    pub fn resume(ring: Ring<'_>, tail: u64) -> Result<Self, PositionError> {
        // Acquire: as in `room`.
        let head = ring.head.load(Ordering::Acquire);
        if !head.is_multiple_of(8) || head > tail || tail - head > ring.size() {
            return Err(PositionError { found: head, ours: tail, size: ring.size() });
        }
        // Release: as in `publish`, for what the dead one has written.
        ring.tail.store(tail, Ordering::Release);
        Ok(Self { tail, published: tail, head_seen: head })
    }

    /// The position behind all that was written, published or not.
    #[inline]
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// Bytes that may be written now; looks at the peer's position only if the room known of is less than `wanted`.
    #[inline]
    pub fn room(&mut self, ring: Ring<'_>, wanted: usize) -> Result<usize, PositionError> {
        let size = ring.size();
        let known = (size - (self.tail - self.head_seen)) as usize;
        if known >= wanted.min(size as usize) {
            return Ok(known);
        }
        // Acquire: pairs with the Release in `Consumer::release`: the consumer's reads of the words that we are about
        // to overwrite are over.
        let head = ring.head.load(Ordering::Acquire);
        // What was published is what the peer may have read; it cannot go back either.
        if !head.is_multiple_of(8) || head < self.head_seen || head > self.published {
            return Err(PositionError { found: head, ours: self.tail, size });
        }
        self.head_seen = head;
        Ok((size - (self.tail - head)) as usize)
    }

    /// Writes whole words of `bytes` (filled up with zeroes) that fit the room `room` has reported; not yet published.
    ///
    /// # Panics
    /// If there is less room.
    #[inline]
    pub fn write(&mut self, ring: Ring<'_>, bytes: &[u8]) {
        let size = bytes.len().next_multiple_of(8);
        assert!(size as u64 <= ring.size() - (self.tail - self.head_seen), "written beyond the room");
        let (first, second) = ring.pieces(self.tail, size);
        let split = bytes.len().min(first.len() * 8);
        copy_in(&bytes[..split], first);
        copy_in(&bytes[split..], second);
        self.tail += size as u64;
    }

    /// Lets the peer see what was written. Returns whether there was anything.
    ///
    /// Release: pairs with the Acquire in `Consumer::available`: who sees the position sees the words before it.
    #[inline]
    pub fn publish(&mut self, ring: Ring<'_>) -> bool {
        if self.tail == self.published {
            return false;
        }
        ring.tail.store(self.tail, Ordering::Release);
        self.published = self.tail;
        true
    }

    /// The last position of the peer's that was looked at.
    #[inline]
    pub fn head_seen(&self) -> u64 {
        self.head_seen
    }
}

/// The reading side's private state.
#[derive(Clone, Debug, Default)]
pub struct Consumer {
    head: u64,
    released: u64,
    tail_seen: u64,
}

impl Consumer {
    /// One that looks at what is there from `head` on, and gives nothing back to the producer.
    pub fn looking_from(head: u64) -> Self {
        Self { head, released: head, tail_seen: head }
    }

    /// Goes on where another consumer, which is dead, has come to: `head`, released or not.
    ///
    /// # Errors
    /// If the peer's position is out of range for that.
    pub fn resume(ring: Ring<'_>, head: u64) -> Result<Self, PositionError> {
        let mut consumer = Self::looking_from(head);
        consumer.available(ring, 8)?;
        // Release: as in `release`.
        ring.head.store(head, Ordering::Release);
        Ok(consumer)
    }

    /// The position behind all that was read, released or not.
    #[inline]
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Bytes that may be read now; looks at the peer's position only if fewer than `wanted` are known of.
    #[inline]
    pub fn available(&mut self, ring: Ring<'_>, wanted: usize) -> Result<usize, PositionError> {
        let known = (self.tail_seen - self.head) as usize;
        if known >= wanted {
            return Ok(known);
        }
        // Acquire: pairs with the Release in `Producer::publish`.
        let tail = ring.tail.load(Ordering::Acquire);
        if tail == self.tail_seen {
            return Ok(known);
        }
        let size = ring.size();
        if !tail.is_multiple_of(8) || tail < self.tail_seen || tail - self.released > size {
            return Err(PositionError { found: tail, ours: self.head, size });
        }
        self.tail_seen = tail;
        Ok((tail - self.head) as usize)
    }

    /// The next word, without going on.
    ///
    /// # Panics
    /// If fewer than 8 bytes are available.
    #[inline]
    pub fn peek(&self, ring: Ring<'_>) -> u64 {
        assert!(self.tail_seen - self.head >= 8, "read beyond what is available");
        // Relaxed: ordered by the Acquire in `available`.
        ring.pieces(self.head, 8).0[0].load(Ordering::Relaxed)
    }

    /// Copies the next `out.len()` bytes, and goes on by that, rounded up to whole words.
    ///
    /// # Panics
    /// If fewer are available.
    #[inline]
    pub fn read(&mut self, ring: Ring<'_>, out: &mut [std::mem::MaybeUninit<u8>]) {
        let size = out.len().next_multiple_of(8);
        assert!(size as u64 <= self.tail_seen - self.head, "read beyond what is available");
        let (first, second) = ring.pieces(self.head, size);
        let split = out.len().min(first.len() * 8);
        copy_out(first, &mut out[..split]);
        copy_out(second, &mut out[split..]);
        self.head += size as u64;
    }

    /// Copies the next words to `out`, which is shared memory too, and goes on by that.
    ///
    /// # Panics
    /// If fewer are available.
    pub fn read_words(&mut self, ring: Ring<'_>, out: &[AtomicU64]) {
        let size = 8 * out.len();
        assert!(size as u64 <= self.tail_seen - self.head, "read beyond what is available");
        let (first, second) = ring.pieces(self.head, size);
        copy_words(first, &out[..first.len()]);
        copy_words(second, &out[first.len()..]);
        self.head += size as u64;
    }

    /// Goes on by `size` bytes (whole words) without looking at them.
    ///
    /// # Panics
    /// If fewer are available.
    pub fn skip(&mut self, size: usize) {
        assert!(
            size.is_multiple_of(8) && size as u64 <= self.tail_seen - self.head,
            "skipped beyond what is available"
        );
        self.head += size as u64;
    }

    /// Lets the producer reuse what was read. Returns whether there was anything.
    ///
    /// Release: pairs with the Acquire in `Producer::room`: our reads happen before its writes.
    /// (The model cannot show it, since loom has no load that sees a later store: `loom_spsc` passes without. For this
    /// there is `tests`, on real threads.)
    #[inline]
    pub fn release(&mut self, ring: Ring<'_>) -> bool {
        if self.head == self.released {
            return false;
        }
        ring.head.store(self.head, Ordering::Release);
        self.released = self.head;
        true
    }

    /// The last position of the peer's that was looked at.
    #[inline]
    pub fn seen(&self) -> u64 {
        self.tail_seen
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::{as_uninit, heap_words};

    struct Memory {
        positions: Box<[AtomicU64]>,
        data: Box<[AtomicU64]>,
    }

    impl Memory {
        fn new(size: usize) -> Self {
            Self { positions: heap_words(2), data: heap_words(size / 8) }
        }

        fn ring(&self) -> Ring<'_> {
            Ring { tail: &self.positions[0], head: &self.positions[1], data: &self.data }
        }
    }

    #[test]
    fn what_goes_in_comes_out() {
        let memory = Memory::new(64);
        let (mut producer, mut consumer) = (Producer::default(), Consumer::default());
        assert_eq!(producer.room(memory.ring(), 8), Ok(64));
        producer.write(memory.ring(), b"hello world");
        assert_eq!(consumer.available(memory.ring(), 8), Ok(0), "not published yet");
        assert!(producer.publish(memory.ring()) && !producer.publish(memory.ring()));
        assert_eq!(consumer.available(memory.ring(), 8), Ok(16));
        let mut out = [0; 11];
        consumer.read(memory.ring(), as_uninit(&mut out));
        assert_eq!(&out, b"hello world");
        assert!(consumer.release(memory.ring()));
        assert_eq!(producer.room(memory.ring(), 64), Ok(64));
    }

    #[test]
    fn a_full_ring_takes_nothing_and_wraps_when_read() {
        let memory = Memory::new(32);
        let (mut producer, mut consumer) = (Producer::default(), Consumer::default());
        for round in 0..100_u64 {
            assert_eq!(producer.room(memory.ring(), 24), Ok(32));
            let bytes: Vec<u8> = (0..24).map(|n| n + round as u8).collect();
            producer.write(memory.ring(), &bytes);
            producer.publish(memory.ring());
            assert_eq!(producer.room(memory.ring(), 24), Ok(8));
            assert_eq!(consumer.available(memory.ring(), 24), Ok(24));
            assert_eq!(consumer.peek(memory.ring()), u64::from_ne_bytes(bytes[..8].try_into().unwrap()));
            let mut out = [0; 24];
            if round % 2 == 0 {
                consumer.read(memory.ring(), as_uninit(&mut out));
            } else {
                let words = heap_words(3);
                consumer.read_words(memory.ring(), &words);
                copy_out(&words, as_uninit(&mut out));
            }
            assert_eq!(out[..], bytes);
            consumer.release(memory.ring());
        }
    }

    #[test]
    fn a_position_out_of_range_is_an_error_on_both_sides() {
        let memory = Memory::new(32);
        let (mut producer, mut consumer) = (Producer::default(), Consumer::default());
        for tail in [40, 4, u64::MAX, u64::MAX - 7] {
            memory.positions[0].store(tail, Ordering::Relaxed);
            assert!(consumer.available(memory.ring(), 8).is_err(), "{tail}");
        }
        producer.write(memory.ring(), &[0; 32]);
        producer.publish(memory.ring());
        for head in [40, 4, u64::MAX] {
            memory.positions[1].store(head, Ordering::Relaxed);
            assert!(producer.room(memory.ring(), 8).is_err(), "{head}");
        }
    }
}
