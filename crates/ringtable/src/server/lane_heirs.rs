//! The lanes of a server that is dead, as the next one finds them.

use std::io;

use super::end::End;
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
    /// Unless it is known to be sealed.
    pub segment: Option<Segment>,
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

/// What another server has left of lanes.
#[derive(Default)]
pub(super) struct Sorted {
    /// Those of clients.
    pub heirs: Vec<HeirLane>,
    /// Those that are prepared for clients to come, by their numbers.
    pub prepared: Vec<(usize, Parts)>,
    /// Those that cannot be served any more, with what their clients are to be told: their numbers and sockets.
    pub ended: Vec<(usize, Descriptor, End)>,
}

/// Tells them apart.
///
/// # Errors
/// Those of the system.
pub(super) fn sort(lanes: Vec<InheritedLane>, notes: &Notes) -> io::Result<Sorted> {
    let mut sorted = Sorted::default();
    for InheritedLane { lane, memory, segment, request_bell, response_bell, socket } in lanes {
        let descriptor = |fd| Descriptor::make(|| Ok(fd));
        let mapping = memory.take_over()?;
        let segment = segment.map(|segment| Segment::from_foreign(descriptor(segment)?)).transpose()?;
        let size = segment.as_ref().map_or(LANE_SIZE, Segment::size);
        if lane >= notes.lanes() || size != LANE_SIZE || mapping.size() != LANE_SIZE {
            return Err(io::Error::other(format!("lane {lane} has {} bytes", size.min(mapping.size()))));
        }
        let (request_bell, response_bell) = (descriptor(request_bell)?, descriptor(response_bell)?);
        let [request_bell, response_bell] = [request_bell, response_bell].map(Doorbell::from_foreign);
        let Some(socket) = socket else {
            if let Some(segment) = segment {
                sorted.prepared.push((lane, Parts::with(segment, mapping, request_bell, response_bell)?));
            }
            continue;
        };
        let socket = descriptor(socket)?;
        // Asked for once: a client that has got its lane may seal it now.
        let is_sealed = segment.as_ref().is_none_or(Segment::is_strictly_sealed);
        match notes.read(lane) {
            // Its client may never have heard of it, and would wait for ever; or it comes too late, though it may have
            // asked already: no server has looked at a lane that is not sealed.
            _ if !is_sealed => sorted.ended.push((lane, socket, End::Unheard)),
            None => sorted.ended.push((lane, socket, End::Broken)),
            Some(noted) => sorted.heirs.push(HeirLane {
                lane,
                noted,
                commits: Commits::default(),
                segment,
                mapping,
                request_bell,
                response_bell,
                socket,
            }),
        }
    }
    Ok(sorted)
}
