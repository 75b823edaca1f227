//! What can be asked: commands, their two codecs, and their execution on a table.
//!
//! - [`COMMANDS`]: the table of all commands, one line each,
//! - [`keyspace`], [`atomic`], [`connection`], [`inspection`]: what the commands do, one function each,
//! - [`transaction`]: what is refused between `MULTI` and `EXEC`; `glob`: patterns of keys; `expiry`: times to live,
//! - [`arguments`]: their arguments and how to read them; [`set_options`]: those of `SET`,
//! - [`streamed`]: the large value of a `SET` on its way into its entry,
//! - [`integer`]: numbers in decimal digits,
//! - [`reply`]: how they answer; [`refusal`]: in what words they are refused,
//! - [`protocol`]: the versions of the Redis protocol,
//! - [`resp`]: requests and replies as the Redis protocol has them,
//! - [`record`]: requests and replies as they flow through a lane,
//! - `alone`: commands without a server, for tests and fuzzers.
//!
//! Both codecs decode to the same [`Command`], and one [`execute`] serves both. To add a command, write its function
//! and add its line to [`COMMANDS`]: everything else (arity checks, both transports, the pipeline) follows from that.

#[cfg(any(test, fuzzing))]
pub mod alone;
pub mod arguments;
pub mod atomic;
pub mod connection;
mod expiry;
mod glob;
pub mod inspection;
pub mod integer;
pub mod keyspace;
pub mod protocol;
pub mod record;
pub mod refusal;
pub mod reply;
pub mod resp;
pub mod set_options;
pub mod streamed;
pub mod transaction;

use arguments::Arguments;
use protocol::Protocol;
pub use refusal::{Refusal, is_for_want_of_room, shown, unknown};
use reply::ReplyWriter;
pub use streamed::{Order, Streamed};

use crate::limits;
use crate::shm::clock::monotonic_ns;
use crate::shm::segment::Mapping;
use crate::sync::Arc;
use crate::table::reader::Buffer;
use crate::table::{Pairs, Writer};

/// One thing that can be asked.
pub struct Spec {
    /// Its name, in upper case.
    pub name: &'static str,
    /// How many arguments it takes, its name not counted.
    pub arity: std::ops::RangeInclusive<usize>,
    /// Whether it may write to the table; the server times those.
    pub writes: bool,
    run: fn(&mut Context<'_>, Arguments<'_>) -> Result<(), Refusal>,
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
    spec("SET",         2..=MANY,   true,  keyspace::set),
    spec("DEL",         1..=MANY,   true,  keyspace::del),
    spec("EXISTS",      1..=MANY,   false, keyspace::exists),
    spec("INCRBY",      2..=2,      true,  keyspace::incrby),
    spec("INCR",        1..=1,      true,  keyspace::incr),
    spec("DECR",        1..=1,      true,  keyspace::decr),
    spec("DECRBY",      2..=2,      true,  keyspace::decrby),
    spec("EXPIRE",      2..=2,      true,  keyspace::expire),
    spec("PEXPIRE",     2..=2,      true,  keyspace::pexpire),
    spec("TTL",         1..=1,      false, keyspace::ttl),
    spec("PTTL",        1..=1,      false, keyspace::pttl),
    spec("DBSIZE",      0..=0,      false, keyspace::dbsize),
    spec("FLUSHALL",    0..=1,      true,  keyspace::flushall),
    spec("SCAN",        1..=7,      false, keyspace::scan),
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

/// A request, decoded by either codec.
#[derive(Clone, Copy)]
pub struct Command<'a> {
    /// What is asked.
    pub spec: &'static Spec,
    /// With what arguments.
    pub arguments: Arguments<'a>,
}

/// What the connection has to do besides sending the reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    #[default]
    None,
    /// Close once the reply is sent.
    Close,
    /// Speak this version of RESP, beginning with the reply to this command, which has written none:
    /// [`connection::greet`].
    Protocol(Protocol),
    /// Answer with a lane; the command has written no reply.
    Lane,
    /// Let the client join the rings of a classic topology; the command has written no reply.
    Rings,
    /// Answer with a watch; the command has written no reply.
    Watch,
    /// Let the pins in the client's lane count before the reply is sent; the command has written no reply.
    Pins,
    /// Execute the request again at the client's next turn, with the progress it has made; it has written no reply. If
    /// its value is [`Streamed::is_waiting`], not before it is not.
    Again,
}

/// What names a lease to who gives it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseName {
    /// The token that it was granted with.
    Token(u64),
    /// The ticket that it was asked for with.
    Ticket(u64),
}

