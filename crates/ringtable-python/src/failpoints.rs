//! What tests need of failpoints: see `ringtable::failpoint`, and `ringtable::disk`. Not there in a normal build.

use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use ringtable::disk;
use ringtable::failpoint::{self, Action};

/// Adds all of it to the module.
pub fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(failpoints, module)?)?;
    module.add_function(wrap_pyfunction!(arm_failpoint, module)?)?;
    module.add_function(wrap_pyfunction!(record_disk, module)?)?;
    module.add_function(wrap_pyfunction!(fail_disk, module)?)?;
    module.add_function(wrap_pyfunction!(slow_disk, module)?)
}

/// All failpoints: what each is called, and where a process stands that stops at it.
#[pyfunction]
fn failpoints() -> Vec<(&'static str, &'static str)> {
    failpoint::POINTS.to_vec()
}

/// Arm a failpoint of this process: whoever passes it for the `nth` time from now on does what `action` says.
///
/// The actions are `kill`, `stop` (SIGSTOP), `doze` (a second), `panic`, and from that pass on `yield` and `sleep` (a
/// millisecond); `None` disarms the point.
#[pyfunction]
#[pyo3(signature = (name, action, nth=1))]
fn arm_failpoint(name: &str, action: Option<&str>, nth: u32) -> PyResult<()> {
    let find = |name: &str| {
        let known = Action::ALL.into_iter().find(|&(known, _)| known == name);
        known.map(|(_, action)| action).ok_or_else(|| PyValueError::new_err(format!("there is no action '{name}'")))
    };
    let action = action.map(find).transpose()?;
    if failpoint::arm(name, action, nth.max(1)) {
        Ok(())
    } else {
        Err(PyValueError::new_err(format!("there is no failpoint '{name}'")))
    }
}

/// Write down each step of this process that changes what is on a disk, behind what is in that file.
#[pyfunction]
fn record_disk(path: PathBuf) -> PyResult<()> {
    Ok(disk::record(&path)?)
}

/// Let `count` steps of this kind (`sync`, `write`, `create`, `rename` ...) fail with the error of this number
/// (`errno`), behind `before` that do not.
#[pyfunction]
#[pyo3(signature = (kind, number, *, before=0, count=1))]
fn fail_disk(kind: &str, number: i32, before: u32, count: u32) -> PyResult<()> {
    if disk::fail(kind, before, count, number) {
        Ok(())
    } else {
        Err(PyValueError::new_err(format!("there is no step '{kind}'")))
    }
}

/// Let all steps of this kind take so many milliseconds, and longer.
#[pyfunction]
fn slow_disk(kind: &str, ms: u64) -> PyResult<()> {
    if disk::slow_down(kind, Duration::from_millis(ms)) {
        Ok(())
    } else {
        Err(PyValueError::new_err(format!("there is no step '{kind}'")))
    }
}
