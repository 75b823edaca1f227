//! The keeper, as a server has it: a process that holds what has to outlive the server, and starts another one that
//! adopts it.
//!
//! # Design
//!
//! The keeper knows nothing of tables. It gets descriptors over a socket, each with a message of three words, and holds
//! them; when the server dies, it forks another one, which has them all ([`super::inheritance`]).
//!
//! | message            | words         | with it                | what the keeper does                     |
//! |--------------------|---------------|------------------------|------------------------------------------|
//! | [`Message::Hold`]  | what          | one descriptor         | holds it, in place of the one before     |
//! | [`Message::Lane`]  | number, bytes | memory, both doorbells | holds it, and maps it, which it answers  |
//! | [`Message::Serve`] | number        | a client's socket      | holds it with that lane                  |
//! | [`Message::LetGo`] | number        |                        | closes all of that lane                  |
//! | [`Message::Ready`] |               |                        | starts another server when this one dies |
//! | [`Message::Alive`] | question      |                        | knows that it lives, and asks again      |
//! | [`Message::Resigned`] |            |                        | lets another server take all of it over  |
//! | [`Message::Ended`] |               |                        | ends, too: it was an order, or its time  |
//!
//! What the keeper says: that a lane is mapped, or could not be; that the server is to show that it lives
//! ([`Order::ShowLife`]); that it is to end, and to leave all to another server ([`Order::Resign`]); and that such a
//! server was not able to start ([`Order::NoteNoUpgrade`]).
//!
//! **Lanes are prepared.** A client seals its lane strictly, and behind that the kernel lets nobody map it for writing
//! any more, not even its maker ([`crate::shm::segment`]). A later server gets a mapping of it only from the keeper, by
//! the fork; so the keeper has to have mapped it before the client has it. A thread makes some lanes ahead
//! ([`Keeper::attend`]), and a join takes one that the keeper has mapped. So it waits for nobody, as long as there is
//! one.
//!
//! What was written to a socket is delivered, though its writer dies: no answer has to be waited for but that to a
//! lane.
//!
//! # At the limits
//!
//! At most [`limits::LANES_PREPARED`] lanes are prepared. A join that finds none is put off, as it is if the keeper
//! takes no message: it is stopped, or busy. No worker waits for it: the client asks again after a pause, for
//! [`limits::KEEPER_PATIENCE`] at most.
//!
//! When the keeper has died, the server resigns in favour of its own process, which is the next keeper
//! ([`super::estate`]); joins are put off meanwhile. Where a service manager starts another keeper, the server goes on:
//! lanes are made as by a server that never had one, and end with it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Pid;

use super::held::Held;
use super::lane_parts::Parts;
use super::notes::Notes;
use crate::limits;
use crate::shm::descriptors;
use crate::shm::doorbell::Doorbell;
use crate::shm::fork::Descriptor;
use crate::sync::lock;

/// Bytes of a message.
const MESSAGE_SIZE: usize = 24;
/// What the keeper says: that it has mapped the lane of this number; or could not, for the reason that follows.
const MAPPED: u64 = 8;
/// A question that is answered when all workers have had a turn.
const SHOW_LIFE: u64 = 9;
/// Another server is ready to go on with all that this one has.
const RESIGN: u64 = 10;
/// Another server was to take over, and is not able to.
const NOT_UPGRADED: u64 = 11;

/// What the keeper wants of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// To answer with this number once all workers have had a turn.
    ShowLife(u64),
    /// To end, and to leave all as it is for the next server. If it `moves`, to that server all of it means nothing but
    /// the entries.
    Resign { moves: bool },
    /// To tell whoever asks that no other server could take over.
    NoteNoUpgrade,
}

/// What a server says to its keeper.
#[derive(Clone, Copy, Debug)]
enum Message {
    Hold(Held),
    Lane { lane: usize, size: usize },
    Serve(usize),
    LetGo(usize),
    Ready,
    Alive(u64),
    Resigned,
    Ended,
}

