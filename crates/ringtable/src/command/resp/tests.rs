//! What is written is read as it was written, whatever it is, and what is damaged does no harm.

use super::reply::ReplyParser;
use super::request::{Parsed, RequestLimits, RequestParser};
use super::testing::{
    Outcome, REPLY_LIMITS, REPLY_LIMITS_WIDE, REQUEST_LIMITS, Request, bulk, random, random_bytes, random_pieces,
    read_replies, read_requests,
};
use super::write::{RespWriter, format_double, write_request};
use crate::command::protocol::Protocol;
use crate::command::reply::{Reply, ReplyWriter};
use crate::limits::REPLY_DEPTH_MAX;

#[test]
fn smoke() {
    let mut sent = Vec::new();
    write_request(&mut sent, &[b"GET", b"key"]);
    assert_eq!(sent, b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n");

    let mut server = RequestParser::new(REQUEST_LIMITS);
    assert_eq!(server.parse(&sent), Ok(Parsed::Complete { size: sent.len() }));
    let arguments: Vec<&[u8]> = server.arguments().iter().map(|range| &sent[range.clone()]).collect();
    assert_eq!(arguments, [b"GET", b"key"]);

    let mut answer = Vec::new();
    RespWriter::new(&mut answer, Protocol::Resp2).bulk(b"value");
    assert_eq!(answer, b"$5\r\nvalue\r\n");

    let mut client = ReplyParser::new(REPLY_LIMITS);
    assert_eq!(client.parse(&answer[..8]), Ok(None));
    assert_eq!(client.parse(&answer), Ok(Some((bulk("value"), answer.len()))));
}

/// Writes a random reply, and gives what a client of that version has to read.
fn write_random(random: &mut fastrand::Rng, protocol: Protocol, writer: &mut RespWriter<'_>, depth: usize) -> Reply {
    let is_version_3 = protocol == Protocol::Resp3;
    let kinds = if depth < REPLY_DEPTH_MAX { 10 } else { 8 };
    match random.u8(..kinds) {
        0 => {
            writer.ok();
            Reply::Status("OK".into())
        }
        1 => {
            let text: String = (0..random.usize(..20)).map(|_| random.alphanumeric()).collect();
            writer.status(&text);
            Reply::Status(text.into())
        }
        2 => {
            writer.error("ERR \u{e9}tage\n5");
            Reply::Error("ERR \u{e9}tage 5".into())
        }
        3 => {
            writer.nil();
            Reply::Nil
        }
        4 => {
            let value = random.i64(..) >> random.u32(..64);
            writer.integer(value);
            Reply::Integer(value)
        }
        5 => {
            let value = random.bool();
            writer.boolean(value);
            match is_version_3 {
                true => Reply::Boolean(value),
                false => Reply::Integer(value.into()),
            }
        }
        6 => {
            let value = match random.bool() {
                true => f64::from(random.i32(..)) / 1000.0,
                false => Some(f64::from_bits(random.u64(..))).filter(|v| !v.is_nan()).unwrap_or(0.0),
            };
            writer.double(value);
            match is_version_3 {
                true => Reply::Double(value),
                false => bulk(&format_double(value)),
            }
        }
        7 => {
            let bytes = random_bytes(random, 300);
            writer.bulk(&bytes);
            Reply::Bulk(bytes)
        }
        8 => {
            let count = random.usize(..4);
            writer.array(count);
            Reply::Array((0..count).map(|_| write_random(random, protocol, writer, depth + 1)).collect())
        }
        _ => {
            let pairs = random.usize(..3);
            writer.map(pairs);
            let mut elements = Vec::new();
            for _ in 0..2 * pairs {
                elements.push(write_random(random, protocol, writer, depth + 1));
            }
            match is_version_3 {
                true => Reply::Map(elements.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()),
                false => Reply::Array(elements),
            }
        }
    }
}

#[test]
fn random_replies_come_back_as_written() {
    let mut random = random();
    for round in 0..2_000 {
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            let mut stream = Vec::new();
            let mut writer = RespWriter::new(&mut stream, protocol);
            let count = random.usize(1..5);
            let messages: Vec<Reply> =
                (0..count).map(|_| write_random(&mut random, protocol, &mut writer, 0)).collect();
            let expected = Outcome { messages, end: Ok(0) };
            let pieces = random_pieces(&mut random, &stream);
            let outcome = read_replies(REPLY_LIMITS_WIDE, pieces);
            assert_eq!(outcome, expected, "round {round}, {protocol:?}");
        }
    }
}

