//! How the calls of a table are made: with its time-out, again at the next server, and as what Python takes.

use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pyo3::exceptions::{PyException, PyRuntimeWarning};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use ringtable::client::{Client, Condition, Error, LoopConnection, Patience, Repeat, Staleness, Stay, Writes};
use ringtable::command::reply::Reply;
use ringtable::command::spec::Flag;
use ringtable::command::{self, Unwritten};
use ringtable::limits;

use super::{TableCore, writes};
use crate::convert::{self, Asked, BytesSink, LargeSink, waiting};
use crate::errors;
use crate::holdings::Holdings;

/// Whether a command, its name and arguments, may change the table.
pub(super) fn may_write(words: &[&[u8]]) -> bool {
    words.first().and_then(|name| command::find(name)).is_some_and(|spec| spec.has(Flag::Writes))
}

/// What to repeat of a call, by whether it changes something.
pub(super) fn repeat_unless(may_write: bool) -> Repeat {
    if may_write { Repeat::Unsent } else { Repeat::Always }
}

/// A key for messages, in so many characters at most.
fn shown(key: &Bound<'_, PyAny>) -> String {
    const SHOWN_MAX: usize = 60;
    let text = key.repr().map_or_else(|_| "?".to_owned(), |text| text.to_string());
    if text.chars().count() <= SHOWN_MAX { text } else { text.chars().take(SHOWN_MAX).chain(['…']).collect() }
}

impl TableCore {
    /// Makes a call that changes nothing, again if its server goes.
    pub(super) fn wait<R: Send>(
        &self,
        py: Python<'_>,
        call: impl FnMut(&Client, Patience<'_>) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        self.ask(py, self.timeout, Repeat::Always, call)
    }

    /// The same for a call that changes something: again if nothing of it was sent.
    pub fn write<R: Send>(
        &self,
        py: Python<'_>,
        call: impl FnMut(&Client, Patience<'_>) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        self.ask(py, self.timeout, Repeat::Unsent, call)
    }

    pub(super) fn ask<R: Send>(
        &self,
        py: Python<'_>,
        timeout: Option<Duration>,
        repeat: Repeat,
        mut call: impl FnMut(&Client, Patience<'_>) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        let mut found = None;
        self.make(py, timeout, repeat, &mut |client, patience| {
            found = Some(call(client, patience)?);
            Ok(())
        })?;
        Ok(found.unwrap_or_else(|| unreachable!("a call that was made has a result")))
    }

    /// Sets a value. To let go of the interpreter is a good part of what a posted write costs, and that waits for
    /// nobody as long as there is room.
    pub(super) fn put(
        &self,
        py: Python<'_>,
        key: &[u8],
        value: &[u8],
        stay: Stay,
        condition: Condition,
        writes: Writes,
    ) -> PyResult<bool> {
        if writes == Writes::Posted {
            let client = self.client.get(py)?;
            if client.try_post_set(key, value, stay, condition).map_err(|error| errors::client(py, error))? {
                return Ok(true);
            }
        }
        self.write(py, |client, patience| client.set(key, value, stay, condition, writes, patience))
    }

    /// Makes a call, again if its server goes and that may be. There is one copy of this for all kinds of calls.
    fn make(
        &self,
        py: Python<'_>,
        timeout: Option<Duration>,
        repeat: Repeat,
        call: &mut (dyn FnMut(&Client, Patience<'_>) -> Result<(), Error> + Send),
    ) -> PyResult<()> {
        let client = self.client.get(py)?;
        let outcome = waiting(py, timeout, self.asked(repeat == Repeat::Unsent), |patience| {
            client.repeated(repeat, patience, |patience| call(client, patience))
        });
        self.client.look_at_server(py, client)?;
        outcome
    }

    /// Makes a call that takes the time that it takes, once.
    pub fn take_time<R: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&Client, Patience<'_>) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        let client = self.client.get(py)?;
        let outcome = waiting(py, None, self.asked(true), |patience| call(client, patience));
        self.client.look_at_server(py, client)?;
        outcome
    }

    /// The locks that this process has over the connection.
    pub fn holdings(&self) -> &Holdings {
        &self.client.holdings
    }

    pub(super) fn asked(&self, may_write: bool) -> Asked<'_> {
        Asked { server: &self.client.address, may_write }
    }

    /// A value as `bytes`: in place if that is possible without waiting, else from the server.
    #[inline]
    pub(super) fn find<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let py = key.py();
        let bytes = convert::key(key)?;
        let mut sink = BytesSink::new(py);
        let client = self.client.get(py)?;
        match client.try_get(bytes, &mut sink) {
            Ok(Some(true)) => Ok(sink.take()),
            Ok(Some(false)) => Ok(None),
            Ok(None) | Err(Error::Gone(_)) => {
                let value = self.wait(py, |client, patience| client.get_owned(bytes, patience))?;
                let Some(value) = value else { return Ok(None) };
                let copy = convert::bytes(py, &value);
                client.give_back(value);
                copy.map(Some)
            }
            Err(Error::NoRoom(size)) => self.find_large(py, bytes, size),
            Err(error) => Err(errors::client(py, error)),
        }
    }

    /// As [`Self::find`], without holding the interpreter while a value is copied that is likely to have `size` bytes.
    #[cold]
    fn find_large<'py>(&self, py: Python<'py>, key: &[u8], mut size: usize) -> PyResult<Option<Bound<'py, PyBytes>>> {
        loop {
            let Some((bytes, mut sink)) = LargeSink::new(py, size) else {
                return Err(errors::client(py, Error::NoRoom(size)));
            };
            let found = self.wait(py, |client, patience| match client.get(key, &mut sink, patience) {
                // It has another size than the last time.
                Err(Error::NoRoom(now)) => Ok(Err(now)),
                other => other.map(Ok),
            })?;
            match found {
                Ok(true) => return Ok(Some(bytes)),
                Ok(false) => return Ok(None),
                Err(now) => size = now,
            }
        }
    }