impl Message {
    fn pack(self) -> [u8; MESSAGE_SIZE] {
        let words = match self {
            Self::Hold(what) => [1, what as u64, 0],
            Self::Lane { lane, size } => [2, lane as u64, size as u64],
            Self::Serve(lane) => [3, lane as u64, 0],
            Self::LetGo(lane) => [4, lane as u64, 0],
            Self::Ready => [5, 0, 0],
            Self::Alive(question) => [6, question, 0],
            Self::Resigned => [7, 0, 0],
            Self::Ended => [14, 0, 0],
        };
        let mut bytes = [0; MESSAGE_SIZE];
        for (piece, word) in bytes.chunks_exact_mut(8).zip(words) {
            piece.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// The way to the keeper.
pub(super) struct Keeper {
    socket: Descriptor,
    pub notes: Arc<Notes>,
    lanes: Mutex<Lanes>,
    /// Wakes the thread that prepares lanes.
    bell: Doorbell,
    /// The process of the keeper, which is the parent of this one.
    pub process: Option<Pid>,
    /// Whether this process is the next keeper if this one dies.
    pub is_heir: bool,
    /// What it holds for the server as a whole, in case it is.
    held: Mutex<HashMap<Held, Descriptor>>,
}

/// Numbers of lanes, and what is prepared.
struct Lanes {
    /// Numbers that nobody has.
    free: Vec<usize>,
    prepared: Vec<(usize, Parts)>,
    /// Lanes that the keeper has not mapped yet.
    sent: HashMap<usize, Parts>,
    /// What it could not be told yet.
    unsent: Vec<usize>,
    is_gone: bool,
    /// Whether it could not map a lane, and no join has asked for one since.
    has_refused: bool,
    is_stopping: bool,
}

impl Keeper {
    /// A keeper at the other end of a socket. `taken` says whether a number is that of a lane already; `prepared` are
    /// lanes that were prepared for the server before, and that nobody has used. Whether this process is the next
    /// keeper if that one dies; and, if so, what that holds already.
    ///
    /// # Errors
    /// If the system gives no doorbell, or no room for the socket.
    pub fn new(
        socket: OwnedFd,
        notes: Arc<Notes>,
        taken: impl Fn(usize) -> bool,
        prepared: Vec<(usize, Parts)>,
        (is_heir, held): (bool, HashMap<Held, Descriptor>),
    ) -> io::Result<Arc<Self>> {
        // Taken from the end: low numbers first, whose notes lie together.
        let free = (0..notes.lanes()).rev().filter(|&lane| !taken(lane)).collect();
        Ok(Arc::new(Self {
            socket: Descriptor::make(|| Ok(socket))?,
            notes,
            lanes: Mutex::new(Lanes {
                free,
                prepared,
                sent: HashMap::new(),
                unsent: Vec::new(),
                is_gone: false,
                has_refused: false,
                is_stopping: false,
            }),
            bell: Doorbell::new()?,
            process: rustix::process::getppid(),
            is_heir,
            held: Mutex::new(held),
        }))
    }

    /// Whether it is there.
    pub fn is_there(&self) -> bool {
        !lock(&self.lanes).is_gone
    }

    fn send(&self, message: Message, passed: &[BorrowedFd<'_>]) -> io::Result<()> {
        descriptors::send_all(&self.socket, &message.pack(), passed)
    }

    /// Has it hold something. A keeper that has just died holds nothing any more, which is no error.
    ///
    /// # Errors
    /// If it takes no messages.
    pub fn hold(&self, what: Held, descriptor: impl AsFd) -> io::Result<()> {
        // A server that follows in this process has no use for the entries.
        if self.is_heir && what != Held::Entries {
            let copy = Descriptor::copy(&descriptor)?;
            lock(&self.held).insert(what, copy);
        }
        self.unless_gone(self.send(Message::Hold(what), &[descriptor.as_fd()]))
    }

    /// Whether it has died, and this process is the next one.
    pub fn has_left_to_us(&self) -> bool {
        self.is_heir && !self.is_there()
    }

    /// What it has held for the server as a whole, if this process is the next one.
    pub fn take_held(&self) -> Vec<(Held, OwnedFd)> {
        lock(&self.held).drain().map(|(what, descriptor)| (what, descriptor.release())).collect()
    }

    /// Says that the server serves: another one is started when it dies from now on.
    ///
    /// # Errors
    /// As [`Self::hold`].
    pub fn tell_ready(&self) -> io::Result<()> {
        self.unless_gone(self.send(Message::Ready, &[]))
    }

    /// Answers a question. One that is lost is asked again.
    pub fn tell_alive(&self, question: u64) {
        let _ = self.send(Message::Alive(question), &[]);
    }

    /// Says that this server touches nothing any more, and that another one may go on with all that it had. If this
    /// process is the next keeper, it waits then until it is killed, which is what the keeper does, or that has died.
    pub fn tell_resigned(&self) {
        self.send_patiently(Message::Resigned);
        while self.is_heir && self.listen(&|_| {}) {
            let _ = poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], None);
        }
    }

    /// Says that this server has ended in order: nobody is to follow.
    pub fn tell_ended(&self) {
        self.send_patiently(Message::Ended);
    }

    /// Sends a message that has to arrive, unless the keeper has died: it may be busy, or stand for a while.
    fn send_patiently(&self, message: Message) {
        while let Err(error) = self.send(message, &[])
            && error.kind() == io::ErrorKind::WouldBlock
        {
            let _ = poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], None);
        }
    }

