//! Reading requests, on the server's side: a parser that takes bytes as they come, and gives ranges of them.

use std::ops::Range;

use super::error::ProtocolError;
use super::number::{Sign, read_crlf, read_number, within};
use crate::limits::KEY_SIZE_MAX;

/// Room for arguments that a parser keeps from one request to the next. One request of a million
/// arguments must not cost its connection 16 MB for ever; a typical one must not allocate.
const ARGUMENTS_RETAINED: usize = 1024;

/// How large a request may be. The limits come from the caller, so that tests can shrink them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// The most arguments of one request, its command name included.
    pub arguments_max: usize,
    /// After so many arguments of one request the parser pauses.
    pub arguments_at_once: usize,
    /// The largest argument in bytes.
    pub argument_size_max: usize,
    /// The longest inline request in bytes, without its line end.
    pub inline_size_max: usize,
    /// The smallest value of a `SET` that is offered as [`Parsed::LargeValue`].
    pub large_value_size: usize,
}

/// What [`RequestParser::parse`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// The request is not there yet: append more bytes and parse again from the same start.
    Incomplete {
        /// At least this many bytes are still missing; 1 if unknown. It is the peer's claim: use it
        /// to choose how much to read at once, not how much to allocate.
        missing: usize,
    },
    /// So many arguments were found that others may want their turn before the rest: parse again, from the same start.
    Paused,
    /// A `SET` whose large value has not been looked at yet. Said once; the caller has the choice:
    ///
    /// - to parse again, and to get the request when all of it is there,
    /// - or to take the value's `size` bytes out of the input at `start` as they arrive, to call
    ///   [`RequestParser::leave_out`] once all of them are out, and to get the request with an empty
    ///   value.
    LargeValue {
        /// Where the key lies.
        key: Range<usize>,
        /// Where the value begins.
        start: usize,
        /// Its size.
        size: usize,
    },
    /// A request is complete. Without arguments (an empty line, `*0`, `*-1`) there is nothing to
    /// execute or answer.
    Complete {
        /// How many bytes it takes from the start of the input.
        size: usize,
    },
}

/// Reads requests, multibulk or inline, from a buffer that grows, by the contract in [`super`].
#[derive(Debug)]
pub struct RequestParser {
    limits: RequestLimits,
    state: RequestState,
    /// Everything before it has been dealt with. At a header it is the header's first byte, in an
    /// inline request the first byte not yet searched for a line end, in an argument the argument's
    /// first byte.
    position: usize,
    /// Arguments read so far; complete, and shown to the caller, only in state `Start`.
    arguments: Vec<Range<usize>>,
    /// Bytes of the request that the caller has taken out of the input.
    left_out: usize,
    /// Whether the request is an inline one.
    inline: bool,
}

#[derive(Debug)]
enum RequestState {
    /// Before the first byte of a request; also after a complete one.
    Start,
    /// In the line of an inline request.
    Inline,
    /// At the `$` of an argument; `remaining` counts it and those after it.
    ArgumentHeader { remaining: usize },
    /// In the bytes of an argument or its CR LF; `offered` if these are known to the caller as a large
    /// value.
    ArgumentBody { remaining: usize, size: usize, offered: bool },
    /// Closed for ever.
    Failed(ProtocolError),
}

impl RequestParser {
    /// A parser for the requests of one connection.
    pub fn new(limits: RequestLimits) -> Self {
        Self { limits, state: RequestState::Start, position: 0, arguments: Vec::new(), left_out: 0, inline: false }
    }

    /// Looks for one request at the start of `input`.
    ///
    /// As long as the answer is [`Parsed::Incomplete`], the next call gets the same bytes and more
    /// of them. After [`Parsed::Complete`] the next call gets what follows the request's `size`
    /// bytes.
    ///
    /// # Errors
    ///
    /// The client broke the protocol or a limit. The connection is to be closed; every later call
    /// gives the same error.
    pub fn parse(&mut self, input: &[u8]) -> Result<Parsed, ProtocolError> {
        debug_assert!(
            input.len() >= self.position,
            "the input of a request may only grow: {} bytes, {} already parsed",
            input.len(),
            self.position
        );
        let closed = matches!(self.state, RequestState::Failed(_));
        let mut parsed = self.advance(input);
        if !closed {
            parsed = parsed.map_err(|error| self.place(error));
        }
        if let Err(error) = &parsed {
            self.arguments.clear();
            self.state = RequestState::Failed(error.clone());
        }
        parsed
    }

