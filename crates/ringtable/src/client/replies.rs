//! What replies mean: values, or errors.

use super::error::Error;
use crate::command::integer::parse_integer;
use crate::command::reply::Reply;
use crate::table::Pairs;
use crate::table::lookup::Sink;

/// A refusal of the server as an error.
pub(super) fn refusal(message: String) -> Error {
    let (code, words) = message.split_once(' ').unwrap_or(("", &message));
    match code {
        "MAXCLIENTS" => Error::TooManyClients(words.to_owned()),
        "MAXSESSIONS" => words.parse().map_or_else(|_| Error::Refused(message.clone()), Error::TooManySessions),
        "VERSION" => Error::Version(words.to_owned()),
        "SHUTDOWN" => Error::Gone(words.to_owned()),
        "REJOIN" => Error::Unsent(words.to_owned()),
        "LIMIT" => Error::Short(words.to_owned()),
        _ => Error::Refused(message),
    }
}

/// Why a reply is none of those that a call knows: a refusal, or one that was dropped, or a mistake of the server.
pub(super) fn unexpected(reply: Reply) -> Error {
    match reply {
        Reply::Error(message) => refusal(message),
        Reply::Dropped(size) => Error::ReplyDropped(size),
        other => Error::Protocol(format!("an unexpected reply: {other:?}").chars().take(200).collect()),
    }
}

/// The reply of a command that answers with an integer.
pub(super) fn integer(reply: Reply) -> Result<i64, Error> {
    match reply {
        Reply::Integer(value) => Ok(value),
        other => Err(unexpected(other)),
    }
}

/// What is left to a key: `None` if there is no such key, inner `None` if it does not expire, or milliseconds.
pub type LeftMs = Option<Option<u64>>;

/// The reply to `PTTL`.
pub(super) fn left_ms(reply: Reply) -> Result<LeftMs, Error> {
    Ok(match integer(reply)? {
        -2 => None,
        -1 => Some(None),
        left => Some(Some(left.max(0) as u64)),
    })
}

/// The reply of a command that answers with bytes.
pub(super) fn bytes(reply: Reply) -> Result<Vec<u8>, Error> {
    match reply {
        Reply::Bulk(bytes) => Ok(bytes),
        other => Err(unexpected(other)),
    }
}

/// The reply to `RING.BUCKET`, into `out`: keys and values by turns.
pub(super) fn bucket(reply: Reply, out: &mut Pairs) -> Result<(), Error> {
    let Reply::Array(parts) = reply else { return Err(unexpected(reply)) };
    let mut parts = parts.into_iter();
    while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
        let (key, value) = (bytes(key)?, bytes(value)?);
        out.push(&key, &value).ok_or(Error::NoRoom(key.len() + value.len()))?;
    }
    Ok(())
}

/// A value that has come in a reply, into a sink.
pub(super) fn fill(sink: &mut impl Sink, value: &[u8]) -> Result<(), Error> {
    let room = sink.begin(value.len()).ok_or(Error::NoRoom(value.len()))?;
    for (to, from) in room.iter_mut().zip(value) {
        to.write(*from);
    }
    Ok(())
}

/// The figures of `RING.STATS`, by name.
///
/// # Errors
/// If the reply is not what the command answers.
pub fn figures(reply: Reply) -> Result<Vec<(String, i64)>, Error> {
    let pairs = match reply {
        Reply::Map(pairs) => pairs,
        Reply::Array(parts) => {
            let mut parts = parts.into_iter();
            std::iter::from_fn(|| Some((parts.next()?, parts.next()?))).collect()
        }
        other => return Err(unexpected(other)),
    };
    pairs
        .into_iter()
        .map(|(name, value)| {
            let name = String::from_utf8_lossy(&bytes(name)?).into_owned();
            let value = match value {
                Reply::Bulk(text) => {
                    parse_integer(&text).ok_or_else(|| Error::Protocol("a figure that is none".into()))?
                }
                other => integer(other)?,
            };
            Ok((name, value))
        })
        .collect()
}
