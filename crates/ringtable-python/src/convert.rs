//! Python's values as bytes, replies as Python's values, and waiting without the interpreter.

use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use pyo3::exceptions::{PyKeyError, PyKeyboardInterrupt, PyMemoryError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString};
use pyo3::{BoundObject, ffi};
use ringtable::client::{Error, Patience, check_key, check_value};
use ringtable::command::reply::Reply;
use ringtable::folder::Trust;
use ringtable::table::lookup::Sink;

use crate::buffer::{Exported, type_name};
use crate::errors;

/// An address: a `str`, or a path of another type, which is a path in any case.
pub fn address(address: &Bound<'_, PyAny>) -> PyResult<OsString> {
    let refused = |error: PyErr| {
        if !error.is_instance_of::<PyTypeError>(address.py()) {
            return error;
        }
        let message = format!("an address is a str or a path such as a pathlib.Path, not {}", type_name(address));
        PyTypeError::new_err(message)
    };
    let given: PathBuf = address.extract().map_err(refused)?;
    let is_bare = !given.as_os_str().as_bytes().contains(&b'/');
    // `pathlib` leaves the "./" out, without which a string is a name.
    let is_path = is_bare && !address.is_instance_of::<PyString>();
    Ok(if is_path { Path::new(".").join(given) } else { given }.into_os_string())
}

/// Where a server of this address is, in every process: for messages.
pub fn place(py: Python<'_>, address: &OsStr) -> PyResult<OsString> {
    let location = ringtable::address::location(address).map_err(|error| errors::client(py, error.into()))?;
    Ok(location.address())
}

/// Users to trust: a number or a name, or several.
pub fn trust(py: Python<'_>, users: Option<&Bound<'_, PyAny>>) -> PyResult<Trust> {
    let Some(users) = users else { return Ok(Trust::default()) };
    // Bytes are iterable, too, and are neither a name nor numbers of users.
    if users.is_instance_of::<PyInt>() || users.is_instance_of::<PyString>() || users.is_instance_of::<PyBytes>() {
        return Ok(Trust { users: vec![user(py, users)?] });
    }
    let users: PyResult<Vec<_>> = users.try_iter()?.map(|one| user(py, &one?)).collect();
    Ok(Trust { users: users? })
}

/// The number of a user.
fn user(py: Python<'_>, user: &Bound<'_, PyAny>) -> PyResult<u32> {
    let unknown = || errors::family(py, "InvalidOption", format!("trust_user is {user}: there is no such user"));
    if user.is_instance_of::<PyBool>() {
        return Err(PyTypeError::new_err("users are numbers or names, not bool"));
    }
    if user.is_instance_of::<PyInt>() {
        return user.extract().map_err(|_| unknown());
    }
    let Ok(name) = user.extract::<String>() else {
        return Err(PyTypeError::new_err(format!("users are numbers or names, not {}", type_name(user))));
    };
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    match py.import("pwd")?.call_method1("getpwnam", (name,)) {
        Ok(found) => found.getattr("pw_uid")?.extract(),
        Err(error) if error.is_instance_of::<PyKeyError>(py) => Err(unknown()),
        Err(error) => Err(error),
    }
}

/// The bytes of a key, which is a `str` (as UTF-8) or `bytes`, and not too long.
#[inline]
pub fn key<'a>(key: &'a Bound<'_, PyAny>) -> PyResult<&'a [u8]> {
    let bytes = word(key)?;
    check_key(bytes).map_err(|error| errors::client(key.py(), error))?;
    Ok(bytes)
}

/// The bytes of a `str` (as UTF-8) or of `bytes`.
#[inline]
pub fn word<'a>(word: &'a Bound<'_, PyAny>) -> PyResult<&'a [u8]> {
    if let Ok(bytes) = word.cast::<PyBytes>() {
        return Ok(bytes.as_bytes());
    }
    if let Ok(text) = word.cast::<PyString>() {
        return Ok(text.to_str()?.as_bytes());
    }
    Err(PyTypeError::new_err(format!("keys are str or bytes, not {}", type_name(word))))
}

/// The `bytes` of a value, which is not too large: see [`data`].
#[inline]
pub fn value<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let bytes = data(value)?;
    check_value(bytes.as_bytes()).map_err(|error| errors::client(value.py(), error))?;
    Ok(bytes)
}

