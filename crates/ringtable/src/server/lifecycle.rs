//! The life of a server: its threads, from the start to the end.
//!
//! # The end
//!
//! The accepting thread is also the one that ends the server: it takes the socket's name away, has the workers tell
//! their clients, waits for them, and lets go of the name. Whoever wants the end asks it for that ([`Runtime::leave`]):
//! [`Server::stop`], or a worker that has panicked, so that a fault in one thread ends the whole server in order,
//! whether anybody waits for it or not. It ends by itself when it is to linger and nobody has been there for so long
//! ([`super::headcount`]). With a keeper it may leave all to another server instead ([`super::resignation`]).

use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::Mode;

use super::bookkeeping;
use super::course::{Course, Phase};
use super::endpoint::Access;
use super::error::{Error, doing};
use super::estate::Estate;
use super::held::Held;
use super::inheritance::Inheritance;
use super::keeper::{Keeper, Order};
use super::lane_heirs::HeirLane;
use super::lane_parts::Parts;
use super::listener::{self, Listener};
use super::moving;
use super::options::Options;
use super::runtime::Runtime;
use super::store::HANDING;
use super::udp_port::BoundPort;
use super::words::tell;
use super::worker::Worker;
use crate::shm::doorbell::Doorbell;
use crate::shm::fork;
use crate::shm::signals::block_signals;
use crate::sync::lock;

