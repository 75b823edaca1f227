//! The end of a connection: its reason, and the last words that a client hears of it.

use std::io;
use std::os::fd::AsFd;

use rustix::net::SendFlags;

use crate::shm::shortage;

/// Why a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client said so.
    Quit,
    /// Its socket was closed: the client ended, or was killed.
    Gone,
    /// It sent what no honest client sends: malformed RESP, or bytes on the socket of a lane.
    Protocol,
    /// It passed descriptors, which is refused where the kernel does not do that (Linux before 6.16).
    Descriptors,
    /// A position in its lane was out of range.
    Position,
    /// A record in its lane, or its pieces in a queue, was malformed.
    Record,
    /// A slot of a queue, claimed by it, held nonsense.
    Slot,
    /// It kept others from getting replies for too long.
    SlowConsumer,
    /// To wake it took too much time, again and again.
    Expensive,
    /// It rang for a lane that it had not sealed.
    Unsealed,
    /// Its unfinished requests would have taken more memory than all of them may.
    Memory,
    /// More of its requests waited than may, since it did not read the replies to those before.
    Backlog,
    /// A server died in the middle of its request, or of a reply.
    Broken,
    /// A server died before its client had sealed the lane: nothing in it was looked at.
    Unheard,
    /// What it has written could not be brought to the disk.
    Undurable,
    /// The server is stopping.
    Stopped,
    /// There was no place for it but the reserved one; it counts as refused.
    Full,
}

/// The reasons that are counted, with the names of their figures.
pub(super) const COUNTED: [(End, &str); 16] = [
    (End::Quit, "clients_quit"),
    (End::Gone, "clients_gone"),
    (End::Protocol, "clients_ended_protocol"),
    (End::Descriptors, "clients_ended_descriptors"),
    (End::Position, "clients_ended_position"),
    (End::Record, "clients_ended_record"),
    (End::Slot, "clients_ended_slot"),
    (End::SlowConsumer, "clients_ended_slow_consumer"),
    (End::Expensive, "clients_ended_expensive"),
    (End::Unsealed, "clients_ended_unsealed"),
    (End::Memory, "clients_ended_memory"),
    (End::Backlog, "clients_ended_backlog"),
    (End::Broken, "clients_ended_broken"),
    (End::Unheard, "clients_ended_unheard"),
    (End::Undurable, "clients_ended_undurable"),
    (End::Stopped, "clients_ended_stop"),
];

impl End {
    /// Tells a client whose socket is silent otherwise why its connection ends.
    pub fn say_goodbye(self, socket: impl AsFd) {
        let reason = match self {
            // One that has sent too much ahead was told as a reply; one that is expensive to wake would be woken once
            // more.
            Self::Quit | Self::Gone | Self::Backlog | Self::Expensive | Self::Full => return,
            Self::Stopped => "SHUTDOWN the server has stopped",
            Self::Broken => "SHUTDOWN the server died in the middle of a request, or of the reply to it",
            Self::Undurable => {
                "SHUTDOWN the log has failed: what was written is in the table, and may not be on the disk"
            }
            Self::Unheard => "REJOIN the server died before it served this client",
            Self::Protocol => "PROTOCOL bytes on a socket that is but a sign of life",
            Self::Descriptors => "PROTOCOL this server takes no descriptors",
            Self::Position => "PROTOCOL a position in the lane is out of range",
            Self::Record => "PROTOCOL a malformed record",
            Self::Slot => "PROTOCOL nonsense in a slot of the request queue",
            Self::SlowConsumer => {
                "SLOWCONSUMER this client has kept all others from getting replies for longer than \
                 --slow-consumer-timeout: connect again"
            }
            Self::Unsealed => "PROTOCOL a lane that its client has not sealed",
            Self::Memory => "OOM unfinished requests of all clients together take too much memory",
        };
        send_now(socket, reason);
    }
}

/// Sends an error as the last words, without waiting: a full socket means that nobody reads anyway.
pub(super) fn send_now(socket: impl AsFd, words: &str) {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let _ = rustix::net::send(socket, format!("-{words}\r\n").as_bytes(), flags);
}

/// Tells a client what the server cannot do for it, and why.
pub(super) fn tell_failure(socket: impl AsFd, to_do: &str, error: &io::Error) {
    let code = match error.kind() {
        // The client asks again.
        io::ErrorKind::ResourceBusy => "KEEPER",
        _ if shortage::is_shortage(error) => "LIMIT",
        _ => "ERR",
    };
    send_now(socket, &format!("{code} the server cannot {to_do}: {}", shortage::in_words(error)));
}
