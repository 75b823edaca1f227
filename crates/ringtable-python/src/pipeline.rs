//! `PipelineCore`: commands that are recorded, and sent together.
//!
//! # Invariants
//!
//! - What is recorded was checked by the code that checks it for a table, and is refused when it is recorded.
//! - What is recorded does not change any more: of what is mutable it is a copy.
//! - While the lock is held no code of the interpreter's runs.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::PyTraverseError;
use pyo3::exceptions::PyBaseException;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use ringtable::client::{Bounds, Condition, check_command};
use ringtable::command::float::parse_float;
use ringtable::command::reply::Reply;

use crate::arguments::{By, Given, Increment, Set, When, optional_ttl_ms, ttl_ms};
use crate::table::TableCore;
use crate::{convert, errors};

/// Most keys of one request, and most bytes of them, where a command has any number of keys: as much as a worker does
/// in a turn.
const KEYS_AT_ONCE: usize = 1_000;
const KEYS_SIZE_AT_ONCE: usize = 64 << 10;

/// A word of a recorded command.
enum Word {
    Name(&'static str),
    Number(String),
    /// `str` or `bytes`.
    Object(Py<PyAny>),
}

impl Word {
    fn bytes<'a>(&'a self, py: Python<'a>) -> PyResult<&'a [u8]> {
        match self {
            Self::Name(name) => Ok(name.as_bytes()),
            Self::Number(digits) => Ok(digits.as_bytes()),
            Self::Object(object) => convert::word(object.bind(py)),
        }
    }
}

/// What a reply becomes.
#[derive(Clone, Copy)]
enum Shape {
    /// Itself.
    Reply,
    /// Whether it is one at all.
    IsDone,
    /// Whether it is above zero.
    IsTrue,
    /// A number with a fraction.
    Float,
    /// A value and its version.
    Versioned,
    /// Pairs of what comes one after the other.
    Pairs,
    /// The sum of so many replies.
    Sum(usize),
}

impl Shape {
    /// How many requests it takes.
    fn requests(self) -> usize {
        if let Self::Sum(requests) = self { requests } else { 1 }
    }

    /// The result of a command, whose replies come next; an error is a result, too.
    fn result<'py>(self, py: Python<'py>, replies: &mut impl Iterator<Item = Reply>) -> PyResult<Bound<'py, PyAny>> {
        if let Self::Sum(requests) = self {
            let (mut sum, mut failed) = (0, None);
            for reply in replies.take(requests) {
                match reply {
                    Reply::Integer(count) => sum += count,
                    other => failed = failed.or(Some(other)),
                }
            }
            return failed.map_or_else(|| Ok(sum.into_pyobject(py)?.into_any()), |reply| convert::reply(py, reply));
        }
        let reply = replies.next().unwrap_or(Reply::Nil);
        match (self, reply) {
            (_, reply @ (Reply::Error(_) | Reply::Dropped(_))) => convert::reply(py, reply),
            (Self::IsDone, reply) => Ok((!matches!(reply, Reply::Nil)).into_pyobject(py)?.to_owned().into_any()),
            (Self::IsTrue, Reply::Integer(count)) => Ok((count > 0).into_pyobject(py)?.to_owned().into_any()),
            (Self::Float, Reply::Bulk(digits)) => match parse_float(&digits) {
                Some(sum) => Ok(sum.into_pyobject(py)?.into_any()),
                None => convert::reply(py, Reply::Bulk(digits)),
            },
            (Self::Versioned, Reply::Array(parts)) => {
                let parts = parts.into_iter().map(|part| convert::reply(py, part)).collect::<PyResult<Vec<_>>>()?;
                Ok(PyTuple::new(py, parts)?.into_any())
            }
            (Self::Pairs, Reply::Array(parts)) => {
                let parts = parts.into_iter().map(|part| convert::reply(py, part)).collect::<PyResult<Vec<_>>>()?;
                let pairs = parts.as_chunks::<2>().0.iter().map(|pair| PyTuple::new(py, pair));
                Ok(convert::list(py, pairs)?.into_any())
            }
            (_, reply) => convert::reply(py, reply),
        }
    }
}

