//! Streams of commands, executed on a table by the command table, beside a plain map: both give the same answers.
//!
//! The table is small, so that it is full after some large values. Times to live are far in the future, or over before
//! they begin: what a run does must not depend on the clock.

use std::collections::HashMap;

use crate::command::alone::Alone;
use crate::command::float::{float_digits, parse_float};
use crate::command::integer::parse_integer;
use crate::command::protocol::Protocol;
use crate::command::record::{RecordWriter, decode_reply};
use crate::command::reply::Reply;
use crate::command::spec::Flag;
use crate::command::{self, COMMANDS, Flow, numbered};
use crate::input::Input;
use crate::shm::clock::wall_ms;
use crate::table::layout::PAGE_WORDS;
use crate::table::{Eviction, Options, Pairs, Want};

const PAGES: usize = 8;
/// Commands of a run, of which a fuzzer could make any number.
const STEPS_MAX: usize = 200;
/// Seconds that are certainly not over.
const FAR: &[u8] = b"100000";

type Model = HashMap<Vec<u8>, Entry>;

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    value: Vec<u8>,
    expires: bool,
}

struct Subject {
    alone: Alone,
    eviction: Eviction,
}

impl Subject {
    fn new(eviction: Eviction) -> Self {
        let options = Options { buckets: 1, seed: 3, workers: 1, spin_ns: 0, eviction };
        Self { alone: Alone::new(PAGES * PAGE_WORDS * 8, &options), eviction }
    }

    /// Executes a command; `None` if the connection were to do something instead of a reply.
    fn execute(&mut self, number: u16, arguments: &[&[u8]]) -> Option<Reply> {
        let (mut progress, mut turns) = (0, 0);
        loop {
            let mut record = Vec::new();
            let mut writer = RecordWriter::new(&mut record);
            let (flow, change);
            (flow, change, progress) = self.alone.turn(number, arguments, &mut writer, Protocol::Resp3, progress);
            writer.finish();
            turns += 1;
            assert!(turns < 1_000, "{} does not come to an end", numbered(number).expect("there is one").name);
            if flow == Flow::Again {
                assert!(record.is_empty());
                continue;
            }
            if change.is_some() {
                assert!(record.is_empty());
                return None;
            }
            return Some(decode_reply(&record).expect("a reply is one value"));
        }
    }

    fn call(&mut self, name: &str, arguments: &[&[u8]]) -> Reply {
        self.execute(command::number(name), arguments).expect("it answers")
    }

    /// All that is in the table.
    fn entries(&mut self) -> Model {
        let (mut pairs, mut cursor) = (Pairs::default(), 0);
        loop {
            cursor = self.alone.writer.scan(cursor, Want::Values, wall_ms, &mut pairs);
            if cursor == 0 {
                break;
            }
        }
        let mut entries = Model::new();
        for pair in pairs.iter() {
            let expires = match self.call("PTTL", &[pair.key]) {
                Reply::Integer(-1) => false,
                Reply::Integer(1..) => true,
                other => panic!("{other:?} for a key that is there"),
            };
            let twice = entries.insert(pair.key.to_vec(), Entry { value: pair.value.to_vec(), expires });
            assert_eq!(twice, None, "a key that a walk comes to twice");
        }
        entries
    }
}

const KEYS: u8 = 40;

fn key(number: u8) -> Vec<u8> {
    match number % KEYS {
        0 => Vec::new(),
        number @ 1..3 => vec![b'k'; 1_000 * usize::from(number)],
        number => vec![b'k', number],
    }
}

fn value(input: &mut Input<'_>) -> Vec<u8> {
    let (fill, kind) = (input.byte(), input.byte());
    match kind % 6 {
        0 => Vec::new(),
        1 => input.nasty(0).cast_signed().to_string().into_bytes(),
        2 => vec![fill; usize::from(input.byte())],
        3 => vec![fill; usize::from(input.short())],
        4 => vec![fill; 4 * usize::from(input.short())],
        _ => input.take(usize::from(fill)).to_vec(),
    }
}

fn is_short_of_room(reply: &Reply) -> bool {
    matches!(reply, Reply::Error(message) if command::is_for_want_of_room(message))
}

fn is_error(reply: &Reply) -> bool {
    matches!(reply, Reply::Error(message) if message.starts_with("ERR "))
}

pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let eviction = if input.byte().is_multiple_of(2) { Eviction::Never } else { Eviction::AllkeysSieve };
    let (mut subject, mut model) = (Subject::new(eviction), Model::new());
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        step(&mut subject, &mut model, &mut input);
    }
    settle(&mut subject, &mut model);
    assert_eq!(subject.call("FLUSHALL", &[]), Reply::Status("OK".into()));
    assert_eq!(subject.call("DBSIZE", &[]), Reply::Integer(0));
    assert!(subject.entries().is_empty());
}

