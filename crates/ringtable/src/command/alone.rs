//! Commands on a table that has no server around it: for tests and fuzzers of what commands do.

use super::arguments::Arguments;
use super::commands::numbered;
use super::context::Context;
use super::execute::{Command, execute};
use super::flow::{ConnectionChange, Flow};
use super::host::{
    Host, LeaseAnswer, LeaseName, LockAnswer, LockRequest, LogState, Recipient, SavingState, Setting, Standing,
    Unwritten,
};
use super::protocol::Protocol;
use super::refusal::Refusal;
use super::reply::ReplyWriter;
use super::streamed::{Order, Streamed};
use super::task::Task;
use crate::limits;
use crate::shm::clock::monotonic_ns;
use crate::shm::segment::{Mapping, Segment};
use crate::sync::Arc;
use crate::table::lookup::Buffer;
use crate::table::{Options, Pairs, Table, WriteError, Writer};

/// A table, and what a worker has besides it.
pub struct Alone {
    /// The table.
    pub writer: Writer<Mapping>,
    /// How long a turn lasts.
    pub turn_ns: u64,
    scratch: Buffer,
    pairs: Pairs,
    /// What the command that takes several turns has counted.
    counted: u64,
    /// Its value.
    streamed: Option<Streamed>,
}

impl Alone {
    /// A table of `size` bytes.
    pub fn new(size: usize, options: &Options) -> Self {
        let segment = Segment::create("ringtable-alone", size).expect("there is memory");
        let table = Table::create(segment.map_writable().expect("there is memory"), options).expect("it fits");
        Self::of(Arc::new(table))
    }

    /// Another worker of the same table.
    #[cfg(test)]
    pub fn beside(&self) -> Self {
        Self::of(Arc::clone(self.writer.table()))
    }

    fn of(table: Arc<Table<Mapping>>) -> Self {
        Self {
            writer: Writer::new(table),
            turn_ns: limits::TURN_NS_MAX,
            scratch: Buffer::default(),
            pairs: Pairs::default(),
            counted: 0,
            streamed: None,
        }
    }

    /// One turn of the command of that number, which has come as far as `progress`. Returns what follows,
    /// whether the connection would have to answer, and how far it has come.
    pub fn turn(
        &mut self,
        number: u16,
        arguments: &[impl AsRef<[u8]>],
        reply: &mut dyn ReplyWriter,
        protocol: Protocol,
        progress: u64,
    ) -> (Flow, Option<ConnectionChange>, u64) {
        let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
        for argument in arguments {
            let begin = bytes.len();
            bytes.extend_from_slice(argument.as_ref());
            ranges.push(begin..bytes.len());
        }
        let mut context = Context {
            writer: &mut self.writer,
            scratch: &mut self.scratch,
            pairs: &mut self.pairs,
            streamed: self.streamed.take(),
            task: None,
            connection: 0,
            recipient: None,
            worker: 0,
            reply,
            host: &Nobody,
            protocol,
            progress,
            counted: if progress == 0 { 0 } else { self.counted },
            flow: Flow::Next,
            change: None,
            turn_ends_ns: monotonic_ns() + self.turn_ns,
            listing_size: limits::DUMP_SIZE_MAX,
            returned_size_max: limits::VALUE_SIZE_MAX,
            passed: 0,
        };
        let spec = numbered(number).expect("there is one");
        execute(&mut context, Command { spec, arguments: Arguments::new(&bytes, &ranges) });
        let (flow, change, progress) = (context.flow, context.change, context.progress);
        (self.counted, self.streamed) = (context.counted, context.streamed);
        (flow, change, progress)
    }

    /// Executes a command to its end. Returns how many turns that takes, and its reply, which comes in the last one.
    #[cfg(test)]
    pub fn run(&mut self, name: &str, arguments: &[impl AsRef<[u8]>]) -> (usize, String) {
        let (mut reply, mut progress, mut turns) = (Vec::new(), 0, 0);
        loop {
            let mut writer = super::resp::RespWriter::new(&mut reply, Protocol::Resp2);
            let (flow, _, come) =
                self.turn(super::commands::number(name), arguments, &mut writer, Protocol::Resp2, progress);
            (progress, turns) = (come, turns + 1);
            if flow != Flow::Again {
                return (turns, String::from_utf8_lossy(&reply).into_owned());
            }
            assert!(reply.is_empty());
        }
    }
}

/// No server.
struct Nobody;

impl Host for Nobody {
    fn save(&self, _: usize) -> Result<Arc<Task>, Refusal> {
        Err(Refusal::err("nobody saves this table"))
    }

    fn saving(&self) -> Option<SavingState> {
        None
    }

    fn flush_log(&self, _: usize) -> Result<Arc<Task>, Refusal> {
        Err(Refusal::err("nobody saves this table"))
    }

    fn logging(&self) -> Option<LogState> {
        None
    }

    fn figures(&self) -> Vec<(String, i64)> {
        Vec::new()
    }

    fn options(&self) -> &[(&'static str, Setting)] {
        &[]
    }

    fn ask_for_memory_back(&self) {}

    fn has_given_memory_back(&self) -> bool {
        true
    }

    fn lease(&self, _: u64, _: &[u8], _: u64, _: u64) -> Result<LeaseAnswer, Refusal> {
        Ok(LeaseAnswer::Taken(1))
    }

    fn order(&self, order: &Arc<Order>) {
        order.answer(Err(WriteError::OutOfMemory(order.size)));
    }

    fn unlease(&self, _: u64, _: &[u8], _: LeaseName) -> bool {
        false
    }

    fn wait(&self, _: u64, _: &[u8], _: u64, _: u64, _: Recipient) -> Result<bool, Refusal> {
        Ok(false)
    }

    fn unwait(&self, _: u64, _: &[u8], _: u64) -> bool {
        false
    }

    fn hand_over(&self, _: u64, _: &[u8], _: u64, _: Unwritten<'_>) -> bool {
        false
    }

    fn wait_for_change(&self, _: u64, _: &[u8], _: u64, _: Recipient) -> Result<(), Refusal> {
        Ok(())
    }

    fn lock(&self, _: u64, _: &[u8], _: LockRequest, _: Option<Recipient>) -> Result<LockAnswer, Refusal> {
        Ok(LockAnswer::Taken)
    }

    fn unlock(&self, _: u64, _: &[u8], _: LeaseName) -> bool {
        false
    }

    fn extend(&self, _: u64, _: &[u8], _: u64, _: u64) -> bool {
        false
    }

    fn locked(&self, _: u64, _: &[u8], _: Option<u64>) -> usize {
        0
    }

    fn come(&self, _: u64, _: &[u8], _: u64, _: u64, _: Option<Recipient>) -> Result<Standing, Refusal> {
        Ok(Standing::Passed(0))
    }

    fn leave(&self, _: u64, _: &[u8], _: u64) -> Option<Standing> {
        None
    }

    fn parties_waiting(&self, _: &[u8]) -> u64 {
        0
    }
}
