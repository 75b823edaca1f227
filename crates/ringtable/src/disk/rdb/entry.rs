//! An entry as a file has it.

use crate::table::{Expiry, Pair};

/// An entry of a table, as a file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// When it will be gone.
    pub expiry: Option<Expiry>,
    /// Whether it is never evicted.
    pub is_unevictable: bool,
}

impl<'a> Entry<'a> {
    /// The entry that a pair is a copy of, all of whose value was copied.
    #[inline]
    pub fn of(pair: &Pair<'a>) -> Self {
        let Pair { key, value, expiry, is_unevictable, .. } = *pair;
        Self { key, value, expiry, is_unevictable }
    }
}
