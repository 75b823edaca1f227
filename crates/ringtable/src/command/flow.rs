//! What follows a command: whether it goes on, and what changes about its connection.

use super::protocol::Protocol;

/// What the connection does next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// It goes on with the next request.
    #[default]
    Next,
    /// It executes the request again at the client's next turn, with the progress that it has made; there is no reply
    /// yet. If its value is [`super::streamed::Streamed::is_waiting`], not before it is not.
    Again,
    /// It closes once the reply is sent.
    Close,
}

/// What changes about a connection. The command has written no reply: the connection answers, once it has done so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionChange {
    /// It speaks this version of RESP, from this reply on: [`super::connection::greet`].
    Protocol(Protocol),
    /// The pins in the client's lane count.
    Pins,
    /// It becomes another kind of connection.
    Upgrade(Upgrade),
    /// It is told the answer with this ticket later: [`super::pending`].
    Pending(u64),
}

/// The kinds of connections that a client asks for over a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// A lane.
    Lane,
    /// Membership of the rings of a classic topology.
    Rings,
    /// A watch of changes.
    Watch,
}
