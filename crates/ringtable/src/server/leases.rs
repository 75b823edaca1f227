//! Leases: who may compute the value of a key that many want.
//!
//! # Design
//!
//! A lease is a word between clients: the server gives it to one connection at a time, and to nobody else before it is
//! given back or that connection ends (I1). It guards nothing, and needs no entry to be there: any client may write the
//! key all the same. There is no waiting here (I5): who is refused asks again, or to be told.
//!
//! A connection that is to be told when a lease is over stands in its group of waiters ([`super::waiters`]). There is
//! one place where a lease is removed, however it ends, and the group is over there. A write of the key has it told,
//! too, since a value is what most wait for; the lease stays. Whether anybody waits at all is one load for a write,
//! without a lock, so that a write and a wait that begins at the same instant may miss each other. That costs the
//! waiter time, and nothing else: it looks at the key once it has heard that it waits, and from time to time.
//!
//! More kinds of things end with a connection, or are waited for, and have their table here, behind the same lock:
//! permits, which are locks and semaphores ([`super::permits`]), keys that are to change ([`super::changes`]), and
//! parties of barriers ([`super::barriers`]).
//!
//! What is granted is kept in memory that outlives the server ([`super::grants`]); the maps here find it.
//!
//! A token belongs to one granting, so that threads that share a connection exclude each other too. A client that
//! gives up before it has heard of its token can give the lease back by the ticket that it has asked with. What it has
//! computed in vain it leaves to those who wait ([`super::handovers`]).
//!
//! # Invariants
//!
//! - A key has at most one lease, and a lease one connection.
//! - A token is given once, also among servers: a client may have reconnected since it got one.
//! - Number and keys of all leases are bounded: [`limits::LEASES_MAX`], [`limits::LEASE_KEYS_SIZE_MAX`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::barriers::Barriers;
use super::changes::Changes;
use super::grants::{Found, GrantMemory, Grants, LEASES, Name, PERMITS, Record, Slot};
use super::handovers::Handovers;
use super::passed::Passed;
use super::permits::Permits;
use super::waiters::{Awaited, Hints, Waiter, Waiters};
use crate::command::{LeaseAnswer, LeaseName, LockAnswer, LockRequest, Recipient, Refusal, Standing, Unwritten};
use crate::limits;
use crate::shm::clock::monotonic_ns;
use crate::sync::lock;

/// Leases, permits or waiters, whose memory is freed in one step: some 10 µs.
const REMOVED_AT_ONCE: usize = 32;
/// Bytes of names after which such a step ends before that: all of a name is hashed when it is removed, so that some
/// 100 µs are a step's.
const REMOVED_SIZE_MAX: usize = 128 << 10;

#[derive(Clone, Copy)]
struct Lease {
    connection: u64,
    token: u64,
    ticket: u64,
    /// Where it is kept, and its key.
    slot: Slot,
    name: Name,
    /// The group of those who wait for its end.
    group: Option<u64>,
}

struct LeaseTable {
    grants: Grants,
    by_key: HashMap<Arc<[u8]>, Lease>,
    /// By connection and token: what ends with a connection.
    by_connection: BTreeMap<(u64, u64), Arc<[u8]>>,
    /// Bytes of all keys.
    keys_size: usize,
    /// Connections that have ended, and whose leases count no more, though they are still here; or their waits are.
    ended: Vec<u64>,
    handovers: Handovers,
    waiters: Waiters,
    permits: Permits,
    changes: Changes,
    barriers: Barriers,
}

impl LeaseTable {
    fn new(grants: Grants, permits: Permits) -> Self {
        Self {
            grants,
            by_key: HashMap::new(),
            by_connection: BTreeMap::new(),
            keys_size: 0,
            ended: Vec::new(),
            handovers: Handovers::default(),
            waiters: Waiters::default(),
            permits,
            changes: Changes::default(),
            barriers: Barriers::default(),
        }
    }

    /// Removes a lease, which is over: who waits for that will be told.
    fn remove(&mut self, key: &[u8]) {
        if let Some(lease) = self.by_key.remove(key) {
            self.grants.remove(lease.slot);
            self.grants.free_name(lease.name);
            self.by_connection.remove(&(lease.connection, lease.token));
            self.keys_size -= key.len();
            if let Some(group) = lease.group {
                self.waiters.end(group);
            }
        }
    }

