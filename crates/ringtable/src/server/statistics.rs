//! What is counted. All counters are relaxed: they are figures for people and guard nothing.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hdrhistogram::Histogram;
use rustix::net::SendFlags;

use super::Shared;
use super::exchange::Exchange;
use super::socket::Socket;
use crate::command::{Host, LeaseAnswer, LeaseName, Order, Refusal, Unwritten};
use crate::shm::shortage;
use crate::sync::lock;
use crate::table::hints::Hints;
use crate::table::layout::BUCKET_SIZE;

/// Why a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client said so.
    Quit,
    /// Its socket was closed: the client ended, or was killed.
    Gone,
    /// It sent what no honest client sends: malformed RESP, or bytes on the socket of a lane.
    Protocol,
    /// It passed descriptors, which is refused where the kernel does not do that (Linux before 6.16).
    Descriptors,
    /// A position in its lane was out of range.
    Position,
    /// A record in its lane, or its pieces in a queue, was malformed.
    Record,
    /// A slot of a queue, claimed by it, held nonsense.
    Slot,
    /// It kept others from getting replies for too long.
    Laggard,
    /// To wake it took too much time, again and again.
    Dear,
    /// It rang for a lane that it had not sealed.
    Unsealed,
    /// Its unfinished requests would have taken more memory than all of them may.
    Memory,
    /// More of its requests waited than may, since it did not read the replies to those before.
    Backlog,
    /// The server is stopping.
    Stopped,
    /// There was no place for it but the reserved one; it counts as refused.
    Full,
}

/// By reason, in the order of the names.
const ENDS: [(End, &str); 13] = [
    (End::Quit, "clients_quit"),
    (End::Gone, "clients_gone"),
    (End::Protocol, "clients_ended_protocol"),
    (End::Descriptors, "clients_ended_descriptors"),
    (End::Position, "clients_ended_position"),
    (End::Record, "clients_ended_record"),
    (End::Slot, "clients_ended_slot"),
    (End::Laggard, "clients_ended_laggard"),
    (End::Dear, "clients_ended_dear"),
    (End::Unsealed, "clients_ended_unsealed"),
    (End::Memory, "clients_ended_memory"),
    (End::Backlog, "clients_ended_backlog"),
    (End::Stopped, "clients_ended_stop"),
];

impl End {
    /// Tells a client whose socket is silent otherwise why its connection ends.
    pub fn say_goodbye(self, socket: &Socket) {
        let reason = match self {
            // Who has sent too much ahead was told as a reply; who is dear to wake would be woken once more.
            Self::Quit | Self::Gone | Self::Backlog | Self::Dear | Self::Full => return,
            Self::Stopped => "SHUTDOWN the server has stopped",
            Self::Protocol => "PROTOCOL bytes on a socket that is but a sign of life",
            Self::Descriptors => "PROTOCOL this server takes no descriptors",
            Self::Position => "PROTOCOL a position in the lane is out of range",
            Self::Record => "PROTOCOL a malformed record",
            Self::Slot => "PROTOCOL nonsense in a slot of the request queue",
            Self::Laggard => {
                "LAGGARD this client has kept all others from getting replies for longer than --laggard-timeout: \
                 connect again"
            }
            Self::Unsealed => "PROTOCOL a lane that its client has not sealed",
            Self::Memory => "OOM unfinished requests of all clients together take too much memory",
        };
        send_now(socket, reason);
    }
}

/// Sends an error as the last words, without waiting: a full socket means that nobody reads anyway.
pub(super) fn send_now(socket: &Socket, words: &str) {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let _ = rustix::net::send(socket, format!("-{words}\r\n").as_bytes(), flags);
}

/// Tells a client what the server cannot do for it, and why.
pub(super) fn tell_failure(socket: &Socket, to_do: &str, error: &io::Error) {
    let code = if shortage::is_shortage(error) { "LIMIT" } else { "ERR" };
    send_now(socket, &format!("{code} the server cannot {to_do}: {}", shortage::in_words(error)));
}

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
    /// How often the socket was made anew, since its name was gone.
    pub name_restored: AtomicU64,
    /// 1 while nobody finds the socket by its name.
    pub name_lost: AtomicU64,
    pub lanes: AtomicU64,
    /// Bytes of requests that have arrived in part.
    pub unfinished: AtomicU64,
    /// Bytes that requests take which wait for the replies before them to find room.
    pub waiting: AtomicU64,
    ends: [AtomicU64; ENDS.len()],
    pub workers: Vec<WorkerStatistics>,
    /// Of the writes of all workers: how many they were when it was last asked, and how long they took then.
    writes_seen: Mutex<WritesSeen>,
}

