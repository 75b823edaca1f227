//! Clients that pin entries of the table, for their views: from when on, and until when, their pins count.
//!
//! A client's pins count from its `RING.PINS` until its socket is closed (I1). So they do if it is we who have ended
//! the connection: what it has asked is over then, but its views are not, and their bytes must not change.
//!
//! What pins have kept in the retire list is freed when a client is gone, and when somebody looks again: while there is
//! anything there, each worker that is awake does so from time to time.

use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::net::Shutdown;

use super::end::End;
use super::estate::LaneRemains;
use super::socket::Socket;
use crate::ring::lane::Lane;
use crate::shm::clock::monotonic_ns;
use crate::shm::doorbell::{Doorbell, timespec};
use crate::shm::segment::Mapping;
use crate::sync::{AtomicU64, Memory};
use crate::table::Writer;
use crate::table::hints::AccessLog;
use crate::table::reclaim::{HazardRecord, HazardRecordId};

/// How often a worker looks whether what is in the retire list is still read by anybody.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The pins in a lane, which stay readable as long as they count.
pub(super) struct LanePins(pub Arc<Mapping>);

impl HazardRecord for LanePins {
    fn pins(&self) -> &[AtomicU64] {
        Lane::new(self.0.words()).pins()
    }
}

impl AccessLog for LanePins {
    fn tail(&self) -> &AtomicU64 {
        Lane::new(self.0.words()).hint_tail()
    }

    fn hints(&self) -> &[AtomicU64] {
        Lane::new(self.0.words()).hints()
    }

    fn taken(&self) -> &AtomicU64 {
        Lane::new(self.0.words()).hints_taken()
    }
}

/// A client that we serve no more, and that is still there.
pub(super) struct Lingering {
    socket: Socket,
    pub hazards: HazardRecordId,
    /// Its lane, for whoever comes after this server.
    mapping: Arc<Mapping>,
    bells: [Doorbell; 2],
}

impl Lingering {
    /// Keeps the socket of a client that was told why its connection ends.
    pub fn new(socket: Socket, hazards: HazardRecordId, mapping: Arc<Mapping>, bells: [Doorbell; 2]) -> Self {
        let _ = rustix::net::shutdown(&socket, Shutdown::Write);
        Self { socket, hazards, mapping, bells }
    }

    /// What another server needs to keep its views, if the lane is one that outlives this server.
    pub fn leave(self) -> Option<LaneRemains> {
        let Self { socket, mapping, bells: [request_bell, response_bell], .. } = self;
        let (lane, socket) = socket.leave()?;
        Some(LaneRemains { lane, mapping, segment: None, request_bell, response_bell, socket })
    }

    /// Whether the client is there. What it may still be saying is not read.
    pub fn check(&self) -> Result<(), End> {
        let mut socket = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        match rustix::event::poll(&mut socket, Some(&timespec(Duration::ZERO))) {
            Ok(0) | Err(_) => Ok(()),
            Ok(_) => Err(End::Gone),
        }
    }
}

/// Takes back what was in the retire list and is read by nobody any more, if it is time to look. `looked_ns` is when
/// that was done last. Returns for how long the worker may sleep if nobody wakes it; `None` if there is nothing to look
/// after.
///
/// Whoever puts something into the retire list is awake, and so looks at it afterwards; workers that sleep need not
/// know.
pub(super) fn tend_retired(writer: &mut Writer<Mapping>, looked_ns: &mut u64) -> Option<Duration> {
    if writer.table().reclaimer().entries_retired() == 0 {
        return None;
    }
    let now = monotonic_ns();
    if now.saturating_sub(*looked_ns) >= LOOK_EVERY.as_nanos() as u64 {
        *looked_ns = now;
        writer.rescan();
    }
    (writer.table().reclaimer().entries_retired() > 0).then_some(LOOK_EVERY)
}
