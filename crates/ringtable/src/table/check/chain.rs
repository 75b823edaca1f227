//! The check of a chain: what is believed of each slot and its entry, and what is mended.

use super::report::{Damage, Repair, Report};
use crate::limits;
use crate::sync::{AtomicU64, Ordering, equal_words};
use crate::table::bucket::{BucketGuard, BucketRef, EMPTY, SLOTS, Slot, tag};
use crate::table::entry::EntryRef;
use crate::table::expiry_code;
use crate::table::header::Constants;
use crate::table::heap::Refusal;
use crate::table::layout::{address, bucket_start, split_source};

/// A version of a bucket is below this, or damaged: it would have to change a billion times a second for a year.
pub const VERSION_MAX: u64 = 1 << 56;

/// The memory and the counts of the entries that are checked.
pub trait Ledger {
    /// Takes note that an entry that is whole begins at word `start` and has `words` words.
    ///
    /// # Errors
    /// If no such thing can begin there, or it is another one's.
    fn claim(&mut self, start: u64, words: usize) -> Result<(), Refusal>;

    /// Counts an entry that was claimed, of a slot that was `before` and is `after` now.
    fn keep(&mut self, bucket: u64, before: Slot, after: Slot, words: usize);

    /// Undoes both.
    fn forget(&mut self, bucket: u64, slot: Slot);

    /// Gives up a slot whose entry was not claimed.
    fn lose(&mut self, bucket: u64, slot: Slot);

    /// Gives up an overflow bucket.
    fn release_overflow(&mut self, start: u64);
}

/// A bucket in hand, and its lock once something of it has to be changed.
pub struct Hand<'a> {
    /// Its number.
    pub index: u64,
    /// The bucket.
    pub home: BucketRef<'a>,
    /// Whether the dead server had locked it.
    pub was_locked: bool,
    /// The lock.
    pub guard: Option<BucketGuard<'a>>,
    /// Whether anything was changed, or has to be.
    pub is_changed: bool,
    /// Above all versions that the bucket has given: an even number.
    pub version: u64,
}

impl<'a> Hand<'a> {
    /// A bucket that a living server has locked.
    pub fn locked(index: u64, guard: BucketGuard<'a>) -> Self {
        let (home, version) = (guard.bucket, guard.version);
        Self { index, home, was_locked: false, guard: Some(guard), is_changed: false, version }
    }

    /// Locks the bucket, if it is not.
    pub fn open(&mut self) {
        let home = self.home;
        self.guard.get_or_insert_with(|| home.take_over());
        self.is_changed = true;
    }

    /// Changes a slot.
    pub fn set_slot(&mut self, (bucket, index): (BucketRef<'_>, usize), slot: Slot) {
        self.open();
        bucket.set_slot(index, slot);
    }

    /// Takes an empty overflow bucket out of the chain, which the one before it links.
    pub fn go_over(&mut self, before: BucketRef<'_>, empty: BucketRef<'_>) {
        let behind = empty.slot(SLOTS - 1);
        self.set_slot((before, SLOTS - 1), if behind.is_link() { behind } else { EMPTY });
    }

    /// Unlocks the bucket, if it is locked. Returns its version.
    pub fn close(self) -> u64 {
        let Some(mut guard) = self.guard else { return self.version };
        guard.version = guard.version.max(self.version.saturating_sub(2));
        let version = guard.version + 2;
        guard.unlock();
        version
    }
}

/// What is to be thought of a slot.
pub enum Verdict<'a> {
    /// Its entry is the key's.
    Whole(EntryRef<'a>),
    /// It belongs to that bucket.
    Elsewhere(u64),
    /// It is none, or another key's.
    Wrong,
}

/// A check of chains, and what it has found so far.
pub struct ChainCheck<'a, L> {
    words: &'a [AtomicU64],
    constants: &'a Constants,
    /// Buckets.
    pub count: u64,
    /// Memory and counts.
    pub ledger: L,
    /// What was found.
    pub report: Report,
    /// Where the entries of the chain in hand are.
    found: Vec<(BucketRef<'a>, usize)>,
}

impl<'a, L: Ledger> ChainCheck<'a, L> {
    /// A check in a table of so many buckets.
    pub fn new(words: &'a [AtomicU64], constants: &'a Constants, count: u64, ledger: L, report: Report) -> Self {
        Self { words, constants, count, ledger, report, found: Vec::new() }
    }

    /// The words of the segment.
    pub fn words(&self) -> &'a [AtomicU64] {
        self.words
    }

