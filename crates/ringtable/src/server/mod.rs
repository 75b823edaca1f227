//! The server: owns the table, and serves clients over lanes and sockets with a few worker threads.
//!
//! - [`listener`]: the sockets at the door, and the accepting thread,
//! - [`endpoint`]: the socket and its lock on disk, and the guarantee that a name has one server,
//! - [`worker`]: one thread, one event loop,
//! - [`reserved`]: the place that a full server has left for who runs it,
//! - [`topology`]: which queues lie between clients and workers,
//! - [`socket`]: a client's socket, and [`disposer`] that closes it where closing may take time,
//! - [`lane_client`], [`socket_client`]: a connection of either kind,
//! - [`backlog`]: requests that wait for the replies before them to find room,
//! - [`inflow`]: the large value of a request while it arrives,
//! - [`outgoing`]: replies that wait for room on their way to it,
//! - [`exchange`], [`member`]: the rings of the classic topologies, and a client that has joined them,
//! - [`pins`]: clients that keep entries in place for their views,
//! - [`watch_client`]: a connection that is told of changes,
//! - [`leases`]: who may compute the value of a key, and [`handovers`]: what came of it if that is not in the table,
//! - [`housekeeping`]: what has to be done though nobody asks for it,
//! - [`returning`]: giving memory back to the kernel, and [`room`]: making room for large entries,
//! - [`statistics`]: what is counted,
//! - [`wake`]: what a wake-up costs here,
//! - [`waking`]: clients that are too dear to wake.
//!
//! # Invariants
//!
//! - **I1** A client is alive exactly as long as its socket.
//! - **I4** Nothing a client can write is believed: it is copied, checked, then used, and what is wrong ends that one
//!   client's connection with a counted reason.
//! - **I5** No client makes a worker wait: every system call on a client's descriptors is non-blocking, and work per
//!   turn is bounded.
//! - **I7** In the classic topologies, where all wait for the slowest, a client that is dead or stopped holds the
//!   others up for a bounded time at most.
//!
//! # Threads
//!
//! `workers` threads serve clients; one gives memory back ([`returning`]), and one makes room for large entries
//! ([`room`]); one more accepts connections and gives each
//! to the worker that has the fewest, among at most as many workers as there are processors: more of them would serve
//! nobody faster. A client stays with its worker, which keeps its requests in order. Nothing runs while nothing is
//! asked: all threads sleep in the kernel without time-outs, unless freed memory waits for somebody who reads it still.
//! All signals are blocked in them: the embedding program handles those.
//!
//! # The end
//!
//! The accepting thread is also the one that ends the server: it takes the socket's name away, has the workers tell
//! their clients, waits for them, and lets go of the name. Whoever wants the end asks it for that ([`Shared::leave`]):
//! [`Server::stop`], or a worker that has panicked, so that a fault in one thread ends the whole server in order,
//! whether anybody waits for it or not.

mod backlog;
mod disposer;
mod endpoint;
mod exchange;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod handovers;
mod housekeeping;
mod inflow;
mod lane_client;
mod leases;
mod listener;
mod member;
mod outgoing;
mod pins;
mod reserved;
mod returning;
mod room;
mod socket;
mod socket_client;
mod statistics;
#[cfg(test)]
mod tests;
mod topology;
pub mod wake;
mod waking;
mod watch_client;
mod worker;

use std::any::Any;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::Mode;

use crate::address::AddressError;
use crate::folder::{FolderError, own_user};
use crate::limits;
use crate::shm::clock::usable_cpus;
use crate::shm::doorbell::Doorbell;
use crate::shm::fork::{self, Descriptor};
use crate::shm::segment::{Mapping, Segment};
use crate::shm::shortage;
use crate::sync::lock;
use crate::table::{self, Eviction, Table, WriteError};
use disposer::Disposer;
use endpoint::Access;
use exchange::Exchange;
use housekeeping::Housekeeping;
use listener::Listener;
use reserved::Reserved;
use returning::Returning;
use room::Room;
use statistics::Statistics;
pub use topology::Topology;

