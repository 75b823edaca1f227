//! The table on the disk: snapshots into the server's folder, from a thread of its own, and loading at the start.
//!
//! # Design
//!
//! The thread goes over the table as a reader does, takes nothing from anybody, and gives way to whoever wants the
//! processor ([`NICENESS`]). A snapshot is begun when somebody asks for one, and as often as the server was told to,
//! unless nothing was written since; and at the end of the server, when all else has ended.
//!
//! # Invariants
//!
//! - There is one snapshot under way at a time. Who asks for one meanwhile gets the next one: that under way may have
//!   passed by what they wrote.
//! - A snapshot that fails costs nothing but itself: the older ones stay.

use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, setpriority_process};

use super::error::Error;
use super::options::Options;
use super::words::tell;
use crate::command::{Refusal, SavingState, Task};
use crate::disk::{self, DataFolder, Reading, Replacement, Written, survey, write_table};
use crate::shm::clock::wall_ms;
use crate::shm::segment::Mapping;
use crate::sync::{Arc, lock};
use crate::table::{Expiry, Guard, Mark, Table, WriteError, Writer};

/// For how long the server before may take to leave its folder, of which one knows that it ends.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where the thread stands among all that want a processor: 19 would be last.
const NICENESS: i32 = 10;

/// What the thread and those that ask it share.
pub(super) struct Persistence {
    folder: Option<DataFolder>,
    every: Option<Duration>,
    kept: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Who waits for the next snapshot.
    waiting: Vec<Arc<Task>>,
    is_asked: bool,
    stopped: bool,
    figures: SavingState,
    /// What had been written to the table when the last snapshot was begun.
    writes: u64,
}

impl Persistence {
    /// What the options say. With a folder, that is this server's from now on.
    ///
    /// # Errors
    /// Those of the folder.
    pub fn new(options: &Options) -> Result<Self, Error> {
        // It is free, or somebody else's; after a server with a keeper it may not be free yet.
        let folder = options.data.as_ref().map(|path| DataFolder::take(path, PATIENCE)).transpose()?;
        let every = options.snapshot_every_ms.filter(|&ms| ms > 0).map(Duration::from_millis);
        let figures = SavingState { last_s: wall_ms() / 1_000, ..SavingState::default() };
        let state = Mutex::new(State { figures, ..State::default() });
        Ok(Self { folder, every, kept: options.snapshots_kept, state, changed: Condvar::new() })
    }

    /// Fills a new table from the newest snapshot that is whole.
    ///
    /// # Errors
    /// [`Error::Snapshot`] if the table has no room for it, or if there are snapshots and all of them are damaged.
    pub fn load(&self, table: &Arc<Table<Mapping>>) -> Result<(), Error> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let mut damage = None;
        for path in folder.snapshots()? {
            match survey(&path, |_| true) {
                Ok(_) => {
                    lock(&self.state).figures.loaded = load(&path, table)?;
                    return Ok(());
                }
                Err(error @ disk::Error::Damaged { .. }) => {
                    tell(&format!("{error}: looking for an older one"));
                    damage = Some(error);
                }
                Err(error) => return Err(error.into()),
            }
        }
        damage.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Has a snapshot made that is begun from now on. Returns what it is waited for by.
    ///
    /// # Errors
    /// If the server has no folder.
    pub fn save(&self, worker: usize) -> Result<Arc<Task>, Refusal> {
        if self.folder.is_none() {
            return Err(Refusal::err(
                "this server has no folder for snapshots: start it with --data DIR, or take one with `ringtable \
                 snapshot FILE`",
            ));
        }
        let task = Task::new(worker);
        let mut state = lock(&self.state);
        state.is_asked = true;
        state.waiting.push(Arc::clone(&task));
        drop(state);
        self.changed.notify_one();
        Ok(task)
    }

    /// How snapshots stand; `None` without a folder.
    pub fn figures(&self) -> Option<SavingState> {
        self.folder.as_ref().map(|_| lock(&self.state).figures)
    }

    /// Whether there is a folder, and so anything for the thread to do.
    pub fn is_wanted(&self) -> bool {
        self.folder.is_some()
    }

