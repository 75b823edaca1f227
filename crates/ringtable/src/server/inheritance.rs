//! What a server gets from its keeper: what another one has left, or nothing, if it is the first.
//!
//! The descriptors are checked where they are used. That they are what they are said to be is the keeper's word: it is
//! the parent of this process.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use super::held::Held;
use crate::shm::segment::Mapping;

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
}

/// A lane that was made for another server's client, or to be one's.
#[derive(Debug)]
pub struct InheritedLane {
    /// Its number.
    pub lane: usize,
    /// Its memory, mapped for writing by the keeper.
    pub mapping: Mapping,
    /// Its memory.
    pub memory: OwnedFd,
    /// What the client rings.
    pub request_bell: OwnedFd,
    /// What the server rings.
    pub response_bell: OwnedFd,
    /// The client's socket, if a client has it.
    pub socket: Option<OwnedFd>,
}
