//! A bounded queue of fixed-size slots between many producers and many consumers, whose producers may die or stop at
//! any instruction without stopping anybody.
//!
//! # Design
//!
//! Every slot begins with a **stamp**: `lap | owner | state` in one word. Position `p` of the queue is slot
//! `p mod count` in lap `p / count`. A slot is *free for* a lap, *claimed in* it, *published in* it, and then free for
//! the next one:
//!
//! ```text
//!             claim (CAS)             publish (CAS)              taken and copied out
//! Free(lap) ─────────────► Claimed(lap) ─────────► Published(lap) ─────────► Free(lap + 1)
//!                               │                                              ▲
//!                               │ the claimer lets them wait                   │
//!                               ▼             the claimer wakes up, or is dead │
//!                         Quarantined(lap) ────────────────────────────────────┤
//!                           │          ▲                                       │
//!                   the head│          │ a producer comes by                   │
//!                   comes by│          │ in the next lap                       │
//!                           ▼          │      the claimer wakes up, or is dead │
//!                          Passed(lap) ────────────────────────────────────────┘
//! ```
//!
//! The claim writes the owner's number into the stamp in the very instruction that takes the slot, so there is no
//! moment in which a slot belongs to somebody unknown. The tail is only a hint: who finds the slot at the tail taken
//! moves the tail on, whoever took it. So a producer that dies between its claim and moving the tail stops nobody.
//! Payloads are written and read outside of any lock, between claim and publish, and between take and release.
//!
//! # Recovery (I7), and why it is safe
//!
//! - **A slot is reclaimed only when its owner is certainly dead** (its socket is closed, I1: the kernel closes it when
//!   no thread of it runs any more) **or gives it back itself.** Until then the owner may write into the slot's body at
//!   any time, so nobody else may get it: no time-out ends that.
//! - A claimed slot that is next to be taken and not published for a while (a stopped process, or one that lost its
//!   processor) is **quarantined**: consumers step over it and others' messages flow. The publish of its owner is a CAS
//!   from `Claimed`, which fails then: so a message is either taken or known not to be, never both, and its owner sends
//!   it again. The owner has finished writing at that point and gives the slot back.
//! - A quarantined slot takes part in no lap. For producers and consumers to agree on the positions that it skips, the
//!   first producer that comes to such a position stamps it `Quarantined(lap)` before the tail moves on, and the first
//!   consumer stamps it `Passed(lap)` before the head does. A producer waits for that as for any other slot: so the
//!   tail does not run away from the head, however many slots are quarantined. Giving the slot back (`Free(lap + 1)`)
//!   is a CAS from the last such stamp, so it names a lap that nobody has skipped.
//! - A consumer that finds a later lap than its position's at the head knows that the position was given back unused,
//!   and steps over it: a slot that was *published* is freed only after the head has moved past it.
//! - What the dead have claimed ahead of the head becomes `Quarantined(lap)` with nobody as its owner, and free when
//!   the head comes by. (Were it free at once, deaths could move the tail on by any number of laps.)
//!
//! # Invariants
//!
//! - The lap of a slot's stamp never decreases, and is at most two more than that of the head's next position there.
//! - The tail is past a position only if the slot's stamp is: in a later lap, or in this one and not free.
//! - The head is never ahead of the tail.
//! - Positions are taken in order, each by one consumer, and only if published.
//! - Between `Claimed` and the end of quarantine only the owner writes to the slot's body.
//!
//! # Not promised
//!
//! Producers share the memory and trust each other: one that writes where it should not can damage what others send.
//! The consumers' position is private to the server, stamps that cannot be are repaired by [`Consumer::repair`], and
//! what is in a body is for the caller to check. A full queue takes nothing; who waits for room waits elsewhere.
//!
//! Source: the sequence number in each slot is D. Vyukov's ("Bounded MPMC queue", 1024cores.net); owner, quarantine and
//! the tail that others may move are ours.

use crate::sync::{AtomicU64, Ordering};

/// Words of a slot before its body.
const STAMP_WORDS: usize = 1;
const STATE_BITS: u32 = 3;
const OWNER_BITS: u32 = 16;
/// The owner of what a dead one had claimed.
const NOBODY: u16 = u16::MAX;

