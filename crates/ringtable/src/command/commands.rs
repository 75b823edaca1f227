//! The table of all commands.

use super::arguments::Arguments;
use super::context::Context;
use super::refusal::Refusal;
use super::{atomic, connection, counters, inspection, keyspace, scan, set};

/// One thing that can be asked.
pub struct Spec {
    /// Its name, in upper case.
    pub name: &'static str,
    /// How many arguments it takes, its name not counted.
    pub arity: std::ops::RangeInclusive<usize>,
    /// Whether it may write to the table; the server times those.
    pub writes: bool,
    pub(super) run: fn(&mut Context<'_>, Arguments<'_>) -> Result<(), Refusal>,
}

/// No limit but that of all requests.
const MANY: usize = crate::limits::ARGUMENTS_MAX;

const fn spec(
    name: &'static str,
    arity: std::ops::RangeInclusive<usize>,
    writes: bool,
    run: fn(&mut Context<'_>, Arguments<'_>) -> Result<(), Refusal>,
) -> Spec {
    Spec { name, arity, writes, run }
}

/// All commands. A command's place here is its number in lane records; [`FINGERPRINT`] guards against two sides that
/// number them differently.
#[rustfmt::skip]
pub static COMMANDS: &[Spec] = &[
    spec("GET",         1..=1,      false, keyspace::get),
    spec("SET",         2..=MANY,   true,  set::set),
    spec("DEL",         1..=MANY,   true,  keyspace::del),
    spec("EXISTS",      1..=MANY,   false, keyspace::exists),
    spec("INCRBY",      2..=2,      true,  counters::incrby),
    spec("INCR",        1..=1,      true,  counters::incr),
    spec("DECR",        1..=1,      true,  counters::decr),
    spec("DECRBY",      2..=2,      true,  counters::decrby),
    spec("EXPIRE",      2..=2,      true,  keyspace::expire),
    spec("PEXPIRE",     2..=2,      true,  keyspace::pexpire),
    spec("TTL",         1..=1,      false, keyspace::ttl),
    spec("PTTL",        1..=1,      false, keyspace::pttl),
    spec("DBSIZE",      0..=0,      false, keyspace::dbsize),
    spec("FLUSHALL",    0..=1,      true,  keyspace::flushall),
    spec("SCAN",        1..=7,      false, scan::scan),
    spec("PING",        0..=1,      false, connection::ping),
    spec("ECHO",        1..=1,      false, connection::echo),
    spec("HELLO",       0..=MANY,   false, connection::hello),
    spec("AUTH",        1..=2,      false, connection::auth),
    spec("SELECT",      1..=1,      false, connection::select),
    spec("CLIENT",      1..=MANY,   false, connection::client),
    spec("QUIT",        0..=0,      false, connection::quit),
    spec("RING.LANE",   2..=2,      false, connection::ring_lane),
    spec("RING.RINGS",  2..=2,      false, connection::ring_rings),
    spec("RING.BUCKET", 1..=1,      false, inspection::ring_bucket),
    spec("RING.DUMP",   0..=1,      false, inspection::ring_dump),
    spec("RING.STATS",  0..=0,      false, inspection::ring_stats),
    spec("RING.WATCH",  2..=2,      false, connection::ring_watch),
    spec("RING.GETV",   1..=1,      false, atomic::ring_getv),
    spec("RING.DELV",   2..=2,      true,  atomic::ring_delv),
    spec("RING.INCR",   2..=9,      true,  atomic::ring_incr),
    spec("RING.LEASE",  1..=4,      false, atomic::ring_lease),
    spec("RING.UNLEASE", 2..=3,     false, atomic::ring_unlease),
    spec("RING.HANDOVER", 3..=4,    false, atomic::ring_handover),
    spec("RING.PINS",   0..=0,      false, connection::ring_pins),
];

/// A number that changes whenever the numbering of commands does (FNV-1a over their names).
pub static FINGERPRINT: std::sync::LazyLock<u64> = std::sync::LazyLock::new(|| {
    COMMANDS
        .iter()
        .flat_map(|spec| spec.name.bytes().chain([b'\n']))
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
});

/// The number of a command in lane records, by its name in upper case.
///
/// # Panics
/// If there is none: callers name commands that exist.
pub fn number(name: &str) -> u16 {
    find(name.as_bytes()).unwrap_or_else(|| panic!("no command {name}"))
}

/// The number of a command, by its name in any case.
pub fn find(name: &[u8]) -> Option<u16> {
    COMMANDS.iter().position(|spec| spec.name.as_bytes().eq_ignore_ascii_case(name)).map(|index| index as u16)
}

/// Whether the command of this name may change the table.
pub fn may_write(name: &[u8]) -> bool {
    find(name).is_some_and(|number| COMMANDS[usize::from(number)].writes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_by_its_name_in_any_case() {
        for (index, spec) in COMMANDS.iter().enumerate() {
            assert_eq!(find(spec.name.to_lowercase().as_bytes()), Some(index as u16));
        }
        assert_eq!(find(b"NO.SUCH"), None);
    }
}
