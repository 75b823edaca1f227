//! Requests out, replies in, in order, over any transport: in steps that never wait.
//!
//! # Design
//!
//! Replies come in the order of requests, so they need no names. A request is pushed, all that was pushed is published,
//! replies are received. Some replies nobody waits for: those of posted writes, and of calls that were given up; they
//! are *owed*, and are dealt with as they come, before any reply that somebody waits for.
//!
//! The link says when there is something to wait for, and does not wait itself: a request that does not fit now is
//! [`Pushed::Full`], a reply that has not come is [`Poll::Pending`]. The driver of the link then waits, in its own
//! manner, for what the transport names (`awaited` of lane, rings, socket and UDP), and takes the step again.
//! [`super::blocking`] is the driver of calls that block their thread.
//!
//! Between replies there may be pushes. They are nobody's replies, and go to [`super::answers`].
//!
//! # Invariants
//!
//! - A step that finds no room has taken all replies that there are. So a driver that only repeats the step does not
//!   deadlock, though both directions may be full.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use super::channel::Channel;
use super::error::Error;
use super::replies::refusal;
use super::sharing::Sharing;
use super::validate::unknown_to_server;
use crate::command::known::Known;
use crate::command::reply::Reply;

/// Counters that tell whether a posted write to a key may be on its way.
const FILTER_SIZE: usize = 1_024;
/// Posted writes on their way, above which the next one takes what replies have come.
const POSTED_UNTAKEN_MAX: usize = 64;

/// What became of a request that was to be pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// The link has it.
    Taken,
    /// It does not fit now, and nothing has changed: push it again when there is something new.
    Full,
}

/// A reply that comes though nobody waits for it.
#[derive(Clone, Copy)]
enum Owed {
    /// Of a posted write to a key with this hash.
    Posted(u64),
    /// Of a call that was given up.
    Abandoned,
}

pub(super) struct Link {
    channel: Channel,
    /// Which commands the server knows: no other one is pushed.
    known: Known,
    owed: VecDeque<Owed>,
    /// Replies that came while something else was waited for.
    received: VecDeque<Reply>,
    /// Requests pushed whose replies have not been handed out, owed ones not counted.
    outstanding: usize,
    posted_filter: Box<[u16; FILTER_SIZE]>,
    posted_error: Option<Error>,
    sharing: Arc<Sharing>,
}

impl Link {
    pub fn new(channel: Channel, known: Known, sharing: Arc<Sharing>) -> Self {
        Self {
            channel,
            known,
            owed: VecDeque::new(),
            received: VecDeque::new(),
            outstanding: 0,
            posted_filter: Box::new([0; FILTER_SIZE]),
            posted_error: None,
            sharing,
        }
    }

    /// The transport, to wait for.
    pub fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    /// Begins a call, with the bill for what came before: the replies of a call that was given up become owed, and the
    /// error of a posted write surfaces here.
    #[inline]
    pub fn begin(&mut self) -> Result<(), Error> {
        self.write_off();
        self.posted_error.take().map_or(Ok(()), Err)
    }

    /// Begins what is no call of the caller's: the replies of a call that was given up become owed, and the error of a
    /// posted write waits for a call.
    #[inline]
    pub fn write_off(&mut self) {
        if self.outstanding > 0 {
            // A call was given up: what it has received is dropped, what is still to come is owed.
            let come = self.received.len();
            self.received.clear();
            self.owed.extend(std::iter::repeat_n(Owed::Abandoned, self.outstanding - come));
            self.outstanding = 0;
        }
    }

    /// Whether replies to the call of the moment have come that it has not taken.
    pub fn has_answers(&self) -> bool {
        !self.received.is_empty()
    }

    /// Whether requests that are pushed from here on are only measured, for a transport that refuses large ones: so
    /// that none of a batch is sent if one of it is refused. To be called between calls.
    pub fn measure(&mut self, is_on: bool) {
        if let Channel::Udp(udp) = &mut self.channel {
            udp.measures = is_on;
            self.outstanding = 0;
        }
    }

    /// Writes one request. Not yet published. Its reply is to be received.
    #[inline]
    pub fn push(&mut self, number: u16, arguments: &[&[u8]]) -> Result<Pushed, Error> {
        self.check_known(number)?;
        if !self.channel.try_push(number, arguments)? && !self.push_again(number, arguments)? {
            return Ok(Pushed::Full);
        }
        self.outstanding += 1;
        Ok(Pushed::Taken)
    }

    /// Refuses what a server of another version would end the connection for.
    #[inline]
    fn check_known(&self, number: u16) -> Result<(), Error> {
        if self.known.has(number) { Ok(()) } else { Err(unknown_to_server(number)) }
    }

