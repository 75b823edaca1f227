//! What is counted. All counters are relaxed: they are figures for people and guard nothing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;

use super::Shared;
use crate::command::Host;
use crate::sync::lock;

/// Why a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client said so.
    Quit,
    /// Its socket was closed: the client ended, or was killed.
    Gone,
    /// It sent what no honest client sends: malformed RESP, or bytes on the socket of a lane.
    Protocol,
    /// A position in its lane was out of range.
    Position,
    /// A record in its lane was malformed.
    Record,
    /// Its unfinished requests would have taken more memory than all of them may.
    Memory,
    /// The server is stopping.
    Stopped,
}

/// By reason, in the order of the names.
const ENDS: [(End, &str); 7] = [
    (End::Quit, "clients_quit"),
    (End::Gone, "clients_gone"),
    (End::Protocol, "clients_ended_protocol"),
    (End::Position, "clients_ended_position"),
    (End::Record, "clients_ended_record"),
    (End::Memory, "clients_ended_memory"),
    (End::Stopped, "clients_ended_stop"),
];

/// What a worker counts; only it writes here.
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
    pub lanes: AtomicU64,
    /// Bytes of requests that have arrived in part.
    pub unfinished: AtomicU64,
    ends: [AtomicU64; ENDS.len()],
    pub workers: Vec<WorkerStatistics>,
}

impl WorkerStatistics {
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
            lanes: AtomicU64::new(0),
            unfinished: AtomicU64::new(0),
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
        }
    }

    pub fn count_end(&self, end: End) {
        if let Some(index) = ENDS.iter().position(|(known, _)| *known == end) {
            self.ends[index].fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Host for Shared {
    fn figures(&self) -> Vec<(String, i64)> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let statistics = &self.statistics;
        let sum = |counter: fn(&WorkerStatistics) -> &AtomicU64| {
            statistics.workers.iter().map(|worker| load(counter(worker))).sum::<u64>()
        };
        let mut writes: Option<Histogram<u64>> = None;
        for worker in &statistics.workers {
            let histogram = lock(&worker.writes_ns).clone();
            match &mut writes {
                None => writes = Some(histogram),
                Some(all) => drop(all.add(histogram)),
            }
        }
        let clients: usize = self.workers.iter().map(|worker| worker.clients()).sum();
        let mut figures = vec![
            ("entries", self.table.entries()),
            ("buckets", self.table.buckets()),
            ("max_memory", self.max_memory),
            ("memory_resident", self.segment.resident().unwrap_or(0)),
            ("memory_free", self.table.free_bytes()),
            ("memory_unfinished_requests", load(&statistics.unfinished)),
            ("workers", self.workers.len() as u64),
            ("cpus", self.cpus as u64),
            ("spin_ns", self.spin_ns),
            ("clients", clients as u64),
            ("clients_max", self.clients_max as u64),
            ("lanes", load(&statistics.lanes)),
            ("watchers", self.table.events().watchers() as u64),
            ("events", self.table.events().count()),
            ("clients_accepted", load(&statistics.clients_accepted)),
            ("clients_refused", load(&statistics.clients_refused)),
            ("accept_failures", load(&statistics.accept_failures)),
        ];
        figures.extend(ENDS.iter().zip(&statistics.ends).map(|((_, name), count)| (*name, load(count))));
        figures.extend([
            ("requests", sum(|worker| &worker.requests)),
            ("wakeups", sum(|worker| &worker.wakeups)),
            ("doorbells_rung", sum(|worker| &worker.rings)),
        ]);
        if let Some(writes) = writes {
            figures.extend([
                ("writes", writes.len()),
                ("insert_ns_p50", writes.value_at_quantile(0.5)),
                ("insert_ns_p99", writes.value_at_quantile(0.99)),
                ("insert_ns_p999", writes.value_at_quantile(0.999)),
                ("insert_ns_max", writes.max()),
            ]);
        }
        figures.into_iter().map(|(name, value)| (name.to_owned(), value as i64)).collect()
    }
}
