//! Commands about the connection itself.

use super::arguments::Arguments;
use super::resp::Protocol;
use super::{Context, Effect, FINGERPRINT, Refusal};
use crate::limits;
use crate::ring::exchange::EXCHANGE_VERSION;
use crate::ring::lane::LANE_VERSION;
use crate::table::layout::LAYOUT_VERSION;

/// `PING [message]`
///
/// A large message would be copied in one go, and kept until its sender reads it.
pub(super) fn ping(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    match arguments.iter().next() {
        Some(message) if message.len() > limits::PING_SIZE_MAX => {
            let (size, most) = (message.len(), limits::PING_SIZE_MAX);
            return Err(Refusal::err(format_args!("the message has {size} bytes, at most {most} are allowed")));
        }
        Some(message) => context.reply.bulk(message),
        None => context.reply.status("PONG"),
    }
    Ok(())
}

/// `HELLO [2 | 3 [AUTH user password] [SETNAME name]]`
///
/// There are no users: who may open the socket may do everything. Names are taken and forgotten.
pub(super) fn hello(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    if !arguments.is_empty() {
        let protocol = match arguments.get(0) {
            b"2" => Protocol::Resp2,
            b"3" => Protocol::Resp3,
            _ => return Err(Refusal("NOPROTO unsupported protocol version".into())),
        };
        let mut options = arguments.iter().skip(1);
        while let Some(option) = options.next() {
            if option.eq_ignore_ascii_case(b"AUTH") {
                return Err(Refusal("WRONGPASS this server has no users: connect without a password".into()));
            }
            if !option.eq_ignore_ascii_case(b"SETNAME") || options.next().is_none() {
                return Err(Refusal::err("syntax error in HELLO"));
            }
        }
        context.protocol = protocol;
        context.effect = Effect::Protocol(protocol);
        context.reply.set_protocol(protocol);
    }
    context.reply.map(5);
    for (field, value) in [("server", "ringtable"), ("version", env!("CARGO_PKG_VERSION")), ("mode", "standalone")] {
        context.reply.bulk(field.as_bytes());
        context.reply.bulk(value.as_bytes());
    }
    context.reply.bulk(b"proto");
    context.reply.integer(if context.protocol == Protocol::Resp2 { 2 } else { 3 });
    context.reply.bulk(b"role");
    context.reply.bulk(b"master");
    Ok(())
}

/// `QUIT`
pub(super) fn quit(context: &mut Context<'_>, _: Arguments<'_>) -> Result<(), Refusal> {
    context.effect = Effect::Close;
    context.reply.ok();
    Ok(())
}

/// `RING.LANE lane-version commands-fingerprint`: upgrades a unix socket to a lane. The server answers itself, since
/// the answer carries descriptors.
pub(super) fn ring_lane(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    check_versions("lanes", LANE_VERSION, arguments)?;
    context.effect = Effect::Lane;
    Ok(())
}

/// `RING.RINGS exchange-version commands-fingerprint`: lets the client join the rings of a classic topology. The server
/// answers itself, since the answer carries descriptors.
pub(super) fn ring_rings(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    check_versions("rings", EXCHANGE_VERSION, arguments)?;
    context.effect = Effect::Rings;
    Ok(())
}

/// Refuses a client that lays out shared memory, or numbers commands, in another way.
fn check_versions(what: &str, version: u64, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let ours = [version.to_string(), format!("{:016x}", *FINGERPRINT)];
    if arguments.iter().zip(&ours).any(|(theirs, ours)| theirs != ours.as_bytes()) {
        let theirs: Vec<_> = arguments.iter().map(shown).collect();
        return Err(Refusal(format!(
            "VERSION the server speaks {what} of version {} (commands {}), the client of version {} (commands {}): \
             install the same version of ringtable on both sides",
            ours[0], ours[1], theirs[0], theirs[1]
        )));
    }
    Ok(())
}

/// What a client says its version is, as far as anybody would read it: it may have said 512 MiB.
fn shown(version: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(&version[..version.len().min(32)])
}

/// What `RING.PINS` answers elsewhere.
pub const NO_PINS: &str = "ERR pins are words in a lane, and this connection has none: ask for one with RING.LANE";

/// `RING.PINS`: from now on the table's entries that the pins in the client's lane name stay where they are. May be
/// asked again. See [`crate::table::reclaim`].
pub(super) fn ring_pins(context: &mut Context<'_>, _: Arguments<'_>) -> Result<(), Refusal> {
    context.effect = Effect::Pins;
    Ok(())
}

/// `RING.WATCH layout-version commands-fingerprint`: upgrades a unix socket to a watch of the table's changes. The
/// server answers itself, since the answer carries descriptors.
pub(super) fn ring_watch(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let ours = [LAYOUT_VERSION.to_string(), format!("{:016x}", *FINGERPRINT)];
    if arguments.iter().zip(&ours).any(|(theirs, ours)| theirs != ours.as_bytes()) {
        let theirs: Vec<_> = arguments.iter().map(shown).collect();
        return Err(Refusal(format!(
            "VERSION the server's table has layout version {} (commands {}), the client's version {} (commands {}): \
             install the same version of ringtable on both sides",
            ours[0], ours[1], theirs[0], theirs[1]
        )));
    }
    context.effect = Effect::Watch;
    Ok(())
}
