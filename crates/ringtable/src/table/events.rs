//! What has changed in the table: a ring that the server writes, and that any number of watchers read in place.
//!
//! # Design
//!
//! One logical producer (the workers, one at a time, under a mutex that only the server has) overwrites the oldest
//! records without asking anybody. So nobody is ever waited for, and whoever is slow is **lapped**: it notices, learns
//! exactly how many events it has missed, and goes on with the newest one.
//!
//! ```text
//! word 0            intent: where the record that is being written will end
//! STRIDE            tail: where the last complete record ends
//! 2 * STRIDE        latest: where the last complete record begins
//! 3 * STRIDE …      data, a power of two of words
//! ```
//!
//! A record is a head (kind, key size, size in words), its sequence number (the events since the ring was made), a
//! version, a value size, and the key. A record that does not fit before the end of the data is preceded by padding
//! up to there, so that every record lies in one piece. Positions count words and never go back; a position's lower
//! bits are its place in the data.
//!
//! A **gap** is a record that tells of no event: those between the number that was expected and its own are missing.
//! There is one where a server died in the middle of a change, and behind the last event before nobody watched.
//! A gap in place of a record that was begun takes the same words: so positions do not go back then, either.
//!
//! ```text
//! producer                                  watcher
//! store intent (Relaxed)                    load tail, fence(Acquire)        [1]
//! fence(Release)                [2]         copy the record (Relaxed)
//! store the record (Relaxed)                fence(Acquire)                   [2]
//! store latest (Release)        [3]         load intent: more than a lap ahead? then
//! store tail (Release)          [1]             load latest, fence(Acquire)  [3], and copy that record likewise
//! ```
//!
//! # Invariants
//!
//! - Sequence numbers leave nothing out but what a gap tells. So what a lapped watcher has missed is the difference
//!   between the number at `latest` and the one that it expected: to the event, unless there was a gap.
//! - As long as there are watchers, everything is told. A server that takes over cannot know whether there were any:
//!   it tells for a while, in which those may come again ([`Broadcast::await_no_more`]). Before anything is left untold
//!   there is a gap. So a watcher that comes again to where it was learns of all that it has missed.
//! - Three of the largest records fit the ring: the record at `latest` is not overwritten by the one behind it, and so
//!   there is one to go on with. Hence the smallest ring has 256 KiB: one of 64 KiB would not hold the longest key.
//! - A watcher does loads only (I2). Whatever the ring holds, it touches nothing outside of it, ends every loop, and
//!   says [`Damaged`] to what no producer writes.
//! - Locks: a worker publishes while it holds the lock of the key's bucket, and takes the mutex behind that, never the
//!   other way round. So the events of a key are in the order of its changes.
//!
//! # Not promised
//!
//! Order between keys of different buckets, other than that each of them was changed before its event.
//!
//! # Source
//!
//! `BroadcastTransmitter` and `BroadcastReceiver` of Agrona (`agrona/src/main/java/org/agrona/concurrent/broadcast`).
//! Ours differs in that records carry sequence numbers, so that a lap has a count, and in that `latest` is a Release:
//! Agrona's receiver goes there after an acquire of the tail alone, which may be older.

use super::layout::{H_EVENTS, HEADER_WORDS as TABLE_HEADER_WORDS, PAGE_WORDS, STRIDE};
use crate::limits;
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering, as_uninit, copy_in, copy_out, fence, lock};

const INTENT: usize = 0;
const TAIL: usize = STRIDE;
const LATEST: usize = 2 * STRIDE;
const DATA: usize = 3 * STRIDE;

/// Words of a record before the key.
pub const RECORD_HEADER_WORDS: usize = 4;
const RECORD_WORDS_MAX: usize = RECORD_HEADER_WORDS + limits::KEY_SIZE_MAX.div_ceil(8);