/// A cache may have lost some keys; nothing else may have changed.
fn settle(subject: &mut Subject, model: &mut Model) {
    let entries = subject.entries();
    if subject.eviction == Eviction::AllkeysSieve {
        model.retain(|key, _| entries.contains_key(key));
    }
    assert!(entries == *model, "a table of {:?} beside a map of {:?}", entries.keys(), model.keys());
    assert_eq!(subject.call("DBSIZE", &[]), Reply::Integer(model.len() as i64));
}

fn integer(value: i64) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn step(subject: &mut Subject, model: &mut Model, input: &mut Input<'_>) {
    let (kind, key) = (input.byte(), key(input.byte()));
    if subject.eviction == Eviction::AllkeysSieve {
        // What was there a moment ago may have gone to make room.
        let there = subject.call("EXISTS", &[&key]) == Reply::Integer(1);
        assert!(there <= model.contains_key(&key), "a key from nowhere");
        if !there {
            model.remove(&key);
        }
    }
    let found = model.get(&key).cloned();
    match kind % 19 {
        0..4 => set(subject, model, input, &key, found),
        4 => {
            let expected = found.map_or(Reply::Nil, |entry| Reply::Bulk(entry.value));
            assert_eq!(subject.call("GET", &[&key]), expected);
        }
        5 => {
            let expected = Reply::Integer(i64::from(found.is_some()));
            assert_eq!(subject.call("DEL", &[&key]), expected);
            model.remove(&key);
        }
        6 => {
            let other = self::key(input.byte());
            let reply = subject.call("EXISTS", &[&key, &other]);
            let expected = i64::from(found.is_some()) + i64::from(model.contains_key(&other));
            if subject.eviction == Eviction::Never {
                assert_eq!(reply, Reply::Integer(expected));
            }
        }
        7 | 8 => add(subject, model, input, &key, found),
        9 => expire(subject, model, input, &key, found),
        10 => {
            let expected = match found {
                None => -2..=-2,
                Some(Entry { expires: false, .. }) => -1..=-1,
                Some(_) => 99_000..=100_000,
            };
            let Reply::Integer(left) = subject.call("TTL", &[&key]) else { panic!("no number") };
            assert!(expected.contains(&left), "{left} seconds left, not {expected:?}");
        }
        11 => version(subject, model, input, &key, found),
        12 => {
            let Reply::Array(bucket) = subject.call("RING.BUCKET", &[&key]) else { panic!("no array") };
            let pairs = bucket.chunks(2).map(|pair| match pair {
                [Reply::Bulk(key), Reply::Bulk(value)] => (key, value),
                other => panic!("{other:?} is no pair"),
            });
            let mut is_there = false;
            for (found, value) in pairs {
                assert_eq!(model.get(found).map(|entry| &entry.value), Some(value));
                is_there |= *found == key;
            }
            assert_eq!(is_there, found.is_some());
        }
        13 => {
            if input.byte().is_multiple_of(8) {
                assert_eq!(subject.call("FLUSHALL", &[]), Reply::Status("OK".into()));
                model.clear();
            }
        }
        14 => settle(subject, model),
        15 => take(subject, model, input, &key, found),
        16 => {
            let prefix = &key[..key.len().min(1 + usize::from(input.byte() % 2))];
            let before = subject.entries();
            let gone = before.keys().filter(|key| key.starts_with(prefix)).count();
            assert_eq!(subject.call("RING.DELPREFIX", &[prefix]), Reply::Integer(gone as i64));
            *model = before;
            model.retain(|key, _| !key.starts_with(prefix));
        }
        17 => add_float(subject, model, input, &key, found),
        _ => anything(subject, model, input),
    }
}

