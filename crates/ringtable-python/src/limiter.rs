//! `LimiterCore`: rate limiters.

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use ringtable::client;

use crate::arguments::{Given, whole};
use crate::convert;
use crate::table::TableCore;

/// What a limiter says to a call: true if it is within the rate.
#[pyclass(frozen, name = "Allowance", module = "ringtable._ringtable")]
pub struct Allowance(client::Allowance);

#[pymethods]
impl Allowance {
    fn __bool__(&self) -> bool {
        self.0.is_allowed
    }

    /// Whether the call is within the rate.
    #[getter]
    fn allowed(&self) -> bool {
        self.0.is_allowed
    }

    /// How many more calls would be within the rate now.
    #[getter]
    fn remaining(&self) -> u64 {
        self.0.remaining
    }

    /// Seconds after which to ask again; 0.0 if the call is within the rate.
    #[getter]
    fn retry_after(&self) -> f64 {
        self.0.retry_ns as f64 / 1e9
    }

    fn __repr__(&self) -> String {
        let client::Allowance { is_allowed, remaining, .. } = self.0;
        let allowed = if is_allowed { "True" } else { "False" };
        format!("<ringtable.Allowance {allowed}, remaining={remaining}, retry_after={:?}>", self.retry_after())
    }
}

/// What `ringtable.RateLimiter` inherits.
#[pyclass(subclass, frozen, name = "RateLimiter", module = "ringtable._ringtable")]
pub struct LimiterCore {
    table: Py<TableCore>,
    /// What all of its keys begin with.
    prefix: Vec<u8>,
    rate: client::Rate,
}

#[pymethods]
impl LimiterCore {
    #[new]
    fn new(table: Py<TableCore>, prefix: Vec<u8>, count: u64, period_ns: u64, sliding: bool) -> Self {
        Self { table, prefix, rate: client::Rate::new(count, period_ns, sliding) }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.table)
    }

    /// Count a call for `key`, or `cost` of them, if that is within the rate; return whether it is.
    ///
    /// What is returned is true or false, and also tells `remaining` and `retry_after`. A call that is refused counts
    /// for nothing.
    ///
    /// Raises `OutOfMemory` if the table has no place for another key: nothing was decided then.
    #[pyo3(signature = (key, cost=Given(None)))]
    fn __call__(&self, py: Python<'_>, key: &Bound<'_, PyAny>, cost: Given<'_>) -> PyResult<Allowance> {
        let cost = cost.0.map_or(Ok(1), |given| whole("cost", &given)?.permits(py, "cost"))?;
        let key = [&self.prefix[..], convert::key(key)?].concat();
        self.table.get().write(py, |client, patience| client.limit(&key, &self.rate, cost, patience)).map(Allowance)
    }
}
