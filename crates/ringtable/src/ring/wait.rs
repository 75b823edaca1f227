//! Whether to spin or to sleep: each side publishes `{asleep, crowded, cpu}`, and the other decides by it.
//!
//! # Design
//!
//! Spinning pays only if the other side is awake on another processor: then an answer comes within a microsecond. If it
//! is on ours, or asleep, spinning only keeps it from running. And if more clients and workers want to run than there
//! are processors, every spinner takes a processor from somebody with work to do. In all those cases one parks at once.
//!
//! A client that has just rung a sleeping worker is the exception: the worker is on its way, most likely on a processor
//! that was idle, and a client that slept too would have to be woken in its turn; then each would find the other asleep
//! for ever after (we measured 50 us a round trip instead of 2). So it spins for as long as both wake-ups would take.
//!
//! Even when it pays, one spins for no longer than a wake-up costs on this machine, which is measured at start (3 to 5
//! us on bare metal, 17 to 35 us on some small virtual machines): so one never spends more than twice what the best
//! choice would have cost (the ski-rental argument: A. Karlin et al., "Competitive randomized algorithms for
//! non-uniform problems", SODA 1990).
//!
//! # Not promised
//!
//! Processors change hands at any time: what is published is a hint, and a wrong one costs microseconds only.

/// What a side publishes about itself, packed in one word.
///
/// Bit 0: asleep, ring me. Bit 1: more runnable parties than processors, as far as the server can tell (only servers
/// publish it). From bit 8: the processor it last ran on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// It sleeps, or is about to.
    pub asleep: bool,
    /// Nobody should spin.
    pub crowded: bool,
    /// The processor it last ran on.
    pub cpu: u64,
}

impl State {
    /// As a word.
    #[inline]
    pub fn pack(self) -> u64 {
        u64::from(self.asleep) | u64::from(self.crowded) << 1 | self.cpu << 8
    }

    /// From a word. Every word is valid.
    #[inline]
    pub fn unpack(word: u64) -> Self {
        Self { asleep: word & 1 != 0, crowded: word & 2 != 0, cpu: word >> 8 }
    }

    /// Whether it pays for one who runs on `our_cpu` to spin for something from the one that published this.
    #[inline]
    pub fn worth_spinning(self, our_cpu: u64) -> bool {
        !self.asleep && !self.crowded && self.cpu != our_cpu
    }

    /// The same for one who has just rung the other side if it was asleep.
    #[inline]
    pub fn worth_spinning_after_ringing(self, our_cpu: u64) -> bool {
        !self.crowded && (self.asleep || self.cpu != our_cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spins_only_for_who_is_awake_elsewhere_with_room_for_both() {
        let awake = State { asleep: false, crowded: false, cpu: 3 };
        assert_eq!(State::unpack(awake.pack()), awake);
        assert!(awake.worth_spinning(0));
        assert!(!awake.worth_spinning(3));
        assert!(!State { asleep: true, ..awake }.worth_spinning(0));
        assert!(State { asleep: true, cpu: 0, ..awake }.worth_spinning_after_ringing(0));
        assert!(!State { asleep: true, crowded: true, ..awake }.worth_spinning_after_ringing(0));
        assert!(!State { crowded: true, ..awake }.worth_spinning(0));
    }
}
