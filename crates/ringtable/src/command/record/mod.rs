//! Requests and replies as they flow through a lane: framed records of whole 64-bit words.
//!
//! ```text
//! request   word 0   bytes of the record u32 | command number u16 | number of arguments u16
//!           …        an u32 length for each argument, filled up to whole words
//!           …        the arguments, each filled up to whole words
//!
//! reply     word 0   bytes of the record u32 | kind u8 | filling bytes at the end u8 | 0 u16
//!           …        by kind: nothing, a 64-bit number, bytes, or (array, map) a count and that many replies
//! ```
//!
//! A record's size comes first, so that either side knows at once how much to wait for, and a value larger than the
//! ring flows through in pieces. Inside an array the sizes of arrays are 0: only the outermost one is needed. A push,
//! which is nobody's reply and comes between replies, is written as an array of another kind.
//!
//! Over UDP a record travels in a datagram of its own, behind a head: see [`datagram`].
//!
//! Everything here works on private copies (I4): what was checked cannot change any more.

mod frame;
mod request;
mod reply;
mod datagram;

#[cfg(test)]
mod tests;

pub use datagram::{DATAGRAM_HEAD_SIZE, DATAGRAM_RECORD_SIZE_MAX, DATAGRAM_VERSION, Datagram, DatagramError};
pub use frame::{HEADER_SIZE, RECORD_VERSION, RecordError, record_size};
pub use reply::{RecordWriter, decode_owned, decode_reply, dropped, is_ok, is_push};
pub use request::{RequestHead, cut_value, decode_request, large_set, large_set_sizes};
