//! The log of changes: written and synced by a thread of its own.
//!
//! # Design
//!
//! Workers leave their changes in the queue ([`crate::disk::log`]); the thread writes what is there as one batch, and
//! syncs: behind each batch (`always`), or once a second (`everysec`), or when somebody asks for it (`no`). So one sync
//! is for all that have written meanwhile. Who waits for it (a reply under `always`, or a flush that is to be durable)
//! is rung for then.
//!
//! A queue that is full has the next write wait, and not its worker: see [`Log::room`].
//!
//! # When the disk fails
//!
//! What is on the disk of a file whose sync has failed nobody knows, also if a later sync says otherwise. So that file
//! is never written again: writes to the table are refused from then on (or go on without a log, if the server was told
//! so), until a rewrite has brought the whole table into new files.
//!
//! # Invariants
//!
//! - A position is durable only when every record before it was synced, in files that the manifest
//!   on the disk names.
//! - A rewrite begins a new file of changes first, and the snapshot behind that. So whatever the snapshot has of a key,
//!   the files behind it bring the key to its last state: see `docs/design-disk.md`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::fsync::Fsync;
use super::outgoing::Durable;
use super::words::tell;
use crate::command::{LogState, Task, done};
use crate::disk::log::{Batch, LogFile, Manifest, Queue, changes_path};
use crate::disk::{Error, log};
use crate::limits;
use crate::shm::shortage;
use crate::sync::{Arc, lock};

/// For how long changes are gathered that nobody waits for.
const GATHERED: Duration = Duration::from_millis(5);
const EVERY_SECOND: Duration = Duration::from_secs(1);
/// A batch of so many bytes need not be larger.
const BATCH_SIZE_MIN: u64 = 1 << 20;

/// The log of a server.
pub(super) struct Log {
    pub queue: Arc<Queue>,
    folder: PathBuf,
    pub fsync: Fsync,
    /// Whether writes go on if the disk fails.
    keeps_serving: bool,
    /// Bytes of the table that the queue may keep from being used again.
    held_max: u64,
    /// The position before which all is on the disk, and that before which all is written.
    durable: Arc<AtomicU64>,
    written: AtomicU64,
    is_broken: AtomicBool,
    /// Whether the table has what the files have not, until they begin with another snapshot.
    owes_base: AtomicBool,
    /// Workers, a bit for each, of which a client waits for what is to become durable.
    waiting: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

/// Where a log goes on.
#[derive(Default)]
pub(super) struct Begins {
    /// The files that there are.
    pub manifest: Manifest,
    /// Bytes of the files of changes.
    pub size: u64,
    /// Bytes of the last one that are whole; 0 if nobody has looked.
    pub before: u64,
    /// Whether the table has what they have not.
    pub owes_base: bool,
}

struct State {
    manifest: Manifest,
    /// Who waits until a position is durable.
    tasks: Vec<(u64, Arc<Task>)>,
    /// Who waits until there is room in the queue.
    crowded: Vec<Arc<Task>>,
    /// How many new files were asked for, and how many were begun.
    rotations_asked: u64,
    rotations_done: u64,
    /// Why the last one failed.
    failure: Option<String>,
    stopped: bool,
    figures: LogState,
}

impl Log {
    /// The log in a folder, with another file; none if the disk has no room for that, or, where the table is in memory
    /// already, if it refuses anything.
    ///
    /// # Errors
    /// Those of the disk, but for these.
    pub fn begin(
        folder: &Path,
        begins: Begins,
        (fsync, keeps_serving): (Fsync, bool),
        max_memory: u64,
    ) -> Result<(Self, Option<LogFile>), Error> {
        let Begins { mut manifest, size, before, owes_base } = begins;
        let mut failure = None;
        let file = match Self::next_file(folder, &mut manifest, before) {
            Ok(file) => Some(file),
            Err(Error::System { error, .. }) if owes_base || shortage::is_shortage(&error) => {
                let words = shortage::in_words(&error);
                tell(&format!("the log cannot have another file ({words})"));
                failure = Some(words);
                None
            }
            Err(error) => return Err(error),
        };
        if let Err(error) = manifest.remove_others(folder) {
            tell(&error.to_string());
        }
        let own = file.as_ref().map_or(0, LogFile::size);
        let is_broken = file.is_none();
        let state = State {
            manifest,
            tasks: Vec::new(),
            crowded: Vec::new(),
            rotations_asked: 0,
            rotations_done: 0,
            failure,
            stopped: false,
            figures: LogState { size: own, size_all: size + own, errors: is_broken.into(), ..LogState::default() },
        };
        let log = Self {
            queue: Arc::new(Queue::default()),
            folder: folder.to_owned(),
            fsync,
            keeps_serving,
            held_max: max_memory / limits::LOG_HELD_SHARE,
            durable: Arc::default(),
            written: AtomicU64::new(0),
            is_broken: AtomicBool::new(is_broken),
            owes_base: AtomicBool::new(owes_base),
            waiting: AtomicU64::new(0),
            state: Mutex::new(state),
            changed: Condvar::new(),
        };
        if is_broken {
            log.queue.drop_records(true);
        }
        Ok((log, file))
    }

