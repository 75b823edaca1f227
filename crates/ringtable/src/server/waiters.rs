//! Waiters: connections that are to be told when a lease is over, when a key was written, when a permit is theirs, or
//! when all have come to a barrier.
//!
//! # Design
//!
//! Nobody waits here: a waiter is a few words that say whom to tell. Those who wait for one lease are a **group**,
//! whose number the lease has. When the lease is over, its group is put among those that are over, whatever their
//! number is: a few steps of a search tree. Workers take them out later, some at a time ([`Waiters::take`]), and tell
//! them. A key that was written ends the group, too, though not the lease: who waits for that from then on is in
//! another group.
//!
//! A connection that nothing can be pushed to is told nothing. Once its group is over, its answer is kept until it asks
//! for that.
//!
//! A connection has one wait for each of its tickets, and its waits end with it. Whether anybody waits for a key, and
//! whether anybody is to be told, is seen without a lock ([`Hints`]).
//!
//! # Invariants
//!
//! - A waiter is in one group, until it is taken, gives up, or its connection ends. So it is told once at most.
//! - Waiters are bounded: [`limits::LEASE_WAITERS_MAX`], of one connection
//!   [`limits::LEASE_WAITERS_PER_CONNECTION_MAX`]. A group that nobody is in any more is nowhere.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::command::{Recipient, Refusal};
use crate::limits;

/// The group of those whose answers are kept until they ask for them. It is never over.
const ASKING: u64 = 0;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// A key that is to change, or its lease: writes look for those that wait for it.
    Key,
    Permit,
    /// Other parties at a barrier.
    Parties,
}

/// Who waits, and for what answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    /// The number of the connection, which no other one has or had.
    pub connection: u64,
    /// The name of the answer, which the connection has chosen.
    pub ticket: u64,
    pub awaited: Awaited,
    /// Where the connection is, if it still is there; `None` if it asks instead of being told.
    pub recipient: Option<Recipient>,
    /// What it is told: a number, or that it is so.
    pub answer: Option<u64>,
}

/// Where somebody is who waits, and the answer once there is one.
#[derive(Clone, Copy)]
struct Waiting {
    awaited: Awaited,
    recipient: Option<Recipient>,
    answer: Option<u64>,
}

/// What can be known of the waiters without the lock.
///
/// Relaxed, all of it. A worker that has ended a wait sees it when it looks itself, before it sleeps; and of a write
/// and a wait that begins at the same instant either may miss the other.
#[derive(Default)]
pub(super) struct Hints {
    waiters: AtomicUsize,
    for_keys: AtomicUsize,
    groups_over: AtomicUsize,
}

impl Hints {
    /// How many wait, those included that are to be told.
    #[inline]
    pub fn waiters(&self) -> usize {
        self.waiters.load(Ordering::Relaxed)
    }

    /// Whether any of them wait for a key, or its lease.
    #[inline]
    pub fn are_some_for_keys(&self) -> bool {
        self.for_keys.load(Ordering::Relaxed) > 0
    }

    /// Whether there are some to tell.
    #[inline]
    pub fn are_some_over(&self) -> bool {
        self.groups_over.load(Ordering::Relaxed) > 0
    }
}

/// All waiters of a server.
#[derive(Default)]
pub(super) struct Waiters {
    /// By group, connection and ticket.
    by_group: BTreeMap<(u64, u64, u64), Waiting>,
    /// The group of each ticket of a connection.
    by_connection: HashMap<u64, BTreeMap<u64, u64>>,
    /// Groups that are to be told, none of them empty.
    over: BTreeSet<u64>,
    /// Groups that there ever were.
    groups: u64,
    /// How many wait for keys.
    for_keys: usize,
    hints: Arc<Hints>,
}

impl Waiters {
    /// What can be known of them without the lock.
    pub fn hints(&self) -> Arc<Hints> {
        Arc::clone(&self.hints)
    }

    /// Lets one wait, in the group that a lease has, or gets. A wait that the connection has begun with this ticket
    /// before ends, untold.
    ///
    /// # Errors
    /// If there are too many.
    pub fn join(&mut self, group: &mut Option<u64>, waiter: Waiter) -> Result<(), Refusal> {
        let Waiter { connection, ticket, .. } = waiter;
        self.leave(connection, ticket);
        let (all, own) = (self.by_group.len(), self.by_connection.get(&connection).map_or(0, BTreeMap::len));
        let (all_max, own_max) = (limits::LEASE_WAITERS_MAX, limits::LEASE_WAITERS_PER_CONNECTION_MAX);
        if all >= all_max || own >= own_max {
            return Err(Refusal(format!(
                "LEASES {all} calls wait for others, {own} of them over this connection; at most {all_max} may, \
                 {own_max} of them over one connection: ask again later"
            )));
        }
        let group = *group.get_or_insert_with(|| {
            self.groups += 1;
            self.groups
        });
        self.insert(group, waiter);
        Ok(())
    }

