//! Values that were computed under a lease and are not in the table: for the clients that waited for them.
//!
//! # Design
//!
//! A value for which the table has no room would be computed by all who wait for it, one after the other, each in vain.
//! So the one who has computed it leaves it here when it gives the lease back. A client that was refused the lease has
//! been told its token, and asks again with that: it waits for what comes of this lease or of a later one, and gets
//! what is here if that is so. One that asks for the first time gets nothing, but the lease: nothing is a cache here.
//!
//! Where computing has failed and an old value will do, what is left here is that news alone.
//!
//! # Invariants
//!
//! - Nothing is kept for longer than [`limits::HANDOVER_KEPT_NS`], which is many times the pause between two looks of
//!   who waits; nor more than [`limits::HANDOVERS_MAX`], nor more bytes than [`limits::HANDOVERS_SIZE_MAX`]: then the
//!   oldest go, and who has not come for them computes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::limits;

struct Handover {
    token: u64,
    value: Option<Arc<[u8]>>,
    at_ns: u64,
}

#[derive(Default)]
pub(super) struct Handovers {
    by_key: HashMap<Arc<[u8]>, Handover>,
    /// The oldest first. A key whose token is another one now is here once more behind.
    order: VecDeque<(Arc<[u8]>, u64)>,
    size: usize,
}

impl Handovers {
    /// Leaves what came of the lease with this token.
    pub fn leave(&mut self, key: &[u8], token: u64, value: Option<&[u8]>, now_ns: u64) {
        let size = key.len() + value.map_or(0, <[u8]>::len);
        self.remove(key);
        while !self.order.is_empty()
            && (self.order.len() >= limits::HANDOVERS_MAX || self.size + size > limits::HANDOVERS_SIZE_MAX)
        {
            self.drop_oldest();
        }
        let key: Arc<[u8]> = key.into();
        self.size += size;
        self.order.push_back((Arc::clone(&key), token));
        self.by_key.insert(key, Handover { token, value: value.map(Into::into), at_ns: now_ns });
    }

    /// What came of the lease with this token, or of a later one, if anything is left of that.
    pub fn find(&self, key: &[u8], token: u64) -> Option<Option<Arc<[u8]>>> {
        self.by_key.get(key).filter(|handover| handover.token >= token).map(|handover| handover.value.clone())
    }

    /// Drops the oldest if it has been here for long enough. Returns when to come again; `None` if nothing is left.
    pub fn tend(&mut self, now_ns: u64) -> Option<u64> {
        let due_ns = |handovers: &Self| {
            let (key, token) = handovers.order.front()?;
            let at_ns = handovers.by_key.get(key).filter(|handover| handover.token == *token).map(|found| found.at_ns);
            Some(at_ns.map_or(now_ns, |at_ns| at_ns + limits::HANDOVER_KEPT_NS))
        };
        if due_ns(self)? <= now_ns {
            self.drop_oldest();
        }
        due_ns(self)
    }

    fn drop_oldest(&mut self) {
        if let Some((key, token)) = self.order.pop_front()
            && self.by_key.get(&key).is_some_and(|handover| handover.token == token)
        {
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(handover) = self.by_key.remove(key) {
            self.size -= key.len() + handover.value.map_or(0, |value| value.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_for_those_who_waited() {
        let mut handovers = Handovers::default();
        handovers.leave(b"key", 7, Some(b"value"), 0);
        assert_eq!(handovers.find(b"key", 7), Some(Some(b"value"[..].into())));
        assert_eq!(handovers.find(b"key", 6), Some(Some(b"value"[..].into())));
        assert_eq!(handovers.find(b"key", 8), None);
        assert_eq!(handovers.find(b"other", 7), None);
        handovers.leave(b"key", 9, None, 1);
        assert_eq!(handovers.find(b"key", 8), Some(None));
        assert_eq!(handovers.size, 3);
    }

    #[test]
    fn they_are_kept_for_a_while() {
        let mut handovers = Handovers::default();
        assert_eq!(handovers.tend(0), None);
        handovers.leave(b"a", 1, Some(b"value"), 0);
        handovers.leave(b"b", 2, None, 5);
        handovers.leave(b"a", 3, None, 10);
        let kept_ns = limits::HANDOVER_KEPT_NS;
        // What was left first is replaced already.
        assert_eq!(handovers.tend(6), Some(5 + kept_ns));
        assert_eq!(handovers.tend(4 + kept_ns), Some(5 + kept_ns));
        assert_eq!(handovers.tend(5 + kept_ns), Some(10 + kept_ns));
        assert_eq!((handovers.find(b"b", 2), handovers.find(b"a", 3)), (None, Some(None)));
        assert_eq!(handovers.tend(10 + kept_ns), None);
        assert_eq!((handovers.size, handovers.by_key.len()), (0, 0));
    }

    #[test]
    fn they_are_bounded_in_number_and_in_size() {
        let mut handovers = Handovers::default();
        let value = vec![0; limits::HANDOVER_VALUE_SIZE_MAX];
        for token in 1..100_u64 {
            handovers.leave(&token.to_ne_bytes(), token, Some(&value), token);
        }
        assert!(handovers.size <= limits::HANDOVERS_SIZE_MAX && handovers.size > limits::HANDOVERS_SIZE_MAX / 2);
        assert_eq!(handovers.find(&1_u64.to_ne_bytes(), 1), None);
        for token in 100..100 + 2 * limits::HANDOVERS_MAX as u64 {
            handovers.leave(&token.to_ne_bytes(), token, None, token);
        }
        assert_eq!(handovers.by_key.len(), limits::HANDOVERS_MAX);
        // One key again and again.
        for token in 10_000..20_000 {
            handovers.leave(b"key", token, None, token);
        }
        assert!(handovers.order.len() <= limits::HANDOVERS_MAX);
    }
}