const _: () = {
    assert!(limits::EVENT_RING_SIZE_MIN.is_power_of_two() && limits::EVENT_RING_SIZE_MAX.is_power_of_two());
    assert!(cfg!(loom) || 3 * RECORD_WORDS_MAX <= limits::EVENT_RING_SIZE_MIN / 8, "three records fit any ring");
};

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A key has a new value, or its value a new expiry.
    Set = 1,
    /// A key was deleted.
    Delete = 2,
    /// A key whose time had passed was removed.
    Expire = 3,
    /// A key was removed to make room for another, in a cache.
    Evict = 4,
    /// All that there was is deleted.
    Flush = 5,
}

/// The kind of a record that only fills the ring up to its end.
const PADDING: u64 = 0;
/// The kind of a record in whose place there are none, up to its sequence number.
const GAP: u64 = 6;

impl Kind {
    fn unpack(number: u64) -> Option<Self> {
        [Self::Set, Self::Delete, Self::Expire, Self::Evict, Self::Flush]
            .into_iter()
            .find(|kind| *kind as u64 == number)
    }
}

/// One change, beside its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// What has happened.
    pub kind: Kind,
    /// The bucket's version at the change, for [`Kind::Set`] that of the new entry: of two changes of a key, the later
    /// one has the higher version. 0 for [`Kind::Flush`].
    pub version: u64,
    /// Bytes of the new value; 0 where there is none.
    pub size: u64,
}

/// A record's first word: bits 0 to 7 the kind, 16 to 31 the key's size in bytes, 32 to 63 the record's in words.
#[derive(Clone, Copy)]
struct Head {
    kind: u64,
    key_size: usize,
    words: usize,
}

impl Head {
    fn pack(self) -> u64 {
        self.kind | (self.key_size as u64) << 16 | (self.words as u64) << 32
    }

    /// The head at `place` in a ring of `capacity` words; `None` if no producer writes such there.
    fn unpack(word: u64, place: usize, capacity: usize) -> Option<Self> {
        let head = Self { kind: word & 0xff, key_size: (word >> 16 & 0xffff) as usize, words: (word >> 32) as usize };
        let words = if head.kind == PADDING { capacity - place } else { record_words(head.key_size) };
        let known = matches!(head.kind, PADDING | GAP) || Kind::unpack(head.kind).is_some();
        (known && head.words == words && place + words <= capacity).then_some(head)
    }
}

fn record_words(key_size: usize) -> usize {
    RECORD_HEADER_WORDS + key_size.div_ceil(8)
}

/// A ring's words, wherever they are.
#[derive(Clone, Copy)]
pub struct Ring<'a> {
    intent: &'a AtomicU64,
    tail: &'a AtomicU64,
    latest: &'a AtomicU64,
    data: &'a [AtomicU64],
}

impl<'a> Ring<'a> {
    /// Words of a ring with `capacity` words of data.
    pub const fn words(capacity: usize) -> usize {
        DATA + capacity
    }

    /// A view of `words`.
    ///
    /// # Panics
    /// If there are not as many as [`Self::words`] says for a power of two.
    pub fn new(words: &'a [AtomicU64]) -> Self {
        let (control, data) = words.split_at(DATA);
        assert!(data.len().is_power_of_two(), "a ring has a power of two of words, not {}", data.len());
        Self { intent: &control[INTENT], tail: &control[TAIL], latest: &control[LATEST], data }
    }

    fn place(self, position: u64) -> usize {
        position as usize & (self.data.len() - 1)
    }
}

/// Where a watcher begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// The next record's position.
    pub position: u64,
    /// The next record's sequence number.
    pub sequence: u64,
}

/// The writing side of a ring.
#[derive(Debug, Default)]
pub struct Producer {
    next: Start,
}

impl Producer {
    /// Makes a ring of memory that may hold anything; nobody else has it yet.
    pub fn create(ring: Ring<'_>) -> Self {
        for word in [ring.intent, ring.tail, ring.latest] {
            // Relaxed: whoever is told of the ring is told behind this.
            word.store(0, Ordering::Relaxed);
        }
        Self::default()
    }

