//! The arguments of calls, checked: one place, for tables, pipelines and batches alike.
//!
//! # Invariants
//!
//! - A call checks all of its arguments before it sends anything, and in the same order whatever it is a method of.
//! - What is wrong is named with the value and the limit: a `TypeError` for what is of another type, one of the family
//!   of `ringtable.Error` for what is out of range.

use pyo3::Borrowed;
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDelta, PyFloat};
use ringtable::client::{Bounds, Condition, Staleness, Stay};
use ringtable::limits;
use ringtable::table::Mark;

use crate::buffer::type_name;
use crate::{convert, errors};

/// A span of time: seconds as a number, or a `datetime.timedelta`.
#[derive(Clone, Copy)]
pub struct Seconds(pub f64);

impl<'py> FromPyObject<'_, 'py> for Seconds {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(number) = object.cast::<PyFloat>() {
            return Ok(Self(number.value()));
        }
        if object.is_instance_of::<PyDelta>() {
            return object.call_method0("total_seconds")?.extract().map(Self);
        }
        object.extract().map(Self).map_err(|error| match error.is_instance_of::<PyTypeError>(object.py()) {
            true => PyTypeError::new_err(format!("times are seconds or a timedelta, not {}", type_name(&object))),
            false => error,
        })
    }
}

/// A whole number of any size, so that one that is out of range can be refused by the name of its argument.
pub struct Whole(Result<i128, &'static str>);

impl From<i64> for Whole {
    fn from(number: i64) -> Self {
        Self(Ok(number.into()))
    }
}

impl<'py> FromPyObject<'_, 'py> for Whole {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(number) = object.extract::<i64>() {
            return Ok(number.into());
        }
        match object.extract::<i128>() {
            Ok(number) => Ok(Self(Ok(number))),
            Err(error) if error.is_instance_of::<PyOverflowError>(object.py()) => {
                Ok(Self(Err(if object.lt(0)? { "below -2^127" } else { "above 2^127" })))
            }
            Err(error) if error.is_instance_of::<PyTypeError>(object.py()) => {
                Err(PyTypeError::new_err(format!("a whole number is wanted, not {}", type_name(&object))))
            }
            Err(error) => Err(error),
        }
    }
}

impl Whole {
    fn within(&self, py: Python<'_>, name: &str, least: i64, most: i64) -> PyResult<i64> {
        let shown = match self.0 {
            Ok(number) if (least.into()..=most.into()).contains(&number) => return Ok(number as i64),
            Ok(number) => number.to_string(),
            Err(shown) => shown.to_owned(),
        };
        let message = format!("{name} is {shown}; allowed are whole numbers from {least} to {most}");
        Err(errors::family(py, "InvalidOption", message))
    }

    /// The nearest number without a sign, and what it should have been if that is another one.
    pub fn nearest(&self) -> (u64, Option<String>) {
        match self.0 {
            Ok(number) => match u64::try_from(number) {
                Ok(number) => (number, None),
                Err(_) => (if number < 0 { 0 } else { u64::MAX }, Some(number.to_string())),
            },
            Err(shown) => (if shown.starts_with("below") { 0 } else { u64::MAX }, Some(shown.to_owned())),
        }
    }

    /// A 64-bit integer.
    pub fn integer(&self, py: Python<'_>, name: &str) -> PyResult<i64> {
        self.within(py, name, i64::MIN, i64::MAX)
    }

    /// The version of an entry, or 0 for that of an absent one.
    pub fn version(&self, py: Python<'_>, name: &str) -> PyResult<u64> {
        self.within(py, name, 0, i64::MAX).map(|version| version as u64)
    }
}

/// Seconds for messages, as Python would write them.
fn shown(Seconds(seconds): Seconds) -> String {
    if seconds == 0.0 || (1e-4..1e16).contains(&seconds.abs()) { seconds.to_string() } else { format!("{seconds:?}") }
}

/// A time to live in milliseconds: at least one, and rounded to the nearest beyond.
pub fn ttl_ms(py: Python<'_>, name: &str, ttl: Seconds) -> PyResult<u64> {
    if !(ttl.0 > 0.0 && ttl.0 <= limits::TTL_MAX_S as f64) {
        let (ttl, most) = (shown(ttl), limits::TTL_MAX_S);
        let message = format!("{name} is {ttl}; allowed are seconds above 0 and up to {most}");
        return Err(errors::family(py, "InvalidOption", message));
    }
    Ok(((ttl.0 * 1_000.0).round() as u64).max(1))
}

/// The same if there is one.
pub fn optional_ttl_ms(py: Python<'_>, name: &str, ttl: Option<Seconds>) -> PyResult<Option<u64>> {
    ttl.map(|ttl| ttl_ms(py, name, ttl)).transpose()
}

