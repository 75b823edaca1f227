//! Replies that come later: what a connection says at once, and what it says then.
//!
//! A command that cannot be answered yet writes nothing, and asks its connection to say so
//! ([`super::flow::ConnectionChange::Pending`]). The connection goes on, and the answer comes as a *push*, which is no
//! reply to any request: the client knows by the *ticket*, a number that it has given, what is answered.
//!
//! ```text
//! at once    PENDING ticket                 a status, in place of the reply
//! later      ring.answer, ticket, answer    a push: a string, an integer, and what the reply would have been
//! ```
//!
//! A nil in place of the answer, with ticket 0, is for all that a connection waits for: it has to ask again.
//!
//! Version 2 of RESP has no pushes. A connection that speaks it says nothing at once, executes nothing more, and gets
//! the reply later: it is *parked*.

use super::reply::ReplyWriter;

/// The name of the push.
pub const ANSWER: &str = "ring.answer";
/// In place of a ticket: of all that this connection waits for.
pub const ALL: u64 = 0;
/// What the status begins with; the ticket follows.
const PENDING: &str = "PENDING ";

/// Says that the answer comes later.
pub fn postpone(reply: &mut dyn ReplyWriter, ticket: u64) {
    reply.status(&format!("{PENDING}{ticket}"));
}

/// Whether a status says that the answer comes later.
pub fn is_postponed(status: &str) -> bool {
    status.starts_with(PENDING)
}

/// Announces an answer that comes later. It has to follow.
pub fn announce(reply: &mut dyn ReplyWriter, ticket: u64) {
    reply.push(3);
    reply.bulk(ANSWER.as_bytes());
    reply.integer(ticket.cast_signed());
}

/// Announces, and says, to whoever waits for any answer that it has to ask again: the server that knew of that is dead.
pub fn announce_restart(reply: &mut dyn ReplyWriter) {
    announce(reply, ALL);
    reply.nil();
}

/// The answer itself: the token of what the client has been granted, or OK.
pub fn answer(reply: &mut dyn ReplyWriter, token: Option<u64>) {
    match token {
        Some(token) => reply.integer(token.cast_signed()),
        None => reply.ok(),
    }
}
