//! Answers that come later than the replies to their requests: for the threads that wait for them.
//!
//! # Design
//!
//! A server may answer "pending", and push the answer later, with the ticket of the request. A thread that waits for
//! one waits outside of its connection's gate, so that other threads make calls meanwhile. A thread that is inside of
//! the gate reads all that has come, and hands each answer to the thread that waits for it ([`Answers::deliver`]).
//! While nobody is inside, one of those that wait is the *listener*: it sleeps on what the transport wakes it with, and
//! enters the gate when that is so. The others are parked, and the one that leaves makes one of them the next listener.
//!
//! A server that goes on with the connections of a dead one knows nothing of what these wait for, and says so: then all
//! of them get a nil, and ask again.
//!
//! # Invariants
//!
//! - One thread at a time reads from a connection: it is inside of the gate.
//! - A thread that leaves the gate while somebody waits has read all that has come, and leaves the transport armed:
//!   what comes from then on wakes the listener ([`super::blocking::BlockingLink::leave`]).
//! - While a thread is parked there is a listener. A listener is one whose thread is here to wait, and which makes
//!   another one the listener before it does anything else.
//! - The listener takes no news from those inside: it looks whether its descriptor is ready, and what it is ready with
//!   stays there until a thread inside of the gate takes it.
//! - Nobody waits that has no ticket here; an answer whose ticket is not here is dropped.
//!
//! # Not promised
//!
//! Answers are for the process that asked: a forked child has a connection of its own, without any.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::error::{Error, system};
use crate::command::pending;
use crate::command::reply::Reply;
use crate::shm::doorbell::{Doorbell, timespec};
use crate::shm::fork::{self, Descriptor};
use crate::sync::lock;

/// All that is waited for at one connection.
#[derive(Default)]
pub(super) struct Answers {
    /// How many threads wait. Apart from the rest, for calls that have nothing to do with it.
    waiting: AtomicUsize,
    waits: Mutex<Waits>,
}

#[derive(Default)]
struct Waits {
    by_ticket: HashMap<u64, Wait>,
    /// The ticket of the listener.
    listener: Option<u64>,
    ears: Option<Arc<Ears>>,
    is_closed: bool,
}

struct Wait {
    thread: Thread,
    /// Whether the thread is here to wait: it may do something else between two waits, or not have begun.
    is_here: bool,
    answer: Option<Reply>,
}

/// What the listener sleeps on.
struct Ears {
    /// What the transport wakes it with.
    transport: Descriptor,
    /// What other threads of this process wake it with.
    kick: Doorbell,
}

impl Ears {
    fn new(transport: Descriptor) -> Result<Self, Error> {
        Ok(Self { transport, kick: system("making something to wake a thread with", Doorbell::new())? })
    }

    /// Sleeps until the transport has news, or a thread kicks. Returns whether one of them did.
    fn listen(&self, limit: Duration) -> Result<bool, Error> {
        let mut ready = [PollFd::new(&self.transport, PollFlags::IN), PollFd::new(&self.kick, PollFlags::IN)];
        match poll(&mut ready, Some(&timespec(limit))) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(false),
            Err(error) => return Err(Error::System { doing: "waiting for the server", error: error.into() }),
        }
        let [has_news, is_kicked] = ready.map(|one| !one.revents().is_empty());
        if is_kicked {
            // Watched by its level: what was rung has to be taken.
            let _ = rustix::io::read(&self.kick, &mut [0; 8]);
        }
        Ok(has_news || is_kicked)
    }
}

