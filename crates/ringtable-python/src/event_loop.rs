//! `LoopConnection`: a connection for an event loop of Python's, whose calls are futures.
//!
//! # Design
//!
//! A call is what a pipeline has recorded, and a future of the loop. Its requests go out at once, as far as there is
//! room; what finds none waits in a queue. When the descriptor is ready, the loop has the connection take what has come
//! ([`LoopConnection::take`]), which gives each future its result. `ringtable/aio/` drives it.
//!
//! # Invariants
//!
//! - No code of the interpreter's runs while the lock is held: results are made and handed out behind it.
//! - A future that is done already, since its task was cancelled, gets nothing; what it has asked for may have been
//!   done, and its replies are taken all the same.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::intern;
use pyo3::prelude::*;
use ringtable::client::{self, Arrival, Error, Submitted};
use ringtable::command::reply::Reply;

use crate::pipeline::{PipelineCore, Recorded};
use crate::table::TableCore;
use crate::{convert, errors};

/// Requests that wait for room, of all calls together: who has more on their way than that is refused. Each has a name
/// of its own, see [`name`].
const QUEUE_MAX: usize = 1 << 20;

/// Requests after which they are published, so that the server begins while the loop goes on.
const PUBLISH_EVERY: usize = 16;

/// A call whose replies have not all come.
struct Call {
    recorded: Recorded,
    /// In the order of its requests; nil for those that have not come.
    replies: Vec<Reply>,
    /// How many have not come.
    left: usize,
    future: Py<PyAny>,
    /// Whether its result is that of one command, and not a list.
    is_one: bool,
}

impl Call {
    /// Takes a reply. Returns whether it was the last one.
    fn take(&mut self, index: usize, reply: Reply) -> bool {
        if let Some(place) = self.replies.get_mut(index) {
            *place = reply;
        }
        self.left -= 1;
        self.left == 0
    }
}

/// The name of a request: its call, and which one of that it is.
fn name(call: u64, index: usize) -> u64 {
    call << 24 | index as u64
}

/// A request that waits for room: its call, which one of it, and where its words begin.
struct Waiting {
    call: u64,
    index: usize,
    start: usize,
}

/// A future of an answer, and what it comes to.
type Answered = (Py<PyAny>, Reply);

struct State {
    connection: client::LoopConnection,
    calls: HashMap<u64, Call>,
    last: u64,
    queue: VecDeque<Waiting>,
    /// Requests that were submitted and not published.
    unpublished: usize,
    /// Futures of answers that come later, by their tickets.
    answers: HashMap<u64, Py<PyAny>>,
}

impl State {
    /// Submits the requests that wait, as far as there is room, and publishes some of them at a time: the last ones go
    /// out when the loop has done all that is to be done now ([`LoopConnection::arm`]). Returns calls that have all
    /// their replies by that.
    fn submit(&mut self, py: Python<'_>) -> Result<Vec<Call>, Error> {
        let mut done = Vec::new();
        while let Some(&Waiting { call: number, index, start }) = self.queue.front() {
            let Some(call) = self.calls.get_mut(&number) else {
                self.queue.pop_front();
                continue;
            };
            // Words are objects that do not change, and were looked at when they were recorded.
            let words = call.recorded.request(py, index, start).unwrap_or_default();
            let answered = match self.connection.submit(name(number, index), &words) {
                Ok(Submitted::Taken) => {
                    self.unpublished += 1;
                    None
                }
                Ok(Submitted::Full) => {
                    self.unpublished = PUBLISH_EVERY;
                    break;
                }
                Ok(Submitted::Answered(reply)) => Some(reply),
                Err(error) if error.ends_connection() => return Err(error),
                Err(error) => Some(Reply::Error(format!("ERR {error}"))),
            };
            self.queue.pop_front();
            if answered.is_some_and(|reply| call.take(index, reply)) {
                done.extend(self.calls.remove(&number));
            }
        }
        if self.unpublished >= PUBLISH_EVERY {
            self.unpublished = 0;
            self.connection.publish()?;
        }
        Ok(done)
    }

    /// Takes all that has come: calls that have all their replies, and answers with the futures that wait for them.
    fn take(&mut self) -> (Vec<Call>, Vec<Answered>, Option<Error>) {
        let (mut done, mut answered) = (Vec::new(), Vec::new());
        loop {
            match self.connection.take() {
                Ok(Some(Arrival::Reply(name, reply))) => {
                    let (number, index) = (name >> 24, (name & 0xff_ffff) as usize);
                    if self.calls.get_mut(&number).is_some_and(|call| call.take(index, reply)) {
                        done.extend(self.calls.remove(&number));
                    }
                }
                Ok(Some(Arrival::Answer(ticket, reply))) => {
                    answered.extend(self.answers.remove(&ticket).map(|future| (future, reply)));
                }
                Ok(Some(Arrival::Restart)) => {
                    answered.extend(self.answers.drain().map(|(_, future)| (future, Reply::Nil)));
                }
                Ok(None) => return (done, answered, None),
                Err(error) => return (done, answered, Some(error)),
            }
        }
    }
}

/// A connection for an event loop.
#[pyclass(frozen, module = "ringtable._ringtable")]
pub struct LoopConnection(Mutex<State>);

