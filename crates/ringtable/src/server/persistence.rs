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
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, setpriority_process};

use super::error::Error;
use super::fsync::Fsync;
use super::lane_heirs::HeirLane;
use super::log::{self, Begins, Log};
use super::options::Options;
use super::restoring::Restoring;
use super::words::tell;
use crate::command::{Refusal, SavingState, Task};
use crate::disk::log::{LogContents, LogFile, Manifest, play, survey_logs};
use crate::disk::{self, DataFolder, Replacement, Written, survey, write_table};
use crate::limits;
use crate::shm::clock::wall_ms;
use crate::shm::segment::Mapping;
use crate::sync::{Arc, Memory, lock};
use crate::table::Table;

/// For how long the server before may take to leave its folder, of which one knows that it ends.
const PATIENCE: Duration = Duration::from_secs(5);
/// A rewrite of a long log that has failed is tried again after so long.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// Where the thread stands among all that want a processor: 19 would be last.
const NICENESS: i32 = 10;

/// What the thread and those that ask it share.
pub(super) struct Persistence {
    folder: Option<DataFolder>,
    every: Option<Duration>,
    kept: usize,
    /// Whether changes are to be logged, when that is synced, and whether writes go on if it cannot be.
    wants_log: Option<(Fsync, bool)>,
    log: OnceLock<Log>,
    /// Its first file, until its thread has that.
    file: Mutex<Option<Option<LogFile>>>,
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
    /// When a long log may be rewritten again, if that has failed.
    retry_at: Option<Instant>,
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
        let (kept, wants_log) = (options.snapshots_kept, options.log.then_some((options.fsync, options.keeps_serving)));
        let (log, file) = (OnceLock::new(), Mutex::new(None));
        Ok(Self { folder, every, kept, wants_log, log, file, state, changed: Condvar::new() })
    }

    /// Fills a new table with what is on the disk, and has its changes logged from then on, if they are to be. Asks now
    /// and then whether it is interrupted.
    ///
    /// # Errors
    /// [`Error::Unloadable`] if the table has no room for it; those of the disk; what is damaged;
    /// [`Error::Interrupted`].
    pub fn load(&self, table: &Arc<Table<Mapping>>, is_interrupted: &dyn Fn() -> bool) -> Result<(), Error> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let log_folder = log::folder_in(folder.path());
        let manifest = Manifest::read(&log_folder)?;
        let Some(policy) = self.wants_log else {
            if manifest.is_some() {
                return Err(Error::Logged(log_folder));
            }
            return self.load_snapshot(folder, table, is_interrupted);
        };
        let begins = match manifest {
            Some(manifest) => {
                let ends = self.load_log(&log_folder, &manifest, table, is_interrupted)?;
                // What was evicted meanwhile is in the files, and nothing says there that it has gone.
                if table.tally().evicted.load(Ordering::Relaxed) > 0 {
                    Begins {
                        manifest: self.write_base(&log_folder, manifest.base + 1, table, is_interrupted)?,
                        ..Begins::default()
                    }
                } else {
                    Begins { manifest, ..ends }
                }
            }
            None => {
                Manifest::check_absent(&log_folder)?;
                self.load_snapshot(folder, table, is_interrupted)?;
                Begins { manifest: self.write_base(&log_folder, 1, table, is_interrupted)?, ..Begins::default() }
            }
        };
        self.begin_log(&log_folder, begins, policy, table)
    }

    /// Has the changes of a table logged that was taken over from another server, whose log lacks what was on its way.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn go_on(&self, table: &Arc<Table<Mapping>>) -> Result<(), Error> {
        let (Some(folder), Some(policy)) = (&self.folder, self.wants_log) else { return Ok(()) };
        let log_folder = log::folder_in(folder.path());
        let manifest = match Manifest::read(&log_folder)? {
            Some(manifest) => manifest,
            None => self.write_base(&log_folder, 1, table, &|| false)?,
        };
        // How its last file ends nobody has looked; and what it had queued is in the table.
        let begins = Begins { manifest, owes_base: true, ..Begins::default() };
        self.begin_log(&log_folder, begins, policy, table)?;
        lock(&self.state).is_asked = true;
        Ok(())
    }

    fn begin_log(
        &self,
        folder: &Path,
        begins: Begins,
        policy: (Fsync, bool),
        table: &Arc<Table<Mapping>>,
    ) -> Result<(), Error> {
        lock(&self.state).is_asked |= begins.manifest.changes.len() >= limits::LOG_FILES_MAX;
        let max_memory = size_of_val(table.memory().words()) as u64;
        let (log, file) = Log::begin(folder, begins, policy, max_memory)?;
        log.queue.belongs_to(table);
        table.write_journal(Box::new(Arc::clone(&log.queue)));
        *lock(&self.file) = Some(file);
        let _ = self.log.set(log);
        Ok(())
    }

    /// Fills a table from the newest snapshot that is whole.
    fn load_snapshot(
        &self,
        folder: &DataFolder,
        table: &Arc<Table<Mapping>>,
        is_interrupted: &dyn Fn() -> bool,
    ) -> Result<(), Error> {
        let mut damage = None;
        let snapshots = folder.snapshots()?;
        let dump = folder.path().join(disk::DUMP_OF_REDIS);
        if snapshots.is_empty() && dump.is_file() {
            return Err(Error::Foreign(dump));
        }
        for path in snapshots {
            match survey(&path, |_| !is_interrupted()) {
                Ok(None) => return Err(Error::Interrupted),
                Ok(Some(contents)) => {
                    let mut restoring = Restoring::begin(table, contents.entries, is_interrupted);
                    restoring.load(&path, true)?;
                    lock(&self.state).figures.loaded = restoring.finish(&path)?;
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

    /// Fills a table from a snapshot and the changes behind it. Returns where the next file begins. All of it is looked
    /// at before anything is changed, on the disk or in the table.
    fn load_log(
        &self,
        folder: &Path,
        manifest: &Manifest,
        table: &Arc<Table<Mapping>>,
        is_interrupted: &dyn Fn() -> bool,
    ) -> Result<Begins, Error> {
        let base = disk::log::base_path(folder, manifest.base);
        let contents = survey(&base, |_| !is_interrupted())?.ok_or(Error::Interrupted)?;
        let found = survey_logs(folder, &manifest.changes, |_| !is_interrupted())?.ok_or(Error::Interrupted)?;
        let mut restoring = Restoring::begin(table, contents.entries, is_interrupted);
        restoring.load(&base, false)?;
        let mut begins = Begins::default();
        for (path, LogContents { whole, size: bytes, .. }) in &found {
            play(path, *whole, |operation| restoring.play(operation))?;
            if whole < bytes {
                let lost = bytes - whole;
                tell(&format!("{} ends in {lost} bytes that are not whole, and are cut off", path.display()));
                disk::Error::system("cutting off", path, disk::truncate(path, *whole))?;
            }
            begins.size += whole;
            begins.before = *whole;
        }
        let mut state = lock(&self.state);
        state.figures.loaded = restoring.finish(&base)?;
        state.figures.last_size = contents.size;
        Ok(begins)
    }

    /// Writes what a table has, which nobody changes yet, as the snapshot that a log begins with, and the manifest that
    /// names it.
    fn write_base(
        &self,
        folder: &Path,
        number: u64,
        table: &Arc<Table<Mapping>>,
        is_interrupted: &dyn Fn() -> bool,
    ) -> Result<Manifest, Error> {
        disk::make_folder(folder)?;
        let path = disk::log::base_path(folder, number);
        let file = Replacement::begin(&path)?;
        let written = write_table(table, file, || !is_interrupted());
        let (Written { size, .. }, file) = disk::Error::system("writing", &path, written)?.ok_or(Error::Interrupted)?;
        file.commit()?;
        lock(&self.state).figures.last_size = size;
        let manifest = Manifest { base: number, changes: Vec::new() };
        manifest.write(folder)?;
        Ok(manifest)
    }

    /// The log, if there is one.
    pub fn log(&self) -> Option<&Log> {
        self.log.get()
    }

    /// Has on the disk what another server has done for these lanes and not told their clients, where replies wait for
    /// the disk. The thread of the log has to run.
    ///
    /// # Errors
    /// Why it is not there.
    pub fn sync_heirs(&self, lanes: &[HeirLane], table: &Table<Mapping>) -> Result<(), String> {
        let Some(log) = self.log().filter(|log| log.is_awaited()) else { return Ok(()) };
        let mut is_due = false;
        for lane in lanes {
            is_due |= lane.log_again(table);
        }
        if is_due { log.sync_now() } else { Ok(()) }
    }

    /// The thread of the log, until the server stops.
    pub fn run_log(&self, ring: impl Fn(usize)) {
        if let (Some(log), Some(file)) = (self.log.get(), lock(&self.file).take()) {
            log.run(file, ring, || {
                let is_idle = !lock(&self.state).figures.is_under_way;
                if is_idle {
                    self.changed.notify_one();
                }
            });
        }
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
            // One that is broken off by the server's end is missed by nobody: the next server makes it.
            if let Err(words) = &words
                && !lock(&self.state).stopped
            {
                tell(&format!("a snapshot has failed: {words}"));
            }
            for task in tasks {
                task.end(words.clone());
                ended(task.worker);
            }
            due = self.every.map(|every| Instant::now() + every);
        }
    }

    /// The last snapshot, when nobody writes any more, unless there is a log that has all. Says what goes wrong.
    ///
    /// # Errors
    /// What was written since the last one may be lost: in words.
    pub fn save_at_end(&self, table: &Arc<Table<Mapping>>) -> Result<(), String> {
        let Some(folder) = &self.folder else { return Ok(()) };
        if self.log().is_some_and(|log| !log.needs_base()) {
            return Ok(());
        }
        lock(&self.state).stopped = false;
        self.write(folder, table).map(drop).map_err(|error| format!("the last snapshot has failed: {error}"))
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
            let base_size = state.figures.last_size;
            let may_try = state.retry_at.is_none_or(|at| Instant::now() >= at);
            let is_long = may_try && self.log().is_some_and(|log| !log.is_broken() && log.wants_rewrite(base_size));
            if state.is_asked || is_long || self.log().is_none() && is_due && written != state.writes {
                state.writes = written;
                state.is_asked = false;
                state.figures.is_under_way = true;
                return Some(std::mem::take(&mut state.waiting));
            }
            if is_due {
                due = self.every.map(|every| Instant::now() + every);
            }
            // A log that becomes long says so.
            let left = due.filter(|_| self.log().is_none());
            let left = left.map(|due| due.saturating_duration_since(Instant::now()));
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
        state.retry_at = outcome.is_err().then(|| Instant::now() + RETRY_AFTER);
        outcome
    }

    fn write_file(&self, folder: &DataFolder, table: &Arc<Table<Mapping>>) -> Result<Written, disk::Error> {
        if let Some(log) = self.log() {
            // Without room for it, what comes into the log would find none, either.
            let allocated = table.heap().usage().allocated;
            let before = lock(&self.state).figures.last_size;
            disk::room_for(log.folder(), allocated.min(before.max(allocated / 2)))?;
        }
        let rebase = match self.log() {
            // Nobody writes any more.
            Some(log) if log.has_stopped() => Some((log, u64::MAX, log.next_base())),
            Some(log) => log.rotate().map(|(first, base)| Some((log, first, base)))?,
            None => None,
        };
        let path = match &rebase {
            Some((log, _, base)) => disk::log::base_path(log.folder(), *base),
            None => folder.place_of_new(wall_ms()),
        };
        let system = |error| disk::Error::System { doing: "writing", path: path.clone(), error };
        let file = Replacement::begin(&path)?;
        let goes_on = || !lock(&self.state).stopped;
        let Some((written, file)) = write_table(table, file, goes_on).map_err(system)? else {
            return Err(system(std::io::Error::other("the server stops")));
        };
        file.commit()?;
        match rebase {
            Some((log, first, base)) => log.rebase(base, first)?,
            None => folder.keep(self.kept)?,
        }
        Ok(written)
    }
}

/// This very thread, to the scheduler.
fn own_thread() -> Pid {
    rustix::thread::gettid()
}
