//! The lanes of a server that is dead, as the next one finds them.

use std::io;

use super::end::End;
use super::inheritance::InheritedLane;
use super::lane_parts::Parts;
use super::notes::{Noted, Notes};
use crate::command::{Command, record};
use crate::limits;
use crate::ring::lane::{LANE_SIZE, Lane};
use crate::ring::spsc::{Consumer, Ring};
use crate::shm::doorbell::Doorbell;
use crate::shm::fork::Descriptor;
use crate::shm::segment::{Mapping, Segment};
use crate::sync::{Memory, Ordering, as_uninit};
use crate::table::Table;
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

    /// Has logged once more what the keys have come to of requests that were done, and whose replies nobody has seen:
    /// the server may have died before it had logged that. Returns whether there are any.
    ///
    /// What the ring has is the client's word. If it is another one than before, it is what that has asked for which is
    /// not on the disk.
    pub fn log_again(&self, table: &Table<Mapping>) -> bool {
        let Noted { head, unsynced, .. } = self.noted;
        let is_done = self.noted.is_in_hand && self.commits.count > 0;
        let ring = Lane::new(self.mapping.words()).requests();
        let mut requests = Consumer::looking_from(unsynced.unwrap_or(head));
        let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
        while requests.head() < head + u64::from(is_done) {
            let read = next_record(&mut requests, ring, &mut bytes);
            let Some(command) = read.and_then(|()| Command::of_record(&bytes, &mut ranges)) else { break };
            for index in command.spec.keys_among(command.arguments.len()) {
                table.note_again(command.arguments.get(index));
            }
        }
        is_done || unsynced.is_some()
    }
}

/// Reads the next request of a ring, of which all is there, into `bytes`; `None` if there is nonsense.
pub(super) fn next_record(requests: &mut Consumer, ring: Ring<'_>, bytes: &mut Vec<u8>) -> Option<()> {
    requests.available(ring, record::HEADER_SIZE).ok().filter(|&available| available >= record::HEADER_SIZE)?;
    let size = record::record_size(requests.peek(ring), limits::LANE_RING_SIZE).ok()?;
    requests.available(ring, size).ok().filter(|&available| available >= size)?;
    bytes.resize(size, 0);
    requests.read(ring, as_uninit(bytes));
    Some(())
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
