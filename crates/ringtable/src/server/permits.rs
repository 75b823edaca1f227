//! Permits: locks and semaphores. A name has as many as its first holder says; a lock is a name with one.
//!
//! # Design
//!
//! A permit is a connection's, as a lease is, and ends with it, or when its time to live is over. Whoever finds none
//! free may join the queue of the name: it is a waiter ([`super::waiters`]) in a group of its own, and the numbers of
//! groups are the order of the queue. Whatever frees a permit hands it to the first of the queue in the same step, with
//! a token, and has that one told. So nobody overtakes, and nothing is free that somebody waits for.
//!
//! # Invariants
//!
//! - A name never has more holders than permits.
//! - If a name has a queue, all its permits are taken.
//! - A token is higher than all tokens before, so that it is a fencing token. One counter gives them; a clock decides
//!   only where that of another table begins.
//! - A name that nobody holds is nowhere. Holders and names are bounded: [`limits::LOCKS_MAX`],
//!   [`limits::LOCK_NAMES_SIZE_MAX`]; those in queues are waiters, and bounded as such.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::grants::{Adopted, Found, Grants, Name, Record, Slot};
#[cfg(test)]
use super::grants::{GrantMemory, PERMITS};
use super::waiters::{Waiter, Waiters};
use crate::command::{LeaseName, LockAnswer, LockRequest, Refusal, shown};
use crate::limits;

#[derive(Clone, Copy)]
struct Holder {
    connection: u64,
    ticket: u64,
    /// When its time to live is over, by the monotonic clock.
    ends_ns: Option<u64>,
    /// Where it is kept.
    slot: Slot,
}

struct Place {
    name: Arc<[u8]>,
    /// What records say of the name.
    kept: Name,
    permits: u64,
    /// By token.
    holders: BTreeMap<u64, Holder>,
    /// The group of each waiter, and the time to live that it asks for.
    queue: BTreeMap<u64, Option<u64>>,
}

impl Place {
    fn new(name: &Arc<[u8]>, kept: Name, permits: u64) -> Self {
        Self { name: Arc::clone(name), kept, permits, holders: BTreeMap::new(), queue: BTreeMap::new() }
    }

    /// What is kept of a holder. There are [`limits::LOCKS_MAX`] permits at most.
    fn record(&self, connection: u64, token: u64, ticket: u64, ends_ns: Option<u64>) -> Record {
        Record { connection, token, ticket, permits: self.permits as u32, ends_ns, name: self.kept }
    }
}

/// All permits of a server.
pub(super) struct Permits {
    grants: Grants,
    places: HashMap<Arc<[u8]>, Place>,
    /// By connection and token: what ends with a connection.
    by_connection: BTreeMap<(u64, u64), Arc<[u8]>>,
    /// By time and token: what ends with time.
    ending: BTreeMap<(u64, u64), Arc<[u8]>>,
    /// The name that a group waits for.
    waiting: HashMap<u64, Arc<[u8]>>,
    /// Bytes of all names.
    names_size: usize,
}

impl Permits {
    /// Those of a new server: none.
    pub fn new(grants: Grants) -> Self {
        Self {
            grants,
            places: HashMap::new(),
            by_connection: BTreeMap::new(),
            ending: BTreeMap::new(),
            waiting: HashMap::new(),
            names_size: 0,
        }
    }

