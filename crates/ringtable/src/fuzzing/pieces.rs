//! Input that comes in pieces of any size.

use crate::input::Input;

/// Cuts `stream` as `sizes` says, and calls `feed` with all that has come after each piece, from where it has got to:
/// it returns how many bytes it has done with, or `None` to end this. Once `sizes` is used up, the rest comes at once.
pub fn feed(stream: &[u8], sizes: &mut Input<'_>, mut feed: impl FnMut(&[u8]) -> Option<usize>) {
    let (mut start, mut end) = (0, 0);
    loop {
        let Some(done) = feed(&stream[start..end]) else { return };
        start += done;
        assert!(start <= end, "more is done than has come");
        if done > 0 {
            continue;
        }
        if end == stream.len() {
            return;
        }
        let size = if sizes.is_empty() { stream.len() } else { 1 + usize::from(sizes.byte()) };
        end = stream.len().min(end + size);
    }
}
