//! The mailbox of a worker: where it gets new connections and answers for those it has, and what it says of itself to
//! other threads.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::socket::Socket;
use super::waiters::Waiter;
use crate::shm::doorbell::Doorbell;
use crate::sync::lock;

/// What other threads have of a worker.
pub(super) struct Mailbox {
    arrivals: Mutex<Vec<Socket>>,
    /// Clients that are to be told, those first who have come first.
    told: Mutex<VecDeque<Waiter>>,
    /// Whether there are any.
    has_told: AtomicBool,
    pub bell: Doorbell,
    clients: AtomicUsize,
    /// Milliseconds << 16 | parties that wanted to run in the window that ended then.
    pub activity: AtomicU64,
    /// Whether the worker sleeps: a hint for those who look for one to wake.
    pub asleep: AtomicBool,
}

impl Mailbox {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            arrivals: Mutex::default(),
            told: Mutex::default(),
            has_told: AtomicBool::new(false),
            bell: Doorbell::new()?,
            clients: AtomicUsize::new(0),
            activity: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
        })
    }

    /// Hands over a connection.
    pub fn deliver(&self, socket: Socket) {
        // A connection in the reserved place does not count.
        self.clients.fetch_add(usize::from(socket.reservation.is_none()), Ordering::Relaxed);
        lock(&self.arrivals).push(socket);
        failpoint!("accept.delivered");
        self.bell.ring();
    }

    /// Hands over clients of the worker's that are to be told.
    pub fn tell(&self, told: &[Waiter]) {
        let mut all = lock(&self.told);
        all.extend(told);
        // Relaxed: the ring comes behind it.
        self.has_told.store(true, Ordering::Relaxed);
        drop(all);
        self.bell.ring();
    }

    /// Whether there are such clients. A hint; the bell is rung behind it.
    #[inline]
    pub fn has_told(&self) -> bool {
        self.has_told.load(Ordering::Relaxed)
    }

    /// Takes some of them, `most` at most.
    pub fn take_told(&self, most: usize) -> Vec<Waiter> {
        let mut all = lock(&self.told);
        let taken = ..most.min(all.len());
        let taken = all.drain(taken).collect();
        self.has_told.store(!all.is_empty(), Ordering::Relaxed);
        taken
    }

    pub fn ring(&self) {
        self.bell.ring();
    }

    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::Relaxed)
    }

    /// How many clients the worker has, or is about to have.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// The connections that have been handed over since it was last asked.
    pub fn take_arrivals(&self) -> Vec<Socket> {
        std::mem::take(&mut *lock(&self.arrivals))
    }

    /// Takes note of a client that the worker has taken over from another server.
    pub fn adopt_client(&self) {
        self.clients.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes note that a client has gone that was handed over.
    pub fn forget_client(&self) {
        self.clients.fetch_sub(1, Ordering::Relaxed);
    }
}