impl Answers {
    /// Whether anybody waits. Relaxed: a thread that begins to wait enters the gate after that, which orders it for
    /// whoever enters later.
    #[inline]
    pub fn are_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Begins to wait, before the request goes out. `transport` duplicates what the transport wakes its client with;
    /// `None` if over that transport no answer comes later.
    ///
    /// # Errors
    /// Those of making descriptors; [`Error::Closed`].
    pub fn expect(
        &self,
        ticket: u64,
        transport: impl FnOnce() -> Result<Option<Descriptor>, Error>,
    ) -> Result<Option<Expected<'_>>, Error> {
        let has_ears = lock(&self.waits).ears.is_some();
        let mut ears = None;
        if !has_ears {
            let Some(transport) = transport()? else { return Ok(None) };
            ears = Some(Arc::new(Ears::new(transport)?));
        }
        let mut waits = lock(&self.waits);
        if waits.is_closed {
            return Err(Error::Closed);
        }
        if waits.ears.is_none() {
            waits.ears = ears;
        }
        waits.by_ticket.insert(ticket, Wait { thread: std::thread::current(), is_here: false, answer: None });
        self.waiting.store(waits.by_ticket.len(), Ordering::Relaxed);
        Ok(Some(Expected { answers: self, ticket, generation: fork::generation() }))
    }

    /// Takes a push that has come: hands it to the thread that waits for it, or drops it.
    #[cold]
    pub fn deliver(&self, mut push: Vec<Reply>) {
        let Some(answer) = push.pop() else { return };
        let [Reply::Bulk(kind), Reply::Integer(ticket)] = &push[..] else { return };
        if kind != pending::ANSWER.as_bytes() {
            return;
        }
        let mut waits = lock(&self.waits);
        let ticket = ticket.cast_unsigned();
        if ticket == pending::ALL {
            let Waits { by_ticket, ears, .. } = &mut *waits;
            for wait in by_ticket.values_mut().filter(|wait| wait.answer.is_none()) {
                wait.answer = Some(Reply::Nil);
                wait.thread.unpark();
            }
            if let Some(ears) = ears {
                ears.kick.ring();
            }
            return;
        }
        let is_listener = waits.listener == Some(ticket);
        if let Some(wait) = waits.by_ticket.get_mut(&ticket) {
            wait.answer = Some(answer);
            wait.thread.unpark();
            if is_listener && let Some(ears) = &waits.ears {
                ears.kick.ring();
            }
        }
    }

    /// Has the listener look, since there is something that the thread inside of the gate has not taken.
    pub fn kick(&self) {
        if let Some(ears) = &lock(&self.waits).ears {
            ears.kick.ring();
        }
    }

    /// Ends all waits: nothing comes any more.
    pub fn close(&self) {
        let mut waits = lock(&self.waits);
        waits.is_closed = true;
        if let Some(ears) = waits.ears.take() {
            ears.kick.ring();
        }
        waits.by_ticket.values().for_each(|wait| wait.thread.unpark());
    }
}

/// An answer that a thread waits for, until this is dropped.
pub(super) struct Expected<'a> {
    answers: &'a Answers,
    ticket: u64,
    /// The process that waits: in one that was forked from it meanwhile, a thread that is not there may have the lock.
    generation: u64,
}

