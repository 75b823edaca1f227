//! The executor of a worker: it executes requests on a store, whoever has sent them.
//!
//! It owns what a request needs: the table's writer, the places for values on their way, the private copy of the
//! request in hand, and the budget of the turn. What belongs to one connection stays in that connection's session; a
//! session calls the executor, and the executor calls no session.

use std::ops::{ControlFlow, Range};

use super::buffers::{Discarded, KEPT_MAX, RECEIVE_SIZE};
use super::end::End;
use super::leases::Leases;
use super::outgoing::{Durable, Outgoing};
use super::statistics::{Statistics, WorkerStatistics};
use super::store::Store;
use super::topology::Topology;
use super::turn::Budget;
use crate::command::connection::{NO_PINS, greet};
use crate::command::protocol::Protocol;
use crate::command::record::RecordWriter;
use crate::command::reply::ReplyWriter;
use crate::command::spec::{Flag, Keys};
use crate::command::{
    self, Command, ConnectionChange, Context, Flow, Host, Recipient, Streamed, Task, Upgrade, pending,
};
use crate::limits;
use crate::shm::clock::monotonic_ns;
use crate::shm::segment::Mapping;
use crate::sync::Arc;
use crate::table::lookup::Buffer;
use crate::table::{Pairs, Writer};

/// The server around the store, as an executor has it.
pub(super) type ServerHost = Arc<dyn Host + Send + Sync>;

/// What a connection has to do after a request, and how far the request has come if it takes several turns.
pub(super) struct Executed {
    pub flow: Flow,
    /// What changes about the connection, which has to answer then.
    pub change: Option<ConnectionChange>,
    pub again: Again,
    /// Whether nothing of it was done, and nothing is kept of it but what it waits for.
    pub is_put_off: bool,
    /// What the reply waits for.
    pub durable: Option<Durable>,
}

/// How far a request has come, and what has come of its value if that does not stand in it.
#[derive(Default)]
pub(super) struct Again {
    pub progress: u64,
    pub counted: u64,
    pub streamed: Option<Streamed>,
    /// What another thread does for it.
    pub task: Option<Arc<Task>>,
}

impl Again {
    /// Whether it can do nothing before another thread has made room for it, or has done what it waits for.
    pub fn is_waiting(&self) -> bool {
        self.streamed.as_ref().is_some_and(Streamed::is_waiting)
            || self.task.as_ref().is_some_and(|task| !task.is_done())
    }
}

/// What a worker needs to execute requests.
pub(super) struct Executor {
    pub store: Arc<Store>,
    pub statistics: Arc<Statistics>,
    /// A private copy of the request in hand.
    pub record: Vec<u8>,
    ranges: Vec<Range<usize>>,
    /// What a socket has just given, for sessions that keep it.
    pub received: Box<[u8]>,
    pub discarded: Discarded,
    /// What is taken of requests that wait.
    pub intake: Intake,
    pub engine: Engine,
}

/// What is taken of requests that wait, by how much of a server's time is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Intake {
    #[default]
    All,
    /// Those that are there as a whole, and whose reply finds room.
    Whole,
    /// Nothing but the rest of what was begun.
    Nothing,
}

/// The part of an executor that a request changes while it is executed: apart from the copy of the request, which is
/// read meanwhile.
pub(super) struct Engine {
    /// The number of the worker.
    pub worker: usize,
    pub writer: Writer<Mapping>,
    host: ServerHost,
    pub topology: Topology,
    /// The number of the connection whose turn it is.
    pub connection: u64,
    /// Where that can be told something later, if it can.
    recipient: Option<Recipient>,
    store: Arc<Store>,
    /// Of the store: who is to be told of writes.
    leases: Arc<Leases>,
    pub budget: Budget,
    /// Bytes of keys in a listing: over UDP it has to fit a datagram.
    pub listing_size: usize,
    /// Bytes of a value that a reply may bring.
    pub returned_size_max: usize,
    scratch: Buffer,
    pairs: Pairs,
    statistics: Arc<Statistics>,
    /// Writes in this turn.
    writes: u64,
}

impl Engine {
    /// The number of the table.
    pub fn table_id(&self) -> u64 {
        self.writer.table().constants().id
    }

