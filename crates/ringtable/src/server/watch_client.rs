//! A client that watches the table's changes, as the server sees it: its connection.
//!
//! The events themselves are in a ring that the client reads in place (`table::events`). All that it can write is one
//! word of a segment of its own: whether it sleeps. A lie there costs a ring of its doorbell, or its own sleep.

use std::io;
use std::os::fd::AsFd;

use super::end::{End, send_now, tell_failure};
use super::socket::Socket;
use super::store::Store;
use super::watchers::Sleeper;
use crate::shm::descriptors;
use crate::shm::segment::Mapping;
use crate::sync::Arc;
use crate::table::Writer;

/// A watcher's connection. It is counted, and in the registry, exactly as long as this lives (I1).
pub(super) struct WatchClient {
    socket: Socket,
    store: Arc<Store>,
    sleeper: Arc<Sleeper>,
}

impl WatchClient {
    /// Lets the client at the other end of `socket` watch from now on.
    pub fn create(socket: Socket, store: &Arc<Store>, writer: &mut Writer<Mapping>) -> io::Result<Self> {
        let made = Sleeper::make();
        if let Err(error) = &made {
            tell_failure(&socket, "make a watch", error);
        }
        let (sleeper, listener) = made?;
        let start = writer.watch().map_err(|error| {
            let words = format!(
                "OOM a watch needs a ring of events in the table: {error}; delete something, or start the server with \
                 a larger --max-memory"
            );
            send_now(&socket, &words);
            io::Error::other(error)
        })?;
        // From here on its drop undoes what was done.
        let client = Self { socket, store: Arc::clone(store), sleeper: Arc::new(sleeper) };
        store.watchers.add(&client.sleeper);
        failpoint!("join.watching");
        let message = format!("+WATCH {} {}\r\n", start.position, start.sequence);
        let segment = client.sleeper.descriptor();
        let passed = [store.table_to_pass().as_fd(), segment.as_fd(), listener.as_fd()];
        let sent = descriptors::send_all(&client.socket, message.as_bytes(), &passed);
        sent.inspect_err(|error| tell_failure(&client.socket, "make a watch", error))?;
        drop(segment);
        Ok(client)
    }

    /// The socket says nothing but that the watcher lives: anything else ends the connection.
    pub fn check_socket(&self) -> Result<(), End> {
        self.socket.check_silent()
    }

    /// Tells the watcher on its socket why the connection ends.
    pub fn say_goodbye(&self, end: End) {
        end.say_goodbye(&self.socket);
    }
}

impl Drop for WatchClient {
    fn drop(&mut self) {
        self.store.watchers.remove(&self.sleeper);
        self.store.table.unwatch();
    }
}
