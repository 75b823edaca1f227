//! Going on with the bookkeeping of a server that has ended in order, and has left that besides its segment.
//!
//! # Design
//!
//! A server that makes way for another one ends all its threads between two turns. Then no bucket is locked, no writer
//! holds memory, and what is private to it can be said in some words: which memory is free, and how much there is of
//! what. With that the next server need not walk over all buckets. Whatever cannot be said so, or does not fit what is
//! in the segment, is no reason to fail: then the table is taken over as after a death ([`super`]).
//!
//! # Invariants
//!
//! - The words are a server's own, and nobody else's; they have a checksum against accidents.
//! - They are used once: whoever reads them takes them away before it changes anything.
//!
//! # Not promised
//!
//! The order of eviction begins anew, as after a death.

use crate::sync::{AtomicU64, Memory, Ordering, lock};
use crate::table::change::ChangeSink;
use crate::table::events::{Broadcast, RingLocation};
use crate::table::flush::clears_cut_off;
use crate::table::header::Constants;
use crate::table::heap::Heap;
use crate::table::layout::{H_BUCKETS, H_BUCKETS_MIN, H_BUCKETS_SEALED, H_CLOSED, H_EVENTS, H_HINTS};
use crate::table::options::Eviction;
use crate::table::seal::unseal;
use crate::table::table::{Counted, Table};

const MAGIC: u64 = u64::from_le_bytes(*b"ringbook");
/// The words that stand before all others: magic, checksum of what follows, how many words follow.
const HEAD_WORDS: usize = 3;
const COUNTS: usize = 7;

fn checksum(words: &[u64]) -> u64 {
    words.iter().fold(MAGIC, |sum, word| (sum.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

impl<M: Memory> Table<M> {
    /// The bookkeeping of a table that no thread uses any more; `None` if something is on its way.
    pub fn save(&self) -> Option<Vec<u64>> {
        let is_at_rest = self.draft_bytes() == 0
            && lock(&self.draft_starts).is_empty()
            && self.reclaimer.holds() == 0
            && self.expiring.is_none()
            && self.outstanding.as_ref().is_none_or(|outstanding| outstanding.left() == 0);
        if !is_at_rest {
            return None;
        }
        let retired = self.reclaimer.retired();
        let unevictable = self.unevictable.save();
        // Relaxed, here and below: its threads have ended, and were waited for.
        let counts: [u64; COUNTS] = [
            self.constants().id,
            self.buckets(),
            self.bucket_pages.load(Ordering::Relaxed),
            self.bucket_pages_dirty.load(Ordering::Relaxed),
            self.tally.expiring.load(Ordering::Relaxed),
            unevictable.len() as u64,
            retired.len() as u64,
        ];
        // Clients wait meanwhile: what is long is written once.
        let mut words = vec![0; HEAD_WORDS];
        words.extend(counts.into_iter().chain(unevictable).chain(retired));
        self.heap.save(self.words(), &mut words)?;
        let (head, rest) = words.split_at_mut(HEAD_WORDS);
        head.copy_from_slice(&[MAGIC, checksum(rest), rest.len() as u64]);
        Some(words)
    }

    /// The table in a segment, of whose bookkeeping another server has left these words.
    ///
    /// # Errors
    /// If they are none, or do not fit the segment: the memory, in which nothing was changed.
    pub fn go_on(memory: M, eviction: Eviction, saved: &[u64]) -> Result<Self, M> {
        match Saved::read(&memory, eviction, saved) {
            Some(saved) => Ok(saved.table(memory, eviction)),
            None => Err(memory),
        }
    }
}

/// What was left, checked.
struct Saved {
    constants: Constants,
    heap: Heap,
    changes: ChangeSink,
    counted: Counted,
    retired: Vec<(u64, usize)>,
    counts: [u64; COUNTS],
}

impl Saved {
    fn read<M: Memory>(memory: &M, eviction: Eviction, saved: &[u64]) -> Option<Self> {
        let words = memory.words();
        let (&[magic, sum, size], rest) = saved.split_first_chunk::<HEAD_WORDS>()?;
        let rest = rest.get(..usize::try_from(size).ok()?)?;
        if magic != MAGIC || sum != checksum(rest) || eviction == Eviction::VolatileTtl {
            return None;
        }
        let (&counts, rest) = rest.split_first_chunk::<COUNTS>()?;
        let [id, buckets, _, _, _, unevictable, retired] = counts;
        let constants = Constants::attach(memory).ok()?;
        let sealed = unseal(words[H_BUCKETS_SEALED].load(Ordering::Relaxed), H_BUCKETS as u64);
        if id != constants.id || sealed != Some(buckets) || words[H_BUCKETS].load(Ordering::Relaxed) != buckets {
            return None;
        }
        let (unevictable, rest) = rest.split_at_checked(usize::try_from(unevictable).ok()?)?;
        let (retired, rest) = rest.split_at_checked(usize::try_from(retired).ok()?)?;
        let counted = Counted::nothing(words.len(), eviction);
        counted.unevictable.restore(unevictable)?;
        let heap = Heap::restore(words, rest)?;
        let is_inside = |start: &&u64| usize::try_from(**start).is_ok_and(|start| start < words.len());
        if !retired.iter().all(|start| is_inside(&start)) {
            return None;
        }
        let retired = retired.iter().map(|&start| (start, heap.slot_words(start))).collect();
        let changes = ChangeSink::with(events(words)?);
        Some(Self { constants, heap, changes, counted, retired, counts })
    }

    fn table<M: Memory>(self, memory: M, eviction: Eviction) -> Table<M> {
        let Self { constants, heap, changes, counted, retired, counts } = self;
        let [_, _, bucket_pages, bucket_pages_dirty, expiring, ..] = counts;
        let words = memory.words();
        // Relaxed: as in `Table::adopt`.
        let buckets_min = words[H_BUCKETS_MIN].load(Ordering::Relaxed);
        words[H_HINTS].store(u64::from(eviction == Eviction::AllkeysSieve), Ordering::Relaxed);
        words[H_CLOSED].store(0, Ordering::Relaxed);
        let table = Table::with(memory, constants, heap, changes, buckets_min, bucket_pages as usize, counted);
        table.bucket_pages_dirty.store(bucket_pages_dirty.max(bucket_pages), Ordering::Relaxed);
        table.tally.expiring.store(expiring, Ordering::Relaxed);
        table.reclaimer.wait_for(retired);
        table.sieve.forget(&table.heap);
        table
    }
}

/// The ring of events, if there is one; `None` if it is not as its server has left it.
fn events(words: &[AtomicU64]) -> Option<Broadcast> {
    if words[H_EVENTS].load(Ordering::Relaxed) == 0 {
        return Some(Broadcast::default());
    }
    let location = RingLocation::load(words).filter(|location| location.is_possible())?;
    match Broadcast::adopt(words, location, clears_cut_off(words)) {
        Ok((events, false)) => Some(events),
        _ => None,
    }
}