    /// Takes a permit, or joins the queue if `waiter` is there to be told. `is_gone` tells whether a connection has
    /// ended.
    ///
    /// # Errors
    /// If there are too many, or those who use the name do not agree on how many permits it has.
    pub fn take(
        &mut self,
        connection: u64,
        name: &[u8],
        request: LockRequest,
        waiter: Option<Waiter>,
        (waiters, is_gone): (&mut Waiters, &dyn Fn(u64) -> bool),
        now_ns: u64,
    ) -> Result<LockAnswer, Refusal> {
        let LockRequest { ticket, permits, ttl_ms } = request;
        // It waited at a server that handed it the permit, and died before it could say so.
        if waiter.is_some()
            && let Some(token) = self.token_of(connection, name, ticket, now_ns)
        {
            return Ok(LockAnswer::Granted(token));
        }
        // One whose memory is still to be freed keeps nobody out.
        if self.places.get(name).is_some_and(|place| place.holders.len() as u64 >= permits)
            && let Some(token) = self.first_gone(name, is_gone)
        {
            self.release(name, token, waiters, is_gone, now_ns);
        }
        let place = self.places.get_mut(name);
        let is_new = place.is_none();
        if let Some(place) = place {
            if place.permits != permits {
                return Err(Refusal::err(format_args!(
                    "'{}' has {} permits now, and {permits} were asked for: all who use a name have to agree",
                    shown(name),
                    place.permits
                )));
            }
            if place.holders.len() as u64 >= permits {
                let Some(waiter) = waiter else { return Ok(LockAnswer::Taken) };
                let mut group = None;
                waiters.join(&mut group, waiter)?;
                if let Some(group) = group {
                    self.waiting.insert(group, Arc::clone(&place.name));
                    place.queue.insert(group, ttl_ms);
                }
                return Ok(LockAnswer::Pending);
            }
        }
        let (count, size) = (self.by_connection.len(), self.names_size + if is_new { name.len() } else { 0 });
        if count >= limits::LOCKS_MAX || size > limits::LOCK_NAMES_SIZE_MAX {
            return Err(Refusal(format!(
                "LEASES {count} locks and permits of semaphores are held, and their names would have {size} bytes; at \
                 most {} with names of {} bytes are allowed: release some",
                limits::LOCKS_MAX,
                limits::LOCK_NAMES_SIZE_MAX
            )));
        }
        if is_new {
            self.names_size = size;
            let (kept, name) = (self.grants.keep_name(name), name.into());
            self.places.insert(Arc::clone(&name), Place::new(&name, kept, permits));
        }
        Ok(LockAnswer::Granted(self.grant(name, connection, ticket, ttl_ms, now_ns)))
    }

    /// The token that a connection has got for this ticket.
    fn token_of(&self, connection: u64, name: &[u8], ticket: u64, now_ns: u64) -> Option<u64> {
        self.holder(name, |holder| {
            let is_its = (holder.connection, holder.ticket) == (connection, ticket);
            is_its && holder.ends_ns.is_none_or(|ends_ns| ends_ns > now_ns)
        })
    }

    /// The token of a holder of this name whose connection has ended, if it has one.
    fn first_gone(&self, name: &[u8], is_gone: &dyn Fn(u64) -> bool) -> Option<u64> {
        self.holder(name, |holder| is_gone(holder.connection))
    }

    /// The token of the first holder of this name that is such a one.
    fn holder(&self, name: &[u8], is_it: impl Fn(&Holder) -> bool) -> Option<u64> {
        let place = self.places.get(name)?;
        place.holders.iter().find(|(_, holder)| is_it(holder)).map(|(&token, _)| token)
    }

    /// Gives a permit that is free, of a name that is there.
    fn grant(&mut self, name: &[u8], connection: u64, ticket: u64, ttl_ms: Option<u64>, now_ns: u64) -> u64 {
        let token = self.grants.next_token();
        let Some(place) = self.places.get_mut(name) else { return token };
        let ends_ns = ttl_ms.map(|ttl_ms| now_ns + ttl_ms * 1_000_000);
        let slot = self.grants.add(&place.record(connection, token, ticket, ends_ns), name);
        place.holders.insert(token, Holder { connection, ticket, ends_ns, slot });
        if let Some(ends_ns) = ends_ns {
            self.ending.insert((ends_ns, token), Arc::clone(&place.name));
        }
        self.by_connection.insert((connection, token), Arc::clone(&place.name));
        token
    }

    /// Frees a permit, and hands it to the first of the queue.
    fn release(
        &mut self,
        name: &[u8],
        token: u64,
        waiters: &mut Waiters,
        is_gone: &dyn Fn(u64) -> bool,
        now_ns: u64,
    ) -> bool {
        let Some(place) = self.places.get_mut(name) else { return false };
        let Some(holder) = place.holders.remove(&token) else { return false };
        self.grants.remove(holder.slot);
        self.by_connection.remove(&(holder.connection, token));
        if let Some(ends_ns) = holder.ends_ns {
            self.ending.remove(&(ends_ns, token));
        }
        let next = loop {
            let Some((group, ttl_ms)) = place.queue.pop_first() else { break None };
            self.waiting.remove(&group);
            match waiters.first_of(group) {
                Some((connection, ticket)) if !is_gone(connection) => break Some((group, connection, ticket, ttl_ms)),
                _ => {}
            }
        };
        match next {
            Some((group, connection, ticket, ttl_ms)) => {
                let token = self.grant(name, connection, ticket, ttl_ms, now_ns);
                waiters.answer(group, token);
            }
            None if place.holders.is_empty() => {
                self.grants.free_name(place.kept);
                self.places.remove(name);
                self.names_size -= name.len();
            }
            None => {}
        }
        true
    }

