//! Which queues lie between clients and workers: a lane for each client, or rings that clients share.

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
}