/// What a slot is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum SlotState {
    Free = 0,
    Claimed = 1,
    Published = 2,
    /// And the head has not come by yet.
    Quarantined = 3,
    /// Quarantined, and the head is past the lap.
    Passed = 4,
}

/// The word that a slot begins with. Every word is a valid stamp; which are possible depends on the position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp(u64);

impl Stamp {
    fn new(lap: u64, owner: u16, state: SlotState) -> Self {
        Self(lap << (OWNER_BITS + STATE_BITS) | u64::from(owner) << STATE_BITS | state as u64)
    }

    fn free(lap: u64) -> Self {
        Self::new(lap, 0, SlotState::Free)
    }

    fn lap(self) -> u64 {
        self.0 >> (OWNER_BITS + STATE_BITS)
    }

    fn owner(self) -> u16 {
        (self.0 >> STATE_BITS) as u16
    }

    fn state(self) -> SlotState {
        match self.0 & ((1 << STATE_BITS) - 1) {
            0 => SlotState::Free,
            1 => SlotState::Claimed,
            2 => SlotState::Published,
            3 => SlotState::Quarantined,
            _ => SlotState::Passed,
        }
    }
}

/// The queue in shared memory: what producers see of it.
#[derive(Clone, Copy)]
pub struct Queue<'a> {
    /// About where the next message goes. Moved by all producers, believed by nobody.
    tail: &'a AtomicU64,
    slots: &'a [AtomicU64],
    slot_words: usize,
}

/// A slot that is ours to fill. Publish it; one that is dropped stays claimed until its owner's death.
#[derive(Debug)]
#[must_use]
pub struct Claim {
    position: u64,
    owner: u16,
}

/// How many slots are in which state: what must add up when all is quiet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Claimed and not published.
    pub claimed: usize,
    /// Published and not taken (or being copied out).
    pub published: usize,
    /// Waiting for an owner that stands still, or claimed by one that is dead and waiting for the head.
    pub quarantined: usize,
}

impl<'a> Queue<'a> {
    /// A queue over `slots`, of `slot_words` words each, all zeroes at first.
    ///
    /// # Panics
    /// If the number of slots is no power of two, or a slot has no body.
    pub fn new(tail: &'a AtomicU64, slots: &'a [AtomicU64], slot_words: usize) -> Self {
        assert!(slot_words > STAMP_WORDS && slots.len().is_multiple_of(slot_words), "slots of {slot_words} words");
        assert!((slots.len() / slot_words).is_power_of_two(), "a power of two of slots");
        Self { tail, slots, slot_words }
    }

    fn count(self) -> u64 {
        (self.slots.len() / self.slot_words) as u64
    }

    fn lap(self, position: u64) -> u64 {
        position >> self.count().ilog2()
    }