    /// Begins the file behind all that a manifest names, the last of which is whole up to `before` at least, and names
    /// it there.
    fn next_file(folder: &Path, manifest: &mut Manifest, before: u64) -> Result<LogFile, Error> {
        let number = manifest.next();
        let file = LogFile::create(&changes_path(folder, number), before)?;
        let mut named = manifest.clone();
        named.changes.push(number);
        named.write(folder)?;
        *manifest = named;
        Ok(file)
    }

    /// The folder of its files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// That the reply to what was just written waits until it is on the disk, if replies do. The worker is rung then.
    #[inline]
    pub fn durability(&self, worker: usize) -> Option<Durable> {
        if !self.is_awaited() {
            return None;
        }
        // If it has just failed, nothing is reached any more, and the connection ends.
        self.wait_at(worker);
        Some(Durable::new(self.queue.position(), Arc::clone(&self.durable)))
    }

    /// Takes note that a client of this worker waits for what is to become durable.
    pub fn wait_at(&self, worker: usize) {
        // SeqCst: pairs with the swap in `note_durable`: either that sees the bit, or we see what it has stored before.
        self.waiting.fetch_or(1 << worker, Ordering::SeqCst);
    }

    /// Why writes are refused now, if they are.
    #[inline]
    pub fn refusal(&self) -> Option<String> {
        // Relaxed: a state that lasts.
        if !self.is_broken.load(Ordering::Relaxed) || self.keeps_serving {
            return None;
        }
        let state = lock(&self.state);
        let why = state.failure.as_deref().unwrap_or("it has failed");
        Some(format!(
            "MISCONF the log cannot be written ({why}): writes are refused, so that nothing is lost; BGREWRITEAOF \
             tries again, with new files"
        ))
    }

    /// What a write has to wait for that finds the queue full; `None` if it does not.
    #[inline]
    pub fn room(&self, worker: usize) -> Option<Arc<Task>> {
        // Relaxed: a limit that may be passed by what workers do in a turn.
        let queued = self.queue.position().saturating_sub(self.written.load(Ordering::Relaxed));
        let is_full = queued > limits::LOG_QUEUE_MAX || self.queue.held() > self.held_max;
        if !is_full || self.is_broken.load(Ordering::Relaxed) {
            return None;
        }
        let task = Task::new(worker);
        lock(&self.state).crowded.push(Arc::clone(&task));
        self.queue.ring();
        Some(task)
    }

    /// What is waited for by who wants all that was changed so far to be on the disk.
    pub fn flush(&self, worker: usize) -> Arc<Task> {
        let task = Task::new(worker);
        let position = self.queue.position();
        let mut state = lock(&self.state);
        if self.is_broken() {
            let why = state.failure.as_deref().unwrap_or("the log has failed");
            task.end(Err(format!("DISK {why}")));
            return task;
        }
        state.tasks.push((position, Arc::clone(&task)));
        drop(state);
        self.queue.ring();
        task
    }

