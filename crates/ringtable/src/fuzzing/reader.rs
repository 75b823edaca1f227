//! A reader of a table that holds anything, and that changes under it: what a client does with the memory of a server
//! that has gone mad. It gets on, touches nothing outside, and takes no more memory than the table has.
//!
//! The input says what is written where, before a read or in the midst of it, and what is read. It begins with a table
//! as a server makes it: bytes at random would hardly ever be taken for an entry.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use super::guarded::Guarded;
use crate::input::Input;
use crate::limits;
use crate::sync::{Arc, AtomicU64, Memory, Ordering, heap_words};
use crate::table::bucket::{SLOTS, Slot};
use crate::table::layout::{self, BUCKET_WORDS, PAGE_WORDS, address, bucket_start};
use crate::table::lookup::{Buffer, Presence};
use crate::table::reclaim::{self, Pinned};
use crate::table::{Eviction, Expiry, Guard, Lookup, Options, Pairs, Reader, Sink, Table, Want, Writer};

const WORDS: usize = 6 * PAGE_WORDS;
const KEYS: u8 = 90;
/// Steps of a run, of which a fuzzer could make any number.
const STEPS_MAX: usize = 48;
/// Halfway between entries whose time has passed and others.
const NOW_MS: u64 = 1_000;

fn key(number: u8) -> Vec<u8> {
    match number % KEYS {
        0 => Vec::new(),
        number @ 1..4 => vec![number; 300],
        number => vec![b'k', number],
    }
}

/// A table as a server makes it: with chains, values of all sizes, and times that have passed.
fn honest() -> &'static [u64] {
    static TABLE: OnceLock<Vec<u64>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let words: Arc<Box<[AtomicU64]>> = Arc::new(heap_words(WORDS));
        let options = Options { buckets: 3, seed: 5, workers: 1, spin_ns: 0, eviction: Eviction::AllkeysSieve };
        let table = Table::create(Arc::clone(&words), &options).expect("it fits");
        let mut writer = Writer::new(Arc::new(table));
        for number in 0..KEYS {
            let value = vec![number; [0, 1, 8, 100, 5_000][usize::from(number % 5)]];
            let expiry = (number % 7 == 0).then_some(Expiry(NOW_MS - 3 + u64::from(number)));
            writer.put(&key(number), &value, expiry, Guard::Always, || 0).expect("there is room");
        }
        words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
    })
}

/// Something that writes to the table, now and whenever a reader looks away.
struct Vandal<'a> {
    words: &'a [AtomicU64],
    input: RefCell<Input<'a>>,
    hash: &'a dyn Fn(&[u8]) -> u64,
}

impl Vandal<'_> {
    /// Where the bucket of a key is, and where its entry, in the table as it was.
    fn places(&self, key: &[u8]) -> (usize, usize) {
        let hash = (self.hash)(key);
        let honest = honest();
        let home = bucket_start(address(hash, honest[layout::H_BUCKETS]));
        let mut slots = honest[home + 1..home + BUCKET_WORDS].iter().map(|&word| Slot(word));
        let entry = slots.find(|slot| slot.is_entry() && slot.tag() == Slot::entry(hash, 0).tag());
        (home, entry.map_or(home, |slot| slot.at() as usize))
    }

    fn write(&self) {
        let mut input = self.input.borrow_mut();
        if input.is_empty() {
            return;
        }
        let kind = input.byte();
        let key = key(input.byte());
        let (home, entry) = self.places(&key);
        let at = match kind % 5 {
            0 => [layout::H_BUCKETS, layout::H_ENTRIES, layout::H_EVENTS, layout::H_CLOSED][usize::from(kind / 5 % 4)],
            1 => home + input.below(BUCKET_WORDS),
            2 => entry + input.below(4),
            3 => home + input.below(SLOTS) + 1,
            _ => input.below(WORDS),
        };
        let word = &self.words[at.min(WORDS - 1)];
        let value = match kind % 5 {
            // A slot or a link that points somewhere.
            3 => {
                let place = match input.byte() % 4 {
                    0 => home as u64,
                    1 => entry as u64,
                    2 => WORDS as u64 - 1 - u64::from(input.byte()),
                    _ => input.below(WORDS + 64) as u64,
                };
                if kind.is_multiple_of(2) { Slot::link(place).0 } else { Slot::entry((self.hash)(&key), place).0 }
            }
            _ => input.nasty(word.load(Ordering::Relaxed)),
        };
        word.store(value, Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        self.write();
        NOW_MS
    }
}

