//! Replies that wait for room on their way to a client.
//!
//! What has gone makes room for what follows, also if some is always on its way: a client that sends further requests
//! before it has read all replies never sees the end of them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use super::buffers::KEPT_MAX;
use crate::command::reply::Destination;
use crate::shm::segment::Mapping;
use crate::sync::Arc;
use crate::table::HeldEntry;

/// Bytes that have gone above which their room is used anew, if others wait behind them.
const FORGOTTEN_MIN: usize = 64 << 10;

/// That something waits until what was changed before a position is on the disk.
#[derive(Clone, Debug)]
pub(super) struct Durable {
    position: u64,
    /// The position before which all is on the disk.
    reached: Arc<AtomicU64>,
}

impl Durable {
    /// What waits for this position.
    pub fn new(position: u64, reached: Arc<AtomicU64>) -> Self {
        Self { position, reached }
    }

    /// Whether it waits for nothing any more.
    #[inline]
    pub fn is_reached(&self) -> bool {
        // Acquire: pairs with the Release in `Log::note_durable`.
        self.reached.load(Ordering::Acquire) >= self.position
    }
}

/// Replies in the order in which they go out: bytes, and between them large values, which stay in their entries.
#[derive(Default)]
pub(super) struct Outgoing {
    /// What was written, of which everything before `sent` has gone.
    bytes: Vec<u8>,
    sent: usize,
    /// Values that have not gone, the first one perhaps in part.
    values: VecDeque<Value>,
    /// Bytes of theirs that have not gone.
    held: usize,
    /// Whether a value has gone since this was last asked.
    let_go: bool,
    /// What all of it waits for.
    durable: Option<Durable>,
}

/// A value between what stands before and after byte `at`.
struct Value {
    at: usize,
    held: HeldEntry<Mapping>,
    sent: usize,
    size: usize,
}

impl Value {
    fn rest(&self) -> &[u8] {
        &self.held.bytes()[self.sent..self.size]
    }
}

impl Destination for Outgoing {
    #[inline]
    fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    fn hold(&mut self, held: HeldEntry<Mapping>, size: usize) -> usize {
        self.held += size;
        self.values.push_back(Value { at: self.bytes.len(), held, sent: 0, size });
        size
    }
}

impl Outgoing {
    /// Lets nothing go before that is on the disk. It is later than what was waited for before.
    pub fn wait_for(&mut self, durable: Durable) {
        self.durable = Some(durable);
    }

    /// Whether nothing may go yet.
    #[inline]
    pub fn is_held_back(&self) -> bool {
        self.durable.as_ref().is_some_and(|durable| !durable.is_reached())
    }

