//! Whether the server lives: the socket beside shared memory, which is silent as long as it does.
//!
//! The server says on it why it ends the connection, if it can. Several look, so they peek, and each finds it.

use std::sync::Mutex;

use rustix::net::RecvFlags;

use super::error::{Error, system};
use crate::shm::fork::Descriptor;
use crate::sync::lock;

/// A second descriptor of the socket: to look whether the server lives, and to end what waits for it.
pub(super) struct Life(Mutex<Option<Descriptor>>);

impl Life {
    pub fn new(socket: &Descriptor) -> Result<Self, Error> {
        let duplicate = system("duplicating the socket", socket.duplicate().map_err(Into::into))?;
        Ok(Self(Mutex::new(Some(duplicate))))
    }

    /// Why the server has ended the connection; `None` if it says nothing, as it does while it lives.
    pub fn last_words(&self) -> Option<Error> {
        let Some(socket) = &*lock(&self.0) else { return Some(gone()) };
        match peek_words(socket) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => None,
            _ => Some(last_words(socket)),
        }
    }

    /// Whether the server has ended a connection that its replies come over; `None` if it has not. What has come, and
    /// was not taken yet, may be replies, and its last words.
    pub fn end_of_replies(&self) -> Option<Error> {
        let Some(socket) = &*lock(&self.0) else { return Some(gone()) };
        match peek_words(socket) {
            Ok(words) if words.is_empty() => Some(gone()),
            Ok(words) if words.starts_with("SHUTDOWN ") => Some(last_words(socket)),
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => None,
            Err(_) => Some(gone()),
        }
    }

    /// Ends the waits of all threads, and only that.
    pub fn end_waits(&self) {
        if let Some(socket) = &*lock(&self.0) {
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Read);
        }
    }

    /// Closes the socket, whoever else has a descriptor of it. May be called again.
    pub fn hang_up(&self) {
        if let Some(socket) = lock(&self.0).take() {
            let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Both);
        }
    }
}

/// What the server has said on the socket of a lane, which is silent until the end; empty if it is just closed.
///
/// Peeking: several look, and each should find it.
fn peek_words(socket: &Descriptor) -> rustix::io::Result<String> {
    let mut message = [0_u8; 256];
    let (_, size) = rustix::net::recv(socket, &mut message[..], RecvFlags::DONTWAIT | RecvFlags::PEEK)?;
    Ok(String::from_utf8_lossy(&message[..size]).trim_start_matches('-').trim_end().to_owned())
}

/// Why the server has ended the connection whose socket is silent otherwise.
pub(super) fn last_words(socket: &Descriptor) -> Error {
    match peek_words(socket) {
        Ok(message) if !message.is_empty() => match message.split_once(' ') {
            Some(("SLOWCONSUMER", words)) => Error::Expelled(words.to_owned()),
            Some(("SHUTDOWN", words)) => Error::Gone(words.to_owned()),
            // Nobody has looked at what was sent.
            Some(("REJOIN", words)) => Error::Unsent(words.to_owned()),
            Some((code, words)) if code.bytes().all(|byte| byte.is_ascii_uppercase()) => Error::Ended(words.to_owned()),
            _ => Error::Gone(message),
        },
        _ => gone(),
    }
}

/// The error for a socket that was closed without a word.
pub(super) fn gone() -> Error {
    Error::Gone("its socket is closed".to_owned())
}
