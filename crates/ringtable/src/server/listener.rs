//! The sockets at the door, and the thread that accepts from them.
//!
//! One is a unix socket at a path that this server alone has ([`super::endpoint`]). The accepting thread also keeps the
//! path: it is woken when a program removes what lies there, and makes it anew.
//!
//! A TCP port is another door beside that, for clients that know no unix sockets. It has no mode bits: whoever reaches
//! it may come in, so it is open to this machine alone (loopback). Descriptors cannot be passed through it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::inotify;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::end::{send_now, tell_failure};
use super::endpoint::{Access, Endpoint};
use super::error::{Error, doing};
use super::held::Held;
use super::reserved;
use super::runtime::Runtime;
use super::socket::{Abilities, Socket};
use super::store::Hold;
use super::words::tell;
use crate::address::{self, SocketPath};
use crate::limits;
use crate::shm::doorbell::{Doorbell, timespec};
use crate::shm::fork::Descriptor;
use crate::sync::lock;

/// How many connections may wait to be accepted at the port.
const BACKLOG: i32 = 1_024;

/// How long to wait before trying again to accept what cannot even be refused.
const ACCEPT_RETRY: Duration = Duration::from_millis(10);

/// How long to wait, if nobody comes, before trying again to have a descriptor in reserve.
const RESERVE_RETRY: Duration = Duration::from_millis(50);

/// The bound sockets. Dropping it removes what it has on disk.
pub(super) struct Listener {
    endpoint: Mutex<Endpoint>,
    /// Tells when the endpoint's files are removed; `None` if the user has no watches left.
    removals: Option<Descriptor>,
    path: PathBuf,
    tcp: Option<Arc<Descriptor>>,
    tcp_address: Option<SocketAddr>,
}

impl Listener {
    pub fn open(address: impl AsRef<std::ffi::OsStr>, access: Access, tcp: Option<SocketAddr>) -> Result<Self, Error> {
        let place = address::socket_path(address)?;
        let endpoint = Endpoint::claim(&place, access)?;
        let tcp = tcp.map(|address| doing(format!("listening at tcp://{address}"), bind_tcp(address))).transpose()?;
        Ok(Self::with(&place, endpoint, tcp))
    }

    /// The sockets of another server, which is dead: those of its path, and its TCP port.
    pub fn adopt(
        address: impl AsRef<std::ffi::OsStr>,
        access: Access,
        local: [Descriptor; 3],
        tcp: Option<Descriptor>,
    ) -> Result<Self, Error> {
        let place = address::socket_path(address)?;
        let endpoint = Endpoint::adopt(&place, access, local)?;
        let tcp = tcp.map(|socket| {
            let address = rustix::net::getsockname(&socket)?.try_into()?;
            Ok((Arc::new(socket), address))
        });
        Ok(Self::with(&place, endpoint, doing("taking the TCP port over", tcp.transpose())?))
    }

    fn with(place: &SocketPath, endpoint: Endpoint, tcp: Option<(Arc<Descriptor>, SocketAddr)>) -> Self {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let removals = Descriptor::make(|| inotify::init(flags)).ok().filter(|inotify| endpoint.watch(inotify).is_ok());
        let (tcp, tcp_address) = tcp.unzip();
        let path = place.as_path().to_owned();
        Self { endpoint: Mutex::new(endpoint), removals, path, tcp, tcp_address }
    }

