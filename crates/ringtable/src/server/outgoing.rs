//! Replies that wait for room on their way to a client.

use super::worker::BUFFER_KEPT_MAX;

/// Replies in the order in which they go out.
#[derive(Default)]
pub(super) struct Outgoing {
    /// What was written, of which everything before `sent` has gone.
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    /// Bytes that have not gone.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether all of it has gone.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where replies are written to.
    #[inline]
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What goes next.
    #[inline]
    pub fn next(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Takes note that so many bytes of [`Self::next`] have gone.
    #[inline]
    pub fn advance(&mut self, size: usize) {
        self.sent += size;
        if self.sent == self.bytes.len() {
            self.clear();
        }
    }

    /// Drops all of it.
    pub fn clear(&mut self) {
        self.sent = 0;
        self.bytes.clear();
        if self.bytes.capacity() > BUFFER_KEPT_MAX {
            self.bytes = Vec::new();
        }
    }
}
