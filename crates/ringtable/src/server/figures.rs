//! The server as commands see it: the figures of `RING.STATS`, and the way to what stands around the table.

use std::sync::atomic::{AtomicU64, Ordering};

use super::exchange::Exchange;
use super::log::Log;
use super::runtime::Runtime;
use super::statistics::{WorkerStatistics, WritesSeen};
use super::store::Store;
use super::waiters::{Awaited, Waiter};
use crate::command::{
    Host, LeaseAnswer, LeaseName, LockAnswer, LockRequest, LogState, Order, Recipient, Refusal, SavingState, Setting,
    Standing, Task, Unwritten,
};
use crate::shm::clock::wall_ms;
use crate::sync::Arc;
use crate::table::hints::Hints;
use crate::table::layout::BUCKET_SIZE;

impl Host for Runtime {
    fn save(&self, worker: usize) -> Result<Arc<Task>, Refusal> {
        self.store.persistence.save(worker)
    }

    fn saving(&self) -> Option<SavingState> {
        self.store.persistence.figures()
    }

    fn flush_log(&self, worker: usize) -> Result<Arc<Task>, Refusal> {
        match self.store.persistence.log() {
            Some(log) => Ok(log.flush(worker)),
            None => Err(Refusal::err("this server has no log: start it with --data DIR --log")),
        }
    }

    fn logging(&self) -> Option<LogState> {
        self.store.persistence.log().map(Log::figures)
    }

    fn lease(&self, connection: u64, key: &[u8], ticket: u64, after: u64) -> Result<LeaseAnswer, Refusal> {
        self.store.leases.grant(connection, key, ticket, after)
    }

    fn hand_over(&self, connection: u64, key: &[u8], token: u64, outcome: Unwritten<'_>) -> bool {
        self.store.leases.hand_over(connection, key, token, outcome)
    }

    fn unlease(&self, connection: u64, key: &[u8], name: LeaseName) -> bool {
        self.store.leases.give_back(connection, key, name)
    }

    fn wait(&self, connection: u64, key: &[u8], token: u64, ticket: u64, at: Recipient) -> Result<bool, Refusal> {
        let waiter = Waiter { connection, ticket, awaited: Awaited::Key, recipient: Some(at), answer: None };
        self.store.leases.wait(waiter, key, token)
    }

    fn unwait(&self, connection: u64, key: &[u8], ticket: u64) -> bool {
        self.store.leases.unwait(connection, key, ticket)
    }

    fn wait_for_change(&self, connection: u64, key: &[u8], ticket: u64, at: Recipient) -> Result<(), Refusal> {
        let waiter = Waiter { connection, ticket, awaited: Awaited::Key, recipient: Some(at), answer: None };
        self.store.leases.wait_for_change(waiter, key)
    }

    fn lock(
        &self,
        connection: u64,
        name: &[u8],
        request: LockRequest,
        at: Option<Recipient>,
    ) -> Result<LockAnswer, Refusal> {
        self.store.leases.take_permit(connection, name, request, at)
    }

    fn unlock(&self, connection: u64, name: &[u8], named: LeaseName) -> bool {
        self.store.leases.give_permit_back(connection, name, named)
    }

    fn extend(&self, connection: u64, name: &[u8], token: u64, ttl_ms: u64) -> bool {
        self.store.leases.extend_permit(connection, name, token, ttl_ms)
    }

    fn locked(&self, connection: u64, name: &[u8], token: Option<u64>) -> usize {
        self.store.leases.permits_taken(connection, name, token)
    }

    fn come(
        &self,
        connection: u64,
        name: &[u8],
        parties: u64,
        ticket: u64,
        at: Option<Recipient>,
    ) -> Result<Standing, Refusal> {
        let party = Waiter { connection, ticket, awaited: Awaited::Parties, recipient: at, answer: None };
        self.store.leases.come(party, name, parties)
    }

    fn leave(&self, connection: u64, name: &[u8], ticket: u64) -> Option<Standing> {
        self.store.leases.leave(connection, name, ticket)
    }

    fn parties_waiting(&self, name: &[u8]) -> u64 {
        self.store.leases.parties_waiting(name)
    }

    fn order(&self, order: &Arc<Order>) {
        self.store.room.order(Arc::clone(order));
    }

    fn ask_for_memory_back(&self) {
        self.store.returning.ask_for_all();
    }

    fn has_given_memory_back(&self) -> bool {
        self.store.returning.has_answered()
    }