    fn slot(self, position: u64) -> &'a [AtomicU64] {
        let start = (position & (self.count() - 1)) as usize * self.slot_words;
        &self.slots[start..start + self.slot_words]
    }

    fn stamp(self, position: u64) -> &'a AtomicU64 {
        &self.slot(position)[0]
    }

    /// Takes the next free slot; `None` if there is none. Lock-free: whoever is in the way has made progress.
    ///
    /// Any owner but `u16::MAX`, which stands for nobody.
    pub fn try_claim(self, owner: u16) -> Option<Claim> {
        debug_assert_ne!(owner, NOBODY);
        // Bounded, for the sake of a client whose fellow has written nonsense over all stamps.
        for _ in 0..4 * self.count() + 64 {
            // Relaxed: a hint. An old one leads to a slot of a later lap, and on.
            let position = self.tail.load(Ordering::Relaxed);
            let lap = self.lap(position);
            let stamp = self.stamp(position);
            // Relaxed: nothing is read on the strength of it; the claim below has the Acquire.
            let found = Stamp(stamp.load(Ordering::Relaxed));
            if found == Stamp::free(lap) {
                let claimed = Stamp::new(lap, owner, SlotState::Claimed);
                // Acquire: pairs with the Release in `Consumer::release` and `give_back`: what others read from and
                // wrote to the body happens before our writes. (The model can show neither: loom has no load that sees
                // a later store, and orders the stores to a word as they were run.)
                if stamp.compare_exchange(found.0, claimed.0, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                    failpoint!("rings.claimed");
                    self.move_tail(position);
                    return Some(Claim { position, owner });
                }
            } else if found.lap() >= lap {
                // Taken, or skipped, by somebody who has not moved the tail (and may be dead).
                self.move_tail(position);
            } else if found.state() == SlotState::Passed && found.lap() + 1 == lap {
                // Whoever comes first says for all that this position is skipped. Relaxed: it guards no data.
                let skipped = Stamp::new(lap, found.owner(), SlotState::Quarantined);
                let _ = stamp.compare_exchange(found.0, skipped.0, Ordering::Relaxed, Ordering::Relaxed);
            } else if self.tail.load(Ordering::Relaxed) == position {
                return None;
            }
        }
        None
    }

    /// Whether a claim might succeed. A hint.
    pub fn has_room(self) -> bool {
        // Relaxed: a hint.
        let position = self.tail.load(Ordering::Relaxed);
        let found = Stamp(self.stamp(position).load(Ordering::Relaxed));
        found.lap() >= self.lap(position) || found.state() == SlotState::Passed
    }

    /// Release: pairs with the Acquire in `Consumer::repair`, which concludes from the tail that the slot was taken.
    fn move_tail(self, position: u64) {
        let _ = self.tail.compare_exchange(position, position.wrapping_add(1), Ordering::Release, Ordering::Relaxed);
    }

    /// Where a claimed slot's message goes.
    pub fn body(self, claim: &Claim) -> &'a [AtomicU64] {
        &self.slot(claim.position)[STAMP_WORDS..]
    }

    /// Lets consumers take the message. `false` if it took so long that the slot was quarantined: the message was not
    /// sent, the slot is given back, and the caller claims another one.
    #[must_use]
    pub fn publish(self, claim: Claim) -> bool {
        let lap = self.lap(claim.position);
        let stamp = self.stamp(claim.position);
        let claimed = Stamp::new(lap, claim.owner, SlotState::Claimed);
        let published = Stamp::new(lap, claim.owner, SlotState::Published);
        // Release: pairs with the Acquire in `Consumer::take`. Relaxed on failure: see `give_back`.
        match stamp.compare_exchange(claimed.0, published.0, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => true,
            Err(_) => {
                failpoint!("rings.giving_back");
                self.give_back(claim.position, claim.owner);
                false
            }
        }
    }

    /// Ends the quarantine of a slot, or the claim of a dead owner. Returns whether there was something to end.
    fn give_back(self, position: u64, owner: u16) -> bool {
        let stamp = self.stamp(position);
        // Relaxed: only the stamp itself is looked at.
        let mut found = Stamp(stamp.load(Ordering::Relaxed));
        while found.owner() == owner {
            let given_back = match found.state() {
                SlotState::Quarantined | SlotState::Passed => Stamp::free(found.lap() + 1),
                SlotState::Claimed => Stamp::new(found.lap(), NOBODY, SlotState::Quarantined),
                SlotState::Free | SlotState::Published => break,
            };
            // Release: pairs with the Acquire in `try_claim`: the owner's writes to the body happen before the next
            // one's. A producer or a consumer may have stamped the slot anew meanwhile, hence the loop.
            match stamp.compare_exchange(found.0, given_back.0, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => found = Stamp(now),
            }
        }
        false
    }

    /// Gives back all that `owner` has claimed and not published. Returns how many slots those were. Those that the
    /// head has not come to are free when it has: let a consumer take what there is, even if nobody rings.
    ///
    /// Only when it is certain that no thread of the owner runs any more: see the module header.
    pub fn recover(self, owner: u16) -> usize {
        (0..self.count()).filter(|&index| self.give_back(index, owner)).count()
    }

    /// About where the next message goes: behind everything that was published before.
    pub fn tail(self) -> u64 {
        // Acquire: pairs with the Release in `move_tail`.
        self.tail.load(Ordering::Acquire)
    }

    /// Counts the slots by what they are at.
    pub fn census(self) -> Census {
        let mut census = Census::default();
        for index in 0..self.count() {
            // Relaxed: figures for people.
            match Stamp(self.stamp(index).load(Ordering::Relaxed)).state() {
                SlotState::Free => {}
                SlotState::Claimed => census.claimed += 1,
                SlotState::Published => census.published += 1,
                SlotState::Quarantined | SlotState::Passed => census.quarantined += 1,
            }
        }
        census
    }
}