    /// Where the arguments of the request just completed lie in the input. Empty at any other time.
    pub fn arguments(&self) -> &[Range<usize>] {
        match self.state {
            RequestState::Start => &self.arguments,
            _ => &[],
        }
    }

    /// Whether the request just completed is a plain line, as people send, and other protocols.
    pub fn is_inline(&self) -> bool {
        self.inline
    }

    /// Goes on behind a large value, all of which was taken out of the input.
    pub fn leave_out(&mut self) {
        if let RequestState::ArgumentBody { size, offered: true, .. } = &mut self.state {
            self.left_out = std::mem::take(size);
        }
    }

    /// An error's place, as the peer counts, who knows of nothing that was taken out.
    fn place(&self, error: ProtocolError) -> ProtocolError {
        match error {
            ProtocolError::ExpectedBulk { found, position } => {
                ProtocolError::ExpectedBulk { found, position: position + self.left_out }
            }
            ProtocolError::MissingCrlf { found, position } => {
                ProtocolError::MissingCrlf { found, position: position + self.left_out }
            }
            error => error,
        }
    }

    fn advance(&mut self, input: &[u8]) -> Result<Parsed, ProtocolError> {
        const UNKNOWN: Parsed = Parsed::Incomplete { missing: 1 };
        loop {
            match self.state {
                RequestState::Start => {
                    (self.position, self.left_out, self.inline) = (0, 0, false);
                    self.arguments.clear();
                    self.arguments.shrink_to(ARGUMENTS_RETAINED);
                    match input.first() {
                        None => return Ok(UNKNOWN),
                        Some(b'*') => {}
                        Some(_) => {
                            (self.state, self.inline) = (RequestState::Inline, true);
                            continue;
                        }
                    }
                    let invalid = |text| ProtocolError::InvalidCount { text };
                    let Some((count, next)) = read_number(input, 1, Sign::Minus, invalid)? else {
                        return Ok(UNKNOWN);
                    };
                    if matches!(count, -1 | 0) {
                        return Ok(self.complete(next));
                    }
                    let remaining = self.check_count(count)?;
                    self.position = next;
                    self.state = RequestState::ArgumentHeader { remaining };
                }
                RequestState::Inline => return self.advance_inline(input),
                RequestState::ArgumentHeader { remaining } => {
                    let position = self.position;
                    match input.get(position) {
                        None => return Ok(UNKNOWN),
                        Some(b'$') => {}
                        Some(&found) => {
                            return Err(ProtocolError::ExpectedBulk { found, position });
                        }
                    }
                    let invalid = |text| ProtocolError::InvalidSize { text };
                    let number = read_number(input, position + 1, Sign::Minus, invalid)?;
                    let Some((size, next)) = number else {
                        return Ok(UNKNOWN);
                    };
                    let size = self.check_size(size)?;
                    self.position = next;
                    let offered = size >= self.limits.large_value_size && self.is_value_of_set(input);
                    self.state = RequestState::ArgumentBody { remaining, size, offered };
                    if offered {
                        return Ok(Parsed::LargeValue { key: self.arguments[1].clone(), start: next, size });
                    }
                }
                RequestState::ArgumentBody { remaining, size, .. } => {
                    // Saturated, it is an end that no input reaches.
                    let end = self.position.saturating_add(size);
                    let Some(next) = read_crlf(input, end)? else {
                        let missing = end.saturating_add(2).saturating_sub(input.len());
                        return Ok(Parsed::Incomplete { missing });
                    };
                    self.arguments.push(self.position..end);
                    if remaining == 1 {
                        return Ok(self.complete(next));
                    }
                    let remaining = remaining - 1;
                    self.position = next;
                    self.state = RequestState::ArgumentHeader { remaining };
                    if self.arguments.len().is_multiple_of(self.limits.arguments_at_once) {
                        return Ok(Parsed::Paused);
                    }
                }
                RequestState::Failed(ref error) => return Err(error.clone()),
            }
        }
    }

