//! A lane on its way to its client: made, passed, and not served before the client has sealed it.

use std::io;
use std::os::fd::AsFd;

use super::end::{End, tell_failure};
use super::socket::Socket;
use super::store::Store;
use crate::command::known::Known;
use crate::ring::lane::{LANE_SIZE, Lane};
use crate::shm::descriptors;
use crate::shm::doorbell::{Doorbell, Listener};
use crate::shm::segment::{Mapping, Segment};
use crate::sync::Memory;

/// What a lane is made of.
pub(super) struct Parts {
    segment: Segment,
    mapping: Mapping,
    request_bell: Doorbell,
    response_bell: Doorbell,
    listener: Listener,
}

impl Parts {
    /// Makes a lane to be served by `worker`.
    pub fn make(worker: usize) -> io::Result<Self> {
        let segment = Segment::create("ringtable-lane", LANE_SIZE)?;
        let mapping = segment.map_writable()?;
        // While the pages are nobody's but ours: later a fault would wait for a client that has one in the works.
        mapping.populate();
        Lane::new(mapping.words()).create(worker);
        let (request_bell, response_bell) = (Doorbell::new()?, Doorbell::new()?);
        let listener = Listener::new(&response_bell)?;
        Ok(Self { segment, mapping, request_bell, response_bell, listener })
    }
}

/// A lane that a client was given and has not sealed yet: nobody looks at its memory.
///
/// Through its descriptor a client could punch holes into the lane, and a worker that touches a page would wait until
/// that is done; for seconds, if the client runs only when nobody else wants to. So it has to seal the lane strictly
/// once it has mapped it, and then rings. The worker asks the kernel for the seal. It does not set it itself, as that
/// waits for who is punching.
pub(super) struct Offer {
    segment: Segment,
    pub mapping: Mapping,
    pub socket: Socket,
    pub request_bell: Doorbell,
    pub response_bell: Doorbell,
}

impl Offer {
    /// Makes a lane and passes it to the client at the other end of `socket`. The doorbell that the client rings is
    /// given to `watch` before.
    pub fn make(
        socket: Socket,
        worker: usize,
        store: &Store,
        watch: impl FnOnce(&Doorbell) -> io::Result<()>,
    ) -> io::Result<Self> {
        let made = (|| -> io::Result<_> {
            let Parts { segment, mapping, request_bell, response_bell, listener } = Parts::make(worker)?;
            watch(&request_bell)?;
            let lane = segment.descriptor();
            let passed = [store.table_to_pass().as_fd(), lane.as_fd(), request_bell.as_fd(), listener.as_fd()];
            failpoint!("join.made");
            descriptors::send_all(&socket, format!("+LANE {}\r\n", Known::ours()).as_bytes(), &passed)?;
            drop(lane);
            Ok((segment, mapping, request_bell, response_bell))
        })();
        let (segment, mapping, request_bell, response_bell) =
            made.inspect_err(|error| tell_failure(&socket, "make a lane", error))?;
        Ok(Self { segment, mapping, socket, request_bell, response_bell })
    }

    /// Whether the client has kept its part.
    pub fn is_sealed(&self) -> bool {
        self.segment.is_strictly_sealed()
    }

    /// Whether the client lives.
    pub fn check_socket(&self) -> Result<(), End> {
        self.socket.check_silent()
    }

    /// Tells the client on its socket why the connection ends.
    pub fn say_goodbye(&self, end: End) {
        end.say_goodbye(&self.socket);
    }
}