fn set(subject: &mut Subject, model: &mut Model, input: &mut Input<'_>, key: &[u8], found: Option<Entry>) {
    let (value, options) = (value(input), input.byte());
    let mut arguments = vec![key, &value];
    let (keeps, wants_old) = (options & 0x20 != 0 && options & 0x10 == 0, options & 0x40 != 0);
    let (allowed, expires) = (
        match options % 4 {
            1 => found.is_none(),
            2 => found.is_some(),
            _ => true,
        },
        options & 0x10 != 0,
    );
    match options % 4 {
        1 => arguments.push(b"NX"),
        2 => arguments.push(b"xx"),
        _ => {}
    }
    if expires {
        arguments.extend([b"EX", FAR]);
    }
    if keeps {
        arguments.push(b"KEEPTTL");
    }
    if wants_old {
        arguments.push(b"GET");
    }
    let reply = subject.call("SET", &arguments);
    if is_short_of_room(&reply) {
        // Refused, and nothing has changed.
        let expected = found.clone().map_or(Reply::Nil, |entry| Reply::Bulk(entry.value));
        let now = subject.call("GET", &[key]);
        assert!(now == expected || subject.eviction == Eviction::AllkeysSieve && now == Reply::Nil);
        return;
    }
    // To make room, a cache may have let go of this very key before it came to the options.
    let lost = subject.eviction == Eviction::AllkeysSieve && found.is_some();
    let expires = expires || keeps && found.as_ref().is_some_and(|entry| entry.expires);
    if wants_old {
        let old = found.clone().map_or(Reply::Nil, |entry| Reply::Bulk(entry.value));
        assert!(reply == old || lost && reply == Reply::Nil, "{reply:?}, though {found:?}");
        // What has become of it only the table knows, if the old value was lost on the way.
        *model = if lost { subject.entries() } else { std::mem::take(model) };
        if allowed && !lost {
            model.insert(key.to_vec(), Entry { value, expires });
        }
        return;
    }
    let done = reply == Reply::Status("OK".into());
    assert!(done || reply == Reply::Nil, "{reply:?}");
    // Nor is it known until when what was lost would have been there.
    if lost && keeps {
        *model = subject.entries();
        return;
    }
    assert!(done == allowed || lost && options % 4 != 0, "{reply:?}, though {found:?}");
    if done {
        model.insert(key.to_vec(), Entry { value, expires });
    }
}

fn add(subject: &mut Subject, model: &mut Model, input: &mut Input<'_>, key: &[u8], found: Option<Entry>) {
    let (kind, by, bound) = (input.byte(), input.nasty(0).cast_signed(), input.nasty(0).cast_signed());
    let reply = match kind % 6 {
        0 => subject.call("INCR", &[key]),
        1 => subject.call("DECR", &[key]),
        2 => subject.call("INCRBY", &[key, &integer(by)]),
        3 => subject.call("DECRBY", &[key, &integer(by)]),
        4 => subject.call("RING.INCR", &[key, &integer(by), b"MIN", &integer(bound)]),
        _ => subject.call("RING.INCR", &[key, &integer(by), b"MAX", &integer(bound)]),
    };
    if is_short_of_room(&reply) {
        return;
    }
    // What an old value becomes; `None` if that is an error.
    let sum_of = |old: Option<i64>| {
        let (old, by) = (i128::from(old?), i128::from(by));
        Some(match kind % 6 {
            0 => old + 1,
            1 => old - 1,
            3 if by == i128::from(i64::MIN) => return None,
            3 => old - by,
            _ => old + by,
        })
    };
    let expected_of = |old: Option<i64>| match sum_of(old) {
        Some(sum) if kind % 6 == 4 && sum < i128::from(bound) => Some(Reply::Nil),
        Some(sum) if kind % 6 == 5 && sum > i128::from(bound) => Some(Reply::Nil),
        sum => sum.and_then(|sum| i64::try_from(sum).ok()).map(Reply::Integer),
    };
    let is = |reply: &Reply, expected: Option<Reply>| match expected {
        Some(expected) => *reply == expected,
        None => is_error(reply),
    };
    let old = found.as_ref().map_or(Some(0), |entry| parse_integer(&entry.value));
    let expected = expected_of(old);
    // To make room for the sum, a cache may let go of this very key: then it begins anew.
    let anew = subject.eviction == Eviction::AllkeysSieve && !is(&reply, expected.clone());
    assert!(is(&reply, if anew { expected_of(Some(0)) } else { expected.clone() }), "{reply:?}, not {expected:?}");
    if let Reply::Integer(sum) = reply {
        let expires = !anew && found.is_some_and(|entry| entry.expires);
        model.insert(key.to_vec(), Entry { value: integer(sum), expires });
    } else if anew {
        model.remove(key);
    }
}

/// Takes a value out, or gives it another time to live, or none.
fn take(subject: &mut Subject, model: &mut Model, input: &mut Input<'_>, key: &[u8], found: Option<Entry>) {
    let old = found.clone().map_or(Reply::Nil, |entry| Reply::Bulk(entry.value));
    let expires = found.as_ref().is_some_and(|entry| entry.expires);
    let mut is = |name: &str, options: &[&[u8]], expected: Reply, expires: Option<bool>| {
        let reply = subject.call(name, &[&[key], options].concat());
        if is_short_of_room(&reply) {
            return;
        }
        if subject.eviction == Eviction::AllkeysSieve && reply == Reply::Nil {
            // As in `add`.
            model.remove(key);
            return;
        }
        assert_eq!(reply, expected, "{name}");
        match (expires, model.get_mut(key)) {
            (Some(expires), Some(entry)) => entry.expires = expires,
            (None, Some(_)) => drop(model.remove(key)),
            _ => {}
        }
    };
    match input.byte() % 6 {
        0 => is("GETDEL", &[], old, None),
        1 => is("GETEX", &[], old, Some(expires)),
        2 => is("GETEX", &[b"EX", FAR], old, Some(true)),
        3 => is("GETEX", &[b"PERSIST"], old, Some(false)),
        4 => is("GETEX", &[b"PXAT", b"1"], old, None),
        _ => is("PERSIST", &[], Reply::Integer(i64::from(expires)), Some(false)),
    }
}

