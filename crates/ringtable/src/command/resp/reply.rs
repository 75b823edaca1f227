//! Reading replies, on the client's side: a parser that takes bytes as they come, and gives trees.

use super::error::{ProtocolError, invalid_scalar};
use super::number::{Sign, read_crlf, read_number, within};
use crate::command::reply::{Reply, try_copy};
use crate::limits::REPLY_DEPTH_MAX;

/// Room for elements that an aggregate gets before its elements have arrived, at most. A constant,
/// not a claim.
const ELEMENTS_RESERVED_MAX: usize = 64;

/// How large a reply may be. The limits come from the caller, so that tests can shrink them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyLimits {
    /// The most elements of one reply, those of nested aggregates included; a pair of a map counts
    /// twice.
    pub elements_max: usize,
    /// The largest string in bytes.
    pub bulk_size_max: usize,
    /// The longest status, error or number in bytes, without its line end.
    pub line_size_max: usize,
}

/// Reads replies from a buffer that grows, by the contract in [`super`].
#[derive(Debug)]
pub struct ReplyParser {
    limits: ReplyLimits,
    state: ReplyState,
    /// Everything before it has been dealt with. At a header it is the header's first byte, in a
    /// line the first byte not yet searched for a line end, in a string the string's first byte.
    position: usize,
    /// The aggregates that are open, outermost first; at most [`REPLY_DEPTH_MAX`].
    open: Vec<Aggregate>,
    /// How many elements the headers of this reply have announced so far.
    elements: usize,
    /// Whether nothing of this reply is kept, for want of memory.
    is_dropping: bool,
    /// How many bytes of this reply the caller has let go of before its end.
    let_go: usize,
}

#[derive(Debug)]
enum ReplyState {
    /// At the type byte of a value.
    Header,
    /// In a line that began at `start`, behind its type byte `kind`.
    Line { kind: u8, start: usize },
    /// In the bytes of a string of type `kind`, or its CR LF.
    Body { kind: u8, size: usize },
    /// Closed for ever.
    Failed(ProtocolError),
}

/// An aggregate whose elements are still arriving.
#[derive(Debug)]
struct Aggregate {
    kind: u8,
    /// How many elements are still to come: never 0 while it is open.
    remaining: usize,
    /// What has come. A map's keys and values alternate.
    elements: Vec<Reply>,
}

/// What one step of the reply parser gave.
enum Step {
    /// Needs more bytes.
    Incomplete,
    /// Went on, but has no value yet.
    Continue,
    /// A value is complete.
    Value(Reply),
}

impl ReplyParser {
    /// A parser for the replies of one connection.
    pub fn new(limits: ReplyLimits) -> Self {
        Self {
            limits,
            state: ReplyState::Header,
            position: 0,
            open: Vec::new(),
            elements: 0,
            is_dropping: false,
            let_go: 0,
        }
    }

    /// Looks for one reply at the start of `input`, and gives it with the number of bytes it took.
    ///
    /// As long as the answer is `None`, the next call gets the same bytes and more of them, but for
    /// those that [`Self::let_go`] says are not needed. After a reply the next call gets what
    /// follows the bytes it took.
    ///
    /// # Errors
    ///
    /// The server broke the protocol or a limit. (An error that it answers with is not one of these
    /// but a [`Reply::Error`].) The connection is to be closed; every later call gives the same
    /// error.
    pub fn parse(&mut self, input: &[u8]) -> Result<Option<(Reply, usize)>, ProtocolError> {
        debug_assert!(
            input.len() >= self.position,
            "the input of a reply may only grow: {} bytes, {} already parsed",
            input.len(),
            self.position
        );
        let parsed = self.advance(input);
        if let Err(error) = &parsed {
            self.open = Vec::new();
            self.state = ReplyState::Failed(error.clone());
        }
        parsed
    }

    /// Whether nothing of the reply at hand is kept: there was no memory for a part of it, here or
    /// at the caller's. It will be a [`Reply::Dropped`].
    pub fn is_dropping(&self) -> bool {
        self.is_dropping
    }

    /// Keeps nothing of the reply at hand any more, and says how many bytes at the start of the
    /// input are not needed. The caller drops them, and the next call gets what follows.
    pub fn let_go(&mut self) -> usize {
        self.drop_all();
        let size = match &mut self.state {
            ReplyState::Line { start, .. } => std::mem::take(start),
            _ => self.position,
        };
        self.position -= size;
        self.let_go += size;
        size
    }