    /// Waits until all that was changed so far is on the disk, for one who serves nobody meanwhile. The thread of the
    /// log has to run.
    ///
    /// # Errors
    /// Why it does not come there.
    pub fn sync_now(&self) -> Result<(), String> {
        let position = self.queue.position();
        self.queue.ring();
        let mut state = lock(&self.state);
        loop {
            // Of a log that is broken, nothing has come there.
            if self.is_broken() || state.stopped {
                return Err(state.failure.clone().unwrap_or_else(|| "the log has ended".into()));
            }
            // Acquire: pairs with the Release in `note_durable`.
            if self.durable.load(Ordering::Acquire) >= position {
                return Ok(());
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether replies wait for the disk.
    pub fn is_awaited(&self) -> bool {
        self.fsync == Fsync::Always && !(self.keeps_serving && self.is_broken())
    }

    /// How it stands.
    pub fn figures(&self) -> LogState {
        LogState { is_broken: self.is_broken(), ..lock(&self.state).figures }
    }

    /// Whether the disk has failed, and no rewrite has mended that.
    pub fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// Whether the files have not all that the table has.
    pub fn needs_base(&self) -> bool {
        // Relaxed: see `is_broken`.
        self.is_broken() || self.owes_base.load(Ordering::Relaxed)
    }

    /// The number of the next snapshot, where all that is in the files is in that, too.
    pub fn next_base(&self) -> u64 {
        lock(&self.state).manifest.base + 1
    }

    /// Whether the files of changes are so large that a snapshot is worth while.
    pub fn wants_rewrite(&self, base_size: u64) -> bool {
        lock(&self.state).figures.size_all > base_size.max(limits::LOG_REWRITE_MIN)
    }

    /// Whether its thread has ended, or is about to.
    pub fn has_stopped(&self) -> bool {
        lock(&self.state).stopped
    }

    /// Ends the thread, which writes and syncs all before.
    pub fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_all();
        self.queue.ring();
    }

    /// Has a new file of changes begun, and waits for it. Returns its number, and that of the snapshot to be made.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn rotate(&self) -> Result<(u64, u64), Error> {
        let mut state = lock(&self.state);
        state.rotations_asked += 1;
        let wanted = state.rotations_asked;
        drop(state);
        self.queue.ring();
        let mut state = lock(&self.state);
        while state.rotations_done < wanted && !state.stopped {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(failure) = state.failure.clone() {
            let error = std::io::Error::other(failure);
            return Err(Error::System { doing: "beginning a new file in", path: self.folder.clone(), error });
        }
        Ok((state.manifest.changes.last().copied().unwrap_or(0), state.manifest.base + 1))
    }

    /// Lets the files begin with a snapshot, behind which come the changes from that file on. The older ones go.
    ///
    /// # Errors
    /// Those of the system.
    pub fn rebase(&self, base: u64, first: u64) -> Result<(), Error> {
        let mut state = lock(&self.state);
        let changes = state.manifest.changes.iter().copied().filter(|&number| number >= first).collect();
        let manifest = Manifest { base, changes };
        manifest.write(&self.folder)?;
        state.manifest = manifest;
        state.figures.size_all = state.figures.size;
        state.figures.rewrites += 1;
        // What was lost with the file that failed is in the snapshot.
        self.is_broken.store(false, Ordering::Relaxed);
        self.owes_base.store(false, Ordering::Relaxed);
        // What cannot be removed now is removed behind the next snapshot.
        if let Err(error) = state.manifest.remove_others(&self.folder) {
            tell(&error.to_string());
        }
        Ok(())
    }

    /// The thread, until the server stops: writes to `file` first. `ring` wakes a worker; `tell` is called behind each
    /// batch of a log that may be long.
    pub fn run(&self, mut file: Option<LogFile>, ring: impl Fn(usize), tell: impl Fn()) {
        let mut spare = Batch::default();
        // When all was on the disk; whether something was written since; whether the file may not be written any more.
        let (mut synced_at, mut is_dirty, mut has_failed) = (Instant::now(), false, file.is_none());
        loop {
            let (stopped, asked, rotates) = {
                let state = lock(&self.state);
                (state.stopped, !state.tasks.is_empty(), state.rotations_asked > state.rotations_done)
            };
            let is_hurried = stopped || asked || rotates;
            let left = EVERY_SECOND.saturating_sub(synced_at.elapsed());
            let patience = match (is_hurried, self.fsync) {
                (true, _) => Some(Duration::ZERO),
                (_, Fsync::EverySecond) if is_dirty => Some(left.max(GATHERED)),
                _ => None,
            };
            let batch = self.queue.take(spare, patience);
            let mut outcome = match &mut file {
                Some(file) if !has_failed && !batch.is_empty() => file.append(&batch),
                _ => Ok(()),
            };
            is_dirty |= !batch.is_empty();
            let is_small = batch.size() < BATCH_SIZE_MIN.min(self.held_max / 4);
            let end = batch.end;
            self.note_written(&batch, file.as_ref().map_or(0, LogFile::size), &ring);
            let is_news = !batch.is_empty();
            spare = self.queue.release(batch);
            if is_news && self.wants_rewrite(0) {
                tell();
            }
            let is_due = match self.fsync {
                Fsync::Always => true,
                Fsync::EverySecond => synced_at.elapsed() >= EVERY_SECOND,
                Fsync::No => false,
            };
            if outcome.is_ok() && !has_failed && is_dirty && (is_due || is_hurried) {
                outcome = file.as_mut().map_or(Ok(()), |file| self.sync(file));
                (synced_at, is_dirty) = (Instant::now(), false);
            }
            match outcome {
                Ok(()) if !is_dirty && !has_failed => self.note_durable(end, &ring),
                Ok(()) => {}
                Err(error) => {
                    has_failed = true;
                    self.fail(&error, &ring);
                }
            }
            if rotates {
                match self.begin_next(&mut file, end) {
                    Ok(position) => {
                        has_failed = false;
                        self.note_durable(position, &ring);
                    }
                    Err(error) => {
                        has_failed = true;
                        self.fail(&error, &ring);
                    }
                }
                let mut state = lock(&self.state);
                state.rotations_done += 1;
                drop(state);
                self.changed.notify_all();
            }
            if stopped && (self.queue.position() == end || has_failed) {
                break;
            }
            if !is_hurried && is_small && self.fsync != Fsync::Always {
                // Nobody waits: what comes in a moment goes together.
                std::thread::sleep(GATHERED);
            }
        }
    }

    fn sync(&self, file: &mut LogFile) -> Result<(), Error> {
        if file.is_synced() {
            return Ok(());
        }
        let began = Instant::now();
        file.sync()?;
        let figures = &mut lock(&self.state).figures;
        figures.syncs += 1;
        figures.sync_us_max = figures.sync_us_max.max(began.elapsed().as_micros() as u64);
        Ok(())
    }

    /// Begins the next file, in place of one that is whole and synced up to this position, or has failed. Returns the
    /// position of that moment.
    fn begin_next(&self, file: &mut Option<LogFile>, end: u64) -> Result<u64, Error> {
        let mut manifest = lock(&self.state).manifest.clone();
        let before = file.as_ref().map_or(0, LogFile::synced);
        let next = Self::next_file(&self.folder, &mut manifest, before)?;
        // What was lost is in the snapshot that is to follow; what comes from now on has a file again.
        let position = if self.is_broken() { self.queue.drop_records(false) } else { end };
        let mut state = lock(&self.state);
        state.manifest = manifest;
        state.failure = None;
        state.figures.size = next.size();
        state.figures.size_all += next.size();
        *file = Some(next);
        Ok(position)
    }

    /// What was written makes room.
    fn note_written(&self, batch: &Batch, size: u64, ring: &impl Fn(usize)) {
        self.written.store(batch.end, Ordering::Relaxed);
        let mut state = lock(&self.state);
        if !batch.is_empty() {
            state.figures.records += batch.records;
            state.figures.batches += 1;
            state.figures.size_all += size.saturating_sub(state.figures.size);
            state.figures.size = size;
        }
        let crowded = std::mem::take(&mut state.crowded);
        drop(state);
        for task in crowded {
            task.end(Ok(()));
            ring(task.worker);
        }
    }

    /// All before this position is on the disk.
    fn note_durable(&self, position: u64, ring: &impl Fn(usize)) {
        // Release: pairs with the Acquire in `durable`.
        self.durable.store(position, Ordering::Release);
        self.wake(ring);
        let mut state = lock(&self.state);
        let (done, left) = std::mem::take(&mut state.tasks).into_iter().partition(|&(wanted, _)| wanted <= position);
        state.tasks = left;
        drop(state);
        self.changed.notify_all();
        let done: Vec<(u64, Arc<Task>)> = done;
        for (_, task) in done {
            task.end(Ok(()));
            ring(task.worker);
        }
    }

    fn wake(&self, ring: &impl Fn(usize)) {
        // SeqCst: see `wait_at`.
        let waiting = self.waiting.swap(0, Ordering::SeqCst);
        (0..u64::BITS as usize).filter(|worker| waiting >> worker & 1 != 0).for_each(ring);
    }

    /// The disk has failed: nobody gets what they wait for.
    fn fail(&self, error: &Error, ring: &impl Fn(usize)) {
        let words = error.to_string();
        tell(&format!("the log has failed: {words}"));
        let mut state = lock(&self.state);
        self.is_broken.store(true, Ordering::Relaxed);
        self.queue.drop_records(true);
        state.figures.errors += 1;
        state.failure = Some(words.clone());
        let tasks = std::mem::take(&mut state.tasks);
        drop(state);
        self.changed.notify_all();
        for (_, task) in tasks {
            task.end(Err(done::undurable(&words)));
            ring(task.worker);
        }
        self.wake(ring);
    }
}

/// The folder of a log, in that of the server.
pub(super) fn folder_in(data: &Path) -> PathBuf {
    data.join(log::FOLDER)
}