    /// A fresh value, in place if that is possible without waiting; else `None`, or as [`Self::find`] if values are
    /// fresh as long as they are there.
    pub(super) fn find_fresh<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        staleness: Staleness,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        if staleness.fresh_ms == 0 {
            return self.find(key);
        }
        let mut sink = BytesSink::new(key.py());
        match self.client.get(key.py())?.try_find(convert::key(key)?, &mut sink) {
            Ok(Some(Some(found))) if staleness.finds_fresh(&found) => Ok(sink.take()),
            Ok(_) | Err(Error::NoRoom(_) | Error::Gone(_)) => Ok(None),
            Err(error) => Err(errors::client(key.py(), error)),
        }
    }

    /// Warns of something, the first time that it happens to this table.
    fn warn_once(&self, py: Python<'_>, warned: &AtomicBool, message: impl FnOnce() -> String) -> PyResult<()> {
        // Relaxed: it guards nothing.
        if warned.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let message = CString::new(message().replace('\0', "\\0"))?;
        PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &message, 1)
    }

    /// The end of a call that has computed a value, and has the lease with this token.
    pub(super) fn store<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        made: Bound<'py, PyBytes>,
        stay: Stay,
        token: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let py = key.py();
        let (bytes, value) = (convert::key(key)?, made.as_bytes());
        let refusal = self.write(py, |client, patience| match client.store(bytes, value, stay, patience) {
            // Whether it was stored matters to nobody: that table is gone.
            Err(Error::Gone(_)) if client.is_renewable() => Ok(None),
            stored => stored,
        })?;
        let Some(refusal) = refusal else { return Ok(made) };
        self.wait(py, |client, patience| client.hand_over(bytes, token, Unwritten::NotStored(Some(value)), patience))?;
        self.warn_once(py, &self.warned_of_values, || {
            let (key, size, why) = (shown(key), value.len(), errors::client(py, refusal).value(py).to_string());
            format!(
                "get_or_set returned the value of {key}, of {size} bytes, which the table has no place for: {why} \
                 (this table warns of it once; leases_not_stored in stats() counts)"
            )
        })?;
        Ok(made)
    }

    /// An old value that will do since computing another one has failed, at the end of a call that has a lease.
    pub(super) fn find_on_error<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        staleness: Staleness,
        token: u64,
        error: &PyErr,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let py = key.py();
        // Not for what ends programs and tasks.
        if staleness.on_error_ms == staleness.fresh_ms || !error.is_instance_of::<PyException>(py) {
            return Ok(None);
        }
        let bytes = convert::key(key)?;
        let Some(old) = self.wait(py, |client, patience| client.get_on_error(bytes, staleness, patience))? else {
            return Ok(None);
        };
        let old = convert::bytes(py, &old)?;
        self.wait(py, |client, patience| client.hand_over(bytes, token, Unwritten::Failed, patience))?;
        self.warn_once(py, &self.warned_of_errors, || {
            format!(
                "get_or_set returned the old value of {}, since computing another one has failed: {error} (this table \
                 warns of it once; leases_stale_on_error in stats() counts)",
                shown(key)
            )
        })?;
        Ok(Some(old))
    }

    /// Gives back the lease of a call that has failed. Returns what it raises: a signal handler's exception is not lost
    /// behind the one that was raised before.
    pub(super) fn give_lease_back(&self, py: Python<'_>, key: &[u8], token: u64, error: PyErr) -> PyErr {
        let Ok(client) = self.client.get(py) else { return error };
        // What has ended the call ends it soon, also if that was Ctrl-C and the server stands still.
        let limit = self.timeout.map_or(limits::LEASE_RETURN_MAX, |timeout| timeout.min(limits::LEASE_RETURN_MAX));
        match waiting(py, Some(limit), self.asked(false), |patience| client.unlease(key, token, patience)) {
            Err(raised) if !errors::is_ours(py, &raised) => {
                raised.set_cause(py, Some(error));
                raised
            }
            _ => error,
        }
    }

    /// Another table over the same connection.
    pub(super) fn share(&self) -> Self {
        let (warned_of_values, warned_of_errors) = (AtomicBool::new(false), AtomicBool::new(false));
        let Self { timeout, reads, writes, transport, is_lazy, .. } = *self;
        let client = Arc::clone(&self.client);
        Self { client, timeout, reads, writes, transport, is_lazy, warned_of_values, warned_of_errors }
    }

    /// A value that has come from the server, or what was given in its place.
    pub(super) fn taken<'py>(
        &self,
        py: Python<'py>,
        value: Option<Vec<u8>>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(value) = value else { return Ok(default) };
        let copy = convert::bytes(py, &value);
        self.client.get(py)?.give_back(value);
        Ok(Some(copy?.into_any()))
    }

    pub(super) fn writes(&self, given: Option<&Bound<'_, PyAny>>) -> PyResult<Writes> {
        given.map_or(Ok(self.writes), writes)
    }

    /// A connection to the same server for an event loop.
    pub fn connect_loop(&self, py: Python<'_>) -> PyResult<LoopConnection> {
        let client = self.client.get(py)?;
        let asked = Asked { server: &self.client.address, may_write: false };
        waiting(py, self.timeout, asked, |patience| LoopConnection::open(client, patience))
    }

    /// Asks many things, of so many words each, pipelined. What is refused is among the replies.
    pub fn ask_many(&self, py: Python<'_>, words: &[&[u8]], counts: &[usize]) -> PyResult<Vec<Reply>> {
        let mut rest = words;
        let commands: Vec<&[&[u8]]> = counts
            .iter()
            .map(|&count| {
                let (command, others) = rest.split_at(count);
                rest = others;
                command
            })
            .collect();
        let repeat = repeat_unless(commands.iter().any(|words| may_write(words)));
        self.ask(py, self.timeout, repeat, |client, patience| client.call_many(&commands, patience))
    }
}
