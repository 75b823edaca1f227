//! Buffers of Python's objects: values to be copied out of them, and into them.
//!
//! # Invariants
//!
//! - What holds pointers is no value: an address means nothing to another process, nor to this one once the object that
//!   it points at is gone, and whoever follows one that was copied in crashes. The elements' format tells them.
//!   An exporter that names no format is believed to hold bytes, as the buffer protocol says. (Those of `ctypes` name
//!   none for unions and packed structures, whatever is in these.)

use std::ffi::CStr;

use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;

/// A buffer of an object, which is C-contiguous: its elements may be of any type but pointers, and count as their
/// bytes.
pub struct Exported(Box<ffi::Py_buffer>);

#[allow(unsafe_code)]
// SAFETY: the memory stays where it is until the buffer is released, whichever thread uses it. The thread that has made
// it waits while another one does, and releases it.
unsafe impl Send for Exported {}

impl Exported {
    /// A buffer that holds a value.
    pub fn readable(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        if !has_buffer(object) {
            return Err(PyTypeError::new_err(format!("values are bytes-like, not {}", type_name(object))));
        }
        let buffer = Self::new(object, 0).map_err(|error| {
            let (name, advice) =
                (type_name(object), "make a contiguous copy first (`numpy.ascontiguousarray`, `bytes`)");
            refusal(object, error, &format!("values are C-contiguous buffers, and this {name} is none: {advice}"))
        })?;
        buffer.without_pointers(object)
    }

    /// A buffer for a value that is to be copied into it.
    pub fn writable(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        if !has_buffer(object) {
            let message = format!("values are copied into writable buffers, not {}", type_name(object));
            return Err(PyTypeError::new_err(message));
        }
        let buffer = Self::new(object, ffi::PyBUF_WRITABLE).map_err(|error| {
            let name = type_name(object);
            let message = format!("values are copied into writable C-contiguous buffers, and this {name} is none");
            refusal(object, error, &message)
        })?;
        buffer.without_pointers(object)
    }

    /// Asks for a buffer, and for the format of its elements.
    fn new(object: &Bound<'_, PyAny>, flags: i32) -> PyResult<Self> {
        let flags = flags | ffi::PyBUF_C_CONTIGUOUS;
        Self::ask(object, flags | ffi::PyBUF_FORMAT).or_else(|error| {
            // Some types of numpy have no format in the protocol (dates do not), and a word of numpy's own instead.
            let tells = object.getattr("dtype").and_then(|dtype| dtype.getattr("hasobject")?.extract::<bool>());
            if matches!(tells, Ok(false)) { Self::ask(object, flags) } else { Err(error) }
        })
    }

    fn ask(object: &Bound<'_, PyAny>, flags: i32) -> PyResult<Self> {
        let mut buffer = Box::new(ffi::Py_buffer::new());
        #[allow(unsafe_code)]
        // SAFETY: the interpreter is attached, as `object` shows, and the buffer is ours to fill.
        let status = unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut *buffer, flags) };
        if status == 0 { Ok(Self(buffer)) } else { Err(PyErr::fetch(object.py())) }
    }

    /// The buffer, if its elements are data alone.
    fn without_pointers(self, object: &Bound<'_, PyAny>) -> PyResult<Self> {
        match self.format() {
            Some(format) if holds_pointers(format.to_bytes()) => Err(PyTypeError::new_err(format!(
                "values are data, and this {} holds pointers (its format is '{}'), which mean nothing to another \
                 process: convert it to a type without objects, or pickle it",
                type_name(object),
                format.to_string_lossy(),
            ))),
            _ => Ok(self),
        }
    }

    fn format(&self) -> Option<&CStr> {
        if self.0.format.is_null() {
            return None;
        }
        #[allow(unsafe_code)]
        // SAFETY: a text with a zero at its end, which stays until the buffer is released.
        unsafe {
            Some(CStr::from_ptr(self.0.format))
        }
    }

    /// Where its bytes begin, and how many there are.
    pub fn parts(&self) -> (*mut u8, usize) {
        (self.0.buf.cast(), self.0.len as usize)
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        #[allow(unsafe_code)]
        // SAFETY: the buffer was filled, and is released once. It is dropped by code that holds the interpreter.
        unsafe {
            ffi::PyBuffer_Release(&raw mut *self.0);
        }
    }
}

/// The error for an object that does not give the buffer that it was asked for. What else its code raises passes.
fn refusal(object: &Bound<'_, PyAny>, error: PyErr, message: &str) -> PyErr {
    let py = object.py();
    // The interpreter's own objects raise the one, numpy's the other.
    if error.is_instance_of::<PyBufferError>(py) || error.is_instance_of::<PyValueError>(py) {
        PyBufferError::new_err(format!("{message}: {error}"))
    } else {
        error
    }
}

/// Whether elements of this format, as in Python's `struct` and PEP 3118, hold pointers.
fn holds_pointers(format: &[u8]) -> bool {
    let mut rest = format;
    while let [code, following @ ..] = rest {
        rest = following;
        match code {
            // The name of a field, up to the next colon.
            b':' => {
                let name = rest.iter().position(|&byte| byte == b':');
                rest = name.map_or(&[], |end| &rest[end + 1..]);
            }
            // A complex number is a Z before a kind of float; alone it is the wide text of `ctypes`.
            b'Z' if !matches!(rest, [b'f' | b'd' | b'g', ..]) => return true,
            // An object, a pointer without and with a type, a function, the text of `ctypes`.
            b'O' | b'P' | b'&' | b'X' | b'z' => return true,
            _ => {}
        }
    }
    false
}

fn has_buffer(object: &Bound<'_, PyAny>) -> bool {
    #[allow(unsafe_code)]
    // SAFETY: any object may be asked.
    unsafe {
        ffi::PyObject_CheckBuffer(object.as_ptr()) == 1
    }
}

/// The name of an object's type, for messages.
pub fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string())
}
