//! What a server gets from its keeper: what another one has left, or nothing, if it is the first.
//!
//! The descriptors are checked where they are used. That they are what they are said to be is the keeper's word: it is
//! the parent of this process.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::error::{Error, doing};
use super::held::Held;
use crate::shm::fork::Descriptor;
use crate::shm::segment::Mapping;

/// What is being done when something of it cannot be taken.
const TAKING: &str = "taking over what the keeper holds";

/// What the keeper gives a server.
#[derive(Debug)]
pub struct Inheritance {
    /// The way to the keeper.
    pub keeper: OwnedFd,
    /// What it holds for the server as a whole; nothing for the first one.
    pub held: HashMap<Held, OwnedFd>,
    /// The lanes that it holds, prepared ones included.
    pub lanes: Vec<InheritedLane>,
    /// How many servers there were before.
    pub restarts: u64,
    /// How many of these were upgraded.
    pub upgrades: u64,
    /// Whether this process is the next keeper if its own one dies: then it takes the server's estate.
    pub is_heir: bool,
}

impl Inheritance {
    /// Whether there was a server before, which has left its table.
    pub(super) fn is_of_another(&self) -> bool {
        self.held.contains_key(&Held::Table)
    }

    /// Whether the table that it has left means nothing to this server, and it has left its entries for that.
    pub(super) fn is_moved(&self) -> bool {
        self.held.contains_key(&Held::Entries)
    }

    /// Copies of what is held for the server as a whole, for the keeper that this process may have to be. The
    /// bookkeeping is not among it, which is used once.
    ///
    /// # Errors
    /// If the system has no descriptors.
    pub(super) fn copies(&self) -> Result<HashMap<Held, Descriptor>, Error> {
        let kept = self.held.iter().filter(|(what, _)| self.is_heir && **what != Held::Bookkeeping);
        let copies = kept.map(|(what, held)| Ok((*what, Descriptor::copy(held)?)));
        doing(TAKING, copies.collect::<io::Result<_>>())
    }

    /// Takes something that is held, if it is.
    ///
    /// # Errors
    /// If the system refuses it.
    pub(super) fn take(&mut self, what: Held) -> Result<Option<Descriptor>, Error> {
        let taken = self.held.remove(&what).map(|held| Descriptor::make(|| Ok(held))).transpose();
        doing(TAKING, taken.map_err(Into::into))
    }

    /// The same of what no server goes on without.
    ///
    /// # Errors
    /// If it is not held, or the system refuses it.
    pub(super) fn require(&mut self, what: Held) -> Result<Descriptor, Error> {
        let missing = || io::Error::other(format!("the keeper holds no {what:?}"));
        self.take(what)?.map_or_else(|| doing(TAKING, Err(missing())), Ok)
    }
}

/// The memory of a lane, mapped by the keeper for a server that is forked later: behind its client's seal no process
/// can map it any more.
#[derive(Debug)]
pub struct LaneMemory(Mapping);

impl LaneMemory {
    /// Maps a segment of so many bytes. This process does nothing with it.
    ///
    /// # Errors
    /// Those of the system; if it is no segment of so many bytes.
    pub fn keep(segment: impl AsFd, size: usize) -> io::Result<Self> {
        Mapping::to_be_inherited(segment, size).map(Self)
    }

    /// Leaves it to another copy of this library in this process, and returns where it begins.
    pub fn leave(self) -> usize {
        self.0.leave()
    }

    /// What another copy of this library has left, in a process that is forked from the one that mapped it.
    ///
    /// # Errors
    /// If nothing can be mapped there.
    ///
    /// # Safety
    /// As for [`Mapping::found`].
    #[allow(unsafe_code)]
    pub unsafe fn found(start: usize, size: usize) -> io::Result<Self> {
        // SAFETY: the caller's.
        unsafe { Mapping::found(start, size) }.map(Self)
    }

    /// The mapping, in the process of the server that was forked.
    pub(super) fn take_over(self) -> io::Result<Mapping> {
        self.0.take_over()
    }
}

/// A lane that was made for another server's client, or to be one's.
#[derive(Debug)]
pub struct InheritedLane {
    /// Its number.
    pub lane: usize,
    /// Its memory, which the keeper has mapped, and that as a segment.
    pub memory: LaneMemory,
    /// See [`Self::memory`]; `None` if the client has sealed it, and another server served it.
    pub segment: Option<OwnedFd>,
    /// What the client rings.
    pub request_bell: OwnedFd,
    /// What the server rings.
    pub response_bell: OwnedFd,
    /// The client's socket, if a client has it.
    pub socket: Option<OwnedFd>,
}
