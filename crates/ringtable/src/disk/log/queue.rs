//! What has changed and is not written yet, in the order in which it has.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use crate::limits;
use crate::shm::segment::Mapping;
use crate::sync::{Arc, copy_out, lock};
use crate::table::entry::EntryRef;
use crate::table::{Expiry, HeldEntry, Journal, State, Table};

/// Records that are not written yet.
///
/// Positions count the bytes of records, from the beginning of the queue on; those of a value that is held count, too.
#[derive(Default)]
pub struct Queue {
    state: Mutex<Queued>,
    news: Condvar,
    /// The position behind the last record.
    position: AtomicU64,
    /// Bytes of values that are held, also those of batches that were taken.
    held: AtomicU64,
    table: OnceLock<Weak<Table<Mapping>>>,
}

#[derive(Default)]
struct Queued {
    batch: Batch,
    /// Whether the thread that writes waits for news.
    sleeps: bool,
    /// Whether it was rung since it took what there was.
    is_rung: bool,
    /// Whether records are dropped: nobody can write them.
    drops: bool,
}

/// Records that are written together.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Values that are held, and where they stand between the bytes.
    held: Vec<(usize, HeldEntry<Mapping>)>,
    /// Bytes of those.
    held_size: u64,
    /// How many records.
    pub records: u64,
    /// The position behind the last one.
    pub end: u64,
}

impl Batch {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of all records.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64 + self.held_size
    }

    /// All of it, piece by piece.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = 0;
        let values = self.held.iter().flat_map(move |(place, held)| {
            let before = &self.bytes[at..*place];
            at = *place;
            [before, held.bytes()]
        });
        let behind = self.held.last().map_or(0, |(place, _)| *place);
        values.chain([&self.bytes[behind..]]).filter(|piece| !piece.is_empty())
    }

    /// Forgets all of it, and keeps some memory.
    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(limits::LOG_BATCH_KEPT);
        self.held.clear();
        (self.held_size, self.records) = (0, 0);
    }
}

impl Queue {
    /// Is told the table whose values it holds.
    pub fn belongs_to(&self, table: &Arc<Table<Mapping>>) {
        let _ = self.table.set(Arc::downgrade(table));
    }

    /// The position behind the last record.
    #[inline]
    pub fn position(&self) -> u64 {
        // Acquire: pairs with the Release in `note`, for who waits until what it has just seen is durable.
        self.position.load(Ordering::Acquire)
    }

    /// Swaps all that is queued for `spare`, which is empty. Waits for news, if there are none, no longer than that.
    pub fn take(&self, spare: Batch, patience: Option<Duration>) -> Batch {
        let mut state = lock(&self.state);
        if state.batch.is_empty() && !state.is_rung && patience != Some(Duration::ZERO) {
            state.sleeps = true;
            state = match patience {
                None => self.news.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(patience) => self.news.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0,
            };
            state.sleeps = false;
        }
        state.is_rung = false;
        let mut taken = std::mem::replace(&mut state.batch, spare);
        // Relaxed: it changes while the lock is held.
        taken.end = self.position.load(Ordering::Relaxed);
        taken
    }

    /// Lets go of a batch that was written, to be filled again.
    pub fn release(&self, mut batch: Batch) -> Batch {
        // Relaxed: see `held`.
        self.held.fetch_sub(batch.held_size, Ordering::Relaxed);
        batch.clear();
        batch
    }

    /// Bytes of the table that are kept from being used again.
    #[inline]
    pub fn held(&self) -> u64 {
        // Relaxed: compared with a limit that may be passed a little.
        self.held.load(Ordering::Relaxed)
    }

    /// Wakes who waits for news.
    pub fn ring(&self) {
        lock(&self.state).is_rung = true;
        self.news.notify_one();
    }

    /// Drops what is queued, and what comes from now on; or takes it again. Returns the position of that moment.
    pub fn drop_records(&self, drops: bool) -> u64 {
        let mut state = lock(&self.state);
        state.drops = drops;
        state.batch = self.release(std::mem::take(&mut state.batch));
        self.position.load(Ordering::Relaxed)
    }
}

