//! The runtime of a server: what its threads share besides the store that they serve.

use std::any::Any;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::course::{Course, Phase};
use super::disposer::Disposer;
use super::error::{Error, doing};
use super::exchange::Exchange;
use super::headcount::Headcount;
use super::mailbox::Mailbox;
use super::options::Options;
use super::reserved::Reserved;
use super::statistics::Statistics;
use super::store::Store;
use super::topology::Topology;
use super::wake;
use crate::command::Setting;
use crate::shm::clock::usable_cpus;
use crate::shm::doorbell::Doorbell;
use crate::sync::Arc;

/// What all threads of a server share.
pub(super) struct Runtime {
    pub store: Arc<Store>,
    pub statistics: Arc<Statistics>,
    pub workers: Vec<Mailbox>,
    pub topology: Topology,
    /// The rings of a classic topology; none for lanes.
    pub exchanges: Vec<Arc<Exchange>>,
    pub headcount: Arc<Headcount>,
    pub reserved: Reserved,
    pub disposer: Option<Disposer>,
    /// What it was started with.
    pub settings: Vec<(&'static str, Setting)>,
    pub spin_ns: u64,
    pub cpus: usize,
    /// Whether the accepting thread is to end the server.
    pub leaving: AtomicBool,
    /// Wakes it to do so.
    pub stop_bell: Doorbell,
    /// Whether the workers are to end.
    pub stopping: AtomicBool,
    pub course: Arc<Course>,
}

impl Runtime {
    /// What there is before any thread runs.
    pub fn new(options: &Options) -> Result<Self, Error> {
        let cpus = usable_cpus();
        let spin_ns = match options.spin_ns {
            Some(spin_ns) => spin_ns,
            None if cpus == 1 => 0,
            None => wake::measure_ns().map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => Error::NoThread(error),
                _ => Error::System { doing: "measuring what a wake-up costs".into(), error },
            })?,
        };
        let headcount = Headcount::new(options.clients_max).lingering(options.linger_ms.map(Duration::from_millis));
        let mailboxes: io::Result<_> = (0..options.workers).map(|_| Mailbox::new()).collect();
        Ok(Self {
            store: Arc::new(Store::create(options, spin_ns)?),
            statistics: Arc::new(Statistics::new(options.workers)),
            workers: doing("making doorbells", mailboxes)?,
            topology: options.topology,
            exchanges: doing("making the rings", Exchange::create_all(options))?,
            headcount: Arc::new(doing("making a doorbell", headcount)?),
            reserved: Reserved::new(),
            disposer: doing("starting the thread that closes sockets", Disposer::if_needed())?,
            settings: options.settings(),
            spin_ns,
            cpus,
            leaving: AtomicBool::new(false),
            stop_bell: doing("making a doorbell", Doorbell::new())?,
            stopping: AtomicBool::new(false),
            course: Arc::default(),
        })
    }

    /// Answers orders of room for large entries, until the server stops: in the thread for that.
    pub fn make_room(&self) {
        let Store { room, table, watchers, .. } = &*self.store;
        room.run(table, |worker, has_published| {
            if has_published {
                watchers.ring_sleepers();
            }
            self.workers[worker].ring();
        });
    }

    /// Asks for the server's end; see [`super::lifecycle`].
    pub fn leave(&self) {
        self.course.go_on_to(Phase::Ending);
        // Relaxed: the ring comes behind it.
        self.leaving.store(true, Ordering::Relaxed);
        self.stop_bell.ring();
    }

    /// The same, since a thread has panicked.
    pub fn fail(&self, thread: &str, panic: &(dyn Any + Send)) {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it did not say why");
        self.course.note_failure(format!("{thread} has panicked, which is a fault of ringtable's: {said}"));
        self.leave();
    }

    /// Makes the workers end, and the threads of the store.
    pub fn stop(&self) {
        self.store.close();
        for exchange in &self.exchanges {
            exchange.close();
        }
        // Release: pairs with the Acquire in the workers' loops.
        self.stopping.store(true, Ordering::Release);
        for worker in &self.workers {
            worker.ring();
        }
    }
}
