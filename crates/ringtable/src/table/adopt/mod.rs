//! Taking over a table whose server is dead.
//!
//! # Design
//!
//! The segment is all that is left. One walk over the buckets ([`walk`]) checks each slot and its entry, repairs what a
//! death has left half done, drops what is damaged, and finds out which memory is in use. From that and the page map
//! all private bookkeeping is built anew ([`crate::table::heap::Rebuild`]). `docs/design-life.md` has the argument for
//! each kind of change: what a death in its middle leaves, and what becomes of it.
//!
//! # Invariants
//!
//! - Nothing in the segment is believed without a check. Whatever it holds, nothing outside of it is touched, every
//!   loop ends, and what is wrong is counted by what it is ([`Report`]).
//! - What was acknowledged is there, unless it is damaged; of what was in hand, the old state or the new one.
//! - Readers may be in the table all the while. A bucket is locked while its chain is changed, and leaves with a higher
//!   version; memory is used anew only behind that.
//! - In the end no bucket is locked, and every page and slot has one owner.
//!
//! # Not promised
//!
//! Damage of a value, or of a mark, is not noticed. Nor is it known whether there is memory behind free pages: the
//! server finds it as it finds pages that readers have touched.

mod found;
mod walk;
mod later;
mod saved;

#[cfg(all(test, not(loom)))]
mod damage_tests;
#[cfg(all(test, not(loom)))]
mod death_tests;
#[cfg(all(test, not(loom)))]
mod tests;

pub use super::check::report::{Damage, Repair, Report};

use super::bucket::BucketRef;
use super::change::ChangeSink;
use super::check::chain::ChainCheck;
use super::check::outstanding::Outstanding;
use super::events::{Broadcast, RingLocation};
use super::flush::clears_cut_off;
use super::header::{AttachError, Constants, restore_constants};
use super::heap::Rebuild;
use super::layout::{
    BUCKET_WORDS, H_BUCKETS, H_BUCKETS_MIN, H_BUCKETS_SEALED, H_CLOSED, H_ENTRIES, H_EVENTS, H_HINTS, PAGE_WORDS,
    bucket_start, page_map_start, split_source,
};
use super::options::Eviction;
use super::seal::{seal, unseal};
use super::table::Table;
use crate::limits;
use crate::sync::{AtomicU64, Memory, Ordering};
use found::Found;
use walk::Walk;

impl<M: Memory> Table<M> {
    /// Takes over the table in a segment that nobody writes to any more, with what was found there. Readers may be in
    /// it.
    ///
    /// `pinned` are the words that living clients pin, in any order, nonsense included: what begins there and is no
    /// entry of the table any more is kept until it is found unpinned ([`super::reclaim`]). So the hazard records of
    /// these clients have to be registered before anything else is done with the table.
    ///
    /// # Errors
    /// If it is no table of this layout, or what the header says of the whole of it is damaged.
    pub fn adopt(memory: M, eviction: Eviction, pinned: &[u64]) -> Result<(Self, Report), AttachError> {
        let words = memory.words();
        let mut report = Report::default();
        let restored = restore_constants(words);
        let constants = Constants::attach(&memory)?;
        let damaged = AttachError::Damaged { field: "a constant, and the copy of all too, one", value: 0 };
        report.add_damage(Damage::Header, restored.ok_or(damaged)?);
        let count = bucket_count(words, &mut report)?;
        let buckets_min = buckets_min(words, count, &mut report);
        let bucket_pages = bucket_start(count).div_ceil(PAGE_WORDS);

        let heap = Rebuild::new(words, bucket_pages);
        let mut walk = Walk::new(words, &constants, count, Found::new(words, eviction, heap), report);
        let unchecked = if walk.by_map() { count } else { 0 };
        if unchecked == 0 {
            walk.by_entries();
        }
        // Behind the last bucket are some that a worker may have held that was late to see that they are none.
        for index in count..((bucket_pages * PAGE_WORDS - bucket_start(0)) / BUCKET_WORDS) as u64 {
            if let Some(bucket) = BucketRef::at(words, bucket_start(index)).filter(|bucket| bucket.version() & 1 != 0) {
                bucket.unlock_fresh();
            }
        }
        let ChainCheck { ledger: Found { mut heap, entries, expires, counted, .. }, mut report, .. } = walk.check;
        report.entries = entries;
        let missed = report.repaired(Repair::Locked) + clears_cut_off(words);
        let events = adopt_events(words, &mut heap, missed, &mut report);
        let mut pinned = pinned.to_vec();
        pinned.sort_unstable();
        let retired = pinned.into_iter().filter_map(|start| Some((start, heap.keep(start)?))).collect();
        report.add_damage(Damage::PageMap, heap.damage());
        let heap = heap.finish();

        // Relaxed: the count is one for people; the others are looked at by who attaches later.
        words[H_ENTRIES].store(report.entries, Ordering::Relaxed);
        words[H_HINTS].store(u64::from(eviction == Eviction::AllkeysSieve), Ordering::Relaxed);
        words[H_CLOSED].store(0, Ordering::Relaxed);
        let changes = ChangeSink::with(events);
        let mut table = Self::with(memory, constants, heap, changes, buckets_min, bucket_pages, counted);
        table.outstanding = Some(Outstanding::new(unchecked, report.clone()));
        table.reclaimer.wait_for(retired);
        table.sieve.forget(&table.heap);
        table.tally.expiring.store(expires, Ordering::Relaxed);
        Ok((table, report))
    }
}

