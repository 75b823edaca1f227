//! `View`: a value in place, with the buffer protocol.

use std::ffi::c_int;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};
use ringtable::client::{Error, View};

use crate::{convert, errors};

/// A value that stays where it is, and as it is, until the view is closed: a read-only buffer without a copy.
///
/// Make one with `Table.view`. Whatever takes a buffer takes a view: `memoryview(view)`, `numpy.frombuffer(view)`,
/// `file.write(view)`. What becomes of the key meanwhile changes nothing: the server uses the memory again when the
/// view is closed. So close it, or use it in a `with` statement; a view that nothing refers to is closed, too.
///
/// A forked child may read buffers that were made before the fork, as long as the parent keeps its view. It cannot make
/// new ones, and closing the view there closes nothing of the parent's.
#[pyclass(frozen, name = "View", module = "ringtable")]
pub struct ViewCore {
    state: Mutex<ViewState>,
    size: usize,
    version: Option<u64>,
    is_copy: bool,
    /// Whether objects lie in it, which may have kept nothing but a reference to it.
    is_held: bool,
}

struct ViewState {
    /// Until it is closed.
    view: Option<View>,
    /// Buffers that were not released.
    exports: usize,
}

impl ViewCore {
    pub fn new(view: View) -> Self {
        let (size, version, is_copy) = (view.size(), view.version(), view.is_copy());
        Self { state: Mutex::new(ViewState { view: Some(view), exports: 0 }), size, version, is_copy, is_held: false }
    }

    /// A view for objects that lie in it. It is closed when nothing refers to it any more, and not before: an array
    /// that `numpy.ndarray` makes of it refers to it, and keeps no buffer.
    pub fn held(view: View) -> Self {
        Self { is_held: true, ..Self::new(view) }
    }

    /// While this is held, nothing of the interpreter is called that could let another thread run: that one may wait
    /// here, and keep the interpreter meanwhile.
    fn lock(&self) -> MutexGuard<'_, ViewState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ViewState {
    /// The bytes of a view that is open.
    fn bytes(&self) -> Result<&[u8], Error> {
        self.view.as_ref().map_or(Err(Error::ViewClosed), View::bytes)
    }
}

#[pymethods]
impl ViewCore {
    /// Let go of the value; may be called again.
    ///
    /// Raises `BufferError` while there are buffers of it: release those first. The view that a loaded object lies in
    /// is closed with the last such object, and never by this.
    fn close(&self) -> PyResult<()> {
        if self.is_held {
            return Err(PyBufferError::new_err(
                "objects that were loaded lie in this view, and it is closed with the last of them: `del` those",
            ));
        }
        let mut state = self.lock();
        if state.exports > 0 {
            let (count, were) = match state.exports {
                1 => ("1 buffer".to_owned(), "was"),
                exports => (format!("{exports} buffers"), "were"),
            };
            let message = format!("{count} of this view {were} not released: `del` the arrays and memoryviews first");
            return Err(PyBufferError::new_err(message));
        }
        state.view = None;
        Ok(())
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self) -> bool {
        self.lock().view.is_none()
    }

    /// How many bytes the value has.
    #[getter]
    fn nbytes(&self) -> usize {
        self.size
    }

    /// Whether it is a private copy: where there is no lane, or `copy_ok` was given.
    #[getter]
    fn is_copy(&self) -> bool {
        self.is_copy
    }

    /// The version of the value, never the same twice for a key; `None` for a copy that came over a socket.
    #[getter]
    fn version(&self) -> Option<u64> {
        self.version
    }

    fn __len__(&self) -> usize {
        self.size
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let state = self.lock();
        let error = match state.bytes() {
            Ok(bytes) => return convert::bytes(py, bytes),
            Err(error) => error,
        };
        drop(state);
        Err(errors::client(py, error))
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (kind, _error, _traceback, /))]
    fn __exit__(
        &self,
        kind: Option<Bound<'_, PyType>>,
        _error: Option<Bound<'_, PyAny>>,
        _traceback: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        match self.close() {
            // What went wrong first is what matters; it may hold the buffers itself.
            Err(_) if kind.is_some() => Ok(()),
            outcome => outcome,
        }
    }

    fn __repr__(&self) -> String {
        let place = if self.closed() {
            "closed"
        } else if self.is_copy {
            "a copy"
        } else {
            "in place"
        };
        format!("<ringtable.View of {} bytes, {place}>", self.size)
    }

    /// # Safety
    /// Called by the interpreter, with a buffer to fill.
    #[allow(unsafe_code)]
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, buffer: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let view = slf.get();
        let mut state = view.lock();
        let (start, size) = match state.bytes() {
            Ok(bytes) => (bytes.as_ptr(), bytes.len()),
            Err(error) => {
                drop(state);
                return Err(errors::client(slf.py(), error));
            }
        };
        state.exports += 1;
        drop(state);
        // SAFETY: the bytes stay where they are until the buffer is released: it counts as an export, with which the
        // view cannot be closed, and holds a reference to the view. Read-only: a buffer to write to is refused.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(buffer, slf.as_ptr(), start.cast_mut().cast(), size as ffi::Py_ssize_t, 1, flags)
        };
        if filled != 0 {
            view.lock().exports -= 1;
            return Err(PyErr::fetch(slf.py()));
        }
        Ok(())
    }

    /// # Safety
    /// Called by the interpreter, once for each buffer that was filled.
    #[allow(unsafe_code)]
    unsafe fn __releasebuffer__(&self, _buffer: *mut ffi::Py_buffer) {
        self.lock().exports -= 1;
    }
}
