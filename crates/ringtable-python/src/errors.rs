//! The one place where the engine's errors become Python's: the family in `ringtable._errors`.

use std::ffi::OsStr;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;
use ringtable::folder::FolderError;
use ringtable::{client, disk, server};

static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

/// The module that the exceptions are in.
///
/// Imported together with this one: a child that is forked while another thread is at it would wait for that thread.
pub fn module(py: Python<'_>) -> PyResult<&Py<PyModule>> {
    MODULE.get_or_try_init(py, || py.import("ringtable._errors").map(Bound::unbind))
}

/// An exception of the family, by its name.
pub fn family(py: Python<'_>, name: &'static str, message: impl Into<String>) -> PyErr {
    let class =
        module(py).and_then(|module| module.bind(py).getattr(name)).and_then(|class| Ok(class.cast_into::<PyType>()?));
    match class {
        Ok(class) => PyErr::from_type(class, in_one_line(message.into())),
        Err(error) => PyRuntimeError::new_err(format!("ringtable._errors.{name}: {error}")),
    }
}

/// A message in which what is quoted (a name, a path, a key) may be anything: line ends and other characters that do
/// something in a terminal are escaped, as Python writes them.
fn in_one_line(message: String) -> String {
    let is_odd = |letter: char| letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}');
    if !message.contains(is_odd) {
        return message;
    }
    let escaped = message.chars().map(|letter| match letter {
        '\n' | '\r' | '\t' => letter.escape_default().to_string(),
        _ if !is_odd(letter) => letter.to_string(),
        _ if letter < '\u{100}' => format!("\\x{:02x}", u32::from(letter)),
        _ => format!("\\u{:04x}", u32::from(letter)),
    });
    escaped.collect()
}

/// Whether an exception is one of the family.
pub fn is_ours(py: Python<'_>, error: &PyErr) -> bool {
    let base = module(py).and_then(|module| module.bind(py).getattr("Error"));
    base.is_ok_and(|base| error.matches(py, base).unwrap_or(false))
}

/// The exception for an error of the client.
pub fn client(py: Python<'_>, error: client::Error) -> PyErr {
    let name = match name(&error) {
        Ok(name) => name,
        Err(message) => return refusal(py, message),
    };
    family(py, name, error.to_string())
}

/// The name of the exception for an error of the client; or what the server said, which tells.
fn name(error: &client::Error) -> Result<&'static str, &str> {
    use client::Error;
    Ok(match error {
        Error::Address(_) | Error::NoSharedMemory(_) | Error::NoConnection { .. } => "InvalidOption",
        Error::NotFound { .. } => "TableNotFound",
        Error::Denied { .. } => "AccessDenied",
        Error::Untrusted(_) => "Untrusted",
        Error::Ended(_) | Error::Lapsed => "ServerGone",
        error if error.is_gone() => "ServerGone",
        Error::Awaiting { error, .. } => name(error)?,
        Error::Expelled(_) => "Expelled",
        Error::Timeout(_) | Error::Awaited(_) => "Timeout",
        Error::InDoubt(_) => "LockLost",
        Error::TooManyClients(_) | Error::TooManySessions(_) => "TooManyClients",
        Error::Version(_) => "VersionMismatch",
        Error::Protocol(_) => "ProtocolError",
        Error::KeyTooLong(_) => "KeyTooLong",
        Error::ValueTooLarge(_) => "ValueTooLarge",
        Error::NoDatagram { first, rest, .. } if first > rest => "KeyTooLong",
        Error::NoDatagram { command, .. } if *command == "SET" => "ValueTooLarge",
        Error::NoRoom(_) | Error::ReplyDropped(_) => "ClientOutOfMemory",
        Error::TooManyViews => "TooManyViews",
        Error::Closed | Error::WatchClosed | Error::ViewClosed | Error::ViewInherited => "Closed",
        Error::Reentrant | Error::OwnLease(_) => "Reentrant",
        Error::File(disk::Error::System { .. }) => "FileError",
        Error::File(_) => "DamagedFile",
        Error::Refused(message) => return Err(message),
        Error::TooManyArguments { .. } | Error::TooLarge { .. } | Error::NoDatagram { .. } | Error::NoTransactions => {
            "CommandError"
        }
        error if error.is_shortage() => "OutOfResources",
        _ => "Error",
    })
}

/// The exception for a server that has not answered in time.
pub fn unanswered(py: Python<'_>, server: &OsStr, limit: Duration, may_write: bool) -> PyErr {
    let done = if may_write { "; a write may still be done" } else { "" };
    let (limit, server) = (limit.as_secs_f64(), server.display());
    let message = format!("no answer within {limit} s from the server at {server}: it is stopped, or overloaded{done}");
    family(py, "Timeout", message)
}

/// The exception for what the server said: its message begins with a code word.
pub fn refusal(py: Python<'_>, message: &str) -> PyErr {
    let (code, rest) = message.split_once(' ').unwrap_or(("", message));
    let name = match code {
        "KEYTOOLONG" => "KeyTooLong",
        "VALUETOOLARGE" => "ValueTooLarge",
        "OOM" => "OutOfMemory",
        "BUCKETFULL" => "BucketFull",
        "UNEVICTABLEFULL" => "UnevictableFull",
        "PROTOCOL" => "ProtocolError",
        "VERSION" => "VersionMismatch",
        "MAXCLIENTS" => "TooManyClients",
        "LIMIT" => "OutOfResources",
        "DISK" | "MISCONF" => "FileError",
        "ERR" if rest.starts_with("value is not an integer") || rest.contains("would overflow") => "NotAnInteger",
        "ERR" if rest.starts_with("value is not a valid float") || rest.contains("would produce NaN") => "NotAFloat",
        "ERR" => "CommandError",
        // What the word says is said nowhere else.
        _ => return family(py, "CommandError", message),
    };
    family(py, name, rest)
}

/// The exception for an error of the server.
pub fn server(py: Python<'_>, error: &server::Error) -> PyErr {
    let name = match error {
        server::Error::Exists(_) => "ServerExists",
        server::Error::Taken { .. } => "PathTaken",
        error if error.is_shortage() => "OutOfResources",
        server::Error::Group { .. } | server::Error::Folder(FolderError::Denied { .. }) => "AccessDenied",
        server::Error::Data(disk::Error::Taken(_)) => "ServerExists",
        server::Error::Data(disk::Error::System { .. }) => "FileError",
        server::Error::Data(_) => "DamagedFile",
        server::Error::Unloadable { .. } => "OutOfMemory",
        server::Error::Folder(FolderError::System { .. }) => "Error",
        server::Error::Folder(_) => "Untrusted",
        server::Error::Option { .. }
        | server::Error::Mode(_)
        | server::Error::NoPowerOfTwo { .. }
        | server::Error::Address(_)
        | server::Error::NotLoopback { .. }
        | server::Error::NoRoom { .. }
        | server::Error::Needs { .. }
        | server::Error::NotAlways
        | server::Error::Logged(_)
        | server::Error::Foreign(_) => "InvalidOption",
        _ => "Error",
    };
    let message = error.to_string();
    family(py, name, if name == "InvalidOption" { as_arguments(&message) } else { message })
}

/// What the system has no more of, in words, if this number of an error says that it is so.
#[pyfunction]
pub fn shortage(number: i32) -> Option<String> {
    client::shortage(number)
}

/// The engine's words with options as Python's arguments: `max_memory is 1` for `--max-memory is 1`.
pub fn as_arguments(message: &str) -> String {
    let words = message.split(' ').map(|word| match word.strip_prefix("--") {
        Some(option) => option.replace('-', "_"),
        None => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}