    /// Drops what has come of the reply at hand, and what is still to come of it.
    fn drop_all(&mut self) {
        self.is_dropping = true;
        self.open.iter_mut().for_each(|aggregate| aggregate.elements = Vec::new());
    }

    fn advance(&mut self, input: &[u8]) -> Result<Option<(Reply, usize)>, ProtocolError> {
        loop {
            let step = match self.state {
                ReplyState::Header => self.advance_header(input)?,
                ReplyState::Line { kind, start } => self.advance_line(input, kind, start)?,
                ReplyState::Body { kind, size } => self.advance_body(input, kind, size)?,
                ReplyState::Failed(ref error) => return Err(error.clone()),
            };
            match step {
                Step::Incomplete => return Ok(None),
                Step::Continue => {}
                Step::Value(value) => {
                    self.state = ReplyState::Header;
                    if let Some(mut reply) = self.place(value) {
                        let size = self.position;
                        self.position = 0;
                        self.elements = 0;
                        let let_go = std::mem::take(&mut self.let_go);
                        if std::mem::take(&mut self.is_dropping) {
                            reply = match reply {
                                Reply::Push(_) => Reply::Push(Vec::new()),
                                _ => Reply::Dropped(let_go + size),
                            };
                        }
                        return Ok(Some((reply, size)));
                    }
                }
            }
        }
    }

    /// Puts a complete value into the innermost open aggregate, and that, if now complete, into the
    /// one around it. Gives the whole reply once nothing is open any more.
    fn place(&mut self, mut value: Reply) -> Option<Reply> {
        while let Some(mut aggregate) = self.open.pop() {
            if !self.is_dropping && !aggregate.push(value) {
                aggregate.elements = Vec::new();
                self.drop_all();
            }
            aggregate.remaining -= 1;
            if aggregate.remaining > 0 {
                self.open.push(aggregate);
                return None;
            }
            value = aggregate.close(self.open.is_empty()).unwrap_or_else(|| self.without_memory());
        }
        Some(value)
    }

    /// What stands in the place of a part of a reply that there is no memory for.
    fn without_memory(&mut self) -> Reply {
        self.drop_all();
        Reply::Nil
    }

    fn advance_header(&mut self, input: &[u8]) -> Result<Step, ProtocolError> {
        let position = self.position;
        let Some(&kind) = input.get(position) else {
            return Ok(Step::Incomplete);
        };
        let sign = match kind {
            b'+' | b'-' | b',' | b'(' | b'#' | b'_' => {
                self.position = position + 1;
                self.state = ReplyState::Line { kind, start: position + 1 };
                return Ok(Step::Continue);
            }
            b'$' | b'=' | b'!' | b'*' | b'~' | b'>' | b'%' => Sign::Minus,
            b':' => Sign::Any,
            found => return Err(ProtocolError::UnknownType { found, position }),
        };
        let invalid = |text| match kind {
            b'$' | b'=' | b'!' => ProtocolError::InvalidSize { text },
            b':' => ProtocolError::InvalidScalar { kind: "integer", text },
            _ => ProtocolError::InvalidCount { text },
        };
        let Some((value, next)) = read_number(input, position + 1, sign, invalid)? else {
            return Ok(Step::Incomplete);
        };
        self.position = next;
        match kind {
            b':' => Ok(Step::Value(Reply::Integer(value))),
            b'$' | b'*' if value == -1 => Ok(Step::Value(Reply::Nil)),
            b'$' | b'=' | b'!' => {
                let limit = self.limits.bulk_size_max;
                let size = within(value, limit).ok_or(ProtocolError::BulkSize { size: value, limit })?;
                self.state = ReplyState::Body { kind, size };
                Ok(Step::Continue)
            }
            _ => self.open_aggregate(value, kind),
        }
    }

    fn open_aggregate(&mut self, count: i64, kind: u8) -> Result<Step, ProtocolError> {
        let depth = self.open.len() + 1;
        if depth > REPLY_DEPTH_MAX {
            let limit = REPLY_DEPTH_MAX;
            return Err(ProtocolError::ReplyDepth { depth, limit });
        }
        // A map announces pairs. A negative count is left alone, to be reported as it was sent.
        let count = match kind {
            b'%' if count > 0 => count.saturating_mul(2),
            _ => count,
        };
        let own_count = self.check_elements(count)?;
        self.elements = self.check_elements(count.saturating_add(self.elements as i64))?;
        let aggregate = Aggregate {
            kind,
            remaining: own_count,
            elements: Vec::with_capacity(own_count.min(ELEMENTS_RESERVED_MAX)),
        };
        if own_count == 0 {
            let value = aggregate.close(self.open.is_empty()).unwrap_or_else(|| self.without_memory());
            return Ok(Step::Value(value));
        }
        self.open.push(aggregate);
        Ok(Step::Continue)
    }