    /// Goes on with the ring of a producer that is dead, and says whether it has died in the middle of a record. In
    /// place of what it had begun there is a gap, of `missed` numbers and one for what was begun: so all watchers learn
    /// that they may have missed so many.
    ///
    /// # Errors
    /// If the ring holds what no producer leaves.
    fn adopt(ring: Ring<'_>, missed: u64) -> Result<(Self, bool), Damaged> {
        const POSITION_MAX: u64 = 1 << 62;
        // Relaxed, as all loads here: the producer is dead.
        let [intent, tail, latest] = [ring.intent, ring.tail, ring.latest].map(|word| word.load(Ordering::Relaxed));
        let capacity = ring.data.len() as u64;
        let is_position = |position: u64| position <= intent && intent - position <= capacity;
        if intent >= POSITION_MAX || !is_position(tail) || !is_position(latest) {
            return Err(Damaged(tail));
        }
        let mut next = Start { position: tail, sequence: 0 };
        if tail > 0 || latest > 0 {
            let place = ring.place(latest);
            let load = |index: usize| ring.data[place + index].load(Ordering::Relaxed);
            let head = Head::unpack(load(0), place, ring.data.len()).filter(|head| head.kind != PADDING);
            let head = head.ok_or(Damaged(latest))?;
            let (end, sequence) = (latest + head.words as u64, load(1));
            if sequence >= POSITION_MAX || end != tail && end != intent {
                return Err(Damaged(latest));
            }
            next = Start { position: end, sequence: sequence + u64::from(head.kind != GAP) };
            // Release: as in `write`. If it was written as a whole, it is there.
            ring.tail.store(end, Ordering::Release);
        }
        let mut producer = Self { next };
        let (begun, left) = ((intent - next.position) as usize, ring.data.len() - ring.place(next.position));
        let words = match begun {
            0 => RECORD_HEADER_WORDS,
            // Behind padding, if it did not fit.
            _ if begun > left => begun - left,
            _ => begun,
        };
        if !(RECORD_HEADER_WORDS..=RECORD_WORDS_MAX).contains(&words) || begun > left && left >= words {
            return Err(Damaged(next.position));
        }
        let missed = missed + u64::from(begun > 0);
        if missed > 0 {
            producer.leave_out(ring, missed, words);
        }
        Ok((producer, begun > 0))
    }

    /// Writes a record over the oldest ones.
    pub fn publish(&mut self, ring: Ring<'_>, event: Event, key: &[u8]) {
        let head = Head { kind: event.kind as u64, key_size: key.len(), words: record_words(key.len()) };
        self.write(ring, head, [self.next.sequence, event.version, event.size], key);
        self.next.sequence += 1;
    }

    /// Writes a gap: the next so many numbers are left out. It has that many words.
    fn leave_out(&mut self, ring: Ring<'_>, count: u64, words: usize) {
        self.next.sequence += count;
        // Its key is whatever lies there.
        let key_size = ((words - RECORD_HEADER_WORDS) * 8).min(limits::KEY_SIZE_MAX);
        let head = Head { kind: GAP, key_size, words };
        self.write(ring, head, [self.next.sequence, 0, 0], b"");
    }

    fn write(&mut self, ring: Ring<'_>, head: Head, rest: [u64; 3], key: &[u8]) {
        let words = head.words;
        let place = ring.place(self.next.position);
        let left = ring.data.len() - place;
        let padding = if left < words { left } else { 0 };
        let begin = self.next.position + padding as u64;
        let end = begin + words as u64;
        // Relaxed: ordered by the fence.
        ring.intent.store(end, Ordering::Relaxed);
        // Release: [2], pairs with the fence(Acquire) in `copy`: a watcher that sees any of the words
        // below sees the intent, too.
        fence(Ordering::Release);
        failpoint!("event.begun");
        if padding > 0 {
            // Relaxed, as all words of records: published with the tail.
            let head = Head { kind: PADDING, key_size: 0, words: padding };
            ring.data[place].store(head.pack(), Ordering::Relaxed);
        }
        let record = &ring.data[ring.place(begin)..][..words];
        for (word, value) in record.iter().zip([head.pack()].into_iter().chain(rest)) {
            word.store(value, Ordering::Relaxed);
        }
        copy_in(key, &record[RECORD_HEADER_WORDS..]);
        failpoint!("event.written");
        // Release: [3], pairs with the fence in `Consumer::catch_up`: the record that it names is there.
        ring.latest.store(begin, Ordering::Release);
        // Release: [1], pairs with the fence in `Consumer::next`: the records below it are there.
        ring.tail.store(end, Ordering::Release);
        failpoint!("event.published");
        self.next.position = end;
    }
}