    /// Ends the permit of a connection that is named. Returns whether it had it.
    pub fn give_back(
        &mut self,
        connection: u64,
        name: &[u8],
        named: LeaseName,
        waiters: &mut Waiters,
        is_gone: &dyn Fn(u64) -> bool,
        now_ns: u64,
    ) -> bool {
        let found = self.places.get(name).and_then(|place| match named {
            LeaseName::Token(token) => place.holders.get(&token).map(|holder| (token, *holder)),
            LeaseName::Ticket(ticket) => {
                let is_it = |holder: &Holder| holder.connection == connection && holder.ticket == ticket;
                place.holders.iter().find(|(_, holder)| is_it(holder)).map(|(&token, holder)| (token, *holder))
            }
        });
        let Some((token, holder)) = found else { return false };
        // One whose time is over, and that is still here, is its holder's no more.
        let has_it = holder.connection == connection && holder.ends_ns.is_none_or(|ends_ns| ends_ns > now_ns);
        has_it && self.release(name, token, waiters, is_gone, now_ns)
    }

    /// Gives a permit of a connection a new time to live. Returns whether it has it.
    pub fn extend(&mut self, connection: u64, name: &[u8], token: u64, ttl_ms: u64, now_ns: u64) -> bool {
        if !self.has(connection, name, token, now_ns) {
            return false;
        }
        let Some(place) = self.places.get_mut(name) else { return false };
        let Some(&holder) = place.holders.get(&token) else { return false };
        let ends_ns = now_ns + ttl_ms * 1_000_000;
        self.grants.extend(holder.slot, &place.record(connection, token, holder.ticket, Some(ends_ns)));
        place.holders.insert(token, Holder { ends_ns: Some(ends_ns), ..holder });
        if let Some(before_ns) = holder.ends_ns {
            self.ending.remove(&(before_ns, token));
        }
        self.ending.insert((ends_ns, token), Arc::clone(&place.name));
        true
    }

    /// Whether a connection has the permit with this token.
    pub fn has(&self, connection: u64, name: &[u8], token: u64, now_ns: u64) -> bool {
        let holder = self.places.get(name).and_then(|place| place.holders.get(&token));
        holder.is_some_and(|holder| {
            holder.connection == connection && holder.ends_ns.is_none_or(|ends_ns| ends_ns > now_ns)
        })
    }

    /// How many permits of a name are taken.
    pub fn holders(&self, name: &[u8], is_gone: &dyn Fn(u64) -> bool, now_ns: u64) -> usize {
        let counts =
            |holder: &&Holder| !is_gone(holder.connection) && holder.ends_ns.is_none_or(|ends_ns| ends_ns > now_ns);
        self.places.get(name).map_or(0, |place| place.holders.values().filter(counts).count())
    }

    /// Takes one out of its queue that waits no more. Returns the bytes of the name that was looked up, if one was.
    pub fn forget(&mut self, group: u64) -> usize {
        let Some(name) = self.waiting.remove(&group) else { return 0 };
        if let Some(place) = self.places.get_mut(&name) {
            place.queue.remove(&group);
        }
        name.len()
    }

    /// Whether a group waits for this name.
    pub fn waits_for(&self, group: u64, name: &[u8]) -> bool {
        self.waiting.get(&group).is_some_and(|waited| **waited == *name)
    }

    /// Ends one permit of a connection that has ended. Returns the size of its name, if there was one.
    pub fn end_one(
        &mut self,
        connection: u64,
        waiters: &mut Waiters,
        is_gone: &dyn Fn(u64) -> bool,
        now_ns: u64,
    ) -> Option<usize> {
        let mut held = self.by_connection.range((connection, 0)..=(connection, u64::MAX));
        let (&(_, token), name) = held.next()?;
        let name = Arc::clone(name);
        self.release(&name, token, waiters, is_gone, now_ns).then_some(name.len())
    }