    fn check_elements(&self, count: i64) -> Result<usize, ProtocolError> {
        let limit = self.limits.elements_max;
        within(count, limit).ok_or(ProtocolError::ElementCount { count, limit })
    }

    fn advance_line(&mut self, input: &[u8], kind: u8, start: usize) -> Result<Step, ProtocolError> {
        // The CR stands at the latest behind a longest line. As with inline requests, nothing
        // beyond is looked at.
        let limit = self.limits.line_size_max;
        let window_end = start.saturating_add(limit).saturating_add(1);
        let window = &input[..input.len().min(window_end)];
        let unseen = window.get(self.position..).unwrap_or_default();
        let Some(offset) = unseen.iter().position(|&byte| matches!(byte, b'\r' | b'\n')) else {
            if window.len() == window_end {
                return Err(ProtocolError::LineSize { limit });
            }
            self.position = self.position.max(window.len());
            return Ok(Step::Incomplete);
        };
        let line_end = self.position + offset;
        self.position = line_end;
        let Some(next) = read_crlf(input, line_end)? else {
            return Ok(Step::Incomplete);
        };
        let value = scalar(kind, &input[start..line_end])?;
        self.position = next;
        Ok(Step::Value(value))
    }

    fn advance_body(&mut self, input: &[u8], kind: u8, size: usize) -> Result<Step, ProtocolError> {
        // Saturated, it is an end that no input reaches.
        let end = self.position.saturating_add(size);
        if self.is_dropping && input.len() < end {
            self.state = ReplyState::Body { kind, size: end - input.len() };
            self.position = input.len();
            return Ok(Step::Incomplete);
        }
        let Some(next) = read_crlf(input, end)? else {
            return Ok(Step::Incomplete);
        };
        let bytes = &input[self.position..end];
        let value = match (kind, bytes) {
            // Perhaps not even all of it.
            _ if self.is_dropping => Reply::Nil,
            (b'!', _) => Reply::Error(String::from_utf8_lossy(bytes).into_owned()),
            // Three letters say how to show the text: `txt:` or `mkd:`.
            (b'=', [_, _, _, b':', text @ ..]) => self.bulk(text),
            (b'=', _) => return Err(invalid_scalar("verbatim string", bytes)),
            _ => self.bulk(bytes),
        };
        self.position = next;
        Ok(Step::Value(value))
    }

    fn bulk(&mut self, bytes: &[u8]) -> Reply {
        try_copy(bytes).map_or_else(|| self.without_memory(), Reply::Bulk)
    }
}

impl Aggregate {
    /// Adds what has come; `false` if there is no memory for it.
    fn push(&mut self, value: Reply) -> bool {
        let has_room = self.elements.try_reserve(1).is_ok();
        if has_room {
            self.elements.push(value);
        }
        has_room
    }

    /// All that has come; `None` if there is no memory for it. Only an outermost one can be a push.
    fn close(self, is_outermost: bool) -> Option<Reply> {
        match self.kind {
            b'%' => {}
            b'>' if is_outermost => return Some(Reply::Push(self.elements)),
            _ => return Some(Reply::Array(self.elements)),
        }
        let mut pairs = Vec::new();
        pairs.try_reserve_exact(self.elements.len() / 2).ok()?;
        let mut elements = self.elements.into_iter();
        while let (Some(key), Some(value)) = (elements.next(), elements.next()) {
            pairs.push((key, value));
        }
        Some(Reply::Map(pairs))
    }
}

