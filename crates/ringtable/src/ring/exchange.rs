//! The layout of an exchange: the segment that the clients of a classic topology share, with one request queue and one
//! response ring for all of them.
//!
//! ```text
//! words              written by
//! 0 … 7              server    magic; 1 version; 2 words of a slot; 3 slots of a ring; 4 members; 5, 6 its workers
//! 16                 clients   tail of the queue
//! 32                 server    tail of the response ring, as announced
//! 48                 server    workers that are awake
//! 64 + 32 n          client n  its cursor
//! 64 + 32 n + 16     client n  its state (see `wait`)
//! then, from a multiple of 512 words on:
//! the queue          clients   slots: stamp, head of the piece, piece
//! the response ring  server    slots: sequence, head of the piece, piece
//! ```
//!
//! # Pieces
//!
//! What a client asks is one stream of records (`command::record`), and so is what it is answered. Either stream is cut
//! into pieces that fit a slot: a large record travels in many pieces, many small ones in one. The head of a piece says
//! whose it is, and of which **generation**: a number that tells a member from earlier ones with the same number. The
//! pieces of a client carry a sequence too, since several workers may take them from the queue at the same time.
//!
//! # Doorbells
//!
//! As in `ring::lane`, with one difference: a client that has published rings only if no worker is awake (word 48, a
//! number). A worker that goes to sleep counts itself out, fences, and looks at the queue once more.
//!
//! # Trust
//!
//! All members map all of it for writing: a classic topology is for clients that trust each other. The server trusts
//! them no more than it trusts anybody: it copies, checks, and ends the connection of who sends nonsense; but a member
//! can damage what the others send and receive.

use super::broadcast::Broadcast;
use super::mpmc::Queue;
use crate::limits;
use crate::sync::{AtomicU64, Ordering, fence};

const STRIDE: usize = 16;
/// First word: "ringexch" in ASCII.
pub const MAGIC: u64 = u64::from_le_bytes(*b"ringexch");
/// Version of this layout and of the records that flow through it.
pub const EXCHANGE_VERSION: u64 = 1;

const MAGIC_AT: usize = 0;
const VERSION_AT: usize = 1;
const SLOT_WORDS_AT: usize = 2;
const SLOTS_AT: usize = 3;
const MEMBERS_AT: usize = 4;
const FIRST_WORKER_AT: usize = 5;
const WORKERS_AT: usize = 6;
const QUEUE_TAIL: usize = STRIDE;
const BROADCAST_TAIL: usize = 2 * STRIDE;
const AWAKE: usize = 3 * STRIDE;
const MEMBER_LINES: usize = 4 * STRIDE;
const MEMBER_WORDS: usize = 2 * STRIDE;
/// Words of a memory page: the rings begin at a multiple of it, and so does nothing else's.
const ALIGNMENT: usize = 512;
/// Words of a slot before the piece: stamp or sequence, and the head of the piece.
const SLOT_HEAD_WORDS: usize = 2;

/// What an exchange is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Words of a slot.
    pub slot_words: usize,
    /// Slots of either ring; a power of two.
    pub slots: usize,
    /// Most members at a time.
    pub members: usize,
}

impl Geometry {
    /// Bytes of the segment.
    pub fn size(&self) -> usize {
        8 * (self.slots_at() + 2 * self.ring_words()).next_multiple_of(ALIGNMENT)
    }

    /// Most bytes of a piece.
    pub fn piece_size(&self) -> usize {
        8 * (self.slot_words - SLOT_HEAD_WORDS)
    }

    fn slots_at(&self) -> usize {
        (MEMBER_LINES + self.members * MEMBER_WORDS).next_multiple_of(ALIGNMENT)
    }

    fn ring_words(&self) -> usize {
        self.slots * self.slot_words
    }
}

/// Which workers serve an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers {
    /// The first one's number.
    pub first: usize,
    /// How many there are.
    pub count: usize,
}

/// Why a segment is not believed to be an exchange.
#[derive(Debug, thiserror::Error)]
#[error("the exchange has {field} {found}, this client understands {expected}")]
pub struct ExchangeError {
    field: &'static str,
    found: u64,
    expected: String,
}

/// A view of an exchange's words.
#[derive(Clone, Copy)]
pub struct Exchange<'a> {
    words: &'a [AtomicU64],
    geometry: Geometry,
}

