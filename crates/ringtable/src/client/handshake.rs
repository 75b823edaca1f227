//! Asking the server for shared memory, and taking over what it passes: the table, a lane or rings, the doorbells; or
//! for a session, over UDP.

use std::sync::Arc;

use rustix::event::PollFlags;

use super::channel::Channel;
use super::error::Error;
use super::in_place::{TableReader, attach};
use super::lane::{LaneHints, LaneLink};
use super::patience::Patience;
use super::readiness::{await_readiness, await_readiness_for};
use super::replies::{refusal, unexpected};
use super::rings::{RingsLink, Seat};
use super::sharing::Sharing;
use super::socket::SocketLink;
use super::udp::UdpLink;
use crate::command::known::Known;
use crate::command::record::RECORD_VERSION;
use crate::command::reply::Reply;
use crate::command::shown;
use crate::ring::exchange::EXCHANGE_VERSION;
use crate::ring::lane::LANE_VERSION;
use crate::shm::fork::Descriptor;

/// The words of the request that asks for a lane.
pub fn lane_request() -> [String; 3] {
    ["RING.LANE".into(), LANE_VERSION.to_string(), RECORD_VERSION.to_string()]
}

/// The words of the request that asks to join the rings of a classic topology.
pub fn rings_request() -> [String; 3] {
    ["RING.RINGS".into(), EXCHANGE_VERSION.to_string(), RECORD_VERSION.to_string()]
}

/// One request over a socket and its reply, which may come with descriptors.
fn ask(
    plain: &mut SocketLink,
    words: &[&[u8]],
    passed: &mut Vec<Descriptor>,
    patience: &mut Patience<'_>,
) -> Result<Reply, Error> {
    plain.ask(words);
    await_reply(plain, passed, patience)
}

fn await_reply(
    plain: &mut SocketLink,
    passed: &mut Vec<Descriptor>,
    patience: &mut Patience<'_>,
) -> Result<Reply, Error> {
    loop {
        if let Some(reply) = plain.try_receive_passed(passed)? {
            return Ok(reply);
        }
        await_readiness(&*plain, PollFlags::IN, patience)?;
    }
}

/// Gets a session over UDP, on a connected socket.
pub(super) fn join_over_udp(socket: Descriptor, patience: &mut Patience<'_>) -> Result<UdpLink, Error> {
    let mut udp = UdpLink::new(socket)?;
    while !udp.try_join()? {
        if patience.is_endless() {
            udp.check_silence()?;
        }
        let (flags, retry) = udp.awaited();
        await_readiness_for(&udp, flags, Some(retry), patience)?;
    }
    Ok(udp)
}

/// Asks for version 3 of the protocol, whose replies have the same kinds as those of a lane. Returns the number of the
/// server's table; 0 if it does not tell.
pub(super) fn speak_resp3(plain: &mut SocketLink, patience: &mut Patience<'_>) -> Result<u64, Error> {
    match ask(plain, &[b"HELLO", b"3"], &mut Vec::new(), patience)? {
        // A server of old that knows only version 2 can still be talked to.
        Reply::Error(message) => match refusal(message) {
            Error::Refused(_) => Ok(0),
            error => Err(error),
        },
        Reply::Map(fields) => Ok(fields.into_iter().find_map(server_id).unwrap_or(0)),
        _ => Ok(0),
    }
}

/// The number of the server's table, if that is what this field of its greeting says.
fn server_id(field: (Reply, Reply)) -> Option<u64> {
    match field {
        (Reply::Bulk(name), Reply::Integer(id)) if name == b"server_id" => u64::try_from(id).ok(),
        _ => None,
    }
}

/// Asks for shared memory. Returns the server's words, and what it passed.
pub(super) fn upgrade(
    plain: &mut SocketLink,
    request: &[String],
    patience: &mut Patience<'_>,
) -> Result<(String, Vec<Descriptor>), Error> {
    let mut asked = Vec::new();
    begin_upgrade(plain, request);
    await_upgrade(plain, &mut asked, patience).map(|status| (status, asked))
}

/// Asks for shared memory.
pub(super) fn begin_upgrade(plain: &mut SocketLink, request: &[String]) {
    let words: Vec<&[u8]> = request.iter().map(String::as_bytes).collect();
    plain.ask(&words);
}

/// Waits for the server's words, and for what it passes. May be called again if the patience was over.
pub(super) fn await_upgrade(
    plain: &mut SocketLink,
    passed: &mut Vec<Descriptor>,
    patience: &mut Patience<'_>,
) -> Result<String, Error> {
    match await_reply(plain, passed, patience)? {
        Reply::Status(status) => Ok(status.into_owned()),
        Reply::Error(message) => Err(refusal(message)),
        other => Err(unexpected(other)),
    }
}

/// Whether a refusal says to ask again soon: the server's keeper is busy.
pub(super) fn is_put_off(words: &str) -> bool {
    words.starts_with("KEEPER ")
}

/// What the server's answer to a join says: the seat at its rings, none if it is a lane; and which commands it knows.
pub(super) fn parse_answer(status: &str) -> Option<(Option<Seat>, Known)> {
    let (kind, digits) = status.rsplit_once(' ')?;
    let seat = if kind == "LANE" { None } else { Some(Seat::parse(kind)?) };
    Some((seat, Known::parse(digits)?))
}

/// Takes over what the server passed: table, lane or rings, the server's doorbell, ours; and which commands it knows.
pub(super) fn join(
    socket: Descriptor,
    status: &str,
    passed: Vec<Descriptor>,
    sharing: &Arc<Sharing>,
) -> Result<(TableReader, Channel, Known), Error> {
    let words = || shown(status.as_bytes());
    let (seat, known) = parse_answer(status)
        .ok_or_else(|| Error::Protocol(format!("an unexpected answer to a join: '{}'", words())))?;
    let count = passed.len();
    let [table, memory, request_bell, listener]: [Descriptor; 4] = passed
        .try_into()
        .map_err(|_| Error::Protocol(format!("'{}' came with {count} descriptors, not 4", words())))?;
    let mut reader = attach(table)?;
    let workers = reader.constants().workers;
    let channel = match seat {
        None => {
            let lane = LaneLink::join(socket, memory, request_bell, listener, workers, Arc::clone(sharing))?;
            reader.leave_hints(Box::new(LaneHints(lane.mapping())));
            Channel::Lane(Box::new(lane))
        }
        Some(seat) => Channel::Rings(Box::new(RingsLink::join(socket, seat, memory, request_bell, listener, workers)?)),
    };
    Ok((reader, channel, known))
}
