//! The parser of replies in the Redis protocol: what it makes of a stream does not depend on how that is cut, and what
//! our server writes is read as it was written.

use super::pieces::feed;
use crate::command::protocol::Protocol;
use crate::command::reply::{Reply, ReplyWriter};
use crate::command::resp::{ProtocolError, ReplyLimits, ReplyParser, RespWriter};
use crate::input::Input;

const LIMITS: ReplyLimits = ReplyLimits { elements_max: 40, bulk_size_max: 300, line_size_max: 60 };

fn read(stream: &[u8], sizes: &mut Input<'_>) -> (Vec<Reply>, Option<ProtocolError>) {
    let mut parser = ReplyParser::new(LIMITS);
    let (mut replies, mut failed) = (Vec::new(), None);
    feed(stream, sizes, |come| match parser.parse(come) {
        Ok(None) => Some(0),
        Ok(Some((reply, size))) => {
            assert!(size > 0 && size <= come.len());
            replies.push(reply);
            Some(size)
        }
        Err(error) => {
            assert_eq!(parser.parse(come).as_ref(), Err(&error), "an error is final");
            failed = Some(error);
            None
        }
    });
    (replies, failed)
}

/// Writes what was read. Lines of bytes that are not UTF-8 were read as something else, which is written as it is.
pub(super) fn write(reply: &Reply, writer: &mut dyn ReplyWriter) {
    match reply {
        Reply::Nil => writer.nil(),
        Reply::Status(text) if text == "OK" => writer.ok(),
        Reply::Status(text) => writer.status(text),
        Reply::Integer(value) => writer.integer(*value),
        Reply::Boolean(value) => writer.boolean(*value),
        Reply::Double(value) => writer.double(*value),
        Reply::Bulk(bytes) => writer.bulk(bytes),
        Reply::Error(message) => writer.error(message),
        Reply::Array(elements) => {
            writer.array(elements.len());
            elements.iter().for_each(|element| write(element, writer));
        }
        Reply::Map(pairs) => {
            writer.map(pairs.len());
            for (key, value) in pairs {
                write(key, writer);
                write(value, writer);
            }
        }
        Reply::Push(elements) => {
            writer.push(elements.len());
            elements.iter().for_each(|element| write(element, writer));
        }
        Reply::Dropped(size) => panic!("a reply of {size} bytes was dropped, for which there is memory"),
    }
}

/// Whether it is something that a server of ours would say, and small enough to be read again.
fn is_ours(reply: &Reply) -> bool {
    match reply {
        Reply::Status(text) => text.len() <= LIMITS.line_size_max,
        Reply::Error(text) => {
            text.len() <= LIMITS.line_size_max
                && text.starts_with(|first: char| first.is_ascii_uppercase())
                && !text.contains(['\r', '\n'])
        }
        Reply::Double(value) => !value.is_nan(),
        Reply::Array(elements) | Reply::Push(elements) => elements.iter().all(is_ours),
        Reply::Map(pairs) => pairs.iter().all(|(key, value)| is_ours(key) && is_ours(value)),
        _ => true,
    }
}

pub fn run(input: &[u8]) {
    let mut bytes = Input::new(input);
    let count = usize::from(bytes.byte() % 32);
    let sizes = bytes.take(count);
    let stream = bytes.rest();
    let (whole, error) = read(stream, &mut Input::new(&[]));
    let (cut, cut_error) = read(stream, &mut Input::new(sizes));
    // Not-a-number is not equal to itself, but looks the same.
    assert_eq!(format!("{cut:?}"), format!("{whole:?}"));
    assert_eq!(cut_error, error);
    for reply in whole.iter().filter(|reply| is_ours(reply)) {
        let mut written = Vec::new();
        write(reply, &mut RespWriter::new(&mut written, Protocol::Resp3));
        let (again, error) = read(&written, &mut Input::new(sizes));
        assert_eq!(error, None, "{}", written.escape_ascii());
        assert_eq!(again, std::slice::from_ref(reply), "{}", written.escape_ascii());
    }
}