    /// Bytes that have not gone.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent + self.held
    }

    /// Whether all of it has gone.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether what goes next is more than one piece.
    pub fn is_in_pieces(&self) -> bool {
        !self.values.is_empty()
    }

    /// What goes next, as far as it lies in one piece. Empty if there is nothing.
    #[inline]
    pub fn next(&self) -> &[u8] {
        match self.values.front() {
            None => &self.bytes[self.sent..],
            Some(value) if self.sent < value.at => &self.bytes[self.sent..value.at],
            Some(value) => value.rest(),
        }
    }

    /// All pieces of what goes next, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = self.sent;
        let values = self.values.iter().flat_map(move |value| {
            let before = &self.bytes[at..value.at];
            at = value.at;
            [before, value.rest()]
        });
        let behind = self.values.back().map_or(self.sent, |value| value.at);
        values.chain([&self.bytes[behind..]]).filter(|piece| !piece.is_empty())
    }

    /// Takes note that so many bytes, of one piece or several, have gone.
    #[inline]
    pub fn advance(&mut self, size: usize) {
        if self.values.is_empty() {
            self.sent += size;
        } else {
            self.advance_in_pieces(size);
        }
        if self.is_empty() {
            self.clear();
        } else if self.sent >= FORGOTTEN_MIN && self.sent >= self.bytes.len() / 2 {
            self.forget_sent();
        }
    }

    /// Lets go of the bytes that have gone, which are at least as many as those that are moved for it.
    #[cold]
    fn forget_sent(&mut self) {
        self.bytes.drain(..self.sent);
        for value in &mut self.values {
            value.at -= self.sent;
        }
        self.sent = 0;
        if self.bytes.capacity() > KEPT_MAX {
            self.bytes.shrink_to(KEPT_MAX);
        }
    }

    fn advance_in_pieces(&mut self, mut size: usize) {
        while let Some(value) = self.values.front_mut() {
            let before = size.min(value.at - self.sent);
            self.sent += before;
            size -= before;
            let of_value = size.min(value.size - value.sent);
            value.sent += of_value;
            self.held -= of_value;
            size -= of_value;
            if self.sent < value.at || value.sent < value.size {
                return;
            }
            self.values.pop_front();
            self.let_go = true;
        }
        self.sent += size;
    }

    /// Whether the entry of a value is needed no more, so that there may be memory to take back. Says so once.
    #[inline]
    pub fn has_let_go(&mut self) -> bool {
        std::mem::take(&mut self.let_go)
    }

    /// Bytes of memory that are kept for what follows, where nothing is to go.
    pub fn kept(&self) -> usize {
        if self.is_empty() { self.bytes.capacity() } else { 0 }
    }

    /// Lets go of memory that is kept, but for `size` bytes.
    pub fn keep(&mut self, size: usize) {
        if self.kept() > size {
            self.bytes = Vec::new();
        }
    }

    /// Drops all of it.
    pub fn clear(&mut self) {
        (self.sent, self.held) = (0, 0);
        self.durable = None;
        self.values.clear();
        self.bytes.clear();
        if self.bytes.capacity() > KEPT_MAX {
            self.bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::segment::Segment;
    use crate::table::{Eviction, Guard, Options, Table, Writer};

    fn writer() -> Writer<Mapping> {
        let segment = Segment::create("ringtable-test", 8 << 20).unwrap();
        let options = Options { buckets: 8, seed: 1, workers: 1, spin_ns: 0, eviction: Eviction::Never };
        Writer::new(Arc::new(Table::create(segment.map_writable().unwrap(), &options).unwrap()))
    }

    /// They once kept all that had ever gone, as long as anything was still to go.
    #[test]
    fn what_has_gone_takes_no_room_though_more_is_always_to_come() {
        let mut outgoing = Outgoing::default();
        outgoing.bytes().extend_from_slice(&[0; 1_000]);
        for _ in 0..100_000 {
            outgoing.bytes().extend_from_slice(&[0; 1_000]);
            outgoing.advance(1_000);
            assert_eq!(outgoing.len(), 1_000);
        }
        assert!(outgoing.bytes.capacity() <= 4 * FORGOTTEN_MIN, "{} bytes", outgoing.bytes.capacity());
        // So with values in between.
        let mut writer = writer();
        writer.put(b"key", &[1; 1_000], None, Guard::Always, || 0).unwrap();
        outgoing.hold(writer.hold(b"key", || 0).unwrap(), 1_000);
        for _ in 0..1_000 {
            outgoing.bytes().extend_from_slice(&[0; 1_000]);
            outgoing.hold(writer.hold(b"key", || 0).unwrap(), 1_000);
            outgoing.advance(2_000);
            assert_eq!(outgoing.pieces().collect::<Vec<_>>().concat(), [[0; 1_000], [1; 1_000]].concat());
        }
        assert!(outgoing.bytes.capacity() <= 4 * FORGOTTEN_MIN, "{} bytes", outgoing.bytes.capacity());
    }

    #[test]
    fn bytes_and_values_go_out_in_order_however_they_are_cut() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut writer = writer();
        for _ in 0..200 {
            let (mut outgoing, mut expected, mut gone) = (Outgoing::default(), Vec::new(), Vec::new());
            for _ in 0..random.usize(1..6) {
                let most = if random.u8(..10) == 0 { 2 * FORGOTTEN_MIN } else { 300 };
                let bytes: Vec<u8> = (0..random.usize(0..most)).map(|_| random.u8(..)).collect();
                expected.extend_from_slice(&bytes);
                // A value that is held has at least a byte: what is empty never goes out, and so is never let go of.
                if !bytes.is_empty() && random.bool() {
                    writer.put(b"key", &bytes, None, Guard::Always, || 0).unwrap();
                    let size = random.usize(1..=bytes.len());
                    outgoing.hold(writer.hold(b"key", || 0).unwrap(), size);
                    outgoing.bytes().extend_from_slice(&bytes[size..]);
                } else {
                    outgoing.bytes().extend_from_slice(&bytes);
                }
            }
            while gone.len() < expected.len() {
                assert_eq!(outgoing.len(), expected.len() - gone.len());
                assert_eq!(outgoing.pieces().collect::<Vec<_>>().concat(), expected[gone.len()..]);
                let next = if random.bool() { outgoing.next() } else { &expected[gone.len()..] };
                let size = random.usize(0..=next.len());
                gone.extend_from_slice(&next[..size]);
                outgoing.advance(size);
            }
            assert!(outgoing.is_empty() && gone == expected);
            assert_eq!(writer.table().reclaimer().holds(), 0);
        }
    }
}
