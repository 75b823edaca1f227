//! The free slots of slabs that were taken over from a dead server, between those that are in use.
//!
//! # Design
//!
//! A slab's list of free slots goes through the slots themselves. To make the lists of all slabs when a table is taken
//! over would touch a line of each free slot, all over the segment, while writers wait. What is known then is a bit for
//! each slot that is in use ([`super::rebuild`]), so these bits stay, and a slot that is taken out of such a slab is
//! looked up in them: behind what is in the list, which has what has come back since, and before what was never used.
//!
//! # Invariants
//!
//! - A slot whose bit is not set is free, and in no list. A bit is set once, when its slot is handed out, and never
//!   cleared: a slot that comes back goes to the list.
//! - The bits of all slabs go when the last slab has none left.

/// The bits, and how many slabs have some.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    bits: Vec<u64>,
    slabs: u32,
}

impl Gaps {
    /// With these bits, in which so many slabs have free slots. A slab knows where its bits begin, plus one; 0 = it has
    /// none.
    pub(super) fn new(bits: Vec<u64>, slabs: u32) -> Self {
        Self { bits: if slabs > 0 { bits } else { Vec::new() }, slabs }
    }

    /// Takes a free slot out of a slab of which so many slots were used once, if it has one here. That is a look at 64
    /// words at most: so many a slab has.
    #[inline]
    pub(super) fn take(&mut self, used_bits: &mut u32, used_once: u32) -> Option<u32> {
        let begin = used_bits.checked_sub(1)? as usize;
        let words = &mut self.bits[begin..begin + used_once.div_ceil(64) as usize];
        let found = words.iter_mut().enumerate().find(|(_, bits)| **bits != u64::MAX);
        if let Some((nth, bits)) = found {
            let slot = nth as u32 * 64 + bits.trailing_ones();
            if slot < used_once {
                *bits |= 1 << (slot % 64);
                return Some(slot);
            }
        }
        *used_bits = 0;
        self.close();
        None
    }

    /// All bits.
    pub(super) fn bits(&self) -> &[u64] {
        &self.bits
    }

    /// A slab has none any more.
    pub(super) fn close(&mut self) {
        self.slabs -= 1;
        if self.slabs == 0 {
            self.bits = Vec::new();
        }
    }

    /// Whether a slot of a slab is free here.
    #[cfg(all(test, not(loom)))]
    pub(super) fn has(&self, used_bits: u32, used_once: u32, slot: u32) -> bool {
        let is_free = |begin| self.bits[(begin + slot / 64) as usize] >> (slot % 64) & 1 == 0;
        slot < used_once && used_bits.checked_sub(1).is_some_and(is_free)
    }
}