    /// Ends one permit whose time is over. Returns the size of its name, if there was one.
    pub fn expire_one(&mut self, waiters: &mut Waiters, is_gone: &dyn Fn(u64) -> bool, now_ns: u64) -> Option<usize> {
        let (&(ends_ns, token), name) = self.ending.first_key_value()?;
        let name = Arc::clone(name);
        (ends_ns <= now_ns && self.release(&name, token, waiters, is_gone, now_ns)).then_some(name.len())
    }

    /// When the next permit's time is over.
    pub fn next_end_ns(&self) -> Option<u64> {
        self.ending.first_key_value().map(|(&(ends_ns, _), _)| ends_ns)
    }

    /// How many are taken.
    pub fn count(&self) -> usize {
        self.by_connection.len()
    }
}

impl Permits {
    /// Those that another server has granted, and how many were damaged and are lost. Nobody is in a queue.
    pub fn adopt(adopted: Adopted) -> (Self, usize) {
        let mut permits = Self::new(adopted.grants);
        for Found { slot, record, name } in adopted.found {
            let Record { connection, token, ticket, ends_ns, .. } = record;
            let place = permits.places.entry(Arc::clone(&name)).or_insert_with(|| {
                permits.names_size += name.len();
                Place::new(&name, record.name, u64::from(record.permits))
            });
            place.holders.insert(token, Holder { connection, ticket, ends_ns, slot });
            if let Some(ends_ns) = ends_ns {
                permits.ending.insert((ends_ns, token), Arc::clone(&name));
            }
            permits.by_connection.insert((connection, token), name);
        }
        (permits, adopted.damaged)
    }

    /// The connections that hold any.
    pub fn connections(&self) -> impl Iterator<Item = u64> {
        self.by_connection.keys().map(|&(connection, _)| connection)
    }
}

#[cfg(test)]
impl Permits {
    /// All that is granted, and how many bytes the names have.
    pub fn granted_now(&self) -> (Vec<Found>, usize) {
        let holders = self.by_connection.iter().map(|(&(connection, token), name)| {
            let place = &self.places[name];
            let Holder { ticket, ends_ns, slot, .. } = place.holders[&token];
            assert!(ends_ns.is_none_or(|ends_ns| self.ending.contains_key(&(ends_ns, token))));
            Found { slot, record: place.record(connection, token, ticket, ends_ns), name: Arc::clone(name) }
        });
        let mut granted: Vec<Found> = holders.collect();
        granted.sort_by_key(|found| found.record.token);
        assert_eq!(granted.len(), self.places.values().map(|place| place.holders.len()).sum());
        (granted, self.names_size)
    }
}

#[cfg(test)]
impl Default for Permits {
    fn default() -> Self {
        Self::new(Grants::new(Arc::new(GrantMemory::create().expect("a segment").0), PERMITS))
    }
}

#[cfg(test)]
mod tests {
    use super::super::waiters::Awaited;
    use super::*;
    use crate::command::Recipient;

    const SECOND: u64 = 1_000_000_000;

    /// Permits, and those who wait for them; the connections that have ended.
    #[derive(Default)]
    struct World {
        permits: Permits,
        waiters: Waiters,
        ended: Vec<u64>,
        now_ns: u64,
    }

    impl World {
        fn take(&mut self, connection: u64, name: &str, request: LockRequest, waits: bool) -> LockAnswer {
            let (ticket, recipient) = (request.ticket, Some(Recipient { worker: 0, place: 0 }));
            let waiter = Waiter { connection, ticket, awaited: Awaited::Permit, recipient, answer: None };
            let waiter = waits.then_some(waiter);
            let Self { permits, waiters, ended, now_ns } = self;
            let is_gone = |other| ended.contains(&other);
            permits.take(connection, name.as_bytes(), request, waiter, (waiters, &is_gone), *now_ns).unwrap()
        }

        fn lock(&mut self, connection: u64) -> u64 {
            match self.take(connection, "x", lock(1), false) {
                LockAnswer::Granted(token) => token,
                other => panic!("not granted: {other:?}"),
            }
        }

