//! One connection: the table to read in place, the link to ask over, and whether the server lives.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::gate::Gate;
use super::lane::{LaneHints, LaneLink};
use super::link::{Channel, Link};
use super::rings::{RingsLink, Seat};
use super::socket::{SocketLink, connect, last_words, peek_words};
use super::view::Keeper;
use super::{Error, Options, Patience, Transport};
use crate::address::Location;
use crate::command::reply::Reply;
use crate::limits;
use crate::shm::clock::coarse_ms;
use crate::shm::fork::{self, Descriptor};
use crate::shm::segment::{Mapping, Segment};
use crate::sync::lock;
use crate::table::Reader;

/// A value of which a forked child makes its own: the parent's is left alone there, and never freed.
pub(super) struct ForkCell<T>(AtomicPtr<Stamped<T>>);

struct Stamped<T> {
    generation: u64,
    value: T,
}

impl<T> ForkCell<T> {
    pub fn new(value: T) -> Self {
        Self(AtomicPtr::new(Self::stamp(value)))
    }

    fn stamp(value: T) -> *mut Stamped<T> {
        Box::into_raw(Box::new(Stamped { generation: fork::generation(), value }))
    }

    #[inline]
    fn stamped(&self) -> &Stamped<T> {
        #[allow(unsafe_code)]
        // SAFETY: the pointer always is one of `stamp`, and what it points to is freed only in `drop`, when nobody
        // borrows the cell. Acquire: pairs with the Release in `get`, for a value made by another thread.
        unsafe {
            &*self.0.load(Ordering::Acquire)
        }
    }

    /// The value, or the parent's if this is a child that has not made its own.
    #[inline]
    pub fn peek(&self) -> &T {
        &self.stamped().value
    }

    /// Whether the value was made in this process.
    #[inline]
    pub fn is_ours(&self) -> bool {
        self.stamped().generation == fork::generation()
    }

    /// The value of this process, made by `make` if need be.
    #[inline]
    pub fn get(&self, make: impl FnOnce() -> Result<T, Error>) -> Result<&T, Error> {
        let stamped = self.stamped();
        if stamped.generation == fork::generation() { Ok(&stamped.value) } else { self.renew(make) }
    }

    #[cold]
    fn renew(&self, make: impl FnOnce() -> Result<T, Error>) -> Result<&T, Error> {
        let old = self.0.load(Ordering::Acquire);
        let new = Self::stamp(make()?);
        // Release: what `stamp` wrote is seen by whoever loads the pointer. The old value stays where it is: other
        // code of the parent's may hold references into it.
        if self.0.compare_exchange(old, new, Ordering::Release, Ordering::Relaxed).is_err() {
            #[allow(unsafe_code)]
            // SAFETY: another thread was faster; ours was never shared.
            unsafe {
                drop(Box::from_raw(new));
            }
        }
        Ok(&self.stamped().value)
    }
}

impl<T> Drop for ForkCell<T> {
    fn drop(&mut self) {
        let pointer = *self.0.get_mut();
        #[allow(unsafe_code)]
        // SAFETY: nobody else has the cell. A parent's value in a child is left alone: its locks may be held by
        // threads that do not exist here.
        unsafe {
            if (*pointer).generation == fork::generation() {
                drop(Box::from_raw(pointer));
            }
        }
    }
}

/// What several threads share of a connection besides the link.
#[derive(Default)]
pub(super) struct Sharing {
    /// Posted writes whose replies have not come.
    pub posted: AtomicUsize,
    /// A buffer for the next large reply: fresh memory comes from the kernel page by page, at a multiple of the price
    /// of copying.
    spare: Mutex<Vec<u8>>,
}

impl Sharing {
    /// An empty buffer with room for `size` bytes; `None` if there is no memory.
    pub fn take_buffer(&self, size: usize) -> Option<Vec<u8>> {
        let mut buffer = std::mem::take(&mut *lock(&self.spare));
        buffer.clear();
        buffer.try_reserve_exact(size).ok()?;
        Some(buffer)
    }

    /// Keeps a buffer for later, unless it is too large to keep.
    pub fn give_buffer(&self, buffer: Vec<u8>) {
        if buffer.capacity() <= limits::SPARE_BUFFER_SIZE_MAX {
            *lock(&self.spare) = buffer;
        }
    }
}

/// The table, as clients read it.
pub(super) type TableReader = Reader<Arc<Mapping>>;