impl Expected<'_> {
    /// The ticket that the answer has.
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    /// Takes note that the server has just said that it knows of this wait. If another one has died before, that was
    /// not its, whatever was said of that: its answer is still to come. To be called inside of the gate, before
    /// anything else is taken.
    pub fn is_known(&self) {
        if let Some(wait) = lock(&self.answers.waits).by_ticket.get_mut(&self.ticket)
            && wait.answer == Some(Reply::Nil)
        {
            wait.answer = None;
        }
    }

    /// Waits for the answer, but not longer than `limit`, nor behind a signal; `None` if it has not come. `look` enters
    /// the gate, and takes all that has come.
    ///
    /// # Errors
    /// Those of `look`; [`Error::Closed`] when the connection was closed.
    pub fn wait(&self, limit: Duration, look: impl Fn() -> Result<(), Error>) -> Result<Option<Reply>, Error> {
        let until = Instant::now() + limit;
        let outcome = self.wait_until(until, look);
        self.stand_down();
        outcome
    }

    fn wait_until(&self, until: Instant, look: impl Fn() -> Result<(), Error>) -> Result<Option<Reply>, Error> {
        loop {
            let ears = {
                let mut waits = lock(&self.answers.waits);
                if let Some(wait) = waits.by_ticket.get_mut(&self.ticket) {
                    if let Some(answer) = wait.answer.take() {
                        return Ok(Some(answer));
                    }
                    wait.is_here = true;
                }
                if waits.is_closed {
                    return Err(Error::Closed);
                }
                if *waits.listener.get_or_insert(self.ticket) == self.ticket { waits.ears.clone() } else { None }
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            match ears {
                Some(ears) if ears.listen(left)? => {
                    // What it was kicked for may be its own answer: then it need not enter the gate.
                    if !self.is_answered() {
                        look()?;
                    }
                }
                // It may have been a signal.
                Some(_) => return Ok(None),
                None => std::thread::park_timeout(left),
            }
        }
    }

    fn is_answered(&self) -> bool {
        lock(&self.answers.waits).by_ticket.get(&self.ticket).is_some_and(|wait| wait.answer.is_some())
    }

    /// Waits no more, and listens no more: another one does. That one is the listener from now on, not when it wakes
    /// up, since its own answer may come before that, and the rest would be parked with nobody to listen.
    fn stand_down(&self) {
        let mut waits = lock(&self.answers.waits);
        if let Some(wait) = waits.by_ticket.get_mut(&self.ticket) {
            wait.is_here = false;
        }
        if waits.listener == Some(self.ticket) {
            let next = waits.by_ticket.iter().find(|(_, wait)| wait.is_here && wait.answer.is_none());
            let next = next.map(|(ticket, next)| {
                next.thread.unpark();
                *ticket
            });
            waits.listener = next;
        }
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        if self.generation != fork::generation() {
            return;
        }
        let mut waits = lock(&self.answers.waits);
        waits.by_ticket.remove(&self.ticket);
        self.answers.waiting.store(waits.by_ticket.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use rustix::pipe::pipe;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn push(ticket: i64, answer: i64) -> Vec<Reply> {
        vec![Reply::Bulk(pending::ANSWER.into()), Reply::Integer(ticket), Reply::Integer(answer)]
    }

    /// A transport that never has news, for as long as the other end is kept.
    fn silent() -> (Descriptor, rustix::fd::OwnedFd) {
        let (read, write) = pipe().unwrap();
        (Descriptor::make(|| Ok(read)).unwrap(), write)
    }

    fn expect(answers: &Answers, ticket: u64) -> (Expected<'_>, Option<rustix::fd::OwnedFd>) {
        let mut end = None;
        let expected = answers.expect(ticket, || {
            let (transport, other_end) = silent();
            end = Some(other_end);
            Ok(Some(transport))
        });
        (expected.unwrap().expect("the transport can tell"), end)
    }

    fn no_look() -> Result<(), Error> {
        Ok(())
    }

    #[test]
    fn an_answer_is_for_its_ticket() {
        let answers = Answers::default();
        assert!(!answers.are_awaited());
        let (expected, _end) = expect(&answers, 7);
        assert!(answers.are_awaited());
        answers.deliver(push(8, 1));
        answers.deliver(vec![Reply::Bulk(b"other".to_vec()), Reply::Integer(7), Reply::Nil]);
        answers.deliver(vec![Reply::Integer(7)]);
        answers.deliver(vec![]);
        assert_eq!(expected.wait(Duration::ZERO, no_look).unwrap(), None);
        answers.deliver(push(7, 1));
        assert_eq!(expected.wait(LONG, no_look).unwrap(), Some(Reply::Integer(1)));
        drop(expected);
        assert!(!answers.are_awaited());
        answers.deliver(push(7, 1));
    }

    #[test]
    fn the_listener_looks_when_the_transport_has_news() {
        let answers = Answers::default();
        let (expected, end) = expect(&answers, 7);
        rustix::io::write(end.unwrap(), b"!").unwrap();
        let look = || {
            answers.deliver(push(7, 2));
            Ok(())
        };
        assert_eq!(expected.wait(LONG, look).unwrap(), Some(Reply::Integer(2)));
        let (other, _) = expect(&answers, 8);
        let failing = || Err(Error::Gone("it is".to_owned()));
        assert!(matches!(other.wait(LONG, failing), Err(Error::Gone(_))));
    }

    /// One of them listens, the others are parked; whoever has its answer goes, and another one listens.
    #[test]
    fn all_get_theirs_in_any_order() {
        for first in 1..5 {
            let answers = Answers::default();
            let (keeper, _end) = expect(&answers, 99);
            let is_listening = |answers: &Answers| lock(&answers.waits).listener.is_some();
            std::thread::scope(|scope| {
                let waiting: Vec<_> = (1..5)
                    .map(|ticket| {
                        let answers = &answers;
                        scope.spawn(move || expect(answers, ticket).0.wait(LONG, no_look).unwrap())
                    })
                    .collect();
                while lock(&answers.waits).by_ticket.len() < 5 || !is_listening(&answers) {
                    std::thread::yield_now();
                }
                for ticket in (first..5).chain(1..first) {
                    answers.deliver(push(ticket, 10 + ticket));
                }
                for (ticket, thread) in (1..).zip(waiting) {
                    assert_eq!(thread.join().unwrap(), Some(Reply::Integer(10 + ticket)));
                }
            });
            drop(keeper);
            assert!(!is_listening(&answers) && !answers.are_awaited());
        }
    }

    /// A server that goes on with the connections of a dead one does not know what they wait for.
    #[test]
    fn all_are_told_to_ask_again() {
        let answers = Answers::default();
        let (first, second) = (expect(&answers, 1), expect(&answers, 2));
        answers.deliver(push(2, 7));
        let restart = vec![Reply::Bulk(pending::ANSWER.into()), Reply::Integer(pending::ALL.cast_signed()), Reply::Nil];
        answers.deliver(restart);
        assert_eq!(first.0.wait(LONG, no_look).unwrap(), Some(Reply::Nil));
        assert_eq!(second.0.wait(LONG, no_look).unwrap(), Some(Reply::Integer(7)), "it has its answer");
    }

    /// It was once whoever had no answer yet; and while that one did something else, or had its answer and was gone,
    /// those that were parked waited for somebody to listen until they looked by themselves.
    #[test]
    fn one_that_waits_listens_next() {
        let answers = Answers::default();
        let elsewhere: Vec<_> = (10..40).map(|ticket| expect(&answers, ticket)).collect();
        let is_listening = |ticket| lock(&answers.waits).listener == Some(ticket);
        let wait = |ticket| expect(&answers, ticket).0.wait(LONG, no_look).unwrap();
        std::thread::scope(|scope| {
            let listener = scope.spawn(|| wait(1));
            let began = Instant::now();
            let until = |condition: &dyn Fn() -> bool| {
                while !condition() {
                    assert!(began.elapsed() < LONG / 6);
                    std::thread::yield_now();
                }
            };
            until(&|| is_listening(1));
            let parked = scope.spawn(|| wait(2));
            until(&|| lock(&answers.waits).by_ticket.get(&2).is_some_and(|wait| wait.is_here));
            answers.deliver(push(1, 0));
            assert!(listener.join().unwrap().is_some());
            let listens_next = is_listening(2);
            answers.deliver(push(2, 0));
            assert!(parked.join().unwrap().is_some());
            assert!(listens_next);
        });
        drop(elsewhere);
        assert!(lock(&answers.waits).listener.is_none() && !answers.are_awaited());
    }

    #[test]
    fn closing_ends_all_waits() {
        let answers = Answers::default();
        let (keeper, _end) = expect(&answers, 99);
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..3)
                .map(|ticket| {
                    scope.spawn({
                        let answers = &answers;
                        move || expect(answers, ticket).0.wait(LONG, no_look)
                    })
                })
                .collect();
            while lock(&answers.waits).by_ticket.len() < 4 {
                std::thread::yield_now();
            }
            answers.close();
            for thread in waiting {
                assert!(matches!(thread.join().unwrap(), Err(Error::Closed)));
            }
        });
        drop(keeper);
        assert!(matches!(answers.expect(1, || Ok(Some(silent().0))), Err(Error::Closed)));
    }
}
