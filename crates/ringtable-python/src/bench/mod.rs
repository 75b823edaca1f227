//! What measurements need and nothing else does: the feature `bench`, and for the profiler `profile`. Without them the
//! module has none of these names.

mod histogram;
#[cfg(feature = "profile")]
mod profile;
mod classic;

use pyo3::prelude::*;

/// Adds the names.
pub fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<histogram::Histogram>()?;
    #[cfg(feature = "profile")]
    module.add_class::<profile::Profiler>()?;
    module.add_function(wrap_pyfunction!(classic::classic_client, module)?)
}
