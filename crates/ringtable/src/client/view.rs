//! Values in place: a view keeps an entry of the table where it is until it is dropped.
//!
//! # Design
//!
//! A view is a pin, a word in the lane that names its entry: see [`crate::table::reclaim`] for the protocol, and for
//! why the server does not use that memory again meanwhile. Making one costs a lookup and a fence, whatever the size of
//! the value. A view holds one of the pins of [`super::pinned`], which keeps the memory that the value is in.
//!
//! Without a lane there is nowhere to pin; a view then is a copy, and behaves the same.
//!
//! # Invariants
//!
//! - What [`View::bytes`] gives stays the same until the view is dropped, whatever becomes of the key, of the table,
//!   and of the server.
//! - A forked child inherits the memory of its parent's views, and nothing it does to them touches the parent's pins.
//!   They last as long as the parent keeps them; those that objects hold ([`Client::hold`]), until it closes its table.

use std::ops::Range;
use std::sync::Arc;

use super::connection::Connection;
use super::error::{Error, system};
use super::handle::Client;
use super::numbers::NUMBERS;
use super::patience::Patience;
use super::pinned::PinnedTable;
use super::reads::Keys;
use super::replies::unexpected;
use super::validate::check_key;
use crate::command::reply::Reply;
use crate::limits;
use crate::shm::clock::wall_ms;
use crate::shm::fork;
use crate::sync::{Memory, yield_now};
use crate::table::lookup::Found;
use crate::table::reclaim::{self, Pinned};

enum Storage {
    /// In the table: the words of the value, kept by pin number `pin`.
    Table {
        pinned: Arc<PinnedTable>,
        pin: usize,
        words: Range<usize>,
    },
    Copy(Vec<u8>),
}

/// A value that stays where it is, and as it is, until this is dropped.
pub struct View {
    place: Storage,
    size: usize,
    version: Option<u64>,
    /// What else belonged to the value when it was pinned.
    found: Option<Found>,
    /// If an object holds it, in place: how often the process had forked before.
    held: Option<u64>,
}

impl View {
    /// The bytes of the value.
    ///
    /// # Errors
    /// [`Error::ViewInherited`] if it is the view of the process that this one was forked from.
    pub fn bytes(&self) -> Result<&[u8], Error> {
        match &self.place {
            Storage::Copy(bytes) => Ok(bytes),
            Storage::Table { pinned, .. } if !pinned.is_ours() => Err(Error::ViewInherited),
            Storage::Table { pinned, words, .. } => {
                let words = &pinned.table.words()[words.clone()];
                #[allow(unsafe_code)]
                // SAFETY: the words hold as many bytes, which were complete before a slot pointed at them (I3), and
                // which nobody changes while they are pinned: that is what the server promises. The mapping stays as
                // long as `self` has its pin.
                unsafe {
                    Ok(std::slice::from_raw_parts(words.as_ptr().cast(), self.size))
                }
            }
        }
    }

    /// How many bytes the value has.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The version of the value, never the same twice for a key; `None` if it came over a socket.
    pub fn version(&self) -> Option<u64> {
        self.version
    }

    /// What belonged to the value when it was pinned; `None` for a copy.
    pub(super) fn found(&self) -> Option<Found> {
        self.found
    }

    /// Whether it is a copy, and not the table's own memory.
    pub fn is_copy(&self) -> bool {
        matches!(self.place, Storage::Copy(_))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Storage::Table { pinned, pin, .. } = &self.place
            && pinned.is_ours()
        {
            match self.held {
                Some(forks) if forks != fork::forks() => return pinned.keep(*pin),
                Some(_) => pinned.release(self.size),
                None => {}
            }
            reclaim::unpin(pinned.pin(*pin));
            failpoint!("pin.cleared");
            pinned.give(*pin);
        }
    }
}

impl Client {
    /// Makes a view of a key's value without waiting; outer `None` if that is not possible: then use [`Self::view`].
    ///
    /// # Errors
    /// As [`Self::view`].
    #[inline]
    pub fn try_view(&self, key: &[u8]) -> Result<Option<Option<View>>, Error> {
        check_key(key)?;
        let connection = self.connection.peek();
        let Some(pinned) = connection.pinned.as_ref().filter(|pinned| pinned.is_registered()) else { return Ok(None) };
        if !connection.is_current() || connection.posted() > 0 {
            return Ok(None);
        }
        let Some(number) = pinned.take(limits::PINS_MAX).map_err(|_| connection.ended())? else { return Ok(None) };
        match attempt(connection, pinned, number, key) {
            Ok(Attempt::Contended) => Ok(None),
            Ok(Attempt::Done(view)) => Ok(Some(view)),
            Err(error) => Err(error),
        }
    }

