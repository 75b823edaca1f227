//! What a lane is made of, before any client has it.

use std::io;

use crate::ring::lane::LANE_SIZE;
use crate::shm::doorbell::{Doorbell, Listener};
use crate::shm::segment::{Mapping, Segment};

/// What a lane is made of.
pub(super) struct Parts {
    pub segment: Segment,
    pub mapping: Mapping,
    pub request_bell: Doorbell,
    pub response_bell: Doorbell,
    pub listener: Listener,
}

impl Parts {
    /// Makes a lane.
    pub fn make() -> io::Result<Self> {
        let segment = Segment::create("ringtable-lane", LANE_SIZE)?;
        let mapping = segment.map_writable()?;
        // While the pages are nobody's but ours: later a fault would wait for a client that has one in the works.
        mapping.populate();
        Self::with(segment, mapping, Doorbell::new()?, Doorbell::new()?)
    }

    /// A lane of these.
    pub fn with(
        segment: Segment,
        mapping: Mapping,
        request_bell: Doorbell,
        response_bell: Doorbell,
    ) -> io::Result<Self> {
        let listener = Listener::new(&response_bell)?;
        Ok(Self { segment, mapping, request_bell, response_bell, listener })
    }
}
