//! Tables on disk: files with all entries of a table, and what reads and writes them.
//!
//! `docs/design-disk.md` has the whole picture. This layer knows a table as something to go over, and as something to
//! fill; who does that, and when, is for those above it.

pub mod rdb;

mod error;
mod recorder;
mod file;
mod replacement;
mod survey;
mod snapshot;
mod data_folder;
pub mod log;
mod check;

pub use check::{Finding, check};
pub use data_folder::{DUMP_OF_REDIS, DataFolder, make_folder, room_for};
pub use error::Error;
pub use file::{DiskFile, truncate};
#[cfg(feature = "failpoints")]
pub use recorder::{fail, record, slow_down};
pub use replacement::Replacement;
pub use snapshot::{Written, write_table};
pub use survey::{Contents, Reading, survey};