    /// Gives what outlives this server to whoever holds it.
    pub fn hold(&self, hold: Hold<'_>) -> io::Result<()> {
        for (what, descriptor) in lock(&self.endpoint).parts() {
            hold(what, descriptor)?;
        }
        self.tcp.as_ref().map_or(Ok(()), |tcp| hold(Held::Tcp, tcp.as_fd()))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The TCP port that is listened at.
    pub fn tcp(&self) -> Option<SocketAddr> {
        self.tcp_address
    }

    /// The sockets, for the accepting thread.
    pub fn doors(&self) -> Vec<Door> {
        let tcp = self.tcp.iter().map(|socket| Door { socket: Arc::clone(socket), is_local: false });
        std::iter::once(self.door()).chain(tcp).collect()
    }

    fn door(&self) -> Door {
        Door { socket: Arc::clone(lock(&self.endpoint).listening()), is_local: true }
    }

    /// Removes the socket's name until the next look, since the socket is shut.
    fn withdraw(&self) {
        lock(&self.endpoint).withdraw();
    }

    /// The server has started.
    pub fn settle(&self) {
        lock(&self.endpoint).keep_folders();
    }

    /// Removes the socket's name: nobody can connect any more.
    pub fn remove(&self) {
        lock(&self.endpoint).hide();
    }

    /// Looks whether the files are there still, and makes them anew. Returns whether the socket is another one now.
    fn look(&self) -> Result<bool, Error> {
        let mut endpoint = lock(&self.endpoint);
        let is_new = endpoint.look()?;
        if is_new {
            failpoint!("keep.made");
        }
        if let Some(removals) = &self.removals {
            // Without a watch the next removal is not noticed, as from the start where there are none.
            let _ = endpoint.watch(removals);
        }
        Ok(is_new)
    }

    /// Leaves the path to whoever has it, or comes to have it.
    fn give_up(&self) {
        lock(&self.endpoint).give_up();
    }

    /// Whether clients find the server by its path.
    fn is_found(&self) -> bool {
        lock(&self.endpoint).is_found()
    }

    /// Whether nothing has to be made anew.
    fn is_whole(&self) -> bool {
        lock(&self.endpoint).is_whole()
    }
}

/// A listening socket, as the accepting thread has it.
pub(super) struct Door {
    socket: Arc<Descriptor>,
    /// Whether its connections are unix sockets.
    is_local: bool,
}

impl Door {
    fn accept(&self, runtime: &Runtime) -> rustix::io::Result<Socket> {
        let connection = Descriptor::make(|| rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC))?;
        Ok(Socket::new(connection, Abilities { passes_descriptors: self.is_local }, runtime.disposer.as_ref()))
    }

    /// Lets nobody join the queue any more: who looks for a server finds none. Who is in it can be accepted still. (A
    /// TCP port cannot do that: to shut it turns away those in the queue.)
    fn shut(&self) {
        if self.is_local {
            let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Read);
        }
    }

    /// A client that is in the queue, or still comes, is refused instead of waiting for nobody.
    fn close(self, runtime: &Runtime) {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        // To close the queue with all that is in it might take time.
        while self.accept(runtime).is_ok() {}
    }
}

/// Listens at a loopback address. Returns the address with the port that the kernel chose if `address` left it open.
fn bind_tcp(address: SocketAddr) -> io::Result<(Arc<Descriptor>, SocketAddr)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = Descriptor::make(|| rustix::net::socket_with(family, SocketType::STREAM, flags, None))?;
    // Connections of a server that has ended occupy the port for a minute; a server that runs still does.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    let bound = rustix::net::getsockname(&socket)?.try_into()?;
    Ok((Arc::new(socket), bound))
}

