//! Notes of how far each lane has come, in memory that outlives the server and that no client maps.
//!
//! # Design
//!
//! A worker executes several requests of a lane before it publishes what it has taken and what it has answered. A
//! server that dies in between has done what its client does not know of. So each lane has a **note** of both
//! positions, which is brought up to date behind every request, and whoever comes after that server believes the note,
//! and never what the lane says of itself (I4).
//!
//! A note has the head, the tail and the state of its lane twice, and one word says which of them counts. The other one
//! is written, then that word, by one store with Release. So what counts is whole at any instruction of a death.
//!
//! | state    | what is known                                                | what becomes of the lane               |
//! |----------|--------------------------------------------------------------|----------------------------------------|
//! | resting  | all before the head is done, and its replies end at the tail | goes on there                          |
//! | taken    | a whole request was taken out of it, and is not answered     | goes on; its client is told of a doubt |
//! | broken   | a request, or a reply, is in the middle of its way           | its connection ends                    |
//! | offered  | its client may have got it, and may have sealed it           | goes on if it is sealed, else ends     |
//!
//! Besides, a note says which request is **in hand**: by its position, stored before it is executed. If that is the
//! head, the request may have been done, or not, which [`crate::table::commits`] tells. And it says from which request
//! on replies stand in the ring that nobody may see before what was done is on the disk.
//!
//! # Invariants
//!
//! - A note is changed by the worker of its lane alone, and is 0 where there is no lane.
//! - What was executed stands before the head of the note, or is in hand.
//!
//! # Not promised
//!
//! Nothing is flushed: notes outlive the process, not the machine.

use std::io;

use super::passed::{PASSED_WORDS, Passed};
use crate::limits::{self, LANE_RING_SIZE};
use crate::shm::segment::{Mapping, Segment};
use crate::sync::{Arc, AtomicU64, Memory, Ordering};
use crate::table::commits::{self, Commits, LOG_WORDS};

/// Words of a note: two cache lines, so that notes of different workers share none that is fetched along.
const NOTE_WORDS: usize = 16;
/// The number of the connection; 0 where there is no lane.
const CONNECTION: usize = 0;
/// The worker that serves it, and whether its pins count.
const SERVICE: usize = 1;
/// Which of the two states counts, 0 or 1.
const COUNTS: usize = 2;
/// The position of the request in hand, plus 1, which no position is.
const IN_HAND: usize = 3;
/// The first word of the states: head, tail, its state.
const STATES: usize = 4;
const STATE_WORDS: usize = 3;
/// The position of the first request whose reply is in the ring, and waits for the disk before it is published, plus 1;
/// 0 for none.
const UNSYNCED: usize = STATES + 2 * STATE_WORDS;

const PINS: u64 = 1 << 32;

/// The notes of all lanes, and behind them a log for each worker of what it is about to commit
/// ([`crate::table::commits`]), and who has passed barriers.
pub(super) struct Notes(Arc<Mapping>);

/// How far a lane has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneState {
    Offered,
    Resting,
    Taken,
    Broken,
}

impl LaneState {
    const ALL: [Self; 4] = [Self::Offered, Self::Resting, Self::Taken, Self::Broken];
}

/// What a note says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Noted {
    pub connection: u64,
    pub worker: usize,
    /// Whether the client's pins count.
    pub has_pins: bool,
    pub state: LaneState,
    /// Where the next request begins.
    pub head: u64,
    /// Where the next reply begins.
    pub tail: u64,
    /// Whether the request at the head may have been done.
    pub is_in_hand: bool,
    /// Where the first request before the head begins whose reply is in the ring, and waits for the disk.
    pub unsynced: Option<u64>,
}

impl Notes {
    /// Notes for so many lanes, with the segment that they lie in.
    ///
    /// # Errors
    /// If the system refuses memory or descriptors.
    pub fn create(lanes: usize) -> io::Result<(Self, Segment)> {
        let segment = Segment::create("ringtable-notes", Self::size(lanes))?;
        let notes = Self(Arc::new(segment.map_writable()?));
        segment.seal(false)?;
        Ok((notes, segment))
    }

    /// The notes that another server has left.
    ///
    /// # Errors
    /// If they are not for so many lanes, or cannot be mapped.
    pub fn adopt(segment: &Segment, lanes: usize) -> io::Result<Self> {
        let expected = Self::size(lanes);
        if segment.size() != expected {
            let found = segment.size();
            return Err(io::Error::other(format!("the notes have {found} bytes, and {expected} are expected")));
        }
        Ok(Self(Arc::new(segment.map_writable()?)))
    }

