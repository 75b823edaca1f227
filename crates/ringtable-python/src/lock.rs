//! `LockCore`: locks and semaphores; and waiting for a key to change.
//!
//! What is granted is noted ([`crate::holdings`]), by thread and process, so that mistakes are told from losses.
//! Between the granting of a token and its noting no line of Python runs: no signal handler can lose one.

use std::time::Duration;

use pyo3::PyTraverseError;
use pyo3::exceptions::PyBaseException;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyType;
use ringtable::client::{Contention, Error, LockTerms, LockWait};

use crate::arguments::{self, Given, flag, seconds, whole};
use crate::errors;
use crate::holdings::{Held, Holdings};
use crate::table::TableCore;

/// How a lock is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Reentrant,
    /// A thread may release what another thread of the process has.
    Semaphore,
}

/// What `ringtable.Lock` and `ringtable.Semaphore` inherit.
#[pyclass(subclass, frozen, name = "Lock", module = "ringtable._ringtable")]
pub struct LockCore {
    table: Py<TableCore>,
    name: String,
    /// The name as the server has it: locks and semaphores of the same name are apart.
    key: Vec<u8>,
    terms: LockTerms,
    kind: Kind,
    /// For how long to wait, unless told otherwise.
    patience: Option<Duration>,
    contention: Contention,
}

impl LockCore {
    fn holdings(&self) -> &Holdings {
        self.table.get().holdings()
    }

    fn noun(&self) -> &'static str {
        if self.kind == Kind::Semaphore { "semaphore" } else { "lock" }
    }

    /// What this thread has; of a semaphore, if it has none, what another thread has.
    fn held(&self) -> Option<Held> {
        let thread = std::thread::current().id();
        let own = self.holdings().find(&self.key, |held| held.is_ours() && held.thread == thread);
        if self.kind == Kind::Semaphore { own.or_else(|| self.holdings().find(&self.key, Held::is_ours)) } else { own }
    }

    /// What this thread has, to be released or extended.
    fn owned(&self, py: Python<'_>, to_do: &str) -> PyResult<Held> {
        if let Some(held) = self.held() {
            return Ok(held);
        }
        let (noun, name) = (self.noun(), &self.name);
        let message = match self.holdings().find(&self.key, |_| true) {
            Some(held) if !held.is_ours() => format!(
                "the {noun} '{name}' was acquired by the process that this one was forked from, and is that one's \
                 alone: a child can {to_do} what it has acquired itself"
            ),
            Some(_) => format!(
                "the {noun} '{name}' was acquired by another thread: a thread can {to_do} what it has acquired itself"
            ),
            None => format!("the {noun} '{name}' is not held over this connection: there is nothing to {to_do}"),
        };
        Err(errors::family(py, "NotOwned", message))
    }

    fn lost(&self, py: Python<'_>, cause: Option<Error>) -> PyErr {
        let (noun, name) = (self.noun(), &self.name);
        let why = match (&cause, self.terms.ttl_ms) {
            (None, Some(ttl_ms)) => format!(
                "its time to live ({} s, unless it was extended) was over, or the connection that had it has ended",
                ttl_ms as f64 / 1_000.0
            ),
            _ => "the connection that had it has ended, and it with that".to_owned(),
        };
        let lost = errors::family(py, "LockLost", format!("the {noun} '{name}' was lost: {why}; others may have it"));
        lost.set_cause(py, cause.map(|cause| errors::client(py, cause)));
        lost
    }

    fn forget(&self, token: u64) {
        self.holdings().forget(&self.key, token);
    }

    /// Acquires it. Returns whether it did.
    fn take(&self, py: Python<'_>, wait: LockWait) -> PyResult<bool> {
        if self.kind != Kind::Semaphore
            && let Some(held) = self.held()
        {
            if self.kind == Kind::Reentrant {
                return self.take_again(py, held);
            }
            if wait == LockWait::Forever && held.ends.is_none() && self.is_held(py, held.token)? {
                let message = format!(
                    "this thread has the lock '{}' already, and would wait for itself: release it first, or make it \
                     reentrant",
                    self.name
                );
                return Err(errors::family(py, "Reentrant", message));
            }
        }
        let (table, mut noted) = (self.table.get(), None);
        let granted = table.write(py, |client, patience| {
            let token = client.lock(&self.key, self.terms, wait, &self.contention, patience)?;
            if let Some(token) = token {
                self.holdings().note(&self.key, Held::now(token, self.terms.ttl_ms));
                noted = Some(token);
            }
            Ok(token)
        });
        if let (Err(_), Some(token)) = (&granted, noted) {
            // A signal handler has raised meanwhile: who gets an exception does not have it.
            self.forget(token);
            let _ = table.write(py, |client, patience| client.unlock(&self.key, token, patience));
        }
        Ok(granted?.is_some())
    }

    fn take_again(&self, py: Python<'_>, held: Held) -> PyResult<bool> {
        if !self.is_held(py, held.token)? {
            self.forget(held.token);
            return Err(self.lost(py, None));
        }
        self.holdings().change(&self.key, held.token, |one| one.depth += 1);
        Ok(true)
    }

    /// Whether the server says that it is ours.
    fn is_held(&self, py: Python<'_>, token: u64) -> PyResult<bool> {
        self.table.get().write(py, |client, patience| match client.locked(&self.key, Some(token), patience) {
            Err(Error::Gone(_)) => Ok(false),
            other => other.map(|count| count == 1),
        })
    }

    fn give_back(&self, py: Python<'_>) -> PyResult<()> {
        let held = self.owned(py, "release")?;
        if held.depth > 1 {
            self.holdings().change(&self.key, held.token, |one| one.depth -= 1);
            return Ok(());
        }
        self.forget(held.token);
        let outcome =
            self.table.get().write(py, |client, patience| match client.unlock(&self.key, held.token, patience) {
                Err(error @ Error::Gone(_)) => Ok(Err(Some(error))),
                Ok(false) => Ok(Err(None)),
                other => other.map(|_| Ok(())),
            });
        outcome?.map_err(|cause| self.lost(py, cause))
    }

    /// For how long to wait, as a call has said it.
    fn wait(&self, py: Python<'_>, blocking: &Given<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<LockWait> {
        let blocking = flag("blocking", blocking.0.as_ref())?.unwrap_or(true);
        if !blocking {
            return match timeout {
                Some(_) => Err(errors::family(py, "InvalidOption", "a call that does not block has no timeout")),
                None => Ok(LockWait::No),
            };
        }
        // As in the module threading, -1 is for ever.
        if let Some(given) = timeout
            && seconds("timeout", given)? == -1.0
        {
            return Ok(LockWait::Forever);
        }
        let limit = arguments::timeout_or("timeout", timeout, "-1 for ever, or None")?.or(self.patience);
        Ok(limit.map_or(LockWait::Forever, LockWait::For))
    }
}