/// The ring holds what no producer writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ring of events is damaged at position {0}")]
pub struct Damaged(pub u64);

/// What a watcher finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Next {
    /// Nothing new.
    Nothing,
    /// An event; its key is in the buffer.
    Event(Event),
    /// So many events were overwritten before they were read, and the next one is the newest that there was; or so many
    /// were not told, or more.
    Lagged(u64),
    /// The producer was faster each time: there is something, look again.
    Contended,
}

/// A record that was copied while it was not overwritten.
enum Copied {
    Padding(u64),
    Gap { sequence: u64, words: u64 },
    Record { event: Event, sequence: u64, words: u64 },
}

/// The reading side of a ring: a position and what to expect there, which nobody else knows of.
#[derive(Debug)]
pub struct Consumer {
    next: Start,
}

impl Consumer {
    /// Begins where the producer said.
    pub fn new(start: Start) -> Self {
        Self { next: start }
    }

    /// Whether the ring may be that of before, for a consumer that another server was told of: it was not made anew.
    pub fn is_at_home(&self, ring: Ring<'_>, other: &Self) -> bool {
        let (ours, theirs) = (self.next, other.next);
        // Relaxed: it never goes back, and what we have read lies before it.
        ours.position <= ring.tail.load(Ordering::Relaxed)
            && ours.position.cmp(&theirs.position) == ours.sequence.cmp(&theirs.sequence)
    }

    /// Whether there is something that was not read. A hint: [`Self::next`] looks properly.
    pub fn has_news(&self, ring: Ring<'_>) -> bool {
        ring.tail.load(Ordering::Relaxed) > self.next.position
    }

    /// Takes the next event, whose key goes to `key`.
    ///
    /// # Errors
    /// If the ring holds what no producer writes.
    pub fn next(&mut self, ring: Ring<'_>, key: &mut Vec<u8>) -> Result<Next, Damaged> {
        // Padding, a gap that a lap has led to, and once more padding: behind that there is a record.
        for _ in 0..4 {
            let position = self.next.position;
            // Relaxed: ordered by the fence. After a lap we may be ahead of the tail that we see, hence `<=`.
            if ring.tail.load(Ordering::Relaxed) <= position {
                return Ok(Next::Nothing);
            }
            // Acquire: [1], pairs with the Release store of the tail in `Producer::write`.
            fence(Ordering::Acquire);
            match copy(ring, position, key)? {
                None => return self.catch_up(ring, key),
                Some(Copied::Padding(words)) => self.advance(words, 0)?,
                Some(Copied::Gap { sequence, words }) => {
                    let count = sequence.checked_sub(self.next.sequence).ok_or(Damaged(position))?;
                    self.advance(words, count)?;
                    if count > 0 {
                        return Ok(Next::Lagged(count));
                    }
                }
                Some(Copied::Record { event, sequence, words }) => {
                    if sequence != self.next.sequence {
                        return Err(Damaged(position));
                    }
                    self.advance(words, 1)?;
                    return Ok(Next::Event(event));
                }
            }
        }
        Err(Damaged(self.next.position))
    }

    /// Goes on behind what was read.
    fn advance(&mut self, words: u64, events: u64) -> Result<(), Damaged> {
        let Start { position, sequence } = self.next;
        let next = position.checked_add(words).zip(sequence.checked_add(events));
        let (position, sequence) = next.ok_or(Damaged(position))?;
        self.next = Start { position, sequence };
        Ok(())
    }

