//! `Histogram`: how often which time was measured, for the benchmarks and whoever measures latencies.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram as Counts;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::{convert, errors};

/// Longer times are counted as this one.
const NS_MAX: u64 = 3_600_000_000_000;

/// Significant digits of what is recorded: no value is off by more than one in a thousand.
const DIGITS: u8 = 3;

/// A value and its count are a little-endian word each.
const WORD_SIZE: usize = 8;

/// Counts of times in nanoseconds, from 1 ns to an hour, exact to three digits.
///
/// Recording allocates nothing. Histograms of several processes are brought together with `to_bytes`, `from_bytes` and
/// `add`.
#[pyclass(frozen, module = "ringtable._ringtable")]
pub struct Histogram {
    counts: Mutex<Counts<u64>>,
}

impl Histogram {
    fn lock(&self) -> MutexGuard<'_, Counts<u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Histogram {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        match Counts::new_with_bounds(1, NS_MAX, DIGITS) {
            Ok(counts) => Ok(Self { counts: Mutex::new(counts) }),
            Err(error) => Err(errors::family(py, "Error", error.to_string())),
        }
    }

    /// Count one time.
    #[pyo3(signature = (ns, /))]
    fn record(&self, ns: u64) {
        self.lock().saturating_record(ns);
    }

    /// The time in nanoseconds that `percent` of all recorded ones do not exceed; 0 when there are none.
    #[pyo3(signature = (percent, /))]
    fn percentile(&self, py: Python<'_>, percent: f64) -> PyResult<u64> {
        if !(0.0..=100.0).contains(&percent) {
            let message = format!("percent is {percent}; allowed are 0 to 100");
            return Err(errors::family(py, "InvalidOption", message));
        }
        Ok(self.lock().value_at_percentile(percent))
    }

    /// How many times were recorded.
    #[getter]
    fn count(&self) -> u64 {
        self.lock().len()
    }

    /// Count all that the other one has counted, too.
    #[pyo3(signature = (other, /))]
    fn add(&self, py: Python<'_>, other: &Self) -> PyResult<()> {
        // Copied first: two locks at once, taken in either order, could wait for each other, and a histogram may be
        // added to itself.
        let others = other.lock().clone();
        self.lock().add(&others).map_err(|error| errors::family(py, "Error", error.to_string()))
    }

    /// What was counted, for `from_bytes` of another process.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let mut bytes = Vec::new();
        for recorded in self.lock().iter_recorded() {
            bytes.extend_from_slice(&recorded.value_iterated_to().to_le_bytes());
            bytes.extend_from_slice(&recorded.count_at_value().to_le_bytes());
        }
        convert::bytes(py, &bytes)
    }

    /// A histogram with what `to_bytes` gave.
    #[staticmethod]
    #[pyo3(signature = (data, /))]
    fn from_bytes(py: Python<'_>, data: &[u8]) -> PyResult<Self> {
        let (words, rest) = data.as_chunks::<WORD_SIZE>();
        let (pairs, odd) = words.as_chunks::<2>();
        if !rest.is_empty() || !odd.is_empty() {
            let message = format!("a histogram has a multiple of {} bytes, not {}", 2 * WORD_SIZE, data.len());
            return Err(errors::family(py, "InvalidOption", message));
        }
        let histogram = Self::new(py)?;
        for [value, count] in pairs {
            histogram.lock().saturating_record_n(u64::from_le_bytes(*value), u64::from_le_bytes(*count));
        }
        Ok(histogram)
    }
}
