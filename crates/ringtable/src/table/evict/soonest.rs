//! Evicting by expiry: of a sample of the entries that expire, the one that does so soonest.

use crate::sync::{Arc, Memory};
use crate::table::bucket::{SLOTS, Slot};
use crate::table::change::Removal;
use crate::table::entry::Expiry;
use crate::table::writer::Writer;

/// Entries of which the one that expires soonest is evicted.
const SAMPLE_SIZE: usize = 16;
/// Buckets that are walked over for a sample, of blocks in which something expires, before a smaller one will do.
const WALKED_MAX: usize = 256;

impl<M: Memory> Writer<M> {
    /// Evicts, of a sample of the entries that expire, the one that does so soonest. `false` if none expires.
    pub(super) fn evict_soonest(&mut self) -> bool {
        let table = Arc::clone(&self.table);
        let Some(expiring) = &table.expiring else { return false };
        let buckets = table.buckets();
        let begin = fastrand::u64(..buckets);
        let (mut sampled, mut walked) = (0, 0);
        let mut soonest: Option<(Expiry, u64, u64, u64)> = None;
        'walk: for (from, to) in [(begin, buckets), (0, begin)] {
            let mut next = from;
            while let Some(index) = expiring.next(next, to) {
                next = index + 1;
                walked += 1;
                if self.sample(index, &mut sampled, &mut soonest)
                    && (sampled >= SAMPLE_SIZE || walked >= WALKED_MAX && sampled > 0)
                {
                    break 'walk;
                }
            }
        }
        let Some((_, index, start, version)) = soonest else { return false };
        if let Some(guard) = table.lock_at(index) {
            let is_same = |slot: Slot| slot.is_entry() && table.entry(slot).version() == version;
            let found = table.pointer(&guard, start).filter(|&(_, _, slot)| is_same(slot));
            if let Some((bucket, index, _)) = found {
                let left = table.take_out(&guard, (bucket, index), Removal::Evicted, &mut self.published);
                guard.unlock();
                self.free(left);
            } else {
                guard.unlock_unchanged(); // it went without us
            }
        }
        true
    }

    /// Adds the entries of bucket `index` that expire to a sample: how many, and the one that does so soonest, with its
    /// bucket, place and version. Returns whether it was walked over.
    fn sample(&self, index: u64, sampled: &mut usize, soonest: &mut Option<(Expiry, u64, u64, u64)>) -> bool {
        let table = &self.table;
        let home = table.bucket(index);
        // A look without the lock: most buckets have none.
        if !(0..SLOTS).any(|index| home.slot(index).is_volatile() || home.slot(index).is_link()) {
            return true;
        }
        let Some(guard) = table.lock_at(index) else { return false };
        for (_, _, slot) in table.slots(&guard) {
            if slot.is_volatile() && !self.is_spared(slot) {
                let entry = table.entry(slot);
                *sampled += 1;
                if let Some(expiry) = entry.expiry()
                    && soonest.as_ref().is_none_or(|(least, ..)| expiry < *least)
                {
                    *soonest = Some((expiry, index, slot.at(), entry.version()));
                }
            }
        }
        guard.unlock_unchanged();
        true
    }
}
