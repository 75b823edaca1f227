//! What client and server say to each other over UDP: messages of one datagram each, some of which carry a record.
//!
//! ```text
//! word 0   "rtbl" | version u8 | kind u8 | 0 u16
//! word 1   the server's boot number: a random one each time that it starts; in HELLO and FULL 0
//! word 2   a cookie or a token; in FULL whether it is the sessions that are too many, or all clients
//! word 3   a number: of a request; or what a client made up to know the answer by
//! word 4   by kind
//! …        in REQUEST and REPLY, a record as it flows through a lane
//! ```
//!
//! Every message without a record has the size of its head, so that no answer is larger than what it answers, as long
//! as the server has not seen that the client gets what is sent to its address. Words are in the byte order of the
//! machine, as in records: both ends are on it. A peer of another byte order, or of another version, is found out by
//! the first word, which has the same meaning in every version.

use super::frame::{HEADER_SIZE as RECORD_HEADER_SIZE, RECORD_VERSION};
use crate::limits;

/// Bytes of the head of a datagram.
pub const DATAGRAM_HEAD_SIZE: usize = 40;
/// Largest record that a datagram has room for, in bytes.
pub const DATAGRAM_RECORD_SIZE_MAX: usize = limits::UDP_DATAGRAM_SIZE_MAX - DATAGRAM_HEAD_SIZE;
/// The version of what is said, the records in it included.
pub const DATAGRAM_VERSION: u8 = 1;
const _: () = assert!(RECORD_VERSION == 1, "raise DATAGRAM_VERSION with the version of records, and this number");

const MAGIC: [u8; 4] = *b"rtbl";

mod kind {
    pub const HELLO: u8 = 1;
    pub const COOKIE: u8 = 2;
    pub const JOIN: u8 = 3;
    pub const JOINED: u8 = 4;
    pub const FULL: u8 = 5;
    pub const REQUEST: u8 = 6;
    pub const REPLY: u8 = 7;
    pub const LEAVE: u8 = 8;
}

/// One message. From clients come `Hello`, `Join`, `Request` and `Leave`, from servers the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram<'a> {
    /// A client asks for a cookie.
    Hello {
        /// A number that the answer has, too.
        nonce: u64,
    },
    /// The server grants a cookie for the address that it answers, since it does not know the client.
    Cookie {
        /// Its boot number.
        boot: u64,
        /// What to join with.
        cookie: u64,
        /// The nonce of what this answers; or the token, if that was a request.
        about: u64,
        /// Which commands it knows of those with the numbers 0 to 63, a bit each: see [`crate::command::known`].
        commands: u64,
    },
    /// A client asks for a session.
    Join {
        /// The boot number that came with the cookie.
        boot: u64,
        /// The cookie.
        cookie: u64,
        /// A number that no other request of this client for a session has, and that the answer has, too.
        nonce: u64,
        /// The token of the session that this one is in place of; 0 for none.
        leaving: u64,
    },
    /// The server has a session for the client.
    Joined {
        /// Its boot number.
        boot: u64,
        /// The session's token.
        token: u64,
        /// The nonce of what this answers.
        nonce: u64,
        /// Which commands it knows of those with the numbers 64 to 127.
        commands: u64,
    },
    /// The server has no room for another session.
    Full {
        /// The nonce of what this answers.
        nonce: u64,
        /// How many there may be.
        most: u64,
        /// Whether that is of sessions alone, and not of all clients.
        is_of_sessions: bool,
    },
    /// A request.
    Request {
        /// The boot number of the session's server.
        boot: u64,
        /// The session's token.
        token: u64,
        /// Which of the session's requests it is, from 1 on.
        number: u64,
        /// The number of the first request whose reply has not come: what is before that, is not asked for again.
        floor: u64,
        /// The request.
        record: &'a [u8],
    },
    /// The reply to a request.
    Reply {
        /// The server's boot number.
        boot: u64,
        /// The session's token.
        token: u64,
        /// The number of the request.
        number: u64,
        /// The reply.
        record: &'a [u8],
    },
    /// A client needs its session no more.
    Leave {
        /// The boot number of the session's server.
        boot: u64,
        /// The session's token.
        token: u64,
    },
}

/// What is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// It is a message of another version, and as large as a head at least.
    #[error("version {DATAGRAM_VERSION} of datagrams is spoken here, and version {0} there")]
    Version(u8),
    /// It is none of ours: other bytes, another byte order, or cut off.
    #[error("a datagram of {0} bytes that is no message")]
    Malformed(usize),
}

