//! A connection for an event loop: requests out, replies in, in steps that never wait.
//!
//! # Design
//!
//! An event loop has a thread of its own, which must not be held. So this is the link without its driver: a request is
//! submitted with a number, and comes back with it as an [`Arrival`] when its reply is there. Any number of them may be
//! on their way, in the order of which the replies come. What does not fit now is submitted again when there is news.
//!
//! The loop sleeps on [`LoopConnection::descriptor`], which becomes readable when there is something to take, and on
//! nothing else. Before it sleeps it has to [arm](LoopConnection::arm) that: an end that does not say that it sleeps is
//! not rung. While it is armed, each turn of the server rings; so it is disarmed by the first look.
//!
//! A server may answer "pending", and push the answer later: that comes as an arrival, too, by its ticket.
//!
//! # Invariants
//!
//! - Replies are those of the oldest requests that have none.
//! - An error ends the connection: of what was asked nothing comes any more.
//!
//! # Not promised
//!
//! Over UDP it is refused: somebody has to wait for what is lost. Beside the rings of a classic topology it goes over
//! the socket: these have no descriptor that tells of replies alone.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::PollFlags;

use super::awaited::Awaited;
use super::channel::Channel;
use super::error::Error;
use super::handle::Client;
use super::in_place::TableReader;
use super::joining::joined;
use super::opened::Opened;
use super::options::{Options, Transport};
use super::patience::Patience;
use super::validate::check_command;
use super::waiting::Waiting;
use crate::command;
use crate::command::known::Known;
use crate::command::pending;
use crate::command::reply::Reply;
use crate::shm::fork;

/// What has come.
#[derive(Debug, PartialEq)]
pub enum Arrival {
    /// The reply to the request of this number.
    Reply(u64, Reply),
    /// The answer that comes later, to the request with this ticket.
    Answer(u64, Reply),
    /// Another server goes on with the connection: whoever waits for an answer has to ask again.
    Restart,
}

/// What became of a request.
#[derive(Debug, PartialEq)]
pub enum Submitted {
    /// It goes out.
    Taken,
    /// It does not fit now: it is to be submitted again when there is news.
    Full,
    /// It was not sent, since the server has no such command, and has this reply.
    Answered(Reply),
}

/// A connection that is driven by an event loop, in one thread.
pub struct LoopConnection {
    channel: Channel,
    /// How long to look before the loop sleeps; none over a socket. It looks at what the reader maps.
    waiting: Option<Waiting>,
    _reader: Option<TableReader>,
    known: Known,
    server_id: u64,
    /// The numbers of the requests whose replies have not come.
    asked: VecDeque<u64>,
    is_armed: bool,
    generation: u64,
}

impl LoopConnection {
    /// Connects to the server of a client, as that has. It waits for the server, as long as it has patience.
    ///
    /// # Errors
    /// Those of connecting; [`Error::Refused`] over a transport that is not for event loops.
    pub fn open(client: &Client, patience: Patience<'_>) -> Result<Self, Error> {
        let transport = match client.transport() {
            Transport::Rings => Transport::Socket,
            Transport::Udp => return Err(Error::Refused("an event loop cannot use a connection over UDP".to_owned())),
            _ => client.options.transport,
        };
        let options = Options { transport, ..client.options.clone() };
        let opened = joined(patience, |patience| Opened::open(client.location(), &options, patience))?;
        let Opened { reader, channel, known, server_id, .. } = opened;
        let waiting = reader.as_ref().map(|reader| Waiting::for_workers(reader, channel.workers()));
        let (asked, is_armed, generation) = (VecDeque::new(), false, fork::generation());
        Ok(Self { channel, waiting, _reader: reader, known, server_id, asked, is_armed, generation })
    }

    /// The number of the server's table.
    pub fn server_id(&self) -> u64 {
        self.server_id
    }

    /// Whether it was made in this process: a forked child has to make its own.
    pub fn is_ours(&self) -> bool {
        self.generation == fork::generation()
    }

