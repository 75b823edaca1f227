//! Requests that have come and wait, since the replies to those before them find no room.
//!
//! Many clients send all of a pipeline before they read the first reply. If the server did not take what they send
//! until they read, both would wait for each other. So it takes it, and keeps it here, up to a bound for each client
//! and one for all of them together; who goes beyond is sent away. The pieces keep their size however little comes at
//! a time, and go one by one: nothing here takes longer the more there is.

use std::collections::VecDeque;

use super::Shared;
use super::worker::{BUFFER_KEPT_MAX, Bench};
use crate::limits;
use crate::sync::Ordering;

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
    pub fn put(&mut self, mut bytes: &[u8], shared: &Shared) -> Result<(), TooMuch> {
        loop {
            if let Some(last) = self.pieces.back_mut() {
                let (now, later) = bytes.split_at(bytes.len().min(PIECE_SIZE - last.len()));
                last.extend_from_slice(now);
                bytes = later;
            }
            if bytes.is_empty() {
                return Ok(());
            }
            self.add_piece(shared)?;
        }
    }

    fn add_piece(&mut self, shared: &Shared) -> Result<(), TooMuch> {
        let own = (self.pieces.len() + 1) * PIECE_SIZE;
        // Relaxed: a figure, and a limit that need not be exact.
        let all = shared.statistics.waiting.load(Ordering::Relaxed) + PIECE_SIZE as u64;
        let mut piece = Vec::new();
        if own > limits::REQUEST_BACKLOG_MAX
            || is_too_much(own as u64, all, shared.max_memory)
            || piece.try_reserve_exact(PIECE_SIZE).is_err()
        {
            return Err(TooMuch);
        }
        shared.statistics.waiting.fetch_add(PIECE_SIZE as u64, Ordering::Relaxed);
        self.pieces.push_back(piece);
        Ok(())
    }

    /// Gives back the piece that came first.
    pub fn take(&mut self, shared: &Shared) -> Option<Vec<u8>> {
        let piece = self.pieces.pop_front()?;
        shared.statistics.waiting.fetch_sub(PIECE_SIZE as u64, Ordering::Relaxed);
        Some(piece)
    }

    /// Drops all of it.
    pub fn clear(&mut self, bench: &mut Bench) {
        let size = (self.pieces.len() * PIECE_SIZE) as u64;
        bench.shared.statistics.waiting.fetch_sub(size, Ordering::Relaxed);
        bench.discard_all(self.pieces.drain(..));
    }
}

/// Whether a client of which `own` bytes wait has to go, if `all` do of all clients together.
///
/// Who has little is let be. Of what is left under the bound for all, a client may have as much as it leaves for the
/// others: so they find room, too, however many there are that never read.
fn is_too_much(own: u64, all: u64, max_memory: u64) -> bool {
    let most = (max_memory / limits::REQUEST_BACKLOG_SHARE).max(2 * limits::REQUEST_BACKLOG_MAX as u64);
    own > BUFFER_KEPT_MAX as u64 && own > most.saturating_sub(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_find_room_beside_those_who_never_read() {
        let max_memory = 1 << 30;
        let (mut all, mut had) = (0, Vec::new());
        for _ in 0..100 {
            let mut own = 0;
            while own < limits::REQUEST_BACKLOG_MAX as u64 && !is_too_much(own + 1, all + 1, max_memory) {
                own += 1 << 10;
                all += 1 << 10;
            }
            had.push(own);
        }
        assert!(all <= max_memory / limits::REQUEST_BACKLOG_SHARE + 100 * BUFFER_KEPT_MAX as u64);
        assert_eq!(had[0], limits::REQUEST_BACKLOG_MAX as u64);
        assert!(had.iter().all(|&own| own >= BUFFER_KEPT_MAX as u64));
        assert!(!is_too_much(limits::REQUEST_BACKLOG_MAX as u64, limits::REQUEST_BACKLOG_MAX as u64, 4 << 20));
    }
}
