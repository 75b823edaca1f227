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

mod error;
mod number;
// What goes out, and the two parsers of what comes in.
mod write;
mod request;
mod reply;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use error::ProtocolError;
pub use reply::{ReplyLimits, ReplyParser};
pub use request::{Parsed, RequestLimits, RequestParser};
pub use write::{HEADER_SIZE_MAX, RespWriter, write_request};