    /// A view of a key's value, in place if this client has a lane, also if its reads ask the server; else a copy. With
    /// `copy_ok` it may be a copy, too, if there are as many views as there may be. `None` if there is no such key.
    ///
    /// # Errors
    /// [`Error::TooManyViews`]; those of the connection.
    pub fn view(&self, key: &[u8], copy_ok: bool, patience: Patience<'_>) -> Result<Option<View>, Error> {
        self.view_by(limits::PINS_MAX, key, copy_ok, patience)
    }

    /// A view for an object that keeps it for as long as it lives: in place, or a copy where too many pins or bytes are
    /// held. What is held when this process forks stays as it is for the child, until this client is closed.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn hold(&self, key: &[u8], patience: Patience<'_>) -> Result<Option<View>, Error> {
        // Before the pin is there, so that no fork goes unnoticed.
        let forks = fork::forks();
        let Some(mut view) = self.view_by(limits::HELD_PINS_MAX, key, true, patience)? else { return Ok(None) };
        let Storage::Table { pinned, .. } = &view.place else { return Ok(Some(view)) };
        if !pinned.hold(view.size) {
            return self.copy(key, patience);
        }
        view.held = Some(forks);
        Ok(Some(view))
    }

    /// A view with one of the first `pins` pins.
    fn view_by(
        &self,
        pins: usize,
        key: &[u8],
        copy_ok: bool,
        mut patience: Patience<'_>,
    ) -> Result<Option<View>, Error> {
        check_key(key)?;
        let connection = self.connection(patience)?;
        let Some(pinned) = &connection.pinned else { return self.copy(key, patience) };
        if !pinned.is_registered() {
            register(connection, pinned, patience)?;
        }
        self.settle(connection, Keys::One(key), patience)?;
        patience.start();
        loop {
            let Some(number) = pinned.take(pins).map_err(|_| connection.ended())? else {
                return if copy_ok { self.copy(key, patience) } else { Err(Error::TooManyViews) };
            };
            if let Attempt::Done(view) = attempt(connection, pinned, number, key)? {
                return Ok(view);
            }
            // Writers change the bucket again and again; some of them get on.
            patience.slice()?;
            patience.check_interrupted()?;
            yield_now();
        }
    }

    fn copy(&self, key: &[u8], patience: Patience<'_>) -> Result<Option<View>, Error> {
        let found = self.find_owned(key, patience)?;
        Ok(found.map(|(bytes, version)| View {
            size: bytes.len(),
            place: Storage::Copy(bytes),
            version,
            found: None,
            held: None,
        }))
    }
}

/// Tells the server to look at our pins from now on.
#[cold]
fn register(connection: &Connection, pinned: &PinnedTable, patience: Patience<'_>) -> Result<(), Error> {
    match connection.request(NUMBERS.ring_pins, &[], patience)? {
        Reply::Status(_) => {}
        other => return Err(unexpected(other)),
    }
    failpoint!("pin.asked");
    // From here on a child may inherit something that is worth reading.
    system("sharing the table with forked children", pinned.table.inherit())?;
    pinned.register();
    Ok(())
}

/// What became of an attempt to make a view.
enum Attempt {
    Done(Option<View>),
    /// A change got in between, each time.
    Contended,
}

/// Makes a view with a pin that was taken, if the server lives.
#[inline]
fn attempt(connection: &Connection, pinned: &Arc<PinnedTable>, pin: usize, key: &[u8]) -> Result<Attempt, Error> {
    let Some(reader) = &connection.reader else { return Ok(Attempt::Done(None)) };
    let outcome = connection.check_alive().map(|()| {
        let word = pinned.pin(pin);
        reclaim::pin(reader.words(), word, reader.hash(key), key, wall_ms)
    });
    match outcome {
        Ok(Pinned::Hit(found, words)) => {
            reader.note(reader.hash(key), &found);
            let place = Storage::Table { pinned: Arc::clone(pinned), pin, words };
            Ok(Attempt::Done(Some(View {
                place,
                size: found.size,
                version: Some(found.version),
                found: Some(found),
                held: None,
            })))
        }
        other => {
            pinned.give(pin);
            match other? {
                Pinned::Contended => Ok(Attempt::Contended),
                _ => Ok(Attempt::Done(None)),
            }
        }
    }
}
