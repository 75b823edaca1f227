//! The names that groups of waiters ([`super::waiters`]) wait at: each is found by the other.

use std::collections::HashMap;
use std::sync::Arc;

/// Names, each of which one group waits at.
#[derive(Default)]
pub(super) struct GroupNames {
    groups: HashMap<Arc<[u8]>, u64>,
    names: HashMap<u64, Arc<[u8]>>,
    /// Bytes of all names.
    size: usize,
}

impl GroupNames {
    /// The group that waits at a name.
    pub fn group_at(&self, name: &[u8]) -> Option<u64> {
        self.groups.get(name).copied()
    }

    /// The name that a group waits at.
    pub fn name_of(&self, group: u64) -> Option<&[u8]> {
        self.names.get(&group).map(|name| &**name)
    }

    /// The bytes of all names, with another one.
    pub fn size_with(&self, name: &[u8]) -> usize {
        self.size + name.len()
    }

    /// Lets a group wait at a name, at which none does.
    pub fn insert(&mut self, name: &[u8], group: u64) {
        self.size += name.len();
        let name: Arc<[u8]> = name.into();
        self.groups.insert(Arc::clone(&name), group);
        self.names.insert(group, name);
    }

    /// Lets a group wait at no name any more. Returns the bytes of the name; 0 if it waited at none.
    pub fn remove(&mut self, group: u64) -> usize {
        let Some(name) = self.names.remove(&group) else { return 0 };
        self.groups.remove(&name);
        self.size -= name.len();
        name.len()
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        (self.groups.is_empty(), self.names.is_empty(), self.size) == (true, true, 0)
    }
}
