//! Which queues lie between clients and workers: a lane for each client, or rings that clients share.

use std::io;
use std::sync::Arc;

use super::Options;
use super::exchange::Exchange;
use crate::ring::exchange::{Geometry, Workers};

/// The queues between clients and workers. Plain sockets are served in all topologies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Topology {
    /// Each client has two rings of its own, and is served by one worker.
    #[default]
    Lanes,
    /// The classic: one request queue and one broadcast response ring for all clients and all workers.
    Shared,
    /// Such a pair for each worker; a client joins the least contended.
    Sharded,
}

impl Topology {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Lanes, Self::Shared, Self::Sharded];

    /// What users call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lanes => "lanes",
            Self::Shared => "shared",
            Self::Sharded => "sharded",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topology| topology.name() == name)
    }

    /// Makes its exchanges: none for lanes.
    pub(super) fn exchanges(self, options: &Options) -> io::Result<Vec<Arc<Exchange>>> {
        let geometry =
            Geometry { slot_words: options.slot_size / 8, slots: options.ring_slots, members: options.clients_max };
        let shards = match self {
            Self::Lanes => 0,
            Self::Shared => 1,
            Self::Sharded => options.workers,
        };
        let workers = |shard| match self {
            Self::Sharded => Workers { first: shard, count: 1 },
            _ => Workers { first: 0, count: options.workers },
        };
        let laggard_timeout_ns = options.laggard_timeout_ms * 1_000_000;
        (0..shards).map(|shard| Exchange::create(geometry, workers(shard), laggard_timeout_ns).map(Arc::new)).collect()
    }

    /// The exchange of a worker among them.
    pub(super) fn exchange_of(self, worker: usize, exchanges: &[Arc<Exchange>]) -> Option<Arc<Exchange>> {
        let shard = if self == Self::Sharded { worker } else { 0 };
        exchanges.get(shard).map(Arc::clone)
    }
}
