//! The table of all commands, a line for each, in the order of the manual (`docs/commands.md`, which is made of it).
//! There are two ways to find one: by name, and by number.
//!
//! # Invariants
//!
//! - A command keeps its number for ever, wherever its line stands: clients and servers talk over lanes by numbers, and
//!   one side may know commands that the other one does not.
//! - A number is never used again. **Numbers that have gone:** none so far. The next free ones: 49, then 56.
//! - What comes to mean something else is another command, with a name and a number of its own.

use super::names::Names;
use super::spec::Flag::{BehindMulti, Connected, Slow, Transaction, WhenFull, Writes};
use super::spec::Group::{Changes, Connection, Counters, Expiry, Joining, Locks, Table, Transactions, Values};
use super::spec::Keys::{All, First, No};
use super::spec::{Spec, row};
use super::{
    atomic, barriers, connection, counters, inspection, keyspace, locks, persistence, prefix, rate, scan, set, take,
    transaction,
};
use crate::limits;

/// No limit but that of all requests.
const MANY: usize = limits::ARGUMENTS_MAX;

// Chapter, number, name, how many arguments, which of them are keys, flags, function; the arguments, and what it does.
#[rustfmt::skip]
const TABLE: &[Spec] = &[
    row(Values,        0, "GET",           1..=1,    First, &[],                      keyspace::get,
        "key",
        "Answers with the value of a key, or nil if there is none."),
    row(Values,        1, "SET",           2..=MANY, First, &[Writes, Slow],          set::set,
        "key value [NX | XX | IFVERSION version] [GET] [(EX | PX | EXAT | PXAT) time | KEEPTTL] \
         [EVICTABLE | UNEVICTABLE]",
        "Writes a value: always, if there is none (NX), if there is one (XX), or if the key still has this version (0: \
         if there is none). Answers OK, or nil if nothing was written; with IFVERSION the new version in place of OK; \
         with GET the value that was there, or nil, whether it was written or not. The key is gone after so many \
         seconds (EX) or milliseconds (PX), at a time since 1970 in these units (EXAT, PXAT), or when the old one \
         would have been (KEEPTTL).")
        .unlike_redis("IFVERSION, EVICTABLE and UNEVICTABLE are ringtable's; IFVERSION and GET exclude each other."),
    row(Values,        2, "DEL",           1..=MANY, All,   &[Writes, Slow],          keyspace::del,
        "key [key …]",
        "Deletes keys. Answers with the number of those that were there.")
        .unlike_redis("With many keys it takes several turns, and other clients' requests may come in between."),
    row(Values,        3, "EXISTS",        1..=MANY, All,   &[Slow],                  keyspace::exists,
        "key [key …]",
        "Answers with the number of keys that are there; one that is named twice counts twice.")
        .unlike_redis("With many keys it takes several turns, and other clients' requests may come in between. To a \
                       cache it is a use of them, as TOUCH is."),
    row(Values,       44, "TOUCH",         1..=MANY, All,   &[Slow],                  keyspace::exists,
        "key [key …]",
        "Takes note that keys are used, for a cache, which evicts others first. Answers with the number of those that \
         are there.")
        .unlike_redis("With many keys it takes several turns, and other clients' requests may come in between."),
    row(Values,       41, "GETDEL",        1..=1,    First, &[Writes],                take::getdel,
        "key",
        "Deletes a key, and answers with the value that it had, or nil if there is none: one step."),
    row(Values,       42, "GETEX",         1..=MANY,  First, &[Writes],                take::getex,
        "key [EX seconds | PX milliseconds | EXAT time | PXAT time | PERSIST]",
        "Answers with the value of a key, or nil if there is none, and gives the key a new time to live, or none: one \
         step. At a time that is over, the key goes.")
        .unlike_redis("Where a small value gets its first time to live, the table needs memory for it, as for EXPIRE."),

    row(Counters,      5, "INCR",          1..=1,    First, &[Writes],                counters::incr,
        "key",
        "Adds 1 to the integer that a key holds, 0 if there is no such key. Answers with the sum.")
        .unlike_redis("The error for a value that is no integer goes on with the key and its value."),
    row(Counters,      6, "DECR",          1..=1,    First, &[Writes],                counters::decr,
        "key",
        "Subtracts 1; as INCR otherwise."),
    row(Counters,      4, "INCRBY",        2..=2,    First, &[Writes],                counters::incrby,
        "key increment",
        "Adds an integer; as INCR otherwise."),
    row(Counters,      7, "DECRBY",        2..=2,    First, &[Writes],                counters::decrby,
        "key decrement",
        "Subtracts an integer; as INCR otherwise."),
    row(Counters,     45, "INCRBYFLOAT",   2..=2,    First, &[Writes],                counters::incrbyfloat,
        "key increment",
        "Adds a number with a fraction to the one that a key holds, 0 if there is no such key, and keeps its time to \
         live. Answers with the sum, without an exponent and without zeroes at its end.")
        .unlike_redis("Sums are 64-bit numbers, and Redis' have 80 bits: 0.1 and 0.2 is 0.30000000000000004 here, and \
                       0.3 there. They are written with all digits that it takes to read them back, and there with 17 \
                       behind the point. Hexadecimal digits are no number here. The errors for what is no number, and \
                       for a sum that is none, go on with the key and what it holds."),
    row(Counters,     30, "RING.INCR",     2..=9,    First, &[Writes],                atomic::ring_incr,
        "key increment [PX milliseconds] [MIN least] [MAX most] [EVICTABLE | UNEVICTABLE]",
        "Adds an integer, if the sum is within bounds. Answers with the sum, or nil if nothing was added. The time to \
         live is for a key that is new."),
    row(Counters,     55, "RING.LIMIT",    3..=5,    First, &[Writes],                rate::ring_limit,
        "key count nanoseconds [FIXED | SLIDING] [cost]",
        "One step of a rate limiter, whose state the key holds: so many calls in so many nanoseconds. FIXED counts in \
         windows, the first call opens one; SLIDING lets as many through at once, and then one after the other. \
         Answers with three integers: 1 if `cost` calls (1) are within the rate, and were counted, or 0; how many more \
         would be; after how many nanoseconds to ask again. The key is never evicted, and gone when it says nothing."),

    row(Expiry,        8, "EXPIRE",        2..=2,    First, &[Writes],                keyspace::expire,
        "key seconds",
        "Gives a key a new time to live; deletes it if that is not above 0. Answers with 1 if the key was there, or 0.")
        .unlike_redis("There are no NX, XX, GT, LT."),
    row(Expiry,        9, "PEXPIRE",       2..=2,    First, &[Writes],                keyspace::pexpire,
        "key milliseconds",
        "As EXPIRE, in milliseconds.")
        .unlike_redis("There are no NX, XX, GT, LT."),
    row(Expiry,       43, "PERSIST",       1..=1,    First, &[Writes],                keyspace::persist,
        "key",
        "Takes the time to live of a key away. Answers with 1 if it had one, or 0."),
    row(Expiry,       10, "TTL",           1..=1,    First, &[],                      keyspace::ttl,
        "key",
        "Answers with the seconds that are left to a key; -1 if it does not expire, -2 if there is none."),
    row(Expiry,       11, "PTTL",          1..=1,    First, &[],                      keyspace::pttl,
        "key",
        "As TTL, in milliseconds."),

    row(Table,        12, "DBSIZE",        0..=0,    No,    &[],                      keyspace::dbsize,
        "",
        "Answers with the number of keys, those included that have expired and were not removed yet."),
    row(Table,        13, "FLUSHALL",      0..=1,    No,    &[Writes, Slow],          keyspace::flushall,
        "[SYNC | ASYNC]",
        "Deletes all keys that are there when it begins, and gives their memory back to the system.")
        .unlike_redis("SYNC and ASYNC make no difference: it takes several turns, and answers when all of it is done. \
                       What others write meanwhile may go, too."),
    row(Table,        14, "SCAN",          1..=7,    No,    &[],                      scan::scan,
        "cursor [MATCH pattern] [COUNT count] [TYPE type]",
        "Answers with the next cursor, 0 at the end, and some keys, perhaps none. A walk from cursor 0 on comes to \
         each key exactly once that is there all the while.")
        .unlike_redis("Redis may come to a key several times. A pattern has at most 255 characters that are no stars. \
                       All keys are strings."),
    row(Table,        46, "RING.DELPREFIX", 1..=1,   No,    &[Writes, Slow],          prefix::ring_delprefix,
        "prefix",
        "Deletes all keys that begin with a prefix and are there when it begins. Answers with how many it has deleted. \
         It takes several turns, in which all keys are looked at; what others write meanwhile may go, too."),
    row(Table,        47, "RING.ENTRY",    1..=2,    First, &[],                      atomic::ring_entry,
        "key [most]",
        "Answers with the value of a key, or with its size if that is above `most` bytes; the time at which it \
         will be gone, in milliseconds since 1970, or -1 if it does not expire; and 1 if it is never evicted, else 0. \
         Or with nil if there is no such key."),
    row(Table,        56, "SAVE",          0..=0,    No,    &[Slow],                  persistence::save,
        "",
        "Has a snapshot written to the folder of a server that has one (`--data`), and answers when it is whole.")
        .unlike_redis("Others go on meanwhile. What is written behind the request may be in it, or not."),
    row(Table,        57, "BGSAVE",        0..=1,    No,    &[],                      persistence::bgsave,
        "[SCHEDULE]",
        "As SAVE, and does not wait. Is refused while a snapshot is written; with SCHEDULE, there is another one \
         behind it then."),
    row(Table,        60, "BGREWRITEAOF",  0..=0,    No,    &[],                      persistence::bgrewriteaof,
        "",
        "Begins the log of a server that has one (`--log`) anew, with a snapshot, and does not wait for that. Behind a \
         fault of the disk, writes are possible again then."),
    row(Table,        61, "RING.DURABLE",  0..=0,    No,    &[Slow],                  persistence::ring_durable,
        "",
        "Answers when all that was written before it, by whomever, is in the log of a server that has one, and on the \
         disk."),
    row(Table,        58, "LASTSAVE",      0..=0,    No,    &[],                      persistence::lastsave,
        "",
        "Answers with the time at which the last snapshot was whole, in seconds since 1970; before there was one, with \
         that of the server's start; and with 0 from a server without a folder."),
    row(Table,        59, "INFO",          0..=MANY, No,    &[],                      persistence::info,
        "[section ...]",
        "Answers with lines about snapshots, `name:value`, if no section is named, or `persistence` is among them.")
        .unlike_redis("There are no other sections: RING.STATS has all figures."),
    row(Table,        24, "RING.BUCKET",   1..=1,    First, &[],                      inspection::ring_bucket,
        "key",
        "Answers with all keys and values of the bucket that a key falls in, as they were at one moment."),
    row(Table,        25, "RING.DUMP",     0..=1,    No,    &[],                      inspection::ring_dump,
        "[start]",
        "Answers with the table's keys and the sizes of their values, bucket by bucket, from bucket `start` on: \
         `[next, [bucket, [key, size, …]], …]`, where next is the bucket to go on from, or 0."),
    row(Table,        26, "RING.STATS",    0..=0,    No,    &[WhenFull],              inspection::ring_stats,
        "",
        "Answers with the figures of table and server, by name."),
    row(Table,        40, "RING.OPTIONS",  0..=0,    No,    &[WhenFull],              inspection::ring_options,
        "",
        "Answers with the options that the server was started with, by name: numbers, words, or nil for what was left \
         open. Times are in milliseconds, or nanoseconds where the name says so."),

    row(Changes,      28, "RING.GETV",     1..=1,    First, &[],                      atomic::ring_getv,
        "key",
        "Answers with the value of a key and its version, or nil if there is none."),
    row(Changes,      29, "RING.DELV",     2..=2,    First, &[Writes],                atomic::ring_delv,
        "key version",
        "Deletes a key that still has this version. Answers with 1 if it did, or 0."),
    row(Changes,      31, "RING.LEASE",    1..=4,    First, &[Connected],            atomic::ring_lease,
        "key [ticket [AFTER token]]",
        "Asks for the lease of a key, which the client has that computes the value. Answers with its token, or 0 if \
         another connection has it; with AFTER, minus that one's token, or what came of the lease with this token, if \
         it was handed over. It ends with the connection. With the ticket it can be given back by a client that has \
         not waited for the token."),
    row(Changes,      32, "RING.UNLEASE",  2..=3,    First, &[Connected],            atomic::ring_unlease,
        "key (token | TICKET ticket)",
        "Gives a lease back. Answers with 1 if this connection had it, or 0."),
    row(Changes,      33, "RING.HANDOVER", 3..=4,    First, &[Connected],            atomic::ring_handover,
        "key token (UNSTORED [value] | FAILED)",
        "Gives a lease back though the key has no new value: the table has no place for it, or computing it has \
         failed. Clients that wait get the value, if it is not too large. Answers with 1 if this connection had it, \
         or 0."),
    row(Changes,      38, "RING.WAIT",     3..=3,    First, &[Connected],            atomic::ring_wait,
        "key token ticket",
        "Answers with OK once the lease of a key with this token is over, or a command has written the key (DEL and \
         FLUSHALL aside). If that is yet to come, a lane, and a socket that speaks version 3, get `PENDING ticket` at \
         once, and later the push `ring.answer`, the ticket, and the answer. A socket that speaks version 2 gets no \
         reply before the answer, and what it sends behind the request waits, too. The ticket is a number above 0; the \
         same one again ends what the connection has waited for with it. Refused over rings."),
    row(Changes,      39, "RING.UNWAIT",   2..=2,    First, &[Connected],            atomic::ring_unwait,
        "key ticket",
        "Answers with 1 if this connection waited for the key with this ticket, and waits no more; else with 0, and \
         then an answer may be on its way."),

    row(Locks,        50, "RING.LOCK",     3..=6,    First, &[Connected],            locks::ring_lock,
        "name ticket permits [PX milliseconds] [WAIT]",
        "Takes one of so many permits of a name, which is no key: a lock has one, a semaphore several. Answers with \
         its token, which is higher than all before, or 0 if all are taken. It ends with the connection, or with its \
         time to live. With WAIT the answer comes later then, in the order of asking, as for RING.WAIT; refused over \
         rings. The ticket is a number above 0; the same one again ends what the connection has waited for with it."),
    row(Locks,        51, "RING.UNLOCK",   2..=3,    First, &[Connected],            locks::ring_unlock,
        "name (token | TICKET ticket)",
        "Gives a permit back; with the ticket, what was asked for with that, whether it is granted or still waited \
         for. The first that waits has it in the same step. Answers with 1 if this connection had it, or 0."),
    row(Locks,        52, "RING.EXTEND",   3..=3,    First, &[Connected],            locks::ring_extend,
        "name token milliseconds",
        "Gives a permit a time to live from now on. Answers with 1 if this connection has it, or 0."),
    row(Locks,        53, "RING.LOCKED",   1..=2,    First, &[Connected],            locks::ring_locked,
        "name [token]",
        "Answers with the number of permits of a name that are taken; with a token, with 1 if this connection has \
         that one, or 0."),
    row(Locks,        54, "RING.AWAIT",    3..=3,    First, &[Connected],            locks::ring_await,
        "key version ticket",
        "Answers with OK once the key has another version than this one (0: none), or a command has written it (DEL \
         and FLUSHALL aside). If that is yet to come, the answer comes later, as for RING.WAIT, and RING.UNWAIT ends \
         the wait."),
    row(Locks,        48, "RING.BARRIER",  1..=4,    First, &[Connected],            barriers::ring_barrier,
        "name [parties ticket [WAIT] | LEAVE ticket]",
        "Comes to a barrier, whose name is no key, as one of so many parties, which wait until the last one comes. \
         Answers with the number of those that were still to come: 0 to the last one. To the others, with WAIT, the \
         answer comes later, as for RING.WAIT; refused over rings. Without WAIT the answer is -1 as long as others \
         are to come, and the same ticket again is the same party, which asks again. LEAVE takes the party with this \
         ticket out, and answers with -1; or as above, if all have come and it was not told yet; or with nil if it \
         was, or never came. The end of a connection takes its parties out, too. With the name alone, the answer is \
         how many wait now. The ticket is a number above 0, and names one \
         wait of the connection, whatever that is for."),

    row(Connection,   15, "PING",          0..=1,    No,    &[WhenFull],              connection::ping,
        "[message]",
        "Answers with PONG, or with the message.")
        .unlike_redis("A message has at most 65,536 bytes."),
    row(Connection,   16, "ECHO",          1..=1,    No,    &[],                      connection::echo,
        "message",
        "Answers with the message.")
        .unlike_redis("A message has at most 65,536 bytes."),
    row(Connection,   17, "HELLO",         0..=MANY, No,    &[WhenFull],              connection::hello,
        "[(2 | 3) [AUTH user password] [SETNAME name]]",
        "Goes on in this version of the protocol, this reply included. Answers with what the server is.")
        .unlike_redis("There are no users but `default`, which any password lets in. Names are forgotten. The answer \
                       tells `server_id`, too, the number of the table."),
    row(Connection,   18, "AUTH",          1..=2,    No,    &[],                      connection::auth,
        "[user] password",
        "Lets the user `default` in, with any password.")
        .unlike_redis("It is as in a Redis without passwords: to give one alone is a mistake. A process that may open \
                       the socket may do everything, before AUTH, too."),
    row(Connection,   19, "SELECT",        1..=1,    No,    &[],                      connection::select,
        "index",
        "Goes on with the table of that number: there is 0 alone.")
        .unlike_redis("There is one table."),
    row(Connection,   20, "CLIENT",        1..=MANY, No,    &[],                      connection::client,
        "(ID | SETNAME name | SETINFO (LIB-NAME | LIB-VER) value)",
        "ID answers with the number of the connection. Names are taken and forgotten.")
        .unlike_redis("There are no other subcommands."),
    row(Connection,   21, "QUIT",          0..=0,    No,    &[WhenFull, BehindMulti], connection::quit,
        "",
        "Answers with OK, and closes the connection."),

    row(Joining,      22, "RING.LANE",     2..=2,    No,    &[Connected],            connection::ring_lane,
        "lane-version records-version",
        "Makes this connection, over a unix socket, a lane. The answer comes with descriptors, and says \
         which commands the server knows there: a hexadecimal digit for four numbers each, from number 0 on."),
    row(Joining,      23, "RING.RINGS",    2..=2,    No,    &[Connected],            connection::ring_rings,
        "exchange-version records-version",
        "Lets this connection, over a unix socket, join the rings of a classic topology. The answer is like that of \
         RING.LANE."),
    row(Joining,      27, "RING.WATCH",    1..=1,    No,    &[Connected],            connection::ring_watch,
        "layout-version",
        "Makes this connection, over a unix socket, a watch of the table's changes. The answer comes with descriptors, \
         too."),
    row(Joining,      34, "RING.PINS",     0..=0,    No,    &[Connected],            connection::ring_pins,
        "",
        "On a lane: from now on the entries that its pins name stay where they are, for views; refused elsewhere."),

    row(Transactions, 35, "MULTI",         0..=0,    No,    &[Transaction],           transaction::multi,
        "",
        "Is refused, and all that follows up to EXEC or DISCARD is refused.")
        .unlike_redis("There are no transactions, and WATCH and UNWATCH are no commands: SET with IFVERSION, RING.DELV \
                       and RING.INCR change what is as it was."),
    row(Transactions, 36, "EXEC",          0..=0,    No,    &[Transaction],           transaction::exec,
        "",
        "Is refused: nothing since MULTI was executed, and what follows will be.")
        .unlike_redis("It never executes anything."),
    row(Transactions, 37, "DISCARD",       0..=0,    No,    &[Transaction],           transaction::discard,
        "",
        "Ends what MULTI has begun. Answers with OK, or refuses where there was no MULTI."),
];

