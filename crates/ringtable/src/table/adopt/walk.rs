//! The walk over the buckets of a table that is taken over: by the map where it can be told, else with all entries.

use super::found::Found;
use crate::limits;
use crate::sync::{AtomicU64, Ordering, prefetch};
use crate::table::bucket::{BucketRef, EMPTY, SLOTS, Slot};
use crate::table::check::chain::{ChainCheck, Hand, Ledger, VERSION_MAX, Verdict};
use crate::table::check::report::{Damage, Repair, Report};
use crate::table::header::Constants;
use crate::table::heap::{Place, Refusal};
use crate::table::layout::BUCKET_WORDS;

/// Buckets whose entries are fetched together: so that the misses of some dozens overlap.
const FETCHED_AT_ONCE: u64 = 16;
/// Buckets whose places are looked up together, for the same reason.
const CLAIMED_AT_ONCE: u64 = 32;

/// The walk, and what it has found so far.
pub(super) struct Walk<'a> {
    pub(super) check: ChainCheck<'a, Found<'a>>,
    /// Buckets whose version is damaged, and the highest version of all others.
    wild: Vec<u64>,
    highest: u64,
    /// Of no use but that what is loaded into it is loaded: a prefetch is passed over where the processor has no
    /// translation of the address at hand, which is the common case here.
    fetched: u64,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        words: &'a [AtomicU64],
        constants: &'a Constants,
        count: u64,
        found: Found<'a>,
        report: Report,
    ) -> Self {
        let check = ChainCheck::new(words, constants, count, found, report);
        Self { check, wild: Vec::new(), highest: 0, fetched: 0 }
    }

    /// Goes over all buckets without a look at any entry, but for those of buckets that were locked, which are mended.
    /// Returns whether all fits: each slot points to a place of the page map that no other one points to. If not,
    /// nothing has changed, and only entries can tell what is wrong.
    pub(super) fn by_map(&mut self) -> bool {
        let locked = self.claim_unlocked();
        let fits = locked.as_ref().is_some_and(|locked| locked.iter().all(|&index| self.is_apart(index)));
        if !fits {
            self.check.ledger.begin_anew();
            return false;
        }
        locked.into_iter().flatten().for_each(|index| self.bucket(index));
        true
    }

    /// Claims what the chains point at that are not locked. Returns those that are; `None` if something does not fit.
    fn claim_unlocked(&mut self) -> Option<Vec<u64>> {
        let mut locked = Vec::new();
        let mut places = [[None; SLOTS]; CLAIMED_AT_ONCE as usize];
        let mut begin = 0;
        while begin < self.check.count {
            let end = (begin + CLAIMED_AT_ONCE).min(self.check.count);
            for (index, places) in (begin..end).zip(&mut places) {
                let home = self.check.home(index);
                for (at, place) in places.iter_mut().enumerate() {
                    let slot = home.slot(at);
                    *place = if slot == EMPTY { None } else { self.check.ledger.heap.place(slot.at()) };
                    if let Some(place) = *place {
                        self.check.ledger.heap.prefetch(place);
                    }
                    if slot.is_link()
                        && let Some(bucket) = self.check.words().get(slot.at() as usize)
                    {
                        prefetch(bucket);
                    }
                }
            }
            for (index, places) in (begin..end).zip(&places) {
                let home = self.check.home(index);
                let version = home.version();
                if version >= VERSION_MAX {
                    return None;
                }
                if version & 1 != 0 {
                    locked.push(index);
                } else {
                    self.claim_chain(index, home, places)?;
                }
            }
            begin = end;
        }
        Some(locked)
    }

    /// Claims what a chain points at, which is known of its first bucket; `None` if something does not fit.
    fn claim_chain(&mut self, index: u64, home: BucketRef<'a>, places: &[Option<Place>; SLOTS]) -> Option<()> {
        let (words, found) = (self.check.words(), &mut self.check.ledger);
        let mut bucket = home;
        for hops in 0..=limits::CHAIN_HOPS_MAX {
            let last = bucket.slot(SLOTS - 1);
            let entries = if last.is_link() { SLOTS - 1 } else { SLOTS };
            for (at, known) in places.iter().enumerate().take(entries) {
                let slot = bucket.slot(at);
                if slot == EMPTY {
                    continue;
                }
                let place = if hops == 0 { *known } else { found.heap.place(slot.at()) };
                if slot.is_link() || !found.claim_by_map(index, slot, place?) {
                    return None;
                }
            }
            if !last.is_link() {
                return Some(());
            }
            found.heap.claim(last.at(), BUCKET_WORDS).ok()?;
            bucket = BucketRef::at(words, last.at() as usize)?;
        }
        None
    }

    /// Whether nothing that a locked chain points at was claimed by another one.
    fn is_apart(&self, index: u64) -> bool {
        let mut bucket = self.check.home(index);
        // A chain that has no end is found to be damaged when it is mended.
        for _ in 0..2 * limits::CHAIN_HOPS_MAX {
            if (0..SLOTS).map(|at| bucket.slot(at)).any(|slot| self.check.ledger.heap.is_claimed(slot.at())) {
                return false;
            }
            let link = bucket.slot(SLOTS - 1);
            let next = link.is_link().then(|| BucketRef::at(self.check.words(), link.at() as usize)).flatten();
            let Some(next) = next else { break };
            bucket = next;
        }
        true
    }

    /// Goes over all buckets and all entries.
    pub(super) fn by_entries(&mut self) {
        let mut begin = 0;
        while begin < self.check.count {
            let end = (begin + FETCHED_AT_ONCE).min(self.check.count);
            for index in begin..end {
                let home = self.check.home(index);
                for slot in (0..SLOTS).map(|index| home.slot(index)).filter(|&slot| slot != EMPTY) {
                    // Of a small entry, its head and the key, which may lie in the next line.
                    self.fetch(slot.at());
                    self.fetch(slot.at() + 3);
                }
            }
            (begin..end).for_each(|index| self.bucket(index));
            begin = end;
        }
        for index in std::mem::take(&mut self.wild) {
            let mut guard = self.check.home(index).take_over();
            guard.version = self.highest;
            guard.unlock();
        }
    }

    fn fetch(&mut self, word: u64) {
        self.fetched ^= self.check.words().get(word as usize).map_or(0, |word| word.load(Ordering::Relaxed));
    }

    /// Checks and mends the chain of a bucket.
    fn bucket(&mut self, index: u64) {
        let home = self.check.home(index);
        let version = home.version();
        let is_wild = version >= VERSION_MAX;
        let was_locked = version & 1 != 0;
        let given = if is_wild { 0 } else { version.next_multiple_of(2) };
        let mut hand = Hand { index, home, was_locked, guard: None, is_changed: false, version: given };
        if was_locked {
            hand.open();
            self.check.report.repair(Repair::Locked);
        }
        if is_wild {
            self.check.report.damage(Damage::Version);
            self.wild.push(index);
        }
        let is_chained = self.gather(&mut hand);
        self.check.slots(&mut hand, is_wild);
        if is_chained {
            self.check.unlink_empty(&mut hand);
        }
        if is_wild {
            self.highest = self.highest.max(hand.version);
            hand.guard.into_iter().for_each(std::mem::forget);
            return;
        }
        self.highest = self.highest.max(hand.close());
    }

    /// Claims the overflow buckets of a chain, and cuts off what is none. Returns whether there are any.
    fn gather(&mut self, hand: &mut Hand<'a>) -> bool {
        let (mut before, mut hops) = (hand.home, 0);
        for _ in 0..2 * limits::CHAIN_HOPS_MAX {
            let link = before.slot(SLOTS - 1);
            if !link.is_link() {
                return hops > 0;
            }
            let next = self.overflow(hand, link).filter(|_| hops < limits::CHAIN_HOPS_MAX);
            let is_empty = next.is_some_and(|next| (0..SLOTS).all(|index| !next.slot(index).is_entry()));
            match next {
                Some(next) if is_empty => {
                    self.check.repair_or_damage(hand, Repair::Empty, Damage::Link);
                    hand.go_over(before, next);
                }
                Some(next) if self.check.ledger.claim(link.at(), BUCKET_WORDS).is_ok() => {
                    (before, hops) = (next, hops + 1);
                }
                _ => {
                    self.check.report.damage(Damage::Link);
                    hand.set_slot((before, SLOTS - 1), EMPTY);
                }
            }
        }
        // So many empty ones in a row that they are a circle.
        self.check.report.damage(Damage::Link);
        hand.set_slot((before, SLOTS - 1), EMPTY);
        hops > 0
    }

    /// The overflow bucket that a link names, if there can be one: it is nobody's yet, and empty, or something in it
    /// belongs to the chain.
    fn overflow(&self, hand: &Hand<'_>, link: Slot) -> Option<BucketRef<'a>> {
        let bucket = BucketRef::at(self.check.words(), link.at() as usize)?;
        let may_claim = self.check.ledger.heap.may_claim(link.at(), BUCKET_WORDS);
        if may_claim == Err(Refusal::Taken) {
            return None;
        }
        let mut entries = (0..SLOTS).map(|index| bucket.slot(index)).filter(|slot| slot.is_entry()).peekable();
        let is_empty = entries.peek().is_none();
        let is_ours = entries.any(|slot| match self.check.judge(hand, slot) {
            Verdict::Whole(_) => true,
            Verdict::Elsewhere(other) => self.check.was_split(hand, other),
            Verdict::Wrong => false,
        });
        (is_ours || is_empty && may_claim.is_ok()).then_some(bucket)
    }
}
