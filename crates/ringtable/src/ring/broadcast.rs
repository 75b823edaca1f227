//! A bounded ring that several producers of one process write and any number of client processes read: every reader
//! that is listening sees every message.
//!
//! # Design
//!
//! Free-running positions; slot `p mod count` begins with a sequence word, which is `p + 1` once the message of
//! position `p` is published. Producers claim positions by a CAS on a tail that is private to their process, write the
//! body, and publish, each slot on its own: no lock, and no order among producers but that of their claims.
//!
//! Every reader has a **cursor** on a cache line pair of its own: the next position that it will read, or [`SILENT`]
//! while it waits for nothing. A slot is written again only when every listening reader's cursor has passed it.
//! Producers keep the smallest cursor they have seen (it only grows), and look at all cursors only when that does not
//! suffice. Readers write nothing but their cursor.
//!
//! If nobody listens, or only readers that began after a claim, nobody holds back the ring for that claim's producer:
//! one that stands still before it has published could find its slot claimed for the next lap. So producers keep, in
//! private memory, what was published last in each slot, and wait for a fellow that is a whole lap behind.
//!
//! # Listening
//!
//! A client that waits for nothing should hold nothing back, however long it does something else: so a reader listens
//! only while it has something to wait for. To begin it announces a cursor, fences, and looks at the tail again, from
//! which on it reads:
//!
//! ```text
//! reader                                      producer looking for room
//! store cursor = tail                         announce tail (t)
//! fence(SeqCst)                     [A]       fence(SeqCst)                     [B]
//! load tail again -> reads from there on      load all cursors -> minimum of t and those
//! ```
//!
//! If A comes first, the producer sees the cursor. If B does, the reader sees a tail of at least `t`, and `t` is the
//! most that the producer took for free. Either way nothing that the reader will read is overwritten.
//!
//! # Readers that are dead, stopped or slow (I7)
//!
//! The producers' process decides which cursors count ([`Sender::admit`], [`Sender::dismiss`]): a dead reader's does
//! not, nor does that of one that was sent away for being too slow. One that wakes up after that may find a slot
//! overwritten while it copies it; so it looks at the sequence again after copying, as with a seqlock, and gets
//! [`Lapped`].
//!
//! # Invariants
//!
//! - `minimum <= cursor` of every listening reader that counts, and `tail - minimum <= count`.
//! - A position is published once, by the producer that claimed it, and before the next one in its slot is claimed.
//!
//! Source: the shape (claim, publish, gating by the slowest consumer, cached minimum) is the LMAX Disruptor's (M.
//! Thompson et al., 2011); listening only while waiting is ours.

use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, OnceLock, Ordering, fence, heap_words, yield_now};

/// The cursor of a reader that waits for nothing.
pub const SILENT: u64 = u64::MAX;
/// Words of a slot before its body.
const SEQUENCE_WORDS: usize = 1;

/// The ring in shared memory.
#[derive(Clone, Copy)]
pub struct Broadcast<'a> {
    /// The next position to be claimed, as announced by producers: where readers begin.
    tail: &'a AtomicU64,
    /// The readers' cursors, `stride` words apart.
    cursors: &'a [AtomicU64],
    stride: usize,
    slots: &'a [AtomicU64],
    slot_words: usize,
}

impl<'a> Broadcast<'a> {
    /// A ring over `slots`, of `slot_words` words each, all zeroes at first; reader `n` has its cursor at `n * stride`.
    ///
    /// # Panics
    /// If the number of slots is no power of two, or a slot has no body.
    pub fn new(
        tail: &'a AtomicU64,
        cursors: &'a [AtomicU64],
        stride: usize,
        slots: &'a [AtomicU64],
        slot_words: usize,
    ) -> Self {
        assert!(slot_words > SEQUENCE_WORDS && slots.len().is_multiple_of(slot_words), "slots of {slot_words} words");
        assert!((slots.len() / slot_words).is_power_of_two(), "a power of two of slots");
        Self { tail, cursors, stride, slots, slot_words }
    }

    fn count(self) -> u64 {
        (self.slots.len() / self.slot_words) as u64
    }

    fn slot(self, position: u64) -> &'a [AtomicU64] {
        let start = (position & (self.count() - 1)) as usize * self.slot_words;
        &self.slots[start..start + self.slot_words]
    }

    fn cursor(self, reader: u16) -> &'a AtomicU64 {
        &self.cursors[usize::from(reader) * self.stride]
    }
}

