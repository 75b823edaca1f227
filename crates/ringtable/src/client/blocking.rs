//! A link whose calls block their thread: takes the steps of the link, and waits where they cannot go on.
//!
//! This is the one place where a call waits for its server. Each wait ends by something new, by the server's death, or
//! by the caller's patience: its time-out or a signal.

use std::task::Poll;
use std::time::Duration;

use super::answers::Answers;
use super::awaited::Awaited;
use super::channel::Channel;
use super::error::Error;
use super::in_place::TableReader;
use super::link::{Link, Pushed};
use super::patience::Patience;
use super::waiting::Waiting;
use crate::command::reply::Reply;
use crate::shm::fork::Descriptor;

/// Requests after which a pipeline is published, so that the server begins while we go on.
const PUBLISH_EVERY: usize = 16;

pub(super) struct BlockingLink {
    link: Link,
    /// Apart from the link, so that the words of a connection that each read looks at stay close together.
    waiting: Box<Waiting>,
    /// Whether the lane says that nobody looks at it unless the bell rings, though nobody sleeps inside of the gate.
    is_armed: bool,
}

impl BlockingLink {
    /// The reader, if there is one, has to live as long as the link.
    pub fn new(mut link: Link, reader: Option<&TableReader>) -> Self {
        let workers = link.channel().workers();
        let waiting = reader.map_or_else(Waiting::for_socket, |reader| Waiting::for_workers(reader, workers));
        Self { link, waiting: Box::new(waiting), is_armed: false }
    }

    /// Begins a thread's stay inside of the gate. It looks itself for what it asks for, so that the server need not
    /// ring.
    #[inline]
    pub fn arrive(&mut self) {
        if std::mem::take(&mut self.is_armed)
            && let Channel::Lane(lane) = self.link.channel()
        {
            lane.news().disarm(self.waiting.published());
        }
    }

    /// Ends a thread's stay while others wait outside for answers: takes all that has come, and has the listener woken
    /// by what is still to come. An error is found again by the listener, which is woken for it.
    #[cold]
    pub fn leave(&mut self, answers: &Answers) {
        let mut is_done = self.link.take_replies().is_ok();
        if let Channel::Lane(lane) = self.link.channel() {
            self.is_armed = true;
            failpoint!("answer.leaving");
            is_done &= matches!(lane.awaited(), Ok(Some(news)) if news.arm(self.waiting.published()));
        }
        if !is_done {
            answers.kick();
        }
    }

    /// Takes what the listener was woken for.
    pub fn look(&mut self) -> Result<(), Error> {
        if let Channel::Lane(lane) = self.link.channel() {
            let news = lane.news();
            news.alarm().listen(Duration::ZERO, || news.has_news())?;
        }
        self.link.take_replies()
    }

    /// A descriptor that becomes readable when something has come, for a listener; `None` if the transport has none.
    pub fn ear(&mut self) -> Result<Option<Descriptor>, Error> {
        match self.link.channel() {
            Channel::Lane(lane) => lane.news().alarm().duplicate().map(Some),
            Channel::Socket(socket) => socket.duplicate().map(Some),
            Channel::Rings(_) | Channel::Udp(_) => Ok(None),
        }
    }

    /// Whether some of what a call has asked is answered already.
    pub fn has_answers(&self) -> bool {
        self.link.has_answers()
    }