/// The value of a line, given its type byte.
fn scalar(kind: u8, line: &[u8]) -> Result<Reply, ProtocolError> {
    match (kind, line) {
        (b'+', _) => Ok(Reply::Status(String::from_utf8_lossy(line).into_owned().into())),
        (b'-', _) => Ok(Reply::Error(String::from_utf8_lossy(line).into_owned())),
        (b'_', b"") => Ok(Reply::Nil),
        (b'_', _) => Err(invalid_scalar("null", line)),
        (b'#', b"t") => Ok(Reply::Boolean(true)),
        (b'#', b"f") => Ok(Reply::Boolean(false)),
        (b'#', _) => Err(invalid_scalar("boolean", line)),
        (b',', _) => std::str::from_utf8(line)
            .ok()
            .and_then(|text| text.parse().ok())
            .map(Reply::Double)
            .ok_or_else(|| invalid_scalar("double", line)),
        (b'(', [b'-' | b'+', digits @ ..] | digits) if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            Ok(Reply::Bulk(line.to_vec()))
        }
        (b'(', _) => Err(invalid_scalar("big number", line)),
        _ => unreachable!("type byte {kind} does not begin a line"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Outcome, REPLY_LIMITS, REPLY_LIMITS_WIDE, bulk, read_replies};
    use super::super::write::{HEADER_SIZE_MAX, push_bulk};
    use super::*;

    #[test]
    fn replies_read_the_same_however_they_are_cut() {
        let stream: &[u8] = b"+OK\r\n$-1\r\n*-1\r\n_\r\n$4\r\n\r\n\r\n\r\n\
            *3\r\n:1\r\n*2\r\n%1\r\n+a\r\n,1.5\r\n*0\r\n#t\r\n-ERR no\r\n*1\r\n$3\r\nab";
        let expected = Outcome {
            messages: vec![
                Reply::Status("OK".into()),
                Reply::Nil,
                Reply::Nil,
                Reply::Nil,
                bulk("\r\n\r\n"),
                Reply::Array(vec![
                    Reply::Integer(1),
                    Reply::Array(vec![
                        Reply::Map(vec![(Reply::Status("a".into()), Reply::Double(1.5))]),
                        Reply::Array(vec![]),
                    ]),
                    Reply::Boolean(true),
                ]),
                Reply::Error("ERR no".into()),
            ],
            end: Ok(b"*1\r\n$3\r\nab".len()),
        };
        assert_eq!(read_replies(REPLY_LIMITS, [stream]), expected);
        assert_eq!(read_replies(REPLY_LIMITS, stream.chunks(1)), expected, "byte by byte");
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let pieces = [&stream[..first], &stream[first..second], &stream[second..]];
                assert_eq!(read_replies(REPLY_LIMITS, pieces), expected, "cut at {first}, {second}");
            }
        }
    }

    /// As of requests: see [`super::super::request`].
    #[test]
    fn bytes_once_seen_are_not_looked_at_again() {
        const SIZE: usize = 1 << 20;
        const PIECE_SIZE: usize = 1 << 10;
        // Of a line only the last byte seen may be a CR to look at again.
        let mut parser = ReplyParser::new(REPLY_LIMITS_WIDE);
        let mut input = Vec::new();
        for piece in [&b"+sta"[..], b"", b"tus\r", b""] {
            input.extend_from_slice(piece);
            assert_eq!(parser.parse(&input), Ok(None));
            assert_eq!(parser.position, input.len().min("+status".len()));
        }

        // A string, inside an aggregate as well as on its own.
        for prefix in ["", "*3\r\n:1\r\n:2\r\n"] {
            let mut stream = prefix.as_bytes().to_vec();
            push_bulk(&mut stream, &vec![b'v'; SIZE]);
            let mut parser = ReplyParser::new(REPLY_LIMITS_WIDE);
            parser.limits.bulk_size_max = SIZE;
            let mut input = Vec::new();
            let mut pieces = stream.chunks(PIECE_SIZE).peekable();
            while let Some(piece) = pieces.next() {
                input.extend_from_slice(piece);
                let parsed = parser.parse(&input).unwrap();
                assert_eq!(parsed.is_some(), pieces.peek().is_none());
                assert!(parsed.is_none_or(|(_, size)| size == stream.len()));
                let header_end = parser.position.min(input.len());
                input[..header_end].fill(b'!');
            }
        }
    }

    /// Wherever it is let go of, and however its rest comes: the reply behind it is read as it was sent.
    #[test]
    fn a_reply_that_is_let_go_of_ends_where_it_ends() {
        const DROPPED: [&str; 8] = [
            "+a line\r\n",
            ":12345\r\n",
            "$-1\r\n",
            "$0\r\n\r\n",
            "$11\r\nline\r\n$3\r\n:\r\n",
            "=8\r\ntxt:some\r\n",
            "*4\r\n$3\r\nkey\r\n*0\r\n*2\r\n:1\r\n$2\r\n\r\n\r\n_\r\n",
            "%1\r\n$3\r\nkey\r\n%1\r\n+name\r\n#t\r\n",
        ];
        for dropped in DROPPED {
            let stream = format!("{dropped}:7\r\n").into_bytes();
            for (begin, piece_size) in (0..dropped.len()).flat_map(|begin| [(begin, 1), (begin, 3), (begin, 99)]) {
                let mut parser = ReplyParser::new(REPLY_LIMITS_WIDE);
                let mut input = stream[..begin].to_vec();
                assert_eq!(parser.parse(&input), Ok(None));
                let mut replies = Vec::new();
                input.drain(..parser.let_go());
                for piece in stream[begin..].chunks(piece_size) {
                    input.extend_from_slice(piece);
                    while let Some((reply, size)) = parser.parse(&input).unwrap() {
                        input.drain(..size);
                        replies.push(reply);
                    }
                    if parser.is_dropping() {
                        input.drain(..parser.let_go());
                        assert!(input.len() <= dropped.len().min(HEADER_SIZE_MAX), "it keeps nothing but a header");
                    }
                }
                assert_eq!(replies, [Reply::Dropped(dropped.len()), Reply::Integer(7)], "{dropped:?} at {begin}");
            }
        }
    }

    /// It asks for memory only as elements arrive, but for a constant.
    #[test]
    fn claims_cost_no_memory() {
        let mut parser = ReplyParser::new(ReplyLimits {
            elements_max: usize::MAX,
            bulk_size_max: usize::MAX,
            line_size_max: usize::MAX,
        });
        assert_eq!(parser.parse(b"*1000000000\r\n*1000000000\r\n$9223372036854775807\r\nx"), Ok(None));
        assert_eq!(parser.open.len(), 2);
        assert!(parser.open.iter().all(|open| open.elements.capacity() <= ELEMENTS_RESERVED_MAX));
    }

    #[test]
    fn limits_are_inclusive() {
        let fitting: [&[u8]; 4] = [
            b"$20\r\n01234567890123456789\r\n",
            b"+012345678901234567890123\r\n",
            b"%4\r\n:1\r\n:2\r\n:3\r\n:4\r\n:5\r\n:6\r\n:7\r\n*2\r\n:8\r\n:9\r\n",
            b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:8\r\n",
        ];
        for stream in fitting {
            let outcome = read_replies(REPLY_LIMITS, stream.chunks(1));
            assert_eq!((outcome.messages.len(), outcome.end), (1, Ok(0)), "{}", stream.escape_ascii());
        }
    }

    #[test]
    fn malformed_replies_are_refused() {
        use ProtocolError as E;
        let count = |count| E::ElementCount { count, limit: 10 };
        let size = |size| E::BulkSize { size, limit: 20 };
        let invalid_count = |text: &str| E::InvalidCount { text: text.into() };
        let invalid_size = |text: &str| E::InvalidSize { text: text.into() };
        let crlf = |found, position| E::MissingCrlf { found, position };
        let scalar = |kind, text: &str| E::InvalidScalar { kind, text: text.into() };
        let unknown = |found, position| E::UnknownType { found, position };
        let table: &[(&[u8], ProtocolError)] = &[
            (b"x\r\n", unknown(b'x', 0)),
            (b"\r\n", unknown(b'\r', 0)),
            (b"|1\r\n", unknown(b'|', 0)),
            (b"*2\r\n:1\r\n.\r\n", unknown(b'.', 8)),
            (b"*-2\r\n", count(-2)),
            (b"~-1\r\n", count(-1)),
            (b"%-1\r\n", count(-1)),
            (b"*11\r\n", count(11)),
            (b"%6\r\n", count(12)),
            (b"%9223372036854775807\r\n", count(i64::MAX)),
            (b"*2\r\n*4\r\n:1\r\n:2\r\n:3\r\n:4\r\n*5\r\n", count(11)),
            (b"*?\r\n", invalid_count("?")),
            (b"*1a\r\n", invalid_count("1a")),
            (b"*1\n", crlf(b'\n', 2)),
            (b"$-2\r\n", size(-2)),
            (b"$21\r\n", size(21)),
            (b"=-1\r\n", size(-1)),
            (b"!21\r\n", size(21)),
            (b"$?\r\n", invalid_size("?")),
            (b"$99999999999999999999\r\n", invalid_size("9999999999999999999")),
            (b"$3\r\nabcd\r\n", crlf(b'd', 7)),
            (b"$3\r\nabc\rd", crlf(b'd', 8)),
            (b"=3\r\nabc\r\n", scalar("verbatim string", "abc")),
            (b"=5\r\ntxt;a\r\n", scalar("verbatim string", "txt;a")),
            (b":\r\n", scalar("integer", "\\r")),
            (b":1.5\r\n", scalar("integer", "1.")),
            (b":9223372036854775808\r\n", scalar("integer", "9223372036854775808")),
            (b":1\rx", crlf(b'x', 3)),
            (b"#\r\n", scalar("boolean", "")),
            (b"#true\r\n", scalar("boolean", "true")),
            (b"_x\r\n", scalar("null", "x")),
            (b",1.5.1\r\n", scalar("double", "1.5.1")),
            (b",\xff\r\n", scalar("double", "\\xff")),
            (b"(\r\n", scalar("big number", "")),
            (b"(-\r\n", scalar("big number", "-")),
            (b"(12a\r\n", scalar("big number", "12a")),
            (b"+OK\n", crlf(b'\n', 3)),
            (b"+OK\r+", crlf(b'+', 4)),
            (b"+0123456789012345678901234\r\n", E::LineSize { limit: 24 }),
            (b"-0123456789012345678901234", E::LineSize { limit: 24 }),
            (b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*0\r\n", E::ReplyDepth { depth: 9, limit: 8 }),
        ];
        for (stream, error) in table {
            let shown = stream.escape_ascii().to_string();
            let expected = Outcome { messages: vec![], end: Err(error.clone()) };
            assert_eq!(read_replies(REPLY_LIMITS, [*stream]), expected, "{shown}");
            assert_eq!(read_replies(REPLY_LIMITS, stream.chunks(1)), expected, "{shown}, byte by byte");
        }
    }

    #[test]
    fn the_types_of_version_3_are_read() {
        let digits = "3492890328409238509324850943850943825024385";
        let big = format!("({digits}\r\n(-{digits}\r\n");
        let table: &[(&[u8], Reply)] = &[
            (b"=8\r\ntxt:some\r\n", bulk("some")),
            (b"=4\r\nmkd:\r\n", bulk("")),
            (b"!7\r\nERR\r\nno\r\n", Reply::Error("ERR\r\nno".into())),
            (b"~1\r\n:1\r\n", Reply::Array(vec![Reply::Integer(1)])),
            (b">1\r\n+message\r\n", Reply::Push(vec![Reply::Status("message".into())])),
            (b">0\r\n", Reply::Push(vec![])),
            (b"*1\r\n>1\r\n:1\r\n", Reply::Array(vec![Reply::Array(vec![Reply::Integer(1)])])),
            (b"%0\r\n", Reply::Map(vec![])),
            (b":+7\r\n", Reply::Integer(7)),
            (b":-9223372036854775808\r\n", Reply::Integer(i64::MIN)),
            (b",10\r\n", Reply::Double(10.0)),
            (b",-inf\r\n", Reply::Double(f64::NEG_INFINITY)),
            (b",1.5E-3\r\n", Reply::Double(0.0015)),
            (b"#f\r\n", Reply::Boolean(false)),
            (b"+\xff\r\n", Reply::Status("\u{fffd}".into())),
        ];
        for (stream, reply) in table {
            let outcome = read_replies(REPLY_LIMITS, [*stream]);
            assert_eq!(outcome.messages, std::slice::from_ref(reply), "{}", stream.escape_ascii());
            assert_eq!(outcome.end, Ok(0));
        }
        assert_eq!(
            read_replies(REPLY_LIMITS_WIDE, [big.as_bytes()]).messages,
            [bulk(digits), bulk(&format!("-{digits}"))]
        );
        // The limits count anew for each reply.
        let stream = b"*2\r\n:1\r\n:2\r\n".repeat(REPLY_LIMITS.elements_max);
        let outcome = read_replies(REPLY_LIMITS, [&stream[..]]);
        assert_eq!(outcome.messages.len(), REPLY_LIMITS.elements_max);
        let nan = read_replies(REPLY_LIMITS, [&b",nan\r\n"[..]]);
        assert!(matches!(nan.messages[..], [Reply::Double(value)] if value.is_nan()));
    }
}
