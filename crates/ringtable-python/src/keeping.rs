//! What a keeper holds for a server, between Python, which keeps, and the engine, which serves.
//!
//! The keeper (`_keeper/`) forks the server. So all that it holds is in the server, too, under the same numbers.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use ringtable::server::{self, LaneMemory};

/// The memory of a lane, mapped by the keeper for a server that is forked later: behind its client's seal no process
/// can map it any more.
#[pyclass(frozen, module = "ringtable._ringtable")]
pub struct KeptMemory(Mutex<Option<LaneMemory>>);

#[pymethods]
impl KeptMemory {
    /// Map the segment of that descriptor, which has so many bytes.
    #[new]
    fn new(descriptor: RawFd, size: usize) -> PyResult<Self> {
        if descriptor < 0 {
            return Err(PyValueError::new_err(format!("{descriptor} is no descriptor")));
        }
        #[allow(unsafe_code)]
        // SAFETY: the caller has the descriptor open; the borrow ends with this call.
        let segment = unsafe { BorrowedFd::borrow_raw(descriptor) };
        Ok(Self(Mutex::new(Some(LaneMemory::keep(segment, size)?))))
    }

    /// Leave the memory to another copy of this extension in this process: where it begins, for `found`.
    fn leave(&self) -> PyResult<usize> {
        Ok(self.take()?.leave())
    }

    /// The memory of so many bytes that another copy of this extension has left.
    #[staticmethod]
    fn found(start: usize, size: usize) -> PyResult<Self> {
        #[allow(unsafe_code)]
        // SAFETY: the caller got both from `leave`, in a process that was forked from the keeper, and uses them once.
        let memory = unsafe { LaneMemory::found(start, size) };
        Ok(Self(Mutex::new(Some(memory?))))
    }
}

impl KeptMemory {
    fn take(&self) -> PyResult<LaneMemory> {
        let memory = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        memory.ok_or_else(|| PyValueError::new_err("the memory of this lane is another server's already"))
    }
}

/// What a keeper gives to the server that it has forked, as Python has it: the socket to the keeper; descriptors by the
/// numbers of what they are; lanes; how many servers there were before; and how many of these were upgraded.
pub type Inherited<'py> = (RawFd, HashMap<usize, RawFd>, Vec<InheritedLane<'py>>, u64, u64);

/// A lane: its number, its memory, and the descriptors of that, of both doorbells, and of the client's socket, if a
/// client has it.
type InheritedLane<'py> = (usize, Bound<'py, KeptMemory>, RawFd, RawFd, RawFd, Option<RawFd>);

/// The same as the engine has it.
pub fn inheritance((keeper, held, lanes, restarts, upgrades): Inherited<'_>) -> PyResult<server::Inheritance> {
    let held = held.into_iter().filter_map(|(number, fd)| Some((*server::Held::ALL.get(number)?, owned(fd)))).collect();
    let lanes = lanes.into_iter().map(|(lane, memory, fd, request_bell, response_bell, socket)| {
        let memory = memory.get().take()?;
        let [segment, request_bell, response_bell] = [fd, request_bell, response_bell].map(owned);
        Ok(server::InheritedLane { lane, memory, segment, request_bell, response_bell, socket: socket.map(owned) })
    });
    Ok(server::Inheritance { keeper: owned(keeper), held, lanes: lanes.collect::<PyResult<_>>()?, restarts, upgrades })
}

/// A descriptor that is this process's from now on.
fn owned(fd: RawFd) -> OwnedFd {
    #[allow(unsafe_code)]
    // SAFETY: the keeper's child hands it over, and does not use it any more.
    unsafe {
        OwnedFd::from_raw_fd(fd)
    }
}
