//! The extension module `_ringtable`: conversions between Python and the engine, letting go of the interpreter around
//! every wait, and mapping errors. No logic.
//!
//! The package `ringtable` re-exports what is public and documents it.

mod convert;
mod errors;
#[cfg(feature = "failpoints")]
mod failpoints;
mod histogram;
mod profile;
mod server;
mod table;
mod view;
mod watch;

use pyo3::prelude::*;

/// The compiled half of ringtable.
#[pymodule(gil_used = false)]
mod _ringtable {
    use super::*;

    #[pymodule_export]
    use super::histogram::Histogram;
    #[pymodule_export]
    use super::profile::Profiler;
    #[pymodule_export]
    use super::server::{ServerCore, socket_path};
    #[pymodule_export]
    use super::table::{TableCore, classic_client, lane_request, rings_request};
    #[pymodule_export]
    use super::view::ViewCore;
    #[pymodule_export]
    use super::watch::{WatchCore, watch_request};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        use ringtable::limits;
        module.add("KEY_SIZE_MAX", limits::KEY_SIZE_MAX)?;
        module.add("VALUE_SIZE_MAX", limits::VALUE_SIZE_MAX)?;
        module.add("WORKERS_MAX", limits::WORKERS_MAX)?;
        module.add("MAX_MEMORY_MIN", limits::MAX_MEMORY_MIN)?;
        module.add("LAYOUT_VERSION", ringtable::table::layout::LAYOUT_VERSION)?;
        #[cfg(feature = "failpoints")]
        crate::failpoints::add_to(module)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