    /// Pushes `count` requests and publishes them. Their replies are to be received next.
    #[inline]
    pub fn exchange(
        &mut self,
        count: usize,
        request: impl Fn(&mut Self, usize, &mut Patience<'_>) -> Result<(), Error>,
        patience: &mut Patience<'_>,
    ) -> Result<(), Error> {
        self.link.begin()?;
        if let Channel::Udp(_) = self.link.channel() {
            self.link.measure(true);
            let refused = (0..count).try_for_each(|index| request(self, index, patience));
            self.link.measure(false);
            refused?;
        }
        self.push_each(count, request, patience)?;
        self.link.publish().map(drop)
    }

    /// Pushes `count` requests, and publishes some at a time. The last ones may not be published yet.
    #[inline]
    fn push_each(
        &mut self,
        count: usize,
        request: impl Fn(&mut Self, usize, &mut Patience<'_>) -> Result<(), Error>,
        patience: &mut Patience<'_>,
    ) -> Result<(), Error> {
        for index in 0..count {
            if let Err(error) = request(self, index, patience) {
                self.break_off(&error, patience);
                return Err(error);
            }
            if (index + 1).is_multiple_of(PUBLISH_EVERY) {
                self.link.publish()?;
            }
        }
        Ok(())
    }

    /// After a push that failed: what was pushed before it is done now, not at some later call; but not by a child of
    /// the process that pushed it.
    #[cold]
    fn break_off(&mut self, error: &Error, patience: &mut Patience<'_>) {
        if !patience.is_inherited() {
            let _ = match error {
                // The call ends here: it does not wait once more, for room.
                Error::Interrupted | Error::Timeout(_) => self.link.publish().map(drop),
                _ => self.depart(patience),
            };
        }
    }

    /// One request and its reply.
    #[inline]
    pub fn request(&mut self, number: u16, arguments: &[&[u8]], patience: &mut Patience<'_>) -> Result<Reply, Error> {
        self.link.begin()?;
        self.send(number, arguments, patience)?;
        self.receive(patience)
    }

    /// Sends a request whose reply nobody waits for: the next call finds it owed, and drops it. It is no call, and
    /// leaves the error of a posted write to one.
    pub fn send_word(&mut self, number: u16, arguments: &[&[u8]], patience: &mut Patience<'_>) -> Result<(), Error> {
        self.link.write_off();
        self.send(number, arguments, patience)
    }

    /// Whether something that was pushed has not gone.
    pub fn has_rest(&mut self) -> bool {
        self.link.channel().has_rest()
    }

    /// Sends what calls that were given up have left of their requests, after waiting for room. It is no call, either.
    pub fn send_rest(&mut self, patience: &mut Patience<'_>) -> Result<(), Error> {
        self.link.write_off();
        self.depart(patience)
    }

    /// Writes one request, after waiting for room, and publishes it.
    #[inline]
    fn send(&mut self, number: u16, arguments: &[&[u8]], patience: &mut Patience<'_>) -> Result<(), Error> {
        if let Err(error) = self.push(number, arguments, patience) {
            self.break_off(&error, patience);
            return Err(match error {
                // It waited for room. A part of a large one may be there, which nobody executes.
                Error::Gone(words) => Error::Unsent(words),
                error => error,
            });
        }
        self.link.publish().map(drop)
    }

    /// Writes one request, after waiting for room. Not yet published.
    #[inline]
    pub fn push(&mut self, number: u16, arguments: &[&[u8]], patience: &mut Patience<'_>) -> Result<(), Error> {
        while let Pushed::Full = self.link.push(number, arguments)? {
            self.wait_for_room(patience)?;
        }
        Ok(())
    }

    /// The next reply.
    #[inline]
    pub fn receive(&mut self, patience: &mut Patience<'_>) -> Result<Reply, Error> {
        loop {
            match self.link.receive()? {
                Poll::Ready(reply) => return Ok(reply),
                Poll::Pending => self.wait(patience)?,
            }
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
        self.link.begin_post()?;
        self.push_posted(number, arguments, hash, patience)?;
        self.depart(patience)?;
        failpoint!("posted.sent");
        if self.link.settles_posts() { self.settle(Some(hash), patience) } else { Ok(()) }
    }

    /// Writes one request that changes a key with this hash, whose reply nobody waits for, after waiting for room. Not
    /// yet published.
    #[inline]
    pub fn push_posted(
        &mut self,
        number: u16,
        arguments: &[&[u8]],
        hash: u64,
        patience: &mut Patience<'_>,
    ) -> Result<(), Error> {
        while let Pushed::Full = self.link.post(number, arguments, hash)? {
            self.wait_for_room(patience)?;
        }
        Ok(())
    }

    /// Sends `count` writes without waiting for their replies; the error of one surfaces at one of the next, or later.
    /// It is the only one then: those of writes that were on their way are told to nobody.
    pub fn post_many(
        &mut self,
        count: usize,
        request: impl Fn(&mut Self, usize, &mut Patience<'_>) -> Result<(), Error>,
        patience: &mut Patience<'_>,
    ) -> Result<(), Error> {
        let post = |link: &mut Self, index: usize, patience: &mut Patience<'_>| {
            link.link.begin_post()?;
            request(link, index, patience)
        };
        if let Err(error) = self.push_each(count, post, patience) {
            if matches!(error, Error::Refused(_)) {
                self.await_posted(None, patience)?;
                let _ = self.link.begin();
            }
            return Err(error);
        }
        self.depart(patience)?;
        if self.link.settles_posts() { self.settle(None, patience) } else { Ok(()) }
    }

    /// Sends a write to a key with this hash, if it need not wait: over a lane with room for it, which it fits into.
    /// Returns whether it was sent.
    pub fn try_post(&mut self, number: u16, arguments: &[&[u8]], hash: u64) -> Result<bool, Error> {
        if !matches!(self.link.channel(), Channel::Lane(_)) {
            return Ok(false);
        }
        self.link.begin_post()?;
        if self.link.post(number, arguments, hash)? == Pushed::Full {
            return Ok(false);
        }
        self.link.publish()?;
        failpoint!("posted.sent");
        Ok(true)
    }

    /// Waits until all that was pushed has gone: a caller that does not wait for a reply may be gone before the rest
    /// has found room.
    #[inline]
    fn depart(&mut self, patience: &mut Patience<'_>) -> Result<(), Error> {
        while !self.link.publish()? {
            self.wait_for_room(patience)?;
        }
        Ok(())
    }

    /// Waits until posted writes to keys with that hash (`None`: to any key) are done. Their errors surface here.
    pub fn settle(&mut self, hash: Option<u64>, patience: &mut Patience<'_>) -> Result<(), Error> {
        self.link.begin()?;
        self.await_posted(hash, patience)?;
        self.link.begin()
    }

    /// Waits until posted writes to keys with that hash (`None`: to any key) are done.
    #[inline]
    fn await_posted(&mut self, hash: Option<u64>, patience: &mut Patience<'_>) -> Result<(), Error> {
        while self.link.settle(hash)?.is_pending() {
            self.wait_for_room(patience)?;
        }
        Ok(())
    }

    /// The same for what may take many waits, each of which ends soon: the call's time begins with the first one.
    #[cold]
    fn wait_for_room(&mut self, patience: &mut Patience<'_>) -> Result<(), Error> {
        patience.start();
        self.wait(patience)
    }

    /// Waits until a step may go on that could not: for something to receive, or for room if that was wanted.
    #[inline]
    fn wait(&mut self, patience: &mut Patience<'_>) -> Result<(), Error> {
        match self.link.channel() {
            Channel::Lane(lane) => match lane.awaited()? {
                Some(news) => self.waiting.wait(&news, patience),
                None => Ok(()),
            },
            Channel::Rings(rings) => self.waiting.wait(&rings.awaited(), patience),
            Channel::Socket(socket) => {
                let flags = socket.awaited()?;
                self.waiting.wait_for_socket(&**socket, flags, None, patience)
            }
            Channel::Udp(udp) => {
                if patience.is_endless() {
                    udp.check_silence()?;
                }
                let (flags, retry) = udp.awaited();
                self.waiting.wait_for_socket(&**udp, flags, Some(retry), patience)
            }
        }
    }
}