/// Commands that were recorded, as they are sent.
#[derive(Default)]
pub struct Recorded {
    /// All words of all requests.
    words: Vec<Word>,
    /// How many words each request has.
    requests: Vec<usize>,
    commands: Vec<Shape>,
}

impl Recorded {
    /// How many requests they take.
    pub fn requests(&self) -> usize {
        self.requests.len()
    }

    /// How many words a request has.
    pub fn size(&self, index: usize) -> usize {
        self.requests[index]
    }

    /// The words of a request, which begin where those before it end: the first one at 0.
    pub fn request<'a>(&'a self, py: Python<'a>, index: usize, start: usize) -> PyResult<Vec<&'a [u8]>> {
        self.words[start..start + self.requests[index]].iter().map(|word| word.bytes(py)).collect()
    }

    /// The results of all commands, of the replies to all requests. Errors are among them, each with a note that says
    /// which command it was, if there are several.
    pub fn results<'py>(&self, py: Python<'py>, replies: Vec<Reply>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let Self { words, requests, commands } = self;
        let mut replies = replies.into_iter();
        let (mut request, mut word) = (0, 0);
        let each = commands.iter().enumerate().map(|(index, shape)| {
            let result = shape.result(py, &mut replies)?;
            let size: usize = requests[request..request + shape.requests()].iter().sum();
            if result.is_instance_of::<PyBaseException>() {
                let (number, count, name) = (index + 1, commands.len(), shown_name(py, &words[word..word + size])?);
                let note = format!("This was command {number} of {count} in a pipeline: {name}");
                result.call_method1("add_note", (note,))?;
            }
            word += size;
            request += shape.requests();
            Ok(result)
        });
        each.collect()
    }

    /// The result of the only command.
    pub fn result<'py>(&self, py: Python<'py>, replies: Vec<Reply>) -> PyResult<Bound<'py, PyAny>> {
        match self.commands.first() {
            Some(shape) => shape.result(py, &mut replies.into_iter()),
            None => Ok(py.None().into_bound(py)),
        }
    }
}

/// What `ringtable.Pipeline` inherits: it records commands for a table.
#[pyclass(subclass, frozen, generic, name = "Pipeline", module = "ringtable._ringtable")]
pub struct PipelineCore {
    table: Py<TableCore>,
    recorded: Mutex<Recorded>,
}

impl PipelineCore {
    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was recorded; nothing is, from here on.
    pub fn take(&self) -> Recorded {
        std::mem::take(&mut *self.lock())
    }

    /// Records a command of one request.
    fn record(&self, shape: Shape, words: impl IntoIterator<Item = Word>) {
        let words: Vec<Word> = words.into_iter().collect();
        let mut recorded = self.lock();
        recorded.requests.push(words.len());
        recorded.words.extend(words);
        recorded.commands.push(shape);
    }
}

/// The name of the command that begins here, for messages.
fn shown_name(py: Python<'_>, words: &[Word]) -> PyResult<String> {
    match words.first() {
        Some(Word::Name(name)) => Ok(format!("'{name}'")),
        Some(Word::Object(object)) => Ok(object.bind(py).repr()?.to_string()),
        _ => Ok("''".to_owned()),
    }
}

/// A key as a word.
fn key_word(key: &Bound<'_, PyAny>) -> PyResult<Word> {
    convert::key(key)?;
    Ok(Word::Object(key.clone().unbind()))
}

