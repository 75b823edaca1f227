//! The walk over the buckets of a table that is taken over: what is believed of each chain, and what is mended.

use super::report::{Damage, Repair, Report};
use crate::limits;
use crate::sync::{AtomicU64, Ordering, equal_words};
use crate::table::bucket::{BucketGuard, BucketRef, EMPTY, SLOTS, Slot, tag};
use crate::table::entry::EntryRef;
use crate::table::expiry_code;
use crate::table::header::Constants;
use crate::table::heap::{Rebuild, Refusal};
use crate::table::layout::{BUCKET_WORDS, address, bucket_start, split_source};
use crate::table::options::Eviction;
use crate::table::table::Counted;

/// A version of a bucket is below this, or damaged: it would have to change a billion times a second for a year.
const VERSION_MAX: u64 = 1 << 56;
/// Buckets whose entries are fetched together: so that the misses of some dozens overlap.
const FETCHED_AT_ONCE: u64 = 16;

/// Whether the last word of an entry's key is filled up with zeroes: else nobody would find it.
fn is_filled_up(entry: EntryRef<'_>) -> bool {
    match (entry.key_words().last(), entry.shape.key_size % 8) {
        // Relaxed: as all words of entries.
        (Some(last), size @ 1..) => last.load(Ordering::Relaxed) >> (8 * size) == 0,
        _ => true,
    }
}

/// The walk, and what it has found so far.
pub(super) struct Walk<'a> {
    words: &'a [AtomicU64],
    constants: &'a Constants,
    /// Buckets.
    count: u64,
    pub(super) heap: Rebuild<'a>,
    pub(super) report: Report,
    /// Entries that expire.
    pub(super) expires: u64,
    pub(super) counted: Counted,
    /// Buckets whose version is damaged, and the highest version of all others.
    wild: Vec<u64>,
    highest: u64,
    /// Of no use but that what is loaded into it is loaded: a prefetch is passed over where the processor has no
    /// translation of the address at hand, which is the common case here.
    fetched: u64,
    /// Where the entries of the chain in hand are.
    found: Vec<(BucketRef<'a>, usize)>,
}

/// A bucket in hand, and its lock once something of it has to be changed.
struct Hand<'a> {
    index: u64,
    home: BucketRef<'a>,
    /// Whether the dead server had locked it.
    was_locked: bool,
    guard: Option<BucketGuard<'a>>,
    /// Above all versions that the bucket has given: an even number.
    version: u64,
}

impl Hand<'_> {
    /// Locks the bucket, if it is not.
    fn open(&mut self) {
        let home = self.home;
        self.guard.get_or_insert_with(|| home.take_over());
    }

    fn set_slot(&mut self, (bucket, index): (BucketRef<'_>, usize), slot: Slot) {
        self.open();
        bucket.set_slot(index, slot);
    }

    /// Takes an empty overflow bucket out of the chain, which the one before it links.
    fn go_over(&mut self, before: BucketRef<'_>, empty: BucketRef<'_>) {
        let behind = empty.slot(SLOTS - 1);
        self.set_slot((before, SLOTS - 1), if behind.is_link() { behind } else { EMPTY });
    }
}