    /// Ends the thread, and the snapshot that is under way.
    pub fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_one();
    }

    /// Leaves the folder to another server.
    pub fn leave(&self) {
        if let Some(folder) = &self.folder {
            folder.leave();
        }
    }

    /// The thread, until the server stops. `writes` tells how much was written so far; `ended` is told of each task's
    /// worker.
    pub fn run(&self, table: &Arc<Table<Mapping>>, writes: impl Fn() -> u64, ended: impl Fn(usize)) {
        let Some(folder) = &self.folder else { return };
        // Who has no right to do so goes on as it is.
        let _ = setpriority_process(Some(own_thread()), NICENESS);
        let mut due = self.every.map(|every| Instant::now() + every);
        while let Some(tasks) = self.next(due, &writes) {
            let outcome = self.write(folder, table);
            let words = outcome.as_ref().map(|_| ()).map_err(|error| error.to_string());
            if let Err(words) = &words {
                tell(&format!("a snapshot has failed: {words}"));
            }
            for task in tasks {
                task.end(words.clone());
                ended(task.worker);
            }
            due = self.every.map(|every| Instant::now() + every);
        }
    }

    /// The last snapshot, when nobody writes any more. Says what goes wrong.
    pub fn save_at_end(&self, table: &Arc<Table<Mapping>>) {
        let Some(folder) = &self.folder else { return };
        lock(&self.state).stopped = false;
        if let Err(error) = self.write(folder, table) {
            tell(&format!("the last snapshot has failed: {error}"));
        }
    }

    /// Waits until there is a snapshot to be made. Returns who waits for it; `None` once the server stops.
    fn next(&self, mut due: Option<Instant>, writes: &impl Fn() -> u64) -> Option<Vec<Arc<Task>>> {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return None;
            }
            let is_due = due.is_some_and(|due| Instant::now() >= due);
            let written = writes();
            if state.is_asked || is_due && written != state.writes {
                state.writes = written;
                state.is_asked = false;
                state.figures.is_under_way = true;
                return Some(std::mem::take(&mut state.waiting));
            }
            if is_due {
                due = self.every.map(|every| Instant::now() + every);
            }
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            state = match left {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    /// Makes a snapshot, and takes note of what comes of it.
    fn write(&self, folder: &DataFolder, table: &Arc<Table<Mapping>>) -> Result<Written, disk::Error> {
        let began = Instant::now();
        let outcome = self.write_file(folder, table);
        let mut state = lock(&self.state);
        let figures = &mut state.figures;
        figures.is_under_way = false;
        figures.has_failed = outcome.is_err();
        figures.last_took_ms = began.elapsed().as_millis() as u64;
        match &outcome {
            Ok(Written { entries, size }) => {
                (figures.last_entries, figures.last_size) = (*entries, *size);
                figures.last_s = wall_ms() / 1_000;
                figures.saved += 1;
            }
            Err(_) => figures.failed += 1,
        }
        outcome
    }

    fn write_file(&self, folder: &DataFolder, table: &Arc<Table<Mapping>>) -> Result<Written, disk::Error> {
        let path = folder.place_of_new(wall_ms());
        let system = |error| disk::Error::System { doing: "writing", path: path.clone(), error };
        let file = Replacement::begin(&path)?;
        let goes_on = || !lock(&self.state).stopped;
        let Some((written, file)) = write_table(table, file, goes_on).map_err(system)? else {
            return Err(system(std::io::Error::other("the server stops")));
        };
        file.commit()?;
        folder.keep(self.kept)?;
        Ok(written)
    }
}

/// Writes the entries of a file, which is whole, to a table. Returns how many.
fn load(path: &Path, table: &Arc<Table<Mapping>>) -> Result<u64, Error> {
    let mut reading = Reading::begin(path)?;
    let mut writer = Writer::new(Arc::clone(table));
    let mut loaded = 0;
    while let Some(entry) = reading.next_entry()? {
        if entry.expiry.is_some_and(|expiry: Expiry| expiry.has_passed(wall_ms())) {
            continue;
        }
        let mark = if entry.is_unevictable { Mark::Unevictable } else { Mark::AsBefore };
        let put = writer.put_marked(entry.key, entry.value, entry.expiry, Guard::Always, mark, wall_ms);
        put.map_err(|error: WriteError| Error::Unloadable { path: path.to_owned(), loaded, error })?;
        loaded += 1;
    }
    writer.release();
    Ok(loaded)
}

/// This very thread, to the scheduler.
fn own_thread() -> Pid {
    rustix::thread::gettid()
}