impl<'a> Exchange<'a> {
    /// A view of `words`.
    ///
    /// # Panics
    /// If there are not as many as the geometry needs.
    #[inline]
    pub fn new(words: &'a [AtomicU64], geometry: Geometry) -> Self {
        assert!(words.len() * 8 == geometry.size(), "{} words for {geometry:?}", words.len());
        Self { words, geometry }
    }

    /// Writes what a client checks when it joins. By the server, before it passes the segment.
    pub fn create(self, workers: Workers) {
        // Relaxed: passing the descriptor orders it.
        for (index, value) in [
            (MAGIC_AT, MAGIC),
            (VERSION_AT, EXCHANGE_VERSION),
            (SLOT_WORDS_AT, self.geometry.slot_words as u64),
            (SLOTS_AT, self.geometry.slots as u64),
            (MEMBERS_AT, self.geometry.members as u64),
            (FIRST_WORKER_AT, workers.first as u64),
            (WORKERS_AT, workers.count as u64),
            (AWAKE, workers.count as u64),
        ] {
            self.words[index].store(value, Ordering::Relaxed);
        }
    }

    /// Checks what the server wrote. By the client, of a server with `workers` workers.
    ///
    /// # Errors
    /// If it is no exchange, or one of another layout.
    pub fn attach(words: &'a [AtomicU64], workers: usize) -> Result<(Self, Workers), ExchangeError> {
        if words.len() < MEMBER_LINES {
            let (field, found) = ("a size in words of", words.len() as u64);
            return Err(ExchangeError { field, found, expected: format!("{MEMBER_LINES} and more") });
        }
        // Relaxed: as in `create`.
        let check = |field, index: usize, least: u64, most: u64| match words[index].load(Ordering::Relaxed) {
            found if (least..=most).contains(&found) => Ok(found),
            found if least == most => Err(ExchangeError { field, found, expected: least.to_string() }),
            found => Err(ExchangeError { field, found, expected: format!("{least} to {most}") }),
        };
        check("magic number", MAGIC_AT, MAGIC, MAGIC)?;
        check("version", VERSION_AT, EXCHANGE_VERSION, EXCHANGE_VERSION)?;
        let least = limits::RING_SLOT_SIZE_MIN as u64 / 8;
        let slot_words = check("words of a slot", SLOT_WORDS_AT, least, limits::RING_SLOT_SIZE_MAX as u64 / 8)?;
        let slots = check("slots", SLOTS_AT, limits::RING_SLOTS_MIN as u64, limits::RING_SLOTS_MAX as u64)?;
        let members = check("members", MEMBERS_AT, 1, limits::RING_MEMBERS_MAX as u64)?;
        let first = check("first worker", FIRST_WORKER_AT, 0, workers as u64 - 1)?;
        let count = check("workers", WORKERS_AT, 1, workers as u64 - first)?;
        let geometry = Geometry { slot_words: slot_words as usize, slots: slots as usize, members: members as usize };
        if !slots.is_power_of_two() || geometry.size() != words.len() * 8 {
            let (field, found) = ("a size in bytes of", words.len() as u64 * 8);
            return Err(ExchangeError { field, found, expected: geometry.size().to_string() });
        }
        Ok((Self { words, geometry }, Workers { first: first as usize, count: count as usize }))
    }

    /// What it was made with.
    pub fn geometry(self) -> Geometry {
        self.geometry
    }