/// The accepting thread: gives each connection to the worker with the fewest, and keeps the path.
///
/// It has a descriptor in reserve, which it gives up to take a connection that it has none for, and to say so.
pub(super) fn accept(listener: &Listener, mut reserve: Option<Doorbell>, runtime: &Runtime) {
    use rustix::event::{PollFd, PollFlags, poll};
    let (mut watch, mut doors) = (PathWatch::new(), listener.doors());
    // Relaxed: the ring of the bell comes behind it.
    while !runtime.leaving.load(Ordering::Relaxed) {
        let descriptors = doors.iter().map(|door| door.socket.as_fd());
        let bells = [runtime.stop_bell.as_fd(), runtime.headcount.bell().unwrap_or(&runtime.stop_bell).as_fd()];
        let descriptors = descriptors.chain(bells).chain(listener.removals.as_ref().map(AsFd::as_fd));
        let mut ready: Vec<_> = descriptors.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let pauses = [watch.pause(), reserve.is_none().then_some(RESERVE_RETRY), runtime.headcount.pause()];
        let pause = pauses.into_iter().flatten().min().map(timespec);
        if poll(&mut ready, pause.as_ref()).is_err() {
            continue;
        }
        for (door, polled) in doors.iter().zip(&ready) {
            if !polled.revents().is_empty() {
                accept_one(door, runtime, &mut reserve);
            }
        }
        // Another thread of the program may have taken what was given up.
        reserve = reserve.or_else(|| Doorbell::new().ok());
        let is_ready = |index| ready.get(index).is_some_and(|polled: &PollFd<'_>| !polled.revents().is_empty());
        let (has_left, is_told) = (is_ready(doors.len() + 1), is_ready(doors.len() + 2));
        if let Some(bell) = runtime.headcount.bell().filter(|_| has_left) {
            let _ = rustix::io::read(bell, &mut [0; 8]);
        }
        if is_told {
            watch.hear(listener);
        }
        if runtime.headcount.pause().is_some_and(|pause| pause.is_zero()) {
            failpoint!("linger.over");
            if is_deserted(&doors, runtime, &mut reserve) {
                runtime.leave();
                break;
            }
            // Somebody has come at the last moment. The socket is shut, and another one takes its place.
            doors.retain(|door| !door.is_local);
            listener.withdraw();
            watch.look_now();
        }
        if watch.pause().is_some_and(|pause| pause.is_zero()) && watch.look(listener, runtime) {
            // A client that has found the socket before waits there still; the one before that has had its time.
            let mut local = doors.iter().enumerate().filter(|(_, door)| door.is_local);
            if let (Some((first, _)), Some(_)) = (local.next(), local.next()) {
                doors.remove(first).close(runtime);
            }
            doors.push(listener.door());
        }
    }
    // Those who wait there are another server's, if there is one.
    if !runtime.resignation.is_wanted() {
        doors.into_iter().for_each(|door| door.close(runtime));
    }
}

/// Whether nobody is there, nor comes any more: the doors of unix sockets are shut, and those that were in front of one
/// are let in.
fn is_deserted(doors: &[Door], runtime: &Runtime, reserve: &mut Option<Doorbell>) -> bool {
    doors.iter().for_each(Door::shut);
    failpoint!("linger.shut");
    for door in doors {
        while accept_one(door, runtime, reserve) {
            // Relaxed: as in `accept`.
            if runtime.leaving.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    runtime.headcount.close()
}

/// What the accepting thread knows of the path.
struct PathWatch {
    /// When to look, and how long that is after the last look, or after the news.
    next: Option<(Instant, Duration)>,
    /// Whether somebody else has the path, for good.
    is_lost: bool,
    has_told: bool,
}

impl PathWatch {
    fn new() -> Self {
        // It looks once, for what may have gone before it was told of such things.
        Self { next: Some((Instant::now(), Duration::ZERO)), is_lost: false, has_told: false }
    }

    /// How long to wait at most before the next look.
    fn pause(&self) -> Option<Duration> {
        self.next.map(|(when, _)| when.saturating_duration_since(Instant::now()))
    }

    /// Looks at once, since the name was taken away.
    fn look_now(&mut self) {
        self.next = Some((Instant::now(), Duration::ZERO));
    }

    /// Takes the news that something has become of the files. Of what, the look tells.
    fn hear(&mut self, listener: &Listener) {
        if let Some(removals) = &listener.removals {
            let mut events = [0; 4_096];
            while rustix::io::read(removals, &mut events).is_ok_and(|size| size > 0) {}
        }
        if !self.is_lost {
            let pause = limits::PATH_RETRY_MIN;
            self.next.get_or_insert_with(|| (Instant::now() + pause, pause));
        }
    }

    /// Looks whether the files are there, and makes them anew. Returns whether there is another socket now.
    fn look(&mut self, listener: &Listener, runtime: &Runtime) -> bool {
        let outcome = listener.look();
        let is_found = listener.is_found();
        // Relaxed, both: figures.
        runtime.statistics.name_lost.store(u64::from(!is_found), Ordering::Relaxed);
        match outcome {
            Ok(is_new) => {
                if is_new && let Some(keeper) = &runtime.keeper {
                    // Without it, the server after this one makes them anew.
                    let _ = listener.hold(&|what, descriptor| keeper.hold(what, descriptor));
                }
                // What went before the kernel was asked to tell of it, nobody tells.
                let pause = limits::PATH_RETRY_MIN;
                self.next = (!listener.is_whole()).then(|| (Instant::now() + pause, pause));
                self.has_told = false;
                runtime.statistics.name_restored.fetch_add(u64::from(is_new), Ordering::Relaxed);
                return is_new;
            }
            Err(Error::Exists(_) | Error::Taken { .. }) if !is_found => {
                (self.next, self.is_lost) = (None, true);
                listener.give_up();
                let path = listener.path().display();
                tell(&format!(
                    "{path} was removed from under this server, and something else is there now: who is connected is \
                     served, nobody else finds this server by that path"
                ));
            }
            // The lock is another server's, which is about to find that our socket lives; or the system refuses.
            Err(error) => {
                let last = self.next.map_or(Duration::ZERO, |(_, pause)| pause);
                let pause = (2 * last).clamp(limits::PATH_RETRY_MIN, limits::PATH_RETRY_MAX);
                self.next = Some((Instant::now() + pause, pause));
                if pause == limits::PATH_RETRY_MAX && !std::mem::replace(&mut self.has_told, true) {
                    let path = listener.path().display();
                    tell(&format!("{path} was removed from under this server, which tries to make it anew: {error}"));
                }
            }
        }
        false
    }
}

/// Takes the first connection out of the queue. Returns whether there may be another one.
fn accept_one(door: &Door, runtime: &Runtime, reserve: &mut Option<Doorbell>) -> bool {
    use rustix::io::Errno;
    let take = || door.accept(runtime);
    match take() {
        Ok(connection) => {
            if !door.is_local {
                // Replies are sent when they are whole: none should wait for more to come.
                let _ = sockopt::set_tcp_nodelay(&connection, true);
            }
            failpoint!("accept.accepted");
            admit(connection, runtime);
        }
        Err(Errno::INTR | Errno::CONNABORTED) => {}
        // The latter at a door that is shut.
        Err(Errno::AGAIN | Errno::INVAL) => return false,
        Err(error) => {
            runtime.statistics.accept_failures.fetch_add(1, Ordering::Relaxed);
            let is_full = matches!(error, Errno::MFILE | Errno::NFILE) && reserve.take().is_some();
            match is_full.then(take) {
                Some(Ok(connection)) => tell_failure(&connection, "take another connection", &error.into()),
                // Leave the connection waiting, and do not spin meanwhile.
                _ => std::thread::sleep(ACCEPT_RETRY),
            }
        }
    }
    true
}

fn admit(mut socket: Socket, runtime: &Runtime) {
    let is_full = !runtime.headcount.enter();
    if is_full {
        let most = runtime.headcount.most();
        let refusal = reserved::refusal(most, most);
        socket.reservation = runtime.reserved.take(&socket, socket.abilities.passes_descriptors, &refusal);
        if socket.reservation.is_none() {
            runtime.statistics.clients_refused.fetch_add(1, Ordering::Relaxed);
            send_now(&socket, &refusal);
            return;
        }
    }
    // More workers than processors serve nobody faster, and cost a switch between threads for every request.
    let useful = runtime.workers.len().min(runtime.cpus);
    if let Some(worker) = runtime.workers[..useful].iter().min_by_key(|worker| worker.clients()) {
        runtime.statistics.clients_accepted.fetch_add(u64::from(!is_full), Ordering::Relaxed);
        worker.deliver(socket);
    }
}
