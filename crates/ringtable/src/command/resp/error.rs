//! The errors of a peer in the Redis protocol, in words that people and Redis clients recognize.

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

/// A scalar of a reply that does not have the form of its type.
pub(super) fn invalid_scalar(kind: &'static str, bytes: &[u8]) -> ProtocolError {
    let text = bytes[..bytes.len().min(QUOTED_SIZE_MAX)].escape_ascii().to_string();
    ProtocolError::InvalidScalar { kind, text }
}
