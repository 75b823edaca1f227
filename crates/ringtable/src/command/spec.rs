//! The specification of one command: a line of the table of commands.
//!
//! Whoever has to know something about a command asks its line here, and keeps no list of names: the server times those
//! that write, answers some of them in the reserved place of a full server, and knows which begin a transaction.

use std::fmt;
use std::ops::{Range, RangeInclusive};

use super::arguments::Arguments;
use super::context::Context;
use super::refusal::Refusal;

/// What a command does, on arguments whose number has been checked.
pub(super) type Run = fn(&mut Context<'_>, Arguments<'_>) -> Result<(), Refusal>;

/// One thing that can be asked: a line of the table of commands.
pub struct Spec {
    /// What it is about.
    pub group: Group,
    /// Its number in lane records, which it has for ever: no other command ever had it, or will have.
    pub number: u16,
    /// Its name, in upper case.
    pub name: &'static str,
    /// How many arguments it takes, its name not counted.
    pub arity: RangeInclusive<usize>,
    /// Which of them are keys.
    pub keys: Keys,
    /// Its arguments as the manual shows them.
    pub takes: &'static str,
    /// What it does, in one or two sentences.
    pub help: &'static str,
    /// What somebody who knows the command of Redis has to know; empty if there is nothing, or if Redis has none.
    pub unlike_redis: &'static str,
    /// A bit for each [`Flag`].
    flags: u8,
    pub(super) run: Run,
}

impl fmt::Debug for Spec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.name, self.number)
    }
}

impl PartialEq for Spec {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

/// The first half of a line of the table: what programs need.
#[expect(clippy::too_many_arguments, reason = "they are the columns of a table")]
pub(super) const fn row(
    group: Group,
    number: u16,
    name: &'static str,
    arity: RangeInclusive<usize>,
    keys: Keys,
    flags: &[Flag],
    run: Run,
    takes: &'static str,
    help: &'static str,
) -> Spec {
    let (mut bits, mut index) = (0, 0);
    while index < flags.len() {
        bits |= flags[index] as u8;
        index += 1;
    }
    Spec { group, number, name, arity, keys, takes, help, unlike_redis: "", flags: bits, run }
}

impl Spec {
    /// The same line, which also says what is different in Redis.
    pub(super) const fn unlike_redis(mut self, difference: &'static str) -> Self {
        self.unlike_redis = difference;
        self
    }

    /// Whether the command is one of those.
    #[inline]
    pub const fn has(&self, flag: Flag) -> bool {
        self.flags & flag as u8 != 0
    }

    /// Which of so many arguments are keys, if there are as many as there may be.
    pub fn keys_among(&self, arguments: usize) -> Range<usize> {
        match self.keys {
            Keys::No => 0..0,
            Keys::First => 0..1,
            Keys::All => 0..arguments,
        }
    }
}

/// What a command is about: a chapter of the manual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// A key and its value.
    Values,
    /// Integers that are added to.
    Counters,
    /// Times to live.
    Expiry,
    /// The whole table, and what is in it.
    Table,
    /// Several clients that change one key.
    Changes,
    /// Locks, semaphores and waiting.
    Locks,
    /// The connection that it comes on.
    Connection,
    /// What becomes of a connection: for ringtable's own clients.
    Joining,
    /// What Redis has, and ringtable refuses.
    Transactions,
}

impl Group {
    /// All of them, in the order of the manual.
    pub const ALL: [Self; 9] = [
        Self::Values,
        Self::Counters,
        Self::Expiry,
        Self::Table,
        Self::Changes,
        Self::Locks,
        Self::Connection,
        Self::Joining,
        Self::Transactions,
    ];

    /// Its heading in the manual.
    pub fn title(self) -> &'static str {
        match self {
            Self::Values => "Keys and values",
            Self::Counters => "Counters",
            Self::Expiry => "Times to live",
            Self::Table => "The whole table",
            Self::Changes => "Several clients, one key",
            Self::Locks => "Locks and waiting",
            Self::Connection => "The connection",
            Self::Joining => "Shared memory",
            Self::Transactions => "Transactions, which are refused",
        }
    }
}

/// Which arguments of a command are keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// None of them.
    No,
    /// The first one.
    First,
    /// All of them.
    All,
}

/// What is true of some commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Flag {
    /// It may write to the table; the server times those.
    Writes = 1,
    /// It may take several turns by itself, and not only because others are in its way.
    Slow = 1 << 1,
    /// It is answered in the reserved place of a full server.
    WhenFull = 1 << 2,
    /// It is executed also behind a refused `MULTI`.
    BehindMulti = 1 << 3,
    /// It begins or ends a transaction.
    Transaction = 1 << 4,
    /// What it gives lasts as long as the connection, whose end the server has to see: so it is refused over UDP.
    Connected = 1 << 5,
}
