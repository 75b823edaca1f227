//! Requests out, replies in, in order, over any transport.
//!
//! # Design
//!
//! Replies come in the order of requests, so they need no names. A request is pushed (which takes replies when it has
//! to wait for room, so nothing deadlocks), all that was pushed is published, replies are received. Some replies
//! nobody waits for: those of posted writes, and of calls that were given up; they are *owed*, and are dealt with as
//! they come, before any reply that somebody waits for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::Error;
use super::lane::LaneLink;
use super::patience::Patience;
use super::replies::refusal;
use super::rings::RingsLink;
use super::sharing::Sharing;
use super::socket::SocketLink;
use crate::command::reply::Reply;

/// Counters that tell whether a posted write to a key may be on its way.
const FILTER_SIZE: usize = 1_024;
/// Posted writes on their way, above which the next one takes what replies have come.
const POSTED_UNTAKEN_MAX: usize = 64;
/// Requests after which a pipeline is published, so that the server begins while we go on.
const PUBLISH_EVERY: usize = 16;

/// One of the transports.
pub(super) enum Channel {
    Lane(Box<LaneLink>),
    Rings(Box<RingsLink>),
    Socket(Box<SocketLink>),
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
    pub fn new(channel: Channel, sharing: Arc<Sharing>) -> Self {
        Self {
            channel,
            owed: VecDeque::new(),
            received: VecDeque::new(),
            outstanding: 0,
            posted_filter: Box::new([0; FILTER_SIZE]),
            posted_error: None,
            sharing,
        }
    }

