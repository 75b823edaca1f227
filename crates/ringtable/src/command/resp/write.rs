//! Writing: requests on the client's side, replies on the server's, in either version of the protocol.

use crate::command::integer::{INTEGER_SIZE_MAX, decimal};
use crate::command::protocol::Protocol;
use crate::command::reply::{Destination, ReplyWriter};
use crate::shm::segment::Mapping;
use crate::table::HeldEntry;

/// The longest header: a type byte, a sign, 19 digits, CR and LF.
pub const HEADER_SIZE_MAX: usize = 1 + 1 + 19 + 2;

/// Appends one request, in its multibulk form, to `out`. Every Redis server understands it; nothing
/// needs quoting.
///
/// A request has at least a command's name: servers skip one without arguments, so that its reply
/// would never come.
pub fn write_request(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    debug_assert!(!arguments.is_empty(), "a request without arguments has no reply");
    let size: usize = arguments.iter().map(|argument| argument.len() + HEADER_SIZE_MAX + 2).sum();
    out.reserve(HEADER_SIZE_MAX + size);
    push_header(out, b'*', arguments.len());
    for argument in arguments {
        push_bulk(out, argument);
    }
}

/// Writes replies to the end of a buffer.
#[derive(Debug)]
pub struct RespWriter<'a, D = Vec<u8>> {
    out: &'a mut D,
    protocol: Protocol,
}

impl<'a, D: Destination> RespWriter<'a, D> {
    /// A writer that appends to `out` in the given version.
    pub fn new(out: &'a mut D, protocol: Protocol) -> Self {
        Self { out, protocol }
    }

    /// Writes a line of text. It must not contain a line end, or the client would take what follows
    /// it for a reply of its own.
    fn line(&mut self, kind: u8, text: &str) {
        let out = self.out.bytes();
        out.reserve(text.len() + 3);
        out.push(kind);
        out.extend(text.bytes().map(|byte| match byte {
            b'\r' | b'\n' => b' ',
            byte => byte,
        }));
        out.extend_from_slice(b"\r\n");
    }
}

impl<D: Destination> ReplyWriter for RespWriter<'_, D> {
    fn ok(&mut self) {
        self.out.bytes().extend_from_slice(b"+OK\r\n");
    }

    fn status(&mut self, text: &str) {
        self.line(b'+', text);
    }

    fn error(&mut self, message: &str) {
        debug_assert!(
            message.starts_with(|first: char| first.is_ascii_uppercase()),
            "an error begins with its code word: {message:?}"
        );
        self.line(b'-', message);
    }

    fn nil(&mut self) {
        self.out.bytes().extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    fn integer(&mut self, value: i64) {
        push_number(self.out.bytes(), b':', value);
    }

    fn boolean(&mut self, value: bool) {
        self.out.bytes().extend_from_slice(match (self.protocol, value) {
            (Protocol::Resp2, false) => b":0\r\n",
            (Protocol::Resp2, true) => b":1\r\n",
            (Protocol::Resp3, false) => b"#f\r\n",
            (Protocol::Resp3, true) => b"#t\r\n",
        });
    }

    fn bulk(&mut self, bytes: &[u8]) {
        push_bulk(self.out.bytes(), bytes);
    }

    fn value(&mut self, held: HeldEntry<Mapping>) {
        let size = held.bytes().len();
        push_header(self.out.bytes(), b'$', size);
        self.out.hold(held, size);
        self.out.bytes().extend_from_slice(b"\r\n");
    }

    fn array(&mut self, count: usize) {
        push_header(self.out.bytes(), b'*', count);
    }

    fn map(&mut self, pairs: usize) {
        match self.protocol {
            Protocol::Resp2 => push_header(self.out.bytes(), b'*', 2 * pairs),
            Protocol::Resp3 => push_header(self.out.bytes(), b'%', pairs),
        }
    }

    fn double(&mut self, value: f64) {
        let text = format_double(value);
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => self.line(b',', &text),
        }
    }

    fn push(&mut self, count: usize) {
        debug_assert!(self.protocol == Protocol::Resp3, "a client that speaks RESP2 would take it for a reply");
        push_header(self.out.bytes(), b'>', count);
    }
}

/// Without an exponent where a person would write none: Rust's `{}` alone would give 1e300 three
/// hundred zeros.
pub(super) fn format_double(value: f64) -> String {
    let magnitude = value.abs();
    if value.is_nan() {
        "nan".to_owned()
    } else if value.is_infinite() || value == 0.0 || (1e-5..1e17).contains(&magnitude) {
        format!("{value}")
    } else {
        format!("{value:e}")
    }
}

pub(super) fn push_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    push_header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// A line with a size or a count, of which memory holds none that has more than 63 bits.
fn push_header(out: &mut Vec<u8>, kind: u8, value: usize) {
    push_number(out, kind, value as i64);
}

/// A line with a number in it.
fn push_number(out: &mut Vec<u8>, kind: u8, value: i64) {
    out.push(kind);
    out.extend_from_slice(decimal(value, &mut [0; INTEGER_SIZE_MAX]));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(protocol: Protocol, write: impl FnOnce(&mut RespWriter<'_>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut RespWriter::new(&mut out, protocol));
        out
    }

    #[test]
    fn each_version_writes_its_own_bytes() {
        type Write = fn(&mut RespWriter<'_>);
        let table: &[(Write, &str, &str)] = &[
            (|w| w.ok(), "+OK\r\n", "+OK\r\n"),
            (|w| w.status("a\r\nb"), "+a  b\r\n", "+a  b\r\n"),
            (|w| w.error("ERR a\r\n+OK"), "-ERR a  +OK\r\n", "-ERR a  +OK\r\n"),
            (|w| w.nil(), "$-1\r\n", "_\r\n"),
            (|w| w.integer(0), ":0\r\n", ":0\r\n"),
            (|w| w.integer(i64::MIN), ":-9223372036854775808\r\n", ":-9223372036854775808\r\n"),
            (|w| w.boolean(true), ":1\r\n", "#t\r\n"),
            (|w| w.boolean(false), ":0\r\n", "#f\r\n"),
            (|w| w.bulk(b""), "$0\r\n\r\n", "$0\r\n\r\n"),
            (|w| w.bulk(b"a\r\nb"), "$4\r\na\r\nb\r\n", "$4\r\na\r\nb\r\n"),
            (|w| w.array(3), "*3\r\n", "*3\r\n"),
            (|w| w.map(3), "*6\r\n", "%3\r\n"),
            (|w| w.double(1.0), "$1\r\n1\r\n", ",1\r\n"),
            (|w| w.double(-0.25), "$5\r\n-0.25\r\n", ",-0.25\r\n"),
            (|w| w.double(1e300), "$5\r\n1e300\r\n", ",1e300\r\n"),
            (|w| w.double(f64::INFINITY), "$3\r\ninf\r\n", ",inf\r\n"),
            (|w| w.double(-f64::NAN), "$3\r\nnan\r\n", ",nan\r\n"),
        ];
        assert_eq!(written(Protocol::Resp3, |w| w.push(3)), b">3\r\n");
        for (write, version_2, version_3) in table {
            let bytes = written(Protocol::Resp2, write);
            assert_eq!(bytes, version_2.as_bytes(), "{}", bytes.escape_ascii());
            let bytes = written(Protocol::Resp3, write);
            assert_eq!(bytes, version_3.as_bytes(), "{}", bytes.escape_ascii());
        }
    }
}
