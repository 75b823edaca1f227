//! What a connection has to do after a command.

use super::protocol::Protocol;

/// What the connection has to do besides sending the reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    #[default]
    None,
    /// Close once the reply is sent.
    Close,
    /// Speak this version of RESP, beginning with the reply to this command, which has written none:
    /// [`super::connection::greet`].
    Protocol(Protocol),
    /// Answer with a lane; the command has written no reply.
    Lane,
    /// Let the client join the rings of a classic topology; the command has written no reply.
    Rings,
    /// Answer with a watch; the command has written no reply.
    Watch,
    /// Let the pins in the client's lane count before the reply is sent; the command has written no reply.
    Pins,
    /// Execute the request again at the client's next turn, with the progress it has made; it has written no reply. If
    /// its value is [`super::streamed::Streamed::is_waiting`], not before it is not.
    Again,
}