    /// Executes a request, or goes on with one that has come as far as `again` says. The reply goes to `reply`.
    pub fn execute(
        &mut self,
        command: Command<'_>,
        reply: &mut dyn ReplyWriter,
        protocol: Protocol,
        again: Again,
    ) -> Executed {
        let again = match self.put_off(command, reply, again) {
            ControlFlow::Continue(again) => again,
            ControlFlow::Break(executed) => return executed,
        };
        let Again { progress, counted, streamed, task } = again;
        #[cfg(test)]
        super::tests::panic_if_asked(&command.arguments);
        self.budget.begin();
        if progress == 0 {
            // At once, and not as the turn ends: who has its answer may ask for the figures within the same turn.
            self.counts().note_request();
            self.writes += u64::from(command.spec.has(Flag::Writes));
        }
        let mut context = Context {
            writer: &mut self.writer,
            scratch: &mut self.scratch,
            pairs: &mut self.pairs,
            streamed,
            task,
            reply,
            host: &*self.host,
            connection: self.connection,
            recipient: self.recipient,
            worker: self.worker,
            protocol,
            progress,
            counted,
            flow: Flow::Next,
            change: None,
            turn_ends_ns: self.budget.ends_ns(),
            listing_size: self.listing_size,
            returned_size_max: self.returned_size_max,
            passed: 0,
        };
        command::execute(&mut context, command);
        let (flow, change, passed) = (context.flow, context.change, context.passed);
        let Context { progress, counted, streamed, task, .. } = context;
        let again = Again { progress, counted, streamed, task };
        self.budget.pass(passed + self.scratch.bytes().len() + self.pairs.size());
        if self.writer.take_written() && self.leases.has_waiters() {
            self.note_written(command);
        }
        let durable = self.durability(command, flow);
        Executed { flow, change, again, is_put_off: false, durable }
    }

    /// Does not execute a write that the log could not take now: it is refused, or waits for room. Else gives back
    /// how far it has come.
    #[inline]
    fn put_off(
        &mut self,
        command: Command<'_>,
        reply: &mut dyn ReplyWriter,
        again: Again,
    ) -> ControlFlow<Executed, Again> {
        let Some(log) = self.store.persistence.log().filter(|_| command.spec.has(Flag::Writes)) else {
            return ControlFlow::Continue(again);
        };
        // What has begun to change something goes on.
        if again.progress != 0 {
            return ControlFlow::Continue(again);
        }
        if let Some(refusal) = log.refusal() {
            reply.error(&refusal);
            let again = Again::default();
            let (flow, change, durable) = (Flow::Next, None, None);
            return ControlFlow::Break(Executed { flow, change, again, is_put_off: false, durable });
        }
        match log.room(self.worker) {
            None => ControlFlow::Continue(again),
            task => {
                let is_put_off = again.streamed.is_none();
                let (flow, change, durable) = (Flow::Again, None, None);
                ControlFlow::Break(Executed { flow, change, again: Again { task, ..again }, is_put_off, durable })
            }
        }
    }

    /// What the reply to a command waits for that was executed.
    #[inline]
    fn durability(&self, command: Command<'_>, flow: Flow) -> Option<Durable> {
        if !command.spec.has(Flag::Writes) || flow == Flow::Again {
            return None;
        }
        self.store.persistence.log()?.durability(self.worker)
    }

    /// Has this worker rung when something is on the disk.
    ///
    /// # Errors
    /// [`End::Undurable`] if nothing comes there any more.
    pub fn wait_for_log(&self) -> Result<(), End> {
        let Some(log) = self.store.persistence.log() else { return Ok(()) };
        log.wait_at(self.worker);
        if log.is_broken() { Err(End::Undurable) } else { Ok(()) }
    }

    /// What this worker counts.
    #[inline]
    fn counts(&self) -> &WorkerStatistics {
        &self.statistics.workers[self.worker]
    }

    /// Begins the turn of a connection, which can be told something later, if at all, as a client of ours in that
    /// place.
    #[inline]
    pub fn turn_to(&mut self, connection: u64, place: Option<usize>) {
        self.connection = connection;
        self.recipient = place.map(|place| Recipient { worker: self.worker, place });
    }

    /// Has those told who wait for the key that a command has written. One that deletes many keys has left nothing to
    /// look at.
    #[cold]
    fn note_written(&self, command: Command<'_>) {
        if command.spec.keys == Keys::First
            && let Some(key) = command.arguments.iter().next()
        {
            self.leases.note_written(key);
        }
    }