    /// Jumps to the newest record, and counts those between.
    fn catch_up(&mut self, ring: Ring<'_>, key: &mut Vec<u8>) -> Result<Next, Damaged> {
        for _ in 0..limits::READ_RETRIES_MAX {
            // Relaxed: ordered by the fence.
            let latest = ring.latest.load(Ordering::Relaxed);
            // Acquire: [3], pairs with the Release store of `latest` in `Producer::write`.
            fence(Ordering::Acquire);
            match copy(ring, latest, key)? {
                None => {} // lapped again
                Some(Copied::Record { sequence, .. } | Copied::Gap { sequence, .. })
                    if sequence > self.next.sequence =>
                {
                    let count = sequence - self.next.sequence;
                    self.next = Start { position: latest, sequence };
                    return Ok(Next::Lagged(count));
                }
                Some(_) => return Err(Damaged(latest)),
            }
        }
        Ok(Next::Contended)
    }
}

/// Copies the record at `position`, which the producer has published; `None` if it was overwritten meanwhile.
fn copy(ring: Ring<'_>, position: u64, key: &mut Vec<u8>) -> Result<Option<Copied>, Damaged> {
    let (place, capacity) = (ring.place(position), ring.data.len());
    // Relaxed, as all words of records: the look at the intent decides whether they count.
    let load = |index: usize| ring.data[place + index].load(Ordering::Relaxed);
    let copied = Head::unpack(load(0), place, capacity).map(|head| match Kind::unpack(head.kind) {
        None if head.kind == GAP => Copied::Gap { sequence: load(1), words: head.words as u64 },
        None => Copied::Padding(head.words as u64),
        Some(kind) => {
            let (sequence, version, size) = (load(1), load(2), load(3));
            key.clear();
            key.resize(head.key_size, 0);
            copy_out(&ring.data[place + RECORD_HEADER_WORDS..place + head.words], as_uninit(key));
            Copied::Record { event: Event { kind, version, size }, sequence, words: head.words as u64 }
        }
    });
    failpoint!("watch.copied");
    // Acquire: [2], pairs with the fence(Release) in `Producer::write`.
    fence(Ordering::Acquire);
    // Relaxed: ordered by the fence.
    let intent = ring.intent.load(Ordering::Relaxed);
    match intent.checked_sub(position) {
        None => Err(Damaged(position)),
        Some(ahead) if ahead > capacity as u64 => Ok(None),
        Some(_) => copied.map(Some).ok_or(Damaged(position)),
    }
}

/// Where the ring is in the table segment, as [`H_EVENTS`] tells it: its first word, and its capacity in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLocation {
    start: usize,
    capacity: usize,
}

impl RingLocation {
    /// The place as a word; never 0, which is what the header holds as long as there is no ring.
    fn pack(self) -> u64 {
        (self.start as u64) << 8 | u64::from(self.capacity.ilog2())
    }

    /// The one that a ring has which was given so many words from word `start` on.
    pub(super) fn filling(start: u64, words: usize) -> Self {
        Self { start: start as usize, capacity: 1 << words.saturating_sub(DATA).max(1).ilog2() }
    }

    /// Whether a table may have such a ring.
    pub(super) fn is_possible(self) -> bool {
        (limits::EVENT_RING_SIZE_MIN / 8..=limits::EVENT_RING_SIZE_MAX / 8).contains(&self.capacity)
    }

    /// Its first word.
    pub(super) fn start(self) -> usize {
        self.start
    }

    /// Its words.
    pub(super) fn words(self) -> usize {
        Ring::words(self.capacity)
    }

    /// Whether it is that of a ring which was given so many words from word `start` on.
    pub(super) fn is_at(self, start: u64, words: usize) -> bool {
        self.start as u64 == start && self.words().next_multiple_of(PAGE_WORDS) == words
    }

    /// Tells it in the header of the table.
    pub(super) fn store(self, words: &[AtomicU64]) {
        // Relaxed: whoever looks is told to (by a message over its socket).
        words[H_EVENTS].store(self.pack(), Ordering::Relaxed);
    }