/// How to run a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the table, path of its socket, or `unix://` URL.
    pub address: OsString,
    /// A loopback address to listen at besides; port 0 lets the kernel choose.
    pub tcp: Option<SocketAddr>,
    /// The mode of its socket: 0600, 0660 or 0666.
    pub mode: u32,
    /// The group that the socket is given to; `None` leaves it the group that files of this process have.
    pub group: Option<u32>,
    /// Buckets to begin with.
    pub buckets: u64,
    /// Worker threads.
    pub workers: usize,
    /// Size of the table segment in bytes.
    pub max_memory: u64,
    /// What happens when it is full.
    pub eviction: Eviction,
    /// Bytes of entries that are never evicted, at most; `None` for a part of the table.
    pub unevictable_max: Option<u64>,
    /// Most clients at a time.
    pub clients_max: usize,
    /// Which queues lie between clients and workers.
    pub topology: Topology,
    /// Slots of either ring of a classic topology; a power of two.
    pub ring_slots: usize,
    /// Bytes of such a slot; a power of two.
    pub slot_size: usize,
    /// Milliseconds for which a client may keep the others from getting replies, in a classic topology.
    pub laggard_timeout_ms: u64,
    /// Nanoseconds for which either side may spin; `None` measures what a wake-up costs.
    pub spin_ns: Option<u64>,
    /// Seal the table against any further write or writable mapping, at the price of not giving memory back.
    pub strict_seal: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: "default".into(),
            tcp: None,
            mode: 0o600,
            group: None,
            buckets: limits::BUCKETS_DEFAULT,
            workers: usable_cpus().min(limits::WORKERS_MAX),
            max_memory: limits::MAX_MEMORY_DEFAULT,
            eviction: Eviction::default(),
            unevictable_max: None,
            clients_max: limits::CLIENTS_MAX_DEFAULT,
            topology: Topology::default(),
            ring_slots: limits::RING_SLOTS_DEFAULT,
            slot_size: limits::RING_SLOT_SIZE_DEFAULT,
            laggard_timeout_ms: limits::LAGGARD_TIMEOUT_MS_DEFAULT,
            spin_ns: None,
            strict_seal: false,
        }
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option is out of range.
    #[error("{option} is {value}; allowed are {least} to {most} {unit}")]
    Option {
        /// Which.
        option: &'static str,
        /// What was asked for.
        value: u64,
        /// The least that is allowed.
        least: u64,
        /// The most that is allowed.
        most: u64,
        /// Of what.
        unit: &'static str,
    },
    /// A size that has to be a power of two is none.
    #[error("{option} is {value} {unit}, which is no power of two; the next one is {}", .value.next_power_of_two())]
    NoPowerOfTwo {
        /// Which.
        option: &'static str,
        /// What was asked for.
        value: u64,
        /// Of what.
        unit: &'static str,
    },
    /// The socket would have a mode that no socket of a server has.
    #[error(
        "--mode is {0:04o} (octal); allowed are 0600 for this user, 0660 for a group too, and 0666 for all users: who \
         may connect may read and write everything"
    )]
    Mode(u32),
    /// The socket cannot be given to a group.
    #[error("giving {} to group {group}: {error}: user {} has to be a member of it", .path.display(), own_user())]
    Group {
        /// The socket's path.
        path: PathBuf,
        /// The group.
        group: u32,
        /// What the system said.
        error: io::Error,
    },
    /// The address means nothing.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The TCP address can be reached from other machines.
    #[error(
        "--tcp is {0}; allowed are addresses that only this machine reaches, 127.0.0.0/8 and [::1]: who can connect \
         may read and write everything, and there are no passwords"
    )]
    NotLoopback(SocketAddr),
    /// There is one already.
    #[error("a server is already running at {0}: choose another name, or stop that one")]
    Exists(PathBuf),
    /// What lies at the path of the socket, or of its lock, is no server's.
    #[error("{} is {what}, and is left alone: choose another path, or move it away", .path.display())]
    Taken {
        /// The path.
        path: PathBuf,
        /// What lies there.
        what: String,
    },
    /// The folder of the socket cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The buckets to begin with do not fit the memory.
    #[error("{buckets} buckets need {needed} bytes, more than the {max_memory} bytes of --max-memory leave room for")]
    NoRoom {
        /// Buckets asked for.
        buckets: u64,
        /// Bytes they need.
        needed: usize,
        /// Bytes there are.
        max_memory: u64,
    },
    /// There is no room for another thread.
    #[error(
        "starting a thread: there is no room for another one ({0}); see `ulimit -u`, and the control group's limit"
    )]
    NoThread(io::Error),
    /// The system refuses something.
    #[error("{doing}: {}", shortage::in_words(.error))]
    System {
        /// What was being done.
        doing: String,
        /// What the system said.
        error: io::Error,
    },
}