/// How long writes took, as it is told: finding it out takes a while, and it stays the same without a write.
#[derive(Clone, Copy, Default)]
struct WritesSeen {
    writes: u64,
    /// Nanoseconds that half of them took at most, 99 % of them, 99.9 %, and all.
    at_most: [u64; 4],
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
            name_restored: AtomicU64::new(0),
            name_lost: AtomicU64::new(0),
            lanes: AtomicU64::new(0),
            unfinished: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
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
    fn writes(&self) -> WritesSeen {
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
        if let Some(index) = ENDS.iter().position(|(known, _)| *known == end) {
            self.ends[index].fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Host for Shared {
    fn lease(&self, connection: u64, key: &[u8], ticket: u64, after: u64) -> Result<LeaseAnswer, Refusal> {
        self.leases.grant(connection, key, ticket, after)
    }

    fn hand_over(&self, connection: u64, key: &[u8], token: u64, outcome: Unwritten<'_>) -> bool {
        self.leases.hand_over(connection, key, token, outcome)
    }

    fn unlease(&self, connection: u64, key: &[u8], name: LeaseName) -> bool {
        self.leases.give_back(connection, key, name)
    }

    fn order(&self, order: &Arc<Order>) {
        self.room.order(Arc::clone(order));
    }

    fn ask_for_memory_back(&self) {
        self.returning.ask_for_all();
    }

    fn has_given_memory_back(&self) -> bool {
        self.returning.has_answered()
    }

    fn figures(&self) -> Vec<(String, i64)> {
        fn load(counter: &AtomicU64) -> u64 {
            counter.load(Ordering::Relaxed)
        }
        let statistics = &self.statistics;
        let sum = |counter: fn(&WorkerStatistics) -> &AtomicU64| {
            statistics.workers.iter().map(|worker| load(counter(worker))).sum::<u64>()
        };
        let (tally, usage, buckets) = (self.table.tally(), self.table.heap().usage(), self.table.buckets());
        let resident = self.segment.resident().unwrap_or(0);
        let mut figures = vec![
            ("entries", self.table.entries()),
            ("buckets", self.table.buckets()),
            ("max_memory", self.max_memory),
            ("memory_resident", resident),
            ("memory_free", self.table.free_bytes()),
            ("memory_drafts", self.table.draft_bytes()),
            ("memory_allocated", usage.allocated),
            ("memory_buckets", buckets * BUCKET_SIZE as u64),
            ("memory_wasted", resident.saturating_sub(usage.allocated + buckets * BUCKET_SIZE as u64)),
            ("eviction_policy", self.table.eviction() as u64),
            ("entries_expiring", load(&tally.expiring)),
            ("expired_keys", load(&tally.expired)),
            ("evicted_keys", load(&tally.evicted)),
            ("entries_moved", load(&tally.moved)),
            ("entries_unevictable", self.table.unevictable().entries()),
            ("memory_unevictable", self.table.unevictable().bytes()),
            ("memory_unevictable_max", self.table.unevictable().bytes_max()),
            ("hints", self.table.hints().map_or(0, Hints::taken)),
            ("memory_given_back", load(&self.returning.given_back)),
            ("memory_limbo", self.table.reclaimer().limbo_bytes()),
            ("limbo_entries", self.table.reclaimer().limbo_entries()),
            ("boards", self.table.reclaimer().boards()),
            ("holds", self.table.reclaimer().holds()),
            ("memory_unfinished_requests", load(&statistics.unfinished)),
            ("memory_waiting_requests", load(&statistics.waiting)),
            ("process_id", u64::from(std::process::id())),
            ("workers", self.workers.len() as u64),
            ("cpus", self.cpus as u64),
            ("spin_ns", self.spin_ns),
            ("clients", self.clients() as u64),
            ("clients_max", self.clients_max as u64),
            ("lanes", load(&statistics.lanes)),
            ("watchers", self.table.events().watchers() as u64),
            ("events", self.table.events().count()),
            ("leases", self.leases.count() as u64),
            ("leases_granted", self.leases.granted()),
            ("leases_not_stored", self.leases.not_stored()),
            ("leases_stale_on_error", self.leases.failed()),
            ("clients_accepted", load(&statistics.clients_accepted)),
            ("clients_refused", load(&statistics.clients_refused)),
            ("accept_failures", load(&statistics.accept_failures)),
            ("name_restored", load(&statistics.name_restored)),
            ("name_lost", load(&statistics.name_lost)),
        ];
        figures.extend(ENDS.iter().zip(&statistics.ends).map(|((_, name), count)| (*name, load(count))));
        figures.extend([
            ("requests", sum(|worker| &worker.requests)),
            ("wakeups", sum(|worker| &worker.wakeups)),
            ("doorbells_rung", sum(|worker| &worker.rings)),
        ]);
        let over_exchanges =
            |figure: fn(&Exchange) -> u64| self.exchanges.iter().map(|exchange| figure(exchange)).sum::<u64>();
        figures.extend([
            ("rings", self.exchanges.len() as u64),
            ("ring_slots", over_exchanges(|exchange| exchange.slots() as u64)),
            ("ring_slots_claimed", over_exchanges(|exchange| exchange.census().claimed as u64)),
            ("ring_slots_published", over_exchanges(|exchange| exchange.census().published as u64)),
            ("ring_slots_quarantined", over_exchanges(|exchange| exchange.census().quarantined as u64)),
            ("ring_members", over_exchanges(|exchange| exchange.members() as u64)),
            ("ring_quarantines", over_exchanges(|exchange| load(&exchange.quarantined))),
            ("ring_slots_recovered", over_exchanges(|exchange| load(&exchange.recovered))),
            ("ring_slots_repaired", over_exchanges(Exchange::repaired)),
            ("ring_pieces_dropped", over_exchanges(|exchange| load(&exchange.dropped))),
        ]);
        let WritesSeen { writes, at_most } = statistics.writes();
        figures.push(("writes", writes));
        figures.extend(["insert_ns_p50", "insert_ns_p99", "insert_ns_p999", "insert_ns_max"].into_iter().zip(at_most));
        figures.into_iter().map(|(name, value)| (name.to_owned(), value as i64)).collect()
    }
}