    /// Whether the argument that comes next is the value of a `SET`, and the key is one that may be.
    fn is_value_of_set(&self, input: &[u8]) -> bool {
        match &self.arguments[..] {
            [name, key] => input[name.clone()].eq_ignore_ascii_case(b"SET") && key.len() <= KEY_SIZE_MAX,
            _ => false,
        }
    }

    fn advance_inline(&mut self, input: &[u8]) -> Result<Parsed, ProtocolError> {
        // The LF stands at the latest behind a longest line and its CR. Nothing beyond is looked
        // at, so that the verdict does not depend on how much has arrived.
        let limit = self.limits.inline_size_max;
        let window = &input[..input.len().min(limit.saturating_add(2))];
        let unseen = window.get(self.position..).unwrap_or_default();
        let Some(offset) = unseen.iter().position(|&byte| byte == b'\n' || is_foreign(byte)) else {
            if window.len() == limit.saturating_add(2) {
                return Err(ProtocolError::InlineSize { limit });
            }
            self.position = self.position.max(window.len());
            return Ok(Parsed::Incomplete { missing: 1 });
        };
        let line_end = self.position + offset;
        if window[line_end] != b'\n' {
            return Err(ProtocolError::InlineByte { found: window[line_end], position: line_end });
        }
        let line = &window[..line_end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > limit {
            return Err(ProtocolError::InlineSize { limit });
        }
        self.split_inline(line)?;
        Ok(self.complete(line_end + 1))
    }

    /// Finds the arguments of an inline request. The line is the start of the input, so its indices
    /// are the input's.
    fn split_inline(&mut self, line: &[u8]) -> Result<(), ProtocolError> {
        let mut position = 0;
        loop {
            while line.get(position).copied().is_some_and(is_blank) {
                position += 1;
            }
            let argument = match line.get(position) {
                None => return Ok(()),
                Some(&quote @ (b'"' | b'\'')) => {
                    let start = position + 1;
                    let end = find_closing_quote(line, start, quote)?;
                    position = end + 1;
                    start..end
                }
                Some(_) => {
                    let start = position;
                    while let Some(&byte) = line.get(position)
                        && !is_blank(byte)
                    {
                        if matches!(byte, b'"' | b'\'') {
                            return Err(ProtocolError::InlineQuotes { position });
                        }
                        position += 1;
                    }
                    start..position
                }
            };
            self.check_size(argument.len() as i64)?;
            self.check_count(self.arguments.len() as i64 + 1)?;
            self.arguments.push(argument);
        }
    }

    #[must_use]
    fn complete(&mut self, size: usize) -> Parsed {
        self.position = 0;
        self.state = RequestState::Start;
        Parsed::Complete { size }
    }

    fn check_count(&self, count: i64) -> Result<usize, ProtocolError> {
        let limit = self.limits.arguments_max;
        within(count, limit).ok_or(ProtocolError::ArgumentCount { count, limit })
    }

    fn check_size(&self, size: i64) -> Result<usize, ProtocolError> {
        let limit = self.limits.argument_size_max;
        within(size, limit).ok_or(ProtocolError::ArgumentSize { size, limit })
    }
}

/// The index of the quote that closes the argument beginning at `start`: the argument's end.
fn find_closing_quote(line: &[u8], start: usize, quote: u8) -> Result<usize, ProtocolError> {
    let mut position = start;
    while let Some(&byte) = line.get(position) {
        let follower = line.get(position + 1).copied();
        if byte == quote {
            // `"a"b` would be one argument or two, depending on the reader. Redis refuses it, too.
            return match follower {
                Some(byte) if !is_blank(byte) => Err(ProtocolError::InlineQuotes { position }),
                _ => Ok(position),
            };
        }
        // Double quotes know many escapes, single quotes only that of the quote itself.
        if byte == b'\\' && (quote == b'"' || follower == Some(quote)) {
            return Err(ProtocolError::InlineQuotes { position });
        }
        position += 1;
    }
    // Never closed: the opening quote is to blame.
    Err(ProtocolError::InlineQuotes { position: start - 1 })
}

/// Whether no line of text has such a byte. What begins a TLS connection or that of a database has some in front, and
/// what it says later may hold a whole line that somebody else has chosen.
fn is_foreign(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\n' && !is_blank(byte)
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | 0x0b | 0x0c)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Outcome, REQUEST_LIMITS, read_requests, request};
    use super::super::write::write_request;
    use super::*;

    #[test]
    fn a_pipeline_reads_the_same_however_it_is_cut() {
        let stream: &[u8] = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$11\r\nline\r\nbreak\r\n\
            PING\r\n\
            \r\n\
            *1\r\n$0\r\n\r\n\
            *0\r\n*-1\r\n\
              get \t 'two words' \"\"\n\
            *2\r\n$3\r\nDEL\r\n$3\r\nke";
        let expected = Outcome {
            messages: vec![
                request(&["SET", "key", "line\r\nbreak"]),
                request(&["PING"]),
                request(&[]),
                request(&[""]),
                request(&[]),
                request(&[]),
                request(&["get", "two words", ""]),
            ],
            end: Ok(b"*2\r\n$3\r\nDEL\r\n$3\r\nke".len()),
        };
        assert_eq!(read_requests(REQUEST_LIMITS, [stream]), expected);
        assert_eq!(read_requests(REQUEST_LIMITS, stream.chunks(1)), expected, "byte by byte");
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let pieces = [&stream[..first], &stream[first..second], &stream[second..]];
                assert_eq!(read_requests(REQUEST_LIMITS, pieces), expected, "cut at {first}, {second}");
            }
        }
    }

    /// Everything already seen is overwritten before the rest arrives: if it was looked at again,
    /// the parser would stumble. So the work is linear, which no stop-watch could show as surely.
    #[test]
    fn bytes_once_seen_are_not_looked_at_again() {
        const SIZE: usize = 1 << 20;
        const PIECE_SIZE: usize = 1 << 10;
        let limits =
            RequestLimits { arguments_max: 3, argument_size_max: SIZE, inline_size_max: SIZE, ..REQUEST_LIMITS };
        let mut stream = Vec::new();
        write_request(&mut stream, &[b"SET", b"key", &vec![b'v'; SIZE]]);
        let mut parser = RequestParser::new(limits);
        let mut input = Vec::new();
        for piece in stream.chunks(PIECE_SIZE) {
            input.extend_from_slice(piece);
            match parser.parse(&input) {
                Ok(Parsed::Incomplete { missing }) => {
                    assert_eq!(missing, stream.len() - input.len(), "the hint is exact in a bulk");
                }
                parsed => assert_eq!(parsed, Ok(Parsed::Complete { size: stream.len() })),
            }
            input.fill(b'!');
        }
        let header_size = stream.len() - SIZE - 2;
        assert_eq!(parser.arguments()[2], header_size..header_size + SIZE);

        let mut parser = RequestParser::new(limits);
        let mut input = Vec::new();
        for piece in [vec![b'v'; SIZE], b"\r\n".to_vec()].concat().chunks(PIECE_SIZE) {
            input.extend_from_slice(piece);
            match parser.parse(&input) {
                Ok(Parsed::Incomplete { missing }) => assert_eq!(missing, 1),
                parsed => assert_eq!(parsed, Ok(Parsed::Complete { size: SIZE + 2 })),
            }
            // A line end in the part already seen must go unnoticed.
            input.fill(b'\n');
        }
    }

    /// It asks for memory only as arguments arrive.
    #[test]
    fn claims_cost_no_memory() {
        let mut parser = RequestParser::new(RequestLimits {
            arguments_max: usize::MAX,
            arguments_at_once: usize::MAX,
            argument_size_max: usize::MAX,
            inline_size_max: usize::MAX,
            large_value_size: usize::MAX,
        });
        let claim = b"*9223372036854775807\r\n$9223372036854775807\r\nx";
        let missing = i64::MAX as usize + 2 - 1;
        assert_eq!(parser.parse(claim), Ok(Parsed::Incomplete { missing }));
        assert_eq!(parser.arguments.capacity(), 0);

        // Nor does a request that did arrive cost memory for ever.
        let arguments = vec![&b"a"[..]; 100_000];
        let mut stream = Vec::new();
        write_request(&mut stream, &arguments);
        let limits = RequestLimits { arguments_max: arguments.len(), arguments_at_once: usize::MAX, ..REQUEST_LIMITS };
        let mut parser = RequestParser::new(limits);
        assert_eq!(parser.parse(&stream), Ok(Parsed::Complete { size: stream.len() }));
        assert_eq!(parser.arguments().len(), arguments.len());
        assert_eq!(parser.parse(b""), Ok(Parsed::Incomplete { missing: 1 }));
        assert!(parser.arguments.capacity() <= ARGUMENTS_RETAINED);
    }

    #[test]
    fn many_arguments_are_read_in_steps() {
        let arguments: [&[u8]; 7] = [b"DEL", b"a", b"", b"b", b"c", b"d", b"e"];
        let mut stream = Vec::new();
        write_request(&mut stream, &arguments);
        let limits = RequestLimits { arguments_max: 7, ..REQUEST_LIMITS };
        let mut parser = RequestParser::new(limits);
        assert_eq!(parser.parse(&stream), Ok(Parsed::Paused));
        assert!(parser.arguments().is_empty(), "nothing is shown of a request that is not complete");
        assert_eq!(parser.parse(&stream), Ok(Parsed::Paused));
        assert_eq!(parser.parse(&stream), Ok(Parsed::Complete { size: stream.len() }));
        assert!(parser.arguments().iter().map(|range| &stream[range.clone()]).eq(arguments));
    }

    #[test]
    fn limits_are_inclusive() {
        let fitting: [&[u8]; 4] = [
            b"*4\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n$20\r\n01234567890123456789\r\n",
            b"a b c 01234567890123456789\r\n",
            b"0123456789 0123456789 0123456789\r\n",
            b"0123456789 0123456789 0123456789\n",
        ];
        for stream in fitting {
            let outcome = read_requests(REQUEST_LIMITS, stream.chunks(1));
            assert_eq!((outcome.messages.len(), outcome.end), (1, Ok(0)), "{}", stream.escape_ascii());
        }
    }

    #[test]
    fn malformed_requests_are_refused() {
        use ProtocolError as E;
        let count = |count| E::ArgumentCount { count, limit: 4 };
        let size = |size| E::ArgumentSize { size, limit: 20 };
        let invalid_count = |text: &str| E::InvalidCount { text: text.into() };
        let invalid_size = |text: &str| E::InvalidSize { text: text.into() };
        let crlf = |found, position| E::MissingCrlf { found, position };
        let quotes = |position| E::InlineQuotes { position };
        let inline_size = || E::InlineSize { limit: 32 };
        let not_bulk = |found, position| E::ExpectedBulk { found, position };
        let table: &[(&[u8], ProtocolError)] = &[
            // Counts.
            (b"*-2\r\n", count(-2)),
            (b"*5\r\n", count(5)),
            (b"*9223372036854775807\r\n", count(i64::MAX)),
            (b"*-9223372036854775808\r\n", count(i64::MIN)),
            (b"*9223372036854775808\r\n", invalid_count("9223372036854775808")),
            (b"*99999999999999999999999\r\n", invalid_count("9999999999999999999")),
            (b"*\r\n", invalid_count("\\r")),
            (b"*-\r\n", invalid_count("-\\r")),
            (b"*+1\r\n", invalid_count("+")),
            (b"*01\r\n", invalid_count("01")),
            (b"*-0\r\n", invalid_count("-0")),
            (b"* 1\r\n", invalid_count(" ")),
            (b"*1 \r\n", invalid_count("1 ")),
            (b"*1x\r\n", invalid_count("1x")),
            (b"*\xff\r\n", invalid_count("\\xff")),
            // Bytes of other protocols.
            (b"\x16\x03\x01PING\r\n", E::InlineByte { found: 0x16, position: 0 }),
            (b"PING \0\r\n", E::InlineByte { found: 0, position: 5 }),
            (b"GET \"\x7f\"\r\n", E::InlineByte { found: 0x7f, position: 5 }),
            // Sizes.
            (b"*1\r\n$-1\r\n", size(-1)),
            (b"*1\r\n$21\r\n", size(21)),
            (b"*1\r\n$9223372036854775807\r\n", size(i64::MAX)),
            (b"*1\r\n$9223372036854775808\r\n", invalid_size("9223372036854775808")),
            (b"*1\r\n$\r\n\r\n", invalid_size("\\r")),
            (b"*1\r\n$1a\r\n", invalid_size("1a")),
            (b"*2\r\n$1\r\na\r\n$0x1\r\n", invalid_size("0x")),
            // Line ends.
            (b"*1\n", crlf(b'\n', 2)),
            (b"*1\r$1\r\n", crlf(b'$', 3)),
            (b"*1\r\n$4\nPING\r\n", crlf(b'\n', 6)),
            (b"*1\r\n$4\r\nPINGS\r\n", crlf(b'S', 12)),
            (b"*1\r\n$4\r\nPING\n\n", crlf(b'\n', 12)),
            (b"*1\r\n$4\r\nPING\r*", crlf(b'*', 13)),
            (b"*1\r\n$4\r\nPIN\r\n*1\r\n", crlf(b'\n', 12)),
            // Something else than an argument.
            (b"*1\r\nPING\r\n", not_bulk(b'P', 4)),
            (b"*2\r\n$1\r\na\r\n*1\r\n", not_bulk(b'*', 11)),
            // Inline.
            (b"a b c d e\r\n", count(5)),
            (b"get 012345678901234567890\r\n", size(21)),
            (b"0123456789 0123456789 0123456789x\r\n", inline_size()),
            (b"0123456789 0123456789 0123456789x\n", inline_size()),
            (b"0123456789 0123456789 0123456789xyz", inline_size()),
            (b"get \"key\r\n", quotes(4)),
            (b"get 'key\r\n", quotes(4)),
            (b"get key\"\r\n", quotes(7)),
            (b"get \"key\"x\r\n", quotes(8)),
            (b"get \"a\\n\"\r\n", quotes(6)),
            (b"get 'it\\'s'\r\n", quotes(7)),
            (b"get \"\r\n", quotes(4)),
        ];
        let first = b"*1\r\n$4\r\nPING\r\n";
        for (stream, error) in table {
            let shown = stream.escape_ascii().to_string();
            let expected = Outcome { messages: vec![], end: Err(error.clone()) };
            assert_eq!(read_requests(REQUEST_LIMITS, [*stream]), expected, "{shown}");
            assert_eq!(read_requests(REQUEST_LIMITS, stream.chunks(1)), expected, "{shown}, byte by byte");
            // A good request before it is served, and positions do not change.
            let pipeline = [&first[..], stream].concat();
            let outcome = read_requests(REQUEST_LIMITS, [&pipeline[..]]);
            assert_eq!((outcome.messages.len(), outcome.end), (1, Err(error.clone())), "{shown}");
        }
    }

    #[test]
    fn errors_are_worded_as_redis_words_them() {
        let table: &[(&[u8], &str)] = &[
            (b"*5\r\n", "Protocol error: invalid multibulk length: 5 arguments (allowed: 0 to 4 arguments)"),
            (
                b"*1\r\n$21\r\n",
                "Protocol error: invalid bulk length: 21 bytes in an argument \
                 (allowed: 0 to 20 bytes)",
            ),
            (b"*1\r\n\x00", "Protocol error: expected '$', got '\\x00' at byte 4 of the request"),
            (
                b"get 'a\r\n",
                "Protocol error: unbalanced quotes in request: at byte 4 (inline quotes must \
                 enclose a whole argument without escapes; send other bytes as a multibulk \
                 request)",
            ),
        ];
        for (stream, message) in table {
            let error = read_requests(REQUEST_LIMITS, [*stream]).end.unwrap_err();
            assert_eq!(error.to_string(), *message);
        }
    }
}