    fn insert(&mut self, group: u64, waiter: Waiter) {
        let Waiter { connection, ticket, awaited, recipient, answer } = waiter;
        self.by_group.insert((group, connection, ticket), Waiting { awaited, recipient, answer });
        self.by_connection.entry(connection).or_default().insert(ticket, group);
        self.for_keys += usize::from(awaited == Awaited::Key);
        self.note();
    }

    /// The group that a connection waits in with this ticket, if it does.
    pub fn group_of(&self, connection: u64, ticket: u64) -> Option<u64> {
        self.by_connection.get(&connection)?.get(&ticket).copied()
    }

    /// What a connection waits for with this ticket, in which group, and what it will be told; if it does wait.
    pub fn find(&self, connection: u64, ticket: u64) -> Option<(u64, Awaited, Option<u64>)> {
        let group = self.group_of(connection, ticket)?;
        let Waiting { awaited, answer, .. } = self.by_group.get(&(group, connection, ticket))?;
        Some((group, *awaited, *answer))
    }

    /// Lets a connection wait no more with this ticket. Who it was, if it did wait.
    pub fn leave(&mut self, connection: u64, ticket: u64) -> Option<Waiter> {
        let tickets = self.by_connection.get_mut(&connection)?;
        let group = tickets.remove(&ticket)?;
        if tickets.is_empty() {
            self.by_connection.remove(&connection);
        }
        let Waiting { awaited, recipient, answer } = self.by_group.remove(&(group, connection, ticket))?;
        if self.first_of(group).is_none() {
            self.over.remove(&group);
        }
        self.for_keys -= usize::from(awaited == Awaited::Key);
        self.note();
        Some(Waiter { connection, ticket, awaited, recipient, answer })
    }

    /// Some ticket that a connection waits with.
    pub fn ticket_of(&self, connection: u64) -> Option<u64> {
        self.by_connection.get(&connection).and_then(|tickets| tickets.keys().next().copied())
    }

    /// Has the one in a group told this token.
    pub fn answer(&mut self, group: u64, token: u64) {
        if let Some((connection, ticket)) = self.first_of(group)
            && let Some(waiting) = self.by_group.get_mut(&(group, connection, ticket))
        {
            waiting.answer = Some(token);
            self.end(group);
        }
    }

    /// Has all of a group told.
    pub fn end(&mut self, group: u64) {
        if self.first_of(group).is_some() {
            self.over.insert(group);
            self.note();
        }
    }

    /// Takes some out that are to be told, and keeps the answers of those that ask: `most` of them all at most.
    pub fn take(&mut self, most: usize) -> Vec<Waiter> {
        let mut taken = Vec::new();
        for _ in 0..most {
            let next = self.over.first().and_then(|&group| self.first_of(group));
            let Some(waiter) = next.and_then(|(connection, ticket)| self.leave(connection, ticket)) else { break };
            if waiter.recipient.is_some() {
                taken.push(waiter);
            } else {
                self.insert(ASKING, waiter);
            }
        }
        taken
    }

    /// Connections and tickets of all who are in a group.
    pub fn members(&self, group: u64) -> impl Iterator<Item = (u64, u64)> {
        let members = self.by_group.range((group, 0, 0)..=(group, u64::MAX, u64::MAX));
        members.map(|(&(_, connection, ticket), _)| (connection, ticket))
    }

    /// Connection and ticket of one who is in a group.
    pub fn first_of(&self, group: u64) -> Option<(u64, u64)> {
        let (&(_, connection, ticket), _) = self.by_group.range((group, 0, 0)..=(group, u64::MAX, u64::MAX)).next()?;
        Some((connection, ticket))
    }

