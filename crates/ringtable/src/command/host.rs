//! What commands need of the server around the table: a seam, so that they run without one, too.

use super::refusal::Refusal;
use super::streamed::Order;
use super::task::Task;
use crate::sync::Arc;

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

/// What is asked of a lock, or a semaphore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRequest {
    /// What the client may give it back by that has not waited for the token, and what it is told by.
    pub ticket: u64,
    /// How many may have it at a time.
    pub permits: u64,
    /// Milliseconds after which it ends by itself.
    pub ttl_ms: Option<u64>,
}

/// What comes of asking for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockAnswer {
    /// It is the connection's now, with this token.
    Granted(u64),
    /// All permits are taken.
    Taken,
    /// The connection is in the queue, and told later.
    Pending,
}

/// How a party at a barrier stands. Either way, so many were still to come when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits.
    Waits(u64),
    /// All have come.
    Passed(u64),
}

/// Why a lease ends though the key has no new value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwritten<'a> {
    /// The table has no place for the value, which is for those who wait, if it is not too large.
    NotStored(Option<&'a [u8]>),
    /// Computing it has failed, and an old value was good enough.
    Failed,
}

/// Where an answer goes that comes later: a place among the clients of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// The number of the worker.
    pub worker: usize,
    /// The place, which is another client's if this one has gone meanwhile.
    pub place: usize,
}

/// What an option of the server is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// A number, of the unit that the option's name says.
    Number(u64),
    /// A word, an address.
    Text(String),
    /// It was left open.
    Open,
}

/// How a server stands that keeps its table on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SavingState {
    /// Whether a snapshot is being written.
    pub is_under_way: bool,
    /// When the last one was whole, in seconds since 1970; before there was one, when the server was started.
    pub last_s: u64,
    /// Whether the last one has failed.
    pub has_failed: bool,
    /// How long the last one took, whole or not, in milliseconds.
    pub last_took_ms: u64,
    /// How many entries were loaded at the start.
    pub loaded: u64,
    /// How many became whole.
    pub saved: u64,
    /// How many failed.
    pub failed: u64,
    /// How many entries the last whole one has.
    pub last_entries: u64,
    /// How many bytes.
    pub last_size: u64,
}

/// How the log of a server stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// Bytes of the file of changes that is being written.
    pub size: u64,
    /// Bytes of all files of changes behind the snapshot.
    pub size_all: u64,
    /// Records that were written.
    pub records: u64,
    /// Batches that were written.
    pub batches: u64,
    /// How often it was synced.
    pub syncs: u64,
    /// How often the disk has failed.
    pub errors: u64,
    /// How long the longest sync took, in microseconds.
    pub sync_us_max: u64,
    /// How often the files were begun anew with a snapshot.
    pub rewrites: u64,
    /// Whether the disk has failed, and no new snapshot has mended that.
    pub is_broken: bool,
}

/// What the server around the table adds.
pub trait Host {
    /// Has a snapshot written that is begun from now on. The worker that asks is rung for when it is whole.
    ///
    /// # Errors
    /// If the server has no folder for it.
    fn save(&self, worker: usize) -> Result<Arc<Task>, Refusal>;

    /// How that stands; `None` without such a folder.
    fn saving(&self) -> Option<SavingState>;

    /// Has all that was changed so far brought to the disk. The worker that asks is rung for when it is there.
    ///
    /// # Errors
    /// If the server has no log.
    fn flush_log(&self, worker: usize) -> Result<Arc<Task>, Refusal>;

    /// How the log stands; `None` if there is none.
    fn logging(&self) -> Option<LogState>;

    /// Has all memory that nobody uses given back to the system, while we go on.
    fn ask_for_memory_back(&self);

    /// Whether that is done.
    fn has_given_memory_back(&self) -> bool;

    /// All figures by name, in the order to show them.
    fn figures(&self) -> Vec<(String, i64)>;

    /// All options by name, as the server was started with them.
    fn options(&self) -> &[(&'static str, Setting)];

    /// Grants a connection the lease of a key, if nobody has it. A client that waited for the lease with the token
    /// `after` gets instead what came of that, if it is left here.
    ///
    /// # Errors
    /// If there are too many.
    fn lease(&self, connection: u64, key: &[u8], ticket: u64, after: u64) -> Result<LeaseAnswer, Refusal>;

    /// Has room made for a large entry, and rings for the worker that waits.
    fn order(&self, order: &Arc<Order>);

    /// Ends a lease of a connection. Returns whether it had it.
    fn unlease(&self, connection: u64, key: &[u8], name: LeaseName) -> bool;

    /// Has a connection told, with this ticket, once the lease of a key with this token is over, or the key was
    /// written. Returns whether it has to wait for that: `false` if there is no such lease now.
    ///
    /// # Errors
    /// If too many wait.
    fn wait(&self, connection: u64, key: &[u8], token: u64, ticket: u64, at: Recipient) -> Result<bool, Refusal>;

    /// Has a connection not told that waits for the lease of a key with this ticket. Returns whether it did.
    fn unwait(&self, connection: u64, key: &[u8], ticket: u64) -> bool;

    /// Has a connection told, with this ticket, once a key was written.
    ///
    /// # Errors
    /// If too many wait.
    fn wait_for_change(&self, connection: u64, key: &[u8], ticket: u64, at: Recipient) -> Result<(), Refusal>;

    /// Takes a permit of a name; or has the connection told the token later, if there is somewhere to tell it.
    ///
    /// # Errors
    /// If there are too many.
    fn lock(
        &self,
        connection: u64,
        name: &[u8],
        request: LockRequest,
        at: Option<Recipient>,
    ) -> Result<LockAnswer, Refusal>;

    /// Gives a permit of a connection back, or its place in the queue. Returns whether it had it.
    fn unlock(&self, connection: u64, name: &[u8], named: LeaseName) -> bool;

    /// Gives a permit of a connection a new time to live. Returns whether it has it.
    fn extend(&self, connection: u64, name: &[u8], token: u64, ttl_ms: u64) -> bool;

    /// How many permits of a name are taken; with a token, 1 if it is that of a permit of this connection.
    fn locked(&self, connection: u64, name: &[u8], token: Option<u64>) -> usize;

    /// Lets a party come to a barrier of so many, or asks how one stands that has come with this ticket before. It is
    /// told when all have come, if there is somewhere to tell it.
    ///
    /// # Errors
    /// If there are too many, or the parties do not agree on how many they are.
    fn come(
        &self,
        connection: u64,
        name: &[u8],
        parties: u64,
        ticket: u64,
        at: Option<Recipient>,
    ) -> Result<Standing, Refusal>;

    /// Lets a party wait no more that has come with this ticket. Returns how it stood, if it was neither told nor left
    /// before.
    fn leave(&self, connection: u64, name: &[u8], ticket: u64) -> Option<Standing>;

    /// How many wait at a barrier.
    fn parties_waiting(&self, name: &[u8]) -> u64;

    /// Ends a lease of a connection, and leaves what came of it to those who wait. Returns whether it had it.
    fn hand_over(&self, connection: u64, key: &[u8], token: u64, outcome: Unwritten<'_>) -> bool;
}
