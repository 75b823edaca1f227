//! A lane on its way to its client: made, passed, and not served before the client has sealed it.

use std::io;
use std::os::fd::AsFd;

use super::end::{End, tell_failure};
use super::estate::LaneRemains;
use super::keeper::Keeper;
use super::lane_parts::Parts;
use super::notes::Note;
use super::socket::Socket;
use super::store::Store;
use crate::command::known::Known;
use crate::ring::lane::Lane;
use crate::shm::descriptors;
use crate::shm::doorbell::Doorbell;
use crate::shm::segment::{Mapping, Segment};
use crate::sync::{Arc, Memory};

/// A lane that a client was given and has not sealed yet: nobody looks at its memory.
///
/// Through its descriptor a client could punch holes into the lane, and a worker that touches a page would wait until
/// that is done; for seconds, if the client runs only when nobody else wants to. So it has to seal the lane strictly
/// once it has mapped it, and then rings. The worker asks the kernel for the seal. It does not set it itself, as that
/// waits for who is punching.
pub(super) struct Offer {
    /// Its memory as a segment, unless that is known to be sealed.
    pub segment: Option<Segment>,
    pub mapping: Mapping,
    pub socket: Socket,
    pub request_bell: Doorbell,
    pub response_bell: Doorbell,
    /// How far the lane has come, for whoever comes after this server.
    pub note: Option<Note>,
}

impl Offer {
    /// Makes a lane and passes it to the client at the other end of `socket`, which has that connection number. The
    /// doorbell that the client rings is given to `watch` before, and all of it to the keeper, if there is one.
    pub fn make(
        mut socket: Socket,
        (connection, worker): (u64, usize),
        store: &Store,
        keeper: Option<&Arc<Keeper>>,
        watch: impl FnOnce(&Doorbell) -> io::Result<()>,
    ) -> io::Result<Self> {
        let made = (|| -> io::Result<_> {
            let (kept, parts) = match keeper.map(|keeper| keeper.serve(&socket)).transpose()?.flatten() {
                Some((kept, parts)) => (Some(kept), parts),
                None => (None, Parts::make()?),
            };
            failpoint!("join.kept");
            let Parts { segment, mapping, request_bell, response_bell, listener } = parts;
            let note = kept.as_ref().map(|kept| Note::begin(kept.notes(), kept.lane, connection, worker));
            socket.kept = kept;
            Lane::new(mapping.words()).create(worker);
            watch(&request_bell)?;
            let lane = segment.descriptor();
            let passed = [store.table_to_pass().as_fd(), lane.as_fd(), request_bell.as_fd(), listener.as_fd()];
            failpoint!("join.made");
            descriptors::send_all(&socket, format!("+LANE {}\r\n", Known::ours()).as_bytes(), &passed)?;
            drop(lane);
            Ok((segment, mapping, request_bell, response_bell, note))
        })();
        let (segment, mapping, request_bell, response_bell, note) =
            made.inspect_err(|error| tell_failure(&socket, "make a lane", error))?;
        Ok(Self { segment: Some(segment), mapping, socket, request_bell, response_bell, note })
    }

    /// Whether the client has kept its part.
    pub fn is_sealed(&self) -> bool {
        self.segment.as_ref().is_none_or(Segment::is_strictly_sealed)
    }

    /// Whether the client lives.
    pub fn check_socket(&self) -> Result<(), End> {
        self.socket.check_silent()
    }

    /// What another server needs to go on with it, if the lane is one that outlives this server.
    pub fn leave(self) -> Option<LaneRemains> {
        let Self { segment, mapping, socket, request_bell, response_bell, .. } = self;
        let (lane, socket) = socket.leave()?;
        Some(LaneRemains { lane, mapping: Arc::new(mapping), segment, request_bell, response_bell, socket })
    }

    /// Tells the client on its socket why the connection ends.
    pub fn say_goodbye(&self, end: End) {
        end.say_goodbye(&self.socket);
    }
}