/// The consumers' side, private to the server and shared by its threads.
#[derive(Debug, Default)]
pub struct Consumer {
    head: AtomicU64,
    /// Stamps and tails that could not be.
    repaired: AtomicU64,
}

/// What is next in the queue.
#[derive(Debug)]
pub enum Next {
    /// Nothing.
    Empty,
    /// Somebody has claimed a slot and not published it yet. Look again; after a while, [`Consumer::quarantine`] it.
    Claimed {
        /// Where it is.
        position: u64,
    },
    /// A message, ours to copy out of its slot and then to release.
    Taken(Taken),
}

/// A published slot that this consumer has taken. Release it.
#[derive(Debug)]
#[must_use]
pub struct Taken {
    position: u64,
    /// Who has sent it.
    pub owner: u16,
}

impl Consumer {
    /// Takes the next message.
    pub fn take(&self, queue: Queue<'_>) -> Next {
        // Bounded: who writes nonsense over all stamps again and again would keep us stepping over it for ever.
        for _ in 0..4 * queue.count() + 64 {
            // Relaxed: the CAS below decides.
            let position = self.head.load(Ordering::Relaxed);
            let lap = queue.lap(position);
            let stamp = queue.stamp(position);
            // Acquire: pairs with the Release in `publish`: who sees the stamp sees the body.
            let found = Stamp(stamp.load(Ordering::Acquire));
            if found.lap() == lap && found.state() == SlotState::Quarantined {
                // Whoever comes first says for all that the head is past it, before it is: so no producer finds the
                // queue full because one of us stands still in between. Relaxed: it guards no data; what the Release in
                // `give_back` did for a dead owner's slot holds for this CAS, and who claims the slot after it.
                let passed = match found.owner() {
                    NOBODY => Stamp::free(lap + 1),
                    owner => Stamp::new(lap, owner, SlotState::Passed),
                };
                let _ = stamp.compare_exchange(found.0, passed.0, Ordering::Relaxed, Ordering::Relaxed);
                continue;
            }
            let published = found.lap() == lap && found.state() == SlotState::Published;
            let skipped = found.lap() > lap || found.lap() == lap && found.state() == SlotState::Passed;
            if !published && !skipped {
                if self.head.load(Ordering::Relaxed) != position {
                    continue;
                }
                let claimed = found.lap() == lap && found.state() == SlotState::Claimed;
                return if claimed { Next::Claimed { position } } else { Next::Empty };
            }
            if skipped {
                // Its claimer may stand still, or have died, before it moved the tail.
                queue.move_tail(position);
            }
            // Relaxed: positions are handed out by it, data by the stamps. It succeeds only if nobody else has taken
            // the position, and then the stamp is still what we found.
            let moved =
                self.head.compare_exchange(position, position + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok();
            if moved && published {
                failpoint!("queue.taken");
                return Next::Taken(Taken { position, owner: found.owner() });
            }
            // While the head was here, the slot was passed and given back at most, and claimed two laps on: it does not
            // become `Passed` a second time, and is not taken out of the next lap either.
            if moved && found.lap() > lap + 2 {
                self.restamp(queue, position, found, lap + 1);
            }
        }
        Next::Empty
    }

    /// Makes a slot free for `lap`, unless its stamp has changed.
    fn restamp(&self, queue: Queue<'_>, position: u64, found: Stamp, lap: u64) -> bool {
        let free = Stamp::free(lap);
        // Relaxed: no honest producer has written to the body.
        let stamp = queue.stamp(position);
        let done = stamp.compare_exchange(found.0, free.0, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        self.repaired.fetch_add(u64::from(done), Ordering::Relaxed);
        done
    }

    /// How often something was found that no honest producer leaves behind.
    pub fn repaired(&self) -> u64 {
        self.repaired.load(Ordering::Relaxed)
    }

    /// Where a taken message is.
    pub fn body<'a>(&self, queue: Queue<'a>, taken: &Taken) -> &'a [AtomicU64] {
        &queue.slot(taken.position)[STAMP_WORDS..]
    }

