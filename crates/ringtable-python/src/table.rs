//! `TableCore`: a client's calls.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use pyo3::exceptions::{PyKeyError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};
use ringtable::client::{
    Bounds, Client, Condition, Error, LeaseOutcome, LeftMs, Options, Reads, Repeat, Stay, Transport, Writes,
};
use ringtable::limits;
use ringtable::table::Pairs;

use crate::arguments::{self, By, Given, Increment, Set, When, flag, text, whole};
use crate::buffer::{Exported, type_name};
use crate::convert::{self, BytesSink, IntoSink};
use crate::errors;
use crate::opening::LateClient;
use crate::view::ViewCore;

mod calls;

use calls::{may_write, repeat_unless};

pub fn reads(given: &Bound<'_, PyAny>) -> PyResult<Reads> {
    let py = given.py();
    match text("reads", given)? {
        "direct" => Ok(Reads::Direct),
        "server" => Ok(Reads::Server),
        name => {
            Err(errors::family(py, "InvalidOption", format!("reads is '{name}'; allowed are 'direct' and 'server'")))
        }
    }
}

fn writes(given: &Bound<'_, PyAny>) -> PyResult<Writes> {
    let py = given.py();
    match text("writes", given)? {
        "acknowledged" => Ok(Writes::Acknowledged),
        "posted" => Ok(Writes::Posted),
        name => Err(errors::family(
            py,
            "InvalidOption",
            format!("writes is '{name}'; allowed are 'acknowledged' and 'posted'"),
        )),
    }
}

pub fn transport(given: &Bound<'_, PyAny>) -> PyResult<Transport> {
    let py = given.py();
    match text("transport", given)? {
        "auto" => Ok(Transport::Auto),
        "lane" => Ok(Transport::Lane),
        "rings" => Ok(Transport::Rings),
        "socket" => Ok(Transport::Socket),
        name => Err(errors::family(
            py,
            "InvalidOption",
            format!("transport is '{name}'; allowed are 'auto', 'lane', 'rings' and 'socket'"),
        )),
    }
}

fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Auto => "auto",
        Transport::Lane => "lane",
        Transport::Rings => "rings",
        Transport::Socket => "socket",
        Transport::Udp => "udp",
    }
}

fn missing(key: &Bound<'_, PyAny>) -> PyErr {
    PyKeyError::new_err(key.clone().unbind())
}

/// One connection to a server, and the calls that must be fast. `ringtable.Table` inherits it.
#[pyclass(subclass, frozen, generic, name = "Table", module = "ringtable._ringtable")]
pub struct TableCore {
    /// Shared by tables that are a part of this one.
    client: Arc<LateClient>,
    timeout: Option<Duration>,
    reads: Reads,
    writes: Writes,
    transport: Transport,
    is_lazy: bool,
    /// Whether it has warned of values that were not stored, and of old ones that had to do.
    warned_of_values: AtomicBool,
    warned_of_errors: AtomicBool,
}

