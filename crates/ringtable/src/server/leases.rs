//! Leases: who may compute the value of a key that many want.
//!
//! # Design
//!
//! A lease is a word between clients: the server gives it to one connection at a time, and to nobody else before it is
//! given back or that connection ends (I1). It guards nothing, and needs no entry to be there: any client may write the
//! key all the same. There is no waiting here (I5): who is refused asks again.
//!
//! A token belongs to one granting, so that threads that share a connection exclude each other too. A client that
//! gives up before it has heard of its token can give the lease back by the ticket that it has asked with.
//!
//! # Invariants
//!
//! - A key has at most one lease, and a lease one connection.
//! - A token is given once, also among servers: a client may have reconnected since it got one.
//! - Number and keys of all leases are bounded: [`limits::LEASES_MAX`], [`limits::LEASE_KEYS_SIZE_MAX`].

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::command::{LeaseName, Refusal};
use crate::limits;
use crate::shm::clock::wall_ms;
use crate::sync::lock;

/// Leases whose memory is freed in one step: some 10 µs, or 300 with the longest keys.
const REMOVED_AT_ONCE: usize = 32;

#[derive(Clone, Copy)]
struct Lease {
    connection: u64,
    token: u64,
    ticket: u64,
}

#[derive(Default)]
struct Held {
    by_key: HashMap<Arc<[u8]>, Lease>,
    /// By connection and token: what ends with a connection.
    by_connection: BTreeMap<(u64, u64), Arc<[u8]>>,
    /// Bytes of all keys.
    keys_size: usize,
    /// Connections that have ended, and whose leases count no more, though they are still here.
    ended: Vec<u64>,
}

impl Held {
    fn remove(&mut self, key: &[u8]) {
        if let Some(lease) = self.by_key.remove(key) {
            self.by_connection.remove(&(lease.connection, lease.token));
            self.keys_size -= key.len();
        }
    }

    /// Removes leases of a connection, so many that nobody waits long. Returns whether there may be more.
    fn remove_some(&mut self, connection: u64) -> bool {
        for _ in 0..REMOVED_AT_ONCE {
            let mut leases = self.by_connection.range((connection, 0)..=(connection, u64::MAX));
            let Some((_, key)) = leases.next() else { return false };
            let key = Arc::clone(key);
            self.remove(&key);
        }
        true
    }
}

/// All leases of a server, and the numbers of its connections.
pub(super) struct Leases {
    held: Mutex<Held>,
    /// How many connections have left something behind.
    ended: AtomicUsize,
    /// What tokens begin above.
    first_token: u64,
    granted: AtomicU64,
    connections: AtomicU64,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            held: Mutex::default(),
            ended: AtomicUsize::new(0),
            // Above all tokens of servers before, as long as each gives less than 2^18 of them in a millisecond.
            first_token: wall_ms() << 18,
            granted: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        }
    }
}