#[pymethods]
impl PipelineCore {
    #[new]
    fn new(table: Py<TableCore>) -> Self {
        Self { table, recorded: Mutex::default() }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.table)
    }

    fn __len__(&self) -> usize {
        self.lock().commands.len()
    }

    /// Record a read; its result is the value, or `None` where there is none.
    fn get<'py>(slf: Bound<'py, Self>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        slf.get().record(Shape::Reply, [Word::Name("GET"), key_word(key)?]);
        Ok(slf)
    }

    /// Record a read; its result is the value and its version, or `None` where there is none.
    fn get_with_version<'py>(slf: Bound<'py, Self>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        slf.get().record(Shape::Versioned, [Word::Name("RING.GETV"), key_word(key)?]);
        Ok(slf)
    }

    /// Record a write; its result is whether it was done.
    ///
    /// The arguments are those of `Table.set`, and are checked here; of a value that may change it keeps a copy.
    #[pyo3(
        signature = (
            key, value, *, ttl=None, nx=Given(None), xx=Given(None), if_version=None, evictable=None,
            keepttl=Given(None)
        ),
        text_signature = "($self, key, value, *, ttl=None, nx=False, xx=False, if_version=None, evictable=None, \
                          keepttl=False)"
    )]
    #[allow(clippy::too_many_arguments)]
    fn set<'py>(
        slf: Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
        ttl: Option<&Bound<'py, PyAny>>,
        nx: Given<'py>,
        xx: Given<'py>,
        if_version: Option<&Bound<'py, PyAny>>,
        evictable: Option<&Bound<'py, PyAny>>,
        keepttl: Given<'py>,
    ) -> PyResult<Bound<'py, Self>> {
        let Set { value, stay, when, .. } = Set::check(key, value, (ttl, &keepttl), (&nx, &xx), if_version, evictable)?;
        let mut words = vec![Word::Name("SET"), key_word(key)?, Word::Object(value.into_any().unbind())];
        if let Some(ttl_ms) = stay.ttl_ms {
            words.extend([Word::Name("PX"), Word::Number(ttl_ms.to_string())]);
        } else if stay.keeps_ttl {
            words.push(Word::Name("KEEPTTL"));
        }
        words.extend(stay.mark.word().map(Word::Name));
        match when {
            When::If(Condition::Always) => {}
            When::If(Condition::Absent) => words.push(Word::Name("NX")),
            When::If(Condition::Present) => words.push(Word::Name("XX")),
            When::IfVersion(version) => words.extend([Word::Name("IFVERSION"), Word::Number(version.to_string())]),
        }
        slf.get().record(Shape::IsDone, words);
        Ok(slf)
    }

    /// Record a deletion of any number of keys; its result is how many of them there were.
    #[pyo3(signature = (*keys))]
    fn delete<'py>(slf: Bound<'py, Self>, keys: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, Self>> {
        let mut requests: Vec<Vec<Word>> = Vec::new();
        let mut size = 0;
        for key in keys.iter() {
            size += convert::key(&key)?.len();
            if requests.last().is_none_or(|words| words.len() > KEYS_AT_ONCE) || size > KEYS_SIZE_AT_ONCE {
                requests.push(vec![Word::Name("DEL")]);
                size = 0;
            }
            if let Some(words) = requests.last_mut() {
                words.push(Word::Object(key.unbind()));
            }
        }
        let mut recorded = slf.get().lock();
        recorded.commands.push(Shape::Sum(requests.len()));
        for words in requests {
            recorded.requests.push(words.len());
            recorded.words.extend(words);
        }
        drop(recorded);
        Ok(slf)
    }

    /// Record a question; its result is whether there is such a key.
    fn exists<'py>(slf: Bound<'py, Self>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        slf.get().record(Shape::IsTrue, [Word::Name("EXISTS"), key_word(key)?]);
        Ok(slf)
    }

    /// Record an increment; its result is the sum, or `None` if it were out of bounds.
    ///
    /// The arguments are those of `Table.incr`, and are checked here.
    #[pyo3(
        signature = (key, by=Given(None), *, ttl_if_new=None, minimum=None, maximum=None, evictable=None),
        text_signature = "($self, key, by=1, *, ttl_if_new=None, minimum=None, maximum=None, evictable=None)"
    )]
    #[allow(clippy::too_many_arguments)]
    fn incr<'py>(
        slf: Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
        by: Given<'py>,
        ttl_if_new: Option<&Bound<'py, PyAny>>,
        minimum: Option<&Bound<'py, PyAny>>,
        maximum: Option<&Bound<'py, PyAny>>,
        evictable: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Self>> {
        let Increment { by, .. } = Increment::check(key, &by, ttl_if_new, minimum, maximum, evictable)?;
        let (by, bounds) = match by {
            By::Whole(by, bounds) => (by, bounds),
            By::Float(by) => {
                let words = [Word::Name("INCRBYFLOAT"), key_word(key)?, Word::Number(by.to_string())];
                slf.get().record(Shape::Float, words);
                return Ok(slf);
            }
        };
        let name = if bounds == Bounds::default() { "INCRBY" } else { "RING.INCR" };
        let mut words = vec![Word::Name(name), key_word(key)?, Word::Number(by.to_string())];
        words.extend(
            bounds.options().into_iter().flat_map(|(option, number)| [Word::Name(option), Word::Number(number)]),
        );
        words.extend(bounds.mark.word().map(Word::Name));
        slf.get().record(Shape::Reply, words);
        Ok(slf)
    }

    /// Record that `key` shall be absent after `ttl`; its result is whether there is such a key.
    fn expire<'py>(
        slf: Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
        ttl: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, Self>> {
        let key = key_word(key)?;
        let ttl_ms = Word::Number(ttl_ms("ttl", ttl)?.to_string());
        slf.get().record(Shape::IsTrue, [Word::Name("PEXPIRE"), key, ttl_ms]);
        Ok(slf)
    }

    /// Record a deletion; its result is the value that the key had, or `None` where there is none.
    fn get_and_delete<'py>(slf: Bound<'py, Self>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        slf.get().record(Shape::Reply, [Word::Name("GETDEL"), key_word(key)?]);
        Ok(slf)
    }

    /// Record that `key` gets a new time to live, or none; its result is the value, or `None` for an absent key.
    fn get_and_expire<'py>(
        slf: Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
        ttl: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Self>> {
        let mut words = vec![Word::Name("GETEX"), key_word(key)?];
        match optional_ttl_ms("ttl", ttl)? {
            Some(ttl_ms) => words.extend([Word::Name("PX"), Word::Number(ttl_ms.to_string())]),
            None => words.push(Word::Name("PERSIST")),
        }
        slf.get().record(Shape::Reply, words);
        Ok(slf)
    }

    /// Record that `key` shall not expire any more; its result is whether it would have.
    fn persist<'py>(slf: Bound<'py, Self>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        slf.get().record(Shape::IsTrue, [Word::Name("PERSIST"), key_word(key)?]);
        Ok(slf)
    }

    /// Record a read of the bucket that `key` falls in; its result is a list of pairs of key and value.
    fn read_bucket<'py>(slf: Bound<'py, Self>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        slf.get().record(Shape::Pairs, [Word::Name("RING.BUCKET"), key_word(key)?]);
        Ok(slf)
    }

    /// Record anything that a server can be asked: a command's name and its arguments; its result is the reply.
    #[pyo3(signature = (*arguments))]
    fn call<'py>(slf: Bound<'py, Self>, arguments: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, Self>> {
        let words = arguments.iter().map(convert::Word::new).collect::<PyResult<Vec<_>>>()?;
        let bytes = words.iter().map(convert::Word::bytes).collect::<PyResult<Vec<_>>>()?;
        check_command(&bytes).map_err(|error| errors::client(slf.py(), error))?;
        slf.get().record(Shape::Reply, words.into_iter().map(|word| Word::Object(word.into_object().unbind())));
        Ok(slf)
    }

    /// Send all that was recorded; return the results in the order of the commands. Errors are among them, each with a
    /// note that says which command it was.
    #[pyo3(name = "_send")]
    fn send<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let recorded = self.take();
        let slices = recorded.words.iter().map(|word| word.bytes(py)).collect::<PyResult<Vec<_>>>()?;
        let table = self.table.bind(py).get();
        let replies = table.ask_many(py, &slices, &recorded.requests)?;
        convert::list(py, recorded.results(py, replies)?.into_iter().map(Ok))
    }
}