/// All commands.
pub static COMMANDS: &[Spec] = TABLE;

/// Above all numbers.
pub(super) const NUMBERS_END: usize = 62;

static BY_NUMBER: [Option<&Spec>; NUMBERS_END] = {
    let (mut specs, mut index) = ([None; NUMBERS_END], 0);
    while index < TABLE.len() {
        let number = TABLE[index].number as usize;
        assert!(specs[number].is_none(), "a number is one command's");
        specs[number] = Some(&TABLE[index]);
        index += 1;
    }
    specs
};

static NAMES: Names = Names::of(TABLE);

/// The command of that number, if there is one.
#[inline]
pub fn numbered(number: u16) -> Option<&'static Spec> {
    BY_NUMBER.get(usize::from(number)).copied().flatten()
}

/// The command of that name, which is written in any case, if there is one.
#[inline]
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    NAMES.find(COMMANDS, name).map(|index| &COMMANDS[index])
}

/// The number of a command, by its name in upper case: for the compiler.
///
/// # Panics
/// If there is none.
pub const fn number(name: &str) -> u16 {
    let mut index = 0;
    while index < TABLE.len() {
        if is_same(TABLE[index].name.as_bytes(), name.as_bytes()) {
            return TABLE[index].number;
        }
        index += 1;
    }
    panic!("there is no such command");
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut index = 0;
    while index < one.len() && index < other.len() && one[index] == other[index] {
        index += 1;
    }
    index == one.len() && index == other.len()
}