impl Leases {
    /// A number that no other connection has or had.
    pub fn new_connection(&self) -> u64 {
        // Relaxed: only that it is unique matters.
        self.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Grants the lease of a key. Returns its token, above 0; `None` if somebody has it.
    pub fn grant(&self, connection: u64, key: &[u8], ticket: u64) -> Result<Option<u64>, Refusal> {
        let mut held = lock(&self.held);
        if let Some(lease) = held.by_key.get(key) {
            if !held.ended.contains(&lease.connection) {
                return Ok(None);
            }
            held.remove(key);
        }
        let (count, size) = (held.by_key.len(), held.keys_size + key.len());
        if count >= limits::LEASES_MAX || size > limits::LEASE_KEYS_SIZE_MAX {
            return Err(Refusal(format!(
                "LEASES there are {count} leases, and their keys would have {size} bytes; at most {} leases with keys \
                 of {} bytes are allowed: give some back",
                limits::LEASES_MAX,
                limits::LEASE_KEYS_SIZE_MAX
            )));
        }
        // Relaxed: only that it is unique matters.
        let token = self.first_token + self.granted.fetch_add(1, Ordering::Relaxed) + 1;
        let key: Arc<[u8]> = key.into();
        held.keys_size = size;
        held.by_connection.insert((connection, token), Arc::clone(&key));
        held.by_key.insert(key, Lease { connection, token, ticket });
        failpoint!("lease.granted");
        Ok(Some(token))
    }

    /// Ends the lease that a connection has of a key, if it is the one that is named. Returns whether it was.
    pub fn give_back(&self, connection: u64, key: &[u8], name: LeaseName) -> bool {
        let mut held = lock(&self.held);
        let is_named = |lease: &Lease| {
            lease.connection == connection
                && match name {
                    LeaseName::Token(token) => lease.token == token,
                    LeaseName::Ticket(ticket) => lease.ticket == ticket,
                }
        };
        let found = held.by_key.get(key).is_some_and(is_named);
        if found {
            held.remove(key);
        }
        found
    }

    /// Ends all leases of a connection that has ended. Of many the memory is still to be freed: see [`Self::tend`].
    pub fn end(&self, connection: u64) {
        let mut held = lock(&self.held);
        if held.remove_some(connection) {
            held.ended.push(connection);
            // Relaxed: a hint, and who has been the cause looks for itself before it sleeps.
            self.ended.store(held.ended.len(), Ordering::Relaxed);
        }
    }

    /// Whether connections that have ended have left something behind.
    #[inline]
    pub fn has_ended(&self) -> bool {
        // Relaxed: as in `end`.
        self.ended.load(Ordering::Relaxed) > 0
    }

    /// Frees some of what connections that have ended have left behind. Returns whether there is more.
    #[cold]
    pub fn tend(&self) -> bool {
        let mut held = lock(&self.held);
        if let Some(connection) = held.ended.pop()
            && held.remove_some(connection)
        {
            held.ended.push(connection);
        }
        self.ended.store(held.ended.len(), Ordering::Relaxed);
        !held.ended.is_empty()
    }

    /// How many there are now.
    pub fn count(&self) -> usize {
        lock(&self.held).by_key.len()
    }

    /// How many were granted.
    pub fn granted(&self) -> u64 {
        self.granted.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_one_connection_s_until_it_gives_it_back() {
        let leases = Leases::default();
        let (ours, theirs) = (leases.new_connection(), leases.new_connection());
        let token = leases.grant(ours, b"key", 0).unwrap().unwrap();
        assert_eq!(leases.grant(ours, b"key", 0), Ok(None));
        assert_eq!(leases.grant(theirs, b"key", 0), Ok(None));
        assert!(!leases.give_back(theirs, b"key", LeaseName::Token(token)));
        assert!(!leases.give_back(ours, b"key", LeaseName::Token(token + 1)));
        assert!(!leases.give_back(ours, b"other", LeaseName::Token(token)));
        assert!(leases.give_back(ours, b"key", LeaseName::Token(token)));
        assert!(!leases.give_back(ours, b"key", LeaseName::Token(token)));
        let next = leases.grant(theirs, b"key", 0).unwrap().unwrap();
        assert!(next > token);
        assert_eq!((leases.count(), leases.granted()), (1, 2));
    }

    #[test]
    fn who_has_not_heard_of_its_token_names_its_ticket() {
        let leases = Leases::default();
        assert!(leases.grant(1, b"key", 7).unwrap().is_some());
        assert!(!leases.give_back(1, b"key", LeaseName::Ticket(6)));
        assert!(!leases.give_back(2, b"key", LeaseName::Ticket(7)));
        assert!(leases.give_back(1, b"key", LeaseName::Ticket(7)));
        assert_eq!(leases.count(), 0);
    }

    #[test]
    fn leases_end_with_their_connection_and_no_others_do() {
        let leases = Leases::default();
        for key in [b"a", b"b", b"c"] {
            leases.grant(if key == b"b" { 2 } else { 1 }, key, 0).unwrap().unwrap();
        }
        leases.end(1);
        assert_eq!(leases.count(), 1);
        assert_eq!(leases.grant(3, b"b", 0), Ok(None));
        assert!(leases.grant(3, b"a", 0).unwrap().is_some());
        leases.end(99);
        assert!(!leases.tend());
        assert_eq!(leases.count(), 2);
    }

    #[test]
    fn they_are_bounded_in_number_and_in_size() {
        let leases = Leases::default();
        for index in 0..limits::LEASES_MAX {
            leases.grant(1, &index.to_ne_bytes(), 0).unwrap().unwrap();
        }
        assert!(leases.grant(1, b"one more", 0).is_err_and(|Refusal(words)| words.contains("16384")));
        leases.end(1);
        // Those that are still here are nobody's.
        let rest = leases.count();
        assert!(leases.grant(2, &(limits::LEASES_MAX - 1).to_ne_bytes(), 0).unwrap().is_some());
        assert_eq!(leases.count(), rest);
        while leases.tend() {}
        assert_eq!(leases.count(), 1);
        leases.end(2);
        let long = |index: usize| {
            let mut key = vec![0; limits::KEY_SIZE_MAX];
            key[..8].copy_from_slice(&index.to_ne_bytes());
            key
        };
        let fit = limits::LEASE_KEYS_SIZE_MAX / limits::KEY_SIZE_MAX;
        for index in 0..fit {
            leases.grant(1, &long(index), 0).unwrap().unwrap();
        }
        assert!(leases.grant(1, &long(fit), 0).is_err());
        leases.end(1);
        while leases.tend() {}
        assert!(leases.grant(1, &long(fit), 0).unwrap().is_some());
    }
}
