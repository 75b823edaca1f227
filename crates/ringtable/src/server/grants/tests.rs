//! What is granted, across the death of the server.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::leases::Leases;
use super::adoption::{Adopted, Found};
use super::layout::{BLOCK_WORDS, H_CONNECTIONS, LAYOUT, LEASES, NAME_PART_SIZE, PERMITS, R_SEAL, RECORD_WORDS};
use super::memory::GrantMemory;
use super::names::Name;
use super::record::Record;
use super::table::{Grants, Slot};
use crate::command::{LeaseAnswer, LeaseName, LockAnswer, LockRequest, Recipient, Unwritten};
use crate::limits;
use crate::shm::clock::monotonic_ns;
use crate::shm::killed::killed_at;
use crate::sync::recording;

const HOUR_MS: u64 = 3_600_000;
const AT: Recipient = Recipient { worker: 0, place: 0 };
/// Names of all kinds: empty, short, just as long as a part and longer, of several blocks, of nearly all sizes.
const SIZES: [usize; 9] = [0, 1, 8, 55, 56, 57, 113, 1_000, limits::KEY_SIZE_MAX];

/// Words that are damaged, each in a table of its own.
const WORDS_DAMAGED: usize = 100;

fn seeded() -> fastrand::Rng {
    let seed = std::env::var("RINGTABLE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(fastrand::u64(..));
    println!("RINGTABLE_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// A name of that size, unlike others of another number.
fn name(number: u64, size: usize) -> Vec<u8> {
    number.to_ne_bytes().into_iter().chain((0..).map(|index| index as u8)).take(size).collect()
}

fn request(ticket: u64, permits: u64, ttl_ms: Option<u64>) -> LockRequest {
    LockRequest { ticket, permits, ttl_ms }
}

fn lease(leases: &Leases, connection: u64, key: &[u8]) -> u64 {
    match leases.grant(connection, key, 1, 0) {
        Ok(LeaseAnswer::Granted(token)) => token,
        other => panic!("not granted: {other:?}"),
    }
}

fn permit(leases: &Leases, connection: u64, name: &[u8], request: LockRequest) -> u64 {
    match leases.take_permit(connection, name, request, None) {
        Ok(LockAnswer::Granted(token)) => token,
        other => panic!("not granted: {other:?}"),
    }
}

/// What the next server finds, and how much of it is damaged.
fn adopted(leases: Leases) -> (Leases, usize) {
    Leases::adopt(GrantMemory::adopt(leases.into_memory().into_mapping()).unwrap())
}

/// All that is granted, leases first.
fn granted(leases: &Leases) -> Vec<Found> {
    leases.granted_now().into_iter().flat_map(|(found, _)| found).collect()
}

fn recorded(leases: &Leases) -> Vec<(usize, u64)> {
    recording::stored(leases.memory().words())
}

/// What the next server finds if the one that did these stores died behind them.
fn replayed(stores: &[(usize, u64)]) -> (Leases, usize) {
    let memory = GrantMemory::create().unwrap().0;
    for &(at, value) in stores {
        memory.set(at, value);
    }
    Leases::adopt(memory)
}

#[test]
fn smoke() {
    let leases = Leases::default();
    let (one, other) = (leases.new_connection(), leases.new_connection());
    let token = lease(&leases, one, b"key");
    let lock = permit(&leases, other, b"lock", request(7, 1, Some(HOUR_MS)));
    let before = leases.granted_now();
    let (leases, damaged) = adopted(leases);
    assert_eq!((leases.granted_now(), damaged), (before, 0));
    // They are held, and end as before.
    assert_eq!(leases.grant(other, b"key", 1, 0), Ok(LeaseAnswer::Taken(token)));
    assert_eq!(leases.take_permit(one, b"lock", request(1, 1, None), None), Ok(LockAnswer::Taken));
    assert!(leases.tend_permits(monotonic_ns()).is_some());
    assert!(leases.give_permit_back(other, b"lock", LeaseName::Ticket(7)));
    leases.end(one);
    assert_eq!((leases.count(), leases.permits()), (0, 0));
    // Numbers go on above those that were given.
    assert!(leases.new_connection() > other);
    assert!(lease(&leases, other, b"key") > token);
    assert!(permit(&leases, other, b"lock", request(1, 1, None)) > lock);
}

#[test]
fn names_of_all_sizes_come_back_and_leave_nothing_behind() {
    let mut leases = Leases::default();
    let connection = leases.new_connection();
    for _ in 0..3 {
        for (number, size) in SIZES.into_iter().enumerate() {
            lease(&leases, connection, &name(number as u64, size));
            // Holders of permits of one name share its chain.
            for ticket in 1..=3 {
                permit(&leases, connection, &name(number as u64, size), request(ticket, 3, None));
            }
        }
        let before = leases.granted_now();
        assert!(before.iter().all(|(_, size)| *size == SIZES.iter().sum()));
        let damaged;
        (leases, damaged) = adopted(leases);
        assert_eq!((leases.granted_now(), damaged), (before, 0));
        for Found { slot: Slot(slot), record, .. } in granted(&leases) {
            // What was given back is taken first: nothing else is touched.
            assert!(slot < 3 * SIZES.len() as u32 && record.name.first <= 1_190);
        }
        leases.end(connection);
        while leases.tend() {}
        assert_eq!(leases.granted_now(), [(vec![], 0), (vec![], 0)]);
    }
}

#[test]
fn records_and_blocks_suffice_up_to_the_limits() {
    let mut random = seeded();
    // The names that need the most blocks for their bytes are one byte longer than some parts.
    let sizes = [NAME_PART_SIZE + 1, 1_170 * NAME_PART_SIZE + 1, 1 << 10, 9, 0];
    let leases = Leases::default();
    let (mut number, mut left, mut full) = (0, [0, 0], 0);
    while full < 4 {
        let connection = leases.new_connection();
        // What connections leave behind counts until it is removed.
        if random.u8(..8) == 0 {
            leases.end(connection - 1);
        }
        full = 0;
        let kind = random.usize(..sizes.len());
        for _ in 0..1 << random.usize(4..15) {
            number += 1;
            let size = if random.bool() { sizes[kind] } else { random.usize(..=sizes[kind]) };
            let name = name(number, size.max(8));
            let refused = [leases.grant(connection, &name, 1, 0).is_err(), {
                leases.take_permit(connection, &name, request(1, 1, None), None).is_err()
            }];
            (left[0], left[1]) = (left[0] + usize::from(refused[0]), left[1] + usize::from(refused[1]));
            full = if refused == [true, true] { full + 1 } else { 0 };
            if full == 4 {
                break;
            }
        }
    }
    assert!(left[0] > 0 && left[1] > 0);
    let before = leases.granted_now();
    let (leases, damaged) = adopted(leases);
    assert_eq!(damaged, 0);
    assert!(leases.granted_now() == before);
}

/// Random operations of some connections.
struct Work {
    random: fastrand::Rng,
    connections: Vec<u64>,
    ended: Vec<u64>,
    /// Of leases, and of permits that nobody waited for.
    highest_tokens: [u64; 2],
}

impl Work {
    fn new(leases: &Leases, random: fastrand::Rng) -> Self {
        let connections = (0..6).map(|_| leases.new_connection()).collect();
        Self { random, connections, ended: Vec::new(), highest_tokens: [0, 0] }
    }

    fn note_token(&mut self, kind: usize, token: u64) {
        assert!(token > self.highest_tokens[kind]);
        self.highest_tokens[kind] = token;
    }

    fn step(&mut self, leases: &Leases) {
        let random = &mut self.random;
        let connection = self.connections[random.usize(..self.connections.len())];
        let number = random.u64(..SIZES.len() as u64);
        let name = name(number, SIZES[number as usize]);
        match random.u8(..12) {
            0..=2 => {
                if let Ok(LeaseAnswer::Granted(token)) = leases.grant(connection, &name, random.u64(1..3), 0) {
                    self.note_token(0, token);
                }
            }
            3..=6 => {
                let request = request(random.u64(1..4), 1 + number % 3, random.bool().then_some(HOUR_MS));
                let waits = random.bool().then_some(AT);
                let [_, (permits, _)] = leases.granted_now();
                let has = permits.into_iter().find(|Found { record, name: held, .. }| {
                    (record.connection, record.ticket) == (connection, request.ticket) && **held == *name
                });
                match (leases.take_permit(connection, &name, request, waits).unwrap(), has) {
                    // It was handed over to this ticket before.
                    (LockAnswer::Granted(token), Some(has)) if has.record.token == token => {}
                    (LockAnswer::Granted(token), _) => self.note_token(1, token),
                    _ => {}
                }
            }
            7 | 8 => {
                let Some(Found { record, name, .. }) = random.choice(&granted(leases)).cloned() else { return };
                let Record { connection, token, ticket, .. } = record;
                let named = if random.bool() { LeaseName::Token(token) } else { LeaseName::Ticket(ticket) };
                match random.u8(..4) {
                    0 => _ = leases.hand_over(connection, &name, token, Unwritten::Failed),
                    1 => _ = leases.extend_permit(connection, &name, token, random.u64(1..HOUR_MS)),
                    2 => _ = leases.give_back(connection, &name, named),
                    _ => _ = leases.give_permit_back(connection, &name, named),
                }
            }
            9 if random.bool() => {
                let (index, new) = (random.usize(..self.connections.len()), leases.new_connection());
                assert!(self.connections.iter().chain(&self.ended).all(|&number| number < new));
                self.ended.push(std::mem::replace(&mut self.connections[index], new));
                leases.end(self.ended[self.ended.len() - 1]);
            }
            10 => _ = leases.tend_permits(monotonic_ns() + random.u64(..HOUR_MS * 2_000_000)),
            _ => {
                _ = leases.take_told(3);
                _ = leases.tend();
            }
        }
    }
}

#[test]
fn whatever_was_done_the_next_server_finds_what_is_granted() {
    let mut leases = Leases::default();
    let mut work = Work::new(&leases, seeded());
    let mut deaths_with_many = 0;
    for _ in 0..100 {
        (0..40).for_each(|_| work.step(&leases));
        let before = leases.granted_now();
        deaths_with_many += usize::from(before.iter().all(|(found, _)| found.len() > 1));
        let damaged;
        (leases, damaged) = adopted(leases);
        assert_eq!((leases.granted_now(), damaged), (before, 0));
        assert_eq!(leases.waiters(), 0);
        let due_ns = granted(&leases).iter().filter_map(|found| found.record.ends_ns).min();
        assert_eq!(leases.tend_permits(0), due_ns);
        work.ended.iter().for_each(|&connection| leases.end(connection));
    }
    assert!(deaths_with_many > 10, "{deaths_with_many}");
}

/// The same with a process that is killed, at whatever instruction.
#[test]
fn a_process_that_is_killed_leaves_nothing_damaged() {
    let mut random = seeded();
    let mut found = 0;
    for _ in 0..10 {
        let leases = Leases::default();
        leases.memory().inherit().unwrap();
        let given = || leases.memory().get(LEASES.tokens_at);
        let (before, seed) = (given(), random.u64(..));
        let enough = before + random.u64(1..300);
        let endlessly = || {
            let mut work = Work::new(&leases, fastrand::Rng::with_seed(seed));
            loop {
                work.step(&leases);
            }
        };
        killed_at(endlessly, || given() >= enough);
        let (leases, damaged) = adopted(leases);
        assert_eq!(damaged, 0);
        found += granted(&leases).len();
        // All of it ends, and all of it can be used again.
        (1..leases.new_connection()).for_each(|connection| leases.end(connection));
        while leases.tend() {}
        assert_eq!(leases.granted_now(), [(vec![], 0), (vec![], 0)]);
        let mut work = Work::new(&leases, random.fork());
        (0..100).for_each(|_| work.step(&leases));
    }
    assert!(found > 10, "{found}");
}

/// Leases and permits of all kinds.
fn some_of_all() -> Leases {
    let leases = Leases::default();
    recording::begin();
    let (one, other) = (leases.new_connection(), leases.new_connection());
    for (number, size) in [3, 56, 57, 300].into_iter().enumerate() {
        let name = name(number as u64, size);
        lease(&leases, one, &name);
        let ttl_ms = (number % 2 == 0).then_some(HOUR_MS);
        let token = permit(&leases, one, &name, request(1, 2, ttl_ms));
        permit(&leases, other, &name, request(1, 2, ttl_ms));
        assert!(leases.extend_permit(one, &name, token, 2 * HOUR_MS));
    }
    // A place that was used before.
    lease(&leases, one, b"gone");
    assert!(leases.give_back(one, b"gone", LeaseName::Ticket(1)));
    leases
}

#[test]
fn what_is_damaged_is_dropped_and_counted_and_nothing_else() {
    let mut random = seeded();
    let whole = some_of_all();
    let (before, stores) = (granted(&whole), recorded(&whole));
    let is_seal = |word| {
        [LEASES, PERMITS].iter().any(|section| {
            (section.records_at..section.blocks_at).contains(&word)
                && (word - section.records_at) % RECORD_WORDS == R_SEAL
        })
    };
    let counters = [H_CONNECTIONS, LEASES.tokens_at, PERMITS.tokens_at];
    let used: HashSet<usize> = stores.iter().map(|&(at, _)| at).collect();
    let mut words: Vec<usize> = used.into_iter().collect();
    words.sort_unstable();
    random.shuffle(&mut words);
    let mut noticed = 0;
    for (nth, &word) in words[..WORDS_DAMAGED].iter().enumerate() {
        let value = stores.iter().rfind(|&&(at, _)| at == word).unwrap().1;
        let wrong = if random.bool() { value ^ 1 << random.u32(..64) } else { random.u64(..) };
        let mut stores = stores.clone();
        stores.push((word, wrong));
        let (leases, damaged) = replayed(&stores);
        let after = granted(&leases);
        assert!(after.iter().all(|found| before.contains(found)), "word {word} is {wrong:#x}");
        let lost = before.len() - after.len();
        if counters.contains(&word) {
            assert_eq!(lost, 0);
        } else if value == 0 && is_seal(word) {
            // It was nothing.
            assert_eq!((lost, damaged), (0, 1));
        } else {
            assert_eq!(damaged, lost, "word {word} is {wrong:#x}");
        }
        noticed += damaged;
        if nth % 8 > 0 {
            continue;
        }
        // It goes on: numbers are new, and what was lost can be had.
        let connection = leases.new_connection();
        let tokens = [lease(&leases, connection, b"new"), permit(&leases, connection, b"new", request(1, 1, None))];
        for Found { record, .. } in &after {
            assert!(record.connection < connection && record.token < tokens[usize::from(record.permits > 1)]);
        }
        for Found { record, name, .. } in before.iter().filter(|found| !after.contains(found)) {
            match record.permits {
                1 => lease(&leases, connection, name),
                permits => permit(&leases, connection, name, request(1, u64::from(permits), None)),
            };
        }
        assert_eq!(granted(&leases).len(), before.len() + 2);
        let goes_on = granted(&leases);
        let (leases, damaged) = adopted(leases);
        assert_eq!((granted(&leases), damaged), (goes_on, 0));
    }
    // Some words have no meaning, and some damage nobody can see: a counter that is too high.
    assert!(noticed > WORDS_DAMAGED / 2, "{noticed}");
}

#[test]
fn nonsense_is_no_grant() {
    let mut random = seeded();
    let memory = GrantMemory::create().unwrap().0;
    for section in [LEASES, PERMITS] {
        let words = section.records_at..section.records_at + 100 * RECORD_WORDS;
        let blocks = section.blocks_at..section.blocks_at + 100 * BLOCK_WORDS;
        // Small numbers lead somewhere more often.
        words.chain(blocks).for_each(|at| memory.set(at, random.u64(..) >> random.u32(..64)));
    }
    let (leases, damaged) = Leases::adopt(memory);
    assert!(granted(&leases).is_empty() && damaged > 100);
}

#[test]
fn records_that_contradict_others_are_dropped() {
    let one = Record {
        connection: 1,
        token: 10,
        ticket: 1,
        permits: 2,
        ends_ns: None,
        name: Name { size: 1, first: 0, checksum: super::names::checksum(b"x") },
    };
    let adopt = |records: &[Record]| {
        let memory = Arc::new(GrantMemory::create().unwrap().0);
        memory.set(H_CONNECTIONS, 100);
        let mut grants = Grants::new(Arc::clone(&memory), PERMITS);
        records.iter().for_each(|record| _ = grants.add(record, b"x"));
        let Adopted { found, damaged, .. } = Grants::adopt(&memory, PERMITS);
        (found.iter().map(|found| found.record).collect::<Vec<_>>(), damaged)
    };
    let another = Record { token: 11, ..one };
    assert_eq!(adopt(&[one, another]), (vec![one, another], 0));
    let third = Record { token: 12, ..one };
    assert_eq!(adopt(&[one, another, third]), (vec![one, another], 1));
    let wrong = [
        one,
        Record { permits: 3, ..another },
        Record { permits: 0, ..another },
        Record { permits: limits::LOCKS_MAX as u32 + 1, ..another },
        Record { connection: 0, ..another },
        Record { connection: u64::MAX, ..another },
        Record { token: 0, ..another },
        Record { token: u64::MAX, ..another },
        Record { name: Name { size: 2, ..one.name }, ..another },
        Record { name: Name { size: u32::MAX, first: 1, ..one.name }, ..another },
        Record { name: Name { first: 1, ..one.name }, ..another },
        Record { name: Name { checksum: 0, ..one.name }, ..another },
    ];
    for record in wrong {
        assert_eq!(adopt(&[one, record]), (vec![one], 1), "{record:?}");
    }
}

#[test]
fn a_chain_is_one_name_s() {
    let (name, other) = (name(1, 200), name(2, 200));
    let memory = Arc::new(GrantMemory::create().unwrap().0);
    memory.set(H_CONNECTIONS, 1);
    let mut grants = Grants::new(Arc::clone(&memory), PERMITS);
    let [kept, again, last] = [&name, &name, &other].map(|name| grants.keep_name(name));
    let record = |token, name| Record { connection: 1, token, ticket: 1, permits: 3, ends_ns: None, name };
    let token = grants.next_token();
    grants.add(&record(token, kept), &name);
    // Of the same bytes and of another chain; of the same chain and of other bytes; of a chain that ends in another.
    grants.add(&record(token - 1, again), &name);
    grants.add(&record(token - 2, Name { first: kept.first, ..last }), &other);
    let link = |name: Name| PERMITS.blocks_at + name.first as usize * BLOCK_WORDS - 1;
    memory.set(link(last), memory.get(link(kept)));
    grants.add(&record(token - 3, last), &other);
    let Adopted { found, damaged, .. } = Grants::adopt(&memory, PERMITS);
    assert_eq!((found.len(), found[0].record.token, damaged), (1, token, 3));
}

#[test]
fn another_layout_is_refused() {
    for (index, word) in LAYOUT.into_iter().enumerate() {
        let memory = GrantMemory::create().unwrap().0;
        memory.set(index, word + 1);
        let refused = GrantMemory::adopt(memory.into_mapping()).map(|_| ()).unwrap_err();
        assert_eq!(
            refused,
            format!("word {index} of the segment of grants is {:#x}, and {word:#x} is expected", word + 1)
        );
    }
    let small = crate::shm::segment::Segment::create("ringtable-test", 4_096).unwrap();
    let refused = GrantMemory::adopt(small.map_writable().unwrap()).map(|_| ()).unwrap_err();
    assert!(refused.contains("has 512 words"), "{refused}");
}

/// What the next server finds is what was granted before the operation or behind it, wherever in it this one died.
#[test]
fn a_death_at_any_store_leaves_the_state_before_or_behind() {
    type Operation = fn(&Leases, [u64; 2], [&[u8]; 2]);
    fn extend(leases: &Leases, one: u64, name: &[u8]) {
        let held = granted(leases).into_iter().find(|found| *found.name == *name && found.record.connection == one);
        assert!(leases.extend_permit(one, name, held.unwrap().record.token, HOUR_MS));
    }
    let operations: [(&str, Operation); 16] = [
        ("a lease", |leases, [one, _], [short, _]| _ = lease(leases, one, short)),
        ("it ends", |leases, [one, _], [short, _]| assert!(leases.give_back(one, short, LeaseName::Ticket(1)))),
        ("one in its place", |leases, [_, other], [_, long]| _ = lease(leases, other, long)),
        ("one more", |leases, [one, _], [short, _]| _ = lease(leases, one, short)),
        ("it ends with its chain", |leases, [_, other], [_, long]| {
            assert!(leases.give_back(other, long, LeaseName::Ticket(1)));
        }),
        ("one in the same blocks", |leases, [one, _], _| _ = lease(leases, one, &name(3, 120))),
        ("a permit", |leases, [one, _], [_, long]| _ = permit(leases, one, long, request(1, 2, Some(HOUR_MS)))),
        ("another one", |leases, [_, other], [_, long]| _ = permit(leases, other, long, request(1, 2, None))),
        ("it has more time", |leases, [one, _], [_, long]| extend(leases, one, long)),
        ("and still more", |leases, [one, _], [_, long]| extend(leases, one, long)),
        ("time for one that had none", |leases, [_, other], [_, long]| extend(leases, other, long)),
        ("somebody waits", |leases, [one, _], [_, long]| {
            assert_eq!(leases.take_permit(one, long, request(2, 2, None), Some(AT)), Ok(LockAnswer::Pending));
        }),
        ("handed over", |leases, [_, other], _| leases.end(other)),
        ("the first of two ends", |leases, [one, _], [_, long]| {
            assert!(leases.give_permit_back(one, long, LeaseName::Ticket(1)));
        }),
        ("the last one ends", |leases, [one, _], [_, long]| {
            assert!(leases.give_permit_back(one, long, LeaseName::Ticket(2)));
        }),
        ("another one in the same blocks", |leases, [one, _], _| {
            _ = permit(leases, one, &name(4, 130), request(1, 1, None));
        }),
    ];
    let leases = Leases::default();
    recording::begin();
    let connections = [leases.new_connection(), leases.new_connection()];
    let names = [name(1, 20), name(2, 150)];
    let mut steps = Vec::new();
    for (what, operation) in operations {
        let (before, from) = (granted(&leases), recorded(&leases).len());
        operation(&leases, connections, [&names[0], &names[1]]);
        steps.push((what, from, before, granted(&leases)));
    }
    let stores = recorded(&leases);
    for (nth, (what, from, before, behind)) in steps.iter().enumerate() {
        let to = steps.get(nth + 1).map_or(stores.len(), |next| next.1);
        // Nobody has what is handed over, for a moment.
        let between: Vec<Found> = before.iter().filter(|found| behind.contains(found)).cloned().collect();
        for cut in *from..=to {
            let (leases, damaged) = replayed(&stores[..cut]);
            let found = granted(&leases);
            let expected = found == *before || found == *behind || (*what == "handed over" && found == between);
            assert!(expected && damaged == 0, "{what}, {} stores of {}: {damaged}, {found:?}", cut - from, to - from);
        }
    }
}
