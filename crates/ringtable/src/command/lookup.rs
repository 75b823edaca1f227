//! Looking a key up for a command: its value, if the command needs it and it is small; or where it lies.

use std::mem::MaybeUninit;

use super::context::Context;
use super::refusal::Refusal;
use crate::limits;
use crate::shm::clock::wall_ms;
use crate::shm::segment::Mapping;
use crate::table::lookup::{Buffer, Found, Presence};
use crate::table::{Expiry, HeldEntry, Lookup, Sink};

/// Looks a key up; removes it if its time has passed. The value is copied to the scratch buffer if it has at most
/// `size_max` bytes.
#[inline]
pub(super) fn find(context: &mut Context<'_>, key: &[u8], size_max: usize) -> Result<Option<Found>, Refusal> {
    let Context { writer, scratch: buffer, .. } = context;
    match writer.get(key, wall_ms, &mut UpTo { size_max, buffer }) {
        Lookup::Hit(found) => Ok(Some(found)),
        Lookup::Expired => {
            writer.delete_expired(key, wall_ms);
            Ok(None)
        }
        Lookup::NoRoom(size) => Err(Refusal(format!("OOM the server has no memory for a copy of {size} bytes"))),
        Lookup::Miss | Lookup::Contended => Ok(None),
    }
}

/// A buffer for values of up to so many bytes; of larger ones it gets nothing.
struct UpTo<'a> {
    size_max: usize,
    buffer: &'a mut Buffer,
}

impl Sink for UpTo<'_> {
    fn begin(&mut self, size: usize) -> Option<&mut [MaybeUninit<u8>]> {
        if size > self.size_max { Some(&mut []) } else { self.buffer.begin(size) }
    }
}

/// A value on its way into a reply: in the scratch buffer, or where it lies.
pub(super) enum Value {
    Copied(Found),
    InEntry(HeldEntry<Mapping>),
}

impl Value {
    /// What belongs to the value.
    pub fn found(&self) -> Found {
        match self {
            Self::Copied(found) => *found,
            Self::InEntry(held) => held.found(),
        }
    }

    /// Writes it into the reply.
    #[inline]
    pub fn answer(self, context: &mut Context<'_>) {
        match self {
            Self::Copied(_) => context.reply.bulk(context.scratch.bytes()),
            Self::InEntry(held) => context.reply.value(held),
        }
    }
}

/// Looks a value up for a reply: a large one stays in its entry. Removes it if its time has passed.
#[inline]
pub(super) fn find_value(context: &mut Context<'_>, key: &[u8]) -> Result<Option<Value>, Refusal> {
    Ok(match find(context, key, limits::LARGE_VALUE_SIZE - 1)? {
        // It may have gone meanwhile.
        Some(found) if found.size >= limits::LARGE_VALUE_SIZE => context.writer.hold(key, wall_ms).map(Value::InEntry),
        Some(found) => Some(Value::Copied(found)),
        None => None,
    })
}

/// Refuses what would delete or replace a value in order to return it, if the reply cannot bring it: then it would be
/// lost. `SET` asks before it writes, and a value that grows in between is lost all the same.
pub(super) fn check_returnable(context: &mut Context<'_>, key: &[u8]) -> Result<(), Refusal> {
    if context.returned_size_max >= limits::VALUE_SIZE_MAX {
        return Ok(());
    }
    match context.writer.get(key, wall_ms, &mut Presence) {
        Lookup::Hit(found) => is_returnable(context, found),
        _ => Ok(()),
    }
}

/// The same for a value that was found.
pub(super) fn is_returnable(context: &Context<'_>, Found { size, .. }: Found) -> Result<(), Refusal> {
    let most = context.returned_size_max;
    if size <= most {
        return Ok(());
    }
    Err(Refusal::err(format_args!("the value has {size} bytes, and a reply has room for {most}: nothing was changed")))
}

/// The expiry of a key: outer `None` if there is no such key.
pub(super) fn expiry(context: &mut Context<'_>, key: &[u8]) -> Option<Option<Expiry>> {
    match context.writer.get(key, wall_ms, &mut Presence) {
        Lookup::Hit(found) => Some(found.expiry),
        _ => None,
    }
}

/// The version of a key; 0 if there is no such key.
pub(super) fn version_of(context: &mut Context<'_>, key: &[u8]) -> u64 {
    match context.writer.get(key, wall_ms, &mut Presence) {
        Lookup::Hit(found) => found.version,
        _ => 0,
    }
}