/// The producers' side, private to their process and shared by its threads.
#[derive(Debug)]
pub struct Sender {
    tail: AtomicU64,
    /// Every listening reader that counts has passed all positions below.
    minimum: AtomicU64,
    /// Whose cursors count.
    admitted: Box<[AtomicBool]>,
    /// Whether fellows may be gone that have claimed a place.
    closed: AtomicBool,
    /// No reader from this number on has ever been admitted.
    readers: AtomicUsize,
    /// The sequence of each slot, where no reader can write to it. Made when the number of slots is known.
    published: OnceLock<Box<[AtomicU64]>>,
}

/// A position that is ours to fill and publish.
#[derive(Debug)]
#[must_use]
pub struct Place {
    position: u64,
}

impl Sender {
    /// For at most `readers` readers.
    pub fn new(readers: usize) -> Self {
        Self {
            tail: AtomicU64::new(0),
            minimum: AtomicU64::new(0),
            admitted: (0..readers).map(|_| AtomicBool::new(false)).collect(),
            closed: AtomicBool::new(false),
            readers: AtomicUsize::new(0),
            published: OnceLock::new(),
        }
    }

    /// The sequence of the slot of `position`.
    fn published(&self, ring: Broadcast<'_>, position: u64) -> &AtomicU64 {
        let published = self.published.get_or_init(|| heap_words(ring.count() as usize));
        &published[(position & (ring.count() - 1)) as usize]
    }

    /// Lets a reader's cursor count. To be called before the reader learns its number.
    pub fn admit(&self, ring: Broadcast<'_>, reader: u16) {
        // Relaxed, all: the reader is told by a message that orders them before anything it does.
        ring.cursor(reader).store(SILENT, Ordering::Relaxed);
        self.readers.fetch_max(usize::from(reader) + 1, Ordering::Relaxed);
        self.admitted[usize::from(reader)].store(true, Ordering::Relaxed);
        // Made here at the latest, and not when somebody waits for a reply.
        self.published(ring, 0);
    }

    /// Lets a reader's cursor count no more: it is dead, or too slow.
    pub fn dismiss(&self, reader: u16) {
        // Relaxed: that a scan still counts it is harmless.
        self.admitted[usize::from(reader)].store(false, Ordering::Relaxed);
    }

