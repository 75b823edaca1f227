//! The arguments of calls, checked: one place, for tables, pipelines and batches alike.
//!
//! # Invariants
//!
//! - A call checks all of its arguments before it sends anything, and in the same order whatever it is a method of.
//! - What is wrong is named with the value and the limit: a `TypeError` for what is of another type, one of the family
//!   of `ringtable.Error` for what is out of range.

use std::time::Duration;

use pyo3::Borrowed;
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyFloat, PyString};
use ringtable::client::{Bounds, Condition, Staleness, Stay};
use ringtable::limits;
use ringtable::table::Mark;

use crate::buffer::type_name;
use crate::{convert, errors};

/// An argument with a default that is not `None`: what was given, if anything was.
pub struct Given<'py>(pub Option<Bound<'py, PyAny>>);

impl<'py> FromPyObject<'_, 'py> for Given<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(Some(object.to_owned())))
    }
}

/// The error for an argument of a type that it does not take; what else its conversion has raised stays as it is.
fn wrong_type(error: PyErr, name: &str, wanted: &str, given: &Bound<'_, PyAny>) -> PyErr {
    match error.is_instance_of::<PyTypeError>(given.py()) {
        true => PyTypeError::new_err(format!("{name} is {wanted}, not {}", type_name(given))),
        false => error,
    }
}

/// A span of time in seconds, which was given as a number, or as a `datetime.timedelta`.
pub fn seconds(name: &str, given: &Bound<'_, PyAny>) -> PyResult<f64> {
    if let Ok(number) = given.cast::<PyFloat>() {
        return Ok(number.value());
    }
    match given.extract() {
        Err(_) if is_timedelta(given)? => given.call_method0("total_seconds")?.extract(),
        // A whole number beyond all others.
        Err(error) if PyErr::is_instance_of::<PyOverflowError>(&error, given.py()) => {
            Ok(if given.lt(0)? { f64::MIN } else { f64::MAX })
        }
        other => other.map_err(|error| wrong_type(error, name, "seconds or a timedelta", given)),
    }
}

/// Whether this is a `datetime.timedelta`. Where there is one, the module is there; it is not imported for the
/// question, which may be asked in the middle of another thread's imports, and of a program that has no use for it.
fn is_timedelta(given: &Bound<'_, PyAny>) -> PyResult<bool> {
    let modules = given.py().import("sys")?.getattr("modules")?;
    let Ok(timedelta) = modules.get_item("datetime").and_then(|module| module.getattr("timedelta")) else {
        return Ok(false);
    };
    given.is_instance(&timedelta)
}

