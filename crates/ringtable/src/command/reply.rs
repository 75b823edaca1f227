//! What a command answers: a writer on the server's side, a tree on the client's.
//!
//! A command writes its reply through [`ReplyWriter`] without knowing whether RESP or a lane carries it, and without
//! building anything in between. A client, which keeps replies longer than its buffers, gets a [`Reply`].

use std::borrow::Cow;

use crate::shm::segment::Mapping;
use crate::table::HeldEntry;

/// Where a codec writes replies to: bytes, and large values between them.
pub trait Destination {
    /// The bytes; what is written goes to their end.
    fn bytes(&mut self) -> &mut Vec<u8>;

    /// Puts the first `size` bytes of a value to the end. Returns how many of them are not among [`Self::bytes`].
    fn hold(&mut self, held: HeldEntry<Mapping>, size: usize) -> usize {
        self.bytes().extend_from_slice(&held.bytes()[..size]);
        0
    }
}

impl Destination for Vec<u8> {
    #[inline]
    fn bytes(&mut self) -> &mut Vec<u8> {
        self
    }
}

/// What a command needs to answer, whatever the transport.
///
/// A reply is one value. [`array`](Self::array) and [`map`](Self::map) announce how many values
/// follow; the caller then writes exactly as many, which is not checked.
pub trait ReplyWriter {
    /// The status `OK`.
    fn ok(&mut self) {
        self.status("OK");
    }

    /// A short status. CR and LF become blanks.
    fn status(&mut self, text: &str);

    /// An error. The message begins with its code word, as in `ERR value is not an integer`. CR and
    /// LF become blanks.
    fn error(&mut self, message: &str);

    /// The absence of a value.
    fn nil(&mut self);

    /// A 64-bit integer.
    fn integer(&mut self, value: i64);

    /// A truth value. RESP2 has none and sends the integer 1 or 0.
    fn boolean(&mut self, value: bool);

    /// A string of arbitrary bytes.
    fn bulk(&mut self, bytes: &[u8]);

    /// A string of bytes that is sent out of its entry, where it stays until it has gone.
    fn value(&mut self, held: HeldEntry<Mapping>) {
        self.bulk(held.bytes());
    }

    /// Announces an array: `count` values follow.
    fn array(&mut self, count: usize);

    /// Announces a map: `pairs` times a key and a value follow. RESP2 has none and sends an array
    /// of all of them.
    fn map(&mut self, pairs: usize);

    /// A floating-point number, in the fewest digits that read back as the same number. RESP2 has
    /// none and sends them as a string.
    fn double(&mut self, value: f64);

    /// Announces a push, which is nobody's reply: `count` values follow, of which the first says
    /// what it is about. RESP2 has none, so that nothing may be pushed to a client that speaks it.
    fn push(&mut self, count: usize);
}

/// A reply, in either version of the protocol.
///
/// Two equal doubles compare as floating-point numbers do: not-a-number is not equal to itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The absence of a value: `_`, or a string or array of length -1.
    Nil,
    /// A status such as `OK`. Bytes that are not UTF-8 appear as U+FFFD.
    Status(Cow<'static, str>),
    /// An integer.
    Integer(i64),
    /// A truth value (version 3).
    Boolean(bool),
    /// A floating-point number (version 3).
    Double(f64),
    /// A string of bytes; also a big number's digits, and a verbatim string without its format.
    Bulk(Vec<u8>),
    /// An error that the server answered with, beginning with its code word. Bytes that are not
    /// UTF-8 appear as U+FFFD.
    Error(String),
    /// An array; also a set.
    Array(Vec<Reply>),
    /// A push, which is nobody's reply and comes between replies. The first element says what it is
    /// about. Empty if there was no memory for it.
    Push(Vec<Reply>),
    /// A map in the order sent (version 3). Nothing keeps a server from sending a key twice.
    Map(Vec<(Reply, Reply)>),
    /// What took so many bytes, and was dropped as it came, since there was no memory for it. No server sends this: it
    /// stands in the place of what one has sent.
    Dropped(usize),
}

/// A copy of the bytes of a reply; `None` if there is no memory for it.
pub(super) fn try_copy(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len()).ok()?;
    copy.extend_from_slice(bytes);
    Some(copy)
}