#[pymethods]
impl TableCore {
    #[new]
    #[pyo3(
        signature = (
            address=None, *, timeout=None, reads=Given(None), writes=Given(None), transport=Given(None),
            reconnect=Given(None), trust_user=None, wait=None, lazy=Given(None), on_new_server=None
        ),
        text_signature = "(address=None, *, timeout=None, reads='direct', writes='acknowledged', transport='auto', \
                          reconnect=True, trust_user=None, wait=None, lazy=False, on_new_server=None)"
    )]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        address: Option<&Bound<'_, PyAny>>,
        timeout: Option<&Bound<'_, PyAny>>,
        reads: Given<'_>,
        writes: Given<'_>,
        transport: Given<'_>,
        reconnect: Given<'_>,
        trust_user: Option<&Bound<'_, PyAny>>,
        wait: Option<&Bound<'_, PyAny>>,
        lazy: Given<'_>,
        on_new_server: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        // A table in the place of an address: its options are those of the connection.
        if let Some(table) = address.and_then(|given| given.cast::<Self>().ok()) {
            return Ok(table.get().share());
        }
        let reads = reads.0.as_ref().map_or(Ok(Reads::default()), self::reads)?;
        let writes = writes.0.as_ref().map_or(Ok(Writes::default()), self::writes)?;
        let transport = transport.0.as_ref().map_or(Ok(Transport::default()), self::transport)?;
        let timeout = arguments::timeout("timeout", timeout)?;
        let reconnect = flag("reconnect", reconnect.0.as_ref())?.unwrap_or(true);
        let trust = convert::trust(py, trust_user)?;
        let wait = arguments::timeout("wait", wait)?;
        let options = Options { reads, transport, reconnect, wait, trust };
        let address = address.map_or_else(|| Ok(ringtable::address::default_address()), convert::address)?;
        let is_lazy = flag("lazy", lazy.0.as_ref())?.unwrap_or(false);
        if let Some(function) = on_new_server.filter(|function| !function.is_callable()) {
            let message = format!("on_new_server is a function of the server's number, not {}", type_name(function));
            return Err(PyTypeError::new_err(message));
        }
        let on_new_server = on_new_server.map(|function| function.clone().unbind());
        let client = LateClient::new(convert::place(py, &address)?, options, timeout, on_new_server);
        let client = Arc::new(client);
        if !is_lazy {
            client.get(py)?;
        }
        Ok(Self {
            client,
            timeout,
            reads,
            writes,
            transport,
            is_lazy,
            warned_of_values: AtomicBool::new(false),
            warned_of_errors: AtomicBool::new(false),
        })
    }

    /// The address of the server, which means it in every process: the path of its socket, or a `tcp://` URL.
    #[getter]
    fn address(&self) -> &OsStr {
        &self.client.address
    }

    /// Seconds that a call may take, or `None`.
    #[getter]
    fn timeout(&self) -> Option<f64> {
        self.timeout.map(|timeout| timeout.as_secs_f64())
    }

    /// Where reads go: `"direct"` or `"server"`.
    #[getter]
    fn reads(&self) -> &'static str {
        match self.reads {
            Reads::Direct => "direct",
            Reads::Server => "server",
        }
    }

    /// When writes return, unless told otherwise: `"acknowledged"` or `"posted"`.
    #[getter(writes)]
    fn default_writes(&self) -> &'static str {
        match self.writes {
            Writes::Acknowledged => "acknowledged",
            Writes::Posted => "posted",
        }
    }

    /// How it talks to the server: `"lane"`, `"rings"` or `"socket"`.
    #[getter]
    fn transport(&self, py: Python<'_>) -> PyResult<&'static str> {
        self.client.get(py).map(|client| transport_name(client.transport()))
    }

    /// How it was asked to talk to the server: that, or `"auto"`.
    #[getter]
    fn requested_transport(&self) -> &'static str {
        transport_name(self.transport)
    }

    /// Whether it connects anew when its server has gone.
    #[getter]
    fn reconnect(&self) -> bool {
        self.client.options.reconnect
    }

    /// The numbers of the users whose servers it connects to, besides this process's own and root.
    #[getter]
    fn trust_user<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.client.options.trust.users)
    }

    /// Seconds that connecting waits for a server, if there is none, or `None`.
    #[getter(wait)]
    fn patience(&self) -> Option<f64> {
        self.client.options.wait.map(|patience| patience.as_secs_f64())
    }

    /// The number of the server that the table is that of, which no other one has.
    ///
    /// After a restart of the server it is another one, at the latest once a call has met the new one: what was in the
    /// table is gone then. It asks nobody.
    #[getter]
    fn server_id(&self, py: Python<'_>) -> PyResult<u64> {
        self.client.get(py).map(Client::server_id)
    }

    fn __traverse__(&self, visit: pyo3::PyVisit<'_>) -> Result<(), pyo3::PyTraverseError> {
        // Of several tables that share a connection none has its function to itself, to be counted out.
        if Arc::strong_count(&self.client) == 1 { self.client.traverse(&visit) } else { Ok(()) }
    }

    /// Whether it was to connect with its first call.
    #[getter]
    fn lazy(&self) -> bool {
        self.is_lazy
    }

    /// Whether it has connected: a lazy table does so with its first call.
    #[getter]
    fn connected(&self) -> bool {
        self.client.peek().is_some()
    }

    /// Whether `close` was called.
    #[getter]
    fn closed(&self) -> bool {
        self.client.is_closed()
    }

    fn __getitem__<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        self.find(key)?.ok_or_else(|| missing(key))
    }

    fn __setitem__(&self, py: Python<'_>, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let Set { key, value, .. } = {
            let none = Given(None);
            Set::check(key, value, (None, &none), (&none, &none), None, None)?
        };
        let (value, writes) = (value.as_bytes(), self.writes);
        self.put(py, key, value, Stay::default(), Condition::Always, writes).map(drop)
    }

    fn __delitem__(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<()> {
        let bytes = convert::key(key)?;
        let writes = self.writes;
        match self.write(py, |client, patience| client.delete(&[bytes], writes, patience))? {
            0 => Err(missing(key)),
            _ => Ok(()),
        }
    }

    fn __contains__(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let key = convert::key(key)?;
        match self.client.get(py)?.try_get(key, &mut ringtable::table::lookup::Presence) {
            Ok(Some(found)) => Ok(found),
            Ok(None) | Err(Error::Gone(_)) => self.wait(py, |client, patience| client.contains(key, patience)),
            Err(error) => Err(errors::client(py, error)),
        }
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.wait(py, Client::entries).map(|entries| entries as usize)
    }

    /// Return the value of `key`, or `default` if there is none.
    #[pyo3(signature = (key, /, default=None))]
    fn get<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(self.find(key)?.map(Bound::into_any).or(default))
    }

    /// Copy the value of `key` into a writable, C-contiguous buffer; return how many bytes it has.
    ///
    /// The rest of a longer buffer is left as it is. After an error the buffer may hold anything.
    ///
    /// Raises `KeyError` if there is no such key, `BufferTooSmall` if the value has more bytes than the buffer,
    /// `TypeError` if the buffer holds pointers.
    #[pyo3(signature = (key, buffer, /))]
    fn get_into(&self, py: Python<'_>, key: &Bound<'_, PyAny>, buffer: &Bound<'_, PyAny>) -> PyResult<usize> {
        let bytes = convert::key(key)?;
        let buffer = Exported::writable(buffer)?;
        let too_small = |size: usize| {
            let room = buffer.parts().1;
            let message = format!("the value has {size} bytes, the buffer {room}: get_into needs room for all of it");
            errors::family(py, "BufferTooSmall", message)
        };
        let mut sink = IntoSink::new(&buffer, BytesSink::SIZE_MAX);
        let found = match self.client.get(py)?.try_get(bytes, &mut sink) {
            Ok(Some(found)) => found,
            Ok(None) | Err(Error::NoRoom(_) | Error::Gone(_)) => {
                sink = IntoSink::new(&buffer, usize::MAX);
                let found = self.wait(py, |client, patience| match client.get(bytes, &mut sink, patience) {
                    Err(Error::NoRoom(size)) => Ok(Err(size)),
                    other => other.map(Ok),
                })?;
                found.map_err(too_small)?
            }
            Err(error) => return Err(errors::client(py, error)),
        };
        if found { Ok(sink.size) } else { Err(missing(key)) }
    }

    /// Return a view of the value of `key`: the value itself, in place, as a read-only buffer. See `View`.
    ///
    /// What the view shows stays as it is until the view is closed, whatever is written, deleted or evicted meanwhile.
    /// Making one takes the same time whatever the size of the value. With `reads="server"` it is in place, too. A
    /// table that is connected over a socket, or over the rings of a classic topology, returns a copy instead.
    ///
    /// A table may have 64 views in place at a time; with `copy_ok` there may be more, which are copies then.
    ///
    /// Raises `KeyError` if there is no such key, `TooManyViews`.
    #[pyo3(
        signature = (key, /, *, copy_ok=Given(None)),
        text_signature = "($self, key, /, *, copy_ok=False)"
    )]
    fn view(&self, py: Python<'_>, key: &Bound<'_, PyAny>, copy_ok: Given<'_>) -> PyResult<ViewCore> {
        let bytes = convert::key(key)?;
        let copy_ok = flag("copy_ok", copy_ok.0.as_ref())?.unwrap_or(false);
        let view = match self.client.get(py)?.try_view(bytes) {
            Ok(Some(view)) => view,
            Ok(None) | Err(Error::Gone(_)) => {
                self.wait(py, |client, patience| client.view(bytes, copy_ok, patience))?
            }
            Err(error) => return Err(errors::client(py, error)),
        };
        view.map(ViewCore::new).ok_or_else(|| missing(key))
    }

    /// Return the value of `key`, or `None` where there is none, if nobody has to be asked for it; else `otherwise`.
    #[pyo3(name = "_look", signature = (key, otherwise, /))]
    fn look<'py>(&self, key: &Bound<'py, PyAny>, otherwise: Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = key.py();
        let bytes = convert::key(key)?;
        let mut sink = BytesSink::new(py);
        match self.client.get(py)?.try_get(bytes, &mut sink) {
            Ok(Some(_)) => Ok(sink.take().map(Bound::into_any)),
            Ok(None) | Err(Error::Gone(_) | Error::NoRoom(_)) => Ok(Some(otherwise)),
            Err(error) => Err(errors::client(py, error)),
        }
    }

    /// Return the value of `key` for an object that may keep the memory: as `bytes`, or as a view if it is large.
    #[pyo3(name = "_hold", signature = (key, /))]
    fn hold<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = key.py();
        let bytes = convert::key(key)?;
        let mut sink = BytesSink::up_to(py, limits::HELD_VALUE_SIZE_MIN - 1);
        match self.client.get(py)?.try_get(bytes, &mut sink) {
            Ok(Some(_)) => Ok(sink.take().map(Bound::into_any)),
            Ok(None) | Err(Error::Gone(_)) => Ok(self.find(key)?.map(Bound::into_any)),
            Err(Error::NoRoom(_)) => {
                let view = self.wait(py, |client, patience| client.hold(bytes, patience))?;
                view.map(|view| Ok(Bound::new(py, ViewCore::held(view))?.into_any())).transpose()
            }
            Err(error) => Err(errors::client(py, error)),
        }
    }

    /// Write `key`; return whether it was done.
    ///
    /// `value` is anything with a C-contiguous buffer, as `bytes` or a numpy array of numbers, up to 512 MiB; one that
    /// holds pointers, as an array of objects does, is refused. `ttl` is in seconds, or a `timedelta`: afterwards the
    /// key is absent; with `keepttl` it keeps the time that it had. With `nx` it is written only if absent, with `xx`
    /// only if present, with `if_version` only if it still has this version (0: if absent). `writes` overrides the
    /// table's own: a posted write returns `True` once it is on its way, and its error surfaces at the next call. With
    /// `if_version` it is acknowledged also on a posted table.
    ///
    /// `evictable=False` marks the entry never to be evicted, whatever the policy, until it is deleted or expires, or a
    /// write says `evictable=True`; any other write of the key leaves that as it is. Such entries have a limit of their
    /// own (`UnevictableFull`), by default half of the table.
    ///
    /// Raises `KeyTooLong`, `ValueTooLarge`, `OutOfMemory` (then everything is as it was), `InvalidOption`.
    #[pyo3(
        signature = (
            key, value, *, ttl=None, nx=Given(None), xx=Given(None), if_version=None, writes=None, evictable=None,
            keepttl=Given(None)
        ),
        text_signature = "($self, key, value, *, ttl=None, nx=False, xx=False, if_version=None, writes=None, \
                          evictable=None, keepttl=False)"
    )]
    #[allow(clippy::too_many_arguments)]
    fn set(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        ttl: Option<&Bound<'_, PyAny>>,
        nx: Given<'_>,
        xx: Given<'_>,
        if_version: Option<&Bound<'_, PyAny>>,
        writes: Option<&Bound<'_, PyAny>>,
        evictable: Option<&Bound<'_, PyAny>>,
        keepttl: Given<'_>,
    ) -> PyResult<bool> {
        let Set { key, value, stay, when } =
            Set::check(key, value, (ttl, &keepttl), (&nx, &xx), if_version, evictable)?;
        let (value, is_told) = (value.as_bytes(), writes.is_some());
        let writes = self.writes(writes)?;
        match when {
            When::IfVersion(_) if is_told && writes == Writes::Posted => {
                let message = "if_version with writes='posted': nobody would hear whether it was done";
                Err(errors::family(py, "InvalidOption", message))
            }
            When::IfVersion(version) => self.write(py, |client, patience| {
                client.set_if_version(key, value, stay, version, patience).map(|version| version.is_some())
            }),
            When::If(condition) => self.put(py, key, value, stay, condition, writes),
        }
    }

    /// Delete keys; return how many there were (with posted writes: how many were asked for).
    #[pyo3(signature = (*keys, writes=None))]
    fn delete(&self, py: Python<'_>, keys: &Bound<'_, PyTuple>, writes: Option<&Bound<'_, PyAny>>) -> PyResult<u64> {
        let writes = self.writes(writes)?;
        let keys: Vec<Bound<'_, PyAny>> = keys.iter().collect();
        let keys = keys.iter().map(convert::key).collect::<PyResult<Vec<_>>>()?;
        self.write(py, |client, patience| client.delete(&keys, writes, patience))
    }

    /// Return the values of many keys, in the order of the keys, with `None` for those that are absent.
    ///
    /// Much faster than one by one: the lookups overlap.
    #[pyo3(signature = (keys, /))]
    fn get_many<'py>(&self, py: Python<'py>, keys: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        let objects = collect(keys)?;
        let keys = objects.iter().map(convert::key).collect::<PyResult<Vec<_>>>()?;
        let mut sink = BytesSink::new(py);
        let mut values: Vec<Option<Bound<'py, PyBytes>>> = convert::reserved(keys.len())?;
        let each = |_, hit: bool, sink: &mut BytesSink<'py>| values.push(if hit { sink.take() } else { None });
        let client = self.client.get(py)?;
        let in_place = convert::attached(py, self.timeout, |patience| {
            match client.try_get_many(&keys, &mut sink, each, patience) {
                // Too large to copy while holding the interpreter.
                Err(Error::NoRoom(_) | Error::Gone(_)) => Ok(false),
                other => other,
            }
        })?;
        if in_place {
            return convert::list(py, values.into_iter().map(Ok));
        }
        let mut values = convert::reserved(keys.len())?;
        self.wait(py, |client, patience| {
            values.clear();
            let mut sink = ringtable::table::lookup::Buffer::default();
            let each = |_, hit: bool, sink: &mut ringtable::table::lookup::Buffer| {
                values.push(if hit { Some(sink.take()) } else { None });
            };
            client.get_many(&keys, &mut sink, each, patience)
        })?;
        let copy = |value: Option<Vec<u8>>| value.map(|value| convert::bytes(py, &value)).transpose();
        convert::list(py, values.into_iter().map(copy))
    }

    /// Write many keys, pipelined: a mapping, or pairs. `ttl` is in seconds, or a `timedelta`, for all of them.
    ///
    /// Raises what `set` raises; other keys may have been written then.
    #[pyo3(signature = (items, /, *, ttl=None))]
    fn set_many(&self, py: Python<'_>, items: &Bound<'_, PyAny>, ttl: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let mut objects: Vec<(Bound<'_, PyAny>, Bound<'_, PyBytes>)> = Vec::new();
        // Asking a value for its bytes may run code that changes the mapping: its own iterator says so.
        let pairs = if items.hasattr("items")? { items.call_method0("items")? } else { items.clone() };
        for pair in pairs.try_iter()? {
            let (key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = pair?.extract()?;
            let (_, value) = (convert::key(&key)?, convert::value(&value)?);
            objects.push((key, value));
        }
        let ttl_ms = arguments::optional_ttl_ms("ttl", ttl)?;
        let items = objects
            .iter()
            .map(|(key, value)| Ok((convert::key(key)?, value.as_bytes())))
            .collect::<PyResult<Vec<_>>>()?;
        self.write(py, |client, patience| client.set_many(&items, ttl_ms, patience))
    }

    /// Delete many keys, pipelined; return how many there were.
    #[pyo3(signature = (keys, /))]
    fn delete_many(&self, py: Python<'_>, keys: &Bound<'_, PyAny>) -> PyResult<u64> {
        let objects = collect(keys)?;
        let keys = objects.iter().map(convert::key).collect::<PyResult<Vec<_>>>()?;
        self.write(py, |client, patience| client.delete(&keys, Writes::Acknowledged, patience))
    }

    /// Add `by` to the number that `key` holds in decimal digits (0 if it is absent); return the sum.
    ///
    /// Atomic: of several processes that increment, each gets a sum of its own. With `minimum` or `maximum`, a sum that
    /// would lie beyond changes nothing, and `None` is returned. `ttl_if_new`, in seconds or a `timedelta`, is for a
    /// key that was absent; one that was there keeps its time. `evictable` is as for `set`.
    ///
    /// A `float` is added to any number, and the sum is a `float`; none of the other arguments is for it.
    ///
    /// Raises `NotAnInteger`, for a `float` `NotAFloat`, and `InvalidOption`.
    #[pyo3(
        signature = (key, by=Given(None), *, ttl_if_new=None, minimum=None, maximum=None, evictable=None),
        text_signature = "($self, key, by=1, *, ttl_if_new=None, minimum=None, maximum=None, evictable=None)"
    )]
    #[allow(clippy::too_many_arguments)]
    fn incr<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'_, PyAny>,
        by: Given<'_>,
        ttl_if_new: Option<&Bound<'_, PyAny>>,
        minimum: Option<&Bound<'_, PyAny>>,
        maximum: Option<&Bound<'_, PyAny>>,
        evictable: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Increment { key, by } = Increment::check(key, &by, ttl_if_new, minimum, maximum, evictable)?;
        let (by, bounds) = match by {
            By::Whole(by, bounds) => (by, bounds),
            By::Float(by) => {
                let sum = self.write(py, |client, patience| client.increment_float(key, by, patience))?;
                return Ok(sum.into_pyobject(py)?.into_any());
            }
        };
        let sum = self.write(py, |client, patience| match bounds == Bounds::default() {
            true => client.increment(key, by, patience).map(Some),
            false => client.increment_within(key, by, &bounds, patience),
        })?;
        Ok(sum.into_pyobject(py)?)
    }

    /// Return the value of `key` and its version, or `None` if there is none.
    ///
    /// Every write gives a key a version that it never had before. Read in place where `get` is.
    fn get_with_version<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Option<(Bound<'py, PyBytes>, u64)>> {
        let py = key.py();
        let key = convert::key(key)?;
        let mut sink = BytesSink::new(py);
        match self.client.get(py)?.try_find(key, &mut sink) {
            Ok(Some(found)) => return Ok(found.and_then(|found| Some((sink.take()?, found.version)))),
            // A value that is too large to copy while holding the interpreter.
            Ok(None) | Err(Error::NoRoom(_) | Error::Gone(_)) => {}
            Err(error) => return Err(errors::client(py, error)),
        }
        let found = self.wait(py, |client, patience| client.get_with_version(key, patience))?;
        found.map(|(value, version)| Ok((convert::bytes(py, &value)?, version))).transpose()
    }

    /// Delete `key` if it still has this version; return whether it had.
    fn delete_if_version(&self, py: Python<'_>, key: &Bound<'_, PyAny>, version: &Bound<'_, PyAny>) -> PyResult<bool> {
        let (key, version) = (convert::key(key)?, whole("version", version)?.version(py, "version")?);
        self.write(py, |client, patience| client.delete_if_version(key, version, patience))
    }

    /// Return the value of `key`; where there is none, one caller at a time computes it with `make()` and writes it.
    ///
    /// All others, in whichever process, wait until it is written. If `make` raises, its caller gets the exception, and
    /// the next one computes; so it does at once if the computing process dies. `ttl` is as for `set`. With `stale` the
    /// value is kept for that much longer: in that time, one caller computes it anew while the others get the old one
    /// without waiting. With `stale_if_error` it is kept for that long after `ttl`, too, for when `make` raises an
    /// `Exception`: then its caller gets the old value, and so do those who wait, also when their `timeout` ends.
    /// `timeout`, in seconds or a `timedelta`, and the table's own unless given, bounds the waiting for others
    /// (`Timeout`), and not what `make` takes itself. `evictable` is as for `set`.
    ///
    /// A value that the table has no place for (`OutOfMemory`, `ValueTooLarge`) is returned all the same, to those who
    /// wait for it, too, if it has at most 1 MiB; the next caller computes. The first time a table warns of either,
    /// with a `RuntimeWarning`.
    ///
    /// What `make` runs, and other tasks of its thread, may ask for other keys in this way, but not for the same one,
    /// which would wait for itself: `Reentrant`.
    #[pyo3(
        signature = (
            key, make, ttl=None, *, stale=Given(None), stale_if_error=Given(None), timeout=None, evictable=None
        ),
        text_signature = "($self, key, make, ttl=None, *, stale=0.0, stale_if_error=0.0, timeout=None, evictable=None)"
    )]
    #[allow(clippy::too_many_arguments)]
    fn get_or_set<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        make: &Bound<'py, PyAny>,
        ttl: Option<&Bound<'py, PyAny>>,
        stale: Given<'py>,
        stale_if_error: Given<'py>,
        timeout: Option<&Bound<'py, PyAny>>,
        evictable: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let py = key.py();
        let bytes = convert::key(key)?;
        if !make.is_callable() {
            let message = format!("get_or_set needs a function that makes the value, not {}", type_name(make));
            return Err(PyTypeError::new_err(message));
        }
        let (ttl_ms, staleness) = arguments::staleness(py, ttl, &stale, &stale_if_error)?;
        let stay = Stay { ttl_ms, mark: arguments::mark(evictable)?, ..Stay::default() };
        let limit = arguments::timeout("timeout", timeout)?.or(self.timeout);
        if let Some(value) = self.find_fresh(key, staleness)? {
            return Ok(value);
        }
        let mut granted = None;
        let asked = self.ask(py, self.timeout, Repeat::Always, |client, patience| {
            let outcome = client.get_or_lease(bytes, staleness, limit, patience)?;
            if let LeaseOutcome::Lease(token) = outcome {
                granted = Some(token);
            }
            Ok(outcome)
        });
        let token = match (asked, granted) {
            (Ok(LeaseOutcome::Value(value)), _) => return convert::bytes(py, &value),
            (Ok(LeaseOutcome::Lease(token)), _) => token,
            // It is told of a new server, or a signal handler has raised meanwhile.
            (Err(error), Some(token)) => return Err(self.give_lease_back(py, bytes, token, error)),
            (Err(error), None) => return Err(error),
        };
        // No line of Python runs between here and the end but those of `make`: no signal handler can lose the lease.
        let made = match make.call0() {
            Ok(made) => convert::data(&made).and_then(|made| self.store(key, made, stay, token)),
            Err(error) => match self.find_on_error(key, staleness, token, &error) {
                Ok(Some(old)) => Ok(old),
                Ok(None) => Err(error),
                // What was raised first is what matters, but for what a signal handler has raised.
                Err(other) if errors::is_ours(py, &other) => Err(error),
                Err(other) => Err(other),
            },
        };
        match made {
            // If it was handed over, this does nothing more.
            Ok(made) => self.wait(py, |client, patience| client.unlease(bytes, token, patience)).map(|_| made),
            Err(error) => Err(self.give_lease_back(py, bytes, token, error)),
        }
    }

    /// Let `key` be absent after `ttl`, in seconds or a `timedelta`; return whether there is such a key.
    fn expire(&self, py: Python<'_>, key: &Bound<'_, PyAny>, ttl: &Bound<'_, PyAny>) -> PyResult<bool> {
        let (key, ttl_ms) = (convert::key(key)?, arguments::ttl_ms("ttl", ttl)?);
        self.write(py, |client, patience| client.expire(key, ttl_ms as i64, patience))
    }

    /// Return the seconds left to `key`, or `None` if it does not expire.
    ///
    /// Raises `KeyError` if there is no such key.
    fn ttl(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<Option<f64>> {
        let bytes = convert::key(key)?;
        match self.wait(py, |client, patience| client.ttl_ms(bytes, patience))? {
            None => Err(missing(key)),
            Some(left) => Ok(left.map(|ms| ms as f64 / 1_000.0)),
        }
    }

    /// Return all keys and values of the bucket that `key` falls in.
    fn read_bucket<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
    ) -> PyResult<Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)>> {
        let key = convert::key(key)?;
        let mut pairs = Pairs::default();
        self.wait(py, |client, patience| client.read_bucket(key, &mut pairs, patience))?;
        pairs.iter().map(|pair| Ok((convert::bytes(py, pair.key)?, convert::bytes(py, pair.value)?))).collect()
    }

    /// Go on with a walk over keys that begin with `prefix`: return the next cursor, 0 at the end, and some keys.
    ///
    /// Begin with cursor 0. There may be no keys, if there were only empty buckets, or other keys, for a while.
    #[pyo3(
        signature = (cursor=Given(None), *, prefix=Given(None)),
        text_signature = "($self, cursor=0, *, prefix=b'')"
    )]
    fn scan<'py>(
        &self,
        py: Python<'py>,
        cursor: Given<'py>,
        prefix: Given<'py>,
    ) -> PyResult<(u64, Vec<Bound<'py, PyBytes>>)> {
        let cursor = cursor.0.map_or(Ok(0), |given| whole("cursor", &given)?.cursor(py, "cursor"))?;
        let prefix = prefix.0.as_ref().map_or(Ok(&b""[..]), convert::key)?;
        // A cursor means nothing to another server.
        let before = self.server_id(py)?;
        let repeat = repeat_unless(cursor != 0);
        let (next, keys) = self.ask(py, self.timeout, repeat, |client, patience| {
            let found = client.scan(cursor, prefix, patience);
            if cursor != 0 && client.server_id() != before { Err(Error::Lapsed) } else { found }
        })?;
        let keys = keys.iter().map(|key| convert::bytes(py, key)).collect::<PyResult<_>>()?;
        Ok((next, keys))
    }

    /// Wait until all posted writes are done; raise the error of the first that failed.
    ///
    /// With `durable`, wait also until all that was written before, by whomever, is on the disk of a server that has a
    /// log; raise `CommandError` if it has none, and `FileError` if the disk has failed.
    #[pyo3(signature = (*, durable=Given(None)), text_signature = "($self, *, durable=False)")]
    fn flush(&self, py: Python<'_>, durable: Given<'_>) -> PyResult<()> {
        if flag("durable", durable.0.as_ref())?.unwrap_or(false) {
            return self.write(py, Client::flush_to_disk);
        }
        self.write(py, Client::flush)
    }

    /// Delete everything. Not one atomic step, but nothing that was there before survives.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.write(py, Client::clear)
    }

    /// Close the connection; may be called again. Posted writes are executed all the same.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.client.close(py)
    }

    /// Ask the server anything: a command's name and its arguments; return its reply.
    #[pyo3(signature = (*arguments))]
    fn call<'py>(&self, py: Python<'py>, arguments: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        let words = arguments.iter().map(convert::Word::new).collect::<PyResult<Vec<_>>>()?;
        let words = words.iter().map(convert::Word::bytes).collect::<PyResult<Vec<_>>>()?;
        let repeat = repeat_unless(may_write(&words));
        convert::reply(py, self.ask(py, self.timeout, repeat, |client, patience| client.call(&words, patience))?)
    }

    /// Ask many things, pipelined; return the replies. What is refused is among them as an exception.
    #[pyo3(signature = (commands, /))]
    fn call_many<'py>(&self, py: Python<'py>, commands: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        // All words of all commands, and how many each command has: few allocations for many commands.
        let (mut words, mut counts) = (Vec::new(), Vec::new());
        for command in commands.try_iter()? {
            let before = words.len();
            for word in several(&command?, "a command is a row of words")?.try_iter()? {
                words.push(convert::Word::new(word?)?);
            }
            counts.push(words.len() - before);
        }
        let slices = words.iter().map(convert::Word::bytes).collect::<PyResult<Vec<_>>>()?;
        let replies = self.ask_many(py, &slices, &counts)?;
        convert::list(py, replies.into_iter().map(|reply| convert::reply(py, reply)))
    }

    /// Delete `key` and return its value, as one step; or return `default` if there is none.
    ///
    /// Of several processes that take one key, one gets the value.
    #[pyo3(signature = (key, default=None))]
    fn get_and_delete<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (py, bytes) = (key.py(), convert::key(key)?);
        self.taken(py, self.write(py, |client, patience| client.get_and_delete(bytes, patience))?, default)
    }

    /// Give `key` a new time to live and return its value, as one step; or return `default` if there is none.
    ///
    /// `ttl` is in seconds, or a `timedelta`; with `None` the key does not expire any more.
    #[pyo3(signature = (key, ttl, default=None))]
    fn get_and_expire<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        ttl: Option<&Bound<'py, PyAny>>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (py, bytes) = (key.py(), convert::key(key)?);
        let ttl_ms = arguments::optional_ttl_ms("ttl", ttl)?;
        self.taken(py, self.write(py, |client, patience| client.get_and_expire(bytes, ttl_ms, patience))?, default)
    }

    /// Let `key` not expire any more; return whether it would have.
    fn persist(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let key = convert::key(key)?;
        self.write(py, |client, patience| client.persist(key, patience))
    }

    /// Have a cache take note that keys are used, so that it evicts others first; return how many there are.
    ///
    /// Every read does so, too, but of reads in place only some, now and then. Times to live stay as they are.
    #[pyo3(signature = (*keys))]
    fn touch(&self, py: Python<'_>, keys: &Bound<'_, PyTuple>) -> PyResult<u64> {
        let keys: Vec<Bound<'_, PyAny>> = keys.iter().collect();
        let keys = keys.iter().map(convert::key).collect::<PyResult<Vec<_>>>()?;
        self.wait(py, |client, patience| client.touch(&keys, patience))
    }

    /// Return the seconds left to each of many keys, in the order of the keys, pipelined.
    ///
    /// For a key that does not expire that is `None`, and for one that is absent 0.0: one that is there has more left.
    #[pyo3(signature = (keys, /))]
    fn ttl_many<'py>(&self, py: Python<'py>, keys: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        let objects = collect(keys)?;
        let keys = objects.iter().map(convert::key).collect::<PyResult<Vec<_>>>()?;
        let left = self.wait(py, |client, patience| client.ttl_many(&keys, patience))?;
        let seconds = |left: LeftMs| left.map_or(Some(0.0), |left| left.map(|ms| ms.max(1) as f64 / 1_000.0));
        convert::list(py, left.into_iter().map(|left| Ok(seconds(left))))
    }

    /// Delete all keys that begin with `prefix`; return how many.
    ///
    /// The server does it, in turns between which others go on, and looks at all keys for it. Not one atomic step, but
    /// nothing that was there before survives; what is written meanwhile may go, too.
    #[pyo3(signature = (prefix, /))]
    fn delete_prefix(&self, py: Python<'_>, prefix: &Bound<'_, PyAny>) -> PyResult<u64> {
        let prefix = convert::key(prefix)?;
        self.write(py, |client, patience| client.delete_prefix(prefix, patience))
    }
}

