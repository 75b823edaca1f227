//! The extension module `_ringtable`: conversions between Python and the engine, letting go of the interpreter around
//! every wait, and mapping errors. No logic.
//!
//! The package `ringtable` re-exports what is public and documents it.

mod errors;
mod buffer;
mod convert;
mod arguments;
mod view;
mod holdings;
mod keeping;
mod opening;
mod table;
mod pipeline;
mod event_loop;
mod lock;
mod barrier;
mod limiter;
mod files;
mod watch;
mod server;
#[cfg(feature = "failpoints")]
mod failpoints;
#[cfg(feature = "bench")]
mod bench;

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;

/// Other interpreters of the process would share our classes and exceptions, which are objects of the first one.
///
/// The interpreter itself refuses only those that have a lock of their own.
fn refuse_other_interpreters(py: Python<'_>) -> PyResult<()> {
    #[allow(unsafe_code)]
    // SAFETY: the thread is attached, so that there is a current interpreter.
    let number = unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) };
    match number {
        0 => Ok(()),
        -1 => Err(PyErr::fetch(py)),
        _ => Err(PyImportError::new_err("ringtable works in the main interpreter alone, and not in subinterpreters")),
    }
}

/// The compiled half of ringtable.
///
/// It needs no interpreter lock: its classes are frozen, and what changes in them is atomic or behind a lock of theirs.
#[pymodule(gil_used = false)]
mod _ringtable {
    use super::*;

    #[pymodule_export]
    use super::barrier::BarrierCore;
    #[pymodule_export]
    use super::errors::shortage;
    #[pymodule_export]
    use super::event_loop::LoopConnection;
    #[pymodule_export]
    use super::files::{check, load, snapshot};
    #[pymodule_export]
    use super::keeping::KeptMemory;
    #[pymodule_export]
    use super::limiter::{Allowance, LimiterCore};
    #[pymodule_export]
    use super::lock::{LockCore, await_change};
    #[pymodule_export]
    use super::pipeline::PipelineCore;
    #[pymodule_export]
    use super::server::{ServerCore, default_address, folder_of_names, socket_path};
    #[pymodule_export]
    use super::table::{TableCore, check_staleness, check_timeout, check_ttl, lane_request, rings_request, to_bytes};
    #[pymodule_export]
    use super::view::ViewCore;
    #[pymodule_export]
    use super::watch::{WatchCore, watch_request};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        use ringtable::limits;
        refuse_other_interpreters(module.py())?;
        ringtable::client::prepare();
        errors::module(module.py())?;
        module.add("KEPT_LAYOUTS", ringtable::server::LAYOUTS)?;
        module.add("KEY_SIZE_MAX", limits::KEY_SIZE_MAX)?;
        module.add("VALUE_SIZE_MAX", limits::VALUE_SIZE_MAX)?;
        module.add("WORKERS_MAX", limits::WORKERS_MAX)?;
        module.add("MAX_MEMORY_MIN", limits::MAX_MEMORY_MIN)?;
        module.add("LOCKS_MAX", limits::LOCKS_MAX)?;
        module.add("LINGER_MS_MIN", limits::LINGER_MS_MIN)?;
        module.add("LINGER_MS_MAX", limits::LINGER_MS_MAX)?;
        module.add("LAYOUT_VERSION", ringtable::table::layout::LAYOUT_VERSION)?;
        #[cfg(feature = "bench")]
        crate::bench::add_to(module)?;
        #[cfg(feature = "failpoints")]
        crate::failpoints::add_to(module)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