    /// The home bucket of that number.
    pub fn home(&self, index: u64) -> BucketRef<'a> {
        BucketRef::at(self.words, bucket_start(index)).expect("the count was checked")
    }

    /// Checks and mends the slots of a chain whose links are known to be good. `is_wild` if the bucket's version tells
    /// nothing.
    pub fn slots(&mut self, hand: &mut Hand<'a>, is_wild: bool) {
        let mut place = Some(hand.home);
        while let Some(bucket) = place {
            let link = bucket.slot(SLOTS - 1);
            for index in 0..SLOTS {
                let slot = bucket.slot(index);
                if slot != EMPTY && !(index == SLOTS - 1 && slot.is_link()) {
                    self.slot(hand, is_wild, (bucket, index), slot);
                }
            }
            place = link.is_link().then(|| BucketRef::at(self.words, link.at() as usize)).flatten();
        }
        self.found.clear();
    }

    /// Takes overflow buckets out of the chain that are empty. Returns how many.
    pub fn unlink_empty(&mut self, hand: &mut Hand<'a>) -> u64 {
        let (mut before, mut count) = (hand.home, 0);
        for _ in 0..limits::CHAIN_HOPS_MAX {
            let link = before.slot(SLOTS - 1);
            if !link.is_link() {
                break;
            }
            let Some(next) = BucketRef::at(self.words, link.at() as usize) else { break };
            if (0..SLOTS).any(|index| next.slot(index).is_entry()) {
                before = next;
                continue;
            }
            self.ledger.release_overflow(link.at());
            hand.go_over(before, next);
            count += 1;
        }
        count
    }

    /// How many overflow buckets of a chain are empty.
    pub fn count_empty(&self, hand: &Hand<'a>) -> u64 {
        let next = |bucket: &BucketRef<'a>| {
            let link = bucket.slot(SLOTS - 1);
            link.is_link().then(|| BucketRef::at(self.words, link.at() as usize)).flatten()
        };
        let overflow = std::iter::successors(next(&hand.home), next).take(limits::CHAIN_HOPS_MAX);
        overflow.filter(|bucket| !(0..SLOTS).any(|index| bucket.slot(index).is_entry())).count() as u64
    }

    /// Whether a split of the bucket in hand was putting entries into another one.
    pub fn was_split(&self, hand: &Hand<'_>, other: u64) -> bool {
        hand.was_locked && other == self.count - 1 && other > 0 && split_source(other) == hand.index
    }

    /// Counts what a death may have left, or what is damaged where there was none.
    pub fn repair_or_damage(&mut self, hand: &Hand<'_>, repair: Repair, damage: Damage) {
        if hand.was_locked { self.report.repair(repair) } else { self.report.damage(damage) }
    }

    /// What is to be thought of the slot of an entry, whoever may have it already.
    pub fn judge(&self, hand: &Hand<'_>, slot: Slot) -> Verdict<'a> {
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
        let words = entry.shape.words();
        match self.ledger.claim(slot.at(), words) {
            Ok(()) => {}
            // While a split moves the rest of a chain together, an entry has two slots for a moment.
            Err(Refusal::Taken) if hand.was_locked && self.is_in_hand(slot) => {
                self.report.repair(Repair::Moved);
                return hand.set_slot(place, EMPTY);
            }
            Err(Refusal::Taken) => return self.drop_slot(hand, place, Damage::Twice),
            Err(Refusal::Nothing) => return self.drop_slot(hand, place, Damage::Slot),
        }
        let mended = slot.with_expiry_code(expiry_code::code(entry.expiry()));
        self.ledger.keep(hand.index, slot, mended, words);
        if let Some(nth) =
            self.found.iter().position(|&(bucket, index)| self.has_key_of(bucket.slot(index), slot, entry))
        {
            // The later one stays.
            let (bucket, index) = self.found[nth];
            let other = bucket.slot(index);
            let is_later = self.entry(other).is_some_and(|other| other.version() >= entry.version());
            let (gone, at) = if is_later { (mended, place) } else { (other, (bucket, index)) };
            self.ledger.forget(hand.index, gone);
            self.report.damage(Damage::Twice);
            hand.set_slot(at, EMPTY);
            if is_later {
                return;
            }
            self.found.swap_remove(nth);
        }
        let version = entry.version() - self.constants.first_version;
        if version >= hand.version {
            if !is_wild {
                self.report.damage(Damage::Version);
                hand.open();
            }
            hand.version = version + 1;
        }
        if mended != slot {
            self.repair_or_damage(hand, Repair::Code, Damage::Code);
            hand.set_slot(place, mended);
        }
        self.found.push(place);
    }

    fn drop_slot(&mut self, hand: &mut Hand<'a>, place: (BucketRef<'a>, usize), damage: Damage) {
        self.ledger.lose(hand.index, place.0.slot(place.1));
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
}

/// Whether the last word of an entry's key is filled up with zeroes: else nobody would find it.
fn is_filled_up(entry: EntryRef<'_>) -> bool {
    match (entry.key_words().last(), entry.shape.key_size % 8) {
        // Relaxed: as all words of entries.
        (Some(last), size @ 1..) => last.load(Ordering::Relaxed) >> (8 * size) == 0,
        _ => true,
    }
}
