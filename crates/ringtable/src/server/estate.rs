//! What a server leaves to its own process, which is to be the keeper of the next one.
//!
//! # Design
//!
//! A keeper that dies takes with it what only it could give to a later server: lanes that are mapped, for a process
//! that is forked. The server has them mapped, too. So it resigns ([`super::resignation`]) as for an upgrade, but in
//! its own favour: once all its threads have ended, and all notes are at rest, its process is what a keeper is, a
//! process without threads that has everything. It forks the next server.
//!
//! # Invariants
//!
//! - Of a server that has taken its estate nothing is done any more: what it had open is closed, but for the estate,
//!   and its handles are those of a parent ([`crate::shm::fork::begin_anew`]).
//!
//! # Not promised
//!
//! Its private memory, and its mapping of the table, stay with the process until that ends.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use super::held::Held;
use crate::shm::doorbell::Doorbell;
use crate::shm::fork::Descriptor;
use crate::shm::segment::{Mapping, Segment};
use crate::sync::lock;

/// What a server leaves.
#[derive(Debug)]
pub struct Estate {
    /// What belongs to the server as a whole.
    pub held: Vec<(Held, OwnedFd)>,
    /// The lanes of its clients.
    pub lanes: Vec<LeftLane>,
    /// How many servers there were before it.
    pub restarts: u64,
    /// How many of these were upgraded.
    pub upgrades: u64,
    /// Whether it was told to end: then the next one is.
    pub is_told_to_end: bool,
}

/// A lane, as it is left.
#[derive(Debug)]
pub struct LeftLane {
    /// Its number.
    pub lane: usize,
    /// Where its memory begins, which children keep, and its bytes.
    pub memory: (usize, usize),
    /// The memory as a segment, unless its client has sealed it.
    pub segment: Option<OwnedFd>,
    /// What the client rings.
    pub request_bell: OwnedFd,
    /// What the server rings.
    pub response_bell: OwnedFd,
    /// The client's socket.
    pub socket: OwnedFd,
}

/// What a worker has of a lane at its end.
pub(super) struct LaneRemains {
    pub lane: usize,
    pub mapping: Arc<Mapping>,
    pub segment: Option<Segment>,
    pub request_bell: Doorbell,
    pub response_bell: Doorbell,
    pub socket: Descriptor,
}

/// Lanes that workers have left, until they are taken.
#[derive(Default)]
pub(super) struct LeftLanes(Mutex<Vec<LaneRemains>>);

impl LeftLanes {
    /// Leaves a lane.
    pub fn add(&self, remains: LaneRemains) {
        lock(&self.0).push(remains);
    }

    /// Takes all of them. One whose memory the system does not let children have is left out: its client is told by the
    /// end of its socket.
    pub fn take(&self) -> Vec<LeftLane> {
        let remains = std::mem::take(&mut *lock(&self.0));
        let left = remains.into_iter().filter_map(|remains| {
            let LaneRemains { lane, mapping, segment, request_bell, response_bell, socket } = remains;
            mapping.inherit().ok()?;
            let size = mapping.size();
            // Others in this process may have it, too; nobody lets go of it any more.
            let memory = (std::mem::ManuallyDrop::new(mapping).start(), size);
            Some(LeftLane {
                lane,
                memory,
                segment: segment.map(|segment| segment.into_descriptor().release()),
                request_bell: request_bell.into_descriptor().release(),
                response_bell: response_bell.into_descriptor().release(),
                socket: socket.release(),
            })
        });
        left.collect()
    }
}
