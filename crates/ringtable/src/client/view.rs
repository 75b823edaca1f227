//! Values in place: a view keeps an entry of the table where it is until it is dropped.
//!
//! # Design
//!
//! A view is a pin, a word in the lane that names its entry: see [`crate::table::reclaim`] for the protocol, and for
//! why the server does not use that memory again meanwhile. Making one costs a lookup and a fence, whatever the size of
//! the value. Which pins are in use is known to this process alone, a bit each, and shared by its threads.
//!
//! The server believes the pins of a client as long as its socket is open (I1). So a view keeps the socket, the lane
//! and the mapping of the table, also when its table is closed: what closing lets go of, the last view lets go of then.
//!
//! Without a lane there is nowhere to pin; a view then is a copy, and behaves the same.
//!
//! # Invariants
//!
//! - What [`View::bytes`] gives stays the same until the view is dropped, whatever becomes of the key, of the table,
//!   and of the server.
//! - A forked child inherits the memory of its parent's views, and nothing it does to them touches the parent's pins.
//!   They last as long as the parent keeps them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use super::connection::Connection;
use super::error::{Error, system};
use super::handle::Client;
use super::life::Life;
use super::numbers::NUMBERS;
use super::patience::Patience;
use super::reads::Keys;
use super::replies::unexpected;
use super::validate::check_key;
use crate::command::reply::Reply;
use crate::limits;
use crate::ring::lane::Lane;
use crate::shm::clock::wall_ms;
use crate::shm::fork;
use crate::shm::segment::Mapping;
use crate::sync::{Memory, yield_now};
use crate::table::reclaim::{self, Pinned};

/// The table is in use.
const OPEN: u8 = 0;
/// It was closed, and the last view lets go of its memory.
const CLOSED: u8 = 1;
/// The same, and of its socket.
const HUNG_UP: u8 = 2;

/// What the views of a connection share, and keep alive.
pub(super) struct Keeper {
    table: Arc<Mapping>,
    lane: Arc<Mapping>,
    life: Arc<Life>,
    /// A bit for each pin: whether a view has it.
    used: AtomicU64,
    /// Whether the server was told to look at our pins.
    registered: AtomicBool,
    state: AtomicU8,
    generation: u64,
}

impl Keeper {
    pub fn new(table: Arc<Mapping>, lane: Arc<Mapping>, life: Arc<Life>) -> Self {
        Self {
            table,
            lane,
            life,
            used: AtomicU64::new(0),
            registered: AtomicBool::new(false),
            state: AtomicU8::new(OPEN),
            generation: fork::generation(),
        }
    }

    /// Takes a pin that no view has.
    #[inline]
    fn take(&self) -> Result<Option<usize>, Error> {
        const { assert!(limits::PINS_MAX == u64::BITS as usize) };
        let mut used = self.used.load(Ordering::Relaxed);
        let number = loop {
            let number = used.trailing_ones() as usize;
            if number == limits::PINS_MAX {
                return Ok(None);
            }
            // SeqCst: against a thread that closes the table: either it sees our bit, or we see below that it is
            // closed. Acquire in it: pairs with `give`, so that the pin is written after its last user has cleared it.
            match self.used.compare_exchange_weak(used, used | 1 << number, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => break number,
                Err(now) => used = now,
            }
        };
        if self.state.load(Ordering::SeqCst) != OPEN {
            self.give(number);
            return Err(Error::Closed);
        }
        Ok(Some(number))
    }

    /// Gives a pin back, which is cleared.
    #[inline]
    fn give(&self, number: usize) {
        // SeqCst: as in `take`; Release in it pairs with the Acquire there.
        let left = self.used.fetch_and(!(1 << number), Ordering::SeqCst) & !(1 << number);
        if left == 0 {
            self.let_go_if_closed();
        }
    }

    /// Closes the table: lets go of its memory, and if `hang_up`, of its socket, as soon as there are no views.
    pub fn close(&self, hang_up: bool) {
        self.state.fetch_max(if hang_up { HUNG_UP } else { CLOSED }, Ordering::SeqCst);
        if self.used.load(Ordering::SeqCst) == 0 {
            self.let_go_if_closed();
        }
    }

    /// Whoever comes last does it; two who both do so do no harm.
    #[cold]
    fn let_go_if_closed(&self) {
        let state = self.state.load(Ordering::SeqCst);
        if state == HUNG_UP {
            self.life.hang_up();
            // The link is gone, and without views nobody writes to the pins.
            let _ = self.lane.let_go();
        }
        if state != OPEN {
            // Other threads may be reading; they find nothing, ask the link, and learn that it is gone.
            let _ = self.table.let_go();
        }
    }

