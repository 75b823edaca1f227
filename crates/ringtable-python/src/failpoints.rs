//! What tests need of failpoints: see `ringtable::failpoint`. Not there in a normal build.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use ringtable::failpoint::{self, Action};

/// Adds `failpoints` and `arm_failpoint` to the module.
pub fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(failpoints, module)?)?;
    module.add_function(wrap_pyfunction!(arm_failpoint, module)?)
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
