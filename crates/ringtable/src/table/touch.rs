//! Marking entries as used lately, for the order in which they are evicted ([`super::sieve`]).

use super::bucket::{SLOTS, tag};
use super::layout::address;
use super::table::Table;
use crate::sync::Memory;

impl<M: Memory> Table<M> {
    /// Marks the entries with that hash as used lately.
    pub fn touch(&self, hash: u64) {
        let home = self.bucket(address(hash, self.buckets()));
        let wanted = tag(hash);
        let mut found = false;
        for index in 0..SLOTS {
            let slot = home.slot(index);
            if slot.is_entry() && slot.tag() == wanted {
                found = true;
                if !slot.is_visited() {
                    home.mark_visited(index, slot);
                }
            }
        }
        if found || !home.slot(SLOTS - 1).is_link() {
            return;
        }
        // Overflow buckets may become anything else, so they are marked under the lock alone.
        let guard = self.lock(hash);
        for bucket in self.chain(&guard) {
            for index in 0..SLOTS {
                let slot = bucket.slot(index);
                if slot.is_entry() && slot.tag() == wanted {
                    bucket.set_slot(index, slot.with_visited(true));
                }
            }
        }
        guard.unlock_unchanged();
    }

    /// Marks the entries of which readers have said that they used them.
    pub(super) fn take_hints(&self) {
        self.hints.take(|hash| self.touch(hash));
    }
}
