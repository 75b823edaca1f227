//! Loading: the entries of a file into the table, over what it has.
//!
//! # Design
//!
//! The file is gone over twice: first to see whether it is whole, so that a damaged one changes nothing, then to load
//! it. Its entries are sent in batches, as any client could send them, and posted: the server executes some while the
//! next ones are read.
//!
//! # Not promised
//!
//! That nothing is loaded of a file that changes meanwhile, or whose entries have no room: what stands before is.

use std::path::Path;

use super::blocking::BlockingLink;
use super::error::Error;
use super::handle::Client;
use super::numbers::NUMBERS;
use super::patience::Patience;
use super::snapshot::Progress;
use super::write_options::SetWords;
use crate::disk::{self, Contents, Reading};
use crate::limits;
use crate::shm::clock::wall_ms;
use crate::table::{Mark, Pair, Pairs};

/// What to make of a file that is not as one would like it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loading {
    /// Whether to refuse one that has what a table cannot have.
    pub is_strict: bool,
    /// Whether to load of a damaged one what is whole.
    pub salvages: bool,
}

/// What was loaded.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Entries that were written.
    pub entries: u64,
    /// Entries that had expired.
    pub expired: u64,
    /// What the file has.
    pub contents: Contents,
    /// What was wrong with the file, if that did not matter.
    pub damage: Option<disk::Error>,
}

impl Client {
    /// Writes the entries of a file that Redis, Valkey or [`Client::snapshot`] has made. `told` hears now and then how
    /// far it has come, and says whether to go on.
    ///
    /// # Errors
    /// [`Error::File`]: nothing was loaded then. Those of writes and of the connection.
    pub fn load(
        &self,
        path: &Path,
        loading: Loading,
        mut told: impl FnMut(Progress) -> bool,
        mut patience: Patience<'_>,
    ) -> Result<Loaded, Error> {
        patience.start();
        let (contents, damage, whole) = survey(path, loading, patience)?;
        let mut loaded = Loaded { contents, damage, ..Loaded::default() };
        let mut reading = Reading::begin(path)?;
        let mut batch = Pairs::default();
        let mut progress = Progress { entries: 0, of: whole, size: 0 };
        while progress.entries < whole {
            let Some(entry) = reading.next_entry()? else { break };
            progress.entries += 1;
            if entry.expiry.is_some_and(|expiry| expiry.has_passed(wall_ms())) {
                loaded.expired += 1;
            } else {
                let (key, value, value_size) = (entry.key, entry.value, entry.value.len());
                let (expiry, is_unevictable) = (entry.expiry, entry.is_unevictable);
                let pair = Pair { key, value, value_size, expiry, is_unevictable };
                batch.push_pair(pair).ok_or(Error::NoRoom(value_size))?;
            }
            if batch.len() >= limits::LOAD_BATCH_MAX || batch.size() >= limits::LOAD_BATCH_SIZE {
                patience.check()?;
                self.write_pairs(&batch, patience)?;
                loaded.entries += batch.len() as u64;
                batch.clear();
                progress.size = reading.position();
                if !told(progress) {
                    return Err(Error::Interrupted);
                }
            }
        }
        self.write_pairs(&batch, patience)?;
        loaded.entries += batch.len() as u64;
        self.flush(patience)?;
        Ok(loaded)
    }

    /// Writes pairs as they are, with their times and marks. Nobody waits for the replies: the next pairs are read from
    /// the file meanwhile.
    fn write_pairs(&self, pairs: &Pairs, patience: Patience<'_>) -> Result<(), Error> {
        if pairs.is_empty() {
            return Ok(());
        }
        let connection = self.connection(patience)?;
        let request = |link: &mut BlockingLink, index: usize, patience: &mut Patience<'_>| {
            let pair = pairs.get(index);
            let mut words = SetWords::new(pair.key, pair.value);
            let digits = pair.expiry.map(|expiry| expiry.0.to_string());
            if let Some(digits) = &digits {
                words.until(digits);
            }
            if pair.is_unevictable {
                words.mark(Mark::Unevictable);
            }
            link.push_posted(NUMBERS.set, words.as_slice(), connection.hash(pair.key), patience)
        };
        connection.locked(patience, |link, patience| link.post_many(pairs.len(), request, patience))
    }
}

/// Looks whether a file is whole: what it has, what is wrong with it, and how many entries there are to load.
fn survey(
    path: &Path,
    loading: Loading,
    mut patience: Patience<'_>,
) -> Result<(Contents, Option<disk::Error>, u64), Error> {
    let mut stopped = None;
    let goes_on = |_| {
        stopped = patience.check().err();
        stopped.is_none()
    };
    match disk::survey(path, goes_on) {
        Ok(None) => Err(stopped.unwrap_or(Error::Interrupted)),
        Ok(Some(contents)) => match contents.skipped_in_words() {
            Some(what) if loading.is_strict => Err(disk::Error::Foreign { path: path.to_owned(), what }.into()),
            _ => {
                let entries = contents.entries;
                Ok((contents, None, entries))
            }
        },
        Err(damage @ disk::Error::Damaged { whole, .. }) if loading.salvages => {
            Ok((Contents::default(), Some(damage), whole))
        }
        Err(error) => Err(error.into()),
    }
}
