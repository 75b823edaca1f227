//! The counters of a server. All are relaxed: they are figures for people and guard nothing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;

use super::end::{COUNTED, End};
use crate::sync::lock;

/// What a worker counts; only it writes here, at each request: in lines of memory that no other worker writes.
#[repr(align(128))]
pub(super) struct WorkerStatistics {
    pub requests: AtomicU64,
    pub wakeups: AtomicU64,
    pub rings: AtomicU64,
    /// Nanoseconds that a write took at most: those of the turn that it was done in.
    writes_ns: Mutex<Histogram<u64>>,
}

/// All counters of a server.
pub(super) struct Statistics {
    pub clients_accepted: AtomicU64,
    pub clients_refused: AtomicU64,
    pub accept_failures: AtomicU64,
    /// How often the socket was made anew, since its name was gone.
    pub name_restored: AtomicU64,
    /// 1 while nobody finds the socket by its name.
    pub name_lost: AtomicU64,
    pub lanes: AtomicU64,
    /// Clients over UDP, each of which has a session; they are among the clients.
    pub udp_sessions: AtomicU64,
    /// Those that there was no room for, which are among the refused ones.
    pub udp_sessions_refused: AtomicU64,
    /// Datagrams that have come.
    pub udp_datagrams: AtomicU64,
    /// Those that no honest client sends.
    pub udp_datagrams_wrong: AtomicU64,
    /// Requests whose reply their client had already.
    pub udp_datagrams_old: AtomicU64,
    /// Requests of sessions that there are not.
    pub udp_tokens_unknown: AtomicU64,
    /// Requests that were answered once more, and not executed again.
    pub udp_answered_again: AtomicU64,
    /// Datagrams of clients without a session that were not answered, since such had been too expensive to wake.
    pub udp_unanswered: AtomicU64,
    ends: [AtomicU64; COUNTED.len()],
    pub workers: Vec<WorkerStatistics>,
    /// Of the writes of all workers: how many they were when it was last asked, and how long they took then.
    writes_seen: Mutex<WritesSeen>,
}

/// How long writes took, as it is told: finding it out takes a while, and it stays the same without a write.
#[derive(Clone, Copy, Default)]
pub(super) struct WritesSeen {
    pub writes: u64,
    /// Nanoseconds that half of them took at most, 99 % of them, 99.9 %, and all.
    pub at_most: [u64; 4],
}

impl WorkerStatistics {
    /// Counts a request. Only the worker itself does.
    #[inline]
    pub fn note_request(&self) {
        // Relaxed, and no addition in one step: a figure with one writer.
        self.requests.store(self.requests.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Counts `writes` writes, each of which took at most `elapsed_ns`.
    pub fn record_writes(&self, elapsed_ns: u64, writes: u64) {
        lock(&self.writes_ns).saturating_record_n(elapsed_ns.max(1), writes);
    }
}

impl Statistics {
    pub fn new(workers: usize) -> Self {
        let histogram = || {
            // Up to ten seconds, three digits. Such bounds are valid; a histogram without them is the fallback.
            Histogram::new_with_max(10_000_000_000, 3).or_else(|_| Histogram::new(3)).map(Mutex::new)
        };
        Self {
            clients_accepted: AtomicU64::new(0),
            clients_refused: AtomicU64::new(0),
            accept_failures: AtomicU64::new(0),
            name_restored: AtomicU64::new(0),
            name_lost: AtomicU64::new(0),
            lanes: AtomicU64::new(0),
            udp_sessions: AtomicU64::new(0),
            udp_sessions_refused: AtomicU64::new(0),
            udp_datagrams: AtomicU64::new(0),
            udp_datagrams_wrong: AtomicU64::new(0),
            udp_datagrams_old: AtomicU64::new(0),
            udp_tokens_unknown: AtomicU64::new(0),
            udp_answered_again: AtomicU64::new(0),
            udp_unanswered: AtomicU64::new(0),
            ends: Default::default(),
            workers: (0..workers)
                .filter_map(|_| {
                    Some(WorkerStatistics {
                        requests: AtomicU64::new(0),
                        wakeups: AtomicU64::new(0),
                        rings: AtomicU64::new(0),
                        writes_ns: histogram().ok()?,
                    })
                })
                .collect(),
            writes_seen: Mutex::default(),
        }
    }

    /// How long the writes of all workers took.
    pub fn writes(&self) -> WritesSeen {
        let mut seen = lock(&self.writes_seen);
        let writes = self.workers.iter().map(|worker| lock(&worker.writes_ns).len()).sum();
        if seen.writes != writes {
            let mut histograms = self.workers.iter().map(|worker| lock(&worker.writes_ns).clone());
            let Some(mut all) = histograms.next() else { return *seen };
            for histogram in histograms {
                // They have the same bounds.
                let _ = all.add(histogram);
            }
            let at_most = [0.5, 0.99, 0.999].map(|share| all.value_at_quantile(share));
            let [half, most, nearly_all] = at_most;
            *seen = WritesSeen { writes: all.len(), at_most: [half, most, nearly_all, all.max()] };
        }
        *seen
    }

    pub fn count_end(&self, end: End) {
        if let Some(index) = COUNTED.iter().position(|(known, _)| *known == end) {
            self.ends[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many connections have ended for each reason that is counted, by the name of the figure.
    pub fn ends(&self) -> impl Iterator<Item = (&'static str, u64)> {
        COUNTED.iter().zip(&self.ends).map(|((_, name), count)| (*name, count.load(Ordering::Relaxed)))
    }
}