    fn size(lanes: usize) -> usize {
        ((lanes * NOTE_WORDS + limits::WORKERS_MAX * LOG_WORDS + PASSED_WORDS) * 8).next_multiple_of(4_096)
    }

    /// For how many lanes there are notes.
    pub fn lanes(&self) -> usize {
        (self.passed_at() - limits::WORKERS_MAX * LOG_WORDS) / NOTE_WORDS
    }

    /// The memory, and the word at which the log of a worker begins.
    pub fn log(&self, worker: usize) -> (Arc<Mapping>, usize) {
        (Arc::clone(&self.0), self.passed_at() - (worker + 1) * LOG_WORDS)
    }

    /// Where it is noted which parties have passed a barrier.
    pub fn passed(&self) -> Passed {
        Passed::new(Arc::clone(&self.0), self.passed_at())
    }

    fn passed_at(&self) -> usize {
        self.0.words().len() - PASSED_WORDS
    }

    /// What a worker has committed of the request that it had in hand, in the segment of its table.
    pub fn commits(&self, worker: usize, table: &[AtomicU64]) -> Commits {
        let (memory, at) = self.log(worker);
        commits::find(&memory.words()[at..at + LOG_WORDS], table)
    }

    fn words(&self, lane: usize) -> &[AtomicU64] {
        &self.0.words()[lane * NOTE_WORDS..(lane + 1) * NOTE_WORDS]
    }

    /// What stands of a lane; `None` if nothing does, or nonsense.
    pub fn read(&self, lane: usize) -> Option<Noted> {
        let words = self.words(lane);
        // Relaxed: whoever has written it is dead. Acquire: pairs with the Release in `Note::set`.
        let load = |index: usize| words[index].load(Ordering::Relaxed);
        let counts = words[COUNTS].load(Ordering::Acquire) as usize;
        let state = STATES + counts.min(1) * STATE_WORDS;
        let (head, tail, service) = (load(state), load(state + 1), load(SERVICE));
        let noted = Noted {
            connection: load(CONNECTION),
            worker: (service & (PINS - 1)) as usize,
            has_pins: service & PINS != 0,
            state: *LaneState::ALL.get(load(state + 2) as usize)?,
            head,
            tail,
            is_in_hand: load(IN_HAND) == head + 1,
            // One at the head is in hand, or was not begun.
            unsynced: load(UNSYNCED).checked_sub(1).filter(|&first| first < head),
        };
        let is_possible = counts <= 1
            && (1..=i64::MAX as u64).contains(&noted.connection)
            && noted.worker < limits::WORKERS_MAX
            && service < PINS << 1
            && head.is_multiple_of(8)
            && tail.is_multiple_of(8)
            && noted.unsynced.is_none_or(|first| first.is_multiple_of(8) && head - first <= LANE_RING_SIZE as u64);
        is_possible.then_some(noted)
    }

    /// Forgets a lane.
    pub fn clear(&self, lane: usize) {
        // Relaxed: as in `Note::set`; without a connection the rest means nothing.
        self.words(lane)[CONNECTION].store(0, Ordering::Relaxed);
    }
}

/// The note of one lane.
pub(super) struct Note {
    notes: Arc<Notes>,
    lane: usize,
    /// The state that counts, and the head in it.
    counts: u64,
    head: u64,
}

impl Note {
    /// Begins the note of a lane that was given to a connection, to be served by a worker.
    pub fn begin(notes: Arc<Notes>, lane: usize, connection: u64, worker: usize) -> Self {
        let mut note = Self { notes, lane, counts: 1, head: 0 };
        note.store(SERVICE, worker as u64);
        note.store(IN_HAND, 0);
        note.store(UNSYNCED, 0);
        note.set(0, 0, LaneState::Offered);
        // Release: pairs with the Acquire of whoever adopts; the rest is whole before there is a connection.
        note.words()[CONNECTION].store(connection, Ordering::Release);
        note
    }

    /// Goes on with the note that another server has left.
    pub fn go_on(notes: Arc<Notes>, lane: usize) -> Self {
        let load = |index: usize| notes.words(lane)[index].load(Ordering::Relaxed);
        let counts = load(COUNTS) & 1;
        let head = load(STATES + counts as usize * STATE_WORDS);
        Self { notes, lane, counts, head }
    }

    fn words(&self) -> &[AtomicU64] {
        self.notes.words(self.lane)
    }

    fn store(&self, index: usize, value: u64) {
        // Relaxed: read by whoever comes after this process alone, which finds its stores in their order, since those
        // behind it are Release: of `set`, and of the table's slots.
        self.words()[index].store(value, Ordering::Relaxed);
    }

