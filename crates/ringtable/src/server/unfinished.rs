//! A request in a lane whose bytes have not all arrived, or whose large value flows past it.

use std::sync::Arc;

use super::buffers;
use super::end::End;
use super::executor::Executor;
use super::inflow::{Begin, Inflow};
use super::request_memory::RequestMemory;
use crate::command::record;
use crate::command::{Order, Streamed};

/// A request whose bytes have not all arrived, or one with a large value.
pub(super) struct Unfinished {
    /// Bytes of its record, but those of a value that flows past it.
    size: usize,
    /// What has come of it.
    pub bytes: Vec<u8>,
    pub stage: Stage,
}

/// How far an unfinished request has come.
pub(super) enum Stage {
    /// It may be a `SET` with a large value; so many bytes tell.
    Head(usize),
    /// It is one: behind so many bytes the value begins, and these are the sizes of key and value.
    Key { end: usize, key_size: usize, value_size: usize },
    /// Room for its value is being made.
    Wait(Arc<Order>),
    /// The value flows past.
    Value(Inflow),
    /// The rest comes, for a value that has come if there is one.
    Rest(Option<Streamed>),
}

impl Unfinished {
    /// A request of `size` bytes, of which nothing has come.
    pub fn new(size: usize, stage: Stage) -> Self {
        Self { size, bytes: Vec::new(), stage }
    }

    /// The place for up to `size` more bytes of what is gathered. Memory grows with what has arrived, never with what
    /// is announced, and all clients' together stay bounded.
    pub fn make_room(&mut self, size: usize, memory: &RequestMemory) -> Result<&mut [u8], End> {
        let end = match self.stage {
            Stage::Head(end) | Stage::Key { end, .. } => end,
            Stage::Wait(_) | Stage::Value(_) | Stage::Rest(_) => self.size,
        };
        let start = self.bytes.len();
        let size = size.min(end - start);
        let all = memory.recount(start, start + size);
        if memory.is_too_much_unfinished(all, start + size)
            || buffers::reserve(&mut self.bytes, size, self.size - start).is_err()
        {
            memory.recount(start + size, start);
            return Err(End::Memory);
        }
        self.bytes.resize(start + size, 0);
        Ok(&mut self.bytes[start..])
    }

    /// Counts what was gathered no more.
    pub fn forget_size(&self, memory: &RequestMemory) {
        memory.recount(self.bytes.len(), 0);
    }

    /// Goes on to the next stage if what this one waits for is here. Returns whether all is.
    pub fn advance(&mut self, executor: &mut Executor) -> bool {
        loop {
            self.stage = match std::mem::replace(&mut self.stage, Stage::Rest(None)) {
                Stage::Head(end) if self.bytes.len() == end => match record::large_set_sizes(&self.bytes) {
                    Some((key_size, value_size)) => {
                        Stage::Key { end: end + key_size.next_multiple_of(8), key_size, value_size }
                    }
                    None => Stage::Rest(None),
                },
                Stage::Key { end, key_size, value_size } if self.bytes.len() == end => {
                    let key_at = end - key_size.next_multiple_of(8);
                    let begin = Begin::with(executor, &self.bytes[key_at..key_at + key_size], value_size);
                    self.begin(begin)
                }
                Stage::Wait(order) if order.is_done() => self.begin(Begin::of_order(&order, executor)),
                Stage::Value(inflow) if inflow.missing() == 0 => Stage::Rest(Some(inflow.finish())),
                stage => {
                    let is_last = matches!(stage, Stage::Rest(_));
                    self.stage = stage;
                    return is_last && self.bytes.len() == self.size;
                }
            }
        }
    }

    /// The stage that follows when it is known where the value goes.
    fn begin(&mut self, begin: Begin) -> Stage {
        match begin {
            Begin::Flow(inflow) => {
                self.size = record::cut_value(&mut self.bytes);
                Stage::Value(inflow)
            }
            Begin::Gather => Stage::Rest(None),
            Begin::Wait(order) => Stage::Wait(order),
        }
    }

    /// Whether nothing can be done about it yet.
    pub fn is_waiting(&self) -> bool {
        matches!(&self.stage, Stage::Wait(order) if !order.is_done())
    }
}
