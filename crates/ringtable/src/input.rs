//! A fuzzer's input, taken apart from its beginning. When it is used up it goes on as zeroes, so that every input will
//! do.

/// What is left of an input.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Up to `size` bytes.
    pub fn take(&mut self, size: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(size.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// All the rest.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn array<const SIZE: usize>(&mut self) -> [u8; SIZE] {
        let (taken, mut array) = (self.take(SIZE), [0; SIZE]);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn word(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        let number = if end <= 256 { u32::from(self.byte()) } else { u32::from_le_bytes(self.array()) };
        number as usize % end.max(1)
    }

    /// A word as somebody would write it who wants to do harm: near 0, near the largest, near a power of two or near
    /// `like`, or any.
    pub fn nasty(&mut self, like: u64) -> u64 {
        let near = i64::from(self.byte() as i8);
        match self.byte() % 5 {
            0 => near as u64,
            1 => (1_u64 << (self.byte() % 64)).wrapping_add_signed(near),
            2 => like.wrapping_add_signed(near),
            3 => like ^ 1 << (self.byte() % 64),
            _ => self.word(),
        }
    }
}
