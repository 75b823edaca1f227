//! An entry as a file has it.

use crate::table::Expiry;

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
