//! The runtime of a server: what its threads share besides the store that they serve.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::course::{Course, Phase};
use super::disposer::Disposer;
use super::error::{Error, doing};
use super::estate::LeftLanes;
use super::exchange::Exchange;
use super::headcount::Headcount;
use super::held::Held;
use super::inheritance::Inheritance;
use super::keeper::{Keeper, KeptLane, Order};
use super::lane_heirs::{self, HeirLane, Sorted};
use super::liveness::Liveness;
use super::mailbox::Mailbox;
use super::notes::Notes;
use super::options::Options;
use super::reserved::Reserved;
use super::resignation::Resignation;
use super::socket::Socket;
use super::sole::Sole;
use super::statistics::Statistics;
use super::store::{HANDING, Store};
use super::topology::Topology;
use super::wake;
use super::words::tell;
use crate::command::Setting;
use crate::limits;
use crate::shm::clock::usable_cpus;
use crate::shm::doorbell::Doorbell;
use crate::shm::fork::Descriptor;
use crate::shm::segment::Segment;
use crate::sync::{Arc, AtomicU64};

/// What is being done when there is no way to the keeper.
const REACHING: &str = "making a way to the keeper";

/// For how many lanes there are notes: those of all clients, and those that are prepared.
fn lanes_max(options: &Options) -> usize {
    options.clients_max + limits::LANES_PREPARED
}

/// What all threads of a server share.
pub(super) struct Runtime {
    pub store: Arc<Store>,
    pub statistics: Arc<Statistics>,
    pub workers: Vec<Mailbox>,
    pub topology: Topology,
    /// The rings of a classic topology; none for lanes.
    pub exchanges: Vec<Arc<Exchange>>,
    /// What holds all that has to outlive this server, if there is such a thing.
    pub keeper: Option<Arc<Keeper>>,
    /// That no other server is at work on what that holds.
    pub sole: Option<Sole>,
    /// How many servers there were before this one.
    pub restarts: u64,
    /// How many of these were upgraded.
    pub upgrades: u64,
    pub liveness: Liveness,
    pub resignation: Resignation,
    /// What workers have left for a process that is to be the keeper.
    pub left_lanes: LeftLanes,
    pub headcount: Arc<Headcount>,
    pub reserved: Reserved,
    pub disposer: Option<Disposer>,
    /// What it was started with.
    pub settings: Vec<(&'static str, Setting)>,
    pub spin_ns: u64,
    pub cpus: usize,
    /// Whether the accepting thread is to end the server.
    pub leaving: AtomicBool,
    is_told_to_end: AtomicBool,
    /// Wakes it to do so.
    pub stop_bell: Doorbell,
    /// Whether the workers are to end.
    pub stopping: AtomicBool,
    pub course: Arc<Course>,
}

impl Runtime {
    /// What there is before any thread runs.
    pub fn new(options: &Options) -> Result<Self, Error> {
        let spin_ns = Self::spin_ns(options)?;
        Self::with(options, Store::create(options, spin_ns, &|_, _| Ok(()))?, spin_ns, None, (0, 0))
    }

    /// The same with a keeper, which gets what is to outlive this server. Whether this process is the next keeper if
    /// that one dies; and how many servers there were before, and were upgraded.
    pub fn kept(options: &Options, keeper: OwnedFd, is_heir: bool, counts: (u64, u64)) -> Result<Self, Error> {
        let spin_ns = Self::spin_ns(options)?;
        let (notes, segment) = doing("making the notes", Notes::create(lanes_max(options)))?;
        let keeper =
            doing(REACHING, Keeper::new(keeper, Arc::new(notes), |_| false, Vec::new(), (is_heir, HashMap::new())))?;
        doing(HANDING, keeper.hold(Held::Notes, segment.descriptor()))?;
        let sole = doing("locking the notes", Sole::take(segment))?;
        let store = Store::create(options, spin_ns, &|what, descriptor| keeper.hold(what, descriptor))?;
        store.leases.remember(keeper.notes.passed());
        Self::with(options, store, spin_ns, Some((keeper, sole)), counts)
    }