/// Something with the buffer protocol as `bytes`: itself, or a copy, since what is mutable must not change while the
/// interpreter runs other threads, nor after the call.
#[inline]
pub fn data<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(bytes.clone());
    }
    if value.is_instance_of::<PyString>() {
        return Err(PyTypeError::new_err("values are bytes-like, not str: encode it first"));
    }
    let buffer = Exported::readable(value)?;
    let (start, size) = buffer.parts();
    #[allow(unsafe_code)]
    // SAFETY: the buffer holds `size` bytes from `start` on. C code copies them, to which it does not matter that
    // others may write there; the result is a new reference, or null with an exception set.
    unsafe {
        let object = ffi::PyBytes_FromStringAndSize(start.cast_const().cast(), size as ffi::Py_ssize_t);
        Ok(Bound::from_owned_ptr_or_err(value.py(), object)?.cast_into_unchecked::<PyBytes>())
    }
}

/// A word of a raw command: text, bytes, a number, or a buffer. It keeps its bytes alive.
pub struct Word<'py>(Bound<'py, PyAny>);

impl<'py> Word<'py> {
    pub fn new(word: Bound<'py, PyAny>) -> PyResult<Self> {
        if word.is_instance_of::<PyBytes>() || word.is_instance_of::<PyString>() {
            Ok(Self(word))
        } else if word.is_instance_of::<PyInt>() || word.is_instance_of::<PyFloat>() {
            Ok(Self(word.str()?.into_any()))
        } else {
            Ok(Self(data(&word)?.into_any()))
        }
    }

    pub fn bytes(&self) -> PyResult<&[u8]> {
        self::word(&self.0)
    }

    pub fn into_object(self) -> Bound<'py, PyAny> {
        self.0
    }
}

/// A reply as Python has it.
pub fn reply<'py>(py: Python<'py>, reply: Reply) -> PyResult<Bound<'py, PyAny>> {
    Ok(match reply {
        Reply::Nil => py.None().into_bound(py),
        Reply::Status(text) => bytes(py, text.as_bytes())?.into_any(),
        Reply::Integer(value) => value.into_pyobject(py)?.into_any(),
        Reply::Boolean(value) => value.into_pyobject(py)?.to_owned().into_any(),
        Reply::Double(value) => value.into_pyobject(py)?.into_any(),
        Reply::Bulk(value) => bytes(py, &value)?.into_any(),
        Reply::Error(message) => errors::refusal(py, &message).into_value(py).into_bound(py).into_any(),
        Reply::Dropped(size) => errors::client(py, Error::ReplyDropped(size)).into_value(py).into_bound(py).into_any(),
        Reply::Array(elements) | Reply::Push(elements) => {
            list(py, elements.into_iter().map(|element| self::reply(py, element)))?.into_any()
        }
        Reply::Map(pairs) => {
            let map = PyDict::new(py);
            for (name, value) in pairs {
                map.set_item(self::reply(py, name)?, self::reply(py, value)?)?;
            }
            map.into_any()
        }
    })
}

/// A copy of bytes as Python has them.
///
/// Here and below, and wherever else something of the caller's size is made: `PyBytes::new` and `PyList::new` panic
/// without memory.
pub fn bytes<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let Some((copy, start)) = uninit_bytes(py, bytes.len()) else {
        return Err(errors::client(py, Error::NoRoom(bytes.len())));
    };
    #[allow(unsafe_code)]
    // SAFETY: `start` is where the new object has so many bytes, and nobody else knows it.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len());
    }
    Ok(copy)
}

/// A list of as many elements as the iterator says.
pub fn list<'py, T>(
    py: Python<'py>,
    elements: impl ExactSizeIterator<Item = PyResult<T>>,
) -> PyResult<Bound<'py, PyList>>
where
    T: IntoPyObject<'py>,
{
    let count = elements.len() as ffi::Py_ssize_t;
    #[allow(unsafe_code)]
    // SAFETY: a new reference to a list, or null with an exception set.
    let list = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyList_New(count))?.cast_into_unchecked::<PyList>() };
    for (place, element) in (0..count).zip(elements) {
        let element = element?.into_pyobject(py).map_err(Into::into)?.into_any().unbind();
        #[allow(unsafe_code)]
        // SAFETY: the list is new, its places are empty, and this one is within it. It takes the reference over.
        unsafe {
            ffi::PyList_SET_ITEM(list.as_ptr(), place, element.into_ptr());
        }
    }
    Ok(list)
}