/// What is to be thought of a slot.
enum Verdict<'a> {
    Whole(EntryRef<'a>),
    /// It belongs to that bucket.
    Elsewhere(u64),
    Wrong,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        words: &'a [AtomicU64],
        constants: &'a Constants,
        count: u64,
        eviction: Eviction,
        heap: Rebuild<'a>,
        report: Report,
    ) -> Self {
        Self {
            words,
            constants,
            count,
            heap,
            report,
            expires: 0,
            counted: Counted::nothing(words.len(), eviction),
            wild: Vec::new(),
            highest: 0,
            fetched: 0,
            found: Vec::new(),
        }
    }

    /// Goes over all buckets.
    pub(super) fn all(&mut self) {
        let mut begin = 0;
        while begin < self.count {
            let end = (begin + FETCHED_AT_ONCE).min(self.count);
            for index in begin..end {
                let home = self.home(index);
                for slot in (0..SLOTS).map(|index| home.slot(index)).filter(|&slot| slot != EMPTY) {
                    // Of a small entry, its head and the key, which may lie in the next line.
                    for word in [slot.at(), slot.at() + 3] {
                        self.fetched ^= self.words.get(word as usize).map_or(0, |word| word.load(Ordering::Relaxed));
                    }
                    self.fetched ^= self.heap.fetch(slot.at());
                }
            }
            (begin..end).for_each(|index| self.bucket(index));
            begin = end;
        }
        for index in std::mem::take(&mut self.wild) {
            let mut guard = self.home(index).take_over();
            guard.version = self.highest;
            guard.unlock();
        }
    }

    fn home(&self, index: u64) -> BucketRef<'a> {
        BucketRef::at(self.words, bucket_start(index)).expect("the count was checked")
    }

    /// Checks and mends the chain of a bucket.
    fn bucket(&mut self, index: u64) {
        let home = self.home(index);
        let version = home.version();
        let is_wild = version >= VERSION_MAX;
        let was_locked = version & 1 != 0;
        let given = if is_wild { 0 } else { version.next_multiple_of(2) };
        let mut hand = Hand { index, home, was_locked, guard: None, version: given };
        if was_locked {
            hand.open();
            self.report.repair(Repair::Locked);
        }
        if is_wild {
            self.report.damage(Damage::Version);
            self.wild.push(index);
        }
        let is_chained = self.gather(&mut hand);
        let mut place = Some(home);
        while let Some(bucket) = place {
            let link = bucket.slot(SLOTS - 1);
            for index in 0..SLOTS {
                let slot = bucket.slot(index);
                if slot != EMPTY && !(index == SLOTS - 1 && slot.is_link()) {
                    self.slot(&mut hand, is_wild, (bucket, index), slot);
                }
            }
            place = link.is_link().then(|| BucketRef::at(self.words, link.at() as usize)).flatten();
        }
        self.found.clear();
        if is_chained {
            self.unlink_empty(&mut hand);
        }
        if is_wild {
            self.highest = self.highest.max(hand.version);
            hand.guard.into_iter().for_each(std::mem::forget);
            return;
        }
        if let Some(mut guard) = hand.guard {
            guard.version = guard.version.max(hand.version.saturating_sub(2));
            hand.version = guard.version + 2;
            guard.unlock();
        }
        self.highest = self.highest.max(hand.version);
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
                    self.repair_or_damage(hand, Repair::Empty, Damage::Link);
                    hand.go_over(before, next);
                }
                Some(next) if self.heap.claim_whole(link.at(), BUCKET_WORDS).is_ok() => {
                    (before, hops) = (next, hops + 1);
                }
                _ => {
                    self.report.damage(Damage::Link);
                    hand.set_slot((before, SLOTS - 1), EMPTY);
                }
            }
        }
        // So many empty ones in a row that they are a circle.
        self.report.damage(Damage::Link);
        hand.set_slot((before, SLOTS - 1), EMPTY);
        hops > 0
    }

    /// The overflow bucket that a link names, if there can be one: it is nobody's yet, and empty, or something in it
    /// belongs to the chain.
    fn overflow(&self, hand: &Hand<'_>, link: Slot) -> Option<BucketRef<'a>> {
        let bucket = BucketRef::at(self.words, link.at() as usize)?;
        if self.heap.may_claim(link.at(), BUCKET_WORDS) == Err(Refusal::Taken) {
            return None;
        }
        let mut entries = (0..SLOTS).map(|index| bucket.slot(index)).filter(|slot| slot.is_entry()).peekable();
        let is_empty = entries.peek().is_none();
        let is_ours = entries.any(|slot| match self.judge(hand, slot) {
            Verdict::Whole(_) => true,
            Verdict::Elsewhere(other) => self.was_split(hand, other),
            Verdict::Wrong => false,
        });
        let is_slot = self.heap.may_claim(link.at(), BUCKET_WORDS).is_ok();
        (is_ours || is_empty && is_slot).then_some(bucket)
    }

    /// Whether a split of the bucket in hand was putting entries into another one.
    fn was_split(&self, hand: &Hand<'_>, other: u64) -> bool {
        hand.was_locked && other == self.count - 1 && other > 0 && split_source(other) == hand.index
    }

    fn repair_or_damage(&mut self, hand: &Hand<'_>, repair: Repair, damage: Damage) {
        if hand.was_locked { self.report.repair(repair) } else { self.report.damage(damage) }
    }

    /// What is to be thought of the slot of an entry, whoever may have it already.
    fn judge(&self, hand: &Hand<'_>, slot: Slot) -> Verdict<'a> {
        let Some(entry) = EntryRef::at(self.words, slot.at()) else { return Verdict::Wrong };
        let hash = self.constants.hash_of(entry);
        let version = entry.version().wrapping_sub(self.constants.first_version);
        let is_version = version & 1 != 0 && version < VERSION_MAX;
        if tag(hash) != slot.tag() || !is_version || !is_filled_up(entry) {
            return Verdict::Wrong;
        }
        match address(hash, self.count) {
            index if index == hand.index => Verdict::Whole(entry),
            other => Verdict::Elsewhere(other),
        }
    }

    /// Takes a slot's entry for the key's, or empties the slot.
    fn slot(&mut self, hand: &mut Hand<'a>, is_wild: bool, place: (BucketRef<'a>, usize), slot: Slot) {
        if slot.is_link() {
            return self.drop_slot(hand, place, Damage::Link);
        }
        let entry = match self.judge(hand, slot) {
            Verdict::Whole(entry) => entry,
            Verdict::Elsewhere(other) if self.was_split(hand, other) => {
                self.report.repair(Repair::Moved);
                return hand.set_slot(place, EMPTY);
            }
            Verdict::Elsewhere(_) => return self.drop_slot(hand, place, Damage::Slot),
            Verdict::Wrong => return self.drop_slot(hand, place, Damage::Entry),
        };
        match self.heap.claim_whole(slot.at(), entry.shape.words()) {
            Ok(()) => {}
            // While a split moves the rest of a chain together, an entry has two slots for a moment.
            Err(Refusal::Taken) if hand.was_locked && self.is_in_hand(slot) => {
                self.report.repair(Repair::Moved);
                return hand.set_slot(place, EMPTY);
            }
            Err(Refusal::Taken) => return self.drop_slot(hand, place, Damage::Twice),
            Err(Refusal::Nothing) => return self.drop_slot(hand, place, Damage::Slot),
        }
        let version = entry.version() - self.constants.first_version;
        if let Some(nth) =
            self.found.iter().position(|&(bucket, index)| self.has_key_of(bucket.slot(index), slot, entry))
        {
            // The later one stays.
            let (bucket, index) = self.found[nth];
            let other = bucket.slot(index);
            if self.entry(other).is_some_and(|other| other.version() >= entry.version()) {
                self.heap.release(slot.at());
                return self.drop_slot(hand, place, Damage::Twice);
            }
            self.heap.release(other.at());
            self.forget(hand, other);
            self.drop_slot(hand, (bucket, index), Damage::Twice);
            self.found.swap_remove(nth);
        }
        if version >= hand.version {
            if !is_wild {
                self.report.damage(Damage::Version);
                hand.open();
            }
            hand.version = version + 1;
        }
        let code = expiry_code::code(entry.expiry());
        let mended = slot.with_expiry_code(code);
        if mended != slot {
            self.repair_or_damage(hand, Repair::Code, Damage::Code);
            hand.set_slot(place, mended);
        }
        self.found.push(place);
        self.count_entry(hand, mended, entry);
    }

    fn drop_slot(&mut self, hand: &mut Hand<'a>, place: (BucketRef<'a>, usize), damage: Damage) {
        self.report.damage(damage);
        hand.set_slot(place, EMPTY);
    }

    fn entry(&self, slot: Slot) -> Option<EntryRef<'a>> {
        EntryRef::at(self.words, slot.at())
    }

    /// Whether a slot in front of this one in the chain in hand has its entry.
    fn is_in_hand(&self, slot: Slot) -> bool {
        self.found.iter().any(|&(bucket, index)| bucket.slot(index).at() == slot.at())
    }

    fn has_key_of(&self, other: Slot, slot: Slot, entry: EntryRef<'_>) -> bool {
        other.tag() == slot.tag()
            && self.entry(other).is_some_and(|other| {
                other.shape.key_size == entry.shape.key_size && equal_words(other.key_words(), entry.key_words())
            })
    }

    fn count_entry(&mut self, hand: &Hand<'_>, slot: Slot, entry: EntryRef<'_>) {
        self.report.entries += 1;
        self.expires += u64::from(slot.expires());
        if let Some(expiring) = self.counted.expiring.as_ref().filter(|_| slot.is_volatile()) {
            expiring.come(hand.index);
            expiring.arrive(entry.shape.words());
        }
        if slot.is_unevictable() {
            self.counted.unevictable.adopt(entry.shape.words());
        }
    }

    /// Undoes [`Self::count_entry`].
    fn forget(&mut self, hand: &Hand<'_>, slot: Slot) {
        let Some(entry) = self.entry(slot) else { return };
        self.report.entries -= 1;
        self.expires -= u64::from(slot.expires());
        if let Some(expiring) = self.counted.expiring.as_ref().filter(|_| slot.is_volatile()) {
            expiring.leave(hand.index);
            expiring.depart(entry.shape.words());
        }
        if slot.is_unevictable() {
            self.counted.unevictable.depart(entry.shape.words());
        }
    }

    /// Takes overflow buckets out of the chain that have become empty.
    fn unlink_empty(&mut self, hand: &mut Hand<'a>) {
        let mut before = hand.home;
        for _ in 0..limits::CHAIN_HOPS_MAX {
            let link = before.slot(SLOTS - 1);
            if !link.is_link() {
                return;
            }
            let Some(next) = BucketRef::at(self.words, link.at() as usize) else { return };
            if (0..SLOTS).any(|index| next.slot(index).is_entry()) {
                before = next;
                continue;
            }
            self.heap.release(link.at());
            hand.go_over(before, next);
        }
    }
}
