//! The chains that were not checked yet since the table was taken over.

use super::report::Report;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};

/// A bit for each bucket that there was, and what was found so far.
///
/// A bit changes under the lock of its bucket, and whoever wants to know it holds that lock, or only wants a hint. So
/// the bits are relaxed. They stay when all are set: to give their memory back one would have to know that no worker
/// stands between its look at [`Self::end`] and that at the bit, and they take a 512th of what the buckets do.
#[derive(Debug)]
pub(in crate::table) struct Outstanding {
    /// Whether the chain is checked.
    checked: Box<[AtomicU64]>,
    /// Buckets from here on are checked: those that have come since, and in the end all.
    end: AtomicU64,
    /// Chains that are left.
    left: AtomicU64,
    /// Where the worker goes on that goes over all of them.
    next: AtomicU64,
    found: Mutex<Report>,
}

impl Outstanding {
    /// All of so many chains are outstanding.
    pub fn new(buckets: u64, found: Report) -> Self {
        Self {
            checked: (0..buckets.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            end: AtomicU64::new(buckets),
            left: AtomicU64::new(buckets),
            next: AtomicU64::new(0),
            found: Mutex::new(found),
        }
    }

    /// Whether the chain of a bucket is outstanding.
    #[inline]
    pub fn has(&self, bucket: u64) -> bool {
        // Relaxed: it is 0 once all are checked. Who sees that while it holds the bucket's lock has locked it behind
        // the one who checked its chain: see `settled`.
        bucket < self.end.load(Ordering::Relaxed)
            && self.checked[(bucket / 64) as usize].load(Ordering::Relaxed) >> (bucket % 64) & 1 == 0
    }

    /// Takes note that the chain of a locked bucket is checked, of what was found, and of how many entries have gone.
    pub fn settled(&self, bucket: u64, found: &Report, gone: u64) {
        if *found != Report::default() {
            lock(&self.found).add(found, gone);
        }
        let Some(word) = self.checked.get((bucket / 64) as usize) else { return };
        let is_new = word.fetch_or(1 << (bucket % 64), Ordering::Relaxed) >> (bucket % 64) & 1 == 0;
        // AcqRel: whoever held the lock of any of the buckets before its chain was checked has not seen `end` below.
        if is_new && bucket < self.end.load(Ordering::Relaxed) && self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.end.store(0, Ordering::Relaxed);
        }
    }

    /// Chains that are left.
    pub fn left(&self) -> u64 {
        // Relaxed: a figure.
        self.left.load(Ordering::Relaxed)
    }

    /// The next buckets, up to `count`, for one who goes over all of them. Once none is left, and there are chains
    /// still, they begin anew.
    pub fn next(&self, count: u64) -> std::ops::Range<u64> {
        let end = self.end.load(Ordering::Relaxed);
        // Relaxed: whoever gets a bucket twice finds it checked.
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        if first >= end {
            self.next.store(0, Ordering::Relaxed);
        }
        first.min(end)..(first + count).min(end)
    }

    /// What was found so far, when the table was taken over and since.
    pub fn found(&self) -> Report {
        lock(&self.found).clone()
    }
}