    /// Waits for no fellow any more: one that has panicked never publishes what it has claimed.
    pub fn close(&self) {
        // Relaxed: who waits looks again and again.
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Takes the next position; `None` while a reader has not passed the slot. Waits for a fellow that is about to
    /// publish there, one lap before: a thread of this process.
    pub fn try_claim(&self, ring: Broadcast<'_>) -> Option<Place> {
        loop {
            // Relaxed: the CAS decides.
            let position = self.tail.load(Ordering::Relaxed);
            // Acquire: pairs with the Release in `look_for_room`, and through it with those of the cursors.
            if position - self.minimum.load(Ordering::Acquire).min(position) >= ring.count()
                && position - self.look_for_room(ring).min(position) >= ring.count()
            {
                if self.tail.load(Ordering::Relaxed) == position {
                    return None;
                }
                continue;
            }
            // Acquire: pairs with the Release in `publish`: the fellow's writes to the slot happen before ours.
            let sequence = self.published(ring, position).load(Ordering::Acquire);
            if sequence != (position + 1).saturating_sub(ring.count()) {
                if self.tail.load(Ordering::Relaxed) == position {
                    if self.closed.load(Ordering::Relaxed) {
                        return None;
                    }
                    yield_now();
                }
                continue;
            }
            if self.tail.compare_exchange(position, position + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                // Relaxed: readers that begin at an older position have more to skip, and nothing else.
                let announced = ring.tail.fetch_max(position + 1, Ordering::Relaxed);
                if announced > position + 1 + ring.count() {
                    self.repair_tail(ring, announced);
                }
                failpoint!("cast.claimed");
                return Some(Place { position });
            }
        }
    }

    /// Takes back an announced tail that is ahead of all that was claimed. Only readers write such a one, and whoever
    /// begins to listen there waits for what will not come for a long time.
    #[cold]
    fn repair_tail(&self, ring: Broadcast<'_>, announced: u64) {
        // A read-modify-write sees the last one of all. Relaxed: nothing is read on the strength of it.
        let tail = self.tail.fetch_add(0, Ordering::Relaxed);
        if announced > tail {
            // It fails if a fellow was faster.
            let _ = ring.tail.compare_exchange(announced, tail, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Whether readers have passed the slot that is next. A hint.
    pub fn has_room(&self, ring: Broadcast<'_>) -> bool {
        let position = self.tail.load(Ordering::Relaxed);
        position.saturating_sub(self.look_for_room(ring)) < ring.count()
    }

    /// Looks at all cursors. Returns the position below which all slots are free.
    fn look_for_room(&self, ring: Broadcast<'_>) -> u64 {
        // Relaxed: ordered by the fence, [B] of the module header.
        let tail = self.tail.load(Ordering::Relaxed);
        ring.tail.fetch_max(tail, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let minimum = self.listening(ring).map(|(_, cursor)| cursor).min().unwrap_or(tail).min(tail);
        // Release: pairs with the Acquire in `try_claim`: whoever takes the minimum for granted has the readers' reads
        // behind it, as we have. Acquire: and so has who takes it from us.
        self.minimum.fetch_max(minimum, Ordering::AcqRel).max(minimum)
    }

    /// Readers that count and listen, with their cursors.
    pub fn listening(&self, ring: Broadcast<'_>) -> impl Iterator<Item = (u16, u64)> {
        (0..self.readers.load(Ordering::Relaxed) as u16)
            .filter(|&reader| self.admitted[usize::from(reader)].load(Ordering::Relaxed))
            // Acquire: pairs with the Release in `Receiver::announce` and `leave`: the reader's reads of what it has
            // passed happen before we write there. (The model cannot show it, here and in the minimum that hands it on,
            // since loom has no load that sees a later store.)
            .map(move |reader| (reader, ring.cursor(reader).load(Ordering::Acquire)))
            .filter(|&(_, cursor)| cursor != SILENT)
    }

    /// The next position to be claimed.
    pub fn tail(&self) -> u64 {
        self.tail.load(Ordering::Relaxed)
    }

    /// Writes and publishes a message: `write` gets the slot's body.
    pub fn publish(&self, ring: Broadcast<'_>, place: Place, write: impl FnOnce(&[AtomicU64])) {
        let slot = ring.slot(place.position);
        // For a reader that was dismissed and still copies what was here: it sees the sequence gone if it sees any word
        // of the new body. Relaxed and a fence(Release): pairs with the fence(Acquire) in `Receiver::check`.
        slot[0].store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        write(&slot[SEQUENCE_WORDS..]);
        failpoint!("cast.written");
        // Release: pairs with the Acquire in `Receiver::next`.
        slot[0].store(place.position + 1, Ordering::Release);
        failpoint!("cast.published");
        // Release: pairs with the Acquire in `try_claim`.
        self.published(ring, place.position).store(place.position + 1, Ordering::Release);
    }
}

/// What we would read next was overwritten: we were too slow, and were dismissed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("messages were overwritten before they were read")]
pub struct Lapped;

/// A reader's private state.
#[derive(Debug)]
pub struct Receiver {
    reader: u16,
    position: u64,
    announced: u64,
}

impl Receiver {
    /// Reader number `reader`, which does not listen yet.
    pub fn new(reader: u16) -> Self {
        Self { reader, position: 0, announced: SILENT }
    }

    /// Whether it listens.
    pub fn is_listening(&self) -> bool {
        self.announced != SILENT
    }

    /// Begins to listen: what is claimed from now on will be seen.
    pub fn listen(&mut self, ring: Broadcast<'_>) {
        let cursor = ring.cursor(self.reader);
        // Relaxed: ordered by the fence, [A] of the module header.
        cursor.store(ring.tail.load(Ordering::Relaxed), Ordering::Relaxed);
        failpoint!("rings.listening");
        fence(Ordering::SeqCst);
        self.position = ring.tail.load(Ordering::Relaxed);
        self.announced = self.position;
        // Relaxed: we have read nothing yet.
        cursor.store(self.position, Ordering::Relaxed);
    }

    /// Stops listening: holds nothing back any more.
    pub fn leave(&mut self, ring: Broadcast<'_>) {
        self.announced = SILENT;
        // Release: pairs with the Acquire in `Sender::listening`: we have read what we have read.
        ring.cursor(self.reader).store(SILENT, Ordering::Release);
    }

    /// The body of the next message, if it has come. Copy what is of interest, then [`Self::check`] and go on.
    pub fn next<'a>(&self, ring: Broadcast<'a>) -> Result<Option<&'a [AtomicU64]>, Lapped> {
        let slot = ring.slot(self.position);
        // Acquire: pairs with the Release in `Sender::publish`.
        match slot[0].load(Ordering::Acquire) {
            sequence if sequence == self.position + 1 => Ok(Some(&slot[SEQUENCE_WORDS..])),
            sequence if sequence > self.position + 1 => Err(Lapped),
            _ => Ok(None),
        }
    }

    /// Whether the message that was copied is whole: nobody has begun to write over it. Goes on to the next one.
    pub fn check(&mut self, ring: Broadcast<'_>) -> Result<(), Lapped> {
        // Pairs with the fence(Release) in `Sender::publish`; the load behind it may be Relaxed, as with any seqlock.
        fence(Ordering::Acquire);
        if ring.slot(self.position)[0].load(Ordering::Relaxed) != self.position + 1 {
            return Err(Lapped);
        }
        self.position += 1;
        Ok(())
    }

    /// Whether there is a next message. A hint.
    #[inline]
    pub fn has_news(&self, ring: Broadcast<'_>) -> bool {
        // Relaxed: a hint; who acts on it looks properly.
        ring.slot(self.position)[0].load(Ordering::Relaxed) > self.position
    }

    /// Messages passed that were not announced yet.
    pub fn unannounced(&self) -> u64 {
        if self.is_listening() { self.position - self.announced } else { 0 }
    }

    /// Lets producers use again what was read. Not for who does not listen: a cursor comes from [`Self::listen`].
    pub fn announce(&mut self, ring: Broadcast<'_>) {
        if !self.is_listening() {
            return;
        }
        self.announced = self.position;
        // Release: pairs with the Acquire in `Sender::listening`: our reads happen before the next writes.
        ring.cursor(self.reader).store(self.position, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::Memory;

    const SLOTS: u64 = 4;

    struct Ring {
        tail: AtomicU64,
        cursors: Box<[AtomicU64]>,
        slots: Box<[AtomicU64]>,
    }

    impl Ring {
        fn new() -> Self {
            Self { tail: AtomicU64::new(0), cursors: heap_words(3), slots: heap_words(2 * SLOTS as usize) }
        }

        fn broadcast(&self) -> Broadcast<'_> {
            Broadcast::new(&self.tail, self.cursors.words(), 1, self.slots.words(), 2)
        }

        fn send(&self, sender: &Sender, value: u64) -> bool {
            let Some(place) = sender.try_claim(self.broadcast()) else { return false };
            sender.publish(self.broadcast(), place, |body| body[0].store(value, Ordering::Relaxed));
            true
        }

        fn receive(&self, receiver: &mut Receiver) -> Result<Option<u64>, Lapped> {
            let Some(body) = receiver.next(self.broadcast())? else { return Ok(None) };
            let value = body[0].load(Ordering::Relaxed);
            receiver.check(self.broadcast())?;
            Ok(Some(value))
        }
    }

    #[test]
    fn every_listener_sees_every_message_and_the_slowest_gates() {
        let (ring, sender) = (Ring::new(), Sender::new(3));
        let mut readers = [Receiver::new(0), Receiver::new(1)];
        for reader in &mut readers {
            sender.admit(ring.broadcast(), reader.reader);
            reader.listen(ring.broadcast());
        }
        for value in 0..SLOTS {
            assert!(ring.send(&sender, value));
        }
        assert!(!ring.send(&sender, 99), "full");
        for reader in &mut readers {
            for value in 0..SLOTS {
                assert!(!ring.send(&sender, 99), "full until the last one has read");
                assert_eq!(ring.receive(reader), Ok(Some(value)));
            }
            assert_eq!(ring.receive(reader), Ok(None));
            reader.announce(ring.broadcast());
        }
        assert!(ring.send(&sender, 5));
    }

    #[test]
    fn who_does_not_listen_holds_nothing_back() {
        let (ring, sender) = (Ring::new(), Sender::new(3));
        let mut reader = Receiver::new(2);
        sender.admit(ring.broadcast(), 2);
        for round in 0..100 {
            for value in 0..10 * SLOTS {
                assert!(ring.send(&sender, value));
            }
            reader.listen(ring.broadcast());
            assert_eq!(ring.receive(&mut reader), Ok(None), "what came before is not for us");
            assert!(ring.send(&sender, round));
            assert_eq!(ring.receive(&mut reader), Ok(Some(round)));
            reader.leave(ring.broadcast());
        }
    }

    #[test]
    fn a_dismissed_listener_holds_nothing_back_and_notices() {
        let (ring, sender) = (Ring::new(), Sender::new(3));
        let mut reader = Receiver::new(0);
        sender.admit(ring.broadcast(), 0);
        reader.listen(ring.broadcast());
        while ring.send(&sender, 1) {}
        assert_eq!(sender.listening(ring.broadcast()).collect::<Vec<_>>(), [(0, 0)]);
        sender.dismiss(0);
        assert!(ring.send(&sender, 2), "room again");
        assert_eq!(ring.receive(&mut reader), Err(Lapped));
    }
}
