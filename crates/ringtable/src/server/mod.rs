//! The server: owns the table, and serves clients over lanes and sockets with a few worker threads.
//!
//! - [`listener`]: the sockets at the door, and the accepting thread,
//! - [`endpoint`]: the socket and its lock on disk, and the guarantee that a name has one server,
//! - [`worker`]: one thread, one event loop,
//! - [`topology`]: which queues lie between clients and workers,
//! - [`socket`]: a client's socket, and [`disposer`] that closes it where closing may take time,
//! - [`lane_client`], [`socket_client`]: a connection of either kind,
//! - [`backlog`]: requests that wait for the replies before them to find room,
//! - [`inflow`]: the large value of a request while it arrives,
//! - [`outgoing`]: replies that wait for room on their way to it,
//! - [`exchange`], [`member`]: the rings of the classic topologies, and a client that has joined them,
//! - [`pins`]: clients that keep entries in place for their views,
//! - [`watch_client`]: a connection that is told of changes,
//! - [`leases`]: who may compute the value of a key,
//! - [`housekeeping`]: what has to be done though nobody asks for it,
//! - [`returning`]: giving memory back to the kernel,
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
//! `workers` threads serve clients; one gives memory back ([`returning`]); one more accepts connections and gives each to the worker that has the fewest,
//! among at most as many workers as there are processors: more of them would serve nobody faster. A client stays with
//! its worker, which keeps its requests in order. Nothing runs while nothing is asked: all threads sleep in the kernel
//! without time-outs, unless freed memory waits for somebody who reads it still. All signals are blocked in them: the
//! embedding program handles those.

mod backlog;
mod disposer;
mod endpoint;
mod exchange;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod housekeeping;
mod inflow;
mod lane_client;
mod leases;
mod listener;
mod member;
mod outgoing;
mod pins;
mod returning;
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

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::address::AddressError;
use crate::folder::FolderError;
use crate::limits;
use crate::shm::clock::usable_cpus;
use crate::shm::doorbell::Doorbell;
use crate::shm::fork::{self, Descriptor};
use crate::shm::segment::{Mapping, Segment};
use crate::sync::lock;
use crate::table::{self, Eviction, Table, WriteError};
use disposer::Disposer;
use exchange::Exchange;
use housekeeping::Housekeeping;
use listener::Listener;
use returning::Returning;
use statistics::Statistics;
pub use topology::Topology;

/// How to run a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the table, path of its socket, or `unix://` URL.
    pub address: OsString,
    /// A loopback address to listen at besides; port 0 lets the kernel choose.
    pub tcp: Option<SocketAddr>,
    /// Buckets to begin with.
    pub buckets: u64,
    /// Worker threads.
    pub workers: usize,
    /// Size of the table segment in bytes.
    pub max_memory: u64,
    /// What happens when it is full.
    pub eviction: Eviction,
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
            buckets: limits::BUCKETS_DEFAULT,
            workers: usable_cpus().min(limits::WORKERS_MAX),
            max_memory: limits::MAX_MEMORY_DEFAULT,
            eviction: Eviction::default(),
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
    /// The system refuses something.
    #[error("{doing}: {error}")]
    System {
        /// What was being done.
        doing: String,
        /// What the system said.
        error: io::Error,
    },
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
    /// Whom to wake when there are events.
    watchers: watch_client::Registry,
    leases: leases::Leases,
    workers: Vec<worker::Mailbox>,
    topology: Topology,
    exchanges: Vec<Arc<Exchange>>,
    clients_max: usize,
    disposer: Option<Disposer>,
    max_memory: u64,
    spin_ns: u64,
    cpus: usize,
    stopping: AtomicBool,
    /// Wakes the accepting thread to stop.
    stop_bell: Doorbell,
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
            None => doing("measuring what a wake-up costs", wake::measure_ns())?,
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
        let mailboxes: io::Result<_> = (0..options.workers).map(|_| worker::Mailbox::new()).collect();
        Ok(Self {
            table: Arc::new(table),
            segment,
            table_read_only,
            statistics: Statistics::new(options.workers),
            housekeeping: Housekeeping::default(),
            returning: doing("making a doorbell", Returning::new())?,
            watchers: watch_client::Registry::default(),
            leases: leases::Leases::default(),
            workers: doing("making doorbells", mailboxes)?,
            topology: options.topology,
            exchanges: doing("making the rings", options.topology.exchanges(options))?,
            clients_max: options.clients_max,
            disposer: doing("starting the thread that closes sockets", Disposer::if_needed())?,
            max_memory: size as u64,
            spin_ns,
            cpus,
            stopping: AtomicBool::new(false),
            stop_bell: doing("making a doorbell", Doorbell::new())?,
        })
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

    /// Makes all threads end.
    fn stop(&self) {
        self.table.close();
        // Release: pairs with the Acquire in the threads' loops.
        self.stopping.store(true, Ordering::Release);
        self.stop_bell.ring();
        self.returning.ring();
        for worker in &self.workers {
            worker.ring();
        }
    }
}

