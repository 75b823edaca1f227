//! Snapshots: the entries of a table in a file, and back.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Mutex;

use pyo3::call::PyCallArgs;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use ringtable::client::{self, Loading, Progress};
use ringtable::disk;

use crate::convert;
use crate::table::TableCore;

/// Who is told how far a call has come, and what came of that.
struct Listener {
    callback: Option<Py<PyAny>>,
    raised: Mutex<Option<PyErr>>,
}

impl Listener {
    fn new(callback: Option<Py<PyAny>>) -> Self {
        Self { callback, raised: Mutex::new(None) }
    }

    /// Tells of the progress; returns whether to go on.
    fn tell(&self, progress: Progress) -> bool {
        let Progress { entries, of, size } = progress;
        self.tell_of((entries, of, size))
    }

    fn tell_of(&self, figures: impl for<'py> PyCallArgs<'py>) -> bool {
        let Some(callback) = &self.callback else { return true };
        // Where the interpreter has ended nobody listens.
        let told = Python::try_attach(|py| callback.call1(py, figures).map(drop));
        match told {
            Some(Err(error)) => {
                *self.raised.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                false
            }
            _ => true,
        }
    }

    /// What the callback has raised, in place of what came of that.
    fn outcome<T>(self, outcome: PyResult<T>) -> PyResult<T> {
        match self.raised.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(error) => Err(error),
            None => outcome,
        }
    }
}

/// Write the entries of a table whose keys begin with `prefix` to a file; return how many, and its bytes.
///
/// `progress` is called now and then with entries written, about how many there are, and bytes written.
#[pyfunction]
#[pyo3(signature = (table, path, prefix, progress=None))]
pub fn snapshot(
    py: Python<'_>,
    table: &TableCore,
    path: PathBuf,
    prefix: &Bound<'_, PyAny>,
    progress: Option<Py<PyAny>>,
) -> PyResult<(u64, u64)> {
    let prefix = convert::key(prefix)?;
    let listener = Listener::new(progress);
    let outcome = table
        .take_time(py, |client, patience| client.snapshot(&path, prefix, |progress| listener.tell(progress), patience));
    listener.outcome(outcome).map(|Progress { entries, size, .. }| (entries, size))
}

/// Look whether the files at a path are whole: a file with entries, or the folder of a server.
///
/// Return of each its path, how many entries or changes are whole, whether it has changes, how many bytes at its end
/// were never durable, and what is wrong with it. `progress` is called now and then with bytes read, and how many there
/// are.
#[pyfunction]
#[pyo3(signature = (path, progress=None))]
#[allow(clippy::type_complexity)]
pub fn check(
    py: Python<'_>,
    path: PathBuf,
    progress: Option<Py<PyAny>>,
) -> PyResult<Vec<(OsString, u64, bool, u64, Option<String>)>> {
    let listener = Listener::new(progress);
    let found = convert::attached(py, None, |patience| {
        let mut stopped = None;
        let goes_on = |read: u64, of: u64| {
            stopped = patience.check_interrupted().err();
            stopped.is_none() && listener.tell_of((read, of))
        };
        match disk::check(&path, goes_on) {
            Ok(Some(findings)) => Ok(findings),
            Ok(None) => Err(stopped.unwrap_or(client::Error::Interrupted)),
            Err(error) => Err(error.into()),
        }
    });
    let found = listener.outcome(found)?;
    let of_each = |finding: disk::Finding| {
        let disk::Finding { path, count, is_log, torn, damage } = finding;
        (path.into_os_string(), count, is_log, torn, damage.map(|error| error.to_string()))
    };
    Ok(found.into_iter().map(of_each).collect())
}

/// Write the entries of a file to a table; return how many, how many had expired, what was passed over, and damage.
///
/// `progress` is called now and then with entries written, how many there are, and bytes read.
#[pyfunction]
#[pyo3(signature = (table, path, strict, salvage, progress=None))]
pub fn load<'py>(
    py: Python<'py>,
    table: &TableCore,
    path: PathBuf,
    strict: bool,
    salvage: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<(u64, u64, Bound<'py, PyDict>, Option<String>)> {
    let listener = Listener::new(progress);
    let loading = Loading { is_strict: strict, salvages: salvage };
    let outcome = table
        .take_time(py, |client, patience| client.load(&path, loading, |progress| listener.tell(progress), patience));
    let loaded = listener.outcome(outcome)?;
    let skipped = PyDict::new(py);
    for (what, count) in &loaded.contents.skipped {
        skipped.set_item(what.name(), count)?;
    }
    Ok((loaded.entries, loaded.expired, skipped, loaded.damage.map(|damage| damage.to_string())))
}
