//! What a command works with: the table, its buffers, where the answer goes, and how much time there is.

use super::flow::{ConnectionChange, Flow};
use super::host::{Host, Recipient};
use super::protocol::Protocol;
use super::reply::ReplyWriter;
use super::streamed::Streamed;
use super::task::Task;
use crate::limits;
use crate::shm::clock::monotonic_ns;
use crate::shm::segment::Mapping;
use crate::sync::Arc;
use crate::table::lookup::Buffer;
use crate::table::{Pairs, Writer};

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
    /// What another thread does for the command, if that was begun in a turn before.
    pub task: Option<Arc<Task>>,
    /// Where the answer goes.
    pub reply: &'a mut dyn ReplyWriter,
    /// The server around the table.
    pub host: &'a dyn Host,
    /// The number of the connection, which no other one has or had: what belongs to it ends with it.
    pub connection: u64,
    /// Where it can be told something later, if it can.
    pub recipient: Option<Recipient>,
    /// The number of the worker.
    pub worker: usize,
    /// The version of RESP that the connection speaks; a lane counts as 3.
    pub protocol: Protocol,
    /// How far a command that takes several turns has come; 0 at its begin.
    pub progress: u64,
    /// What it has counted on the way; 0 at its begin.
    pub counted: u64,
    /// What the connection does next.
    pub flow: Flow,
    /// What changes about the connection, which then answers itself.
    pub change: Option<ConnectionChange>,
    /// When the turn is over, by the monotonic clock. A command that has much to do asks [`Self::is_turn_over`] between
    /// bounded pieces of it, of which it does one at least.
    pub turn_ends_ns: u64,
    /// Bytes of keys after which a listing ends and gives a cursor to go on from.
    pub listing_size: usize,
    /// Bytes of a value that a reply may bring: what has more is neither deleted nor replaced in order to return it.
    pub returned_size_max: usize,
    /// Bytes of the table that the command has gone over, those in `scratch` and `pairs` not counted.
    pub passed: usize,
}

impl Context<'_> {
    /// Whether a command with more to do has to leave it for the client's next turn, or for its next request.
    #[inline]
    pub fn is_turn_over(&self) -> bool {
        monotonic_ns() >= self.turn_ends_ns
    }

    /// Whether to try a write again that other workers were in the way of. The progress of such a command, which has
    /// changed nothing and answered nothing, is the time at which it was tried first.
    pub(super) fn has_patience(&mut self) -> bool {
        let now_ns = monotonic_ns();
        if self.progress == 0 {
            self.progress = now_ns;
        }
        now_ns.saturating_sub(self.progress) < limits::ROOM_PATIENCE_NS
    }
}