    /// Removes leases of a connection that has ended, then its permits and its waits, so many that nobody waits long.
    /// Returns whether there may be more.
    fn remove_some(&mut self, connection: u64) -> bool {
        let mut removed_size = 0;
        for _ in 0..REMOVED_AT_ONCE {
            if removed_size >= REMOVED_SIZE_MAX {
                break;
            }
            let mut leases = self.by_connection.range((connection, 0)..=(connection, u64::MAX));
            if let Some((_, key)) = leases.next() {
                let key = Arc::clone(key);
                self.remove(&key);
                removed_size += key.len();
                continue;
            }
            let Self { permits, waiters, ended, .. } = self;
            let is_gone = |other| ended.contains(&other);
            if let Some(size) = permits.end_one(connection, waiters, &is_gone, monotonic_ns()) {
                removed_size += size;
                continue;
            }
            let Some(ticket) = self.waiters.ticket_of(connection) else { return false };
            removed_size += self.leave(connection, ticket).unwrap_or(0);
        }
        true
    }

    /// Lets a connection wait no more with this ticket, for whatever it was. Returns the bytes of the name that was
    /// looked up for that; `None` if it did not wait.
    fn leave(&mut self, connection: u64, ticket: u64) -> Option<usize> {
        let group = self.waiters.group_of(connection, ticket)?;
        Some(match self.waiters.leave(connection, ticket)?.awaited {
            Awaited::Key => self.changes.forget(group, &self.waiters),
            Awaited::Permit => self.permits.forget(group),
            Awaited::Parties => self.barriers.forget(group, connection),
        })
    }
}

/// All leases of a server, and the numbers of its connections.
pub(super) struct Leases {
    held: Mutex<LeaseTable>,
    memory: Arc<GrantMemory>,
    hints: Arc<Hints>,
    /// How many connections have left something behind.
    ended: AtomicUsize,
    granted: AtomicU64,
    /// How many ended with a value that was not stored, and with an old one since computing has failed.
    not_stored: AtomicU64,
    failed: AtomicU64,
    /// When the oldest of what was handed over is due to go; 0 if there is nothing.
    handover_due_ns: AtomicU64,
    /// When the next permit's time to live is over; 0 if none has one.
    permit_due_ns: AtomicU64,
}

impl Leases {
    /// Those of a new server: none.
    pub fn new(memory: GrantMemory) -> Self {
        let memory = Arc::new(memory);
        let permits = Permits::new(Grants::new(Arc::clone(&memory), PERMITS));
        let held = LeaseTable::new(Grants::new(Arc::clone(&memory), LEASES), permits);
        Self::with(held, memory)
    }

    fn with(held: LeaseTable, memory: Arc<GrantMemory>) -> Self {
        Self {
            hints: held.waiters.hints(),
            held: Mutex::new(held),
            memory,
            ended: AtomicUsize::new(0),
            granted: AtomicU64::new(0),
            not_stored: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            handover_due_ns: AtomicU64::new(0),
            permit_due_ns: AtomicU64::new(0),
        }
    }

    /// A number that no other connection has or had.
    pub fn new_connection(&self) -> u64 {
        self.memory.new_connection()
    }

