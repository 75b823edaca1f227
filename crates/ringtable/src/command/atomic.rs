//! Commands for processes that change the same key: by version, within bounds, by lease.

use super::arguments::{Arguments, not_an_integer};
use super::context::Context;
use super::counters::{self, Bounds};
use super::expiry::time_to_live;
use super::flow::ConnectionChange;
use super::host::{LeaseAnswer, LeaseName, Unwritten};
use super::integer::parse_integer;
use super::lookup::find_value;
use super::refusal::Refusal;
use super::set_options::{mark, version};
use crate::limits;
use crate::shm::clock::wall_ms;
use crate::table::lookup::Found;
use crate::table::{Expiry, Mark};

/// `RING.GETV key`: the value and its version.
pub(super) fn ring_getv(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let Some(value) = find_value(context, arguments.get(0))? else {
        context.reply.nil();
        return Ok(());
    };
    let version = value.found().version;
    context.reply.array(2);
    value.answer(context);
    context.reply.integer(version as i64);
    Ok(())
}

/// `RING.ENTRY key [most]`: the value, the time at which it will be gone, and whether it is never evicted, all of one
/// moment. Of a value of more than `most` bytes there is the size alone.
pub(super) fn ring_entry(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let most = if arguments.len() > 1 { arguments.integer(1)? } else { i64::MAX };
    let Some(value) = find_value(context, arguments.get(0))? else {
        context.reply.nil();
        return Ok(());
    };
    let Found { size, expiry, is_unevictable, .. } = value.found();
    context.reply.array(3);
    if size as i64 > most {
        context.reply.integer(size as i64);
    } else {
        value.answer(context);
    }
    context.reply.integer(expiry.map_or(-1, |Expiry(at_ms)| at_ms as i64));
    context.reply.integer(i64::from(is_unevictable));
    Ok(())
}

/// `RING.DELV key version`: deletes a key that still has this version.
pub(super) fn ring_delv(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let version = version(arguments.get(1))?;
    let deleted = context.writer.delete_version(arguments.get(0), version, wall_ms);
    context.reply.integer(i64::from(deleted));
    Ok(())
}

/// `RING.INCR key increment [PX milliseconds] [MIN least] [MAX most] [EVICTABLE | UNEVICTABLE]`: the sum, or nil if it
/// were out of bounds. The time to live is for a key that is new.
pub(super) fn ring_incr(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let by = arguments.integer(1)?;
    let mut bounds = Bounds { expiry_if_new: None, least: None, most: None, mark: Mark::AsBefore };
    let syntax = || Refusal::err("syntax error");
    let mut index = 2;
    while index < arguments.len() {
        let option = arguments.get(index);
        if let Some(mark) = mark(option).filter(|_| bounds.mark == Mark::AsBefore) {
            bounds.mark = mark;
            index += 1;
            continue;
        }
        if index + 1 == arguments.len() {
            return Err(syntax());
        }
        let number = arguments.integer(index + 1)?;
        match option {
            _ if option.eq_ignore_ascii_case(b"PX") && bounds.expiry_if_new.is_none() => {
                bounds.expiry_if_new = Some(time_to_live(number, 1, "ring.incr")?);
            }
            _ if option.eq_ignore_ascii_case(b"MIN") && bounds.least.is_none() => bounds.least = Some(number),
            _ if option.eq_ignore_ascii_case(b"MAX") && bounds.most.is_none() => bounds.most = Some(number),
            _ => return Err(syntax()),
        }
        index += 2;
    }
    if let (Some(least), Some(most)) = (bounds.least, bounds.most)
        && least > most
    {
        return Err(Refusal::err(format_args!("MIN is {least} and MAX is {most}: no sum is within")));
    }
    counters::add(context, arguments.get(0), by, &bounds)
}