    /// Executes a request that came as a record. The reply goes to the end of `outgoing`, as one.
    fn execute_as_record(&mut self, command: Command<'_>, outgoing: &mut Outgoing, again: Again) -> Executed {
        let mut writer = RecordWriter::new(outgoing);
        let executed = self.execute(command, &mut writer, Protocol::Resp3, again);
        match executed.change {
            Some(ConnectionChange::Upgrade(Upgrade::Lane | Upgrade::Rings)) => {
                writer.error("ERR this connection has a lane, or has joined the rings, already");
            }
            Some(ConnectionChange::Upgrade(Upgrade::Watch)) => {
                writer.error("ERR a watch is a connection of its own: ask for it on a new one")
            }
            Some(ConnectionChange::Pins) if self.topology == Topology::Lanes => writer.ok(),
            Some(ConnectionChange::Pins) => writer.error(NO_PINS),
            Some(ConnectionChange::Protocol(protocol)) => {
                greet(&mut writer, protocol, self.connection, self.table_id())
            }
            Some(ConnectionChange::Pending(ticket)) => pending::postpone(&mut writer, ticket),
            None => {}
        }
        writer.finish();
        executed
    }
}

impl Executor {
    /// The executor of worker `index`, on a store.
    pub fn new(
        index: usize,
        store: Arc<Store>,
        statistics: Arc<Statistics>,
        host: ServerHost,
        topology: Topology,
    ) -> Self {
        let engine = Engine {
            worker: index,
            writer: Writer::new(Arc::clone(&store.table)),
            host,
            topology,
            connection: 0,
            recipient: None,
            leases: Arc::clone(&store.leases),
            store: Arc::clone(&store),
            budget: Budget::default(),
            listing_size: limits::DUMP_SIZE_MAX,
            returned_size_max: limits::VALUE_SIZE_MAX,
            scratch: Buffer::default(),
            pairs: Pairs::default(),
            statistics: Arc::clone(&statistics),
            writes: 0,
        };
        Self {
            store,
            statistics,
            record: Vec::new(),
            ranges: Vec::new(),
            received: vec![0; RECEIVE_SIZE].into(),
            discarded: Discarded::default(),
            intake: Intake::default(),
            engine,
        }
    }

    /// Executes the request in `record`, or goes on with it. The reply goes to the end of `outgoing`.
    pub fn execute_own_record(&mut self, outgoing: &mut Outgoing, again: Again) -> Result<Executed, End> {
        let command = Command::of_record(&self.record, &mut self.ranges).ok_or(End::Record)?;
        Ok(self.engine.execute_as_record(command, outgoing, again))
    }

    /// The same of a request that the connection keeps.
    pub fn execute_record(&mut self, record: &[u8], outgoing: &mut Outgoing, again: Again) -> Result<Executed, End> {
        let command = Command::of_record(record, &mut self.ranges).ok_or(End::Record)?;
        Ok(self.engine.execute_as_record(command, outgoing, again))
    }

    /// What this worker counts.
    pub fn counts(&self) -> &WorkerStatistics {
        self.engine.counts()
    }

    /// Frees some of what connections that are gone have left behind. Returns whether there is more.
    #[inline]
    pub fn tend_left_behind(&mut self) -> bool {
        let leases = &self.store.leases;
        (leases.has_ended() && leases.tend()) | self.discarded.tend()
    }

    /// Whether the client whose turn it is has had its share, after so many requests and so many bytes of them.
    #[inline]
    pub fn is_turn_over(&self, requests: usize, bytes: usize) -> bool {
        self.engine.budget.is_over(requests, bytes)
    }

    /// Ends a turn: counts how long its writes took.
    pub fn end_turn(&mut self) {
        let engine = &mut self.engine;
        if !engine.budget.end() {
            return;
        }
        let writes = std::mem::take(&mut engine.writes);
        if writes > 0 {
            engine.counts().record_writes(monotonic_ns() - engine.budget.began_ns(), writes);
        }
        if engine.pairs.capacity() > KEPT_MAX {
            engine.pairs = Pairs::default();
        }
        if self.record.capacity() > KEPT_MAX {
            let record = std::mem::take(&mut self.record);
            let touched = record.capacity();
            self.discarded.put(record, touched);
        }
    }
}