    fn unless_gone(&self, sent: io::Result<()>) -> io::Result<()> {
        match sent {
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
            sent => sent,
        }
    }

    /// A lane for the client at the other end of this socket, which the keeper holds from now on. `None` if there is no
    /// keeper any more, nor will be.
    ///
    /// # Errors
    /// `ResourceBusy` if no lane is prepared, or the keeper takes no messages.
    pub fn serve(self: &Arc<Self>, socket: impl AsFd) -> io::Result<Option<(KeptLane, Parts)>> {
        let mut lanes = lock(&self.lanes);
        if lanes.is_gone {
            return if self.is_heir { Err(busy()) } else { Ok(None) };
        }
        let Some((lane, parts)) = lanes.prepared.pop() else {
            self.bell.ring();
            return Err(busy());
        };
        if lanes.prepared.len() < limits::LANES_PREPARED / 2 {
            self.bell.ring();
        }
        drop(lanes);
        let kept = KeptLane::found(self, lane);
        match self.unless_gone(self.send(Message::Serve(lane), &[socket.as_fd()])) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(busy()),
            sent => sent.map(|()| Some((kept, parts))),
        }
    }

    /// Prepares lanes, tells what could not be told, and gives `obey` what the keeper wants, until the server stops or
    /// the keeper dies: in a thread for that. Returns whether the keeper has died.
    pub fn attend(&self, obey: impl Fn(Order)) -> bool {
        loop {
            let mut lanes = lock(&self.lanes);
            if lanes.is_stopping {
                return false;
            }
            let is_full = self.send_more(&mut lanes);
            drop(lanes);
            let flags = if is_full { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            let mut ready = [PollFd::new(&self.socket, flags), PollFd::new(&self.bell, PollFlags::IN)];
            if poll(&mut ready, None).is_err() {
                continue;
            }
            let [has_said, is_rung] = ready.map(|one| !one.revents().is_empty());
            if is_rung {
                let _ = rustix::io::read(&self.bell, &mut [0; 8]);
                lock(&self.lanes).has_refused = false;
            }
            if has_said && !self.listen(&obey) {
                return true;
            }
        }
    }

    /// Sends what there is to send. Returns whether there is more, for which the socket has no room now.
    fn send_more(&self, lanes: &mut MutexGuard<'_, Lanes>) -> bool {
        while let Some(&lane) = lanes.unsent.last() {
            if self.send(Message::LetGo(lane), &[]).is_err() {
                return true;
            }
            lanes.unsent.pop();
            lanes.free.push(lane);
        }
        while !lanes.has_refused && lanes.prepared.len() + lanes.sent.len() < limits::LANES_PREPARED {
            let Some(lane) = lanes.free.pop() else { return false };
            // Without memory or descriptors the next join tries again.
            let Ok(parts) = Parts::make() else {
                lanes.free.push(lane);
                return false;
            };
            let message = Message::Lane { lane, size: parts.segment.size() };
            let memory = parts.segment.descriptor();
            let passed = [memory.as_fd(), parts.request_bell.as_fd(), parts.response_bell.as_fd()];
            let sent = self.send(message, &passed);
            drop(memory);
            if sent.is_err() {
                lanes.free.push(lane);
                return true;
            }
            lanes.sent.insert(lane, parts);
        }
        false
    }

    /// Takes what the keeper has said. Returns whether it is still there.
    fn listen(&self, obey: &impl Fn(Order)) -> bool {
        let mut said = [0; MESSAGE_SIZE];
        loop {
            match rustix::net::recv(&self.socket, &mut said[..], rustix::net::RecvFlags::DONTWAIT) {
                Ok((_, size)) if size == MESSAGE_SIZE => {
                    let word =
                        |nth: usize| u64::from_ne_bytes(said[8 * nth..8 * nth + 8].try_into().unwrap_or_default());
                    match word(0) {
                        MAPPED => self.note_mapped(word(1), word(2) == 0),
                        SHOW_LIFE => obey(Order::ShowLife(word(1))),
                        RESIGN => obey(Order::Resign { moves: word(1) != 0 }),
                        NOT_UPGRADED => obey(Order::NoteNoUpgrade),
                        _ => {}
                    }
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return true,
                _ => {
                    let mut lanes = lock(&self.lanes);
                    lanes.is_gone = true;
                    lanes.prepared.clear();
                    lanes.sent.clear();
                    return false;
                }
            }
        }
    }

    /// Takes note that the keeper has mapped a lane, or could not.
    fn note_mapped(&self, lane: u64, is_mapped: bool) {
        let mut lanes = lock(&self.lanes);
        if let Ok(lane) = usize::try_from(lane)
            && let Some(parts) = lanes.sent.remove(&lane)
        {
            if is_mapped {
                lanes.prepared.push((lane, parts));
            } else {
                // Without memory or descriptors. It tries again when somebody wants a lane.
                lanes.has_refused = true;
                lanes.free.push(lane);
            }
        }
    }

    /// Ends the thread that prepares lanes.
    pub fn stop(&self) {
        lock(&self.lanes).is_stopping = true;
        self.bell.ring();
    }
}

/// Why a join is put off.
fn busy() -> io::Error {
    let words = "its keeper, which is to hold what the client gets, does not answer, or all lanes are taken";
    io::Error::new(io::ErrorKind::ResourceBusy, words)
}

/// A lane that the keeper holds, and its number. Dropping it has the keeper let go of it.
pub(super) struct KeptLane {
    keeper: Arc<Keeper>,
    pub lane: usize,
}

impl KeptLane {
    /// One that the keeper holds already.
    pub fn found(keeper: &Arc<Keeper>, lane: usize) -> Self {
        Self { keeper: Arc::clone(keeper), lane }
    }

    /// The notes of all lanes.
    pub fn notes(&self) -> Arc<Notes> {
        Arc::clone(&self.keeper.notes)
    }

    /// Leaves it to another server, and returns its number.
    pub fn leave(self) -> usize {
        std::mem::ManuallyDrop::new(self).lane
    }
}

impl Drop for KeptLane {
    fn drop(&mut self) {
        let Self { keeper, lane } = self;
        // Before the keeper lets go: whoever comes after us in between finds a lane that nobody has.
        keeper.notes.clear(*lane);
        let sent = keeper.send(Message::LetGo(*lane), &[]);
        let mut lanes = lock(&keeper.lanes);
        match sent {
            Ok(()) => lanes.free.push(*lane),
            Err(_) if lanes.is_gone => {}
            Err(_) => {
                lanes.unsent.push(*lane);
                keeper.bell.ring();
            }
        }
    }
}
