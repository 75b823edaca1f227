//! The Redis serialization protocol, versions 2 and 3: requests and replies as bytes, in both
//! directions.
//!
//! # Design
//!
//! The server reads with [`RequestParser`] and answers with [`RespWriter`]; the client asks with
//! [`write_request`] and reads with [`ReplyParser`]. Nothing here does input or output: all of it
//! works on byte slices and vectors that the caller fills and drains, so that sockets, tests and
//! fuzzers run the same code.
//!
//! Both parsers are incremental and follow one contract. The caller keeps a buffer that begins at
//! the first byte of a message, appends what arrives, and calls `parse` with **all** of it again;
//! the parser remembers how far it got. Once a message is complete, the caller drops as many bytes
//! as `parse` said and goes on with the rest, which may already hold the next message.
//!
//! ```text
//!   first call      second call        third call
//!   *2\r\n$3\r\nG | ET\r\n$9\r\nsome | value\r\n*1\r\n$4\r\nPING\r\n
//!               ^               ^               ^
//!               position        position        Complete { size }: the next message begins here
//! ```
//!
//! A request is handed out as ranges of the caller's buffer, so that parsing copies nothing. A
//! reply is handed out as an owned tree, since on the client's side it outlives the buffer.
//!
//! # Invariants
//!
//! - Parsing takes O(total bytes), however the bytes are cut into pieces: bytes before `position`
//!   are never looked at again. The one exception is a header such as `$512\r\n`, which is at most
//!   [`HEADER_SIZE_MAX`] bytes long and is read again from its first byte while it is incomplete.
//! - The result does not depend on how the bytes were cut, and neither does the error.
//! - Memory grows with the bytes received, never with a length that the peer merely claims.
//! - Every range in [`RequestParser::arguments`] lies within the first `size` bytes of the input.
//! - No input causes a panic.
//! - An error is final: a stream that has lost its framing cannot be resumed. The parser repeats
//!   the error for every later call; report it to the peer if that is still possible, then close
//!   the connection.
//!
//! # What is not promised
//!
//! - The size of a whole request is bounded only by the product of its limits. A server bounds what
//!   it buffers for a client by itself, and must not allocate by [`Parsed::Incomplete`]'s hint
//!   alone, which is the peer's claim.
//! - Inline requests know quotes around a whole argument, but no escapes (an argument is a range of
//!   the input, so it cannot differ from it). What cannot be said that way is refused, never
//!   misread.
//! - RESP3 attributes (`|`) and streamed strings and aggregates (`$?`, `*?`) are refused: our
//!   server sends none.
//! - Push messages are not told apart from arrays. A client that subscribes to something needs more
//!   than this.
//!
//! # Source
//!
//! The Redis serialization protocol specification (RESP2 and RESP3). Numbers are read as strictly
//! as Redis reads them: no leading zeros, no blanks.

use std::ops::Range;

use super::integer::{INTEGER_SIZE_MAX, decimal};
use super::protocol::Protocol;
use super::reply::{Destination, Reply, ReplyWriter, try_copy};
use crate::limits::{KEY_SIZE_MAX, REPLY_DEPTH_MAX};
use crate::shm::segment::Mapping;
use crate::table::Held;

/// The longest header: a type byte, a sign, 19 digits, CR and LF.
pub const HEADER_SIZE_MAX: usize = 1 + 1 + 19 + 2;

/// Room for arguments that a parser keeps from one request to the next. One request of a million
/// arguments must not cost its connection 16 MB for ever; a typical one must not allocate.
const ARGUMENTS_RETAINED: usize = 1024;

/// Room for elements that an aggregate gets before its elements have arrived, at most. A constant,
/// not a claim.
const ELEMENTS_RESERVED_MAX: usize = 64;

/// How much of a faulty text an error message quotes.
const QUOTED_SIZE_MAX: usize = 32;