    /// Pushes `count` requests and publishes them. Their replies are to be received next.
    ///
    /// Begins with the bill for what came before: the replies of a call that was given up become owed, and the error
    /// of a posted write surfaces here.
    #[inline]
    pub fn exchange(
        &mut self,
        count: usize,
        request: impl Fn(&mut Self, usize, &mut Patience<'_>) -> Result<(), Error>,
        patience: &mut Patience<'_>,
    ) -> Result<(), Error> {
        self.begin()?;
        for index in 0..count {
            if let Err(error) = request(self, index, patience) {
                // What was pushed is done now, not at some later call; but not by a child of the one who pushed it.
                if !patience.is_inherited() {
                    let _ = match error {
                        // The call ends here: it does not wait once more, for room.
                        Error::Interrupted | Error::Timeout(_) => self.publish_at_once(),
                        _ => self.publish(patience),
                    };
                }
                return Err(error);
            }
            self.outstanding += 1;
            if (index + 1).is_multiple_of(PUBLISH_EVERY) {
                self.publish(patience)?;
            }
        }
        self.publish(patience)
    }

    #[inline]
    fn begin(&mut self) -> Result<(), Error> {
        if self.outstanding > 0 {
            // A call was given up: what it has received is dropped, what is still to come is owed.
            let come = self.received.len();
            self.received.clear();
            self.owed.extend(std::iter::repeat_n(Owed::Abandoned, self.outstanding - come));
            self.outstanding = 0;
        }
        self.posted_error.take().map_or(Ok(()), Err)
    }

    /// Writes one request, taking replies while there is no room for it. Not yet published.
    #[inline]
    pub fn push(&mut self, number: u16, arguments: &[&[u8]], patience: &mut Patience<'_>) -> Result<(), Error> {
        let done = match &mut self.channel {
            Channel::Lane(lane) => lane.try_push(number, arguments)?,
            Channel::Rings(rings) => rings.try_push(number, arguments)?,
            Channel::Socket(socket) => socket.try_push(number, arguments)?,
        };
        if done { Ok(()) } else { self.push_slowly(number, arguments, patience) }
    }

    #[cold]
    fn push_slowly(&mut self, number: u16, arguments: &[&[u8]], patience: &mut Patience<'_>) -> Result<(), Error> {
        patience.start();
        loop {
            self.take_replies()?;
            let done = match &mut self.channel {
                Channel::Lane(lane) => {
                    if lane.try_push(number, arguments)? {
                        true
                    } else {
                        lane.push_in_pieces(number, arguments)?
                    }
                }
                Channel::Rings(rings) => rings.try_push(number, arguments)?,
                Channel::Socket(socket) => socket.try_push(number, arguments)?,
            };
            if done {
                return Ok(());
            }
            self.wait(patience)?;
        }
    }

    #[inline]
    fn publish(&mut self, patience: &mut Patience<'_>) -> Result<(), Error> {
        match &mut self.channel {
            Channel::Lane(lane) => lane.publish(),
            Channel::Rings(rings) => rings.publish(),
            Channel::Socket(_) => return self.publish_socket(patience),
        }
        Ok(())
    }

    /// Publishes what can be without waiting; a later call does the rest.
    fn publish_at_once(&mut self) -> Result<(), Error> {
        match &mut self.channel {
            Channel::Lane(lane) => lane.publish(),
            Channel::Rings(rings) => rings.publish(),
            Channel::Socket(socket) => return socket.flush().map(drop),
        }
        Ok(())
    }

    fn publish_socket(&mut self, patience: &mut Patience<'_>) -> Result<(), Error> {
        while let Channel::Socket(socket) = &mut self.channel
            && !socket.flush()?
        {
            patience.start();
            self.take_replies()?;
            self.wait(patience)?;
        }
        Ok(())
    }

    /// The next reply that somebody waits for.
    #[inline]
    pub fn receive(&mut self, patience: &mut Patience<'_>) -> Result<Reply, Error> {
        loop {
            if let Some(reply) = self.received.pop_front() {
                self.outstanding -= 1;
                return Ok(reply);
            }
            match self.try_receive()? {
                Some(reply) if self.owed.is_empty() => {
                    self.outstanding -= 1;
                    return Ok(reply);
                }
                Some(reply) => self.settle_one(reply),
                None => self.wait(patience)?,
            }
        }
    }

    fn try_receive(&mut self) -> Result<Option<Reply>, Error> {
        match &mut self.channel {
            Channel::Lane(lane) => lane.try_receive(),
            Channel::Rings(rings) => rings.try_receive(),
            Channel::Socket(socket) => socket.try_receive(),
        }
    }

    /// Takes all replies that have come.
    fn take_replies(&mut self) -> Result<(), Error> {
        while let Some(reply) = self.try_receive()? {
            if self.owed.is_empty() {
                self.received.push_back(reply);
            } else {
                self.settle_one(reply);
            }
        }
        Ok(())
    }

    fn settle_one(&mut self, reply: Reply) {
        if let Some(Owed::Posted(hash)) = self.owed.pop_front() {
            self.posted_filter[hash as usize % FILTER_SIZE] -= 1;
            self.sharing.posted.fetch_sub(1, Ordering::Relaxed);
            if let Reply::Error(message) = reply {
                self.posted_error.get_or_insert_with(|| refusal(message));
            }
        }
    }

    fn wait(&mut self, patience: &mut Patience<'_>) -> Result<(), Error> {
        match &mut self.channel {
            Channel::Lane(lane) => lane.wait(patience),
            Channel::Rings(rings) => rings.wait(patience),
            Channel::Socket(socket) => socket.wait(patience),
        }
    }

    /// Sends a write to a key with this hash, without waiting for its reply.
    pub fn post(
        &mut self,
        number: u16,
        arguments: &[&[u8]],
        hash: u64,
        patience: &mut Patience<'_>,
    ) -> Result<(), Error> {
        self.begin()?;
        if self.owed.len() >= POSTED_UNTAKEN_MAX {
            self.take_replies()?;
            self.begin()?;
        }
        // The counters are 16 bits wide; so many writes to one place are waited for.
        if self.posted_filter[hash as usize % FILTER_SIZE] == u16::MAX {
            self.settle(Some(hash), patience)?;
        }
        self.push(number, arguments, patience)?;
        self.posted_filter[hash as usize % FILTER_SIZE] += 1;
        self.sharing.posted.fetch_add(1, Ordering::Relaxed);
        self.owed.push_back(Owed::Posted(hash));
        self.publish(patience)?;
        self.await_departure(patience)?;
        failpoint!("posted.sent");
        match self.channel {
            // Who is owed a reply holds the ring back until it takes it: a posted write is an acknowledged one there.
            Channel::Rings(_) => self.settle(Some(hash), patience),
            Channel::Lane(_) | Channel::Socket(_) => Ok(()),
        }
    }

    /// Waits until all of a request that is larger than the lane's ring is in there: whoever does not wait for its
    /// reply may be gone before the rest has found room.
    #[inline]
    fn await_departure(&mut self, patience: &mut Patience<'_>) -> Result<(), Error> {
        while let Channel::Lane(lane) = &mut self.channel
            && !lane.send_unsent()?
        {
            patience.start();
            self.take_replies()?;
            self.wait(patience)?;
        }
        Ok(())
    }

    /// Waits until posted writes to keys with that hash (`None`: to any key) are done. Their errors surface here.
    pub fn settle(&mut self, hash: Option<u64>, patience: &mut Patience<'_>) -> Result<(), Error> {
        self.begin()?;
        self.take_replies()?;
        let waiting = |link: &Self| match hash {
            Some(hash) => link.posted_filter[hash as usize % FILTER_SIZE] > 0,
            None => link.sharing.posted.load(Ordering::Relaxed) > 0,
        };
        while waiting(self) {
            patience.start();
            self.wait(patience)?;
            self.take_replies()?;
        }
        self.begin()
    }
}