/// How many buckets there are. What is sealed is believed first: a death between its store and that of the number
/// proper leaves two that are both right, but a number may have been damaged to its neighbour.
fn bucket_count(words: &[AtomicU64], report: &mut Report) -> Result<u64, AttachError> {
    let most = page_map_start(words.len()).saturating_sub(bucket_start(0)) / BUCKET_WORDS;
    let is_possible = |count: &u64| (1..=limits::BUCKETS_MAX.min(most as u64)).contains(count);
    // Relaxed, here and below: the writer is dead.
    let told = words[H_BUCKETS].load(Ordering::Relaxed);
    let sealed = unseal(words[H_BUCKETS_SEALED].load(Ordering::Relaxed), H_BUCKETS as u64);
    let count = sealed.filter(is_possible).or(Some(told).filter(is_possible));
    let count = count.ok_or(AttachError::Damaged { field: "the number of buckets", value: told })?;
    let is_changing = told.abs_diff(count) == 1 && {
        let source = BucketRef::at(words, bucket_start(split_source(count.max(told) - 1)));
        source.is_some_and(|source| source.version() & 1 != 0)
    };
    if sealed != Some(count) || told != count && !is_changing {
        report.damage(Damage::Header);
    }
    words[H_BUCKETS_SEALED].store(seal(count, H_BUCKETS as u64), Ordering::Relaxed);
    // Release: as in `Table::publish_buckets`.
    words[H_BUCKETS].store(count, Ordering::Release);
    Ok(count)
}

/// How many buckets there were in the beginning.
fn buckets_min(words: &[AtomicU64], count: u64, report: &mut Report) -> u64 {
    let least = words[H_BUCKETS_MIN].load(Ordering::Relaxed);
    if (1..=count).contains(&least) {
        return least;
    }
    report.damage(Damage::Header);
    words[H_BUCKETS_MIN].store(1, Ordering::Relaxed);
    1
}

/// The ring of events, if there is one that is whole. `missed` changes may not have been told.
fn adopt_events(words: &[AtomicU64], heap: &mut Rebuild<'_>, missed: u64, report: &mut Report) -> Broadcast {
    let told = RingLocation::load(words).filter(|told| told.is_possible());
    let is_told = words[H_EVENTS].load(Ordering::Relaxed) != 0;
    let mapped = heap.events();
    let location = match (told, mapped) {
        (Some(told), Some((start, size))) if told.is_at(start, size) => Some(told),
        (Some(told), None) => heap.restore_events(told.start() as u64, told.words()).then_some(told),
        // It was being made: nobody knows of it.
        (None, Some(_)) if !is_told => None,
        (_, Some((start, size))) => {
            report.damage(Damage::Events);
            Some(RingLocation::filling(start, size)).filter(|location| location.is_possible())
        }
        (None, None) => None,
    };
    let adopted = location.map(|location| Broadcast::adopt(words, location, missed));
    let events = match adopted {
        Some(Ok((events, was_begun))) => {
            if was_begun {
                report.repair(Repair::Event);
            }
            events
        }
        none => {
            heap.drop_events();
            if none.is_some() || is_told && location.is_none() {
                report.damage(Damage::Events);
            }
            words[H_EVENTS].store(0, Ordering::Relaxed);
            Broadcast::default()
        }
    };
    if let Some(location) = location.filter(|_| heap.events().is_some()) {
        location.store(words);
    }
    events
}
