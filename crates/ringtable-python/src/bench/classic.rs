//! `classic_client`: the loop of `ringtable client`, timed without its connecting.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use ringtable::client::{Client, Options, Reads, Transport, classic};
use ringtable::limits;

use crate::arguments::{self, Given};
use crate::convert::{self, Asked, waiting};
use crate::{errors, table};

/// Run the classic client's loop: return `loops`, `operations`, `seconds`, `user_s` and `system_s`.
///
/// With `outer` 0 it runs until `KeyboardInterrupt`. Raises `ringtable.Error` with the word "mismatch" in its message
/// if the table does not hold what was put into it.
#[pyfunction]
#[pyo3(
    signature = (
        address, outer, inner, *, seed, reads=Given(None), transport=Given(None), timeout=None, trust_user=None
    ),
    text_signature = "(address, outer, inner, *, seed, reads='direct', transport='auto', timeout=None, trust_user=None)"
)]
#[allow(clippy::too_many_arguments)]
pub fn classic_client<'py>(
    py: Python<'py>,
    address: &Bound<'_, PyAny>,
    outer: u64,
    inner: usize,
    seed: u64,
    reads: Given<'py>,
    transport: Given<'py>,
    timeout: Option<&Bound<'_, PyAny>>,
    trust_user: Option<&Bound<'_, PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    /// Most keys of an inner loop: their requests and replies are all in flight at once.
    const INNER_MAX: usize = 10_000_000;
    if inner > INNER_MAX {
        let message = format!("INNER is {inner}; allowed are 0 to {INNER_MAX} keys");
        return Err(errors::family(py, "InvalidOption", message));
    }
    let options = Options {
        reads: reads.0.as_ref().map_or(Ok(Reads::default()), table::reads)?,
        transport: transport.0.as_ref().map_or(Ok(Transport::default()), table::transport)?,
        reconnect: false,
        wait: None,
        trust: convert::trust(py, trust_user)?,
    };
    let (timeout, address) = (arguments::timeout("timeout", timeout)?, convert::address(address)?);
    let place = convert::place(py, &address)?;
    let asked = |may_write| Asked { server: &place, may_write };
    let client = waiting(py, timeout, asked(false), |patience| Client::connect(&address, &options, patience))?;
    let usage = |field: &str| -> PyResult<f64> {
        let resource = py.import("resource")?;
        resource.call_method1("getrusage", (resource.getattr("RUSAGE_SELF")?,))?.getattr(field)?.extract()
    };
    let (user, system) = (usage("ru_utime")?, usage("ru_stime")?);
    let started = Instant::now();
    let last_check = Mutex::new(Instant::now());
    let mut summary = classic::Summary::default();
    let outcome = waiting(py, timeout, asked(true), |patience| {
        let stop = || {
            let mut last_check = last_check.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if last_check.elapsed() < Duration::from_millis(limits::SIGNAL_CHECK_MS) {
                return false;
            }
            *last_check = Instant::now();
            patience.check_interrupted().is_err()
        };
        let result;
        (summary, result) = classic::run(&client, outer, inner, seed, patience, &stop);
        match result {
            Err(classic::ClassicError::Client(error)) => Err(error),
            Err(classic::ClassicError::Mismatch(what)) => Ok(Some(what)),
            Ok(()) => Ok(None),
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    let mismatch = match outcome {
        // Loops without end are meant to be ended like this.
        Err(error) if outer == 0 && error.is_instance_of::<pyo3::exceptions::PyKeyboardInterrupt>(py) => None,
        outcome => outcome?,
    };
    if let Some(mismatch) = mismatch {
        return Err(errors::family(py, "Error", format!("mismatch: {mismatch}")));
    }
    if outer != 0 && summary.loops < outer {
        return Err(pyo3::exceptions::PyKeyboardInterrupt::new_err(()));
    }
    let figures = PyDict::new(py);
    figures.set_item("loops", summary.loops)?;
    figures.set_item("operations", summary.operations)?;
    figures.set_item("seconds", seconds)?;
    figures.set_item("user_s", usage("ru_utime")? - user)?;
    figures.set_item("system_s", usage("ru_stime")? - system)?;
    Ok(figures)
}
