//! The free slots that a worker has at hand.

use super::classes::CLASSES;

/// A worker's free slots, by class. Give it back with [`Heap::drain`].
#[derive(Debug)]
pub struct Cache {
    pub(super) slots: Vec<Vec<u64>>,
    /// Slots of all classes together.
    pub(super) count: usize,
    /// Whether it counts among those that hold slots.
    pub(super) holds: bool,
    /// How often the heap had asked for them when we last looked.
    pub(super) recalls: u64,
}

impl Default for Cache {
    fn default() -> Self {
        Self { slots: vec![Vec::new(); CLASSES], count: 0, holds: false, recalls: 0 }
    }
}