impl Error {
    /// Whether the system has run out of something: another try may succeed later.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::NoThread(_) => true,
            Self::System { error, .. } | Self::Folder(FolderError::System { error, .. }) => {
                shortage::is_shortage(error)
            }
            _ => false,
        }
    }
}

/// Adds to an error of the system what was being done.
fn doing<T>(what: impl Into<String>, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|error| Error::System { doing: what.into(), error })
}

/// What all threads of a server share.
struct Shared {
    table: Arc<Table<Mapping>>,
    segment: Segment,
    /// The table as clients get it.
    table_read_only: Descriptor,
    statistics: Statistics,
    housekeeping: Housekeeping,
    returning: Returning,
    room: Room,
    /// Whom to wake when there are events.
    watchers: watch_client::Registry,
    leases: leases::Leases,
    workers: Vec<worker::Mailbox>,
    topology: Topology,
    exchanges: Vec<Arc<Exchange>>,
    clients_max: usize,
    reserved: Reserved,
    disposer: Option<Disposer>,
    max_memory: u64,
    spin_ns: u64,
    cpus: usize,
    /// Whether the accepting thread is to end the server.
    leaving: AtomicBool,
    /// Wakes it to do so.
    stop_bell: Doorbell,
    /// Whether the workers are to end.
    stopping: AtomicBool,
    course: Arc<Course>,
}