/// A time-out; `None` is none.
pub fn timeout(name: &str, given: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Duration>> {
    timeout_or(name, given, "or None")
}

/// The same where that is allowed, too.
pub fn timeout_or(name: &str, given: Option<&Bound<'_, PyAny>>, others: &str) -> PyResult<Option<Duration>> {
    let Some(given) = given else { return Ok(None) };
    let (number, most) = (seconds(name, given)?, limits::TIMEOUT_MAX_S as f64);
    if !(0.0..=most).contains(&number) {
        let (number, most) = (shown(number), shown(most));
        let message = format!("{name} is {number}; allowed are seconds from 0 to {most}, {others}");
        return Err(errors::family(given.py(), "InvalidOption", message));
    }
    Ok(Some(Duration::from_secs_f64(number)))
}

/// A number that may have a fraction.
pub fn number(name: &str, wanted: &str, given: &Bound<'_, PyAny>) -> PyResult<f64> {
    given.extract().map_err(|error| wrong_type(error, name, wanted, given))
}

/// Whether something shall be; `None` if that was not said.
#[inline]
pub fn flag(name: &str, given: Option<&Bound<'_, PyAny>>) -> PyResult<Option<bool>> {
    let Some(given) = given else { return Ok(None) };
    given.extract().map(Some).map_err(|error| wrong_type(error, name, "True or False", given))
}

/// A word out of a list of words.
pub fn text<'a>(name: &str, given: &'a Bound<'_, PyAny>) -> PyResult<&'a str> {
    given.cast::<PyString>().map_err(|error| wrong_type(error.into(), name, "text", given))?.to_str()
}

/// A whole number of any size, so that one that is out of range can be refused by the name of its argument.
pub struct Whole(Result<i128, &'static str>);

impl From<i64> for Whole {
    fn from(number: i64) -> Self {
        Self(Ok(number.into()))
    }
}

/// A whole number.
pub fn whole(name: &str, given: &Bound<'_, PyAny>) -> PyResult<Whole> {
    if let Ok(number) = given.extract::<i64>() {
        return Ok(number.into());
    }
    match given.extract::<i128>() {
        Ok(number) => Ok(Whole(Ok(number))),
        Err(error) if error.is_instance_of::<PyOverflowError>(given.py()) => {
            Ok(Whole(Err(if given.lt(0)? { "below -2^127" } else { "above 2^127" })))
        }
        Err(error) => Err(wrong_type(error, name, "a whole number", given)),
    }
}

/// The same if there is one.
#[inline]
pub fn optional_whole(name: &str, given: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Whole>> {
    let Some(given) = given else { return Ok(None) };
    whole(name, given).map(Some)
}

impl Whole {
    fn within(&self, py: Python<'_>, name: &str, least: i128, most: i128) -> PyResult<i128> {
        let shown = match self.0 {
            Ok(number) if (least..=most).contains(&number) => return Ok(number),
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
        self.within(py, name, i64::MIN.into(), i64::MAX.into()).map(|number| number as i64)
    }

    /// How many of something there are, at least one.
    pub fn permits(&self, py: Python<'_>, name: &str) -> PyResult<u64> {
        self.within(py, name, 1, i64::MAX.into()).map(|number| number as u64)
    }

    /// How many parties a barrier has.
    pub fn parties(&self, py: Python<'_>, name: &str) -> PyResult<u64> {
        self.within(py, name, 1, limits::BARRIER_PARTIES_MAX as i128).map(|number| number as u64)
    }

    /// The version of an entry, or 0 for that of an absent one.
    pub fn version(&self, py: Python<'_>, name: &str) -> PyResult<u64> {
        self.within(py, name, 0, i64::MAX.into()).map(|version| version as u64)
    }

    /// The place of a walk.
    pub fn cursor(&self, py: Python<'_>, name: &str) -> PyResult<u64> {
        self.within(py, name, 0, u64::MAX.into()).map(|cursor| cursor as u64)
    }
}

/// Seconds for messages, as Python would write them.
pub fn shown(seconds: f64) -> String {
    match seconds {
        f64::MAX => "above 1e308".to_owned(),
        f64::MIN => "below -1e308".to_owned(),
        _ if seconds.is_nan() => "nan".to_owned(),
        _ if seconds == 0.0 || (1e-4..1e16).contains(&seconds.abs()) => seconds.to_string(),
        _ => format!("{seconds:?}"),
    }
}

/// Seconds as milliseconds: at least one, and rounded to the nearest beyond.
fn as_ms(seconds: f64) -> u64 {
    ((seconds * 1_000.0).round() as u64).max(1)
}

/// A time to live in milliseconds.
fn checked_ttl_ms(py: Python<'_>, name: &str, ttl: f64) -> PyResult<u64> {
    if !(ttl > 0.0 && ttl <= limits::TTL_MAX_S as f64) {
        let (ttl, most) = (shown(ttl), limits::TTL_MAX_S);
        let message = format!("{name} is {ttl}; allowed are seconds above 0 and up to {most}");
        return Err(errors::family(py, "InvalidOption", message));
    }
    Ok(as_ms(ttl))
}

/// The same of an argument.
pub fn ttl_ms(name: &str, ttl: &Bound<'_, PyAny>) -> PyResult<u64> {
    checked_ttl_ms(ttl.py(), name, seconds(name, ttl)?)
}

/// The same if there is one.
pub fn optional_ttl_ms(name: &str, ttl: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    ttl.map(|ttl| ttl_ms(name, ttl)).transpose()
}

/// For how long a value is kept, and is fresh: the time to live that the table is told, in milliseconds, and how much
/// of that is left when it is how old.
pub fn staleness(
    py: Python<'_>,
    ttl: Option<&Bound<'_, PyAny>>,
    stale: &Given<'_>,
    stale_if_error: &Given<'_>,
) -> PyResult<(Option<u64>, Staleness)> {
    let fresh_ms = optional_ttl_ms("ttl", ttl)?;
    let more = |name: &str, given: &Given<'_>| {
        let span = given.0.as_ref().map_or(Ok(0.0), |given| seconds(name, given))?;
        let invalid = |message| Err(errors::family(py, "InvalidOption", message));
        if !(0.0..=limits::TTL_MAX_S as f64).contains(&span) {
            let (span, most) = (shown(span), limits::TTL_MAX_S);
            return invalid(format!("{name} is {span}; allowed are seconds from 0 to {most}"));
        }
        if span == 0.0 {
            return Ok(0);
        }
        if fresh_ms.is_none() {
            let span = shown(span);
            return invalid(format!("{name} is {span}, and without ttl nothing becomes stale: give a ttl"));
        }
        Ok(as_ms(span))
    };
    let (stale_ms, on_error_ms) = (more("stale", stale)?, more("stale_if_error", stale_if_error)?);
    let kept_ms = stale_ms.max(on_error_ms);
    let Some(fresh_ms) = fresh_ms else { return Ok((None, Staleness::default())) };
    let name = if stale_ms < on_error_ms { "ttl + stale_if_error" } else { "ttl + stale" };
    let all_ms = checked_ttl_ms(py, name, (fresh_ms + kept_ms) as f64 / 1_000.0)?;
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
#[inline]
pub fn mark(evictable: Option<&Bound<'_, PyAny>>) -> PyResult<Mark> {
    Ok(match flag("evictable", evictable)? {
        None => Mark::AsBefore,
        Some(true) => Mark::Evictable,
        Some(false) => Mark::Unevictable,
    })
}

impl<'a, 'py> Set<'a, 'py> {
    pub fn check(
        key: &'a Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
        (ttl, keepttl): (Option<&Bound<'_, PyAny>>, &Given<'_>),
        (nx, xx): (&Given<'_>, &Given<'_>),
        if_version: Option<&Bound<'_, PyAny>>,
        evictable: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let py = key.py();
        let invalid = |message| Err(errors::family(py, "InvalidOption", message));
        let (key, value) = (convert::key(key)?, convert::value(value)?);
        let keeps_ttl = flag("keepttl", keepttl.0.as_ref())?.unwrap_or(false);
        let stay = Stay { ttl_ms: optional_ttl_ms("ttl", ttl)?, keeps_ttl, mark: mark(evictable)? };
        if keeps_ttl && stay.ttl_ms.is_some() {
            return invalid("ttl and keepttl exclude each other: choose one");
        }
        let (nx, xx) = (flag("nx", nx.0.as_ref())?.unwrap_or(false), flag("xx", xx.0.as_ref())?.unwrap_or(false));
        let when = match (nx, xx, optional_whole("if_version", if_version)?) {
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

/// What is added.
#[derive(Clone, Copy)]
pub enum By {
    /// A whole number, to one that keeps within bounds.
    Whole(i64, Bounds),
    /// A `float`.
    Float(f64),
}

/// The arguments of an increment.
pub struct Increment<'a> {
    pub key: &'a [u8],
    pub by: By,
}

impl<'a> Increment<'a> {
    pub fn check(
        key: &'a Bound<'_, PyAny>,
        by: &Given<'_>,
        ttl_if_new: Option<&Bound<'_, PyAny>>,
        minimum: Option<&Bound<'_, PyAny>>,
        maximum: Option<&Bound<'_, PyAny>>,
        evictable: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let py = key.py();
        let key = convert::key(key)?;
        let integer = |name, given: Option<&Bound<'_, PyAny>>| -> PyResult<Option<i64>> {
            optional_whole(name, given)?.map(|number| number.integer(py, name)).transpose()
        };
        let invalid = |message: String| Err(errors::family(py, "InvalidOption", message));
        if let Some(by) = by.0.as_ref().and_then(|by| by.cast::<PyFloat>().ok()) {
            let options =
                [("ttl_if_new", ttl_if_new), ("minimum", minimum), ("maximum", maximum), ("evictable", evictable)];
            if let Some((name, _)) = options.iter().find(|(_, given)| given.is_some()) {
                return invalid(format!("{name} is for whole numbers alone, and by is a float: leave one of them out"));
            }
            let by = by.value();
            if !by.is_finite() {
                return invalid(format!("by is {}; allowed are finite numbers", by.to_string().to_lowercase()));
            }
            return Ok(Self { key, by: By::Float(by) });
        }
        let by = integer("by", by.0.as_ref())?.unwrap_or(1);
        let ttl_ms_if_new = optional_ttl_ms("ttl_if_new", ttl_if_new)?;
        let (least, most) = (integer("minimum", minimum)?, integer("maximum", maximum)?);
        if let (Some(minimum), Some(maximum)) = (least, most)
            && minimum > maximum
        {
            return invalid(format!("minimum is {minimum} and maximum is {maximum}: no sum lies between them"));
        }
        let bounds = Bounds { ttl_ms_if_new, least, most, mark: mark(evictable)? };
        Ok(Self { key, by: By::Whole(by, bounds) })
    }
}
