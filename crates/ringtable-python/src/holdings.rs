//! What the threads of this process have been granted over one connection: locks, and permits of semaphores.
//!
//! # Design
//!
//! All lock objects of a table look here, so that several of one name are one lock in this process, too: a thread that
//! has it by one of them has it by all.
//!
//! A lock that is never given back, since its time to live ends it, is remembered so that its loss can be told. Those
//! whose time is over are forgotten once there are [`REMEMBERED_MAX`] names, and then each time that the names have
//! doubled: so what that costs for each lock does not grow with how many are held.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use ringtable::client::process_generation;

/// Names beyond which locks are first forgotten whose time to live is over.
const REMEMBERED_MAX: usize = 1_024;

/// What a thread of this process has been granted.
#[derive(Clone, Copy)]
pub struct Held {
    pub token: u64,
    pub thread: ThreadId,
    /// The process: a forked child has nothing of its parent's.
    generation: u64,
    /// How often the thread has acquired it.
    pub depth: u64,
    /// When its time to live ends.
    pub ends: Option<Instant>,
}

impl Held {
    /// What this thread is granted now, for so many milliseconds.
    pub fn now(token: u64, ttl_ms: Option<u64>) -> Self {
        let mut held =
            Self { token, thread: std::thread::current().id(), generation: process_generation(), depth: 1, ends: None };
        held.extend(ttl_ms);
        held
    }

    /// It lasts for so many milliseconds from now on.
    pub fn extend(&mut self, ttl_ms: Option<u64>) {
        self.ends = ttl_ms.and_then(|ttl_ms| Instant::now().checked_add(Duration::from_millis(ttl_ms)));
    }

    /// Whether this process has it.
    pub fn is_ours(&self) -> bool {
        self.generation == process_generation()
    }
}

/// What was granted, by the names that the server has for it.
#[derive(Default)]
pub struct Holdings(Mutex<Names>);

struct Names {
    held: HashMap<Vec<u8>, Vec<Held>>,
    /// How many names there are when those are forgotten whose time is over.
    forgets_at: usize,
}

impl Default for Names {
    fn default() -> Self {
        Self { held: HashMap::new(), forgets_at: REMEMBERED_MAX }
    }
}

impl Names {
    fn forget_ended(&mut self) {
        let now = Instant::now();
        self.held.retain(|_, all| {
            all.retain(|held| held.is_ours() && held.ends.is_none_or(|ends| ends > now));
            !all.is_empty()
        });
        self.forgets_at = REMEMBERED_MAX.max(2 * self.held.len());
    }
}

impl Holdings {
    fn lock(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last that was granted of this name for which that holds.
    pub fn find(&self, name: &[u8], is_it: impl Fn(&Held) -> bool) -> Option<Held> {
        self.lock().held.get(name)?.iter().rev().find(|held| is_it(held)).copied()
    }

    /// Notes what was granted.
    pub fn note(&self, name: &[u8], held: Held) {
        let mut names = self.lock();
        if names.held.len() >= names.forgets_at {
            names.forget_ended();
        }
        names.held.entry(name.to_vec()).or_default().push(held);
    }

    /// Changes what was noted.
    pub fn change(&self, name: &[u8], token: u64, change: impl Fn(&mut Held)) {
        if let Some(all) = self.lock().held.get_mut(name) {
            all.iter_mut().filter(|held| held.token == token).for_each(change);
        }
    }

    /// Forgets what is given back, or lost.
    pub fn forget(&self, name: &[u8], token: u64) {
        let mut names = self.lock();
        if let Some(all) = names.held.get_mut(name) {
            all.retain(|held| held.token != token);
            if all.is_empty() {
                names.held.remove(name);
            }
        }
    }
}