    /// Tries once more after taking the replies that may be what the server waits for.
    #[cold]
    fn push_again(&mut self, number: u16, arguments: &[&[u8]]) -> Result<bool, Error> {
        self.take_replies()?;
        self.channel.try_push(number, arguments)
    }

    /// Begins a posted write. Takes what replies have come if there are many to come.
    pub fn begin_post(&mut self) -> Result<(), Error> {
        self.begin()?;
        if self.owed.len() >= POSTED_UNTAKEN_MAX {
            self.take_replies()?;
            self.begin()?;
        }
        Ok(())
    }

    /// Writes a request that changes a key with this hash, whose reply nobody waits for. Not yet published.
    pub fn post(&mut self, number: u16, arguments: &[&[u8]], hash: u64) -> Result<Pushed, Error> {
        self.check_known(number)?;
        // The counters are 16 bits wide; so many writes to one place are waited for.
        if self.posted_filter[place(hash)] == u16::MAX {
            self.take_replies()?;
            if self.posted_filter[place(hash)] == u16::MAX {
                return Ok(Pushed::Full);
            }
        }
        if !self.channel.try_push(number, arguments)? && !self.push_again(number, arguments)? {
            return Ok(Pushed::Full);
        }
        self.posted_filter[place(hash)] += 1;
        self.count_posted(usize::wrapping_add);
        self.owed.push_back(Owed::Posted(hash));
        Ok(Pushed::Taken)
    }

    /// Lets the server have what was pushed, as far as there is room; the rest goes with later steps. Returns whether
    /// all has gone.
    #[inline]
    pub fn publish(&mut self) -> Result<bool, Error> {
        if self.channel.publish()? { Ok(true) } else { self.take_replies().map(|()| false) }
    }

    /// What comes next over the transport, if it is a reply. Pushes on the way are handed to the threads that wait for
    /// them.
    #[inline]
    fn next(&mut self) -> Result<Option<Reply>, Error> {
        loop {
            match self.channel.try_receive()? {
                Some(Reply::Push(push)) => self.sharing.answers.deliver(push),
                reply => return Ok(reply),
            }
        }
    }

    /// The next reply that somebody waits for.
    #[inline]
    pub fn receive(&mut self) -> Result<Poll<Reply>, Error> {
        loop {
            if let Some(reply) = self.received.pop_front() {
                self.outstanding -= 1;
                return Ok(Poll::Ready(reply));
            }
            match self.next()? {
                Some(reply) if self.owed.is_empty() => {
                    self.outstanding -= 1;
                    return Ok(Poll::Ready(reply));
                }
                Some(reply) => self.settle_one(reply),
                None => return Ok(Poll::Pending),
            }
        }
    }

    /// Takes the replies that have come. Ready if posted writes to keys with that hash (`None`: to any key) are done.
    /// Their errors surface when the next call begins.
    pub fn settle(&mut self, hash: Option<u64>) -> Result<Poll<()>, Error> {
        self.take_replies()?;
        let is_done = match hash {
            Some(hash) => self.posted_filter[place(hash)] == 0,
            None => self.sharing.posted.load(Ordering::Relaxed) == 0,
        };
        Ok(if is_done { Poll::Ready(()) } else { Poll::Pending })
    }

    /// Whether a posted write has to be waited for, so that it is an acknowledged one: a client that is owed a reply
    /// holds the rings back until it takes it; and over UDP a write that is lost is sent again by who waits.
    pub fn settles_posts(&self) -> bool {
        matches!(self.channel, Channel::Rings(_) | Channel::Udp(_))
    }

    /// Takes all that has come: replies, and pushes.
    pub fn take_replies(&mut self) -> Result<(), Error> {
        while let Some(reply) = self.next()? {
            if self.owed.is_empty() {
                self.received.push_back(reply);
            } else {
                self.settle_one(reply);
            }
        }
        Ok(())
    }

    /// Counts one posted write more, or less. Relaxed, and no exchange: who has the link is the only one that writes
    /// it.
    #[inline]
    fn count_posted(&self, change: fn(usize, usize) -> usize) {
        let posted = &self.sharing.posted;
        posted.store(change(posted.load(Ordering::Relaxed), 1), Ordering::Relaxed);
    }

    fn settle_one(&mut self, reply: Reply) {
        if let Some(Owed::Posted(hash)) = self.owed.pop_front() {
            self.posted_filter[place(hash)] -= 1;
            self.count_posted(usize::wrapping_sub);
            if let Reply::Error(message) = reply {
                self.posted_error.get_or_insert_with(|| refusal(message));
            }
        }
    }
}

/// The counter of a key's posted writes.
fn place(hash: u64) -> usize {
    hash as usize % FILTER_SIZE
}
