//! The memory that requests of all clients take before they are executed: what of it is counted, and its limits.

use crate::limits;
use crate::sync::{AtomicU64, Ordering};

use super::buffers::KEPT_MAX;

/// Bytes of requests that are held for clients.
///
/// Relaxed, all of it: figures, and limits that need not be exact.
pub(super) struct RequestMemory {
    /// Of requests that have arrived in part.
    unfinished: AtomicU64,
    /// Of requests that wait for the replies before them to find room.
    waiting: AtomicU64,
    /// Bytes of the table.
    max_memory: u64,
}

impl RequestMemory {
    /// Nothing yet, beside a table of so many bytes.
    pub fn new(max_memory: u64) -> Self {
        Self { unfinished: AtomicU64::new(0), waiting: AtomicU64::new(0), max_memory }
    }

    /// Bytes of unfinished requests of all clients.
    pub fn unfinished(&self) -> u64 {
        self.unfinished.load(Ordering::Relaxed)
    }

    /// Bytes of requests of all clients that wait.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Counts a client's unfinished bytes anew: `before` of them are now `after`. Returns how many all clients have.
    pub fn recount(&self, before: usize, after: usize) -> u64 {
        let change = (after as u64).wrapping_sub(before as u64);
        self.unfinished.fetch_add(change, Ordering::Relaxed).wrapping_add(change)
    }

    /// Counts bytes that begin to wait.
    pub fn wait(&self, size: usize) {
        self.waiting.fetch_add(size as u64, Ordering::Relaxed);
    }

    /// Counts bytes that wait no more.
    pub fn wait_no_more(&self, size: usize) {
        self.waiting.fetch_sub(size as u64, Ordering::Relaxed);
    }

    /// Most bytes that unfinished requests of all clients together may take: more than the table has room for, or than
    /// the largest request, is of no use.
    fn unfinished_max(&self) -> u64 {
        self.max_memory.max(2 * limits::REQUEST_SIZE_MAX as u64)
    }

    /// Whether a client has to go for what it has of unfinished requests, `own` of the bytes that all have together.
    /// A client that has little is let be, whatever the others have: they shall not be able to drive it out.
    pub fn is_too_much_unfinished(&self, all: u64, own: usize) -> bool {
        all > self.unfinished_max() && own > KEPT_MAX
    }

    /// Whether a request that needs so many bytes in the table may be gathered although there is no room for it yet.
    pub fn may_gather(&self, size: usize) -> bool {
        size as u64 <= self.max_memory && self.unfinished() + size as u64 <= self.unfinished_max()
    }

    /// Whether a client has to go of which `own` bytes wait, with one piece of `more` bytes among them that is new.
    pub fn is_too_much_waiting(&self, own: usize, more: usize) -> bool {
        is_too_much(own as u64, self.waiting() + more as u64, self.max_memory)
    }
}

/// Whether a client of which `own` bytes wait has to go, if `all` do of all clients together.
///
/// A client that has little is let be. Of what is left under the bound for all, a client may have as much as it leaves
/// for the others: so they find room, too, however many there are that never read.
fn is_too_much(own: u64, all: u64, max_memory: u64) -> bool {
    let most = (max_memory / limits::REQUEST_BACKLOG_SHARE).max(2 * limits::REQUEST_BACKLOG_MAX as u64);
    own > KEPT_MAX as u64 && own > most.saturating_sub(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_find_room_beside_those_who_never_read() {
        let max_memory = 1 << 30;
        let (mut all, mut had) = (0, Vec::new());
        for _ in 0..100 {
            let mut own = 0;
            while own < limits::REQUEST_BACKLOG_MAX as u64 && !is_too_much(own + 1, all + 1, max_memory) {
                own += 1 << 10;
                all += 1 << 10;
            }
            had.push(own);
        }
        assert!(all <= max_memory / limits::REQUEST_BACKLOG_SHARE + 100 * KEPT_MAX as u64);
        assert_eq!(had[0], limits::REQUEST_BACKLOG_MAX as u64);
        assert!(had.iter().all(|&own| own >= KEPT_MAX as u64));
        assert!(!is_too_much(limits::REQUEST_BACKLOG_MAX as u64, limits::REQUEST_BACKLOG_MAX as u64, 4 << 20));
    }
}
