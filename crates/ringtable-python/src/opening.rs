//! `LateClient`: a client that connects at once or with its first call, and tells when its server is another one.

use std::ffi::OsString;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use ringtable::client::{Client, Error, Options};

use crate::convert::{Asked, waiting};
use crate::errors;
use crate::holdings::Holdings;

/// A client, or what it takes to make it.
pub struct LateClient {
    /// Where the server is, in every process.
    pub address: OsString,
    pub options: Options,
    /// How long one call may take.
    pub timeout: Option<Duration>,
    client: OnceLock<Client>,
    is_closed: AtomicBool,
    /// The server that the caller knows of; 0 before there was one.
    server_id: AtomicU64,
    /// Called with the number of the next one.
    on_new_server: Option<Py<PyAny>>,
    /// The locks that this process has.
    pub holdings: Holdings,
}

impl LateClient {
    pub fn new(
        address: OsString,
        options: Options,
        timeout: Option<Duration>,
        on_new_server: Option<Py<PyAny>>,
    ) -> Self {
        Self {
            address,
            options,
            timeout,
            client: OnceLock::new(),
            is_closed: AtomicBool::new(false),
            server_id: AtomicU64::new(0),
            on_new_server,
            holdings: Holdings::default(),
        }
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
        let made = waiting(py, self.timeout, self.asked(), |patience| {
            Client::connect(&self.address, &self.options, patience)
        })?;
        let client = self.client.get_or_init(|| made);
        self.look_at_server(py, client)?;
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

    /// Looks, after a call that may have connected anew, whether the server is another one than before.
    ///
    /// # Errors
    /// What a signal handler raises that runs while the caller is told: Ctrl-C ends the call.
    #[inline]
    pub fn look_at_server(&self, py: Python<'_>, client: &Client) -> PyResult<()> {
        // Relaxed: it guards nothing, and which thread tells does not matter.
        if client.server_id() == self.server_id.load(Ordering::Relaxed) { Ok(()) } else { self.tell(py, client) }
    }

    /// The call that has found it has its own outcome: an exception of the function is printed, as for a `__del__`.
    #[cold]
    fn tell(&self, py: Python<'_>, client: &Client) -> PyResult<()> {
        let id = client.server_id();
        let before = self.server_id.swap(id, Ordering::Relaxed);
        let Some(function) = self.on_new_server.as_ref().filter(|_| before != 0 && before != id) else {
            return Ok(());
        };
        match function.call1(py, (id,)) {
            Err(error) if error.is_instance_of::<PyException>(py) => {
                error.write_unraisable(py, Some(function.bind(py)));
                Ok(())
            }
            outcome => outcome.map(|_| ()),
        }
    }

    /// For the interpreter's garbage collector: a function often refers to the table that it is called for.
    pub fn traverse(&self, visit: &pyo3::PyVisit<'_>) -> Result<(), pyo3::PyTraverseError> {
        visit.call(&self.on_new_server)
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
