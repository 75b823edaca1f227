//! What `crate::fuzzing` needs of a client's insides.

use super::rings::Seat;

/// Whether a server's answer tells of a seat.
pub fn is_seat(status: &str) -> bool {
    Seat::parse(status).is_some()
}