/// A server. Dropping it stops it.
pub struct Server {
    path: PathBuf,
    tcp: Option<SocketAddr>,
    workers: usize,
    /// Until it is stopped.
    running: Mutex<Option<Running>>,
    stopped: Condvar,
    generation: u64,
}

/// What a server has while it runs.
struct Running {
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts a server: when this returns, clients can connect.
    ///
    /// # Errors
    /// An option out of range, a second server of the same name, or a refusal of the system.
    pub fn start(options: &Options) -> Result<Self, Error> {
        check(options)?;
        let listener = Arc::new(Listener::open(&options.address, options.tcp)?);
        let shared = Arc::new(Shared::new(options)?);
        raise_descriptor_limit();
        let (path, tcp) = (listener.path().to_path_buf(), listener.tcp());
        let mut running = Running { shared, listener, threads: Vec::new() };
        if let Err(error) = running.spawn() {
            running.stop();
            return Err(error);
        }
        running.listener.settle();
        Ok(Self {
            path,
            tcp,
            workers: options.workers,
            running: Mutex::new(Some(running)),
            stopped: Condvar::new(),
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

    /// Whether it has not been stopped. In a forked child, no server runs.
    pub fn is_running(&self) -> bool {
        self.generation == fork::generation() && lock(&self.running).is_some()
    }

    /// Waits until the server is stopped, at most for `timeout`. Returns whether it is.
    pub fn wait(&self, timeout: Duration) -> bool {
        if self.generation != fork::generation() {
            return true;
        }
        let deadline = Instant::now() + timeout;
        let mut running = lock(&self.running);
        while running.is_some() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            running = match self.stopped.wait_timeout(running, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }

    /// Stops the server: tells clients, ends the threads, removes the socket, frees all memory. May be called again.
    pub fn stop(&self) {
        // A forked child has inherited neither threads nor sockets, and the lock may be held by a thread it has not.
        if self.generation != fork::generation() {
            return;
        }
        // Taken in a statement of its own: who asks meanwhile must not wait for the threads to end.
        let running = lock(&self.running).take();
        if let Some(running) = running {
            running.stop();
            self.stopped.notify_all();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        if self.generation != fork::generation() {
            // Dropping a listener removes files, and these are the parent's.
            std::mem::forget(std::mem::replace(&mut self.running, Mutex::new(None)));
        }
    }
}

impl Running {
    fn spawn(&mut self) -> Result<(), Error> {
        for index in 0..self.shared.workers.len() {
            let worker = doing("making an epoll instance", worker::Worker::new(index, Arc::clone(&self.shared)))?;
            let builder = std::thread::Builder::new().name(format!("ringtable-{index}"));
            let shared = Arc::clone(&self.shared);
            let run = move || {
                // A panic is a bug of ours. It must not leave this worker's clients, and those it would still get,
                // waiting for nobody: the whole server stops, and they are told.
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.run())).is_err() {
                    shared.stop();
                }
            };
            self.threads.push(doing("starting a worker thread", builder.spawn(run))?);
        }
        let shared = Arc::clone(&self.shared);
        let builder = std::thread::Builder::new().name("ringtable-return".into());
        let returning = builder.spawn(move || returning::run(&shared));
        self.threads.push(doing("starting the thread that gives memory back", returning)?);
        let (shared, listener) = (Arc::clone(&self.shared), Arc::clone(&self.listener));
        let builder = std::thread::Builder::new().name("ringtable-accept".into());
        let accept = builder.spawn(move || listener::accept(listener.doors(), &listener, &shared));
        self.threads.push(doing("starting the accepting thread", accept)?);
        Ok(())
    }

    fn stop(self) {
        // New clients must not find the door, before those inside are told.
        self.listener.remove();
        failpoint!("stop.hidden");
        self.shared.stop();
        failpoint!("stop.said");
        for thread in self.threads {
            // A thread that panicked has said so on standard error; the others are stopped all the same.
            let _ = thread.join();
        }
    }
}

fn check(options: &Options) -> Result<(), Error> {
    let within = |option, value: u64, least, most, unit| {
        if (least..=most).contains(&value) { Ok(()) } else { Err(Error::Option { option, value, least, most, unit }) }
    };
    if let Some(address) = options.tcp.filter(|address| !address.ip().is_loopback()) {
        return Err(Error::NotLoopback(address));
    }
    within("--buckets", options.buckets, 1, limits::BUCKETS_MAX, "buckets")?;
    within("--workers", options.workers as u64, 1, limits::WORKERS_MAX as u64, "threads")?;
    within("--max-memory", options.max_memory, limits::MAX_MEMORY_MIN, limits::MAX_MEMORY_MAX, "bytes")?;
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

/// Raises the soft limit of open descriptors to the hard one: a lane needs three.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
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