    fn note(&self) {
        self.hints.waiters.store(self.by_group.len(), Ordering::Relaxed);
        self.hints.for_keys.store(self.for_keys, Ordering::Relaxed);
        self.hints.groups_over.store(self.over.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(connection: u64, ticket: u64) -> Waiter {
        let recipient = Some(Recipient { worker: 0, place: connection as usize });
        Waiter { connection, ticket, awaited: Awaited::Key, recipient, answer: None }
    }

    fn names(taken: Vec<Waiter>) -> Vec<(u64, u64)> {
        taken.into_iter().map(|Waiter { connection, ticket, .. }| (connection, ticket)).collect()
    }

    #[test]
    fn smoke() {
        let (mut waiters, mut group) = (Waiters::default(), None);
        let hints = waiters.hints();
        waiters.join(&mut group, waiter(1, 7)).unwrap();
        assert_eq!((hints.waiters(), hints.are_some_over()), (1, false));
        assert_eq!(waiters.take(9), []);
        waiters.end(group.unwrap());
        assert_eq!((hints.waiters(), hints.are_some_over()), (1, true));
        assert_eq!(waiters.take(9), [waiter(1, 7)]);
        assert_eq!((hints.waiters(), hints.are_some_over()), (0, false));
    }

    #[test]
    fn they_are_taken_some_at_a_time_and_each_once() {
        let (mut waiters, mut groups) = (Waiters::default(), [None; 3]);
        for connection in 0..30 {
            waiters.join(&mut groups[connection as usize % 3], waiter(connection, 1)).unwrap();
        }
        let [first, second, _] = groups.map(Option::unwrap);
        waiters.end(second);
        waiters.end(first);
        waiters.end(first);
        let mut all = Vec::new();
        for size in [7, 7, 6, 0] {
            let taken = waiters.take(7);
            assert_eq!(taken.len(), size);
            all.extend(names(taken));
        }
        all.sort_unstable();
        let expected: Vec<_> =
            (0..30).filter(|connection| connection % 3 < 2).map(|connection| (connection, 1)).collect();
        assert_eq!(all, expected);
        assert_eq!(waiters.hints().waiters(), 10);
    }

    #[test]
    fn the_answers_of_those_that_ask_are_kept_for_them() {
        let (mut waiters, mut group) = (Waiters::default(), None);
        let asking = |connection| Waiter {
            awaited: Awaited::Parties,
            recipient: None,
            answer: Some(connection),
            ..waiter(connection, 7)
        };
        for connection in 1..=5 {
            let comer = if connection == 3 { waiter(3, 7) } else { asking(connection) };
            waiters.join(&mut group, comer).unwrap();
        }
        let hints = waiters.hints();
        assert!(hints.are_some_for_keys());
        waiters.end(group.unwrap());
        // Some at a time: those that ask are as much work as others.
        assert_eq!((waiters.take(2), hints.are_some_over()), (vec![], true));
        assert_eq!((waiters.take(9), hints.are_some_over()), (vec![waiter(3, 7)], false));
        assert_eq!((hints.waiters(), hints.are_some_for_keys()), (4, false));
        assert_eq!(waiters.find(5, 7), Some((ASKING, Awaited::Parties, Some(5))));
        assert_eq!(waiters.leave(5, 7), Some(asking(5)));
        waiters.leave(1, 7);
        assert_eq!((waiters.find(1, 7), waiters.take(9)), (None, vec![]));
    }

    #[test]
    fn a_ticket_names_one_wait() {
        let (mut waiters, mut one, mut other) = (Waiters::default(), None, None);
        waiters.join(&mut one, waiter(1, 7)).unwrap();
        waiters.join(&mut one, waiter(1, 7)).unwrap();
        waiters.join(&mut other, waiter(1, 7)).unwrap();
        assert_eq!(waiters.group_of(1, 7), other);
        waiters.end(one.unwrap());
        assert_eq!(waiters.take(9), []);
        // Also if it is to be told already.
        waiters.end(other.unwrap());
        waiters.join(&mut one, waiter(1, 7)).unwrap();
        assert_eq!(waiters.take(9), []);
        assert!(!waiters.hints().are_some_over());
        assert_eq!((waiters.leave(1, 8), waiters.leave(2, 7)), (None, None));
        assert!(waiters.leave(1, 7).is_some() && waiters.leave(1, 7).is_none());
    }

    #[test]
    fn nothing_is_left_of_those_who_leave() {
        let (mut waiters, mut group) = (Waiters::default(), None);
        for ticket in 1..=100 {
            waiters.join(&mut group, waiter(1, ticket)).unwrap();
        }
        waiters.join(&mut group, waiter(2, 1)).unwrap();
        waiters.end(group.unwrap());
        let mut left = 0;
        while let Some(ticket) = waiters.ticket_of(1) {
            assert!(waiters.leave(1, ticket).is_some());
            left += 1;
        }
        assert_eq!((left, names(waiters.take(9))), (100, vec![(2, 1)]));
        assert!(waiters.by_group.is_empty() && waiters.by_connection.is_empty() && waiters.over.is_empty());
    }

    #[test]
    fn they_are_bounded() {
        let (mut waiters, mut group) = (Waiters::default(), None);
        let own_max = limits::LEASE_WAITERS_PER_CONNECTION_MAX as u64;
        for connection in 0..limits::LEASE_WAITERS_MAX as u64 / own_max {
            for ticket in 1..=own_max {
                waiters.join(&mut group, waiter(connection, ticket)).unwrap();
            }
            let Refusal(words) = waiters.join(&mut group, waiter(connection, own_max + 1)).unwrap_err();
            assert!(words.starts_with("LEASES ") && words.contains(&format!(" {own_max} of them over one")), "{words}");
            waiters.join(&mut group, waiter(connection, own_max)).expect("it takes the place of itself");
        }
        assert!(waiters.join(&mut group, waiter(u64::MAX, 1)).is_err());
        assert_eq!(waiters.group_of(u64::MAX, 1), None);
        waiters.leave(0, 1);
        waiters.join(&mut group, waiter(u64::MAX, 1)).unwrap();
    }
}
