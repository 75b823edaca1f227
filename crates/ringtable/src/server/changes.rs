//! Who waits for a key to change: the group of each key that somebody waits for ([`super::waiters`]).
//!
//! A wait begins before the key is looked at, so that of a write and a wait at most one misses the other, and then only
//! if both come at the same instant (see [`super::leases`]).
//!
//! # Invariants
//!
//! - A key whose group is empty is not here.
//! - The bytes of all keys are bounded: [`limits::LEASE_KEYS_SIZE_MAX`].

use super::group_names::GroupNames;
use super::waiters::{Waiter, Waiters};
use crate::command::Refusal;
use crate::limits;

/// All keys whose change is waited for.
#[derive(Default)]
pub(super) struct Changes {
    keys: GroupNames,
}

impl Changes {
    /// Lets one wait for a key to change.
    ///
    /// # Errors
    /// If too many wait, or for too much.
    pub fn join(&mut self, key: &[u8], waiter: Waiter, waiters: &mut Waiters) -> Result<(), Refusal> {
        let mut group = self.keys.group_at(key);
        let size = self.keys.size_with(key);
        if group.is_none() && size > limits::LEASE_KEYS_SIZE_MAX {
            return Err(Refusal(format!(
                "LEASES the keys that are waited for would have {size} bytes; at most {} are allowed: ask again later",
                limits::LEASE_KEYS_SIZE_MAX
            )));
        }
        let is_new = group.is_none();
        waiters.join(&mut group, waiter)?;
        if let (true, Some(group)) = (is_new, group) {
            self.keys.insert(key, group);
        }
        Ok(())
    }

    /// The group of those who wait for a key, if there are any.
    pub fn group_of(&self, key: &[u8]) -> Option<u64> {
        self.keys.group_at(key)
    }

    /// Has those told who wait for a key, which has changed.
    pub fn end(&mut self, key: &[u8], waiters: &mut Waiters) {
        if let Some(group) = self.group_of(key) {
            self.keys.remove(group);
            waiters.end(group);
        }
    }

    /// Takes note that one of a group waits no more. Returns the bytes of the key that was looked up, if one was.
    pub fn forget(&mut self, group: u64, waiters: &Waiters) -> usize {
        if waiters.first_of(group).is_none() { self.keys.remove(group) } else { 0 }
    }
}
