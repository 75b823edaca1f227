//! The layouts of all that one server inherits from another one.

use super::grants;
use crate::command::record::RECORD_VERSION;
use crate::ring::lane::LANE_VERSION;
use crate::table::layout::LAYOUT_VERSION;

/// What a keeper and its servers say to each other.
const MESSAGES_VERSION: u64 = 2;
/// Notes of lanes, and logs of workers.
const NOTES_VERSION: u64 = 3;

/// A program goes on with what another one has left if all of these are the same: messages of the keeper, the table,
/// grants, notes, lanes, and records in lanes.
pub const LAYOUTS: [u64; 6] =
    [MESSAGES_VERSION, LAYOUT_VERSION, grants::LAYOUT_VERSION, NOTES_VERSION, LANE_VERSION, RECORD_VERSION];