#[test]
fn random_requests_come_back_as_written() {
    let mut random = random();
    let limits = RequestLimits { arguments_max: 8, argument_size_max: 300, inline_size_max: 0, ..REQUEST_LIMITS };
    for round in 0..2_000 {
        let mut stream = Vec::new();
        let mut messages = Vec::new();
        for _ in 0..random.usize(1..5) {
            let count = random.usize(1..=8);
            let mut message: Request = (0..count).map(|_| random_bytes(&mut random, 300)).collect();
            if random.bool() {
                message[0] = b"sEt".to_vec();
            }
            let arguments: Vec<&[u8]> = message.iter().map(Vec::as_slice).collect();
            write_request(&mut stream, &arguments);
            messages.push(message);
        }
        let expected = Outcome { messages, end: Ok(0) };
        let pieces = random_pieces(&mut random, &stream);
        assert_eq!(read_requests(limits, pieces.iter().copied()), expected, "round {round}");
        let limits = RequestLimits { large_value_size: random.usize(..100), ..limits };
        assert_eq!(read_requests(limits, pieces), expected, "round {round}: large values taken out");
    }
}

/// Noise, and good streams with a few bytes changed, removed or added: no panic, and the same
/// verdict however the bytes are cut.
#[test]
fn damaged_streams_do_no_harm() {
    let mut random = random();
    let mut refused = 0;
    const ROUNDS: usize = 20_000;
    const GOOD: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n10\r\n get 'a b' c\r\n*1\r\n$4\r\nPING\r\n";
    for round in 0..ROUNDS {
        let mut stream = match random.u8(..3) {
            0 => random_bytes(&mut random, 60),
            1 => GOOD.to_vec(),
            _ => {
                let mut written = Vec::new();
                let mut writer = RespWriter::new(&mut written, Protocol::Resp3);
                write_random(&mut random, Protocol::Resp3, &mut writer, 5);
                written
            }
        };
        for _ in 0..random.usize(..4) {
            let position = random.usize(..=stream.len());
            let noise = random_bytes(&mut random, 3);
            let end = (position + random.usize(..3)).min(stream.len());
            stream.splice(position..end, noise);
        }
        let shown = stream.escape_ascii();
        let pieces = random_pieces(&mut random, &stream);

        let whole = read_requests(REQUEST_LIMITS, [&stream[..]]);
        let in_pieces = read_requests(REQUEST_LIMITS, pieces.iter().copied());
        assert_eq!(whole, in_pieces, "round {round}: {shown}");
        let with_large = RequestLimits { large_value_size: 1, ..REQUEST_LIMITS };
        let taken_out = read_requests(with_large, pieces.iter().copied());
        assert_eq!(whole, taken_out, "round {round}: {shown}, the value taken out");
        refused += usize::from(whole.end.is_err());

        let whole = read_replies(REPLY_LIMITS, [&stream[..]]);
        let in_pieces = read_replies(REPLY_LIMITS, pieces);
        // Compared as text, since a double that is not a number differs from itself.
        assert_eq!(format!("{whole:?}"), format!("{in_pieces:?}"), "round {round}: {shown}");
        refused += usize::from(whole.end.is_err());
    }
    assert!((ROUNDS / 4..2 * ROUNDS).contains(&refused), "{refused} refusals: the damage is ill chosen");
}