/// An empty vector with room for so many elements.
pub fn reserved<T>(count: usize) -> PyResult<Vec<T>> {
    let mut room = Vec::new();
    room.try_reserve_exact(count).map_err(|_| PyMemoryError::new_err(()))?;
    Ok(room)
}

/// A new `bytes` of `size` bytes that hold nothing yet, and the place to write them; `None` without memory.
///
/// The object must not be seen by anybody before all bytes are written.
fn uninit_bytes(py: Python<'_>, size: usize) -> Option<(Bound<'_, PyBytes>, *mut u8)> {
    let size = ffi::Py_ssize_t::try_from(size).ok()?;
    #[allow(unsafe_code)]
    // SAFETY: a null pointer asks for uninitialised bytes; the result is a new reference or null with an exception set,
    // which is cleared, since `None` says the same.
    unsafe {
        let object = ffi::PyBytes_FromStringAndSize(std::ptr::null(), size);
        let bytes = Bound::from_owned_ptr_or_opt(py, object);
        if bytes.is_none() {
            ffi::PyErr_Clear();
        }
        let bytes = bytes?.cast_into_unchecked::<PyBytes>();
        let start = ffi::PyBytes_AsString(bytes.as_ptr());
        Some((bytes, start.cast()))
    }
}

/// A value on its way into a `bytes`.
pub struct BytesSink<'py> {
    py: Python<'py>,
    size_max: usize,
    bytes: Option<Bound<'py, PyBytes>>,
}

impl<'py> BytesSink<'py> {
    /// Values larger than this are copied without the interpreter: see [`LargeSink`].
    pub const SIZE_MAX: usize = 256 << 10;

    pub fn new(py: Python<'py>) -> Self {
        Self::up_to(py, Self::SIZE_MAX)
    }

    /// For values of so many bytes at most.
    pub fn up_to(py: Python<'py>, size_max: usize) -> Self {
        Self { py, size_max, bytes: None }
    }

    /// The value of the last lookup, if that was a hit.
    pub fn take(&mut self) -> Option<Bound<'py, PyBytes>> {
        self.bytes.take()
    }
}

impl Sink for BytesSink<'_> {
    #[inline]
    fn begin(&mut self, size: usize) -> Option<&mut [MaybeUninit<u8>]> {
        if size > self.size_max {
            return None;
        }
        let (bytes, start) = uninit_bytes(self.py, size)?;
        self.bytes = Some(bytes);
        #[allow(unsafe_code)]
        // SAFETY: `size` bytes of the new object, which lives in `self` and is known to nobody else.
        unsafe {
            Some(std::slice::from_raw_parts_mut(start.cast(), size))
        }
    }
}

/// A large value on its way into a `bytes` that was made with the interpreter and is filled without it.
pub struct LargeSink {
    start: *mut u8,
    size: usize,
}

#[allow(unsafe_code)]
// SAFETY: the memory belongs to an object that only the thread that made it knows of, and that thread waits.
unsafe impl Send for LargeSink {}

impl LargeSink {
    /// A `bytes` of exactly `size` bytes, and the sink that fills it.
    pub fn new(py: Python<'_>, size: usize) -> Option<(Bound<'_, PyBytes>, Self)> {
        let (bytes, start) = uninit_bytes(py, size)?;
        Some((bytes, Self { start, size }))
    }
}

impl Sink for LargeSink {
    fn begin(&mut self, size: usize) -> Option<&mut [MaybeUninit<u8>]> {
        if size != self.size {
            return None;
        }
        #[allow(unsafe_code)]
        // SAFETY: see `BytesSink::begin`; the caller keeps the object alive beside the sink.
        unsafe {
            Some(std::slice::from_raw_parts_mut(self.start.cast(), size))
        }
    }
}

/// A value on its way into a buffer of somebody else's.
pub struct IntoSink {
    start: *mut u8,
    /// Most bytes that are taken.
    size_max: usize,
    /// Bytes of the value.
    pub size: usize,
}

#[allow(unsafe_code)]
// SAFETY: the caller keeps the buffer, and waits while another thread fills it.
unsafe impl Send for IntoSink {}