    /// Whether a view can be made without asking the server for anything.
    #[inline]
    fn is_registered(&self) -> bool {
        // Acquire: pairs with the Release in `register`; the server's answer is in the past of the pins to come.
        self.registered.load(Ordering::Acquire)
    }
}

enum Place {
    /// In the table: the words of the value, kept by pin number `pin`.
    Table {
        keeper: Arc<Keeper>,
        pin: usize,
        words: Range<usize>,
    },
    Copy(Vec<u8>),
}

/// A value that stays where it is, and as it is, until this is dropped.
pub struct View {
    place: Place,
    size: usize,
    version: Option<u64>,
}

impl View {
    /// The bytes of the value.
    ///
    /// # Errors
    /// [`Error::ViewInherited`] if it is the view of the process that this one was forked from.
    pub fn bytes(&self) -> Result<&[u8], Error> {
        match &self.place {
            Place::Copy(bytes) => Ok(bytes),
            Place::Table { keeper, .. } if keeper.generation != fork::generation() => Err(Error::ViewInherited),
            Place::Table { keeper, words, .. } => {
                let words = &keeper.table.words()[words.clone()];
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

    /// Whether it is a copy, and not the table's own memory.
    pub fn is_copy(&self) -> bool {
        matches!(self.place, Place::Copy(_))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Place::Table { keeper, pin, .. } = &self.place
            && keeper.generation == fork::generation()
        {
            reclaim::unpin(&Lane::new(keeper.lane.words()).pins()[*pin]);
            failpoint!("pin.cleared");
            keeper.give(*pin);
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
        let Some(keeper) = connection.keeper.as_ref().filter(|keeper| keeper.is_registered()) else { return Ok(None) };
        if !connection.is_current() || connection.posted() > 0 {
            return Ok(None);
        }
        let Some(number) = keeper.take().map_err(|_| connection.ended())? else { return Ok(None) };
        match attempt(connection, keeper, number, key) {
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
    pub fn view(&self, key: &[u8], copy_ok: bool, mut patience: Patience<'_>) -> Result<Option<View>, Error> {
        check_key(key)?;
        let connection = self.connection(patience)?;
        let Some(keeper) = &connection.keeper else { return self.copy(key, patience) };
        if !keeper.is_registered() {
            register(connection, keeper, patience)?;
        }
        self.settle(connection, Keys::One(key), patience)?;
        patience.start();
        loop {
            let Some(number) = keeper.take().map_err(|_| connection.ended())? else {
                return if copy_ok { self.copy(key, patience) } else { Err(Error::TooManyViews) };
            };
            if let Attempt::Done(view) = attempt(connection, keeper, number, key)? {
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
        Ok(found.map(|(bytes, version)| View { size: bytes.len(), place: Place::Copy(bytes), version }))
    }
}

/// Tells the server to look at our pins from now on.
#[cold]
fn register(connection: &Connection, keeper: &Keeper, patience: Patience<'_>) -> Result<(), Error> {
    match connection.request(NUMBERS.ring_pins, &[], patience)? {
        Reply::Status(_) => {}
        other => return Err(unexpected(other)),
    }
    failpoint!("pin.asked");
    // From here on a child may inherit something that is worth reading.
    system("sharing the table with forked children", keeper.table.inherit())?;
    // Release: pairs with the Acquire in `is_registered`.
    keeper.registered.store(true, Ordering::Release);
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
fn attempt(connection: &Connection, keeper: &Arc<Keeper>, pin: usize, key: &[u8]) -> Result<Attempt, Error> {
    let Some(reader) = &connection.reader else { return Ok(Attempt::Done(None)) };
    let pinned = connection.check_alive(reader).map(|()| {
        let word = &Lane::new(keeper.lane.words()).pins()[pin];
        reclaim::pin(reader.words(), word, reader.hash(key), key, wall_ms)
    });
    match pinned {
        Ok(Pinned::Hit(found, words)) => {
            reader.note(reader.hash(key), &found);
            let place = Place::Table { keeper: Arc::clone(keeper), pin, words };
            Ok(Attempt::Done(Some(View { place, size: found.size, version: Some(found.version) })))
        }
        other => {
            keeper.give(pin);
            match other? {
                Pinned::Contended => Ok(Attempt::Contended),
                _ => Ok(Attempt::Done(None)),
            }
        }
    }
}
