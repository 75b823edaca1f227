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
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::command::{LeaseName, Refusal};
use crate::limits;
use crate::shm::clock::wall_ms;
use crate::sync::lock;

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
}

impl Held {
    fn remove(&mut self, key: &[u8]) {
        if let Some(lease) = self.by_key.remove(key) {
            self.by_connection.remove(&(lease.connection, lease.token));
            self.keys_size -= key.len();
        }
    }
}

/// All leases of a server, and the numbers of its connections.
pub(super) struct Leases {
    held: Mutex<Held>,
    /// What tokens begin above.
    first_token: u64,
    granted: AtomicU64,
    connections: AtomicU64,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            held: Mutex::default(),
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
        if held.by_key.contains_key(key) {
            return Ok(None);
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

    /// Ends all leases of a connection that has ended.
    pub fn end(&self, connection: u64) {
        let mut held = lock(&self.held);
        let keys: Vec<_> = held
            .by_connection
            .range((connection, 0)..=(connection, u64::MAX))
            .map(|(_, key)| Arc::clone(key))
            .collect();
        for key in keys {
            held.remove(&key);
        }
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
        assert!(leases.grant(1, &long(fit), 0).unwrap().is_some());
    }
}
