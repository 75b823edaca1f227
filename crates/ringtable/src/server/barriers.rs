//! Barriers: names at which so many parties wait for each other.
//!
//! # Design
//!
//! Those that wait at a name are waiters ([`super::waiters`]) in one group, which is a generation of the barrier. The
//! party that comes last ends the group in the same step, whatever its size is, and workers tell its members some at a
//! time. With that the name is free: whoever comes next begins another group.
//!
//! A party is a connection and a ticket. One that asks again with its ticket, since nothing can be pushed to it, is the
//! same party, and has its answer once its group is over. One that leaves learns whether it has passed meanwhile: its
//! group is no name's any more then.
//!
//! # Invariants
//!
//! - Those that wait at a name are fewer than its parties. Parties of connections that have ended count no more, though
//!   they may still be here.
//! - A name that nobody waits at is nowhere.
//! - Parties are waiters, and bounded as such. The bytes of all names are: [`limits::BARRIER_NAMES_SIZE_MAX`].

use std::collections::HashMap;

use super::group_names::GroupNames;
use super::passed::Passed;
use super::waiters::{Awaited, Waiter, Waiters};
use crate::command::{Refusal, Standing, shown};
use crate::limits;

struct Place {
    /// How many are to come.
    parties: u64,
    /// How many of each connection are here.
    here: HashMap<u64, usize>,
    count: usize,
}

impl Place {
    /// How many wait that are still there.
    fn waiting(&self, ended: &[u64]) -> u64 {
        let gone: usize = ended.iter().filter_map(|connection| self.here.get(connection)).sum();
        (self.count - gone) as u64
    }

    fn agrees(&self, name: &[u8], parties: u64) -> Result<(), Refusal> {
        if self.parties == parties {
            return Ok(());
        }
        Err(Refusal::err(format_args!(
            "'{}' has {} parties now, and {parties} were asked for: all who use a name have to agree",
            shown(name),
            self.parties
        )))
    }
}

/// All barriers of a server at which somebody waits.
#[derive(Default)]
pub(super) struct Barriers {
    names: GroupNames,
    /// By group.
    places: HashMap<u64, Place>,
    /// Where it is noted who has passed, if another server may go on with these parties.
    passed: Option<Passed>,
    /// Parties that have passed before this server was there, and may not know it.
    passed_before: HashMap<(u64, u64), u64>,
}

impl Barriers {
    /// Notes there who passes from now on, and knows who has passed before.
    pub fn remember(&mut self, passed: Passed) {
        self.passed_before = passed.found();
        self.passed = Some(passed);
    }

    /// Lets a party come, which waits nowhere with its ticket. It is told how many were still to come; or what its
    /// answer says, if it has one from before. `ended` are connections that have ended.
    ///
    /// # Errors
    /// If too many wait, or those who use the name do not agree on how many parties it has.
    pub fn come(
        &mut self,
        party: Waiter,
        name: &[u8],
        parties: u64,
        waiters: &mut Waiters,
        ended: &[u64],
    ) -> Result<Standing, Refusal> {
        let (mut group, mut waiting) = (self.names.group_at(name), 0);
        if let Some((there, place)) = group.and_then(|group| Some((group, self.places.get(&group)?))) {
            waiting = place.waiting(ended);
            if waiting == 0 {
                // Those that are left are nobody's.
                self.remove(there);
                group = None;
            } else {
                place.agrees(name, parties)?;
            }
        }
        let missing = parties.saturating_sub(waiting + 1);
        if missing == 0 {
            if let Some(group) = group {
                self.remove(group);
                if let Some(passed) = &self.passed {
                    // Before anybody is told, or answered.
                    let told = |(connection, ticket)| {
                        let missing = waiters.find(connection, ticket).and_then(|(_, _, missing)| missing);
                        (connection, ticket, missing.unwrap_or(0))
                    };
                    let last = (party.connection, party.ticket, 0);
                    passed.note(waiters.members(group).map(told).chain([last]));
                }
                waiters.end(group);
            }
            return Ok(Standing::Passed(0));
        }
        let (is_new, size) = (group.is_none(), self.names.size_with(name));
        if is_new && size > limits::BARRIER_NAMES_SIZE_MAX {
            return Err(Refusal(format!(
                "LEASES the names of barriers at which somebody waits would have {size} bytes; at most {} are \
                 allowed: ask again later",
                limits::BARRIER_NAMES_SIZE_MAX
            )));
        }
        let missing = party.answer.unwrap_or(missing);
        waiters.join(&mut group, Waiter { answer: Some(missing), ..party })?;
        if let Some(group) = group {
            if is_new {
                self.names.insert(name, group);
            }
            let place = self.places.entry(group).or_insert_with(|| Place { parties, here: HashMap::new(), count: 0 });
            place.count += 1;
            *place.here.entry(party.connection).or_default() += 1;
        }
        Ok(Standing::Waits(missing))
    }

