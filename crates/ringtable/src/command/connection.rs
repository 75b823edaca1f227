//! Commands about the connection itself.

use super::arguments::Arguments;
use super::context::Context;
use super::flow::{ConnectionChange, Flow, Upgrade};
use super::protocol::Protocol;
use super::record::RECORD_VERSION;
use super::refusal::{Refusal, shown};
use super::reply::ReplyWriter;
use crate::limits;
use crate::ring::exchange::EXCHANGE_VERSION;
use crate::ring::lane::LANE_VERSION;
use crate::table::layout::LAYOUT_VERSION;

/// `PING [message]`
///
/// A large message would be copied in one go, and kept until its sender reads it.
pub(super) fn ping(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    if !arguments.is_empty() {
        return echo(context, arguments);
    }
    context.reply.status("PONG");
    Ok(())
}

/// `ECHO message`
pub(super) fn echo(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let (size, most) = (arguments.get(0).len(), limits::PING_SIZE_MAX);
    if size > most {
        return Err(Refusal::err(format_args!("the message has {size} bytes, at most {most} are allowed")));
    }
    context.reply.bulk(arguments.get(0));
    Ok(())
}

/// `AUTH [user] password`
///
/// As in a Redis without passwords, the user `default` gets in with any, and to be asked for one is a mistake.
pub(super) fn auth(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    if arguments.len() == 1 {
        return Err(Refusal::err(
            "AUTH <password> called without any password configured for the default user. Are you sure your \
             configuration is correct?",
        ));
    }
    check_user(arguments.get(0))?;
    context.reply.ok();
    Ok(())
}

/// There are no users: who may open the socket may do everything.
fn check_user(user: &[u8]) -> Result<(), Refusal> {
    if user == b"default" {
        return Ok(());
    }
    Err(Refusal("WRONGPASS invalid username-password pair or user is disabled: this server has no users".into()))
}

/// `SELECT index`: there is one table.
pub(super) fn select(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    if arguments.integer(0)? != 0 {
        return Err(Refusal::err("DB index is out of range: there is number 0 alone"));
    }
    context.reply.ok();
    Ok(())
}

/// `CLIENT ID`, `CLIENT SETNAME name`, `CLIENT SETINFO LIB-NAME | LIB-VER value`: what clients send as they connect.
/// Names are taken and forgotten.
pub(super) fn client(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let is = |name: &str| arguments.get(0).eq_ignore_ascii_case(name.as_bytes());
    match arguments.len() {
        1 if is("ID") => context.reply.integer(context.connection.cast_signed()),
        2 if is("SETNAME") => {
            check_name("Client names", arguments.get(1))?;
            context.reply.ok();
        }
        3 if is("SETINFO") => {
            let field = arguments.get(1);
            if !field.eq_ignore_ascii_case(b"LIB-NAME") && !field.eq_ignore_ascii_case(b"LIB-VER") {
                return Err(Refusal::err(format_args!("Unrecognized option '{}'", shown(field))));
            }
            check_name("lib-name and lib-ver", arguments.get(2))?;
            context.reply.ok();
        }
        _ => {
            return Err(Refusal::err(format_args!(
                "unknown subcommand or wrong number of arguments for '{}'. There are CLIENT ID, SETNAME and SETINFO",
                shown(arguments.get(0))
            )));
        }
    }
    Ok(())
}

/// Names are words of what can be printed.
fn check_name(what: &str, name: &[u8]) -> Result<(), Refusal> {
    if name.iter().all(u8::is_ascii_graphic) {
        return Ok(());
    }
    Err(Refusal::err(format_args!("{what} cannot contain spaces, newlines or special characters.")))
}

