//! What calls have left behind that is still to be sent: words to the server that nobody waits for, and the rest of a
//! request.
//!
//! # Design
//!
//! A call that was given up sends word that what it asked for is not wanted. If the connection is in use for longer
//! than the call may take, or has no room, the word is left here. The rest of a large request, of which the server has
//! a part, stays in the link ([`super::link`]), and it is noted here that there is such a rest. Whoever leaves the
//! connection sends what there is, as far as there is room; and if something remains, a thread of its own does it
//! ([`super::sender`]), since the process may make no further call. Whether that thread runs is under the same lock as
//! what it looks for: whoever leaves something either finds it running, and it looks again, or starts it.
//!
//! # Invariants
//!
//! - There are [`limits::UNSENT_WORDS_MAX`] words at most. The oldest goes first; what it is about ends with the
//!   connection.
//! - There is one sender of a connection at most.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::limits;
use crate::sync::lock;

pub(super) struct Word {
    /// The command's.
    pub number: u16,
    pub arguments: Vec<Vec<u8>>,
}

#[derive(Default)]
pub(super) struct Unsent {
    /// Whether there is something. Relaxed: what there is, is behind the lock, and who has left it looks himself.
    is_some: AtomicBool,
    left: Mutex<Left>,
}

#[derive(Default)]
struct Left {
    words: VecDeque<Word>,
    /// Whether the link has a rest of a request.
    has_rest: bool,
    /// Whether a sender runs.
    has_sender: bool,
}

impl Left {
    fn is_some(&self) -> bool {
        self.has_rest || !self.words.is_empty()
    }
}

impl Unsent {
    #[inline]
    pub fn is_some(&self) -> bool {
        self.is_some.load(Ordering::Relaxed)
    }

    fn change<R>(&self, change: impl FnOnce(&mut Left) -> R) -> R {
        let mut left = lock(&self.left);
        let result = change(&mut left);
        self.is_some.store(left.is_some(), Ordering::Relaxed);
        result
    }

    /// Leaves a word behind those that there are.
    pub fn leave(&self, word: Word) {
        self.change(|left| {
            if left.words.len() == limits::UNSENT_WORDS_MAX {
                left.words.pop_front();
            }
            left.words.push_back(word);
        });
    }

    /// The oldest of the words.
    pub fn take(&self) -> Option<Word> {
        self.change(|left| left.words.pop_front())
    }

    /// Puts a word back that was taken and could not be sent.
    pub fn put_back(&self, word: Word) {
        self.change(|left| {
            if left.words.len() < limits::UNSENT_WORDS_MAX {
                left.words.push_front(word);
            }
        });
    }

    /// Notes, inside of the gate, whether the link has a rest of a request.
    pub fn note_rest(&self, has_rest: bool) {
        self.change(|left| left.has_rest = has_rest);
    }

    /// Whether a sender is to be started: then it counts as one that runs.
    pub fn wants_sender(&self) -> bool {
        self.change(|left| {
            let is_wanted = left.is_some() && !left.has_sender;
            left.has_sender |= is_wanted;
            is_wanted
        })
    }

    /// Ends a sender, unless there is something for it to do. Returns whether it ends.
    pub fn ends_sender(&self) -> bool {
        self.change(|left| {
            left.has_sender = left.is_some();
            !left.has_sender
        })
    }

    /// Notes that there is no sender, whatever is left.
    pub fn lose_sender(&self) {
        self.change(|left| left.has_sender = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(number: u16) -> Word {
        Word { number, arguments: vec![b"key".to_vec()] }
    }

    #[test]
    fn they_come_in_order_and_the_oldest_goes_first() {
        let unsent = Unsent::default();
        assert!(!unsent.is_some() && unsent.take().is_none());
        let most = limits::UNSENT_WORDS_MAX as u16;
        (0..=most).for_each(|number| unsent.leave(word(number)));
        let first = unsent.take().unwrap();
        assert_eq!(first.number, 1);
        unsent.put_back(first);
        assert!((1..=most).all(|number| unsent.is_some() && unsent.take().is_some_and(|word| word.number == number)));
        assert!(!unsent.is_some() && unsent.take().is_none());
    }

    #[test]
    fn there_is_one_sender_as_long_as_something_is_left() {
        let unsent = Unsent::default();
        assert!(!unsent.wants_sender());
        unsent.note_rest(true);
        assert!(unsent.is_some() && unsent.wants_sender() && !unsent.wants_sender());
        unsent.leave(word(1));
        unsent.note_rest(false);
        assert!(!unsent.ends_sender() && !unsent.wants_sender(), "there is a word yet");
        assert!(unsent.take().is_some() && unsent.ends_sender() && !unsent.is_some());
        unsent.leave(word(2));
        assert!(unsent.wants_sender());
        unsent.lose_sender();
        assert!(unsent.wants_sender(), "the last one could not be started");
    }
}