    /// Gives a taken slot to the next lap.
    pub fn release(&self, queue: Queue<'_>, taken: Taken) {
        let free = Stamp::free(queue.lap(taken.position) + 1);
        // Release: pairs with the Acquire in `try_claim`: our reads happen before the next producer's writes.
        // (The model cannot show it, since loom has no load that sees a later store.)
        queue.stamp(taken.position).store(free.0, Ordering::Release);
    }

    /// Whether [`Self::take`] would find a message, or something to step over. A hint.
    #[inline]
    pub fn has_news(&self, queue: Queue<'_>) -> bool {
        // Relaxed: a hint; who acts on it looks properly.
        let position = self.head.load(Ordering::Relaxed);
        let found = Stamp(queue.stamp(position).load(Ordering::Relaxed));
        let lap = queue.lap(position);
        found.lap() > lap || found.lap() == lap && !matches!(found.state(), SlotState::Free | SlotState::Claimed)
    }

    /// Whether what is next is claimed and not published: a message behind it may have come without a sign. A hint.
    pub fn waits_for_claimer(&self, queue: Queue<'_>) -> bool {
        // Relaxed: a hint.
        let position = self.head.load(Ordering::Relaxed);
        let found = Stamp(queue.stamp(position).load(Ordering::Relaxed));
        found.lap() == queue.lap(position) && found.state() == SlotState::Claimed
    }

    /// Keeps everybody from waiting for a slot that is claimed and not published. Returns whether it was; else its
    /// owner was faster.
    pub fn quarantine(&self, queue: Queue<'_>, position: u64) -> bool {
        let stamp = queue.stamp(position);
        // Relaxed, both: no data changes hands. The owner's own CAS finds out.
        let found = Stamp(stamp.load(Ordering::Relaxed));
        let quarantined = Stamp::new(found.lap(), found.owner(), SlotState::Quarantined);
        found.lap() == queue.lap(position)
            && found.state() == SlotState::Claimed
            && stamp.compare_exchange(found.0, quarantined.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// The position that is next to be taken.
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Relaxed)
    }

