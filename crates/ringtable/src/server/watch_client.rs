//! A client that watches the table's changes, as the server sees it: a place in the list of those to wake.
//!
//! The events themselves are in a ring that the client reads in place (`table::events`). All that it can write is one
//! word of a segment of its own: whether it sleeps. A lie there costs a ring of its doorbell, or its own sleep.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::Shared;
use super::lane_client::check_silent;
use super::socket::Socket;
use super::statistics::{End, send_now, tell_failure};
use super::waking::Waking;
use crate::ring::lane;
use crate::shm::descriptors;
use crate::shm::doorbell::{Doorbell, Listener};
use crate::shm::segment::{Mapping, Segment};
use crate::sync::{Memory, lock};
use crate::table::Writer;

/// Bytes of a watcher's segment, of which one word is used: a page.
const SEGMENT_SIZE: usize = 4_096;

/// What it takes to wake a watcher.
struct Sleeper {
    segment: Segment,
    state: Mapping,
    /// Whether we have seen that the watcher has sealed its segment strictly: see `lane_client::Offer`.
    sealed: AtomicBool,
    bell: Doorbell,
}

impl Sleeper {
    /// Whether it is to be rung. One that has not sealed its segment is, always: that memory is not looked at.
    fn must_be_rung(&self) -> bool {
        // Relaxed: who finds it unset asks the kernel.
        if !self.sealed.load(Ordering::Relaxed) {
            if !self.segment.is_strictly_sealed() {
                return true;
            }
            self.sealed.store(true, Ordering::Relaxed);
        }
        lane::must_ring(&self.state.words()[0])
    }
}

/// All watchers of a server. Workers look here only when they have published something.
#[derive(Default)]
pub(super) struct Registry(Mutex<Vec<(Arc<Sleeper>, Waking)>>);

impl Registry {
    /// Wakes the watchers that sleep; to be called after publishing. Returns how many did. One that is too dear to wake
    /// is woken no more.
    pub fn ring_sleepers(&self) -> u64 {
        let mut rung = 0;
        lock(&self.0).retain_mut(|(sleeper, waking)| {
            let must_be_rung = sleeper.must_be_rung();
            rung += u64::from(must_be_rung);
            !must_be_rung || waking.measured(|| sleeper.bell.ring()).is_ok()
        });
        rung
    }
}

/// A watcher's connection. It is counted, and in the registry, exactly as long as this lives (I1).
pub(super) struct WatchClient {
    socket: Socket,
    shared: Arc<Shared>,
    sleeper: Arc<Sleeper>,
}

impl WatchClient {
    /// Lets the client at the other end of `socket` watch from now on.
    pub fn create(socket: Socket, shared: &Arc<Shared>, writer: &mut Writer<Mapping>) -> io::Result<Self> {
        let made = (|| -> io::Result<_> {
            let segment = Segment::create("ringtable-watch", SEGMENT_SIZE)?;
            let state = segment.map_writable()?;
            state.populate();
            let bell = Doorbell::new()?;
            let listener = Listener::new(&bell)?;
            Ok((listener, Arc::new(Sleeper { segment, state, sealed: AtomicBool::new(false), bell })))
        })();
        if let Err(error) = &made {
            tell_failure(&socket, "make a watch", error);
        }
        let (listener, sleeper) = made?;
        let start = writer.watch().map_err(|error| {
            let words = format!(
                "OOM a watch needs a ring of events in the table: {error}; delete something, or start the server with \
                 a larger --max-memory"
            );
            send_now(&socket, &words);
            io::Error::other(error)
        })?;
        // From here on its drop undoes what was done.
        let client = Self { socket, shared: Arc::clone(shared), sleeper };
        lock(&shared.watchers.0).push((Arc::clone(&client.sleeper), Waking::default()));
        failpoint!("join.watching");
        let message = format!("+WATCH {} {}\r\n", start.position, start.sequence);
        let segment = client.sleeper.segment.descriptor();
        let passed = [shared.table_to_pass().as_fd(), segment.as_fd(), listener.as_fd()];
        let sent = descriptors::send_all(&client.socket, message.as_bytes(), &passed);
        sent.inspect_err(|error| tell_failure(&client.socket, "make a watch", error))?;
        drop(segment);
        Ok(client)
    }

    /// The socket says nothing but that the watcher lives: anything else ends the connection.
    pub fn check_socket(&self) -> Result<(), End> {
        check_silent(&self.socket)
    }

    /// Tells the watcher on its socket why the connection ends.
    pub fn say_goodbye(&self, end: End) {
        end.say_goodbye(&self.socket);
    }
}

impl Drop for WatchClient {
    fn drop(&mut self) {
        lock(&self.shared.watchers.0).retain(|(sleeper, _)| !Arc::ptr_eq(sleeper, &self.sleeper));
        self.shared.table.events().unwatch();
    }
}
