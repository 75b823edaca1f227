//! `WatchCore`: the changes of a table, in batches.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use ringtable::client::{Change, Error, Patience, Watch};
use ringtable::table::events::Kind;

use crate::convert::{self, Asked, waiting};
use crate::{arguments, errors};

/// Kind, key, version and size of an event. Where events were missed, their number stands in place of the version.
type Row<'py> = (Bound<'py, PyString>, Bound<'py, PyBytes>, u64, u64);

fn rows<'py>(py: Python<'py>, changes: &[Change]) -> PyResult<Vec<Row<'py>>> {
    let row = |change: &Change| match change {
        Change::Lagged(count) => Ok((intern!(py, "lagged").clone(), convert::bytes(py, b"")?, *count, 0)),
        Change::Event { event, key } => {
            let kind = match event.kind {
                Kind::Set => intern!(py, "set"),
                Kind::Delete => intern!(py, "delete"),
                Kind::Expire => intern!(py, "expire"),
                Kind::Evict => intern!(py, "evict"),
                Kind::Flush => intern!(py, "flush"),
            };
            Ok((kind.clone(), convert::bytes(py, key)?, event.version, event.size))
        }
    };
    changes.iter().map(row).collect()
}

/// The changes of a table, in batches: each is a kind, a key, a version and a size.
///
/// `ringtable.Watch` makes events of them.
///
/// Where events were missed, the kind is "lagged", and their number stands in place of the version.
#[pyclass(frozen, name = "Watch", module = "ringtable._ringtable")]
pub struct WatchCore {
    watch: Watch,
    address: OsString,
    timeout: Option<Duration>,
    /// Whether it goes on with the next server.
    reconnects: bool,
}

impl WatchCore {
    fn asked(&self) -> Asked<'_> {
        Asked { server: &self.address, may_write: false }
    }

    /// A call that never waits, but for other threads' short ones.
    fn now<R>(&self, py: Python<'_>, call: impl FnOnce(&Watch, Patience<'_>) -> Result<R, Error> + Send) -> PyResult<R>
    where
        R: Send,
    {
        waiting(py, None, self.asked(), |patience| call(&self.watch, patience))
    }
}

#[pymethods]
impl WatchCore {
    #[new]
    #[pyo3(signature = (address, prefix, *, connect_timeout=None, timeout=None, reconnect=true, trust_user=None))]
    fn new(
        py: Python<'_>,
        address: &Bound<'_, PyAny>,
        prefix: &Bound<'_, PyAny>,
        connect_timeout: Option<&Bound<'_, PyAny>>,
        timeout: Option<&Bound<'_, PyAny>>,
        reconnect: bool,
        trust_user: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let (prefix, timeout) = (convert::key(prefix)?, arguments::timeout("timeout", timeout)?);
        let connect_timeout = arguments::timeout("connect_timeout", connect_timeout)?;
        let (address, trust) = (convert::address(address)?, convert::trust(py, trust_user)?);
        let asked = Asked { server: &convert::place(py, &address)?, may_write: false };
        let watch = waiting(py, connect_timeout, asked, |patience| Watch::connect(&address, prefix, &trust, patience))?;
        let address = watch.location().address();
        Ok(Self { watch, address, timeout, reconnects: reconnect })
    }

    /// The address of the server, which means it in every process.
    #[getter]
    fn address(&self) -> &OsStr {
        &self.address
    }

    /// Seconds that `wait` may take, or `None`.
    #[getter]
    fn timeout(&self) -> Option<f64> {
        self.timeout.map(|timeout| timeout.as_secs_f64())
    }

    /// Wait until there are changes, and return some.
    fn wait<'py>(&self, py: Python<'py>) -> PyResult<Vec<Row<'py>>> {
        let changes =
            waiting(py, self.timeout, self.asked(), |patience| match self.watch.wait(self.reconnects, patience) {
                // Not the words for a call that the server did not answer.
                Err(Error::Timeout(_)) => Ok(None),
                other => other.map(Some),
            })?;
        match changes {
            Some(changes) => rows(py, &changes),
            None => Err(self.timed_out(py)),
        }
    }

    /// Return the exception for a wait that took as long as it may.
    fn timed_out(&self, py: Python<'_>) -> PyErr {
        let seconds = self.timeout.unwrap_or_default().as_secs_f64();
        errors::family(py, "Timeout", format!("no event within {seconds} s; the watch goes on"))
    }

    /// Return changes that are there, without waiting, and whether it is time to `rejoin`.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<(Vec<Row<'py>>, bool)> {
        let (changes, has_gone) = self.now(py, Watch::take)?;
        Ok((rows(py, &changes)?, has_gone && self.reconnects))
    }

    /// Prepare for waiting until `fileno()` is readable; return `False` if there is something to take already.
    fn arm(&self, py: Python<'_>) -> PyResult<bool> {
        self.now(py, Watch::arm)
    }

    /// End the waiting that `arm` began, whatever came of it.
    fn disarm(&self, py: Python<'_>) -> PyResult<()> {
        self.now(py, Watch::disarm)
    }

    /// Whether it goes on with the next server: in `wait` by itself, and otherwise by `rejoin`.
    #[getter]
    fn reconnects(&self) -> bool {
        self.reconnects
    }

    /// Go on with the next server, if that of before has gone, without waiting; return whether it is there.
    ///
    /// Raises `ServerGone` if there is none with the same table.
    fn rejoin(&self, py: Python<'_>) -> PyResult<bool> {
        waiting(py, Some(Duration::ZERO), self.asked(), |patience| match self.watch.rejoin(patience) {
            Err(Error::Timeout(_)) => Ok(false),
            other => other.map(|()| true),
        })
    }

    /// The descriptor to wait for before `rejoin` is tried again; `None` if that has to be some time later.
    fn joining(&self) -> Option<i32> {
        self.watch.joining()
    }

    /// The descriptor to wait for between `arm` and `disarm`; another one after `rejoin`.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.watch.descriptor().map_err(|error| errors::client(py, error))
    }

    /// End the watch, and wake whoever waits in it; may be called again.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.now(py, |watch, patience| {
            watch.close(patience);
            Ok(())
        })
    }
}

/// The words of the request that turns a socket's connection into a watch, for programs that do so by hand.
#[pyfunction]
pub fn watch_request() -> Vec<String> {
    ringtable::client::watch_request().into()
}