pub(super) struct Connection {
    /// The table, if memory is shared.
    pub reader: Option<TableReader>,
    /// What views need, if there is a lane.
    pub keeper: Option<Arc<Keeper>>,
    pub transport: Transport,
    link: Gate<Option<Link>>,
    pub sharing: Arc<Sharing>,
    /// A second descriptor of the socket, to look whether the server lives.
    life: Arc<Descriptor>,
    life_checked_ms: AtomicU64,
    gone: AtomicBool,
    closed: AtomicBool,
}

impl Connection {
    /// Connects, and asks for a lane if the options want one.
    pub fn open(location: &Location, options: &Options, mut patience: Patience<'_>) -> Result<Self, Error> {
        let is_local = matches!(location, Location::Unix(_));
        if matches!(options.transport, Transport::Lane | Transport::Rings) && !is_local {
            return Err(Error::NoSharedMemory(location.clone()));
        }
        patience.start();
        let socket = connect(location, &mut patience)?;
        let duplicate = Descriptor::make(|| rustix::io::fcntl_dupfd_cloexec(&socket, 0));
        let life = Arc::new(system("duplicating the socket", duplicate.map_err(Into::into))?);
        let mut plain = SocketLink::new(socket);
        let sharing = Arc::<Sharing>::default();
        let reader_and_channel = if options.transport == Transport::Socket || !is_local {
            None
        } else {
            let first =
                if options.transport == Transport::Rings { super::rings_request() } else { super::lane_request() };
            match upgrade(&mut plain, &first, &mut patience) {
                Ok(upgraded) => Some(upgraded),
                // The server says which of the two it has.
                Err(Error::Refused(words))
                    if options.transport == Transport::Auto && words.starts_with("TOPOLOGY ") =>
                {
                    Some(upgrade(&mut plain, &super::rings_request(), &mut patience)?)
                }
                // A server that has neither to give (or is none of ours) still has a socket.
                Err(Error::Refused(_)) if options.transport == Transport::Auto => None,
                Err(error) => return Err(error),
            }
        };
        let (reader, channel) = match reader_and_channel {
            Some((status, passed)) => {
                let (reader, channel) = join(plain.into_socket(), &status, passed, &sharing)?;
                (Some(reader), channel)
            }
            None => {
                plain.speak_resp3(&mut patience)?;
                (None, Channel::Socket(plain))
            }
        };
        let keeper = match (&channel, &reader) {
            (Channel::Lane(lane), Some(reader)) => {
                let table = Arc::clone(reader.memory());
                Some(Arc::new(Keeper::new(table, lane.mapping(), Arc::clone(&life))))
            }
            _ => None,
        };
        Ok(Self {
            reader,
            keeper,
            transport: match &channel {
                Channel::Lane(_) => Transport::Lane,
                Channel::Rings(_) => Transport::Rings,
                Channel::Socket(_) => Transport::Socket,
            },
            link: Gate::new(Some(Link::new(channel, Arc::clone(&sharing)))),
            sharing,
            life,
            life_checked_ms: AtomicU64::new(coarse_ms()),
            gone: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        })
    }

