//! `BarrierCore`: parties that wait for each other.
//!
//! Between the answer of the server and the end of a call no line of Python runs, but for signal handlers, which may
//! raise as everywhere.

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use crate::arguments::{self, whole};
use crate::errors;
use crate::table::TableCore;

/// What `ringtable.Barrier` inherits.
#[pyclass(subclass, frozen, name = "Barrier", module = "ringtable._ringtable")]
pub struct BarrierCore {
    table: Py<TableCore>,
    /// The name as the server has it.
    name: Vec<u8>,
    parties: u64,
}

#[pymethods]
impl BarrierCore {
    #[new]
    fn new(
        py: Python<'_>,
        table: Py<TableCore>,
        name: &Bound<'_, PyAny>,
        parties: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let name = crate::convert::key(name)?.to_vec();
        ringtable::client::check_key(&name).map_err(|error| errors::client(py, error))?;
        let parties = whole("parties", parties)?.parties(py, "parties")?;
        Ok(Self { table, name, parties })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.table)
    }

    /// Its name.
    #[getter]
    fn name(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }

    /// How many wait for each other.
    #[getter]
    fn parties(&self) -> u64 {
        self.parties
    }

    /// How many wait now.
    #[getter]
    fn n_waiting(&self, py: Python<'_>) -> PyResult<u64> {
        self.table.get().write(py, |client, patience| client.parties_waiting(&self.name, patience))
    }

    /// Wait until all parties are here; return how many were still to come: 0 to the one that came last.
    ///
    /// For `timeout` at most, in seconds or a `timedelta`. With 0 it does not wait: it passes if it is the last one, or
    /// the last one comes in that very moment.
    ///
    /// Raises `Timeout` if not all came in time: this one counts no more, and the others wait on. `LockLost` if the
    /// server does not answer: this one may be counted, and the others may have passed. `ServerGone` if the server
    /// dies; `CommandError` if others have made this barrier with another number of parties, or too many wait;
    /// `InvalidOption` over UDP.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<u64> {
        let limit = arguments::timeout("timeout", timeout)?;
        let passed =
            self.table.get().write(py, |client, patience| client.barrier(&self.name, self.parties, limit, patience))?;
        passed.ok_or_else(|| {
            let (parties, name, limit) = (self.parties, self.name(), limit.unwrap_or_default().as_secs_f64());
            let message = format!("not all {parties} parties came to the barrier '{name}' within {limit} s");
            errors::family(py, "Timeout", message)
        })
    }
}
