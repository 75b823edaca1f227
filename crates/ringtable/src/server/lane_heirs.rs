//! The lanes of a server that is dead, as the next one finds them.

use std::io;

use super::inheritance::InheritedLane;
use super::lane_parts::Parts;
use super::notes::{Noted, Notes};
use crate::ring::lane::{LANE_SIZE, Lane};
use crate::shm::doorbell::Doorbell;
use crate::shm::fork::Descriptor;
use crate::shm::segment::{Mapping, Segment};
use crate::sync::{Memory, Ordering};
use crate::table::commits::Commits;

/// The lane of a client.
pub(super) struct HeirLane {
    /// Its number at the keeper.
    pub lane: usize,
    pub noted: Noted,
    /// What was committed of the request in hand.
    pub commits: Commits,
    pub segment: Segment,
    pub mapping: Mapping,
    pub request_bell: Doorbell,
    pub response_bell: Doorbell,
    pub socket: Descriptor,
}

impl HeirLane {
    /// What its client pins, if that counts.
    pub fn pins(&self) -> impl Iterator<Item = u64> {
        let pins = Lane::new(self.mapping.words()).pins().iter().filter(|_| self.noted.has_pins);
        // Relaxed: nonsense is looked for where it is used. A client that pins meanwhile finds its entry in a bucket.
        pins.map(|pin| pin.load(Ordering::Relaxed)).filter(|&pin| pin != 0)
    }
}

/// Tells the lanes of clients from those that are prepared for clients to come. One that was given away without a note
/// is let go of: its client has heard nothing yet, and its socket closes.
///
/// # Errors
/// Those of the system.
#[allow(clippy::type_complexity)]
pub(super) fn sort(lanes: Vec<InheritedLane>, notes: &Notes) -> io::Result<(Vec<HeirLane>, Vec<(usize, Parts)>)> {
    let (mut heirs, mut prepared) = (Vec::new(), Vec::new());
    for InheritedLane { lane, memory, segment, request_bell, response_bell, socket } in lanes {
        let descriptor = |fd| Descriptor::make(|| Ok(fd));
        let (mapping, segment) = (memory.take_over()?, Segment::from_foreign(descriptor(segment)?)?);
        if lane >= notes.lanes() || segment.size() != LANE_SIZE || mapping.words().len() * 8 != LANE_SIZE {
            return Err(io::Error::other(format!("lane {lane} has {} bytes", segment.size())));
        }
        let (request_bell, response_bell) = (descriptor(request_bell)?, descriptor(response_bell)?);
        let [request_bell, response_bell] = [request_bell, response_bell].map(Doorbell::from_foreign);
        match (socket, notes.read(lane)) {
            (Some(socket), Some(noted)) => heirs.push(HeirLane {
                lane,
                noted,
                commits: Commits::default(),
                segment,
                mapping,
                request_bell,
                response_bell,
                socket: descriptor(socket)?,
            }),
            (None, _) => prepared.push((lane, Parts::with(segment, mapping, request_bell, response_bell)?)),
            (Some(_), None) => {}
        }
    }
    Ok((heirs, prepared))
}