/// A server. Dropping it stops it.
pub struct Server {
    path: PathBuf,
    tcp: Option<SocketAddr>,
    udp: Option<SocketAddr>,
    workers: usize,
    /// What its threads share, as long as there are any.
    runtime: Weak<Runtime>,
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
        Self::start_unless(options, &|| false)
    }

    /// The same, unless it is interrupted while it fills the table with what is on the disk: it is asked again and
    /// again whether it is.
    ///
    /// # Errors
    /// As [`Self::start`]; [`Error::Interrupted`].
    pub fn start_unless(options: &Options, is_interrupted: &dyn Fn() -> bool) -> Result<Self, Error> {
        options.check()?;
        let (listener, udp_port) = open(options)?;
        let runtime = Runtime::new(options)?;
        runtime.store.load(is_interrupted)?;
        Self::run(options, listener, udp_port, runtime, Vec::new())
    }

    /// Starts a server under a keeper, which holds what has to outlive it; or the next one, which goes on with what
    /// that holds.
    ///
    /// # Errors
    /// As [`Self::start_unless`]; [`Error::Kept`] for options that are not possible then; what is held is damaged, or
    /// that of another version.
    pub fn start_kept(
        options: &Options,
        mut inheritance: Inheritance,
        is_interrupted: &dyn Fn() -> bool,
    ) -> Result<Self, Error> {
        options.check()?;
        options.check_kept()?;
        if inheritance.is_moved() {
            return Self::start_moved(options, inheritance, is_interrupted);
        }
        if !inheritance.is_of_another() {
            let (listener, udp_port) = open(options)?;
            let runtime = Runtime::kept(options, inheritance.keeper, inheritance.is_heir, (0, 0))?;
            if let Some(keeper) = &runtime.keeper {
                hold_doors(keeper, &listener, udp_port.as_ref())?;
            }
            runtime.store.load(is_interrupted)?;
            return Self::run(options, listener, udp_port, runtime, Vec::new());
        }
        let held = inheritance.copies()?;
        // First of all: if another server is at work on it, nothing of it is ours.
        let sole = Runtime::sole(&mut inheritance)?;
        let (listener, udp_port) = inherited(options, &mut inheritance)?;
        let (runtime, lanes) = match Runtime::adopted(options, inheritance, sole, held) {
            Ok(adopted) => adopted,
            Err(error) => {
                // Its files stay for one that can go on.
                std::mem::forget(listener);
                return Err(error);
            }
        };
        Self::run(options, listener, udp_port, runtime, lanes)
    }

    /// The next one, of a server whose memory means nothing to this one: with its sockets and its entries alone.
    fn start_moved(
        options: &Options,
        mut inheritance: Inheritance,
        is_interrupted: &dyn Fn() -> bool,
    ) -> Result<Self, Error> {
        let (entries, before) = (inheritance.require(Held::Entries)?, inheritance.require(Held::Table)?);
        let (listener, udp_port) = inherited(options, &mut inheritance)?;
        let Inheritance { keeper, is_heir, restarts, upgrades, .. } = inheritance;
        let moved = Runtime::kept(options, keeper, is_heir, (restarts, upgrades)).and_then(|runtime| {
            if let Some(keeper) = &runtime.keeper {
                hold_doors(keeper, &listener, udp_port.as_ref())?;
            }
            runtime.store.move_in(&entries, is_interrupted)?;
            // From here on nobody may write to this one whom those do not hear who read that one.
            moving::close(&before)?;
            Ok(runtime)
        });
        match moved {
            Ok(runtime) => Self::run(options, listener, udp_port, runtime, Vec::new()),
            Err(error) => {
                // Its files stay for one that can go on.
                std::mem::forget(listener);
                Err(error)
            }
        }
    }

    fn run(
        options: &Options,
        listener: Listener,
        udp_port: Option<BoundPort>,
        runtime: Runtime,
        lanes: Vec<HeirLane>,
    ) -> Result<Self, Error> {
        let udp = udp_port.as_ref().map(|port| port.address);
        let runtime = Arc::new(runtime);
        let (path, tcp) = (listener.path().to_path_buf(), listener.tcp());
        let (weak, course) = (Arc::downgrade(&runtime), Arc::clone(&runtime.course));
        let crew = Crew { runtime, listener, threads: Vec::new(), log_thread: None, has_served: false };
        Ok(Self {
            path,
            tcp,
            udp,
            workers: options.workers,
            runtime: weak,
            course,
            acceptor: Mutex::new(Some(crew.start(udp_port, lanes)?)),
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

    /// The UDP address that it listens at besides, with the actual port.
    pub fn udp(&self) -> Option<SocketAddr> {
        self.udp
    }

    /// How many worker threads it has.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// How many entries it has begun with, if its table is kept in a folder; `None` once it has ended.
    pub fn loaded(&self) -> Option<u64> {
        self.runtime.upgrade()?.store.persistence.figures().map(|figures| figures.loaded)
    }

    /// Whether it has neither been stopped nor failed. In a forked child, no server runs.
    pub fn is_running(&self) -> bool {
        self.generation == fork::generation() && self.course.phase() == Phase::Running
    }

    /// Waits until the server has ended, at most for `timeout`. Returns whether it has.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.generation != fork::generation() || self.course.wait(Instant::now().checked_add(timeout))
    }

    /// Why it has ended, or will in a moment, though nobody stopped it.
    pub fn failure(&self) -> Option<String> {
        // In a forked child the lock may be held by a thread that it has not.
        if self.generation == fork::generation() { self.course.failure() } else { None }
    }

    /// What it leaves to this process, which is to be the keeper of the next one: if its own keeper has died, and it
    /// has ended for that. Behind this there is nothing of it any more. `None` for all other ends.
    pub fn estate(&self) -> Option<Estate> {
        if self.generation != fork::generation() || self.course.phase() != Phase::Ended {
            return None;
        }
        let runtime = self.runtime.upgrade()?;
        let keeper = runtime.keeper.as_ref().filter(|keeper| keeper.has_left_to_us())?;
        if !runtime.resignation.is_wanted() {
            return None;
        }
        if let Some(acceptor) = lock(&self.acceptor).take() {
            let _ = acceptor.join();
        }
        let estate = Estate {
            held: keeper.take_held(),
            lanes: runtime.left_lanes.take(),
            restarts: runtime.restarts,
            upgrades: runtime.upgrades,
            is_told_to_end: runtime.is_told_to_end(),
        };
        fork::begin_anew();
        Some(estate)
    }

    /// Stops the server: tells clients, ends the threads, removes the socket, frees all memory. May be called again.
    pub fn stop(&self) {
        // A forked child has inherited neither threads nor sockets, and the lock may be held by a thread it has not.
        if self.generation != fork::generation() {
            return;
        }
        if let Some(runtime) = self.runtime.upgrade() {
            runtime.leave();
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

/// The sockets of a new server.
fn open(options: &Options) -> Result<(Listener, Option<BoundPort>), Error> {
    let listener = Listener::open(&options.address, access(options), options.tcp)?;
    let bind = |address| doing(format!("listening at udp://{address}"), BoundPort::bind(address));
    Ok((listener, options.udp.map(bind).transpose()?))
}

/// The sockets of another server, which has ended.
fn inherited(options: &Options, inheritance: &mut Inheritance) -> Result<(Listener, Option<BoundPort>), Error> {
    let [listening, file, lock] = [Held::Listening, Held::SocketFile, Held::Lock].map(|what| inheritance.require(what));
    let (tcp, udp) = (inheritance.take(Held::Tcp)?, inheritance.take(Held::Udp)?);
    let listener = Listener::adopt(&options.address, access(options), [listening?, file?, lock?], tcp)?;
    let udp_port = doing("taking the UDP port over", udp.map(BoundPort::of).transpose())?;
    Ok((listener, udp_port))
}

/// Has the keeper hold what clients knock at.
fn hold_doors(keeper: &Keeper, listener: &Listener, udp_port: Option<&BoundPort>) -> Result<(), Error> {
    let hold = |what, descriptor: BorrowedFd<'_>| keeper.hold(what, descriptor);
    doing(HANDING, listener.hold(&hold))?;
    doing(HANDING, udp_port.map_or(Ok(()), |port| hold(Held::Udp, port.descriptor())))
}

fn access(options: &Options) -> Access {
    Access { mode: Mode::from_raw_mode(options.mode), group: options.group }
}

/// What ends with a server, and the ending of it: by whomever has this last.
struct Crew {
    runtime: Arc<Runtime>,
    listener: Listener,
    threads: Vec<JoinHandle<()>>,
    /// That of the log, which ends behind all who write.
    log_thread: Option<JoinHandle<()>>,
    /// Whether clients could come.
    has_served: bool,
}

impl Crew {
    /// Starts all threads, the first worker with the UDP port. Returns the accepting one, which has this from then on.
    fn start(mut self, mut udp_port: Option<BoundPort>, lanes: Vec<HeirLane>) -> Result<JoinHandle<()>, Error> {
        let count = self.runtime.workers.len();
        // First: what another server has left is answered when it is on the disk.
        if self.runtime.store.persistence.log().is_some() {
            let runtime = Arc::clone(&self.runtime);
            self.add("ringtable-log", "the thread that writes the log", move || runtime.write_log())?;
            self.log_thread = self.threads.pop();
        }
        let mut heirs: Vec<Vec<HeirLane>> = (0..count).map(|_| Vec::new()).collect();
        let synced = self.runtime.store.persistence.sync_heirs(&lanes, &self.runtime.store.table);
        for lane in lanes {
            // As many workers as before, or who knows.
            heirs[lane.noted.worker % count].push(lane);
        }
        for (index, lanes) in heirs.into_iter().enumerate() {
            let worker = Worker::new(index, Arc::clone(&self.runtime), udp_port.take());
            let mut worker = doing("making an epoll instance", worker)?;
            lanes.into_iter().for_each(|lane| worker.adopt(lane, &synced));
            worker.begin_log();
            // What a worker has is dropped by it if it panics, so that its clients know at once.
            self.add(&format!("ringtable-{index}"), &format!("worker {index}"), move || worker.run())?;
        }
        let runtime = Arc::clone(&self.runtime);
        self.add("ringtable-return", "the thread that gives memory back", move || runtime.store.returning.run())?;
        let runtime = Arc::clone(&self.runtime);
        self.add("ringtable-room", "the thread that makes room", move || runtime.make_room())?;
        if self.runtime.store.persistence.is_wanted() {
            let runtime = Arc::clone(&self.runtime);
            self.add("ringtable-disk", "the thread that keeps the table on the disk", move || runtime.persist())?;
        }
        if let Some(keeper) = &self.runtime.keeper {
            let (keeper, runtime) = (Arc::clone(keeper), Arc::clone(&self.runtime));
            self.add("ringtable-keeper", "the thread that listens to the keeper", move || {
                if keeper.attend(|order| runtime.obey(order)) {
                    if keeper.has_left_to_us() {
                        tell("the keeper of this server has died: its process is the next one");
                        runtime.obey(Order::Resign { moves: false });
                    } else {
                        tell("the keeper of this server has died: the table will not outlive the server");
                    }
                }
            })?;
        }
        let reserve = doing("keeping a descriptor in reserve", Doorbell::new())?;
        doing("making what a client needs", rehearse())?;
        // Before anybody else hears of it: a server that dies then is followed by another one.
        if let Some(keeper) = &self.runtime.keeper
            && let Err(error) = keeper.tell_ready()
        {
            tell(&format!("telling the keeper that this server serves: {error}"));
        }
        thread("ringtable-accept", move || self.accept(reserve))
    }

    /// Starts a thread that ends with the server, and the server with it if it panics: a panic is a bug of ours. It
    /// must not leave clients waiting for nobody.
    fn add(&mut self, name: &str, title: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let (runtime, title) = (Arc::clone(&self.runtime), title.to_owned());
        let run = move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
                runtime.fail(&title, &*panic);
            }
        };
        self.threads.push(thread(name, run)?);
        Ok(())
    }

    /// The accepting thread: lets clients in until the end, which it sees to.
    fn accept(mut self, reserve: Doorbell) {
        self.has_served = true;
        self.listener.settle();
        self.runtime.headcount.begin();
        let course = Arc::clone(&self.runtime.course);
        let mut reserve = Some(reserve);
        loop {
            let accept = AssertUnwindSafe(|| listener::accept(&self.listener, reserve.take(), &self.runtime));
            if let Err(panic) = catch_unwind(accept) {
                self.runtime.fail("the accepting thread", &*panic);
            }
            if !self.runtime.resignation.is_wanted() {
                break;
            }
            self.runtime.resignation.wait();
            let goes_on =
                |keeper: &Arc<Keeper>| keeper.is_there() || (keeper.has_left_to_us() && !self.runtime.is_told_to_end());
            if self.runtime.keeper.as_ref().is_some_and(goes_on) {
                break;
            }
            // Nobody would go on.
            if !self.runtime.stay() {
                break;
            }
        }
        if self.runtime.resignation.is_wanted() {
            self.resign();
        } else {
            drop(self);
        }
        course.go_on_to(Phase::Ended);
    }

    /// Ends all threads, and leaves all there is to another server: see [`super::resignation`].
    fn resign(self) {
        let mut crew = ManuallyDrop::new(self);
        crew.runtime.stop();
        crew.join();
        failpoint!("resign.ended");
        if let Some(keeper) = &crew.runtime.keeper {
            if crew.runtime.resignation.moves() {
                let left = moving::leave(&crew.runtime.store.table);
                if let Err(error) = left.and_then(|entries| keeper.hold(Held::Entries, entries)) {
                    tell(&format!("the entries cannot be handed over: {error}"));
                }
                failpoint!("resign.moved");
            }
            // Without it, the next server finds out by itself.
            let saved = crew.runtime.store.table.save().map(|words| bookkeeping::leave(&words));
            if let Some(Ok(segment)) = saved {
                let _ = keeper.hold(Held::Bookkeeping, segment.descriptor());
            }
            if let Some(sole) = &crew.runtime.sole {
                sole.leave();
            }
            crew.runtime.store.persistence.leave();
            keeper.tell_resigned();
        }
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // Its panic, if there was one, is noted.
            let _ = thread.join();
        }
        if let (Some(thread), Some(log)) = (self.log_thread.take(), self.runtime.store.persistence.log()) {
            log.stop();
            let _ = thread.join();
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // New clients must not find the door, before those inside are told.
        self.listener.remove();
        failpoint!("stop.hidden");
        self.runtime.stop();
        failpoint!("stop.said");
        self.join();
        // A server that has not come to serve has nothing to save, and one that has failed nothing that is to be
        // believed.
        if self.has_served
            && self.runtime.course.failure().is_none()
            && let Err(words) = self.runtime.store.persistence.save_at_end(&self.runtime.store.table)
        {
            self.runtime.course.note_failure(words);
        }
        if let Some(keeper) = &self.runtime.keeper {
            keeper.tell_ended();
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
    Parts::make().map(drop)
}