#[cfg(test)]
mod tests {
    use super::super::spec::{Flag, Group, Keys};
    use super::*;

    /// Never changed, but for lines at the end. A number that has gone stays, with "" for a name.
    #[rustfmt::skip]
    const NUMBERED: [&str; NUMBERS_END] = [
        "GET", "SET", "DEL", "EXISTS", "INCRBY", "INCR", "DECR", "DECRBY", "EXPIRE", "PEXPIRE", // from 0 on
        "TTL", "PTTL", "DBSIZE", "FLUSHALL", "SCAN", "PING", "ECHO", "HELLO", "AUTH", "SELECT", // from 10 on
        "CLIENT", "QUIT", "RING.LANE", "RING.RINGS", "RING.BUCKET", // from 20 on
        "RING.DUMP", "RING.STATS", "RING.WATCH", "RING.GETV", "RING.DELV", // from 25 on
        "RING.INCR", "RING.LEASE", "RING.UNLEASE", "RING.HANDOVER", "RING.PINS", // from 30 on
        "MULTI", "EXEC", "DISCARD", "RING.WAIT", "RING.UNWAIT", // from 35 on
        "RING.OPTIONS", "GETDEL", "GETEX", "PERSIST", "TOUCH", // from 40 on
        "INCRBYFLOAT", "RING.DELPREFIX", "RING.ENTRY", "RING.BARRIER", "", // from 45 on
        "RING.LOCK", "RING.UNLOCK", "RING.EXTEND", "RING.LOCKED", "RING.AWAIT", // from 50 on
        "RING.LIMIT", "SAVE", "BGSAVE", "LASTSAVE", "INFO", // from 55 on
        "BGREWRITEAOF", "RING.DURABLE", // from 60 on
    ];