/// For how long a value is kept, and is fresh: the time to live that the table is told, in milliseconds, and how much
/// of that is left when it is how old.
pub fn staleness(
    py: Python<'_>,
    ttl: Option<Seconds>,
    stale: Seconds,
    stale_if_error: Seconds,
) -> PyResult<(Option<u64>, Staleness)> {
    let fresh_ms = optional_ttl_ms(py, "ttl", ttl)?;
    let more = |name: &str, span: Seconds| match span.0 {
        0.0 => Ok(0),
        _ if ttl.is_none() => {
            let message = format!("{name} is {}, and without ttl nothing becomes stale: give a ttl", shown(span));
            Err(errors::family(py, "InvalidOption", message))
        }
        _ => ttl_ms(py, name, span),
    };
    let (stale_ms, on_error_ms) = (more("stale", stale)?, more("stale_if_error", stale_if_error)?);
    let kept_ms = stale_ms.max(on_error_ms);
    let Some(fresh_ms) = fresh_ms else { return Ok((None, Staleness::default())) };
    let name = if stale_ms < on_error_ms { "ttl + stale_if_error" } else { "ttl + stale" };
    let all_ms = ttl_ms(py, name, Seconds((fresh_ms + kept_ms) as f64 / 1_000.0))?;
    let staleness = Staleness { fresh_ms: kept_ms, stale_ms: kept_ms - stale_ms, on_error_ms: kept_ms - on_error_ms };
    Ok((Some(all_ms), staleness))
}

/// When a write is done.
#[derive(Clone, Copy)]
pub enum When {
    /// By what is there.
    If(Condition),
    /// If the key still has this version.
    IfVersion(u64),
}

/// The arguments of a write of one key.
pub struct Set<'a, 'py> {
    pub key: &'a [u8],
    pub value: Bound<'py, PyBytes>,
    pub stay: Stay,
    pub when: When,
}

/// Whether an entry may be evicted: `None` for as before.
pub fn mark(evictable: Option<bool>) -> Mark {
    match evictable {
        None => Mark::AsBefore,
        Some(true) => Mark::Evictable,
        Some(false) => Mark::Unevictable,
    }
}

impl<'a, 'py> Set<'a, 'py> {
    pub fn check(
        key: &'a Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
        ttl: Option<Seconds>,
        (nx, xx): (bool, bool),
        if_version: Option<&Whole>,
        evictable: Option<bool>,
    ) -> PyResult<Self> {
        let py = key.py();
        let invalid = |message| Err(errors::family(py, "InvalidOption", message));
        let (key, value) = (convert::key(key)?, convert::value(value)?);
        let stay = Stay { ttl_ms: optional_ttl_ms(py, "ttl", ttl)?, mark: mark(evictable) };
        let when = match (nx, xx, if_version) {
            (true, true, None) => return invalid("nx and xx exclude each other: choose one"),
            (false, false, Some(version)) => When::IfVersion(version.version(py, "if_version")?),
            (_, _, Some(_)) => return invalid("if_version excludes nx and xx: choose one"),
            (true, ..) => When::If(Condition::Absent),
            (_, true, _) => When::If(Condition::Present),
            (false, false, None) => When::If(Condition::Always),
        };
        Ok(Self { key, value, stay, when })
    }
}

/// The arguments of an increment.
pub struct Increment<'a> {
    pub key: &'a [u8],
    pub by: i64,
    pub bounds: Bounds,
}

impl<'a> Increment<'a> {
    pub fn check(
        key: &'a Bound<'_, PyAny>,
        by: &Whole,
        ttl_if_new: Option<Seconds>,
        minimum: Option<&Whole>,
        maximum: Option<&Whole>,
        evictable: Option<bool>,
    ) -> PyResult<Self> {
        let py = key.py();
        let key = convert::key(key)?;
        let by = by.integer(py, "by")?;
        let ttl_ms_if_new = optional_ttl_ms(py, "ttl_if_new", ttl_if_new)?;
        let least = minimum.map(|minimum| minimum.integer(py, "minimum")).transpose()?;
        let most = maximum.map(|maximum| maximum.integer(py, "maximum")).transpose()?;
        if let (Some(minimum), Some(maximum)) = (least, most)
            && minimum > maximum
        {
            let message = format!("minimum is {minimum} and maximum is {maximum}: no sum lies between them");
            return Err(errors::family(py, "InvalidOption", message));
        }
        Ok(Self { key, by, bounds: Bounds { ttl_ms_if_new, least, most, mark: mark(evictable) } })
    }
}