    /// How the party that a connection has come to this name with stands, if its answer is still here. The name of one
    /// that has passed is not known any more.
    pub fn find(&self, connection: u64, ticket: u64, name: &[u8], waiters: &Waiters) -> Option<Standing> {
        if let Some(&missing) = self.passed_before.get(&(connection, ticket)) {
            return Some(Standing::Passed(missing));
        }
        let (group, Awaited::Parties, Some(missing)) = waiters.find(connection, ticket)? else { return None };
        match self.names.name_of(group) {
            None => Some(Standing::Passed(missing)),
            Some(waited) if waited == name => Some(Standing::Waits(missing)),
            Some(_) => None,
        }
    }

    /// Refuses what one that waits at a name says of its parties, if it is another number than it said before.
    ///
    /// # Errors
    /// If it is.
    pub fn check_again(&self, name: &[u8], parties: u64) -> Result<(), Refusal> {
        self.at(name).map_or(Ok(()), |place| place.agrees(name, parties))
    }

    /// How many wait at a name.
    pub fn waiting(&self, name: &[u8], ended: &[u64]) -> u64 {
        self.at(name).map_or(0, |place| place.waiting(ended))
    }

    fn at(&self, name: &[u8]) -> Option<&Place> {
        self.places.get(&self.names.group_at(name)?)
    }

    /// Takes note that one of a group waits no more. Returns the bytes of the name that was looked up, if one was.
    pub fn forget(&mut self, group: u64, connection: u64) -> usize {
        let Some(place) = self.places.get_mut(&group) else { return 0 };
        place.count -= 1;
        if let Some(own) = place.here.get_mut(&connection) {
            *own -= 1;
            if *own == 0 {
                place.here.remove(&connection);
            }
        }
        let size = self.names.name_of(group).map_or(0, <[u8]>::len);
        if place.count == 0 {
            self.remove(group);
        }
        size
    }

    /// Lets nobody wait at a name any more.
    fn remove(&mut self, group: u64) {
        self.places.remove(&group);
        self.names.remove(group);
    }
}

#[cfg(test)]
mod tests {
    use super::super::passed::PASSED_WORDS;
    use super::*;
    use crate::command::Recipient;
    use crate::shm::segment::Segment;
    use crate::sync::Arc;

    #[derive(Default)]
    struct World {
        barriers: Barriers,
        waiters: Waiters,
        ended: Vec<u64>,
    }

    impl World {
        /// A connection comes with a ticket that is its own number.
        fn come(&mut self, connection: u64, name: &str, parties: u64) -> Result<Standing, Refusal> {
            let recipient = Some(Recipient { worker: 0, place: 0 });
            let party = Waiter { connection, ticket: connection, awaited: Awaited::Parties, recipient, answer: None };
            self.barriers.come(party, name.as_bytes(), parties, &mut self.waiters, &self.ended)
        }

        fn leave(&mut self, connection: u64) {
            let (group, ..) = self.waiters.find(connection, connection).expect("it waits");
            self.waiters.leave(connection, connection);
            self.barriers.forget(group, connection);
        }

        fn find(&self, connection: u64, name: &str) -> Option<Standing> {
            self.barriers.find(connection, connection, name.as_bytes(), &self.waiters)
        }

        fn waiting(&self, name: &str) -> u64 {
            self.barriers.waiting(name.as_bytes(), &self.ended)
        }

        fn told(&mut self) -> Vec<(u64, Option<u64>)> {
            self.waiters.take(usize::MAX).into_iter().map(|waiter| (waiter.connection, waiter.answer)).collect()
        }

        fn is_empty(&self) -> bool {
            self.barriers.places.is_empty() && self.barriers.names.is_empty()
        }
    }

    #[test]
    fn smoke() {
        let mut world = World::default();
        for _ in 0..2 {
            assert_eq!(world.come(1, "x", 3), Ok(Standing::Waits(2)));
            assert_eq!(world.come(2, "x", 3), Ok(Standing::Waits(1)));
            assert_eq!((world.waiting("x"), world.waiting("y"), world.told()), (2, 0, vec![]));
            assert_eq!(world.come(3, "x", 3), Ok(Standing::Passed(0)));
            assert!(world.is_empty());
            assert_eq!(world.told(), [(1, Some(2)), (2, Some(1))]);
        }
        assert_eq!(world.come(1, "alone", 1), Ok(Standing::Passed(0)));
        assert!(world.is_empty());
    }

