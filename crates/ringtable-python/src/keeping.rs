//! What a keeper holds for a server, between Python, which keeps, and the engine, which serves.
//!
//! The keeper (`_keeper/`) forks the server. So all that it holds is in the server, too, under the same numbers.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
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
        // SAFETY: the caller got both from `leave`, in a process that was forked from the keeper, or from a server that
        // has left its estate to this one; and uses them once.
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
/// numbers of what they are; lanes; how many servers there were before, and how many of these were upgraded; and
/// whether this process is the next keeper if that dies.
pub type Inherited<'py> = (RawFd, HashMap<usize, RawFd>, Vec<InheritedLane<'py>>, u64, u64, bool);

/// A lane: its number, its memory, and the descriptors of that (unless it is known to be sealed), of both doorbells,
/// and of the client's socket, if a client has it.
type InheritedLane<'py> = (usize, Bound<'py, KeptMemory>, Option<RawFd>, RawFd, RawFd, Option<RawFd>);

/// What a server leaves to its process, which is the keeper from then on: descriptors and lanes as above, of the lanes'
/// memory where it begins and its bytes, for [`KeptMemory::found`]; how many servers there were before it, and how many
/// of these were upgraded; and whether it was told to end.
pub type Left = (HashMap<usize, RawFd>, Vec<LeftLane>, u64, u64, bool);

/// A lane, as it is left.
type LeftLane = (usize, (usize, usize), Option<RawFd>, RawFd, RawFd, RawFd);

/// The same as Python has it.
pub fn left(estate: server::Estate) -> Left {
    let held = estate.held.into_iter().map(|(what, descriptor)| (what as usize, descriptor.into_raw_fd())).collect();
    let lanes = estate.lanes.into_iter().map(|left| {
        let segment = left.segment.map(IntoRawFd::into_raw_fd);
        let [request_bell, response_bell, socket] =
            [left.request_bell, left.response_bell, left.socket].map(IntoRawFd::into_raw_fd);
        (left.lane, left.memory, segment, request_bell, response_bell, socket)
    });
    (held, lanes.collect(), estate.restarts, estate.upgrades, estate.is_told_to_end)
}

/// The same as the engine has it.
pub fn inheritance((keeper, held, lanes, restarts, upgrades, is_heir): Inherited<'_>) -> PyResult<server::Inheritance> {
    let held = held.into_iter().filter_map(|(number, fd)| Some((*server::Held::ALL.get(number)?, owned(fd)))).collect();
    let lanes = lanes.into_iter().map(|(lane, memory, fd, request_bell, response_bell, socket)| {
        let memory = memory.get().take()?;
        let [request_bell, response_bell] = [request_bell, response_bell].map(owned);
        let [segment, socket] = [fd, socket].map(|fd| fd.map(owned));
        Ok(server::InheritedLane { lane, memory, segment, request_bell, response_bell, socket })
    });
    let (keeper, lanes) = (owned(keeper), lanes.collect::<PyResult<_>>()?);
    Ok(server::Inheritance { keeper, held, lanes, restarts, upgrades, is_heir })
}

/// A descriptor that is this process's from now on.
fn owned(fd: RawFd) -> OwnedFd {
    #[allow(unsafe_code)]
    // SAFETY: the keeper's child hands it over, and does not use it any more.
    unsafe {
        OwnedFd::from_raw_fd(fd)
    }
}