    /// The queue from clients to server.
    #[inline]
    pub fn queue(self) -> Queue<'a> {
        let start = self.geometry.slots_at();
        let slots = &self.words[start..start + self.geometry.ring_words()];
        Queue::new(&self.words[QUEUE_TAIL], slots, self.geometry.slot_words)
    }

    /// The ring from server to clients.
    #[inline]
    pub fn responses(self) -> Broadcast<'a> {
        let start = self.geometry.slots_at() + self.geometry.ring_words();
        let slots = &self.words[start..start + self.geometry.ring_words()];
        let cursors = &self.words[MEMBER_LINES..];
        Broadcast::new(&self.words[BROADCAST_TAIL], cursors, MEMBER_WORDS, slots, self.geometry.slot_words)
    }

    /// What a member says of itself: see [`super::wait::State`].
    #[inline]
    pub fn client_state(self, member: u16) -> &'a AtomicU64 {
        &self.words[MEMBER_LINES + usize::from(member) * MEMBER_WORDS + STRIDE]
    }

    /// Publisher's half of the doorbell protocol: whether a worker has to be rung. Call it after publishing.
    ///
    /// SeqCst fence: pairs with the one in [`Self::announce_sleep`].
    #[inline]
    pub fn must_ring(self) -> bool {
        fence(Ordering::SeqCst);
        !self.is_watched()
    }

    /// Whether a worker is awake. Relaxed: ordered by a fence of the caller's, if at all.
    #[inline]
    pub fn is_watched(self) -> bool {
        self.words[AWAKE].load(Ordering::Relaxed) != 0
    }

    /// How many workers are awake.
    pub fn awake(self) -> u64 {
        self.words[AWAKE].load(Ordering::Relaxed)
    }

    /// A worker's half: says that it sleeps unless rung. Look at the queue once more after it.
    ///
    /// SeqCst fence: pairs with the one in [`Self::must_ring`].
    pub fn announce_sleep(self) {
        // Relaxed: ordered by the fence.
        self.words[AWAKE].fetch_sub(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Says that the worker is awake again. Relaxed: a ring too many is harmless.
    pub fn announce_awake(self) {
        self.words[AWAKE].fetch_add(1, Ordering::Relaxed);
    }
}

/// The head of a piece of a client's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// Bytes of the piece.
    pub size: usize,
    /// Which holder of the member's number has sent it.
    pub generation: u16,
    /// How many pieces the client had sent before, modulo 2^32.
    pub sequence: u32,
}

impl RequestHead {
    /// As a word.
    #[inline]
    pub fn pack(self) -> u64 {
        self.size as u64 | u64::from(self.generation) << 16 | u64::from(self.sequence) << 32
    }

    /// From a word. Every word is a head; whether the size fits a slot is for the caller to check.
    #[inline]
    pub fn unpack(word: u64) -> Self {
        Self { size: (word & 0xffff) as usize, generation: (word >> 16) as u16, sequence: (word >> 32) as u32 }
    }
}

/// The head of a piece of a client's replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHead {
    /// Bytes of the piece.
    pub size: usize,
    /// Whom it is for.
    pub member: u16,
    /// Which holder of the member's number.
    pub generation: u16,
}

impl ReplyHead {
    /// As a word.
    #[inline]
    pub fn pack(self) -> u64 {
        self.size as u64 | u64::from(self.generation) << 16 | u64::from(self.member) << 32
    }

    /// From a word. Every word is a head; whether the size fits a slot is for the caller to check.
    #[inline]
    pub fn unpack(word: u64) -> Self {
        Self { size: (word & 0xffff) as usize, generation: (word >> 16) as u16, member: (word >> 32) as u16 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::heap_words;

    const GEOMETRY: Geometry = Geometry { slot_words: 32, slots: 16, members: 3 };

    #[test]
    fn a_fresh_exchange_is_believed_and_a_damaged_one_is_not() {
        let words = heap_words(GEOMETRY.size() / 8);
        assert!(Exchange::attach(&words, 4).is_err());
        let workers = Workers { first: 1, count: 2 };
        Exchange::new(&words, GEOMETRY).create(workers);
        let (exchange, found) = Exchange::attach(&words, 4).unwrap();
        assert_eq!((exchange.geometry(), found), (GEOMETRY, workers));
        for (index, value) in [(MAGIC_AT, 1), (VERSION_AT, 9), (SLOTS_AT, 17), (SLOTS_AT, 32), (WORKERS_AT, 4)] {
            let right = words[index].swap(value, Ordering::Relaxed);
            assert!(Exchange::attach(&words, 4).is_err(), "word {index} = {value}");
            words[index].store(right, Ordering::Relaxed);
        }
        assert!(Exchange::attach(&words[..8], 4).is_err());
    }

    #[test]
    fn heads_survive_their_word() {
        let head = RequestHead { size: 65_520, generation: 65_535, sequence: u32::MAX };
        assert_eq!(RequestHead::unpack(head.pack()), head);
        let head = ReplyHead { size: 8, member: 1_023, generation: 7 };
        assert_eq!(ReplyHead::unpack(head.pack()), head);
    }
}