impl Shared {
    /// The table and what else there is before any thread runs.
    fn new(options: &Options) -> Result<Self, Error> {
        let size = (options.max_memory as usize).next_multiple_of(table::layout::PAGE_WORDS * 8);
        let segment = doing("making the table segment", Segment::create("ringtable-table", size))?;
        let mapping = doing("mapping the table segment", segment.map_writable())?;
        doing("sealing the table segment", segment.seal(options.strict_seal))?;
        let table_read_only = doing("opening the table segment read-only", segment.read_only())?;
        let cpus = usable_cpus();
        let spin_ns = match options.spin_ns {
            Some(spin_ns) => spin_ns,
            None if cpus == 1 => 0,
            None => wake::measure_ns().map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => Error::NoThread(error),
                _ => Error::System { doing: "measuring what a wake-up costs".into(), error },
            })?,
        };
        let seed = random_seed();
        let table = table::Options {
            buckets: options.buckets,
            seed,
            workers: options.workers,
            spin_ns,
            eviction: options.eviction,
        };
        let table = Table::create(mapping, &table).map_err(|error| Error::NoRoom {
            buckets: options.buckets,
            needed: if let WriteError::OutOfMemory(size) = error { size } else { 0 },
            max_memory: options.max_memory,
        })?;
        if let Some(bytes) = options.unevictable_max {
            table.unevictable().limit(bytes);
        }
        let mailboxes: io::Result<_> = (0..options.workers).map(|_| worker::Mailbox::new()).collect();
        Ok(Self {
            table: Arc::new(table),
            segment,
            table_read_only,
            statistics: Statistics::new(options.workers),
            housekeeping: Housekeeping::default(),
            returning: doing("making a doorbell", Returning::new())?,
            room: Room::default(),
            watchers: watch_client::Registry::default(),
            leases: leases::Leases::default(),
            workers: doing("making doorbells", mailboxes)?,
            topology: options.topology,
            exchanges: doing("making the rings", options.topology.exchanges(options))?,
            clients_max: options.clients_max,
            reserved: Reserved::new(),
            disposer: doing("starting the thread that closes sockets", Disposer::if_needed())?,
            max_memory: size as u64,
            spin_ns,
            cpus,
            leaving: AtomicBool::new(false),
            stop_bell: doing("making a doorbell", Doorbell::new())?,
            stopping: AtomicBool::new(false),
            course: Arc::default(),
        })
    }

    /// How many clients there are, or are about to be.
    fn clients(&self) -> usize {
        self.workers.iter().map(|worker| worker.clients()).sum()
    }

    /// Most bytes that unfinished requests of all clients together may take: more than the table has room for, or than
    /// the largest request, is of no use.
    fn unfinished_max(&self) -> u64 {
        self.max_memory.max(2 * limits::REQUEST_SIZE_MAX as u64)
    }

    /// Whether a client has to go for what it has of unfinished requests, `own` of the bytes that all have together.
    /// Who has little is let be, whatever the others have: they shall not be able to drive it out.
    fn is_too_much_unfinished(&self, all: u64, own: usize) -> bool {
        all > self.unfinished_max() && own > worker::BUFFER_KEPT_MAX
    }

    /// Whether a request that needs so many bytes in the table may be gathered although there is no room for it yet.
    fn may_gather(&self, size: usize) -> bool {
        let all = self.statistics.unfinished.load(Ordering::Relaxed) + size as u64;
        size as u64 <= self.max_memory && all <= self.unfinished_max()
    }

    /// Asks for the server's end; see the module's header.
    fn leave(&self) {
        self.course.go_on_to(Phase::Ending);
        // Relaxed: the ring comes behind it.
        self.leaving.store(true, Ordering::Relaxed);
        self.stop_bell.ring();
    }

    /// The same, since a thread has panicked.
    fn fail(&self, thread: &str, panic: &(dyn Any + Send)) {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it did not say why");
        self.course.note_failure(format!("{thread} has panicked, which is a fault of ringtable's: {said}"));
        self.leave();
    }

    /// Makes the workers end.
    fn stop(&self) {
        self.table.close();
        for exchange in &self.exchanges {
            exchange.close();
        }
        // Release: pairs with the Acquire in the workers' loops.
        self.stopping.store(true, Ordering::Release);
        for worker in &self.workers {
            worker.ring();
        }
        self.returning.ring();
        self.room.stop();
    }
}

/// How far a server has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
enum Phase {
    #[default]
    Running,
    /// It takes no more requests, or will not in a moment.
    Ending,
    /// Its threads are about to be gone; its name is free.
    Ended,
}

/// The way of a server to its end, for those who wait for that, and why it has failed if it has.
#[derive(Default)]
struct Course {
    state: Mutex<(Phase, Option<String>)>,
    changed: Condvar,
}

impl Course {
    fn go_on_to(&self, phase: Phase) {
        let mut state = lock(&self.state);
        if state.0 < phase {
            state.0 = phase;
            self.changed.notify_all();
        }
    }

    /// The first failure counts: it may be what others come of.
    fn note_failure(&self, words: String) {
        lock(&self.state).1.get_or_insert(words);
    }

    /// Waits for the end, at most until then. Returns whether it has come.
    fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut state = lock(&self.state);
        while state.0 != Phase::Ended {
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return false;
            }
            // A thread that panicked with the lock has done nothing halfway.
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// A server. Dropping it stops it.
pub struct Server {
    path: PathBuf,
    tcp: Option<SocketAddr>,
    workers: usize,
    /// What its threads share, as long as there are any.
    shared: Weak<Shared>,
    course: Arc<Course>,
    /// The accepting thread, until somebody has waited for it.
    acceptor: Mutex<Option<JoinHandle<()>>>,
    generation: u64,
}

impl Server {
    /// Starts a server: when this returns, clients can connect.
    ///
    /// # Errors
    /// An option out of range, a second server of the same name, or a refusal of the system.
    pub fn start(options: &Options) -> Result<Self, Error> {
        check(options)?;
        let access = Access { mode: Mode::from_raw_mode(options.mode), group: options.group };
        let listener = Listener::open(&options.address, access, options.tcp)?;
        let shared = Arc::new(Shared::new(options)?);
        let (path, tcp) = (listener.path().to_path_buf(), listener.tcp());
        let (weak, course) = (Arc::downgrade(&shared), Arc::clone(&shared.course));
        Ok(Self {
            path,
            tcp,
            workers: options.workers,
            shared: weak,
            course,
            acceptor: Mutex::new(Some(Crew { shared, listener, threads: Vec::new() }.start()?)),
            generation: fork::generation(),
        })
    }