    fn options(&self) -> &[(&'static str, Setting)] {
        &self.settings
    }

    fn figures(&self) -> Vec<(String, i64)> {
        fn load(counter: &AtomicU64) -> u64 {
            counter.load(Ordering::Relaxed)
        }
        let statistics = &self.statistics;
        let sum = |counter: fn(&WorkerStatistics) -> &AtomicU64| {
            statistics.workers.iter().map(|worker| load(counter(worker))).sum::<u64>()
        };
        let Store { table, requests, .. } = &*self.store;
        let (tally, usage, buckets) = (table.tally(), table.heap().usage(), table.buckets());
        let resident = self.store.returning.resident();
        let mut figures = vec![
            ("entries", table.entries()),
            ("buckets", table.buckets()),
            ("max_memory", self.store.max_memory),
            ("memory_resident", resident),
            ("memory_free", table.free_bytes()),
            ("memory_drafts", table.draft_bytes()),
            ("memory_allocated", usage.allocated),
            ("memory_buckets", buckets * BUCKET_SIZE as u64),
            ("memory_wasted", resident.saturating_sub(usage.allocated + buckets * BUCKET_SIZE as u64)),
            ("eviction_policy", table.eviction() as u64),
            ("entries_expiring", load(&tally.expiring)),
            ("expired_keys", load(&tally.expired)),
            ("evicted_keys", load(&tally.evicted)),
            ("entries_moved", load(&tally.moved)),
            ("entries_unevictable", table.unevictable().entries()),
            ("memory_unevictable", table.unevictable().bytes()),
            ("memory_unevictable_max", table.unevictable().bytes_max()),
            ("hints", table.hints().map_or(0, Hints::taken)),
            ("memory_given_back", load(&self.store.returning.given_back)),
            ("memory_retired", table.reclaimer().bytes_retired()),
            ("entries_retired", table.reclaimer().entries_retired()),
            ("hazard_records", table.reclaimer().hazard_records()),
            ("holds", table.reclaimer().holds()),
            ("memory_unfinished_requests", requests.unfinished()),
            ("memory_waiting_requests", requests.waiting()),
            ("process_id", u64::from(std::process::id())),
            ("keeper_process_id", self.keeper_process_id()),
            ("restarts", self.restarts),
            ("upgrades", self.upgrades),
            // Relaxed: a figure.
            ("upgrades_failed", self.resignation.refused.load(Ordering::Relaxed) as u64),
            ("workers", self.workers.len() as u64),
            ("cpus", self.cpus as u64),
            ("spin_ns", self.spin_ns),
            ("clients", self.headcount.clients() as u64),
            ("clients_max", self.headcount.most() as u64),
            ("lanes", load(&statistics.lanes)),
            ("watchers", table.events().watchers() as u64),
            ("events", table.events().count()),
            ("leases", self.store.leases.count() as u64),
            ("locks", self.store.leases.permits() as u64),
            ("lease_waiters", self.store.leases.waiters() as u64),
            ("leases_granted", self.store.leases.granted()),
            ("leases_not_stored", self.store.leases.not_stored()),
            ("leases_stale_on_error", self.store.leases.failed()),
            ("clients_accepted", load(&statistics.clients_accepted)),
            ("clients_refused", load(&statistics.clients_refused)),
            ("accept_failures", load(&statistics.accept_failures)),
            ("name_restored", load(&statistics.name_restored)),
            ("name_lost", load(&statistics.name_lost)),
        ];
        let saving = self.store.persistence.figures().unwrap_or_default();
        figures.extend([
            ("snapshots", saving.saved),
            ("snapshot_loaded_entries", saving.loaded),
            ("snapshots_failed", saving.failed),
            ("snapshot_age_s", if saving.last_s == 0 { 0 } else { (wall_ms() / 1_000).saturating_sub(saving.last_s) }),
            ("snapshot_last_ms", saving.last_took_ms),
            ("snapshot_last_entries", saving.last_entries),
            ("snapshot_last_bytes", saving.last_size),
        ]);
        let log = self.logging().unwrap_or_default();
        figures.extend([
            ("log_bytes", log.size_all),
            ("log_records", log.records),
            ("log_batches", log.batches),
            ("log_syncs", log.syncs),
            ("log_sync_us_max", log.sync_us_max),
            ("log_errors", log.errors),
            ("log_rewrites", log.rewrites),
            ("log_broken", u64::from(log.is_broken)),
        ]);
        figures.extend(statistics.ends());
        figures.extend([
            ("requests", sum(|worker| &worker.requests)),
            ("wakeups", sum(|worker| &worker.wakeups)),
            ("doorbells_rung", sum(|worker| &worker.rings)),
        ]);
        figures.extend([
            ("udp_sessions", load(&statistics.udp_sessions)),
            ("udp_sessions_refused", load(&statistics.udp_sessions_refused)),
            ("udp_datagrams", load(&statistics.udp_datagrams)),
            ("udp_datagrams_wrong", load(&statistics.udp_datagrams_wrong)),
            ("udp_datagrams_old", load(&statistics.udp_datagrams_old)),
            ("udp_tokens_unknown", load(&statistics.udp_tokens_unknown)),
            ("udp_answered_again", load(&statistics.udp_answered_again)),
            ("udp_unanswered", load(&statistics.udp_unanswered)),
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
