//! Which of a fixed number of places are free.
//!
//! What was given back last is taken first, and what was never taken only when nothing else is left, the lowest first.
//! So little memory is touched, and a new list costs nothing.

/// The free ones among the indexes below `end`.
pub struct FreeList {
    returned: Vec<u32>,
    /// From here on, none was ever taken.
    next: u32,
    end: u32,
}

impl FreeList {
    /// All below `end` are free.
    pub fn new(end: usize) -> Self {
        Self { returned: Vec::new(), next: 0, end: end as u32 }
    }

    /// All below `taken.len()` for which it says `false` are free.
    pub fn without(taken: &[bool]) -> Self {
        let next = taken.iter().rposition(|&taken| taken).map_or(0, |last| last + 1);
        let returned = (0..next as u32).rev().filter(|&index| !taken[index as usize]).collect();
        Self { returned, next: next as u32, end: taken.len() as u32 }
    }

    /// Takes one.
    ///
    /// # Panics
    /// If none is free: there are as many as the limits allow to be taken.
    pub fn take(&mut self) -> u32 {
        self.returned.pop().unwrap_or_else(|| {
            assert!(self.next < self.end, "all {} are taken", self.end);
            self.next += 1;
            self.next - 1
        })
    }

    /// Gives one back that was taken.
    pub fn give_back(&mut self, index: u32) {
        self.returned.push(index);
    }
}