/// The peer broke the protocol. The connection cannot be used any more: report this and close it.
///
/// The messages begin as those of Redis do, so that people (and clients that match on text)
/// recognize them. Write them to a client as `ERR {error}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A request announced fewer than -1 or too many arguments, or an inline request has too many.
    #[error(
        "Protocol error: invalid multibulk length: {count} arguments \
         (allowed: 0 to {limit} arguments)"
    )]
    ArgumentCount {
        /// What was announced; for an inline request the count at which reading stopped.
        count: i64,
        /// The most arguments a request may have.
        limit: usize,
    },

    /// An argument of a request is larger than allowed, or was announced with a negative size.
    #[error(
        "Protocol error: invalid bulk length: {size} bytes in an argument \
         (allowed: 0 to {limit} bytes)"
    )]
    ArgumentSize {
        /// The announced size.
        size: i64,
        /// The largest allowed size.
        limit: usize,
    },

    /// A reply announced a negative number of elements, or more than allowed (nested ones
    /// included).
    #[error(
        "Protocol error: invalid multibulk length: {count} elements in a reply \
         (allowed: 0 to {limit} elements)"
    )]
    ElementCount {
        /// What was announced, or the sum of what was announced so far.
        count: i64,
        /// The most elements a reply may have.
        limit: usize,
    },

    /// A string in a reply is larger than allowed, or was announced with a negative size (other
    /// than nil).
    #[error("Protocol error: invalid bulk length: {size} bytes in a reply (allowed: 0 to {limit} bytes)")]
    BulkSize {
        /// The announced size.
        size: i64,
        /// The largest allowed size.
        limit: usize,
    },

    /// A count of arguments or elements is not a decimal number, or does not fit 64 bits.
    #[error("Protocol error: invalid multibulk length: '{text}' does not begin a 64-bit decimal count")]
    InvalidCount {
        /// The text up to the first byte that cannot belong to the number, escaped.
        text: String,
    },

    /// The size of a string is not a decimal number, or does not fit 64 bits.
    #[error(
        "Protocol error: invalid bulk length: '{text}' does not begin a 64-bit decimal size \
         in bytes"
    )]
    InvalidSize {
        /// The text up to the first byte that cannot belong to the number, escaped.
        text: String,
    },

    /// An argument of a request did not begin with `$`.
    #[error(
        "Protocol error: expected '$', got '{}' at byte {position} of the request",
        found.escape_ascii()
    )]
    ExpectedBulk {
        /// The byte in its place.
        found: u8,
        /// Where it stands, counted from the start of the request.
        position: usize,
    },

    /// A line or string does not end with CR LF where it has to.
    #[error(
        "Protocol error: expected CR LF, got '{}' at byte {position} of the message",
        found.escape_ascii()
    )]
    MissingCrlf {
        /// The byte in place of the CR or LF.
        found: u8,
        /// Where it stands, counted from the start of the message.
        position: usize,
    },

    /// An inline request is longer than allowed.
    #[error("Protocol error: too big inline request: no line end within {limit} bytes")]
    InlineSize {
        /// The longest allowed line in bytes, without its end.
        limit: usize,
    },

    /// An inline request has a byte that no line of text has: it is of another protocol.
    #[error(
        "Protocol error: got '{}' at byte {position} of a plain line, which is text: send other bytes as a multibulk \
         request",
        found.escape_ascii()
    )]
    InlineByte {
        /// The byte.
        found: u8,
        /// Where it stands, counted from the start of the request.
        position: usize,
    },

    /// An inline request has a quote that is not closed, does not enclose a whole argument, or
    /// encloses an escape.
    #[error(
        "Protocol error: unbalanced quotes in request: at byte {position} (inline quotes must \
         enclose a whole argument without escapes; send other bytes as a multibulk request)"
    )]
    InlineQuotes {
        /// Where the offending byte stands, counted from the start of the request.
        position: usize,
    },

    /// A simple line of a reply (status, error, number) is longer than allowed.
    #[error("Protocol error: too big line in a reply: no line end within {limit} bytes")]
    LineSize {
        /// The longest allowed line in bytes, without its end.
        limit: usize,
    },

    /// A reply begins with a byte that names no type known here.
    #[error(
        "Protocol error: unknown reply type '{}' at byte {position} of the reply",
        found.escape_ascii()
    )]
    UnknownType {
        /// The byte in place of a type.
        found: u8,
        /// Where it stands, counted from the start of the reply.
        position: usize,
    },

    /// A scalar of a reply does not have the form of its type.
    #[error("Protocol error: invalid {kind} '{text}' in a reply")]
    InvalidScalar {
        /// The name of the type.
        kind: &'static str,
        /// The text, escaped, at most its first 32 bytes.
        text: String,
    },

    /// The aggregates of a reply nest too deep.
    #[error("Protocol error: reply nests {depth} levels deep (limit: {limit} levels)")]
    ReplyDepth {
        /// The level that was about to be entered.
        depth: usize,
        /// The deepest allowed level.
        limit: usize,
    },
}

