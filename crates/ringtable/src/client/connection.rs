//! One connection: the table to read in place, the link to ask over, and whether the server lives.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::answers::Expected;
use super::blocking::BlockingLink;
use super::channel::Channel;
use super::error::Error;
use super::gate::Gate;
use super::in_place::TableReader;
use super::life::{Life, gone};
use super::link::Link;
use super::opened::Opened;
use super::options::{Options, Transport};
use super::patience::Patience;
use super::pinned::PinnedTable;
use super::replies::unexpected;
use super::sender;
use super::sharing::Sharing;
use super::unsent::Word;
use crate::address::Location;
use crate::command::known::Known;
use crate::command::reply::Reply;
use crate::limits;
use crate::shm::clock::coarse_ms;
use crate::shm::fork;

pub(super) struct Connection {
    /// Itself, for a thread that outlives the call which starts it.
    me: Weak<Self>,
    /// The table, if memory is shared.
    pub reader: Option<TableReader>,
    /// Which commands the server knows.
    pub known: Known,
    /// What views need, if there is a lane.
    pub pinned: Option<Arc<PinnedTable>>,
    pub transport: Transport,
    /// The number of the server's table; 0 if it does not tell.
    pub server_id: u64,
    link: Gate<Option<BlockingLink>>,
    pub sharing: Arc<Sharing>,
    life: Arc<Life>,
    life_checked_ms: AtomicU64,
    gone: AtomicBool,
    /// Whether it was told that the posted writes are lost that were on their way.
    is_loss_told: AtomicBool,
    closed: AtomicBool,
    /// The process that it was made in.
    generation: u64,
    /// The same, as long as calls may use it; see [`super::renewal`].
    stamp: AtomicU64,
    /// Whether another one is to take its place when it has died.
    is_replaceable: bool,
}

/// A stamp that is that of no process.
const SPOILT: u64 = u64::MAX;

impl Connection {
    /// Connects, and asks for a lane if the options want one.
    pub fn open(location: &Location, options: &Options, patience: Patience<'_>) -> Result<Arc<Self>, Error> {
        Opened::open(location, options, patience).map(|opened| Self::new(opened, options))
    }