/// `HELLO [2 | 3 [AUTH user password] [SETNAME name]]`
///
/// Names are taken and forgotten.
pub(super) fn hello(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    if !arguments.is_empty() {
        let protocol = match arguments.get(0) {
            b"2" => Protocol::Resp2,
            b"3" => Protocol::Resp3,
            _ => return Err(Refusal("NOPROTO unsupported protocol version".into())),
        };
        let mut options = arguments.iter().skip(1);
        while let Some(option) = options.next() {
            let syntax = || Refusal::err("syntax error in HELLO");
            if option.eq_ignore_ascii_case(b"AUTH") {
                check_user(options.next().ok_or_else(syntax)?)?;
                options.next().ok_or_else(syntax)?;
            } else if option.eq_ignore_ascii_case(b"SETNAME") {
                check_name("Client names", options.next().ok_or_else(syntax)?)?;
            } else {
                return Err(syntax());
            }
        }
        context.change = Some(ConnectionChange::Protocol(protocol));
    } else {
        greet(context.reply, context.protocol, context.connection, context.writer.table().constants().id);
    }
    Ok(())
}

/// Answers `HELLO` on the connection of that number, which speaks this version from here on, of the server whose
/// table has the number `table`.
pub fn greet(reply: &mut dyn ReplyWriter, protocol: Protocol, connection: u64, table: u64) {
    reply.map(7);
    for (field, value) in [("server", "ringtable"), ("version", env!("CARGO_PKG_VERSION")), ("mode", "standalone")] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"proto");
    reply.integer(if protocol == Protocol::Resp2 { 2 } else { 3 });
    reply.bulk(b"id");
    reply.integer(connection.cast_signed());
    reply.bulk(b"role");
    reply.bulk(b"master");
    reply.bulk(b"server_id");
    reply.integer(table.cast_signed());
}

/// `QUIT`
pub(super) fn quit(context: &mut Context<'_>, _: Arguments<'_>) -> Result<(), Refusal> {
    context.flow = Flow::Close;
    context.reply.ok();
    Ok(())
}

/// `RING.LANE lane-version records-version`: upgrades a unix socket to a lane. The server answers itself, since the
/// answer carries descriptors; it says which commands the server knows ([`super::known`]).
pub(super) fn ring_lane(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    check_versions(&[("lanes", LANE_VERSION), ("records", RECORD_VERSION)], arguments)?;
    context.change = Some(ConnectionChange::Upgrade(Upgrade::Lane));
    Ok(())
}

/// `RING.RINGS exchange-version records-version`: lets the client join the rings of a classic topology. The server
/// answers itself, as it does for a lane.
pub(super) fn ring_rings(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    check_versions(&[("rings", EXCHANGE_VERSION), ("records", RECORD_VERSION)], arguments)?;
    context.change = Some(ConnectionChange::Upgrade(Upgrade::Rings));
    Ok(())
}

/// Refuses a client that lays out shared memory, or what flows through it, in another way than we do.
fn check_versions(ours: &[(&str, u64)], arguments: Arguments<'_>) -> Result<(), Refusal> {
    for (theirs, (what, ours)) in arguments.iter().zip(ours) {
        if theirs != ours.to_string().as_bytes() {
            return Err(Refusal(format!(
                "VERSION the server has {what} of version {ours}, the client of version '{}': install the same version \
                 of ringtable on both sides",
                shown(theirs)
            )));
        }
    }
    Ok(())
}

/// What `RING.PINS` answers elsewhere.
pub const NO_PINS: &str = "ERR pins are words in a lane, and this connection has none: ask for one with RING.LANE";

/// `RING.PINS`: from now on the table's entries that the pins in the client's lane name stay where they are. May be
/// asked again. See [`crate::table::reclaim`].
pub(super) fn ring_pins(context: &mut Context<'_>, _: Arguments<'_>) -> Result<(), Refusal> {
    context.change = Some(ConnectionChange::Pins);
    Ok(())
}

/// `RING.WATCH layout-version`: upgrades a unix socket to a watch of the table's changes. The server answers itself,
/// since the answer carries descriptors.
pub(super) fn ring_watch(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    check_versions(&[("a table", LAYOUT_VERSION)], arguments)?;
    context.change = Some(ConnectionChange::Upgrade(Upgrade::Watch));
    Ok(())
}