impl LoopConnection {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives a future its result, or the error that this is, unless it is done.
fn resolve(py: Python<'_>, future: &Py<PyAny>, result: &Bound<'_, PyAny>, is_error: bool) -> PyResult<()> {
    let future = future.bind(py);
    if !future.call_method0(intern!(py, "done"))?.is_truthy()? {
        let name = if is_error { intern!(py, "set_exception") } else { intern!(py, "set_result") };
        future.call_method1(name, (result,))?;
    }
    Ok(())
}

fn finish(py: Python<'_>, calls: Vec<Call>) -> PyResult<()> {
    for Call { recorded, replies, future, is_one, .. } in calls {
        if is_one {
            let result = recorded.result(py, replies)?;
            let is_error = result.is_instance_of::<pyo3::exceptions::PyBaseException>();
            resolve(py, &future, &result, is_error)?;
        } else {
            let results = convert::list(py, recorded.results(py, replies)?.into_iter().map(Ok))?;
            resolve(py, &future, results.as_any(), false)?;
        }
    }
    Ok(())
}

#[pymethods]
impl LoopConnection {
    /// Connect to the server of that table, and wait until that is done.
    #[new]
    fn new(py: Python<'_>, table: &Bound<'_, TableCore>) -> PyResult<Self> {
        let connection = table.get().connect_loop(py)?;
        let (calls, queue, answers) = (HashMap::new(), VecDeque::new(), HashMap::new());
        Ok(Self(Mutex::new(State { connection, calls, last: 0, queue, unpublished: 0, answers })))
    }

    /// The descriptor to sleep on.
    fn fileno(&self) -> RawFd {
        self.lock().connection.descriptor().as_raw_fd()
    }

    /// The number of the server's table.
    #[getter]
    fn server_id(&self) -> u64 {
        self.lock().connection.server_id()
    }

    /// Whether it was made in this process.
    #[getter]
    fn is_ours(&self) -> bool {
        self.lock().connection.is_ours()
    }

    /// Send what a pipeline has recorded, and have its results, or the result of its only command, in that future.
    /// Return how many requests wait for room.
    fn submit(
        &self,
        py: Python<'_>,
        pipeline: &Bound<'_, PipelineCore>,
        future: Py<PyAny>,
        is_one: bool,
    ) -> PyResult<usize> {
        let recorded = pipeline.get().take();
        let mut state = self.lock();
        let requests = recorded.requests();
        if state.queue.len() + requests > QUEUE_MAX {
            drop(state);
            let message = format!("more than {QUEUE_MAX} requests of this event loop wait to be sent");
            return Err(errors::family(py, "OutOfResources", message));
        }
        state.last += 1;
        let number = state.last;
        let mut start = 0;
        for index in 0..requests {
            state.queue.push_back(Waiting { call: number, index, start });
            start += recorded.size(index);
        }
        let replies = vec![Reply::Nil; requests];
        state.calls.insert(number, Call { recorded, replies, left: requests, future, is_one });
        if requests == 0 {
            let done = state.calls.remove(&number).into_iter().collect();
            drop(state);
            return finish(py, done).map(|()| 0);
        }
        // Behind others it would find no room, either.
        if state.queue.len() > requests {
            return Ok(state.queue.len());
        }
        let (submitted, left) = (state.submit(py), state.queue.len());
        drop(state);
        finish(py, submitted.map_err(|error| errors::client(py, error))?)?;
        Ok(left)
    }

    /// Have the answer with this ticket, which comes later, in that future.
    fn expect(&self, ticket: u64, future: Py<PyAny>) {
        self.lock().answers.insert(ticket, future);
    }

    /// Expect the answer with this ticket no more.
    fn forget(&self, ticket: u64) {
        self.lock().answers.remove(&ticket);
    }

    /// Take all that has come, and give the futures their results. Return whether anything is still to come.
    ///
    /// Raises `ServerGone` when the connection has ended; then `fail` is due.
    fn take(&self, py: Python<'_>) -> PyResult<bool> {
        let mut state = self.lock();
        let woken = state.connection.disarm();
        let (mut done, answered, mut failure) = state.take();
        if failure.is_none() && woken.is_ok() {
            match state.submit(py) {
                Ok(refused) => done.extend(refused),
                Err(error) => failure = Some(error),
            }
        }
        let is_busy = state.connection.is_busy() || !state.queue.is_empty() || !state.answers.is_empty();
        drop(state);
        finish(py, done)?;
        for (future, reply) in answered {
            let answer = convert::reply(py, reply)?;
            resolve(py, &future, &answer, false)?;
        }
        match failure.or(woken.err()) {
            Some(error) => Err(errors::client(py, error)),
            None => Ok(is_busy),
        }
    }

    /// Have the descriptor tell of what comes from now on.
    ///
    /// Returns 0 if there is something to take already; else 1, or 2 if it is to be watched for room, too.
    fn arm(&self, py: Python<'_>) -> PyResult<u8> {
        let mut state = self.lock();
        state.unpublished = 0;
        let armed = state.connection.arm().and_then(|sleeps| Ok((sleeps, state.connection.wants_room()?)));
        drop(state);
        match armed {
            Ok((false, _)) => Ok(0),
            Ok((true, wants_room)) => Ok(1 + u8::from(wants_room)),
            Err(error) => Err(errors::client(py, error)),
        }
    }

    /// Give all futures of calls that error: nothing comes any more. Those whose calls were not sent get the other.
    ///
    /// Those of answers that were to come later get `None`, as from a server that follows another one.
    fn fail(&self, py: Python<'_>, error: &Bound<'_, PyAny>, unsent: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut state = self.lock();
        let queued: std::collections::HashSet<u64> =
            state.queue.drain(..).filter(|waiting| waiting.index == 0).map(|waiting| waiting.call).collect();
        let calls: Vec<(u64, Call)> = state.calls.drain().collect();
        let answers: Vec<Py<PyAny>> = state.answers.drain().map(|(_, future)| future).collect();
        drop(state);
        for (number, call) in calls {
            let error = if queued.contains(&number) { unsent } else { error };
            resolve(py, &call.future, error, true)?;
        }
        for future in answers {
            resolve(py, &future, py.None().bind(py), false)?;
        }
        Ok(())
    }
}