    /// The place that the header of a table tells, if it is one.
    pub fn load(words: &[AtomicU64]) -> Option<Self> {
        // Relaxed: stored once, before the watcher was told to look.
        let word = words.get(H_EVENTS)?.load(Ordering::Relaxed);
        let place =
            Self { start: usize::try_from(word >> 8).ok()?, capacity: 1_usize.checked_shl((word & 0xff) as u32)? };
        let end = place.start.checked_add(Ring::words(place.capacity))?;
        (place.start >= TABLE_HEADER_WORDS && end <= words.len()).then_some(place)
    }

    /// The ring there.
    ///
    /// # Panics
    /// If these are not the words of the table that the place is of.
    pub fn ring(self, words: &[AtomicU64]) -> Ring<'_> {
        Ring::new(&words[self.start..][..Ring::words(self.capacity)])
    }
}

/// What the server knows of its watchers, and the one producer of all its workers.
#[derive(Debug)]
pub struct Broadcast {
    /// Those that are there, and one if there is no telling who was.
    told: AtomicUsize,
    /// Whether watchers of a server that is dead may come again.
    awaits: AtomicBool,
    made: Mutex<Option<(RingLocation, Producer)>>,
}

impl Broadcast {
    /// Without watchers, and without a ring as long as there are none.
    pub fn new() -> Self {
        Self { told: AtomicUsize::new(0), awaits: AtomicBool::new(false), made: Mutex::new(None) }
    }

    /// Goes on with the ring of a server that is dead: see [`Producer::adopt`].
    ///
    /// # Errors
    /// If the ring is damaged.
    pub(super) fn adopt(words: &[AtomicU64], location: RingLocation, missed: u64) -> Result<(Self, bool), Damaged> {
        let (producer, was_begun) = Producer::adopt(location.ring(words), missed)?;
        let made = Mutex::new(Some((location, producer)));
        Ok((Self { told: AtomicUsize::new(1), awaits: AtomicBool::new(true), made }, was_begun))
    }

    /// Whether changes are to be told.
    ///
    /// Relaxed: a watcher is told to begin behind its being counted, and what it does then, directly or by way of
    /// others, comes to a worker by an Acquire (a lane's position) or by the kernel (a socket).
    #[inline]
    pub fn is_watched(&self) -> bool {
        self.told.load(Ordering::Relaxed) > 0
    }

    /// How many watchers there are. Relaxed: a figure.
    pub fn watchers(&self) -> usize {
        self.told.load(Ordering::Relaxed).saturating_sub(usize::from(self.is_awaiting()))
    }

    /// Whether changes are told to those who may come again.
    pub fn is_awaiting(&self) -> bool {
        // Relaxed: one of those who look ends it.
        self.awaits.load(Ordering::Relaxed)
    }

    /// Ends that, in the table of these words: whoever comes now may have missed something.
    pub fn await_no_more(&self, words: &[AtomicU64]) {
        // Relaxed: the mutex orders the rest.
        if self.awaits.swap(false, Ordering::Relaxed) {
            self.unwatch(words);
        }
    }

    /// How many events there were, of those that somebody watched.
    pub fn count(&self) -> u64 {
        lock(&self.made).as_ref().map_or(0, |(_, producer)| producer.next.sequence)
    }

    /// Counts a new watcher; the first one gets the ring made, of memory that `allocate` gives for so many words.
    ///
    /// # Errors
    /// How many bytes there is no room for.
    pub fn watch(&self, words: &[AtomicU64], allocate: impl FnOnce(usize) -> Option<u64>) -> Result<Start, usize> {
        let mut made = lock(&self.made);
        let (_, producer) = match &mut *made {
            Some(made) => made,
            None => {
                let share = words.len() * 8 / limits::EVENT_RING_SHARE;
                let size = share.clamp(limits::EVENT_RING_SIZE_MIN, limits::EVENT_RING_SIZE_MAX);
                let capacity = 1 << (size / 8).ilog2();
                let start = allocate(Ring::words(capacity)).ok_or(Ring::words(capacity) * 8)?;
                let place = RingLocation { start: start as usize, capacity };
                let producer = Producer::create(place.ring(words));
                place.store(words);
                made.insert((place, producer))
            }
        };
        // Under the mutex: whoever publishes from the place on that we return has counted us.
        self.told.fetch_add(1, Ordering::Relaxed);
        Ok(producer.next)
    }