    /// Writes a request, a command's name and its arguments, which has this number. Behind the last one of a batch it
    /// has to be [published](Self::publish).
    ///
    /// # Errors
    /// Those of [`check_command`], of which nothing was sent then; what has ended the connection.
    pub fn submit(&mut self, id: u64, words: &[&[u8]]) -> Result<Submitted, Error> {
        check_command(words)?;
        let name = words.first().copied().unwrap_or_default();
        let number = match command::find(name) {
            Some(spec) if self.known.has(spec.number) => spec.number,
            Some(spec) => return Ok(Submitted::Answered(Reply::Error(command::unknown_to_server(spec.name).0))),
            None => return Ok(Submitted::Answered(Reply::Error(command::unknown(name).0))),
        };
        if !self.channel.try_push(number, &words[1..])? {
            return Ok(Submitted::Full);
        }
        self.asked.push_back(id);
        Ok(Submitted::Taken)
    }

    /// Lets the server have what was submitted, as far as there is room; the rest goes with later steps.
    ///
    /// # Errors
    /// What has ended the connection.
    pub fn publish(&mut self) -> Result<(), Error> {
        self.channel.publish().map(drop)
    }

    /// What has come next, if anything has.
    ///
    /// # Errors
    /// What has ended the connection.
    pub fn take(&mut self) -> Result<Option<Arrival>, Error> {
        loop {
            match self.channel.try_receive()? {
                None => return Ok(None),
                Some(Reply::Push(push)) => {
                    if let Some(arrival) = answer(push) {
                        return Ok(Some(arrival));
                    }
                }
                Some(reply) => {
                    let id = self.asked.pop_front();
                    let id = id.ok_or_else(|| Error::Protocol("a reply that nobody has asked for".to_owned()))?;
                    return Ok(Some(Arrival::Reply(id, reply)));
                }
            }
        }
    }

    /// Whether replies are to come, or something that was submitted has not gone.
    pub fn is_busy(&self) -> bool {
        !self.asked.is_empty() || self.channel.has_rest()
    }

    /// Lets the server have what was submitted, and has the descriptor tell of what comes from now on. Returns whether
    /// the loop may sleep: else there is something to take already. It looks for that for some microseconds, as long as
    /// to sleep would take longer.
    ///
    /// # Errors
    /// What has ended the connection.
    pub fn arm(&mut self) -> Result<bool, Error> {
        let Channel::Lane(lane) = &mut self.channel else { return self.publish().map(|()| true) };
        self.is_armed = false;
        if let Some(news) = lane.awaited()? {
            let looks = self.waiting.as_mut().filter(|_| !self.asked.is_empty());
            if !looks.is_some_and(|waiting| waiting.spins_until_news(&news)) {
                let state = self.waiting.as_ref().map_or(0, Waiting::published);
                self.is_armed = news.arm(state);
                if !self.is_armed {
                    news.disarm(state);
                }
            }
        }
        Ok(self.is_armed)
    }

    /// Ends what [`Self::arm`] began, once the loop is awake: takes the ring of the bell.
    ///
    /// # Errors
    /// Why the server has ended the connection, unless there is something to take still.
    pub fn disarm(&mut self) -> Result<(), Error> {
        if let Channel::Lane(lane) = &mut self.channel {
            let news = lane.news();
            if std::mem::take(&mut self.is_armed) {
                news.disarm(self.waiting.as_ref().map_or(0, Waiting::published));
            }
            news.alarm().listen(Duration::ZERO, || news.has_news())?;
        }
        Ok(())
    }

    /// Whether the descriptor has to be watched for room, too.
    ///
    /// # Errors
    /// What has ended the connection.
    pub fn wants_room(&mut self) -> Result<bool, Error> {
        match &mut self.channel {
            Channel::Socket(socket) => Ok(socket.awaited()?.contains(PollFlags::OUT)),
            _ => Ok(false),
        }
    }

    /// What the loop sleeps on, for as long as the connection lives.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        match &self.channel {
            Channel::Lane(lane) => lane.descriptor(),
            Channel::Socket(socket) => socket.as_fd(),
            Channel::Rings(_) | Channel::Udp(_) => unreachable!("refused when it was opened"),
        }
    }
}

/// The answer that a push has, if it is one.
fn answer(mut push: Vec<Reply>) -> Option<Arrival> {
    let answer = push.pop()?;
    let [Reply::Bulk(kind), Reply::Integer(ticket)] = &push[..] else { return None };
    if kind != pending::ANSWER.as_bytes() {
        return None;
    }
    let ticket = ticket.cast_unsigned();
    Some(if ticket == pending::ALL { Arrival::Restart } else { Arrival::Answer(ticket, answer) })
}
