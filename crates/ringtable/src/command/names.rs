//! Finding a command by its name, in a time that does not depend on how many there are.
//!
//! # Design
//!
//! A perfect hash: no two names of the table have the same place, so one look and one comparison decide. The hash is
//! FNV-1a (G. Fowler, L. C. Noll, K.-P. Vo) over the name's letters in one case, from a seed on; seeds are tried, while
//! the program is compiled, until one has no collisions. With eight places for each name a few tries do; the table of
//! places is of bytes, and stays in the cache.
//!
//! # Invariants
//!
//! - Two commands of the same name do not compile, nor does one whose name is not in upper case.
//! - A name is hashed only if it is no longer than the longest that there is: a request may claim one of half a
//!   gigabyte.

use super::spec::Spec;

/// Places, of which most are empty: a power of two, at least eight for each name.
const PLACES: usize = 512;
/// What an empty place says.
const NOBODY: u8 = u8::MAX;
/// Seeds that are tried. With as many names as there may be, one in some tens has no collisions.
const SEEDS_MAX: u32 = 10_000;

/// Where each name has its place.
pub(super) struct Names {
    seed: u32,
    size_max: usize,
    places: [u8; PLACES],
}

impl Names {
    /// The names of a table of commands. Meant for the compiler.
    ///
    /// # Panics
    /// If two commands have the same name, one is not in upper case, or there are too many.
    pub const fn of(commands: &[Spec]) -> Self {
        assert!(8 * commands.len() <= PLACES && commands.len() < NOBODY as usize, "PLACES has to grow");
        let (mut size_max, mut index) = (0, 0);
        while index < commands.len() {
            let name = commands[index].name.as_bytes();
            assert!(is_upper(name), "names are in upper case");
            if name.len() > size_max {
                size_max = name.len();
            }
            index += 1;
        }
        let mut seed = 0;
        loop {
            assert!(seed < SEEDS_MAX, "no seed without collisions: do two commands have the same name?");
            let (mut places, mut index) = ([NOBODY; PLACES], 0);
            while index < commands.len() {
                let place = place(seed, commands[index].name.as_bytes());
                if places[place] != NOBODY {
                    break;
                }
                places[place] = index as u8;
                index += 1;
            }
            if index == commands.len() {
                return Self { seed, size_max, places };
            }
            seed += 1;
        }
    }

    /// Where in its table the command of that name stands, which is written in any case.
    #[inline]
    pub fn find(&self, commands: &[Spec], name: &[u8]) -> Option<usize> {
        if name.len() > self.size_max {
            return None;
        }
        let index = usize::from(self.places[place(self.seed, name)]);
        commands.get(index).filter(|spec| spec.name.as_bytes().eq_ignore_ascii_case(name)).map(|_| index)
    }
}

/// The place of a name, whose letters count alike in either case.
#[inline]
const fn place(seed: u32, name: &[u8]) -> usize {
    const CASE: u8 = b'a' ^ b'A';
    let (mut hash, mut index) = (0x811c_9dc5 ^ seed, 0);
    while index < name.len() {
        hash = (hash ^ (name[index] & !CASE) as u32).wrapping_mul(0x0100_0193);
        index += 1;
    }
    // The low bits of a product depend on low bits alone.
    (hash ^ hash >> 16) as usize % PLACES
}

const fn is_upper(name: &[u8]) -> bool {
    let mut index = 0;
    while index < name.len() {
        if name[index].is_ascii_lowercase() || !name[index].is_ascii_graphic() {
            return false;
        }
        index += 1;
    }
    !name.is_empty()
}