impl IntoSink {
    /// Takes values of up to `size_max` bytes, if they fit the buffer, which has to live as long as the sink is used.
    pub fn new(buffer: &Exported, size_max: usize) -> Self {
        let (start, room) = buffer.parts();
        Self { start, size_max: room.min(size_max), size: 0 }
    }
}

impl Sink for IntoSink {
    fn begin(&mut self, size: usize) -> Option<&mut [MaybeUninit<u8>]> {
        self.size = size;
        if size > self.size_max {
            return None;
        }
        if size == 0 {
            return Some(&mut []); // a buffer without bytes may begin nowhere
        }
        #[allow(unsafe_code)]
        // SAFETY: the buffer is writable and has at least so many bytes. A thread that writes to it meanwhile spoils
        // what it holds, as with any buffer that one shares.
        unsafe {
            Some(std::slice::from_raw_parts_mut(self.start.cast(), size))
        }
    }
}

/// Whether this is the thread that the interpreter runs signal handlers on; in a forked child, the one that has forked.
fn is_main_thread() -> bool {
    #[allow(unsafe_code)]
    // SAFETY: both just tell a number.
    unsafe {
        libc::gettid() == libc::getpid()
    }
}

#[allow(unsafe_code)]
// SAFETY: it looks at a word of the runtime, whatever thread calls it.
unsafe extern "C" {
    #[cfg_attr(not(Py_3_13), link_name = "_Py_IsFinalizing")]
    safe fn Py_IsFinalizing() -> std::ffi::c_int;
}

/// Whom a call asks, and whether that may change anything: for what is said when no answer comes in time.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub server: &'a OsStr,
    pub may_write: bool,
}

/// Calls the engine without holding the interpreter. Signals are handled while it waits: an exception that a handler
/// raises (Ctrl-C) ends the wait and is raised here.
pub fn waiting<R: Send>(
    py: Python<'_>,
    timeout: Option<Duration>,
    asked: Asked<'_>,
    call: impl FnOnce(Patience<'_>) -> Result<R, Error> + Send,
) -> PyResult<R> {
    interruptible(py, Some(asked), |interrupted| py.detach(|| call(Patience::new(timeout, interrupted))))
}

/// The same for a call that waits for nobody, and makes Python's objects: it holds the interpreter.
pub fn attached<R>(
    py: Python<'_>,
    timeout: Option<Duration>,
    call: impl FnOnce(Patience<'_>) -> Result<R, Error>,
) -> PyResult<R> {
    interruptible(py, None, |interrupted| call(Patience::new(timeout, interrupted)))
}

/// Makes a call that may ask whether it is interrupted. What a signal handler raises ends it, whatever comes of it: no
/// such exception is lost.
///
/// Only the main thread needs the interpreter for that. Another one, a daemon, must not even ask for it: when there is
/// none any more, that is a panic, and while it ends, who asks sleeps for ever, here with a lock held that the main
/// thread may need. So it ends its wait then, and goes to sleep for ever behind it.
pub fn interruptible<R>(
    py: Python<'_>,
    asked: Option<Asked<'_>>,
    call: impl FnOnce(&(dyn Fn() -> bool + Sync)) -> Result<R, Error>,
) -> PyResult<R> {
    let raised: Mutex<Option<PyErr>> = Mutex::new(None);
    let lock = || raised.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let interrupted = || {
        if !is_main_thread() {
            return Py_IsFinalizing() != 0;
        }
        // Raised already: the next wait of the call ends, too.
        if lock().is_some() {
            return true;
        }
        let check = |py: Python<'_>| match py.check_signals() {
            Ok(()) => false,
            Err(error) => {
                *lock() = Some(error);
                true
            }
        };
        // At its end the interpreter handles no signals, and a call that is made by then goes on without.
        Python::try_attach(check).unwrap_or(false)
    };
    let result = call(&interrupted);
    if let Some(error) = lock().take() {
        return Err(error);
    }
    result.map_err(|error| match (error, asked) {
        (Error::Interrupted, _) => PyKeyboardInterrupt::new_err(()),
        (Error::Timeout(limit), Some(Asked { server, may_write })) => errors::unanswered(py, server, limit, may_write),
        (error, _) => errors::client(py, error),
    })
}
