//! Locks and semaphores, and waiting for a key to change.
//!
//! All of it is the server's ([`super::host`]); here is how it is asked for, and answered.

use super::arguments::{Arguments, not_an_integer};
use super::atomic::{positive, short_key};
use super::context::Context;
use super::flow::ConnectionChange;
use super::host::{LeaseName, LockAnswer, LockRequest};
use super::integer::parse_cursor;
use super::lookup::version_of;
use super::refusal::Refusal;
use crate::limits;

/// `RING.LOCK name ticket permits [PX milliseconds] [WAIT]`: the token, or 0 if all permits are taken; with `WAIT` it
/// is told later then.
pub(super) fn ring_lock(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let (name, ticket, permits) = (short_key(arguments)?, positive(arguments.get(1))?, positive(arguments.get(2))?);
    if permits > limits::LOCKS_MAX as u64 {
        let most = limits::LOCKS_MAX;
        return Err(Refusal::err(format_args!("{permits} permits were asked for; at most {most} are allowed")));
    }
    let (mut ttl_ms, mut waits, mut index) = (None, false, 3);
    while index < arguments.len() {
        let option = arguments.get(index);
        if option.eq_ignore_ascii_case(b"WAIT") && !waits {
            waits = true;
        } else if option.eq_ignore_ascii_case(b"PX") && ttl_ms.is_none() && index + 1 < arguments.len() {
            index += 1;
            ttl_ms = Some(milliseconds(arguments.get(index))?);
        } else {
            return Err(Refusal::err("syntax error"));
        }
        index += 1;
    }
    if waits && context.recipient.is_none() {
        return Err(Refusal::err(
            "RING.LOCK with WAIT needs a lane or a socket: who shares rings cannot be told later",
        ));
    }
    let recipient = context.recipient.filter(|_| waits);
    match context.host.lock(context.connection, name, LockRequest { ticket, permits, ttl_ms }, recipient)? {
        LockAnswer::Granted(token) => context.reply.integer(token.cast_signed()),
        LockAnswer::Taken => context.reply.integer(0),
        LockAnswer::Pending => context.change = Some(ConnectionChange::Pending(ticket)),
    }
    Ok(())
}

/// `RING.UNLOCK name token`, `RING.UNLOCK name TICKET ticket`: 1 if this connection had that permit, or that place in
/// the queue, which ends here.
pub(super) fn ring_unlock(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let name = short_key(arguments)?;
    let named = match arguments.len() {
        2 => LeaseName::Token(positive(arguments.get(1))?),
        _ if arguments.get(1).eq_ignore_ascii_case(b"TICKET") => LeaseName::Ticket(positive(arguments.get(2))?),
        _ => return Err(Refusal::err("syntax error")),
    };
    if let LeaseName::Token(token) = named
        && context.writer.logs_commits()
        && context.host.locked(context.connection, name, Some(token)) > 0
    {
        // Whoever comes after this server finds it gone, and knows that it was this request.
        context.writer.announce_end(token);
    }
    let had = context.host.unlock(context.connection, name, named);
    context.reply.integer(i64::from(had));
    Ok(())
}

/// `RING.EXTEND name token milliseconds`: 1 if this connection has that permit, which lives for so long from now on.
pub(super) fn ring_extend(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let (name, token) = (short_key(arguments)?, positive(arguments.get(1))?);
    let has_it = context.host.extend(context.connection, name, token, milliseconds(arguments.get(2))?);
    context.reply.integer(i64::from(has_it));
    Ok(())
}

/// `RING.LOCKED name [token]`: how many permits are taken; with the token, 1 if this connection has that one.
pub(super) fn ring_locked(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let name = short_key(arguments)?;
    let token = if arguments.len() > 1 { Some(positive(arguments.get(1))?) } else { None };
    let taken = context.host.locked(context.connection, name, token);
    context.reply.integer(taken as i64);
    Ok(())
}

/// `RING.AWAIT key version ticket`: OK once the key has another version than this one (0: none). If it has this one
/// now, the connection is told later, with the ticket.
pub(super) fn ring_await(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let (key, ticket) = (short_key(arguments)?, positive(arguments.get(2))?);
    let version = parse_cursor(arguments.get(1)).ok_or_else(|| not_an_integer(arguments.get(1)))?;
    let Some(recipient) = context.recipient else {
        return Err(Refusal::err("RING.AWAIT needs a lane or a socket: who shares rings cannot be told later"));
    };
    // In this order: a write that comes in between is seen, or tells.
    context.host.wait_for_change(context.connection, key, ticket, recipient)?;
    if version_of(context, key) == version {
        context.change = Some(ConnectionChange::Pending(ticket));
    } else {
        context.host.unwait(context.connection, key, ticket);
        context.reply.ok();
    }
    Ok(())
}

/// A time to live.
fn milliseconds(digits: &[u8]) -> Result<u64, Refusal> {
    let (ms, most) = (positive(digits)?, limits::TTL_MAX_S * 1_000);
    if ms > most {
        return Err(Refusal::err(format_args!("a time to live of {ms} ms; at most {most} are allowed")));
    }
    Ok(ms)
}