    /// Repairs what no honest producer leaves behind: a slot at the head that the tail has passed though nobody ever
    /// took it, one that looks as if it were being copied though nobody does, or a tail that is somewhere else. Returns
    /// whether there was such a thing. To be called when [`Self::take`] finds nothing; it does no harm to honest
    /// producers, whatever they are at.
    ///
    /// `is_copying` tells whether any consumer may have a slot in hand; what those have released by then has to happen
    /// before it returns.
    pub fn repair(&self, queue: Queue<'_>, is_copying: impl FnOnce() -> bool) -> bool {
        // The tail first: by its Acquire we see of any slot what was in the stamp when the tail moved past it, or
        // something later. (An old head does not matter: its slot was taken.)
        let tail = queue.tail();
        let position = self.head();
        let lap = queue.lap(position);
        // Relaxed: see above. What is old fails at the CAS.
        let found = Stamp(queue.stamp(position).load(Ordering::Relaxed));
        if found.lap() > lap || found.lap() == lap && found.state() != SlotState::Free {
            return false;
        }
        // The head has passed the slot in the lap before: so it is free now, or quarantined, or one of us copies it.
        let left = found.lap() + 1 == lap
            && match found.state() {
                SlotState::Passed => true,
                SlotState::Published => is_copying(),
                SlotState::Free | SlotState::Claimed | SlotState::Quarantined => false,
            };
        // A tail that is ahead by some slots says that this one was taken, and it was not: messages may lie behind it,
        // so the position is given up. A tail that is anywhere else is only a hint gone wrong: any position that is
        // not ahead of the truth will do for it. Relaxed: the CAS says nothing of stamps, and fails if what we saw is
        // old.
        let skipped = (1..=queue.count()).contains(&tail.wrapping_sub(position));
        let free_for = lap + u64::from(skipped);
        let restamped = !left && found != Stamp::free(free_for) && self.restamp(queue, position, found, free_for);
        let moved = tail != position
            && !skipped
            && queue.tail.compare_exchange(tail, position, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        self.repaired.fetch_add(u64::from(moved), Ordering::Relaxed);
        restamped || moved
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::{Memory, heap_words};

    const SLOTS: usize = 4;

    struct Ring {
        tail: AtomicU64,
        slots: Box<[AtomicU64]>,
    }

    impl Ring {
        fn new() -> Self {
            Self { tail: AtomicU64::new(0), slots: heap_words(2 * SLOTS) }
        }

        fn queue(&self) -> Queue<'_> {
            Queue::new(&self.tail, self.slots.words(), 2)
        }

        fn push(&self, owner: u16, value: u64) -> bool {
            let Some(claim) = self.queue().try_claim(owner) else { return false };
            self.queue().body(&claim)[0].store(value, Ordering::Relaxed);
            self.queue().publish(claim)
        }

        fn pop(&self, consumer: &Consumer) -> Option<(u16, u64)> {
            let Next::Taken(taken) = consumer.take(self.queue()) else { return None };
            let (owner, value) = (taken.owner, consumer.body(self.queue(), &taken)[0].load(Ordering::Relaxed));
            consumer.release(self.queue(), taken);
            Some((owner, value))
        }
    }

    #[test]
    fn messages_come_out_in_order_and_a_full_queue_takes_none() {
        let (ring, consumer) = (Ring::new(), Consumer::default());
        for lap in 0..100 {
            for index in 0..SLOTS as u64 {
                assert!(ring.push(7, lap * 10 + index));
            }
            assert!(!ring.push(7, 99), "full");
            for index in 0..SLOTS as u64 {
                assert_eq!(ring.pop(&consumer), Some((7, lap * 10 + index)));
            }
            assert_eq!(ring.pop(&consumer), None);
        }
        assert_eq!(ring.queue().census(), Census::default());
    }

    #[test]
    fn a_stopped_claimer_is_stepped_over_lap_after_lap_and_gives_its_slot_back() {
        let (ring, consumer) = (Ring::new(), Consumer::default());
        let claim = ring.queue().try_claim(1).unwrap();
        assert!(ring.push(2, 20));
        let Next::Claimed { position } = consumer.take(ring.queue()) else { panic!("nobody has published") };
        assert!(consumer.quarantine(ring.queue(), position));
        assert!(!consumer.quarantine(ring.queue(), position), "it is");
        assert_eq!(ring.pop(&consumer), Some((2, 20)));
        for round in 0..50 {
            assert!(ring.push(2, round));
            assert_eq!(ring.pop(&consumer), Some((2, round)));
        }
        assert_eq!(ring.queue().census(), Census { quarantined: 1, ..Census::default() });
        // It wakes up: its message was not sent, and it is told so.
        assert!(!ring.queue().publish(claim));
        assert_eq!(ring.queue().census(), Census::default());
        for round in 0..50 {
            for index in 0..SLOTS as u64 {
                assert!(ring.push(1, round * 10 + index), "all slots are back");
            }
            for index in 0..SLOTS as u64 {
                assert_eq!(ring.pop(&consumer), Some((1, round * 10 + index)));
            }
        }
    }

    #[test]
    fn a_dead_claimer_leaves_nothing_behind() {
        let (ring, consumer) = (Ring::new(), Consumer::default());
        for stopped in [false, true] {
            let dead = ring.queue().try_claim(1).unwrap();
            assert!(ring.push(2, 20));
            if stopped {
                let Next::Claimed { position } = consumer.take(ring.queue()) else { panic!("claimed") };
                assert!(consumer.quarantine(ring.queue(), position));
            }
            assert_eq!(ring.queue().recover(1), 1);
            assert_eq!(ring.queue().recover(1), 0);
            drop(dead);
            assert_eq!(ring.pop(&consumer), Some((2, 20)));
            for round in 0..20 {
                assert!(ring.push(2, round));
                assert_eq!(ring.pop(&consumer), Some((2, round)));
            }
            assert_eq!(ring.queue().census(), Census::default());
        }
    }

    #[test]
    fn a_claimer_that_died_before_it_moved_the_tail_stops_nobody() {
        let (ring, consumer) = (Ring::new(), Consumer::default());
        assert!(ring.push(2, 1));
        let _dead = ring.queue().try_claim(1).unwrap();
        ring.tail.store(1, Ordering::Relaxed); // as if it had not
        assert!(ring.push(2, 2));
        assert_eq!(ring.pop(&consumer), Some((2, 1)));
        ring.queue().recover(1);
        assert_eq!(ring.pop(&consumer), Some((2, 2)));
    }

    #[test]
    fn nobody_gets_a_quarantined_slot_even_if_all_are_quarantined() {
        // Producers that came by stamped the slots for lap after lap, and the consumer then took the stamps for damage.
        let (ring, consumer) = (Ring::new(), Consumer::default());
        let claims: Vec<_> = (0..SLOTS).map(|_| ring.queue().try_claim(1).unwrap()).collect();
        while let Next::Claimed { position } = consumer.take(ring.queue()) {
            assert!(consumer.quarantine(ring.queue(), position));
        }
        for _ in 0..10 {
            assert!(!ring.push(2, 5), "there is no slot");
            assert!(!consumer.repair(ring.queue(), || false));
        }
        assert_eq!(ring.pop(&consumer), None);
        assert_eq!((consumer.repaired(), ring.queue().census().quarantined), (0, SLOTS));
        for claim in claims {
            assert!(!ring.queue().publish(claim));
            assert!(ring.push(1, 6), "it is back at once");
            assert_eq!(ring.pop(&consumer), Some((1, 6)));
        }
        assert_eq!((consumer.repaired(), ring.queue().census()), (0, Census::default()));
    }

    #[test]
    fn what_the_dead_claimed_does_not_move_the_tail_on_for_ever() {
        let (ring, consumer) = (Ring::new(), Consumer::default());
        for _ in 0..10 {
            for _ in 0..SLOTS {
                let _ = ring.queue().try_claim(1);
            }
            ring.queue().recover(1);
        }
        assert!(ring.tail.load(Ordering::Relaxed) <= SLOTS as u64);
        assert_eq!(ring.pop(&consumer), None);
        assert!(ring.push(2, 7));
        assert_eq!(ring.pop(&consumer), Some((2, 7)));
        assert_eq!((consumer.repaired(), ring.queue().census()), (0, Census::default()));
    }

    #[test]
    fn nonsense_in_stamps_and_tail_is_repaired() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..2_000 {
            let (ring, consumer) = (Ring::new(), Consumer::default());
            for _ in 0..random.usize(..10) {
                ring.push(1, 1);
                ring.pop(&consumer);
            }
            for _ in 0..random.usize(1..4) {
                let word = if random.bool() {
                    random.u64(..)
                } else {
                    random.u64(..16) << 19 | random.u64(..3) << 3 | random.u64(..5)
                };
                match random.usize(..SLOTS + 1) {
                    SLOTS => ring.tail.store(word, Ordering::Relaxed),
                    slot => ring.slots[2 * slot].store(word, Ordering::Relaxed),
                }
            }
            // A server's turn: take, or quarantine and recover what nobody owns, or repair.
            let settle = || {
                for _ in 0..100 {
                    match consumer.take(ring.queue()) {
                        Next::Taken(taken) => consumer.release(ring.queue(), taken),
                        Next::Claimed { position } => drop(consumer.quarantine(ring.queue(), position)),
                        Next::Empty if consumer.repair(ring.queue(), || false) => {}
                        Next::Empty => return,
                    }
                }
                panic!("no end of repairs");
            };
            settle();
            let mut taken = 0;
            for round in 0..200 {
                if ring.push(2, round) {
                    taken += u64::from(ring.pop(&consumer) == Some((2, round)));
                }
                settle();
            }
            let census = ring.queue().census();
            // A stamp that says "quarantined" is believed, for its owner's sake.
            let believed = census.quarantined;
            assert!(believed > 0 || taken > 100, "{taken} of 200 with {census:?}");
        }
    }
}