    /// Forgets a watcher of the table of these words. The ring is kept: a client that watched once will again.
    pub fn unwatch(&self, words: &[AtomicU64]) {
        let mut made = lock(&self.made);
        // Relaxed: whoever changes it has the mutex.
        if self.told.load(Ordering::Relaxed) == 1
            && let Some((location, producer)) = &mut *made
        {
            // Before anything is left untold.
            producer.leave_out(location.ring(words), 1, RECORD_HEADER_WORDS);
        }
        self.told.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts one more that never goes.
    pub fn watch_to_the_end(&self) {
        // Relaxed: as in `is_watched`.
        self.told.fetch_add(1, Ordering::Relaxed);
    }

    /// Publishes an event. To be called while the key's bucket is locked.
    pub fn publish(&self, words: &[AtomicU64], event: Event, key: &[u8]) {
        if let Some((place, producer)) = &mut *lock(&self.made) {
            producer.publish(place.ring(words), event, key);
        }
    }
}

impl Default for Broadcast {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::heap_words;

    const CAPACITY: usize = 64;

    fn set(version: u64) -> Event {
        Event { kind: Kind::Set, version, size: 2 * version }
    }

    /// The key of event `sequence`: of any size from 0 to 40 bytes.
    fn key(sequence: u64) -> Vec<u8> {
        vec![sequence as u8; (sequence * 7 % 41) as usize]
    }

    #[test]
    fn every_event_comes_once_and_in_order() {
        let words = heap_words(Ring::words(CAPACITY));
        let ring = Ring::new(&words);
        let (mut producer, mut consumer) = (Producer::create(ring), Consumer::new(Start::default()));
        let mut found = Vec::new();
        assert_eq!(consumer.next(ring, &mut found), Ok(Next::Nothing));
        for sequence in 0..1_000 {
            producer.publish(ring, set(sequence), &key(sequence));
            assert!(consumer.has_news(ring));
            assert_eq!(consumer.next(ring, &mut found), Ok(Next::Event(set(sequence))));
            assert_eq!(found, key(sequence));
            assert_eq!(consumer.next(ring, &mut found), Ok(Next::Nothing));
        }
    }

    #[test]
    fn what_a_lapped_watcher_missed_and_what_it_got_add_up() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let words = heap_words(Ring::words(CAPACITY));
        let ring = Ring::new(&words);
        let (mut producer, mut consumer) = (Producer::create(ring), Consumer::new(Start::default()));
        let (mut published, mut seen, mut laps) = (0, 0, 0);
        let mut found = Vec::new();
        for _ in 0..2_000 {
            for _ in 0..random.u64(..30) {
                producer.publish(ring, set(published), &key(published));
                published += 1;
            }
            loop {
                match consumer.next(ring, &mut found).unwrap() {
                    Next::Nothing => break,
                    Next::Event(event) => {
                        assert_eq!((event, &found), (set(seen), &key(seen)));
                        seen += 1;
                    }
                    Next::Lagged(count) => {
                        assert!(count > 0);
                        seen += count;
                        laps += 1;
                    }
                    Next::Contended => unreachable!("nobody writes meanwhile"),
                }
            }
            assert_eq!(seen, published);
        }
        assert!(laps > 0);
    }

