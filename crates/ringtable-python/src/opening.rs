//! `LateClient`: a client that connects at once or with its first call, and waits for its server if that is wanted.

use std::ffi::OsString;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use ringtable::arrival::Arrival;
use ringtable::client::{Client, Error, Options};
use ringtable::limits;

use crate::arguments::shown;
use crate::convert::{Asked, waiting};
use crate::errors;

/// A client, or what it takes to make it.
pub struct LateClient {
    /// Where the server is, in every process.
    pub address: OsString,
    pub options: Options,
    /// How long one call may take.
    pub timeout: Option<Duration>,
    /// For how long to wait for a server, if there is none.
    pub patience: Option<Duration>,
    client: OnceLock<Client>,
    is_closed: AtomicBool,
}

impl LateClient {
    pub fn new(address: OsString, options: Options, timeout: Option<Duration>, patience: Option<Duration>) -> Self {
        let (client, is_closed) = (OnceLock::new(), AtomicBool::new(false));
        Self { address, options, timeout, patience, client, is_closed }
    }

    /// The client, if it has connected.
    pub fn peek(&self) -> Option<&Client> {
        self.client.get()
    }

    /// The client, connected.
    #[inline]
    pub fn get(&self, py: Python<'_>) -> PyResult<&Client> {
        match self.client.get() {
            Some(client) => Ok(client),
            None => self.connect(py),
        }
    }

    /// Of threads that connect at the same time, the first one's connection is kept. It is put in its place while the
    /// interpreter is held, as a fork is made: no child inherits a place that is being taken.
    #[cold]
    fn connect(&self, py: Python<'_>) -> PyResult<&Client> {
        self.check_open(py)?;
        let made = self.open(py)?;
        let client = self.client.get_or_init(|| made);
        if let Err(closed) = self.check_open(py) {
            waiting(py, self.timeout, self.asked(), |patience| {
                client.close(patience);
                Ok(())
            })?;
            return Err(closed);
        }
        Ok(client)
    }

    fn check_open(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_closed() { Err(errors::client(py, Error::Closed)) } else { Ok(()) }
    }

    /// A new connection. Where there is no server, or one that is ending, it waits for one.
    fn open(&self, py: Python<'_>) -> PyResult<Client> {
        let began = Instant::now();
        let mut arrival = None;
        loop {
            let opened = waiting(py, self.timeout, self.asked(), |patience| {
                match Client::connect(&self.address, &self.options, patience) {
                    Err(error @ (Error::NotFound { .. } | Error::Gone(_))) => Ok(Err(error)),
                    other => other.map(Ok),
                }
            })?;
            let absent = match opened {
                Ok(client) => return Ok(client),
                Err(absent) => absent,
            };
            let Some(patience) = self.patience else { return Err(errors::client(py, absent)) };
            let left = patience.saturating_sub(began.elapsed());
            if left.is_zero() {
                let name = if matches!(absent, Error::Gone(_)) { "ServerGone" } else { "TableNotFound" };
                let waited = shown(patience.as_secs_f64());
                return Err(errors::family(py, name, format!("{absent}; waited {waited} seconds for one")));
            }
            let arrival = arrival.get_or_insert_with(|| Arrival::new(&self.address));
            let slice = left.min(Duration::from_millis(limits::SIGNAL_CHECK_MS));
            waiting(py, None, self.asked(), |patience| {
                arrival.wait(slice);
                patience.check_interrupted()
            })?;
        }
    }

    fn asked(&self) -> Asked<'_> {
        Asked { server: &self.address, may_write: false }
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        // Relaxed: guards nothing.
        self.is_closed.load(Ordering::Relaxed) || self.peek().is_some_and(Client::is_closed)
    }

    /// Closes it, for good.
    pub fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.is_closed.store(true, Ordering::Relaxed);
        let Some(client) = self.peek() else { return Ok(()) };
        waiting(py, self.timeout, self.asked(), |patience| {
            client.close(patience);
            Ok(())
        })
    }
}