        fn unlock(&mut self, connection: u64, named: LeaseName) -> bool {
            let Self { permits, waiters, ended, now_ns } = self;
            permits.give_back(connection, b"x", named, waiters, &|other| ended.contains(&other), *now_ns)
        }

        fn end(&mut self, connection: u64) {
            self.ended.push(connection);
            let Self { permits, waiters, ended, now_ns } = self;
            while permits.end_one(connection, waiters, &|other| ended.contains(&other), *now_ns).is_some() {}
        }

        /// Connection, ticket and token of those who are told.
        fn told(&mut self) -> Vec<(u64, u64, u64)> {
            let told = self.waiters.take(99).into_iter();
            told.map(|waiter| (waiter.connection, waiter.ticket, waiter.answer.unwrap())).collect()
        }
    }

    fn lock(ticket: u64) -> LockRequest {
        LockRequest { ticket, permits: 1, ttl_ms: None }
    }

    #[test]
    fn smoke() {
        let mut world = World::default();
        let token = world.lock(1);
        assert_eq!(world.take(2, "x", lock(1), false), LockAnswer::Taken);
        assert!(!world.unlock(2, LeaseName::Token(token)) && !world.unlock(1, LeaseName::Token(token + 1)));
        assert!(world.unlock(1, LeaseName::Token(token)) && !world.unlock(1, LeaseName::Token(token)));
        assert!(world.lock(2) > token);
    }

    #[test]
    fn it_is_handed_over_in_the_order_of_asking_with_higher_and_higher_tokens() {
        let mut world = World::default();
        let mut token = world.lock(9);
        // Not in the order of their numbers.
        let queue = [5, 3, 8, 1];
        for connection in queue {
            assert_eq!(world.take(connection, "x", lock(7), true), LockAnswer::Pending);
        }
        let mut holder = 9;
        for next in queue {
            assert_eq!(world.told(), []);
            assert!(world.unlock(holder, LeaseName::Token(token)));
            // Nobody overtakes.
            assert_eq!(world.take(2, "x", lock(1), false), LockAnswer::Taken);
            let told = world.told();
            assert_eq!(told, [(next, 7, told[0].2)]);
            assert!(told[0].2 > token);
            (holder, token) = (next, told[0].2);
            assert!(world.permits.has(holder, b"x", token, 0));
        }
        assert!(world.unlock(holder, LeaseName::Token(token)));
        assert!(world.permits.places.is_empty() && world.permits.waiting.is_empty() && world.permits.names_size == 0);
    }