    fn new(opened: Opened, options: &Options) -> Arc<Self> {
        let Opened { reader, channel, known, server_id, life, sharing } = opened;
        let pinned = match (&channel, &reader) {
            (Channel::Lane(lane), Some(reader)) => {
                let table = Arc::clone(reader.memory());
                Some(Arc::new(PinnedTable::new(table, lane.mapping(), Arc::clone(&life))))
            }
            _ => None,
        };
        let transport = match &channel {
            Channel::Lane(_) => Transport::Lane,
            Channel::Rings(_) => Transport::Rings,
            Channel::Socket(_) => Transport::Socket,
            Channel::Udp(_) => Transport::Udp,
        };
        let link = BlockingLink::new(Link::new(channel, known, Arc::clone(&sharing)), reader.as_ref());
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            reader,
            known,
            pinned,
            transport,
            server_id,
            link: Gate::new(Some(link)),
            sharing,
            life,
            life_checked_ms: AtomicU64::new(coarse_ms()),
            gone: AtomicBool::new(false),
            is_loss_told: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            generation: fork::generation(),
            stamp: AtomicU64::new(fork::generation()),
            is_replaceable: options.reconnect,
        })
    }

    /// Whether it was made in this process.
    pub fn is_ours(&self) -> bool {
        self.generation == fork::generation()
    }

    /// Whether it is for calls of this process, as far as is known. Relaxed: a late call learns it from the connection.
    #[inline]
    pub fn is_current(&self) -> bool {
        self.stamp.load(Ordering::Relaxed) == fork::generation()
    }

    /// Uses the link, after waiting for its turn.
    #[inline]
    pub fn locked<R>(
        &self,
        patience: Patience<'_>,
        work: impl FnOnce(&mut BlockingLink, &mut Patience<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let result = self.entered(patience, work);
        if self.sharing.unsent.is_some() {
            self.see_off();
        }
        result
    }

    /// Sends word that nobody waits for an answer to, which is executed after all that was sent before. If another
    /// thread has the connection for longer than `patience`, or there is no room, it is sent later.
    pub fn send_word(&self, number: u16, arguments: &[&[u8]], patience: Patience<'_>) {
        let sent = self.locked(patience, |link, patience| {
            link.send_word(number, arguments, patience)?;
            self.sharing.unsent.note_rest(link.has_rest());
            Ok(())
        });
        if let Err(Error::Timeout(_) | Error::Reentrant) = sent {
            let arguments = arguments.iter().map(|argument| argument.to_vec()).collect();
            self.sharing.unsent.leave(Word { number, arguments });
            self.see_off();
        }
    }

    /// Sends what calls have left, if that can be done at once, and else has it done.
    #[cold]
    fn see_off(&self) {
        if self.is_ours() && !self.is_closed() {
            let sent = self.send_left(Patience::new(Some(Duration::ZERO), &|| false));
            if matches!(sent, Err(Error::Timeout(_) | Error::Reentrant))
                && self.sharing.unsent.wants_sender()
                && !sender::start(Weak::clone(&self.me), Self::goes_on_sending)
            {
                self.sharing.unsent.lose_sender();
            }
        }
    }

    /// One stay of the sender. Returns whether there is to be another one.
    fn goes_on_sending(&self) -> bool {
        match self.send_left(Patience::new(Some(limits::SENDER_STAY), &|| false)) {
            Ok(()) | Err(Error::Timeout(_)) => !self.sharing.unsent.ends_sender(),
            // There is nobody to send it to.
            Err(_) => {
                self.sharing.unsent.lose_sender();
                false
            }
        }
    }

    /// Sends what calls have left, as room comes: the rest of a request, and the words behind it.
    ///
    /// # Errors
    /// What ends it before all has gone. It is no call's, and is told by the next one that meets it.
    fn send_left(&self, patience: Patience<'_>) -> Result<(), Error> {
        let unsent = &self.sharing.unsent;
        let sent = self.stay(patience, |link, patience| {
            link.send_rest(patience)?;
            unsent.note_rest(false);
            while let Some(word) = unsent.take() {
                let arguments: Vec<&[u8]> = word.arguments.iter().map(Vec::as_slice).collect();
                if let Err(error) = link.send_word(word.number, &arguments, patience) {
                    if matches!(error, Error::Timeout(_)) {
                        unsent.put_back(word);
                    }
                    return Err(error);
                }
                unsent.note_rest(link.has_rest());
                link.send_rest(patience)?;
                unsent.note_rest(false);
            }
            Ok(())
        });
        self.let_go_if_closed();
        sent
    }

    /// A thread's stay inside of the gate.
    #[inline]
    fn stay<R>(
        &self,
        patience: Patience<'_>,
        work: impl FnOnce(&mut BlockingLink, &mut Patience<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.link.enter(patience, |link, patience| match link {
            Some(link) => {
                link.arrive();
                let result = work(link, patience);
                if result.is_err() && !patience.is_inherited() {
                    self.sharing.unsent.note_rest(link.has_rest());
                }
                if self.sharing.answers.are_awaited() && !patience.is_inherited() {
                    link.leave(&self.sharing.answers);
                }
                result
            }
            None => Err(self.ended()),
        })
    }

    /// What a thread that closed it, or a signal handler in ours, could not wait for is done now.
    #[inline]
    fn let_go_if_closed(&self) {
        if self.is_closed() {
            let _ = self.let_go(Patience::new(Some(Duration::ZERO), &|| false));
        }
    }

    #[inline]
    fn entered<R>(
        &self,
        patience: Patience<'_>,
        work: impl FnOnce(&mut BlockingLink, &mut Patience<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let result = self.stay(patience, work);
        // Nothing of it is ours in a child that was forked meanwhile.
        if matches!(result, Err(Error::Closed | Error::Reentrant)) || patience.is_inherited() {
            return result;
        }
        self.let_go_if_closed();
        if let Err(error @ (Error::Gone(_) | Error::Unsent(_) | Error::Ended(_) | Error::Expelled(_))) = &result {
            if self.is_closed() {
                return Err(Error::Closed);
            }
            self.end(error);
            self.tell_lost()?;
        }
        result
    }

    /// Begins to wait for an answer that may come later, with this ticket; `None` if none can over this transport.
    pub fn expect(&self, ticket: u64, patience: Patience<'_>) -> Result<Option<Expected<'_>>, Error> {
        let expected = self.sharing.answers.expect(ticket, || self.locked(patience, |link, _| link.ear()));
        expected.map_err(|error| self.named(error))
    }

    /// Waits for such an answer, for `limit` at most; `None` if it has not come, or a signal has.
    pub fn await_answer(
        &self,
        expected: &Expected<'_>,
        limit: Duration,
        patience: Patience<'_>,
    ) -> Result<Option<Reply>, Error> {
        let answer = expected.wait(limit, || self.locked(patience, |link, _| link.look()));
        answer.map_err(|error| self.named(error))
    }

    /// What ends waits is not told by whom: by another thread's `close`, or by another connection in the place of this
    /// one.
    fn named(&self, error: Error) -> Error {
        if matches!(error, Error::Closed) { self.ended() } else { error }
    }

    /// One request and its reply.
    #[inline]
    pub fn request(&self, number: u16, arguments: &[&[u8]], patience: Patience<'_>) -> Result<Reply, Error> {
        self.ask(number, arguments, None, patience)
    }

    /// The same of a request whose reply may be that an answer comes later.
    #[inline]
    pub fn ask(
        &self,
        number: u16,
        arguments: &[&[u8]],
        expected: Option<&Expected<'_>>,
        patience: Patience<'_>,
    ) -> Result<Reply, Error> {
        self.locked(patience, |link, patience| {
            let reply = link.request(number, arguments, patience)?;
            if let Some(expected) = expected {
                expected.is_known();
            }
            match reply {
                // It may say that the server stops.
                reply @ (Reply::Error(_) | Reply::Dropped(_)) => Err(unexpected(reply)),
                reply => Ok(reply),
            }
        })
    }

    /// Why there is nothing here to use any more.
    pub fn ended(&self) -> Error {
        if self.is_closed() { Error::Closed } else { Error::Gone("its connection has ended".to_owned()) }
    }

    /// Notes that the server has ended the connection: the call that has learned it fails, and the next one makes
    /// another connection, if that is wanted.
    fn end(&self, error: &Error) {
        if !error.is_gone() {
            // It is told in any case, and tells of what was posted, too.
            self.is_loss_told.store(true, Ordering::Relaxed);
        }
        // Relaxed: flags that guard nothing; direct reads look at the one, all calls at the other.
        self.gone.store(true, Ordering::Relaxed);
        if self.is_replaceable {
            self.stamp.store(SPOILT, Ordering::Relaxed);
        }
    }

    /// Tells, once, that posted writes were on their way, after the end of a connection that another one is to take the
    /// place of: nothing else would.
    pub fn tell_lost(&self) -> Result<(), Error> {
        let posted = self.posted();
        // Relaxed: which of several calls tells does not matter.
        if posted > 0 && self.is_replaceable && !self.is_loss_told.swap(true, Ordering::Relaxed) {
            return Err(Error::Lost(posted));
        }
        Ok(())
    }

    /// How many posted writes are on their way. Relaxed: a thread sees its own posts, which is what is promised.
    #[inline]
    pub fn posted(&self) -> usize {
        self.sharing.posted.load(Ordering::Relaxed)
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Ends the waits of other threads, without closing anything.
    pub fn end_waits(&self) {
        self.life.end_waits();
    }

    pub fn close(&self, patience: Patience<'_>) {
        self.closed.store(true, Ordering::Relaxed);
        // Without its turn, the rest is done when the handle is dropped.
        let _ = self.retire(patience);
    }

    /// Lets go of all that is large or shared, but for what views need. Calls that are open in other threads end.
    ///
    /// # Errors
    /// Whatever ends the patience, while another thread still uses the link; then the socket stays open.
    pub fn retire(&self, patience: Patience<'_>) -> Result<(), Error> {
        // Not the whole socket: the server may take us for dead when no thread can write to what we share any more, and
        // not before.
        self.life.end_waits();
        failpoint!("close.begun");
        self.let_go(patience)
    }

    /// Drops the link, if nobody uses it and goes on to do so, and lets go of what is shared; may be called again.
    fn let_go(&self, patience: Patience<'_>) -> Result<(), Error> {
        let dropped = self.link.enter(patience, |link, _| {
            *link = None;
            Ok(())
        });
        failpoint!("close.dropped");
        self.sharing.forget_buffer();
        self.sharing.answers.close();
        // Views need socket and table for as long as there are any.
        if let Some(pinned) = &self.pinned {
            pinned.close(dropped.is_ok());
            return dropped;
        }
        if dropped.is_ok() {
            self.life.hang_up();
        }
        // Other threads may be reading; they find nothing, ask the link, and learn that it is gone.
        if let Some(reader) = &self.reader {
            let _ = reader.memory().let_go();
        }
        dropped
    }

    /// Makes sure that the server lived a moment ago: before a read that does not ask it, and before a request is sent.
    #[inline]
    pub fn check_alive(&self) -> Result<(), Error> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        let now = coarse_ms();
        // Relaxed: which thread looks, and when exactly, does not matter.
        let stale = now.wrapping_sub(self.life_checked_ms.load(Ordering::Relaxed)) >= limits::LIVENESS_CHECK_MS;
        let is_closed = self.reader.as_ref().is_some_and(TableReader::is_closed);
        if stale || is_closed || self.gone.load(Ordering::Relaxed) {
            self.life_checked_ms.store(now, Ordering::Relaxed);
            return self.look_at_socket();
        }
        Ok(())
    }

    /// The hash of a key, by which its posted writes are known; 0 without a reader, which is who asks for that.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.reader.as_ref().map_or(0, |reader| reader.hash(key))
    }

    /// Makes sure that the server lives now, whenever that was last looked at.
    pub fn check_alive_now(&self) -> Result<(), Error> {
        if self.is_closed() { Err(Error::Closed) } else { self.look_at_socket() }
    }

    #[cold]
    fn look_at_socket(&self) -> Result<(), Error> {
        let last_words = match self.transport {
            // It is silent as long as the server lives.
            Transport::Lane | Transport::Rings | Transport::Auto => self.life.last_words(),
            Transport::Socket => self.life.end_of_replies(),
            // A datagram that comes back is news for the link.
            Transport::Udp => None,
        };
        let error = match last_words {
            // Nothing is sent before this, so that the next connection will do.
            Some(error) => error.of_part(true),
            None if self.reader.as_ref().is_some_and(TableReader::is_closed) => gone(),
            None if self.gone.load(Ordering::Relaxed) => self.ended(),
            None => return Ok(()),
        };
        // Another thread has closed it since we looked, and has ended what we see at its end: that is no news of the
        // server. Relaxed: it says so first, and a system call of ours comes after one of its.
        if self.is_closed() {
            return Err(Error::Closed);
        }
        self.end(&error);
        Err(error)
    }
}