/// `RING.LEASE key [ticket [AFTER token]]`: the token of a lease, or 0 if somebody has it. The ticket, a number above
/// 0, is how the client can give it back that has not waited for the token. With `AFTER`, the answer tells more: minus
/// the token of who has it, to be given with the next question; and if that one has handed over what it has computed,
/// the value, or nil if there is none.
pub(super) fn ring_lease(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let key = short_key(arguments)?;
    let ticket = if arguments.len() > 1 { positive(arguments.get(1))? } else { 0 };
    let after = match arguments.len() {
        0..=2 => None,
        4 if arguments.get(2).eq_ignore_ascii_case(b"AFTER") => {
            let token = parse_integer(arguments.get(3)).and_then(|token| u64::try_from(token).ok());
            Some(token.ok_or_else(|| not_an_integer(arguments.get(3)))?)
        }
        _ => return Err(Refusal::err("syntax error")),
    };
    match context.host.lease(context.connection, key, ticket, after.unwrap_or(0))? {
        LeaseAnswer::Granted(token) => context.reply.integer(token as i64),
        LeaseAnswer::Taken(token) => context.reply.integer(if after.is_some() { -(token as i64) } else { 0 }),
        LeaseAnswer::Over(Some(value)) => {
            context.reply.bulk(&value);
            context.passed += value.len();
        }
        LeaseAnswer::Over(None) => context.reply.nil(),
    }
    Ok(())
}

/// `RING.HANDOVER key token UNSTORED [value]`, `RING.HANDOVER key token FAILED`: gives back a lease though the key has
/// no new value: the table has no place for it, or computing it has failed and an old one was good enough. Clients that
/// wait for it get the value, if it is not too large. 1 if this connection had that lease.
pub(super) fn ring_handover(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let (key, token, outcome) = (arguments.get(0), positive(arguments.get(1))?, arguments.get(2));
    let value = (arguments.len() > 3).then(|| arguments.get(3));
    let outcome = match value {
        _ if outcome.eq_ignore_ascii_case(b"UNSTORED") => {
            Unwritten::NotStored(value.filter(|value| value.len() <= limits::HANDOVER_VALUE_SIZE_MAX))
        }
        None if outcome.eq_ignore_ascii_case(b"FAILED") => Unwritten::Failed,
        _ => return Err(Refusal::err("syntax error")),
    };
    let had = key.len() <= limits::KEY_SIZE_MAX && context.host.hand_over(context.connection, key, token, outcome);
    context.reply.integer(i64::from(had));
    Ok(())
}

/// `RING.UNLEASE key token`, `RING.UNLEASE key TICKET ticket`: 1 if this connection had that lease, which ends here.
pub(super) fn ring_unlease(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let name = match arguments.len() {
        2 => LeaseName::Token(positive(arguments.get(1))?),
        _ if arguments.get(1).eq_ignore_ascii_case(b"TICKET") => LeaseName::Ticket(positive(arguments.get(2))?),
        _ => return Err(Refusal::err("syntax error")),
    };
    let key = arguments.get(0);
    let had = key.len() <= limits::KEY_SIZE_MAX && context.host.unlease(context.connection, key, name);
    context.reply.integer(i64::from(had));
    Ok(())
}

/// `RING.WAIT key token ticket`: OK once the lease of the key with this token is over, or the key has been written. If
/// that is not so now, the connection is told later, with the ticket.
pub(super) fn ring_wait(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let (key, token, ticket) = (short_key(arguments)?, positive(arguments.get(1))?, positive(arguments.get(2))?);
    let Some(recipient) = context.recipient else {
        return Err(Refusal::err("RING.WAIT needs a lane or a socket: who shares rings cannot be told later"));
    };
    if context.host.wait(context.connection, key, token, ticket, recipient)? {
        context.change = Some(ConnectionChange::Pending(ticket));
    } else {
        context.reply.ok();
    }
    Ok(())
}

/// `RING.UNWAIT key ticket`: 1 if this connection waited for the key with this ticket, and waits no more.
pub(super) fn ring_unwait(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let ticket = positive(arguments.get(1))?;
    let waited = context.host.unwait(context.connection, arguments.get(0), ticket);
    context.reply.integer(i64::from(waited));
    Ok(())
}

/// The key, which a lease may be of.
pub(super) fn short_key<'a>(arguments: Arguments<'a>) -> Result<&'a [u8], Refusal> {
    let key = arguments.get(0);
    let is_short = key.len() <= limits::KEY_SIZE_MAX;
    if is_short { Ok(key) } else { Err(crate::table::WriteError::KeyTooLong(key.len()).into()) }
}

/// A number that names a lease, or an answer.
pub(super) fn positive(digits: &[u8]) -> Result<u64, Refusal> {
    let number = parse_integer(digits).and_then(|number| u64::try_from(number).ok());
    number.filter(|&number| number > 0).ok_or_else(|| not_an_integer(digits))
}