    /// That nobody else is at work on what is inherited.
    pub fn sole(inheritance: &mut Inheritance) -> Result<Sole, Error> {
        let notes = inheritance.require(Held::Notes)?;
        let segment = doing("taking the notes over", Segment::from_foreign(notes))?;
        doing("taking over what another server has left", Sole::take(segment))
    }

    /// What another server has left, which is dead; `held` are copies of what it has left as a whole. Returns also the
    /// lanes of its clients.
    pub fn adopted(
        options: &Options,
        mut inheritance: Inheritance,
        sole: Sole,
        held: HashMap<Held, Descriptor>,
    ) -> Result<(Self, Vec<HeirLane>), Error> {
        let [table, grants] = [Held::Table, Held::Grants].map(|what| inheritance.require(what));
        let bookkeeping = inheritance.take(Held::Bookkeeping)?;
        let Inheritance { keeper, lanes, restarts, upgrades, is_heir, .. } = inheritance;
        let notes = Arc::new(doing("taking the notes over", Notes::adopt(sole.notes(), lanes_max(options)))?);
        let Sorted { mut heirs, prepared, ended } = doing("taking the lanes over", lane_heirs::sort(lanes, &notes))?;
        let pinned: Vec<u64> = heirs.iter().flat_map(HeirLane::pins).collect();
        let look = |table: &[AtomicU64]| {
            for lane in heirs.iter_mut().filter(|lane| lane.noted.is_in_hand) {
                lane.commits = notes.commits(lane.noted.worker, table);
            }
        };
        let (store, adoption) = Store::adopt(options, (table?, bookkeeping), grants?, &pinned, look)?;
        store.leases.end_all_but(&heirs.iter().map(|lane| lane.noted.connection).collect());
        store.leases.remember(notes.passed());
        let (report, grants) = (&adoption.report, adoption.grants_damaged);
        if report.all_damage() > 0 || grants > 0 {
            tell(&format!("of the server before, this was damaged: {report}; {grants} grants"));
        }
        let numbers = heirs.iter().map(|heir| heir.lane).chain(prepared.iter().map(|(lane, _)| *lane));
        let numbers: HashSet<usize> = numbers.chain(ended.iter().map(|(lane, ..)| *lane)).collect();
        let keeper =
            doing(REACHING, Keeper::new(keeper, notes, |lane| numbers.contains(&lane), prepared, (is_heir, held)))?;
        let spin_ns = store.table.constants().spin_ns;
        let runtime = Self::with(options, store, spin_ns, Some((Arc::clone(&keeper), sole)), (restarts, upgrades))?;
        for (lane, socket, end) in ended {
            let socket = Socket::found(socket, KeptLane::found(&keeper, lane), runtime.disposer.as_ref());
            runtime.statistics.count_end(end);
            end.say_goodbye(&socket);
        }
        Ok((runtime, heirs))
    }