    #[test]
    fn the_next_server_knows_who_has_passed() {
        let segment = Segment::create("ringtable-test", (PASSED_WORDS * 8).next_multiple_of(4_096)).unwrap();
        let mapping = Arc::new(segment.map_writable().unwrap());
        let server = || {
            let mut world = World::default();
            world.barriers.remember(Passed::new(Arc::clone(&mapping), 0));
            world
        };
        let mut before = server();
        for (connection, name) in [(1, "x"), (2, "x"), (4, "y"), (3, "x")] {
            before.come(connection, name, 3).unwrap();
        }
        // Nobody was told, not even the last one.
        let mut after = server();
        assert_eq!(after.find(1, "x"), Some(Standing::Passed(2)));
        assert_eq!(after.find(2, "x"), Some(Standing::Passed(1)));
        assert_eq!(after.find(3, "x"), Some(Standing::Passed(0)));
        assert_eq!(after.find(4, "y"), None);
        assert_eq!(after.come(4, "y", 3), Ok(Standing::Waits(2)));
    }

    #[test]
    fn one_that_leaves_knows_whether_it_has_passed() {
        let mut world = World::default();
        world.come(1, "x", 2).unwrap();
        assert_eq!(
            (world.find(1, "x"), world.find(1, "y"), world.find(2, "x")),
            (Some(Standing::Waits(1)), None, None)
        );
        world.leave(1);
        assert!(world.is_empty());
        world.come(2, "x", 2).unwrap();
        assert_eq!(world.come(3, "x", 2), Ok(Standing::Passed(0)));
        // Others wait there by now.
        world.come(4, "x", 2).unwrap();
        assert_eq!(world.find(2, "x"), Some(Standing::Passed(1)));
        world.leave(2);
        assert_eq!((world.told(), world.waiting("x"), world.find(2, "x")), (vec![], 1, None));
    }

    #[test]
    fn those_that_are_gone_count_no_more() {
        let mut world = World::default();
        world.come(1, "x", 3).unwrap();
        world.come(2, "x", 3).unwrap();
        world.ended = vec![1];
        assert_eq!(world.waiting("x"), 1);
        assert_eq!(world.come(3, "x", 3), Ok(Standing::Waits(1)));
        assert_eq!(world.come(4, "x", 3), Ok(Standing::Passed(0)));
        world.leave(1);
        assert_eq!(world.told(), [(2, Some(1)), (3, Some(1))]);
        // Nor does what they have said of the number of parties.
        world.come(5, "x", 3).unwrap();
        world.ended = vec![5];
        assert_eq!(world.come(6, "x", 2), Ok(Standing::Waits(1)));
        world.leave(5);
        assert_eq!(world.come(7, "x", 2), Ok(Standing::Passed(0)));
        assert_eq!((world.told(), world.is_empty()), (vec![(6, Some(1))], true));
    }

    #[test]
    fn all_have_to_agree_on_the_number_of_parties() {
        let mut world = World::default();
        world.come(1, "x", 2).unwrap();
        let Refusal(words) = world.come(2, "x", 3).unwrap_err();
        assert!(words.contains("'x' has 2 parties now, and 3 were asked for"), "{words}");
        assert_eq!((world.waiting("x"), world.come(2, "y", 3)), (1, Ok(Standing::Waits(2))));
        world.leave(1);
        world.come(3, "x", 3).unwrap();
    }

    #[test]
    fn many_are_one_step_and_the_bytes_of_names_are_bounded() {
        let mut world = World::default();
        let parties = limits::BARRIER_PARTIES_MAX as u64;
        assert!((1..parties).all(|connection| world.come(connection, "x", parties).is_ok()));
        assert_eq!(world.come(parties, "x", parties), Ok(Standing::Passed(0)));
        assert!(world.is_empty());
        assert_eq!(world.told().len() as u64, parties - 1);
        let long = |index: u64| format!("{index:0>width$}", width = limits::KEY_SIZE_MAX);
        let fit = (limits::BARRIER_NAMES_SIZE_MAX / limits::KEY_SIZE_MAX) as u64;
        assert!((1..=fit).all(|connection| world.come(connection, &long(connection), 2).is_ok()));
        let Refusal(words) = world.come(fit + 1, &long(fit + 1), 2).unwrap_err();
        assert!(words.starts_with("LEASES the names of barriers"), "{words}");
        assert_eq!(world.come(fit + 1, &long(1), 2), Ok(Standing::Passed(0)));
        assert_eq!(world.come(fit + 1, &long(fit + 1), 2), Ok(Standing::Waits(1)));
    }
}
