//! Words to the server that nobody waits for, and that a call could not send: another thread had the connection.
//!
//! # Design
//!
//! A call that was given up sends word that what it asked for is not wanted. If the connection is in use for longer
//! than the call may take, the word is left here, and whoever leaves the connection sends it. To leave a word and then
//! to find the connection in use, or to leave the connection and then to look here: one of the two sees the other.
//! (Where a processor lets a load overtake the store that opens the gate, both may miss; then the next call sends it.)
//!
//! # Invariants
//!
//! - There are [`limits::UNSENT_WORDS_MAX`] at most. The oldest goes first; what it is about ends with the connection.

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
pub(super) struct UnsentWords {
    /// Whether there are some. Relaxed: the words are behind the lock, and see above for one that is missed.
    are_some: AtomicBool,
    words: Mutex<VecDeque<Word>>,
}

impl UnsentWords {
    #[inline]
    pub fn are_some(&self) -> bool {
        self.are_some.load(Ordering::Relaxed)
    }

    pub fn leave(&self, word: Word) {
        let mut words = lock(&self.words);
        if words.len() == limits::UNSENT_WORDS_MAX {
            words.pop_front();
        }
        words.push_back(word);
        self.are_some.store(true, Ordering::Relaxed);
    }

    /// The oldest of them.
    pub fn take(&self) -> Option<Word> {
        let mut words = lock(&self.words);
        let word = words.pop_front();
        self.are_some.store(!words.is_empty(), Ordering::Relaxed);
        word
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
        let words = UnsentWords::default();
        assert!(!words.are_some() && words.take().is_none());
        let most = limits::UNSENT_WORDS_MAX as u16;
        (0..=most).for_each(|number| words.leave(word(number)));
        assert!((1..=most).all(|number| words.are_some() && words.take().is_some_and(|word| word.number == number)));
        assert!(!words.are_some() && words.take().is_none());
    }
}