    /// Notes that the request at the head is about to be executed.
    #[inline]
    pub fn take_in_hand(&self) {
        self.store(IN_HAND, self.head + 1);
    }

    /// Notes that replies wait for the disk, from that to the request at this position on. It was not executed yet, or
    /// is in hand.
    pub fn begin_unsynced(&self, position: u64) {
        self.store(UNSYNCED, position + 1);
    }

    /// Notes that no reply does.
    pub fn end_unsynced(&self) {
        self.store(UNSYNCED, 0);
    }

    /// Notes that no request is in hand: the one at the head is to be executed as if for the first time.
    pub fn lay_down(&self) {
        self.store(IN_HAND, 0);
    }

    /// Notes how far the lane has come.
    #[inline]
    pub fn set(&mut self, head: u64, tail: u64, lane_state: LaneState) {
        let (words, other) = (self.words(), self.counts ^ 1);
        let state = STATES + other as usize * STATE_WORDS;
        for (nth, value) in [head, tail, lane_state as u64].into_iter().enumerate() {
            // Relaxed: as in `store`.
            words[state + nth].store(value, Ordering::Relaxed);
        }
        // Release: pairs with the Acquire in `Notes::read`; the state is whole before it counts.
        words[COUNTS].store(other, Ordering::Release);
        (self.counts, self.head) = (other, head);
    }

    /// Notes that the client's pins count.
    pub fn count_pins(&self) {
        let words = self.words();
        words[SERVICE].store(words[SERVICE].load(Ordering::Relaxed) | PINS, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes() -> Arc<Notes> {
        Arc::new(Notes::create(40).unwrap().0)
    }

    #[test]
    fn a_note_says_how_far_a_lane_has_come() {
        let notes = notes();
        assert_eq!(notes.read(3), None);
        let mut note = Note::begin(Arc::clone(&notes), 3, 77, 5);
        let offered = Noted {
            connection: 77,
            worker: 5,
            has_pins: false,
            state: LaneState::Offered,
            head: 0,
            tail: 0,
            is_in_hand: false,
            unsynced: None,
        };
        assert_eq!(notes.read(3), Some(offered));
        note.take_in_hand();
        assert_eq!(notes.read(3), Some(Noted { is_in_hand: true, ..offered }));
        note.lay_down();
        assert_eq!(notes.read(3), Some(offered));
        note.take_in_hand();
        note.begin_unsynced(0);
        assert_eq!(notes.read(3).unwrap().unsynced, None, "it is in hand, or was not begun");
        note.set(64, 16, LaneState::Resting);
        assert_eq!(notes.read(3).unwrap().unsynced, Some(0));
        note.begin_unsynced(3);
        assert_eq!(notes.read(3), None, "nonsense");
        note.end_unsynced();
        note.count_pins();
        let resting = Noted { state: LaneState::Resting, head: 64, tail: 16, has_pins: true, ..offered };
        assert_eq!(notes.read(3), Some(resting));
        let mut note = Note::go_on(Arc::clone(&notes), 3);
        note.set(72, 16, LaneState::Broken);
        assert_eq!(notes.read(3), Some(Noted { state: LaneState::Broken, head: 72, ..resting }));
        assert_eq!((notes.read(2), notes.read(4)), (None, None));
        notes.clear(3);
        assert_eq!(notes.read(3), None);
    }

    #[test]
    fn a_state_that_does_not_count_yet_is_not_seen() {
        let notes = notes();
        let mut note = Note::begin(Arc::clone(&notes), 0, 1, 0);
        note.set(8, 8, LaneState::Resting);
        let before = notes.read(0).unwrap();
        for (index, value) in [(0, 800), (1, 880), (2, LaneState::Taken as u64)] {
            let state = STATES + (note.counts ^ 1) as usize * STATE_WORDS;
            note.store(state + index, value);
            assert_eq!(notes.read(0), Some(before));
        }
    }

    #[test]
    fn nonsense_is_no_note() {
        let notes = notes();
        for (index, value) in
            [(CONNECTION, u64::MAX), (SERVICE, 64), (SERVICE, PINS << 1), (COUNTS, 2), (STATES, 4), (STATES + 2, 4)]
        {
            let mut note = Note::begin(Arc::clone(&notes), 1, 9, 2);
            note.set(8, 8, LaneState::Resting);
            assert_eq!(note.counts, 1);
            note.set(8, 8, LaneState::Resting);
            assert!(notes.read(1).is_some());
            note.store(index, value);
            assert_eq!(notes.read(1), None, "word {index}: {value}");
        }
    }
}