impl Journal for Arc<Queue> {
    fn note(&self, change: State<'_>) {
        let mut state = lock(&self.state);
        if state.drops {
            return;
        }
        let batch = &mut state.batch;
        let before = batch.size();
        let out = &mut batch.bytes;
        match change {
            State::Written { key, entry, start, is_unevictable } => {
                if is_unevictable {
                    out.extend_from_slice(UNEVICTABLE);
                }
                let expiry = entry.expiry();
                out.extend_from_slice(if expiry.is_some() { b"*5\r\n$3\r\nSET\r\n" } else { b"*3\r\n$3\r\nSET\r\n" });
                push_word(out, key);
                let size = entry.shape.value_size;
                push_size(out, size);
                if size <= limits::COPIED_LOCKED_MAX {
                    push_words(out, size, |room| copy_out(entry.value_words(), room));
                } else if let Some(table) = self.table.get().and_then(Weak::upgrade) {
                    batch.held.push((batch.bytes.len(), HeldEntry::of_locked(&table, start, entry)));
                    batch.held_size += size as u64;
                    // Relaxed: see `held`.
                    self.held.fetch_add(size as u64, Ordering::Relaxed);
                }
                let out = &mut batch.bytes;
                out.extend_from_slice(b"\r\n");
                if let Some(Expiry(at_ms)) = expiry {
                    out.extend_from_slice(b"$4\r\nPXAT\r\n");
                    push_number(out, at_ms);
                }
            }
            State::Renewed(key, Some(Expiry(at_ms))) => {
                out.extend_from_slice(b"*3\r\n$9\r\nPEXPIREAT\r\n");
                push_word(out, key);
                push_number(out, at_ms);
            }
            State::Renewed(key, None) => {
                out.extend_from_slice(b"*2\r\n$7\r\nPERSIST\r\n");
                push_word(out, key);
            }
            State::Removed(entry) => {
                out.extend_from_slice(b"*2\r\n$3\r\nDEL\r\n");
                push_key(out, entry);
            }
            State::Gone(key) => {
                out.extend_from_slice(b"*2\r\n$3\r\nDEL\r\n");
                push_word(out, key);
            }
        }
        batch.records += 1;
        let size = batch.size() - before;
        // Release: see `position`. Only who has the lock writes it.
        self.position.store(self.position.load(Ordering::Relaxed) + size, Ordering::Release);
        if state.sleeps {
            state.sleeps = false;
            drop(state);
            self.news.notify_one();
        }
    }
}

/// The line that says of what the next command sets that it is never evicted.
pub(super) const UNEVICTABLE: &[u8] = b"#unevictable\n";

fn push_word(out: &mut Vec<u8>, word: &[u8]) {
    push_size(out, word.len());
    out.extend_from_slice(word);
    out.extend_from_slice(b"\r\n");
}

fn push_key(out: &mut Vec<u8>, entry: EntryRef<'_>) {
    let size = entry.shape.key_size;
    push_size(out, size);
    push_words(out, size, |room| copy_out(entry.key_words(), room));
    out.extend_from_slice(b"\r\n");
}

/// Appends so many bytes, which `copy` writes.
fn push_words(out: &mut Vec<u8>, size: usize, copy: impl FnOnce(&mut [std::mem::MaybeUninit<u8>])) {
    out.reserve(size);
    copy(&mut out.spare_capacity_mut()[..size]);
    #[allow(unsafe_code)]
    // SAFETY: so many bytes behind the old length were reserved, and have just been written by `copy_out`.
    unsafe {
        out.set_len(out.len() + size);
    }
}

fn push_size(out: &mut Vec<u8>, size: usize) {
    out.push(b'$');
    push_decimal(out, size as u64);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number as a word.
fn push_number(out: &mut Vec<u8>, number: u64) {
    push_size(out, number.checked_ilog10().map_or(1, |digits| digits as usize + 1));
    push_decimal(out, number);
    out.extend_from_slice(b"\r\n");
}

fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