/// Return something with the buffer protocol as `bytes`, as a table writes it.
#[pyfunction]
#[pyo3(signature = (value, /))]
pub fn to_bytes<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    convert::value(value)
}

/// Raise what a write with this time to live would raise.
#[pyfunction]
#[pyo3(signature = (ttl, /))]
pub fn check_ttl(ttl: &Bound<'_, PyAny>) -> PyResult<()> {
    arguments::ttl_ms("ttl", ttl).map(drop)
}

/// Raise what `get_or_set` with these spans would raise.
#[pyfunction]
#[pyo3(signature = (ttl, stale, stale_if_error, /))]
pub fn check_staleness(
    py: Python<'_>,
    ttl: Option<&Bound<'_, PyAny>>,
    stale: Given<'_>,
    stale_if_error: Given<'_>,
) -> PyResult<()> {
    arguments::staleness(py, ttl, &stale, &stale_if_error).map(drop)
}

/// Raise what a table with this time-out would raise.
#[pyfunction]
#[pyo3(signature = (timeout, /))]
pub fn check_timeout(timeout: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    arguments::timeout("timeout", timeout).map(drop)
}

/// What is to be iterated over, unless it is a single text, whose letters nobody means.
fn several<'a, 'py>(iterable: &'a Bound<'py, PyAny>, meant: &str) -> PyResult<&'a Bound<'py, PyAny>> {
    if iterable.is_instance_of::<PyString>() || iterable.is_instance_of::<PyBytes>() {
        return Err(PyTypeError::new_err(format!("{meant}, as in a list, not one {}", type_name(iterable))));
    }
    Ok(iterable)
}

/// The keys that any iterable gives.
fn collect<'py>(iterable: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    match several(iterable, "keys are given as several")?.cast_exact::<PyList>() {
        Ok(list) => Ok(list.iter().collect()),
        Err(_) => iterable.try_iter()?.collect(),
    }
}

/// The words of the request that turns a socket's connection into a lane, for programs that do so by hand.
#[pyfunction]
pub fn lane_request() -> Vec<String> {
    ringtable::client::lane_request().into()
}

/// Return the words of the request that asks to join the rings of a classic topology.
#[pyfunction]
pub fn rings_request() -> Vec<String> {
    ringtable::client::rings_request().into()
}