/// What comes of asking for a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// It is the connection's now, with this token.
    Granted(u64),
    /// Somebody has it, with this token.
    Taken(u64),
    /// The one that was waited for is over, and the value was not stored: here it is, if it was handed over.
    Over(Option<Arc<[u8]>>),
}

/// Why a lease ends though the key has no new value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwritten<'a> {
    /// The table has no place for the value, which is for those who wait, if it is not too large.
    NotStored(Option<&'a [u8]>),
    /// Computing it has failed, and an old value was good enough.
    Failed,
}

/// What the server around the table adds.
pub trait Host {
    /// Has all memory that nobody uses given back to the system, while we go on.
    fn ask_for_memory_back(&self);

    /// Whether that is done.
    fn has_given_memory_back(&self) -> bool;

    /// All figures by name, in the order to show them.
    fn figures(&self) -> Vec<(String, i64)>;

    /// Grants a connection the lease of a key, if nobody has it. Who waited for the lease with the token `after` gets
    /// instead what came of that, if it is left here.
    ///
    /// # Errors
    /// If there are too many.
    fn lease(&self, connection: u64, key: &[u8], ticket: u64, after: u64) -> Result<LeaseAnswer, Refusal>;

    /// Has room made for a large entry, and rings for the worker that waits.
    fn order(&self, order: &Arc<Order>);

    /// Ends a lease of a connection. Returns whether it had it.
    fn unlease(&self, connection: u64, key: &[u8], name: LeaseName) -> bool;

    /// Ends a lease of a connection, and leaves what came of it to those who wait. Returns whether it had it.
    fn hand_over(&self, connection: u64, key: &[u8], token: u64, outcome: Unwritten<'_>) -> bool;
}

/// What a command works with.
pub struct Context<'a> {
    /// The table.
    pub writer: &'a mut Writer<Mapping>,
    /// A place for values on their way, kept from command to command, each of which finds it empty.
    pub scratch: &'a mut Buffer,
    /// The same for many entries.
    pub pairs: &'a mut Pairs,
    /// The value of a `SET`, if it is not among the arguments, or on its way from there.
    pub streamed: Option<Streamed>,
    /// Where the answer goes.
    pub reply: &'a mut dyn ReplyWriter,
    /// The server around the table.
    pub host: &'a dyn Host,
    /// The number of the connection, which no other one has or had: what belongs to it ends with it.
    pub connection: u64,
    /// The number of the worker.
    pub worker: usize,
    /// The version of RESP that the connection speaks; a lane counts as 3.
    pub protocol: Protocol,
    /// How far a command that takes several turns has come; 0 at its begin.
    pub progress: u64,
    /// What the connection has to do besides.
    pub effect: Effect,
    /// When the turn is over, by the monotonic clock. A command that has much to do asks [`Self::is_turn_over`] between
    /// bounded pieces of it, of which it does one at least.
    pub turn_ends_ns: u64,
    /// Bytes of the table that the command has gone over, those in `scratch` and `pairs` not counted.
    pub passed: usize,
}

impl Context<'_> {
    /// Whether a command with more to do has to leave it for the client's next turn, or for its next request.
    #[inline]
    pub fn is_turn_over(&self) -> bool {
        monotonic_ns() >= self.turn_ends_ns
    }
}

/// Does what is asked and writes exactly one reply (except for [`Effect::Protocol`], [`Effect::Lane`],
/// [`Effect::Rings`], [`Effect::Watch`], [`Effect::Pins`] and [`Effect::Again`]).
pub fn execute(context: &mut Context<'_>, command: Command<'_>) {
    let Command { spec, arguments } = command;
    context.scratch.clear();
    context.pairs.clear();
    context.writer.take_crowded();
    // A value that has arrived goes with the attempt to write it.
    let is_repeatable = context.streamed.is_none();
    let outcome = if spec.arity.contains(&arguments.len()) {
        (spec.run)(context, arguments)
    } else {
        let name = spec.name.to_ascii_lowercase();
        Err(Refusal::err(format_args!("wrong number of arguments for '{name}' command")))
    };
    if let Err(Refusal(message)) = outcome {
        if is_repeatable && context.writer.take_crowded() && context.has_patience() {
            context.effect = Effect::Again;
        } else {
            context.reply.error(&message);
        }
    }
}

impl Context<'_> {
    /// Whether to try a write again that other workers were in the way of. The progress of such a command, which has
    /// changed nothing and answered nothing, is the time at which it was tried first.
    fn has_patience(&mut self) -> bool {
        let now_ns = monotonic_ns();
        if self.progress == 0 {
            self.progress = now_ns;
        }
        now_ns.saturating_sub(self.progress) < limits::ROOM_PATIENCE_NS
    }
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