    fn spin_ns(options: &Options) -> Result<u64, Error> {
        let cpus = usable_cpus();
        Ok(match options.spin_ns {
            Some(spin_ns) => spin_ns,
            None if cpus == 1 => 0,
            None => wake::measure_ns().map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => Error::NoThread(error),
                _ => Error::System { doing: "measuring what a wake-up costs".into(), error },
            })?,
        })
    }

    fn with(
        options: &Options,
        store: Store,
        spin_ns: u64,
        kept: Option<(Arc<Keeper>, Sole)>,
        (restarts, upgrades): (u64, u64),
    ) -> Result<Self, Error> {
        let (keeper, sole) = kept.unzip();
        let headcount = Headcount::new(options.clients_max).lingering(options.linger_ms.map(Duration::from_millis));
        let mailboxes: io::Result<_> = (0..options.workers).map(|_| Mailbox::new()).collect();
        Ok(Self {
            store: Arc::new(store),
            statistics: Arc::new(Statistics::new(options.workers)),
            workers: doing("making doorbells", mailboxes)?,
            topology: options.topology,
            exchanges: doing("making the rings", Exchange::create_all(options))?,
            keeper,
            sole,
            restarts,
            upgrades,
            liveness: Liveness::new(options.workers),
            resignation: Resignation::new(options.workers),
            left_lanes: LeftLanes::default(),
            headcount: Arc::new(doing("making a doorbell", headcount)?),
            reserved: Reserved::new(),
            disposer: doing("starting the thread that closes sockets", Disposer::if_needed())?,
            settings: options.settings(),
            spin_ns,
            cpus: usable_cpus(),
            leaving: AtomicBool::new(false),
            is_told_to_end: AtomicBool::new(false),
            stop_bell: doing("making a doorbell", Doorbell::new())?,
            stopping: AtomicBool::new(false),
            course: Arc::default(),
        })
    }

    /// The process of its keeper, which is the parent of this one; 0 if it has none.
    pub fn keeper_process_id(&self) -> u64 {
        let keeper = self.keeper.as_ref().filter(|keeper| keeper.is_there());
        let process = keeper.and_then(|keeper| keeper.process);
        // If it has died, and nobody has noticed yet, there is another parent.
        let process = process.filter(|_| rustix::process::getppid() == process);
        process.map_or(0, |process| process.as_raw_nonzero().get() as u64)
    }

    /// Does what the keeper wants.
    pub fn obey(&self, order: Order) {
        match order {
            Order::ShowLife(question) => {
                self.liveness.ask(question);
                self.ring_all();
            }
            Order::Resign { moves } => {
                self.resignation.order(moves);
                self.ring_all();
                self.close_doors();
            }
            // Relaxed: a figure.
            Order::NoteNoUpgrade => drop(self.resignation.refused.fetch_add(1, Ordering::Relaxed)),
        }
    }

    fn ring_all(&self) {
        for worker in &self.workers {
            worker.ring();
        }
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

    /// Keeps the table on the disk, until the server stops: in the thread for that.
    pub fn persist(&self) {
        let writes = || self.statistics.writes().writes;
        self.store.persistence.run(&self.store.table, writes, |worker| self.workers[worker].ring());
    }

    /// Writes the log, until the server stops: in the thread for that.
    pub fn write_log(&self) {
        self.store.persistence.run_log(|worker| self.workers[worker].ring());
    }

    /// Asks for the server's end; see [`super::lifecycle`].
    pub fn leave(&self) {
        // SeqCst, here and in `close_doors`: if the other store is undone by `stay`, that sees this one.
        self.is_told_to_end.store(true, Ordering::SeqCst);
        self.close_doors();
    }

    /// Whether it was told to end.
    pub fn is_told_to_end(&self) -> bool {
        self.is_told_to_end.load(Ordering::SeqCst)
    }

    /// Has the accepting thread end.
    fn close_doors(&self) {
        self.course.go_on_to(Phase::Ending);
        self.leaving.store(true, Ordering::SeqCst);
        self.stop_bell.ring();
    }

    /// Calls a resignation off: nobody would follow. Returns whether the server goes on; it may have been told to end
    /// meanwhile.
    pub fn stay(&self) -> bool {
        self.resignation.call_off();
        // SeqCst: pairs with both stores of `leave`.
        self.leaving.store(false, Ordering::SeqCst);
        if self.is_told_to_end.load(Ordering::SeqCst) {
            return false;
        }
        self.course.go_back_to_running();
        self.ring_all();
        true
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
        if !self.resignation.is_wanted() {
            self.store.table.close();
        }
        self.store.stop();
        if let Some(keeper) = &self.keeper {
            keeper.stop();
        }
        for exchange in &self.exchanges {
            exchange.close();
        }
        // Release: pairs with the Acquire in the workers' loops.
        self.stopping.store(true, Ordering::Release);
        self.ring_all();
    }
}