/// A buffer that gives the vandal time before it is filled.
struct Delayed<'a>(&'a Vandal<'a>, Buffer);

impl Sink for Delayed<'_> {
    fn begin(&mut self, size: usize) -> Option<&mut [MaybeUninit<u8>]> {
        assert!(size <= WORDS * 8, "{size} bytes in a table of {}", WORDS * 8);
        self.0.write();
        self.1.begin(size)
    }
}

pub fn run(input: &[u8]) {
    // Kept from run to run, since making it would take most of the time, and written anew as a whole.
    thread_local!(static MEMORY: Guarded = Guarded::new(WORDS));
    MEMORY.with(|memory| run_in(memory, input));
}

fn run_in(memory: &Guarded, input: &[u8]) {
    let words = memory.words();
    for (word, value) in words.iter().zip(honest()) {
        word.store(*value, Ordering::Relaxed);
    }
    let reader = Reader::attach(WordsOf(memory)).expect("it is an honest table so far");
    let hash = |key: &[u8]| reader.hash(key);
    let vandal = Vandal { words, input: RefCell::new(Input::new(input)), hash: &hash };
    let (mut pairs, pins) = (Pairs::default(), heap_words(1));
    for _ in 0..STEPS_MAX {
        if vandal.input.borrow().is_empty() {
            break;
        }
        let step = vandal.input.borrow_mut().byte();
        let key = key(step);
        let now_ms = || vandal.now_ms();
        let want = if step.is_multiple_of(2) { Want::Values } else { Want::Keys };
        match step % 11 {
            0..5 => vandal.write(),
            5 => {
                let mut sink = Delayed(&vandal, Buffer::default());
                if let Lookup::Hit(found) = reader.get(&key, now_ms, &mut sink) {
                    assert_eq!(sink.1.bytes().len(), found.size);
                }
            }
            6 => {
                reader.get(&key, now_ms, &mut Presence);
                reader.prefetch_bucket(hash(&key));
                reader.prefetch_entry(hash(&key));
            }
            7 => {
                pairs.clear();
                let _ = reader.read_bucket(&key, want, now_ms, &mut pairs);
                check(&pairs);
            }
            8 => {
                pairs.clear();
                let cursor = if step & 0x80 == 0 { 0 } else { vandal.input.borrow_mut().nasty(3 << 32) };
                // A walk that never comes to its end is ended by who asks, a step at a time.
                let _ = reader.scan(cursor, want, now_ms, &mut pairs);
                check(&pairs);
            }
            9 => {
                if let Pinned::Hit(found, range) = reclaim::pin(words, &pins[0], hash(&key), &key, now_ms) {
                    assert!(words[range].len() * 8 >= found.size, "a view of more than its words");
                    reclaim::unpin(&pins[0]);
                }
                assert_eq!(pins[0].load(Ordering::Relaxed), 0, "a pin that nobody has");
            }
            _ => {
                let _ = (reader.entries(), reader.is_closed());
                let _ = Reader::attach(WordsOf(memory)).map(drop);
            }
        }
    }
}

fn check(pairs: &Pairs) {
    let size: usize = pairs.iter().map(|pair| pair.key.len() + pair.value.len()).sum();
    assert!(size <= WORDS * 8, "{size} bytes out of a table of {}", WORDS * 8);
    assert!(pairs.iter().all(|pair| pair.value_size <= limits::VALUE_SIZE_MAX));
}

/// The memory of a run, borrowed.
struct WordsOf<'a>(&'a Guarded);

impl Memory for WordsOf<'_> {
    fn words(&self) -> &[AtomicU64] {
        self.0.words()
    }
}
