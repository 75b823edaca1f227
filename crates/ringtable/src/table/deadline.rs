//! A deadline for work that no single request has asked for, such as a sweep.

/// A time to end at. There are no clocks in a model: of loom, which tries all runs, it has always come; of shuttle,
/// where everybody goes on some day, never.
pub(super) struct Deadline {
    #[cfg(not(loom))]
    at_ns: u64,
}

impl Deadline {
    /// So many nanoseconds from now.
    pub(super) fn after(_ns: u64) -> Self {
        Self {
            #[cfg(not(loom))]
            at_ns: crate::shm::clock::monotonic_ns() + _ns,
        }
    }

    /// Whether it has come.
    pub(super) fn has_come(&self) -> bool {
        #[cfg(not(loom))]
        return crate::shm::clock::monotonic_ns() >= self.at_ns;
        #[cfg(loom)]
        return cfg!(not(shuttle));
    }
}