    #[test]
    fn what_is_not_wanted_goes_on_to_the_next() {
        let mut world = World::default();
        let token = world.lock(1);
        for connection in [2, 3, 4] {
            assert_eq!(world.take(connection, "x", lock(7), true), LockAnswer::Pending);
        }
        // One leaves the queue, and one has been granted it without hearing of it.
        let group = world.waiters.group_of(2, 7).unwrap();
        assert!(world.waiters.leave(2, 7).is_some() && world.permits.forget(group) == 1);
        assert!(world.unlock(1, LeaseName::Token(token)));
        assert!(world.unlock(3, LeaseName::Ticket(7)) && !world.unlock(3, LeaseName::Ticket(7)));
        assert_eq!(world.told().iter().map(|told| told.0).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(world.permits.count(), 1);
    }

    /// Those that wait ask again when their server has died, perhaps behind the handing over.
    #[test]
    fn what_was_handed_over_is_found_by_its_ticket() {
        for permits in [1, 2] {
            let mut world = World::default();
            let request = |ticket| LockRequest { permits, ..lock(ticket) };
            let first: Vec<_> = (1..=permits).map(|ticket| world.take(1, "x", request(ticket), false)).collect();
            assert_eq!(world.take(2, "x", request(7), true), LockAnswer::Pending);
            for answer in first {
                let LockAnswer::Granted(token) = answer else { panic!("not granted") };
                assert!(world.unlock(1, LeaseName::Token(token)));
            }
            let token = world.told()[0].2;
            assert_eq!(world.take(2, "x", request(7), true), LockAnswer::Granted(token));
            assert_eq!(world.permits.count(), 1);
            // Another request is another permit.
            assert_eq!(world.take(2, "x", request(8), false) == LockAnswer::Taken, permits == 1);
        }
    }

    #[test]
    fn those_that_have_ended_have_nothing_and_get_nothing() {
        let mut world = World::default();
        world.lock(1);
        for connection in [2, 3] {
            assert_eq!(world.take(connection, "x", lock(7), true), LockAnswer::Pending);
        }
        world.ended.push(2);
        world.end(1);
        assert_eq!(world.told().iter().map(|told| told.0).collect::<Vec<_>>(), [3]);
        // One whose memory is still to be freed keeps nobody out.
        world.ended.push(3);
        assert_eq!(world.permits.holders(b"x", &|other| world.ended.contains(&other), 0), 0);
        world.lock(4);
        assert_eq!(world.permits.count(), 1);
    }

    #[test]
    fn time_ends_those_that_have_some() {
        let mut world = World::default();
        let request = LockRequest { ttl_ms: Some(1_000), ..lock(1) };
        let LockAnswer::Granted(token) = world.take(1, "x", request, false) else { panic!("not granted") };
        assert_eq!(world.take(2, "x", lock(7), true), LockAnswer::Pending);
        assert_eq!(world.permits.next_end_ns(), Some(SECOND));
        assert!(world.permits.extend(1, b"x", token, 2_000, SECOND - 1));
        assert!(!world.permits.extend(2, b"x", token, 2_000, SECOND - 1));
        let expire =
            |world: &mut World, now_ns| world.permits.expire_one(&mut world.waiters, &|_| false, now_ns).is_some();
        assert!(!expire(&mut world, 3 * SECOND - 2) && world.permits.has(1, b"x", token, 3 * SECOND - 2));
        // From then on it is nobody's, though nobody has looked.
        world.now_ns = 3 * SECOND - 1;
        assert!(!world.permits.has(1, b"x", token, world.now_ns) && !world.unlock(1, LeaseName::Token(token)));
        assert!(!world.permits.extend(1, b"x", token, 1, world.now_ns));
        let now_ns = world.now_ns;
        assert!(expire(&mut world, now_ns) && !expire(&mut world, now_ns));
        assert_eq!(world.told().iter().map(|told| told.0).collect::<Vec<_>>(), [2]);
        assert_eq!(world.permits.next_end_ns(), None);
    }

    #[test]
    fn a_name_has_as_many_permits_as_its_first_holder_says() {
        let mut world = World::default();
        let request = |ticket| LockRequest { permits: 3, ..lock(ticket) };
        for ticket in 1..=3 {
            assert!(matches!(world.take(1, "x", request(ticket), false), LockAnswer::Granted(_)));
        }
        assert_eq!(world.take(1, "x", request(4), false), LockAnswer::Taken);
        let waiters = &mut world.waiters;
        let refused = world.permits.take(1, b"x", lock(5), None, (waiters, &|_| false), 0);
        assert!(refused.is_err_and(|Refusal(words)| words.contains("3 permits now, and 1 were asked for")));
        assert!(world.unlock(1, LeaseName::Ticket(2)));
        assert!(matches!(world.take(2, "x", request(1), false), LockAnswer::Granted(_)));
        assert_eq!(world.permits.holders(b"x", &|_| false, 0), 3);
    }

    #[test]
    fn they_are_bounded_in_number_and_in_size() {
        let mut permits = Permits::default();
        let mut waiters = Waiters::default();
        let mut take = |permits: &mut Permits, name: &[u8]| {
            permits.take(1, name, lock(1), None, (&mut waiters, &|_| false), 0).is_ok()
        };
        assert!((0..limits::LOCKS_MAX).all(|index| take(&mut permits, &index.to_ne_bytes())));
        assert!(!take(&mut permits, b"one more"));
        let mut permits = Permits::default();
        let long = |index: usize| [&index.to_ne_bytes()[..], &[0; limits::KEY_SIZE_MAX - 8]].concat();
        let fit = limits::LOCK_NAMES_SIZE_MAX / limits::KEY_SIZE_MAX;
        assert!((0..fit).all(|index| take(&mut permits, &long(index))));
        assert!(!take(&mut permits, &long(fit)));
    }
}