// -------------------------------------------------------------------------------------------------
// Requests: the server's side.

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

/// Reads requests, multibulk or inline, from a buffer that grows. The module's documentation gives
/// the contract.
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

// -------------------------------------------------------------------------------------------------
// Replies: the server's side.

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

    fn value(&mut self, held: Held<Mapping>) {
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
}

/// Without an exponent where a person would write none: Rust's `{}` alone would give 1e300 three
/// hundred zeros.
fn format_double(value: f64) -> String {
    let magnitude = value.abs();
    if value.is_nan() {
        "nan".to_owned()
    } else if value.is_infinite() || value == 0.0 || (1e-5..1e17).contains(&magnitude) {
        format!("{value}")
    } else {
        format!("{value:e}")
    }
}

// -------------------------------------------------------------------------------------------------
// Requests and replies: the client's side.

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

/// Reads replies from a buffer that grows. The module's documentation gives the contract.
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
    is_map: bool,
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
                            reply = Reply::Dropped(let_go + size);
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
            value = aggregate.close().unwrap_or_else(|| self.without_memory());
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
            _ => self.open_aggregate(value, kind == b'%'),
        }
    }

    fn open_aggregate(&mut self, count: i64, is_map: bool) -> Result<Step, ProtocolError> {
        let depth = self.open.len() + 1;
        if depth > REPLY_DEPTH_MAX {
            let limit = REPLY_DEPTH_MAX;
            return Err(ProtocolError::ReplyDepth { depth, limit });
        }
        // A map announces pairs. A negative count is left alone, to be reported as it was sent.
        let count = match is_map && count > 0 {
            true => count.saturating_mul(2),
            false => count,
        };
        let own_count = self.check_elements(count)?;
        self.elements = self.check_elements(count.saturating_add(self.elements as i64))?;
        let aggregate = Aggregate {
            is_map,
            remaining: own_count,
            elements: Vec::with_capacity(own_count.min(ELEMENTS_RESERVED_MAX)),
        };
        if own_count == 0 {
            return Ok(Step::Value(aggregate.close().unwrap_or_else(|| self.without_memory())));
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

    /// All that has come; `None` if there is no memory for it.
    fn close(self) -> Option<Reply> {
        if !self.is_map {
            return Some(Reply::Array(self.elements));
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

fn invalid_scalar(kind: &'static str, bytes: &[u8]) -> ProtocolError {
    let text = bytes[..bytes.len().min(QUOTED_SIZE_MAX)].escape_ascii().to_string();
    ProtocolError::InvalidScalar { kind, text }
}

// -------------------------------------------------------------------------------------------------
// What both sides share.

/// Which signs a number may carry. Only the integers of replies may say `+`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    Minus,
    Any,
}

/// Reads `<number>\r\n` at `start`: the number and the position behind it, or `None` if it has not
/// all arrived. It judges each byte as it comes instead of looking for the line end first, so a
/// header needs no limit of its own: after 19 digits it is a number or an error. `invalid` names
/// that error, given the text up to the offending byte.
fn read_number(
    input: &[u8],
    start: usize,
    sign: Sign,
    invalid: impl Fn(String) -> ProtocolError,
) -> Result<Option<(i64, usize)>, ProtocolError> {
    let invalid = |position: usize| {
        let text = &input[start..=position];
        Err(invalid(text.escape_ascii().to_string()))
    };
    let (negative, digits_start) = match input.get(start) {
        Some(b'-') => (true, start + 1),
        Some(b'+') if sign == Sign::Any => (false, start + 1),
        _ => (false, start),
    };
    let mut position = digits_start;
    let mut value: i64 = 0;
    loop {
        let Some(&byte) = input.get(position) else {
            return Ok(None);
        };
        let is_first = position == digits_start;
        match byte {
            b'0'..=b'9' => {
                let digit = i64::from(byte - b'0');
                // `-0`, and any digit behind a leading zero.
                let redundant = match is_first {
                    true => negative && digit == 0,
                    false => value == 0,
                };
                let extended = value.checked_mul(10).and_then(|value| match negative {
                    true => value.checked_sub(digit),
                    false => value.checked_add(digit),
                });
                match extended {
                    Some(extended) if !redundant => value = extended,
                    _ => return invalid(position),
                }
            }
            b'\r' | b'\n' if !is_first => {
                return Ok(read_crlf(input, position)?.map(|next| (value, next)));
            }
            _ => return invalid(position),
        }
        position += 1;
    }
}

/// The position behind the CR LF at `start`, or `None` if it has not arrived.
fn read_crlf(input: &[u8], start: usize) -> Result<Option<usize>, ProtocolError> {
    for (offset, expected) in [b'\r', b'\n'].into_iter().enumerate() {
        let position = start.saturating_add(offset);
        match input.get(position) {
            None => return Ok(None),
            Some(&found) if found != expected => {
                return Err(ProtocolError::MissingCrlf { found, position });
            }
            Some(_) => {}
        }
    }
    Ok(Some(start + 2))
}

/// The value as a count, if it lies between 0 and the limit.
fn within(value: i64, limit: usize) -> Option<usize> {
    usize::try_from(value).ok().filter(|&value| value <= limit)
}

fn push_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
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

    const REQUEST_LIMITS: RequestLimits = RequestLimits {
        arguments_max: 4,
        arguments_at_once: 3,
        argument_size_max: 20,
        inline_size_max: 32,
        large_value_size: usize::MAX,
    };

    const REPLY_LIMITS: ReplyLimits = ReplyLimits { elements_max: 10, bulk_size_max: 20, line_size_max: 24 };

    /// Large enough for all that the random tests write.
    const REPLY_LIMITS_WIDE: ReplyLimits =
        ReplyLimits { elements_max: 1_000_000, bulk_size_max: 1_000_000, line_size_max: 1_000_000 };

    /// What a stream of bytes comes to: the messages in it, and how it ends.
    #[derive(Debug, PartialEq)]
    struct Outcome<T> {
        messages: Vec<T>,
        /// The error, or the number of bytes left over that make no message yet.
        end: Result<usize, ProtocolError>,
    }

    type Request = Vec<Vec<u8>>;

    /// Plays the server: `pieces` arrive one after the other, and large values are taken out as they do.
    fn read_requests<'a>(limits: RequestLimits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome<Request> {
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
    fn read_replies<'a>(limits: ReplyLimits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome<Reply> {
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

    fn request(arguments: &[&str]) -> Request {
        arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect()
    }

    fn bulk(text: &str) -> Reply {
        Reply::Bulk(text.as_bytes().to_vec())
    }

    fn written(protocol: Protocol, write: impl FnOnce(&mut RespWriter<'_>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut RespWriter::new(&mut out, protocol));
        out
    }

    #[test]
    fn smoke() {
        let mut sent = Vec::new();
        write_request(&mut sent, &[b"GET", b"key"]);
        assert_eq!(sent, b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n");

        let mut server = RequestParser::new(REQUEST_LIMITS);
        assert_eq!(server.parse(&sent), Ok(Parsed::Complete { size: sent.len() }));
        let arguments: Vec<&[u8]> = server.arguments().iter().map(|range| &sent[range.clone()]).collect();
        assert_eq!(arguments, [b"GET", b"key"]);

        let answer = written(Protocol::Resp2, |writer| writer.bulk(b"value"));
        assert_eq!(answer, b"$5\r\nvalue\r\n");

        let mut client = ReplyParser::new(REPLY_LIMITS);
        assert_eq!(client.parse(&answer[..8]), Ok(None));
        assert_eq!(client.parse(&answer), Ok(Some((bulk("value"), answer.len()))));
    }

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

        // The same for a line of a reply; only the last byte seen may be a CR to look at again.
        let mut parser = ReplyParser::new(REPLY_LIMITS_WIDE);
        let mut input = Vec::new();
        for piece in [&b"+sta"[..], b"", b"tus\r", b""] {
            input.extend_from_slice(piece);
            assert_eq!(parser.parse(&input), Ok(None));
            assert_eq!(parser.position, input.len().min("+status".len()));
        }

        // The same for a string, inside an aggregate as well as on its own.
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

    /// The request parser asks for memory only as arguments arrive, the reply parser for a constant
    /// besides.
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

        let mut parser = ReplyParser::new(ReplyLimits {
            elements_max: usize::MAX,
            bulk_size_max: usize::MAX,
            line_size_max: usize::MAX,
        });
        assert_eq!(parser.parse(b"*1000000000\r\n*1000000000\r\n$9223372036854775807\r\nx"), Ok(None));
        assert_eq!(parser.open.len(), 2);
        assert!(parser.open.iter().all(|open| open.elements.capacity() <= ELEMENTS_RESERVED_MAX));

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

    #[test]
    fn the_types_of_version_3_are_read() {
        let digits = "3492890328409238509324850943850943825024385";
        let big = format!("({digits}\r\n(-{digits}\r\n");
        let table: &[(&[u8], Reply)] = &[
            (b"=8\r\ntxt:some\r\n", bulk("some")),
            (b"=4\r\nmkd:\r\n", bulk("")),
            (b"!7\r\nERR\r\nno\r\n", Reply::Error("ERR\r\nno".into())),
            (b"~1\r\n:1\r\n", Reply::Array(vec![Reply::Integer(1)])),
            (b">1\r\n+message\r\n", Reply::Array(vec![Reply::Status("message".into())])),
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
        for (write, version_2, version_3) in table {
            let bytes = written(Protocol::Resp2, write);
            assert_eq!(bytes, version_2.as_bytes(), "{}", bytes.escape_ascii());
            let bytes = written(Protocol::Resp3, write);
            assert_eq!(bytes, version_3.as_bytes(), "{}", bytes.escape_ascii());
        }
    }

    /// A random generator whose seed is printed (and shown by a failing test).
    /// `RINGTABLE_TEST_SEED` replays another.
    fn random() -> fastrand::Rng {
        let seed = std::env::var("RINGTABLE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or(0x5eed);
        println!("RINGTABLE_TEST_SEED={seed}");
        fastrand::Rng::with_seed(seed)
    }

    fn random_bytes(random: &mut fastrand::Rng, size_max: usize) -> Vec<u8> {
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
    fn random_pieces<'a>(random: &mut fastrand::Rng, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let size_max = random.choice([1, 3, 20, 500]).unwrap();
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(random.usize(..=size_max.min(bytes.len())));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }

    /// Writes a random reply, and gives what a client of that version has to read.
    fn write_random(random: &mut fastrand::Rng, writer: &mut RespWriter<'_>, depth: usize) -> Reply {
        let is_version_3 = writer.protocol == Protocol::Resp3;
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
                Reply::Array((0..count).map(|_| write_random(random, writer, depth + 1)).collect())
            }
            _ => {
                let pairs = random.usize(..3);
                writer.map(pairs);
                let mut elements = Vec::new();
                for _ in 0..2 * pairs {
                    elements.push(write_random(random, writer, depth + 1));
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
                let messages: Vec<Reply> = (0..count).map(|_| write_random(&mut random, &mut writer, 0)).collect();
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
                _ => written(Protocol::Resp3, |writer| {
                    write_random(&mut random, writer, 5);
                }),
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
}
