//! Deleting all keys, some buckets at a time.

use super::bucket::{EMPTY, SLOTS};
use super::change::Change;
use super::check::report::Report;
use super::layout::H_CLEARING;
use super::writer::Writer;
use crate::sync::{AtomicU64, Memory, Ordering};

/// Entries that are deleted at once when all are, but for the rest of a bucket.
const CLEARED_AT_ONCE: usize = 2_048;

/// Whether a process has died as it deleted all keys, of which nobody was told yet: 1, or 0. From now on none has.
pub(super) fn clears_cut_off(words: &[AtomicU64]) -> u64 {
    // Relaxed: whoever has written it is dead.
    u64::from(words[H_CLEARING].swap(0, Ordering::Relaxed) != 0)
}

impl<M: Memory> Writer<M> {
    /// Deletes all entries of up to `count` buckets from bucket `first` on, of fewer if there are many in them; returns
    /// the bucket to go on with, `None` at the end. Called until then, nothing that was there at the beginning
    /// survives, though it is not one atomic step.
    ///
    /// The entries themselves are not touched: whole slabs come back at once (unless somebody reads in place).
    pub fn clear_some(&mut self, first: u64, count: u64) -> Option<u64> {
        if first == 0 {
            // Relaxed: whoever comes after this process finds it, since the stores to buckets behind it are Release.
            self.table.words()[H_CLEARING].fetch_add(1, Ordering::Relaxed);
            self.release();
            self.table.heap.condemn_all(self.table.words());
            self.table.sieve.clear(&self.table.heap);
        }
        let table = &self.table;
        let (mut deleted, mut expiring) = (0, 0);
        let mut left: Vec<u64> = Vec::new();
        let (mut aging, mut unevictable): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
        // The count is loaded anew each time: a bucket split off meanwhile has a higher number, and so comes later.
        let mut end = (first + count).min(table.buckets());
        for index in first..end {
            if left.len() >= CLEARED_AT_ONCE {
                end = index;
                break;
            }
            // What all goes of need not be checked.
            let Some(guard) = table.lock_unsettled(index) else { break };
            let before = left.len();
            for bucket in table.chain(&guard) {
                for slot in (0..SLOTS).map(|index| bucket.slot(index)).filter(|&slot| slot != EMPTY) {
                    left.push(slot.at());
                    if table.has_journal() && slot.is_entry() {
                        table.tell_journal_of(slot.at());
                    }
                    deleted += i64::from(slot.is_entry());
                    expiring += u64::from(slot.expires());
                    if let Some(expiring) = table.expiring.as_ref().filter(|_| slot.is_volatile()) {
                        expiring.leave(index);
                        aging.push(slot.at());
                    }
                    if slot.is_unevictable() {
                        unevictable.push(slot.at());
                    }
                }
            }
            if let Some(outstanding) = &table.outstanding {
                outstanding.settled(index, &Report::default(), 0);
            }
            if left.len() == before {
                guard.unlock_unchanged();
                continue;
            }
            guard.bucket.clear_slots();
            failpoint!("flush.emptied");
            guard.unlock();
        }
        if !left.is_empty() {
            failpoint!("flush.unlinked");
        }
        if let Some(expiring) = &table.expiring {
            table.heap.words_of(&aging, |words| expiring.depart(words));
        }
        table.heap.words_of(&unevictable, |words| table.unevictable.depart(words));
        table.retire_all(left);
        table.tally.expiring.fetch_sub(expiring, Ordering::Relaxed);
        table.add_entries(-deleted);
        if end < table.buckets() {
            return Some(end);
        }
        self.table.tell(Change::Flushed, &mut self.published);
        // Release: it was told before.
        self.table.words()[H_CLEARING].fetch_sub(1, Ordering::Release);
        None
    }
}
