//! Peers for the tests of this folder: streams that arrive in pieces, and how they are read.

use std::ops::Range;

use super::error::ProtocolError;
use super::reply::{ReplyLimits, ReplyParser};
use super::request::{Parsed, RequestLimits, RequestParser};
use crate::command::reply::Reply;

pub(super) const REQUEST_LIMITS: RequestLimits = RequestLimits {
    arguments_max: 4,
    arguments_at_once: 3,
    argument_size_max: 20,
    inline_size_max: 32,
    large_value_size: usize::MAX,
};

pub(super) const REPLY_LIMITS: ReplyLimits = ReplyLimits { elements_max: 10, bulk_size_max: 20, line_size_max: 24 };

/// Large enough for all that the random tests write.
pub(super) const REPLY_LIMITS_WIDE: ReplyLimits =
    ReplyLimits { elements_max: 1_000_000, bulk_size_max: 1_000_000, line_size_max: 1_000_000 };

/// What a stream of bytes comes to: the messages in it, and how it ends.
#[derive(Debug, PartialEq)]
pub(super) struct Outcome<T> {
    pub messages: Vec<T>,
    /// The error, or the number of bytes left over that make no message yet.
    pub end: Result<usize, ProtocolError>,
}

pub(super) type Request = Vec<Vec<u8>>;

/// Plays the server: `pieces` arrive one after the other, and large values are taken out as they do.
pub(super) fn read_requests<'a>(limits: RequestLimits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome<Request> {
    let mut parser = RequestParser::new(limits);
    let mut buffer = Vec::new();
    let mut messages = Vec::new();
    // What was taken out of the request in hand, and where more of it comes from.
    let (mut value, mut source): (Option<Vec<u8>>, Option<Range<usize>>) = (None, None);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            if let (Some(value), Some(range)) = (&mut value, &mut source) {
                let here = range.start..range.end.min(buffer.len());
                range.end -= here.len();
                value.extend(buffer.drain(here));
                if range.start < range.end {
                    break;
                }
                parser.leave_out();
                source = None;
            }
            match parser.parse(&buffer) {
                Ok(Parsed::Paused) => assert!(parser.arguments().is_empty()),
                Ok(Parsed::LargeValue { start, size, .. }) => {
                    (value, source) = (Some(Vec::new()), Some(start..start + size));
                }
                Ok(Parsed::Complete { size }) => {
                    let arguments = parser.arguments().iter();
                    let mut message: Request = arguments.map(|range| buffer[range.clone()].to_vec()).collect();
                    if let Some(value) = value.take() {
                        assert!(std::mem::replace(&mut message[2], value).is_empty());
                    }
                    messages.push(message);
                    assert!(parser.arguments().iter().all(|range| range.end <= size));
                    buffer.drain(..size);
                }
                Ok(Parsed::Incomplete { missing }) => {
                    assert!(missing > 0);
                    assert!(parser.arguments().is_empty());
                    break;
                }
                Err(error) => {
                    buffer.fill(b'\n');
                    assert_eq!(parser.parse(&buffer), Err(error.clone()), "an error is final");
                    assert!(parser.arguments().is_empty());
                    return Outcome { messages, end: Err(error) };
                }
            }
        }
    }
    Outcome { messages, end: Ok(buffer.len() + value.map_or(0, |value| value.len())) }
}

/// Plays the client: `pieces` arrive one after the other.
pub(super) fn read_replies<'a>(limits: ReplyLimits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome<Reply> {
    let mut parser = ReplyParser::new(limits);
    let mut buffer = Vec::new();
    let mut messages = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match parser.parse(&buffer) {
                Ok(Some((reply, size))) => {
                    messages.push(reply);
                    buffer.drain(..size);
                }
                Ok(None) => break,
                Err(error) => {
                    buffer.fill(b'\n');
                    assert_eq!(parser.parse(&buffer), Err(error.clone()), "an error is final");
                    return Outcome { messages, end: Err(error) };
                }
            }
        }
    }
    Outcome { messages, end: Ok(buffer.len()) }
}

pub(super) fn request(arguments: &[&str]) -> Request {
    arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect()
}

pub(super) fn bulk(text: &str) -> Reply {
    Reply::Bulk(text.as_bytes().to_vec())
}

/// A random generator whose seed is printed (and shown by a failing test).
/// `RINGTABLE_TEST_SEED` replays another.
pub(super) fn random() -> fastrand::Rng {
    let seed = std::env::var("RINGTABLE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(0x5eed);
    println!("RINGTABLE_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

pub(super) fn random_bytes(random: &mut fastrand::Rng, size_max: usize) -> Vec<u8> {
    let size = random.usize(..=size_max);
    // Often bytes that mean something to the protocol.
    (0..size)
        .map(|_| match random.bool() {
            true => *random.choice(b"\r\n*$+-:_#,0123456789tf %\"'\\").unwrap(),
            false => random.u8(..),
        })
        .collect()
}

/// The same bytes in pieces of random sizes, some of them empty.
pub(super) fn random_pieces<'a>(random: &mut fastrand::Rng, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let size_max = random.choice([1, 3, 20, 500]).unwrap();
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(random.usize(..=size_max.min(bytes.len())));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}