    /// Grants the lease of a key, if nobody has it; or gives what came of the one with the token `after`.
    pub fn grant(&self, connection: u64, key: &[u8], ticket: u64, after: u64) -> Result<LeaseAnswer, Refusal> {
        let mut held = lock(&self.held);
        if after > 0
            && let Some(value) = held.handovers.find(key, after)
        {
            return Ok(LeaseAnswer::Over(value));
        }
        if let Some(lease) = held.by_key.get(key) {
            if !held.ended.contains(&lease.connection) {
                return Ok(LeaseAnswer::Taken(lease.token));
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
        // Relaxed: a counter.
        self.granted.fetch_add(1, Ordering::Relaxed);
        let (token, name) = (held.grants.next_token(), held.grants.keep_name(key));
        let slot = held.grants.add(&Record { connection, token, ticket, permits: 1, ends_ns: None, name }, key);
        let key: Arc<[u8]> = key.into();
        held.keys_size = size;
        held.by_connection.insert((connection, token), Arc::clone(&key));
        held.by_key.insert(key, Lease { connection, token, ticket, slot, name, group: None });
        failpoint!("lease.granted");
        Ok(LeaseAnswer::Granted(token))
    }

    /// Ends the lease that a connection has of a key, if it has this token, and leaves what came of it to those who
    /// wait. Returns whether it was so.
    pub fn hand_over(&self, connection: u64, key: &[u8], token: u64, outcome: Unwritten<'_>) -> bool {
        let mut held = lock(&self.held);
        let found = held.by_key.get(key).is_some_and(|lease| lease.connection == connection && lease.token == token);
        if !found {
            return false;
        }
        held.remove(key);
        let (value, counter) = match outcome {
            Unwritten::NotStored(value) => (value, &self.not_stored),
            Unwritten::Failed => (None, &self.failed),
        };
        // Relaxed: a counter.
        counter.fetch_add(1, Ordering::Relaxed);
        held.handovers.leave(key, token, value, monotonic_ns());
        // Relaxed: a hint; who has been the cause looks before it sleeps.
        self.handover_due_ns.store(1, Ordering::Relaxed);
        true
    }

    /// Drops what was handed over and has been here for long enough. Returns for how long there is nothing more to do;
    /// `None` for ever.
    #[inline]
    pub fn tend_handovers(&self, now_ns: u64) -> Option<u64> {
        // Relaxed: as in `hand_over`.
        let due_ns = self.handover_due_ns.load(Ordering::Relaxed);
        match due_ns {
            0 => None,
            due_ns if due_ns > now_ns => Some(due_ns - now_ns),
            _ => {
                let mut held = lock(&self.held);
                let due_ns = held.handovers.tend(now_ns);
                self.handover_due_ns.store(due_ns.unwrap_or(0), Ordering::Relaxed);
                due_ns.map(|due_ns| due_ns.saturating_sub(now_ns))
            }
        }
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

    /// Lets one wait until the lease of a key with this token is over, or the key was written. Returns `false` if there
    /// is no such lease now: there is nothing to wait for.
    pub fn wait(&self, waiter: Waiter, key: &[u8], token: u64) -> Result<bool, Refusal> {
        let mut held = lock(&self.held);
        held.leave(waiter.connection, waiter.ticket);
        let LeaseTable { by_key, ended, waiters, .. } = &mut *held;
        match by_key.get_mut(key).filter(|lease| lease.token == token && !ended.contains(&lease.connection)) {
            Some(lease) => waiters.join(&mut lease.group, waiter).map(|()| true),
            None => Ok(false),
        }
    }

    /// Lets a connection wait no more for a key, or its lease, that it has waited for with this ticket. Returns whether
    /// it did, and is not about to be told.
    pub fn unwait(&self, connection: u64, key: &[u8], ticket: u64) -> bool {
        let mut held = lock(&self.held);
        let groups = [held.by_key.get(key).and_then(|lease| lease.group), held.changes.group_of(key)];
        let group = held.waiters.group_of(connection, ticket);
        group.is_some() && groups.contains(&group) && held.leave(connection, ticket).is_some()
    }

    /// Lets one wait until a key is written. The caller looks at the key behind this.
    pub fn wait_for_change(&self, waiter: Waiter, key: &[u8]) -> Result<(), Refusal> {
        let mut held = lock(&self.held);
        held.leave(waiter.connection, waiter.ticket);
        let LeaseTable { changes, waiters, .. } = &mut *held;
        changes.join(key, waiter, waiters)
    }

    /// Takes a permit of a name, or joins its queue if there is somewhere to be told.
    pub fn take_permit(
        &self,
        connection: u64,
        name: &[u8],
        request: LockRequest,
        recipient: Option<Recipient>,
    ) -> Result<LockAnswer, Refusal> {
        let mut held = lock(&self.held);
        let ticket = request.ticket;
        held.leave(connection, ticket);
        let waiter = |recipient| Waiter { connection, ticket, awaited: Awaited::Permit, recipient, answer: None };
        let waiter = recipient.is_some().then(|| waiter(recipient));
        let LeaseTable { permits, waiters, ended, .. } = &mut *held;
        let is_gone = |other| ended.contains(&other);
        let answer = permits.take(connection, name, request, waiter, (waiters, &is_gone), monotonic_ns());
        self.note(&held);
        answer
    }

    /// Ends a permit of a connection. A ticket may also be that of a place in the queue. Returns whether it had it.
    pub fn give_permit_back(&self, connection: u64, name: &[u8], named: LeaseName) -> bool {
        let mut held = lock(&self.held);
        if let LeaseName::Ticket(ticket) = named
            && let Some(group) = held.waiters.group_of(connection, ticket)
        {
            let waits = held.permits.waits_for(group, name);
            // If it does not, it has the permit, and was not told yet.
            held.leave(connection, ticket);
            if waits {
                return true;
            }
        }
        let LeaseTable { permits, waiters, ended, .. } = &mut *held;
        let had = permits.give_back(connection, name, named, waiters, &|other| ended.contains(&other), monotonic_ns());
        self.note(&held);
        had
    }

    /// Gives a permit of a connection a new time to live. Returns whether it has it.
    pub fn extend_permit(&self, connection: u64, name: &[u8], token: u64, ttl_ms: u64) -> bool {
        let mut held = lock(&self.held);
        let has_it = held.permits.extend(connection, name, token, ttl_ms, monotonic_ns());
        self.note(&held);
        has_it
    }

    /// How many permits of a name are taken; or whether a connection has the one with this token.
    pub fn permits_taken(&self, connection: u64, name: &[u8], token: Option<u64>) -> usize {
        let held = lock(&self.held);
        match token {
            Some(token) => usize::from(held.permits.has(connection, name, token, monotonic_ns())),
            None => held.permits.holders(name, &|other| held.ended.contains(&other), monotonic_ns()),
        }
    }

    /// Lets a party come to a barrier of so many; or returns how one stands that has come with this ticket before.
    pub fn come(&self, mut party: Waiter, name: &[u8], parties: u64) -> Result<Standing, Refusal> {
        let mut held = lock(&self.held);
        let Waiter { connection, ticket, .. } = party;
        let before = held.barriers.find(connection, ticket, name, &held.waiters);
        if let Some(Standing::Waits(_)) = before {
            held.barriers.check_again(name, parties)?;
        }
        held.leave(connection, ticket);
        match before {
            Some(Standing::Waits(missing)) => party.answer = Some(missing),
            Some(passed) => return Ok(passed),
            None => {}
        }
        let LeaseTable { barriers, waiters, ended, .. } = &mut *held;
        barriers.come(party, name, parties, waiters, ended)
    }

    /// Lets a party wait no more. Returns how it stood, if it was not told yet.
    pub fn leave(&self, connection: u64, name: &[u8], ticket: u64) -> Option<Standing> {
        let mut held = lock(&self.held);
        let standing = held.barriers.find(connection, ticket, name, &held.waiters)?;
        held.leave(connection, ticket);
        Some(standing)
    }

    /// Notes there who passes a barrier, so that the next server knows it, as this one knows of the one before.
    pub fn remember(&self, passed: Passed) {
        lock(&self.held).barriers.remember(passed);
    }

    /// How many wait at a barrier.
    pub fn parties_waiting(&self, name: &[u8]) -> u64 {
        let held = lock(&self.held);
        held.barriers.waiting(name, &held.ended)
    }

    /// Takes note of what is seen without the lock, after any change.
    ///
    /// Relaxed: hints; who has been the cause looks before it sleeps.
    fn note(&self, held: &LeaseTable) {
        self.ended.store(held.ended.len(), Ordering::Relaxed);
        self.permit_due_ns.store(held.permits.next_end_ns().unwrap_or(0), Ordering::Relaxed);
    }

    /// Ends permits whose time is over, some of them. Returns for how long there is nothing more to do; `None` for
    /// ever.
    #[inline]
    pub fn tend_permits(&self, now_ns: u64) -> Option<u64> {
        // Relaxed: as in `note`.
        match self.permit_due_ns.load(Ordering::Relaxed) {
            0 => None,
            due_ns if due_ns > now_ns => Some(due_ns - now_ns),
            _ => Some(self.expire_permits(now_ns)),
        }
    }

    #[cold]
    fn expire_permits(&self, now_ns: u64) -> u64 {
        let mut held = lock(&self.held);
        let LeaseTable { permits, waiters, ended, .. } = &mut *held;
        let (mut removed, mut removed_size) = (0, 0);
        while removed < REMOVED_AT_ONCE
            && removed_size < REMOVED_SIZE_MAX
            && let Some(size) = permits.expire_one(waiters, &|other| ended.contains(&other), now_ns)
        {
            removed += 1;
            removed_size += size;
        }
        let next_ns = permits.next_end_ns();
        self.note(&held);
        // Those who were handed something are still to be told: not to sleep.
        match next_ns {
            Some(next_ns) if removed == 0 => next_ns.saturating_sub(now_ns),
            _ => 0,
        }
    }

    /// How many locks and permits of semaphores are held.
    pub fn permits(&self) -> usize {
        lock(&self.held).permits.count()
    }

    /// Whether anybody waits for a key, or its lease.
    #[inline]
    pub fn has_waiters(&self) -> bool {
        self.hints.are_some_for_keys()
    }

    /// How many wait now.
    pub fn waiters(&self) -> usize {
        self.hints.waiters()
    }

    /// Has those told who wait for a key, or its lease, which was written.
    #[cold]
    pub fn note_written(&self, key: &[u8]) {
        let mut held = lock(&self.held);
        let LeaseTable { changes, waiters, .. } = &mut *held;
        changes.end(key, waiters);
        // A connection that waits from now on waits for something else.
        if let Some(group) = held.by_key.get_mut(key).and_then(|lease| lease.group.take()) {
            held.waiters.end(group);
        }
    }

    /// Whether there are waiters to tell.
    #[inline]
    pub fn has_to_tell(&self) -> bool {
        self.hints.are_some_over()
    }

    /// Takes some out who are to be told, `most` at most. The caller tells them.
    pub fn take_told(&self, most: usize) -> Vec<Waiter> {
        lock(&self.held).waiters.take(most)
    }

    /// Ends all leases and permits of a connection that has ended, and all its waits. Of many the memory is still to be
    /// freed, and those who wait for them are still to be told: see [`Self::tend`].
    pub fn end(&self, connection: u64) {
        let mut held = lock(&self.held);
        // A member of an exchange that was sent away ends once more when its socket is closed.
        if held.ended.contains(&connection) {
            return;
        }
        // Before anything is handed over: it is nobody to hand anything to.
        held.ended.push(connection);
        if !held.remove_some(connection) {
            held.ended.pop();
        }
        self.note(&held);
    }

    /// Whether connections that have ended have left something behind.
    #[inline]
    pub fn has_ended(&self) -> bool {
        // Relaxed: as in `note`.
        self.ended.load(Ordering::Relaxed) > 0
    }

    /// Frees some of what connections that have ended have left behind, and has those told who wait for it. Returns
    /// whether there is more.
    #[cold]
    pub fn tend(&self) -> bool {
        let mut held = lock(&self.held);
        if let Some(&connection) = held.ended.last()
            && !held.remove_some(connection)
        {
            held.ended.pop();
        }
        self.note(&held);
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

    /// How many ended with a value that was not stored.
    pub fn not_stored(&self) -> u64 {
        self.not_stored.load(Ordering::Relaxed)
    }

    /// How many ended with an old value, since computing has failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

impl Leases {
    /// Takes over what another server has granted. Returns also how much of it was damaged, and is lost.
    ///
    /// Nobody waits, and nothing was handed over. Whoever was granted something and is gone is still a holder: see
    /// [`Self::end_all_but`].
    pub fn adopt(memory: GrantMemory) -> (Self, usize) {
        let memory = Arc::new(memory);
        let (permits, damaged) = Permits::adopt(Grants::adopt(&memory, PERMITS));
        let leases = Grants::adopt(&memory, LEASES);
        let mut held = LeaseTable::new(leases.grants, permits);
        for Found { slot, record: Record { connection, token, ticket, name, .. }, name: key } in leases.found {
            held.keys_size += key.len();
            held.by_connection.insert((connection, token), Arc::clone(&key));
            held.by_key.insert(key, Lease { connection, token, ticket, slot, name, group: None });
        }
        let leases_damaged = leases.damaged;
        let adopted = Self::with(held, memory);
        adopted.note(&lock(&adopted.held));
        (adopted, damaged + leases_damaged)
    }

    /// Ends what connections hold that are none of these: theirs have ended with the server before.
    pub fn end_all_but(&self, living: &HashSet<u64>) {
        let held = lock(&self.held);
        let holders = held.by_connection.keys().map(|&(connection, _)| connection).chain(held.permits.connections());
        let gone: HashSet<u64> = holders.filter(|connection| !living.contains(connection)).collect();
        drop(held);
        gone.into_iter().for_each(|connection| self.end(connection));
    }
}

#[cfg(test)]
impl Leases {
    /// The memory, as the death of the server leaves it.
    pub fn into_memory(self) -> GrantMemory {
        let Self { held, memory, .. } = self;
        drop(held);
        Arc::into_inner(memory).expect("nobody else has it")
    }

    pub fn memory(&self) -> &GrantMemory {
        &self.memory
    }

    /// All that is granted: of each section the record, its place and its name; and how many bytes all names have.
    pub fn granted_now(&self) -> [(Vec<Found>, usize); 2] {
        let held = lock(&self.held);
        let lease = |(key, lease): (&Arc<[u8]>, &Lease)| {
            let &Lease { connection, token, ticket, slot, name, .. } = lease;
            Found {
                slot,
                record: Record { connection, token, ticket, permits: 1, ends_ns: None, name },
                name: Arc::clone(key),
            }
        };
        let mut leases: Vec<Found> = held.by_key.iter().map(lease).collect();
        leases.sort_by_key(|found| found.record.token);
        [(leases, held.keys_size), held.permits.granted_now()]
    }
}

#[cfg(test)]
impl Default for Leases {
    fn default() -> Self {
        Self::new(GrantMemory::create().expect("a segment").0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(leases: &Leases, connection: u64, key: &[u8]) -> u64 {
        match leases.grant(connection, key, 0, 0) {
            Ok(LeaseAnswer::Granted(token)) => token,
            other => panic!("not granted: {other:?}"),
        }
    }

    #[test]
    fn what_is_handed_over_is_for_those_who_were_refused() {
        let leases = Leases::default();
        let token = granted(&leases, 1, b"key");
        assert_eq!(leases.grant(2, b"key", 0, 0), Ok(LeaseAnswer::Taken(token)));
        assert!(!leases.hand_over(2, b"key", token, Unwritten::Failed));
        assert!(!leases.hand_over(1, b"key", token + 1, Unwritten::Failed));
        assert_eq!(leases.tend_handovers(0), None);
        assert!(leases.hand_over(1, b"key", token, Unwritten::NotStored(Some(b"value"))));
        assert!(!leases.hand_over(1, b"key", token, Unwritten::Failed));
        assert_eq!(leases.grant(2, b"key", 0, token), Ok(LeaseAnswer::Over(Some(b"value"[..].into()))));
        // A client that comes later computes; and one that waited gets it all the same.
        let later = granted(&leases, 3, b"key");
        assert_eq!(leases.grant(2, b"key", 0, token), Ok(LeaseAnswer::Over(Some(b"value"[..].into()))));
        assert_eq!(leases.grant(4, b"key", 0, later), Ok(LeaseAnswer::Taken(later)));
        assert!(leases.hand_over(3, b"key", later, Unwritten::Failed));
        assert_eq!(leases.grant(2, b"key", 0, token), Ok(LeaseAnswer::Over(None)));
        assert_eq!((leases.not_stored(), leases.failed(), leases.count()), (1, 1, 0));
        let now_ns = monotonic_ns();
        assert!(leases.tend_handovers(now_ns).is_some_and(|left_ns| left_ns <= limits::HANDOVER_KEPT_NS));
        let mut steps = 0;
        while leases.tend_handovers(now_ns + 2 * limits::HANDOVER_KEPT_NS).is_some() {
            steps += 1;
        }
        assert!(steps < 3);
        granted(&leases, 2, b"key");
    }

    #[test]
    fn a_lease_is_one_connection_s_until_it_gives_it_back() {
        let leases = Leases::default();
        let (ours, theirs) = (leases.new_connection(), leases.new_connection());
        let token = granted(&leases, ours, b"key");
        assert_eq!(leases.grant(ours, b"key", 0, 0), Ok(LeaseAnswer::Taken(token)));
        assert_eq!(leases.grant(theirs, b"key", 0, 0), Ok(LeaseAnswer::Taken(token)));
        assert!(!leases.give_back(theirs, b"key", LeaseName::Token(token)));
        assert!(!leases.give_back(ours, b"key", LeaseName::Token(token + 1)));
        assert!(!leases.give_back(ours, b"other", LeaseName::Token(token)));
        assert!(leases.give_back(ours, b"key", LeaseName::Token(token)));
        assert!(!leases.give_back(ours, b"key", LeaseName::Token(token)));
        let next = granted(&leases, theirs, b"key");
        assert!(next > token);
        assert_eq!((leases.count(), leases.granted()), (1, 2));
    }

    #[test]
    fn who_has_not_heard_of_its_token_names_its_ticket() {
        let leases = Leases::default();
        assert!(matches!(leases.grant(1, b"key", 7, 0), Ok(LeaseAnswer::Granted(_))));
        assert!(!leases.give_back(1, b"key", LeaseName::Ticket(6)));
        assert!(!leases.give_back(2, b"key", LeaseName::Ticket(7)));
        assert!(leases.give_back(1, b"key", LeaseName::Ticket(7)));
        assert_eq!(leases.count(), 0);
    }

    #[test]
    fn leases_end_with_their_connection_and_no_others_do() {
        let leases = Leases::default();
        for key in [b"a", b"b", b"c"] {
            granted(&leases, if key == b"b" { 2 } else { 1 }, key);
        }
        leases.end(1);
        assert_eq!(leases.count(), 1);
        assert!(matches!(leases.grant(3, b"b", 0, 0), Ok(LeaseAnswer::Taken(_))));
        granted(&leases, 3, b"a");
        leases.end(99);
        assert!(!leases.tend());
        assert_eq!(leases.count(), 2);
    }

    fn waiter(connection: u64, ticket: u64) -> Waiter {
        let recipient = Some(Recipient { worker: 0, place: 0 });
        Waiter { connection, ticket, awaited: Awaited::Key, recipient, answer: None }
    }

    fn told(leases: &Leases) -> Vec<(u64, u64)> {
        assert_eq!(leases.has_to_tell(), lock(&leases.held).waiters.hints().are_some_over());
        let all = leases.take_told(usize::MAX);
        assert!(!leases.has_to_tell());
        all.into_iter().map(|Waiter { connection, ticket, .. }| (connection, ticket)).collect()
    }

    #[test]
    fn who_waits_is_told_however_a_lease_ends() {
        let leases = Leases::default();
        let ends: [fn(&Leases, u64); 4] = [
            |leases, token| assert!(leases.give_back(1, b"key", LeaseName::Token(token))),
            |leases, _| assert!(leases.give_back(1, b"key", LeaseName::Ticket(7))),
            |leases, token| assert!(leases.hand_over(1, b"key", token, Unwritten::Failed)),
            |leases, _| leases.end(1),
        ];
        for end in ends {
            let Ok(LeaseAnswer::Granted(token)) = leases.grant(1, b"key", 7, 0) else { panic!("not granted") };
            assert_eq!(leases.wait(waiter(2, 1), b"key", token), Ok(true));
            assert_eq!(leases.wait(waiter(3, 1), b"key", token), Ok(true));
            assert_eq!(leases.wait(waiter(3, 2), b"key", token), Ok(true));
            assert_eq!((told(&leases), leases.waiters()), (vec![], 3));
            end(&leases, token);
            assert_eq!((told(&leases), leases.waiters()), (vec![(2, 1), (3, 1), (3, 2)], 0));
            // Afterwards there is nothing to wait for.
            assert_eq!(leases.wait(waiter(2, 1), b"key", token), Ok(false));
        }
        let token = granted(&leases, 1, b"key");
        for (key, token) in [(&b"key"[..], token - 1), (b"key", token + 1), (b"other", token)] {
            assert_eq!(leases.wait(waiter(2, 1), key, token), Ok(false));
        }
        assert_eq!(leases.waiters(), 0);
    }

    #[test]
    fn who_waits_for_one_of_many_leases_of_a_connection_that_has_ended_is_told() {
        let leases = Leases::default();
        let tokens: Vec<u64> = (0..100_u64).map(|index| granted(&leases, 1, &index.to_ne_bytes())).collect();
        let wait = |index: u64| leases.wait(waiter(2, index + 1), &index.to_ne_bytes(), tokens[index as usize]);
        assert!((0..99).all(|index| wait(index) == Ok(true)));
        leases.end(1);
        // Nobody has it, though it is still here.
        assert_eq!(wait(99), Ok(false));
        let mut all = told(&leases);
        assert!(all.len() < 99);
        // What somebody else gets meanwhile was over, too.
        let last = granted(&leases, 3, &98_u64.to_ne_bytes());
        assert_eq!(leases.wait(waiter(4, 1), &98_u64.to_ne_bytes(), last), Ok(true));
        all.extend(told(&leases));
        assert!(all.contains(&(2, 99)));
        while leases.tend() {}
        all.extend(told(&leases));
        all.sort_unstable();
        assert_eq!(all, (1..=99).map(|ticket| (2, ticket)).collect::<Vec<_>>());
        assert_eq!(leases.waiters(), 1);
    }

    #[test]
    fn waits_end_with_their_connection_and_no_others_do() {
        let leases = Leases::default();
        let token = granted(&leases, 1, b"key");
        for ticket in 1..=100 {
            assert_eq!(leases.wait(waiter(2, ticket), b"key", token), Ok(true));
        }
        assert_eq!(leases.wait(waiter(3, 1), b"key", token), Ok(true));
        leases.end(2);
        assert!(leases.has_ended() && leases.waiters() > 1);
        while leases.tend() {}
        assert_eq!((leases.waiters(), leases.count()), (1, 1));
        assert!(leases.give_back(1, b"key", LeaseName::Token(token)));
        assert_eq!(told(&leases), [(3, 1)]);
    }

    #[test]
    fn who_gives_up_is_not_told() {
        let leases = Leases::default();
        let token = granted(&leases, 1, b"key");
        for ticket in 1..=2 {
            assert_eq!(leases.wait(waiter(2, ticket), b"key", token), Ok(true));
        }
        assert!(!leases.unwait(3, b"key", 1) && !leases.unwait(2, b"other", 1) && !leases.unwait(2, b"key", 3));
        assert!(leases.unwait(2, b"key", 1) && !leases.unwait(2, b"key", 1));
        assert!(leases.give_back(1, b"key", LeaseName::Token(token)));
        // Too late.
        assert!(!leases.unwait(2, b"key", 2));
        assert_eq!(told(&leases), [(2, 2)]);
    }

    #[test]
    fn writes_do_not_look_for_those_who_wait_for_permits() {
        let leases = Leases::default();
        let (request, at) = (LockRequest { ticket: 1, permits: 1, ttl_ms: None }, Recipient { worker: 0, place: 0 });
        let Ok(LockAnswer::Granted(token)) = leases.take_permit(1, b"x", request, None) else { panic!("not granted") };
        assert_eq!(leases.take_permit(2, b"x", request, Some(at)), Ok(LockAnswer::Pending));
        assert_eq!(leases.take_permit(3, b"x", request, Some(at)), Ok(LockAnswer::Pending));
        assert_eq!((leases.waiters(), leases.has_waiters()), (2, false));
        leases.wait_for_change(waiter(4, 1), b"key").unwrap();
        assert!(leases.has_waiters());
        leases.note_written(b"other");
        assert!(!leases.has_to_tell());
        leases.note_written(b"key");
        assert_eq!(told(&leases), [(4, 1)]);
        assert!(!leases.has_waiters());
        // Whatever the same ticket is used for next ends what it was used for before.
        leases.wait_for_change(waiter(2, 1), b"key").unwrap();
        assert!(leases.unwait(2, b"key", 1) && !leases.unwait(2, b"key", 1));
        assert!(leases.give_permit_back(1, b"x", LeaseName::Token(token)));
        assert_eq!(told(&leases), [(3, 1)]);
        leases.end(3);
        assert_eq!((leases.permits(), leases.waiters(), leases.has_waiters()), (0, 0, false));
    }

    #[test]
    fn parties_count_no_more_when_their_connection_ends() {
        let leases = Leases::default();
        let party = |connection, ticket| Waiter { awaited: Awaited::Parties, ..waiter(connection, ticket) };
        assert!((1..=100).all(|ticket| leases.come(party(1, ticket), b"x", 200) == Ok(Standing::Waits(200 - ticket))));
        assert_eq!((leases.waiters(), leases.has_waiters()), (100, false), "no write concerns them");
        leases.end(1);
        // At once, though their memory is still to be freed; and it may end once more.
        assert!(leases.has_ended() && leases.waiters() > 1);
        assert!(matches!(leases.come(party(3, 1), b"x", 200), Ok(Standing::Waits(199))));
        leases.end(1);
        assert_eq!((leases.parties_waiting(b"x"), leases.leave(3, b"x", 1)), (1, Some(Standing::Waits(199))));
        assert_eq!((leases.parties_waiting(b"x"), leases.come(party(2, 7), b"x", 3)), (0, Ok(Standing::Waits(2))));
        while leases.tend() {}
        // One that says something else than before is refused, and stays.
        assert!(leases.come(party(2, 7), b"x", 4).is_err());
        assert_eq!(leases.parties_waiting(b"x"), 1);
        // What it came with before is the same party, and a lock that it asks for with its ticket is another thing.
        assert_eq!(leases.come(party(2, 7), b"x", 3), Ok(Standing::Waits(2)));
        assert_eq!((leases.parties_waiting(b"x"), leases.waiters()), (1, 1));
        let request = LockRequest { ticket: 7, permits: 1, ttl_ms: None };
        assert!(matches!(leases.take_permit(2, b"x", request, None), Ok(LockAnswer::Granted(_))));
        assert_eq!((leases.leave(2, b"x", 7), leases.parties_waiting(b"x"), leases.waiters()), (None, 0, 0));
        // One that leaves when all have come is told by that, and by nothing else.
        leases.come(party(2, 7), b"x", 2).unwrap();
        assert_eq!(leases.come(party(3, 7), b"x", 2), Ok(Standing::Passed(0)));
        assert_eq!((leases.leave(2, b"x", 7), leases.leave(2, b"x", 7)), (Some(Standing::Passed(1)), None));
        assert_eq!((told(&leases), leases.waiters()), (vec![], 0));
    }

    #[test]
    fn a_written_key_ends_the_waits_and_not_the_lease() {
        let leases = Leases::default();
        let token = granted(&leases, 1, b"key");
        assert!(!leases.has_waiters());
        leases.note_written(b"key");
        assert_eq!(leases.wait(waiter(2, 1), b"key", token), Ok(true));
        assert!(leases.has_waiters());
        leases.note_written(b"other");
        assert!(!leases.has_to_tell());
        leases.note_written(b"key");
        // It waits for what comes next.
        assert_eq!(leases.wait(waiter(3, 1), b"key", token), Ok(true));
        assert_eq!((told(&leases), leases.count()), (vec![(2, 1)], 1));
        assert_eq!(leases.grant(2, b"key", 0, 0), Ok(LeaseAnswer::Taken(token)));
        assert!(leases.give_back(1, b"key", LeaseName::Token(token)));
        assert_eq!(told(&leases), [(3, 1)]);
    }

    #[test]
    fn they_are_bounded_in_number_and_in_size() {
        let leases = Leases::default();
        for index in 0..limits::LEASES_MAX {
            granted(&leases, 1, &index.to_ne_bytes());
        }
        assert!(leases.grant(1, b"one more", 0, 0).is_err_and(|Refusal(words)| words.contains("16384")));
        leases.end(1);
        // Those that are still here are nobody's.
        let rest = leases.count();
        granted(&leases, 2, &(limits::LEASES_MAX - 1).to_ne_bytes());
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
            granted(&leases, 1, &long(index));
        }
        assert!(leases.grant(1, &long(fit), 0, 0).is_err());
        // Few at once: each takes as long as many short ones.
        leases.end(1);
        assert_eq!(leases.count(), fit - REMOVED_SIZE_MAX.div_ceil(limits::KEY_SIZE_MAX));
        while leases.tend() {}
        granted(&leases, 1, &long(fit));
    }
}