impl<'a> Datagram<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DatagramError> {
        let malformed = DatagramError::Malformed(bytes.len());
        let (head, record) = bytes.split_first_chunk::<DATAGRAM_HEAD_SIZE>().ok_or(malformed)?;
        let [first, boot, name, number, last] = *head.as_chunks::<8>().0 else { return Err(malformed) };
        let [m, a, g, i, version, kind, zero, nought] = first;
        if [m, a, g, i] != MAGIC {
            return Err(malformed);
        }
        if version != DATAGRAM_VERSION {
            return Err(DatagramError::Version(version));
        }
        let has_record = matches!(kind, kind::REQUEST | kind::REPLY);
        let is_record =
            (RECORD_HEADER_SIZE..=DATAGRAM_RECORD_SIZE_MAX).contains(&record.len()) && record.len().is_multiple_of(8);
        if (zero, nought) != (0, 0) || if has_record { !is_record } else { !record.is_empty() } {
            return Err(malformed);
        }
        let [boot, name, number, last] = [boot, name, number, last].map(u64::from_ne_bytes);
        Ok(match kind {
            kind::HELLO => Self::Hello { nonce: number },
            kind::COOKIE => Self::Cookie { boot, cookie: name, about: number, commands: last },
            kind::JOIN => Self::Join { boot, cookie: name, nonce: number, leaving: last },
            kind::JOINED => Self::Joined { boot, token: name, nonce: number, commands: last },
            kind::FULL => Self::Full { nonce: number, most: last, is_of_sessions: name != 0 },
            kind::REQUEST => Self::Request { boot, token: name, number, floor: last, record },
            kind::REPLY => Self::Reply { boot, token: name, number, record },
            kind::LEAVE => Self::Leave { boot, token: name },
            _ => return Err(malformed),
        })
    }

    /// The head of the message; a record follows it as it is.
    pub fn head(&self) -> [u8; DATAGRAM_HEAD_SIZE] {
        let (kind, words) = match *self {
            Self::Hello { nonce } => (kind::HELLO, [0, 0, nonce, 0]),
            Self::Cookie { boot, cookie, about, commands } => (kind::COOKIE, [boot, cookie, about, commands]),
            Self::Join { boot, cookie, nonce, leaving } => (kind::JOIN, [boot, cookie, nonce, leaving]),
            Self::Joined { boot, token, nonce, commands } => (kind::JOINED, [boot, token, nonce, commands]),
            Self::Full { nonce, most, is_of_sessions } => (kind::FULL, [0, u64::from(is_of_sessions), nonce, most]),
            Self::Request { boot, token, number, floor, .. } => (kind::REQUEST, [boot, token, number, floor]),
            Self::Reply { boot, token, number, .. } => (kind::REPLY, [boot, token, number, 0]),
            Self::Leave { boot, token } => (kind::LEAVE, [boot, token, 0, 0]),
        };
        let mut head = [0; DATAGRAM_HEAD_SIZE];
        head[..4].copy_from_slice(&MAGIC);
        (head[4], head[5]) = (DATAGRAM_VERSION, kind);
        for (place, word) in head[8..].as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *place = word.to_ne_bytes();
        }
        head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_way() {
        let record = &[7; 24][..];
        for message in [
            Datagram::Hello { nonce: 1 },
            Datagram::Cookie { boot: 1, cookie: 2, about: 3, commands: 4 },
            Datagram::Join { boot: 1, cookie: 2, nonce: 3, leaving: 4 },
            Datagram::Joined { boot: 1, token: 2, nonce: 3, commands: 4 },
            Datagram::Full { nonce: 1, most: 2, is_of_sessions: true },
            Datagram::Request { boot: 1, token: 2, number: 3, floor: 4, record },
            Datagram::Reply { boot: 1, token: 2, number: 3, record },
            Datagram::Leave { boot: 1, token: 2 },
        ] {
            let mut bytes = message.head().to_vec();
            if let Datagram::Request { record, .. } | Datagram::Reply { record, .. } = message {
                bytes.extend_from_slice(record);
            }
            assert_eq!(Datagram::decode(&bytes), Ok(message));
            for cut in 0..bytes.len() {
                let is_shorter_record = cut > DATAGRAM_HEAD_SIZE && cut.is_multiple_of(8);
                assert_eq!(Datagram::decode(&bytes[..cut]).is_ok(), is_shorter_record, "{message:?} cut to {cut}");
            }
            bytes.push(0);
            assert!(Datagram::decode(&bytes).is_err());
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let good = Datagram::Hello { nonce: 1 }.head();
        let with = |at: usize, byte| {
            let mut bad = good;
            bad[at] = byte;
            Datagram::decode(&bad).map(|_| ())
        };
        assert_eq!(with(4, 2), Err(DatagramError::Version(2)));
        for (at, byte) in [(0, b'R'), (3, 0), (5, 0), (5, 9), (5, 255), (6, 1), (7, 1)] {
            assert_eq!(with(at, byte), Err(DatagramError::Malformed(40)), "{byte} at {at}");
        }
        let largest = vec![0; DATAGRAM_RECORD_SIZE_MAX + 8];
        let request = Datagram::Request { boot: 0, token: 0, number: 0, floor: 0, record: &[] };
        let bytes = [&request.head()[..], &largest].concat();
        assert!(Datagram::decode(&bytes).is_err());
        assert!(Datagram::decode(&bytes[..bytes.len() - 8]).is_ok());
    }
}
