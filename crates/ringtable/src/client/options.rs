//! What a client is made with: where its reads go, how it talks to the server, whom it trusts.

use std::time::Duration;

use crate::folder::Trust;

/// Where reads go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// To the table itself, in place. Over a plain socket, to the server all the same.
    #[default]
    Direct,
    /// To the server, as requests.
    Server,
}

/// How to talk to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Over shared memory, if the server has any for its clients (a lane, or rings), else over the socket, as over TCP.
    #[default]
    Auto,
    /// Over a lane, or not at all.
    Lane,
    /// Over the rings of a classic topology, or not at all.
    Rings,
    /// Over the socket.
    Socket,
    /// Over UDP, as the address says: never asked for.
    Udp,
}

/// What a client is made with.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where reads go.
    pub reads: Reads,
    /// How to talk to the server.
    pub transport: Transport,
    /// Whether a call that finds the server gone goes on with whichever one listens there then, see [`super::repeat`],
    /// and the calls that follow one that was told so, or was expelled, connect anew. Else they end in the same way.
    pub reconnect: bool,
    /// For how long to wait for a server, if there is none. A call with a time-out waits for that long instead, unless
    /// it is the first one, which connects.
    pub wait: Option<Duration>,
    /// Whose servers it connects to, at unix sockets; TCP ports tell nobody whose they are.
    pub trust: Trust,
}