/// Adds a number with a fraction.
fn add_float(subject: &mut Subject, model: &mut Model, input: &mut Input<'_>, key: &[u8], found: Option<Entry>) {
    let by = f64::from_bits(input.nasty(1.5_f64.to_bits()));
    let reply = subject.call("INCRBYFLOAT", &[key, by.to_string().as_bytes()]);
    if is_short_of_room(&reply) {
        return;
    }
    let old = found.as_ref().map_or(Some(0.0), |entry| parse_float(&entry.value));
    let sum = old.map(|old| old + by).filter(|sum| sum.is_finite());
    let expected = sum.map(|sum| Reply::Bulk(float_digits(sum).into_bytes()));
    if subject.eviction == Eviction::AllkeysSieve && expected.as_ref() != Some(&reply) {
        // As in `add`.
        *model = subject.entries();
        return;
    }
    match expected {
        None => assert!(is_error(&reply), "{reply:?}"),
        Some(expected) => {
            assert_eq!(reply, expected);
            let Reply::Bulk(value) = reply else { return };
            model.insert(key.to_vec(), Entry { value, expires: found.is_some_and(|entry| entry.expires) });
        }
    }
}

fn expire(subject: &mut Subject, model: &mut Model, input: &mut Input<'_>, key: &[u8], found: Option<Entry>) {
    let kind = input.byte();
    let reply = match kind % 4 {
        0 => subject.call("EXPIRE", &[key, b"0"]),
        1 => subject.call("PEXPIRE", &[key, b"-5"]),
        2 => subject.call("EXPIRE", &[key, FAR]),
        _ => subject.call("PEXPIRE", &[key, b"100000000"]),
    };
    if is_short_of_room(&reply) {
        return;
    }
    if subject.eviction == Eviction::AllkeysSieve && found.is_some() && reply == Reply::Integer(0) {
        // As in `add`.
        model.remove(key);
        return;
    }
    assert_eq!(reply, Reply::Integer(i64::from(found.is_some())));
    let Some(entry) = found else { return };
    if kind % 4 < 2 {
        model.remove(key);
    } else {
        model.insert(key.to_vec(), Entry { expires: true, ..entry });
    }
}

fn version(subject: &mut Subject, model: &mut Model, input: &mut Input<'_>, key: &[u8], found: Option<Entry>) {
    let reply = subject.call("RING.GETV", &[key]);
    let current = match (&reply, &found) {
        (Reply::Nil, None) => 0,
        (Reply::Array(pair), Some(entry)) => match &pair[..] {
            [Reply::Bulk(value), Reply::Integer(version)] if *value == entry.value => *version,
            other => panic!("{other:?} instead of a value and its version"),
        },
        other => panic!("{other:?}"),
    };
    let (kind, other) = (input.byte(), input.nasty(current as u64).cast_signed());
    let given = if kind & 2 == 0 { current } else { other };
    if kind & 1 == 0 {
        let reply = subject.call("RING.DELV", &[key, &integer(given)]);
        if given < 0 {
            return assert!(is_error(&reply));
        }
        let deleted = found.is_some() && given == current;
        assert_eq!(reply, Reply::Integer(i64::from(deleted)));
        if deleted {
            model.remove(key);
        }
        return;
    }
    let value = value(input);
    let reply = subject.call("SET", &[key, &value, b"IFVERSION", &integer(given)]);
    match reply {
        reply if given < 0 => assert!(is_error(&reply)),
        reply if is_short_of_room(&reply) => {}
        Reply::Integer(new) => {
            assert!(given == current && new > current, "version {new} behind {current}, when {given} was asked for");
            model.insert(key.to_vec(), Entry { value, expires: false });
        }
        // To make room for the new value, a cache may have let the old one go.
        reply => assert!(reply == Reply::Nil && (given != current || subject.eviction == Eviction::AllkeysSieve)),
    }
}

/// Any command with any arguments: it answers, and what it has made of the table is a table.
fn anything(subject: &mut Subject, model: &mut Model, input: &mut Input<'_>) {
    let spec = &COMMANDS[input.below(COMMANDS.len())];
    let count = input.below(6);
    let arguments: Vec<&[u8]> = (0..count)
        .map(|_| {
            let size = usize::from(input.byte());
            input.take(size)
        })
        .collect();
    // A time to live that is over within the run would make it depend on the clock.
    if spec.has(Flag::Writes) && arguments.len() > 1 && spec.name != "DEL" {
        return;
    }
    let _ = subject.execute(spec.number, &arguments);
    *model = subject.entries();
}
