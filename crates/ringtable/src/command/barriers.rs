//! Barriers.
//!
//! They are the server's ([`super::host`]); here is how they are asked for, and answered.

use super::arguments::Arguments;
use super::atomic::{positive, short_key};
use super::context::Context;
use super::flow::ConnectionChange;
use super::host::Standing;
use super::refusal::Refusal;
use crate::limits;

/// The answer to a party that waits, and is not told later; and to one that leaves in time.
const WAITS: i64 = -1;

/// `RING.BARRIER name parties ticket [WAIT]`: how many parties were still to come, once all are here.
/// `RING.BARRIER name LEAVE ticket`: the party waits no more. `RING.BARRIER name`: how many wait.
pub(super) fn ring_barrier(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let name = short_key(arguments)?;
    match arguments.len() {
        1 => {
            let waiting = context.host.parties_waiting(name);
            context.reply.integer(waiting.cast_signed());
        }
        3 if arguments.get(1).eq_ignore_ascii_case(b"LEAVE") => {
            match context.host.leave(context.connection, name, positive(arguments.get(2))?) {
                Some(Standing::Waits(_)) => context.reply.integer(WAITS),
                Some(Standing::Passed(missing)) => context.reply.integer(missing.cast_signed()),
                None => context.reply.nil(),
            }
        }
        3 => come(context, name, arguments, false)?,
        4 if arguments.get(3).eq_ignore_ascii_case(b"WAIT") => come(context, name, arguments, true)?,
        _ => return Err(Refusal::err("syntax error")),
    }
    Ok(())
}

fn come(context: &mut Context<'_>, name: &[u8], arguments: Arguments<'_>, waits: bool) -> Result<(), Refusal> {
    let (parties, ticket) = (positive(arguments.get(1))?, positive(arguments.get(2))?);
    if parties > limits::BARRIER_PARTIES_MAX as u64 {
        let most = limits::BARRIER_PARTIES_MAX;
        return Err(Refusal::err(format_args!("a barrier of {parties} parties; at most {most} are allowed")));
    }
    if waits && context.recipient.is_none() {
        return Err(Refusal::err(
            "RING.BARRIER with WAIT needs a lane or a socket: who shares rings cannot be told later",
        ));
    }
    let recipient = context.recipient.filter(|_| waits);
    match context.host.come(context.connection, name, parties, ticket, recipient)? {
        Standing::Passed(missing) => context.reply.integer(missing.cast_signed()),
        Standing::Waits(_) if waits => context.change = Some(ConnectionChange::Pending(ticket)),
        Standing::Waits(_) => context.reply.integer(WAITS),
    }
    Ok(())
}