    /// The path of the server's socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The TCP address that it listens at besides, with the actual port.
    pub fn tcp(&self) -> Option<SocketAddr> {
        self.tcp
    }

    /// How many worker threads it has.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Whether it has neither been stopped nor failed. In a forked child, no server runs.
    pub fn is_running(&self) -> bool {
        self.generation == fork::generation() && lock(&self.course.state).0 == Phase::Running
    }

    /// Waits until the server has ended, at most for `timeout`. Returns whether it has.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.generation != fork::generation() || self.course.wait(Instant::now().checked_add(timeout))
    }

    /// Why it has ended, or will in a moment, though nobody stopped it.
    pub fn failure(&self) -> Option<String> {
        // In a forked child the lock may be held by a thread that it has not.
        if self.generation == fork::generation() { lock(&self.course.state).1.clone() } else { None }
    }

    /// Stops the server: tells clients, ends the threads, removes the socket, frees all memory. May be called again.
    pub fn stop(&self) {
        // A forked child has inherited neither threads nor sockets, and the lock may be held by a thread it has not.
        if self.generation != fork::generation() {
            return;
        }
        if let Some(shared) = self.shared.upgrade() {
            shared.leave();
        }
        // Taken in a statement of its own: who asks meanwhile must not wait for the threads to end.
        let acceptor = lock(&self.acceptor).take();
        if let Some(acceptor) = acceptor {
            let _ = acceptor.join();
        }
        // Another thread may be waiting for that thread.
        self.course.wait(None);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        if self.generation != fork::generation() {
            // There is no such thread here.
            std::mem::forget(std::mem::replace(&mut self.acceptor, Mutex::new(None)));
        }
    }
}

/// What ends with a server, and the ending of it: by whomever has this last.
struct Crew {
    shared: Arc<Shared>,
    listener: Listener,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    /// Starts all threads. Returns the accepting one, which has this from then on.
    fn start(mut self) -> Result<JoinHandle<()>, Error> {
        for index in 0..self.shared.workers.len() {
            let worker = doing("making an epoll instance", worker::Worker::new(index, Arc::clone(&self.shared)))?;
            // What a worker has is dropped by it if it panics, so that its clients know at once.
            self.add(&format!("ringtable-{index}"), &format!("worker {index}"), move || worker.run())?;
        }
        let shared = Arc::clone(&self.shared);
        self.add("ringtable-return", "the thread that gives memory back", move || returning::run(&shared))?;
        let shared = Arc::clone(&self.shared);
        self.add("ringtable-room", "the thread that makes room", move || room::run(&shared))?;
        let reserve = doing("keeping a descriptor in reserve", Doorbell::new())?;
        doing("making what a client needs", rehearse())?;
        thread("ringtable-accept", move || self.accept(reserve))
    }

    /// Starts a thread that ends with the server, and the server with it if it panics: a panic is a bug of ours. It
    /// must not leave clients waiting for nobody.
    fn add(&mut self, name: &str, title: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let (shared, title) = (Arc::clone(&self.shared), title.to_owned());
        let run = move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
                shared.fail(&title, &*panic);
            }
        };
        self.threads.push(thread(name, run)?);
        Ok(())
    }

    /// The accepting thread: lets clients in until the end, which it sees to.
    fn accept(self, reserve: Doorbell) {
        self.listener.settle();
        let course = Arc::clone(&self.shared.course);
        let accept = AssertUnwindSafe(|| listener::accept(&self.listener, Some(reserve), &self.shared));
        if let Err(panic) = catch_unwind(accept) {
            self.shared.fail("the accepting thread", &*panic);
        }
        drop(self);
        course.go_on_to(Phase::Ended);
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // New clients must not find the door, before those inside are told.
        self.listener.remove();
        failpoint!("stop.hidden");
        self.shared.stop();
        failpoint!("stop.said");
        for thread in self.threads.drain(..) {
            // Its panic, if there was one, is noted.
            let _ = thread.join();
        }
    }
}