    #[test]
    fn numbers_are_for_ever() {
        let names: Vec<_> =
            (0..NUMBERS_END as u16).map(|number| numbered(number).map_or("", |spec| spec.name)).collect();
        assert_eq!(names, NUMBERED);
        assert!(numbered(NUMBERS_END as u16).is_none() && numbered(u16::MAX).is_none());
        assert_eq!((number("GET"), number("RING.PINS")), (0, 34));
    }

    #[test]
    fn a_command_is_found_by_its_name_in_any_case_and_by_no_other() {
        for spec in COMMANDS {
            let mixed: String =
                spec.name.char_indices().map(|(at, c)| if at % 2 == 0 { c.to_ascii_lowercase() } else { c }).collect();
            for name in [spec.name, &spec.name.to_lowercase(), &mixed] {
                assert_eq!(find(name.as_bytes()), Some(spec), "{name}");
            }
            // One letter off, one too many, one too few, and the letters that differ in the bit of the case alone.
            let mut name = spec.name.as_bytes().to_vec();
            for at in 0..name.len() {
                for other in (0..=255).filter(|other: &u8| !other.eq_ignore_ascii_case(&spec.name.as_bytes()[at])) {
                    name[at] = other;
                    assert_ne!(find(&name), Some(spec), "{}", name.escape_ascii());
                }
                name[at] = spec.name.as_bytes()[at];
            }
            for other in [&name[1..], &name[..name.len() - 1], &[&name[..], b"S"].concat()] {
                assert_ne!(find(other), Some(spec));
            }
        }
        for name in [&b""[..], b"NO.SUCH", b"GET\0", b"\xff", &[b'G'; 1 << 20]] {
            assert_eq!(find(name), None);
        }
    }

    /// What a line says of a command fits together.
    #[test]
    fn the_lines_are_sound() {
        for spec in COMMANDS {
            assert!(spec.arity.start() <= spec.arity.end(), "{spec:?}");
            assert!(spec.keys == Keys::No || *spec.arity.start() >= 1, "{spec:?} has a key among no arguments");
            assert_eq!(spec.takes.is_empty(), *spec.arity.end() == 0, "{spec:?}");
            assert!(spec.help.ends_with('.') && (spec.unlike_redis.is_empty() || spec.unlike_redis.ends_with('.')));
            assert!(!spec.name.starts_with("RING.") || spec.unlike_redis.is_empty(), "Redis has no {spec:?}");
            assert_eq!(spec.has(Flag::Transaction), spec.group == Group::Transactions, "{spec:?}");
        }
        let chapters: Vec<_> =
            COMMANDS.chunk_by(|one, next| one.group == next.group).map(|rows| rows[0].group).collect();
        assert_eq!(chapters, Group::ALL, "one after the other");
    }
}
