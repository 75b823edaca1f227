//! Requests that have come and wait, since the replies to those before them find no room, or are yet to come.
//!
//! Many clients send all of a pipeline before they read the first reply. If the server did not take what they send
//! until they read, both would wait for each other. So it takes it, and keeps it here, up to a bound for each client
//! and one for all of them together; who goes beyond is sent away. The pieces keep their size however little comes at
//! a time, and go one by one: nothing here takes longer the more there is.

use std::collections::VecDeque;

use super::executor::Executor;
use super::request_memory::RequestMemory;
use crate::limits;

/// Bytes of a piece.
const PIECE_SIZE: usize = 64 << 10;

/// What waits of one client.
#[derive(Default)]
pub(super) struct Backlog {
    pieces: VecDeque<Vec<u8>>,
}

/// More waits than may.
pub(super) struct TooMuch;

impl Backlog {
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Keeps what has come.
    pub fn put(&mut self, mut bytes: &[u8], memory: &RequestMemory) -> Result<(), TooMuch> {
        loop {
            if let Some(last) = self.pieces.back_mut() {
                let (now, later) = bytes.split_at(bytes.len().min(PIECE_SIZE - last.len()));
                last.extend_from_slice(now);
                bytes = later;
            }
            if bytes.is_empty() {
                return Ok(());
            }
            self.add_piece(memory)?;
        }
    }

    fn add_piece(&mut self, memory: &RequestMemory) -> Result<(), TooMuch> {
        let own = (self.pieces.len() + 1) * PIECE_SIZE;
        let mut piece = Vec::new();
        if own > limits::REQUEST_BACKLOG_MAX
            || memory.is_too_much_waiting(own, PIECE_SIZE)
            || piece.try_reserve_exact(PIECE_SIZE).is_err()
        {
            return Err(TooMuch);
        }
        memory.wait(PIECE_SIZE);
        self.pieces.push_back(piece);
        Ok(())
    }

    /// Gives back the piece that came first.
    pub fn take(&mut self, memory: &RequestMemory) -> Option<Vec<u8>> {
        let piece = self.pieces.pop_front()?;
        memory.wait_no_more(PIECE_SIZE);
        Some(piece)
    }

    /// Drops all of it.
    pub fn clear(&mut self, executor: &mut Executor) {
        executor.store.requests.wait_no_more(self.pieces.len() * PIECE_SIZE);
        executor.discarded.put_all(self.pieces.drain(..));
    }
}