/// Starts a thread of the server's.
fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    let run = move || {
        block_signals();
        run();
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(Error::NoThread)
}

/// Makes what a client needs, and lets go of it: a server that can serve nobody does not start.
fn rehearse() -> io::Result<()> {
    let _connection = Doorbell::new()?;
    lane_client::Parts::make(0).map(drop)
}

fn check(options: &Options) -> Result<(), Error> {
    let within = |option, value: u64, least, most, unit| {
        if (least..=most).contains(&value) { Ok(()) } else { Err(Error::Option { option, value, least, most, unit }) }
    };
    if let Some(address) = options.tcp.filter(|address| !address.ip().is_loopback()) {
        return Err(Error::NotLoopback(address));
    }
    if ![0o600, 0o660, 0o666].contains(&options.mode) {
        return Err(Error::Mode(options.mode));
    }
    within("--buckets", options.buckets, 1, limits::BUCKETS_MAX, "buckets")?;
    within("--workers", options.workers as u64, 1, limits::WORKERS_MAX as u64, "threads")?;
    within("--max-memory", options.max_memory, limits::MAX_MEMORY_MIN, limits::MAX_MEMORY_MAX, "bytes")?;
    within("--max-unevictable", options.unevictable_max.unwrap_or(1), 1, options.max_memory, "bytes")?;
    within("--max-clients", options.clients_max as u64, 1, 1 << 20, "clients")?;
    let power_of_two = |option, value: u64, unit| {
        if value.is_power_of_two() { Ok(()) } else { Err(Error::NoPowerOfTwo { option, value, unit }) }
    };
    let (slots, slot_size) = (options.ring_slots as u64, options.slot_size as u64);
    within("--ring-slots", slots, limits::RING_SLOTS_MIN as u64, limits::RING_SLOTS_MAX as u64, "slots")?;
    power_of_two("--ring-slots", slots, "slots")?;
    within("--slot-size", slot_size, limits::RING_SLOT_SIZE_MIN as u64, limits::RING_SLOT_SIZE_MAX as u64, "bytes")?;
    power_of_two("--slot-size", slot_size, "bytes")?;
    let ring_size = limits::RING_SIZE_MAX as u64;
    within("--ring-slots times --slot-size", slots * slot_size, 1, ring_size, "bytes")?;
    let (least, most) = (limits::LAGGARD_TIMEOUT_MS_MIN, limits::LAGGARD_TIMEOUT_MS_MAX);
    within("--laggard-timeout", options.laggard_timeout_ms, least, most, "milliseconds")?;
    if options.topology != Topology::Lanes {
        let option = "--max-clients, with rings that clients share,";
        within(option, options.clients_max as u64, 1, limits::RING_MEMBERS_MAX as u64, "clients")?;
    }
    within("--spin-us", options.spin_ns.unwrap_or(0) / 1_000, 0, limits::SPIN_NS_MAX / 1_000, "microseconds")
}

/// A seed that nobody can guess. Without any, keys could be chosen to fall into one bucket.
fn random_seed() -> u64 {
    let mut seed = [0_u8; 8];
    let _ = rustix::rand::getrandom(&mut seed[..], rustix::rand::GetRandomFlags::empty());
    // The addresses of this process are random too, should the kernel have no randomness yet.
    u64::from_ne_bytes(seed) ^ std::ptr::from_ref(&seed).addr() as u64
}

/// Blocks all signals in this thread: they are for the program around the server. All but SIGPROF, the tick of a
/// profiler: it has to come to the thread that it counts. It breaks off nothing that matters, since each system call of
/// these threads that waits may be interrupted: the loop around it looks again.
fn block_signals() {
    #[allow(unsafe_code)]
    // SAFETY: all calls get a valid pointer to a signal set of this frame.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigdelset(&mut all, libc::SIGPROF);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
    }
}
