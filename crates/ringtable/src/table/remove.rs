//! Deleting a key.

use super::bucket::EMPTY;
use super::change::Removal;
use super::entry::EntryRef;
use super::writer::{Writer, announce};
use crate::limits;
use crate::sync::Memory;

impl<M: Memory> Writer<M> {
    /// Deletes a key. Returns whether it was there and its time had not passed.
    pub fn delete(&mut self, key: &[u8], now_ms: impl Fn() -> u64) -> bool {
        self.remove(key, |_| true, now_ms)
    }

    /// Deletes a key if it still has this version. Returns whether it had, and its time had not passed.
    pub fn delete_version(&mut self, key: &[u8], version: u64, now_ms: impl Fn() -> u64) -> bool {
        self.remove(key, |entry| entry.version() == version, now_ms)
    }

    /// Deletes a key if its time has passed.
    pub fn delete_expired(&mut self, key: &[u8], now_ms: impl Fn() -> u64) {
        let now = now_ms();
        self.remove(key, |entry| entry.has_expired(|| now), || now);
    }

    fn remove(&mut self, key: &[u8], which: impl Fn(EntryRef<'_>) -> bool, now_ms: impl Fn() -> u64) -> bool {
        if key.len() > limits::KEY_SIZE_MAX {
            return false;
        }
        let Self { table, published, commits, .. } = self;
        let hash = table.constants().hash(key);
        let guard = table.lock(hash);
        let Some((bucket, index, entry)) = table.find(&guard, hash, key).entry.filter(|&(_, _, entry)| which(entry))
        else {
            guard.unlock_unchanged();
            return false;
        };
        let live = !entry.has_expired(&now_ms);
        let why = if live { Removal::Deleted } else { Removal::Expired };
        if live {
            announce(commits, table, &guard, (bucket, index, EMPTY), None);
        }
        let left = table.take_out(&guard, (bucket, index), why, published);
        failpoint!("delete.unlinked");
        guard.unlock();
        failpoint!("delete.unlocked");
        self.free(left);
        live
    }
}