    /// Uses the link, after waiting for its turn.
    #[inline]
    pub fn locked<R>(
        &self,
        patience: Patience<'_>,
        work: impl FnOnce(&mut Link, &mut Patience<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let result = self.link.enter(patience, |link, patience| match link {
            Some(link) => work(link, patience),
            None => Err(Error::Closed),
        });
        if matches!(result, Err(Error::Closed | Error::Reentrant)) {
            return result;
        }
        if self.is_closed() {
            // By another thread, or by a signal handler in ours. What it could not wait for is done now.
            self.let_go(Patience::new(Some(Duration::ZERO), &|| false));
        }
        if let Err(Error::Gone(_) | Error::Expelled(_)) = &result {
            if self.is_closed() {
                return Err(Error::Closed);
            }
            // Relaxed: a flag that guards nothing; direct reads look at it.
            self.gone.store(true, Ordering::Relaxed);
        }
        result
    }

    /// How many posted writes are on their way. Relaxed: a thread sees its own posts, which is what is promised.
    #[inline]
    pub fn posted(&self) -> usize {
        self.sharing.posted.load(Ordering::Relaxed)
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Closes a parent's connection, in a forked child: that is, nothing but the handle.
    pub fn disown(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub fn close(&self, patience: Patience<'_>) {
        self.closed.store(true, Ordering::Relaxed);
        // Ends the waits of other threads, and only that: the server may take us for dead when none of them can write
        // to what we share any more, and not before.
        let _ = rustix::net::shutdown(&*self.life, rustix::net::Shutdown::Read);
        self.let_go(patience);
    }

    /// Drops the link, if nobody uses it and goes on to do so, and lets go of what is shared; may be called again.
    fn let_go(&self, patience: Patience<'_>) {
        let dropped = self.link.enter(patience, |link, _| {
            *link = None;
            Ok(())
        });
        // Views need socket and table for as long as there are any.
        if let Some(keeper) = &self.keeper {
            return keeper.close(dropped.is_ok());
        }
        // The socket closes with the link, and our second descriptor of it, for which `shutdown` has to stand in.
        if dropped.is_ok() {
            let _ = rustix::net::shutdown(&*self.life, rustix::net::Shutdown::Both);
        }
        // Other threads may be reading; they find nothing, ask the link, and learn that it is closed.
        if let Some(reader) = &self.reader {
            let _ = reader.memory().let_go();
        }
    }

    /// Makes sure that the server lived a moment ago, before a read that does not ask it.
    #[inline]
    pub fn check_alive(&self, reader: &TableReader) -> Result<(), Error> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        let now = coarse_ms();
        // Relaxed: who looks, and when exactly, does not matter.
        let stale = now.wrapping_sub(self.life_checked_ms.load(Ordering::Relaxed)) >= limits::LIVENESS_CHECK_MS;
        if stale || reader.is_closed() || self.gone.load(Ordering::Relaxed) {
            self.life_checked_ms.store(now, Ordering::Relaxed);
            return self.look_at_socket(reader);
        }
        Ok(())
    }

    /// The socket of a lane is silent as long as the server lives.
    #[cold]
    fn look_at_socket(&self, reader: &TableReader) -> Result<(), Error> {
        let error = match peek_words(&self.life) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) if !reader.is_closed() => {
                if !self.gone.load(Ordering::Relaxed) {
                    return Ok(());
                }
                Error::Gone("its connection has ended".to_owned())
            }
            _ => last_words(&self.life),
        };
        self.gone.store(true, Ordering::Relaxed);
        Err(error)
    }
}

pub(super) fn system<T>(doing: &'static str, result: std::io::Result<T>) -> Result<T, Error> {
    result.map_err(|error| Error::System { doing, error })
}

/// Asks for shared memory. Returns the server's words, and what it passed.
pub(super) fn upgrade(
    plain: &mut SocketLink,
    request: &[String; 3],
    patience: &mut Patience<'_>,
) -> Result<(String, Vec<OwnedFd>), Error> {
    let mut passed = Vec::new();
    match plain.handshake(&request.each_ref().map(String::as_bytes), &mut passed, patience)? {
        Reply::Status(status) => Ok((status.into_owned(), passed)),
        Reply::Error(message) => Err(super::refusal(message)),
        other => Err(super::unexpected(other)),
    }
}

/// Takes over what the server passed: table, lane or rings, the server's doorbell, ours.
fn join(
    socket: Descriptor,
    status: &str,
    passed: Vec<OwnedFd>,
    sharing: &Arc<Sharing>,
) -> Result<(TableReader, Channel), Error> {
    let count = passed.len();
    let [table, memory, request_bell, listener]: [OwnedFd; 4] =
        passed.try_into().map_err(|_| Error::Protocol(format!("'{status}' came with {count} descriptors, not 4")))?;
    let table = system("taking the table segment", Segment::from_foreign(table))?;
    let table = system("mapping the table segment", table.map_read_only())?;
    let mut reader = Reader::attach(Arc::new(table)).map_err(|error| Error::Version(error.to_string()))?;
    let channel = if status == "LANE" {
        let lane = LaneLink::join(socket, memory, request_bell, listener, &reader, Arc::clone(sharing))?;
        reader.leave_hints(Box::new(LaneHints(lane.mapping())));
        Channel::Lane(Box::new(lane))
    } else {
        let seat = Seat::parse(status).ok_or_else(|| Error::Protocol(format!("an unexpected reply: '{status}'")))?;
        Channel::Rings(Box::new(RingsLink::join(socket, seat, memory, request_bell, listener, &reader)?))
    };
    Ok((reader, channel))
}