    /// What a producer had begun when it died is as if it had been written: to the word, wherever in the ring.
    #[test]
    fn a_gap_takes_the_words_of_what_was_begun() {
        for (before, key_size) in (0..30).flat_map(|before| [0, 8, 60].map(|size| (before, size))) {
            let words = heap_words(Ring::words(CAPACITY));
            let ring = Ring::new(&words);
            let mut producer = Producer::create(ring);
            (0..before).for_each(|sequence| producer.publish(ring, set(sequence), &key(sequence)));
            let [tail, latest] = [ring.tail, ring.latest].map(|word| word.load(Ordering::Relaxed));
            let mut consumer = Consumer { next: producer.next };
            // It dies behind the words of the record.
            producer.publish(ring, set(before), &vec![1; key_size]);
            let end = ring.tail.swap(tail, Ordering::Relaxed);
            ring.latest.store(latest, Ordering::Relaxed);
            // The next one, too, as often as it likes.
            for _ in 0..3 {
                let (adopted, was_begun) = Producer::adopt(ring, 2).unwrap();
                assert!(was_begun);
                assert_eq!((adopted.next.position, ring.intent.load(Ordering::Relaxed)), (end, end));
                ring.tail.store(tail, Ordering::Relaxed);
                ring.latest.store(latest, Ordering::Relaxed);
            }
            let (mut producer, _) = Producer::adopt(ring, 2).unwrap();
            producer.publish(ring, set(9), b"key");
            let mut found = Vec::new();
            assert_eq!(consumer.next(ring, &mut found), Ok(Next::Lagged(3)));
            assert_eq!(consumer.next(ring, &mut found), Ok(Next::Event(set(9))));
            assert_eq!(consumer.next(ring, &mut found), Ok(Next::Nothing));
            // Whole, and to be gone on with.
            let (adopted, was_begun) = Producer::adopt(ring, 0).unwrap();
            assert_eq!((adopted.next.sequence, was_begun), (producer.next.sequence, false));
        }
    }

    #[test]
    fn nonsense_is_an_error_and_never_a_panic() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let words = heap_words(Ring::words(CAPACITY));
        let ring = Ring::new(&words);
        let mut key = Vec::new();
        for round in 0..20_000 {
            for word in &words {
                let bits = random.u32(1..=64);
                word.store(random.u64(..) >> (64 - bits), Ordering::Relaxed);
            }
            if round % 2 == 0 {
                // Nearly right: positions that are near each other.
                let tail = random.u64(1..1 << 40);
                ring.tail.store(tail, Ordering::Relaxed);
                ring.intent.store(tail, Ordering::Relaxed);
                ring.latest.store(tail - random.u64(..tail.min(64)), Ordering::Relaxed);
                ring.data[random.usize(..CAPACITY)].store((random.u64(..6) << 32) | random.u64(..7), Ordering::Relaxed);
            }
            let tail = ring.tail.load(Ordering::Relaxed);
            let position = tail.wrapping_sub(random.u64(..2 * CAPACITY as u64));
            let mut consumer = Consumer::new(Start { position, sequence: random.u64(..) >> 1 });
            for _ in 0..4 {
                let _ = consumer.next(ring, &mut key);
            }
        }
    }

    #[test]
    fn a_ring_is_believed_only_where_it_fits_the_table() {
        let words = heap_words(8 * super::super::layout::PAGE_WORDS);
        assert_eq!(RingLocation::load(&words), None);
        let broadcast = Broadcast::new();
        let none = broadcast.watch(&words, |_| None).unwrap_err();
        assert!(none > limits::EVENT_RING_SIZE_MIN);
        assert_eq!((broadcast.is_watched(), RingLocation::load(&words)), (false, None));
        broadcast.watch(&words, |_| Some(TABLE_HEADER_WORDS as u64)).unwrap();
        assert_eq!(broadcast.watchers(), 1);
        assert!(RingLocation::load(&words).is_some());
        let right = words[H_EVENTS].load(Ordering::Relaxed);
        for wrong in [0, 1, u64::MAX, right + 1, right + 200, right & 0xff, right + (1 << 40)] {
            words[H_EVENTS].store(wrong, Ordering::Relaxed);
            assert_eq!(RingLocation::load(&words), None, "{wrong:#x}");
        }
    }
}