#[pymethods]
impl LockCore {
    #[new]
    #[pyo3(signature = (table, name, permits, *, timeout=None, ttl=None, reentrant=false, semaphore=false))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        table: Py<TableCore>,
        name: &Bound<'_, PyAny>,
        permits: &Bound<'_, PyAny>,
        timeout: Option<&Bound<'_, PyAny>>,
        ttl: Option<&Bound<'_, PyAny>>,
        reentrant: bool,
        semaphore: bool,
    ) -> PyResult<Self> {
        let kind = match (semaphore, reentrant) {
            (true, _) => Kind::Semaphore,
            (_, true) => Kind::Reentrant,
            _ => Kind::Plain,
        };
        let word = crate::convert::key(name)?;
        let prefix: &[u8] = if semaphore { b"semaphore:" } else { b"lock:" };
        let key = [prefix, word].concat();
        ringtable::client::check_key(&key).map_err(|error| errors::client(py, error))?;
        let permits = whole("permits", permits)?.permits(py, "permits")?;
        let terms = LockTerms { permits, ttl_ms: arguments::optional_ttl_ms("ttl", ttl)? };
        let name = String::from_utf8_lossy(word).into_owned();
        let patience = arguments::timeout("timeout", timeout)?;
        Ok(Self { table, name, key, terms, kind, patience, contention: Contention::default() })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.table)
    }

    /// Its name.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// Seconds after which it ends by itself, or `None`.
    #[getter]
    fn ttl(&self) -> Option<f64> {
        self.terms.ttl_ms.map(|ttl_ms| ttl_ms as f64 / 1_000.0)
    }

    /// How many may have it at a time.
    #[getter]
    fn permits(&self) -> u64 {
        self.terms.permits
    }

    /// The fencing token of what this thread has, or `None`: higher than that of any holder before.
    ///
    /// Of a semaphore, if this thread has none, that of what another thread has.
    #[getter]
    fn token(&self) -> Option<u64> {
        self.held().map(|held| held.token)
    }

    /// Acquire it; return whether that was done.
    ///
    /// Waits until it is free, in the order of asking; with `blocking=False` not at all; with `timeout`, in seconds or
    /// a `timedelta`, for so long at most (-1: for ever). Without one it waits for the `timeout` that it was made with.
    ///
    /// Raises `Reentrant` if this thread has it already and would wait for itself; `InvalidOption` over UDP.
    #[pyo3(
        signature = (blocking=Given(None), timeout=None),
        text_signature = "($self, blocking=True, timeout=None)"
    )]
    fn acquire(&self, py: Python<'_>, blocking: Given<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let wait = self.wait(py, &blocking, timeout)?;
        self.take(py, wait)
    }

    /// Release it: the first that waits has it from then on.
    ///
    /// Raises `LockLost` if it was lost meanwhile; `NotOwned` if it was never had, or by another thread, or process.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.give_back(py)
    }

    /// Let it live for `ttl`, in seconds or a `timedelta`, from now on; without one, for as long as it was made
    /// with.
    ///
    /// Also a lock that was made without any ends then.
    ///
    /// Raises what `release` raises.
    #[pyo3(signature = (ttl=None))]
    fn extend(&self, py: Python<'_>, ttl: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let held = self.owned(py, "extend")?;
        let Some(ttl_ms) = arguments::optional_ttl_ms("ttl", ttl)?.or(self.terms.ttl_ms) else {
            let message = format!("the {} '{}' has no ttl, and none was given to extend", self.noun(), self.name);
            return Err(errors::family(py, "InvalidOption", message));
        };
        let outcome = self.table.get().write(py, |client, patience| {
            match client.extend(&self.key, held.token, ttl_ms, patience) {
                Err(error @ Error::Gone(_)) => Ok(Err(Some(error))),
                Ok(false) => Ok(Err(None)),
                other => other.map(|_| Ok(())),
            }
        });
        outcome?.map_err(|cause| {
            self.forget(held.token);
            self.lost(py, cause)
        })?;
        self.holdings().change(&self.key, held.token, |one| one.extend(Some(ttl_ms)));
        Ok(())
    }

    /// Return whether all of its permits are taken, by whomever.
    fn locked(&self, py: Python<'_>) -> PyResult<bool> {
        self.holders(py).map(|holders| holders >= self.terms.permits)
    }

    /// Return how many permits are taken, by whomever.
    fn holders(&self, py: Python<'_>) -> PyResult<u64> {
        self.table.get().write(py, |client, patience| client.locked(&self.key, None, patience))
    }

    /// Return whether this thread has it, as the server says now.
    #[pyo3(name = "owned")]
    fn owned_now(&self, py: Python<'_>) -> PyResult<bool> {
        self.held().map_or(Ok(false), |held| self.is_held(py, held.token))
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        let (py, this) = (slf.py(), slf.get());
        let wait = this.patience.map_or(LockWait::Forever, LockWait::For);
        if this.take(py, wait)? {
            return Ok(slf);
        }
        let (noun, name, limit) = (this.noun(), &this.name, this.patience.unwrap_or_default().as_secs_f64());
        Err(errors::family(py, "Timeout", format!("the {noun} '{name}' was not free within {limit} s")))
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: Option<&Bound<'_, PyType>>,
        error: Option<&Bound<'_, PyBaseException>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.give_back(py).inspect_err(|lost| {
            if let Some(error) = error {
                let _ = lost.value(py).setattr("__context__", error);
            }
        })
    }
}

/// Wait until `key` has another version than this one (0: until it is there); return whether it has.
///
/// For `timeout` at most, in seconds or a `timedelta`; `None` for ever.
#[pyfunction]
#[pyo3(signature = (table, key, version, timeout=None))]
pub fn await_change(
    py: Python<'_>,
    table: &Bound<'_, TableCore>,
    key: &Bound<'_, PyAny>,
    version: u64,
    timeout: Option<&Bound<'_, PyAny>>,
) -> PyResult<bool> {
    let key = crate::convert::key(key)?;
    let limit = arguments::timeout("timeout", timeout)?;
    table.get().write(py, |client, patience| client.await_change(key, version, limit, patience))
}
