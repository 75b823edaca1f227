//! `ServerCore`: a server inside this process.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use ringtable::table::Eviction;
use ringtable::{limits, server};

use crate::arguments::{self, Whole, flag, text};
use crate::keeping::{Inherited, Left, inheritance, left};
use crate::{convert, errors};

/// A running server: worker threads inside this process that never take the interpreter lock.
#[pyclass(frozen, name = "Server", module = "ringtable._ringtable")]
pub struct ServerCore {
    server: server::Server,
}

#[pymethods]
impl ServerCore {
    #[new]
    #[pyo3(signature = (
        name, *, buckets=None, workers=None, max_memory=None, eviction=None, max_clients=None, spin_us=None,
        strict_seal=None, tcp=None, udp=None, mode=0o600, group=None, topology=None, ring_slots=None, slot_size=None,
        slow_consumer_timeout=None, max_unevictable=None, linger=None, data=None, snapshot_every=None,
        snapshots_kept=None, log=None, fsync=None, on_disk_error=None, kept=None
    ))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        buckets: Option<&Bound<'_, PyAny>>,
        workers: Option<&Bound<'_, PyAny>>,
        max_memory: Option<&Bound<'_, PyAny>>,
        eviction: Option<&Bound<'_, PyAny>>,
        max_clients: Option<&Bound<'_, PyAny>>,
        spin_us: Option<&Bound<'_, PyAny>>,
        strict_seal: Option<&Bound<'_, PyAny>>,
        tcp: Option<&str>,
        udp: Option<&str>,
        mode: u32,
        group: Option<u32>,
        topology: Option<&Bound<'_, PyAny>>,
        ring_slots: Option<&Bound<'_, PyAny>>,
        slot_size: Option<&Bound<'_, PyAny>>,
        slow_consumer_timeout: Option<&Bound<'_, PyAny>>,
        max_unevictable: Option<&Bound<'_, PyAny>>,
        linger: Option<&Bound<'_, PyAny>>,
        data: Option<PathBuf>,
        snapshot_every: Option<&Bound<'_, PyAny>>,
        snapshots_kept: Option<&Bound<'_, PyAny>>,
        log: Option<&Bound<'_, PyAny>>,
        fsync: Option<&Bound<'_, PyAny>>,
        on_disk_error: Option<&Bound<'_, PyAny>>,
        kept: Option<Inherited<'_>>,
    ) -> PyResult<Self> {
        let spin_us =
            spin_us.map(|given| arguments::number("spin_us", "a number of microseconds", given)).transpose()?;
        let spin_ns = match spin_us {
            None => None,
            Some(us) if us >= 0.0 && us * 1_000.0 <= limits::SPIN_NS_MAX as f64 => Some((us * 1_000.0) as u64),
            Some(us) => {
                let message = format!("spin_us is {us}; allowed are 0 to {} microseconds", limits::SPIN_NS_MAX / 1_000);
                return Err(errors::family(py, "InvalidOption", message));
            }
        };
        let tcp = tcp.map(|address| ringtable::address::tcp_address(address, 0)).transpose();
        let tcp = tcp.map_err(|error| errors::server(py, &error.into()))?;
        let udp = udp.map(|address| ringtable::address::udp_address(address, 0)).transpose();
        let udp = udp.map_err(|error| errors::server(py, &error.into()))?;
        let defaults = server::Options::default();
        let topology = match topology.map(|given| text("topology", given)).transpose()? {
            None => defaults.topology,
            Some(name) => server::Topology::named(name).ok_or_else(|| {
                let names = server::Topology::ALL.map(server::Topology::name).join(", ");
                errors::family(py, "InvalidOption", format!("topology is '{name}'; allowed are {names}"))
            })?,
        };
        let eviction = match eviction.map(|given| text("eviction", given)).transpose()? {
            None => defaults.eviction,
            Some(name) => Eviction::named(name).ok_or_else(|| {
                let names = Eviction::ALL.map(Eviction::name).join(", ");
                errors::family(py, "InvalidOption", format!("eviction is '{name}'; allowed are {names}"))
            })?,
        };
        let fsync = match fsync.map(|given| text("fsync", given)).transpose()? {
            None => defaults.fsync,
            Some(name) => server::Fsync::named(name).ok_or_else(|| {
                let names = server::Fsync::ALL.map(server::Fsync::name).join(", ");
                errors::family(py, "InvalidOption", format!("fsync is '{name}'; allowed are {names}"))
            })?,
        };
        let keeps_serving = match on_disk_error.map(|given| text("on_disk_error", given)).transpose()? {
            None | Some("refuse") => false,
            Some("keep-serving") => true,
            Some(name) => {
                let message = format!("on_disk_error is '{name}'; allowed are refuse, keep-serving");
                return Err(errors::family(py, "InvalidOption", message));
            }
        };
        let milliseconds = |name: &str, given: &Bound<'_, PyAny>, [least, most]: [u64; 2]| {
            let seconds = arguments::seconds(name, given)?;
            let [least, most] = [least, most].map(|ms| ms as f64 / 1_000.0);
            if !(least..=most).contains(&seconds) {
                let given = arguments::shown(seconds);
                let message = format!("{name} is {given}; allowed are {least} to {most} seconds");
                return Err(errors::family(py, "InvalidOption", message));
            }
            PyResult::Ok((seconds * 1_000.0).round() as u64)
        };
        let allowed = [limits::SLOW_CONSUMER_TIMEOUT_MS_MIN, limits::SLOW_CONSUMER_TIMEOUT_MS_MAX];
        let slow_consumer_timeout_ms = slow_consumer_timeout
            .map_or(Ok(defaults.slow_consumer_timeout_ms), |given| {
                milliseconds("slow_consumer_timeout", given, allowed)
            })?;
        let allowed = [limits::LINGER_MS_MIN, limits::LINGER_MS_MAX];
        let linger_ms = linger.map(|given| milliseconds("linger", given, allowed)).transpose()?;
        let allowed = [0, limits::SNAPSHOT_EVERY_MS_MAX];
        let snapshot_every_ms =
            snapshot_every.map(|given| milliseconds("snapshot_every", given, allowed)).transpose()?;
        // The engine knows what is allowed, and names it; what no number of its holds it is told by the nearest.
        let mut beyond: Vec<(&str, String)> = Vec::new();
        let mut number = |option: &'static str, given: Option<&Bound<'_, PyAny>>, default: u64| {
            let name = errors::as_arguments(option);
            let Some(given) = arguments::optional_whole(&name, given)? else { return Ok(default) };
            let (nearest, meant) = Whole::nearest(&given);
            beyond.extend(meant.map(|meant| (option, meant)));
            PyResult::Ok(nearest)
        };
        let options = server::Options {
            buckets: number("--buckets", buckets, defaults.buckets)?,
            workers: number("--workers", workers, defaults.workers as u64)? as usize,
            max_memory: number("--max-memory", max_memory, defaults.max_memory)?,
            clients_max: number("--max-clients", max_clients, defaults.clients_max as u64)? as usize,
            ring_slots: number("--ring-slots", ring_slots, defaults.ring_slots as u64)? as usize,
            slot_size: number("--slot-size", slot_size, defaults.slot_size as u64)? as usize,
            unevictable_max: max_unevictable.map(|given| number("--max-unevictable", Some(given), 0)).transpose()?,
            address: convert::address(name)?,
            tcp,
            udp,
            mode,
            group,
            eviction,
            topology,
            slow_consumer_timeout_ms,
            linger_ms,
            spin_ns,
            strict_seal: flag("strict_seal", strict_seal)?.unwrap_or(false),
            data,
            log: flag("log", log)?.unwrap_or(false),
            fsync,
            keeps_serving,
            snapshot_every_ms: snapshot_every_ms.or(defaults.snapshot_every_ms),
            snapshots_kept: number("--snapshots-kept", snapshots_kept, defaults.snapshots_kept as u64)? as usize,
        };
        let failed = |error: server::Error| match &error {
            server::Error::Option { option, least, most, unit, .. } => {
                let Some((_, meant)) = beyond.iter().find(|(name, _)| name == option) else {
                    return errors::server(py, &error);
                };
                let message = format!("{option} is {meant}; allowed are {least} to {most} {unit}");
                errors::family(py, "InvalidOption", errors::as_arguments(&message))
            }
            _ => errors::server(py, &error),
        };
        let inheritance = kept.map(inheritance).transpose()?;
        // What there is on the disk may take its time.
        let started = convert::interruptible(py, None, |is_interrupted| {
            Ok(py.detach(|| match inheritance {
                None => server::Server::start_unless(&options, is_interrupted),
                Some(inheritance) => server::Server::start_kept(&options, inheritance, is_interrupted),
            }))
        });
        let server = started?.map_err(failed)?;
        Ok(Self { server })
    }

    /// The path of its socket.
    #[getter]
    fn path(&self) -> OsString {
        self.server.path().into()
    }

    /// The `tcp://` URL of the port that it listens at besides, or `None`.
    #[getter]
    fn tcp(&self) -> Option<String> {
        self.server.tcp().map(|address| ringtable::address::Location::Tcp(address).to_string())
    }

    /// The `udp://` URL of the port that it listens at besides, or `None`.
    #[getter]
    fn udp(&self) -> Option<String> {
        self.server.udp().map(|address| ringtable::address::Location::Udp(address).to_string())
    }

    /// How many worker threads it has.
    #[getter]
    fn workers(&self) -> usize {
        self.server.workers()
    }

    /// How many entries it has begun with, if its table is kept in a folder, and it has not ended.
    #[getter]
    fn loaded(&self) -> Option<u64> {
        self.server.loaded()
    }

    /// Whether it runs.
    #[getter]
    fn running(&self) -> bool {
        self.server.is_running()
    }

    /// Why it has ended though nobody stopped it, or `None`.
    #[getter]
    fn failure(&self) -> Option<String> {
        self.server.failure()
    }

    /// What it leaves to this process, if that is the keeper of the next one from now on; else `None`.
    fn estate(&self, py: Python<'_>) -> Option<Left> {
        py.detach(|| self.server.estate()).map(left)
    }

    /// Wait until it has ended, for at most `timeout` seconds; return whether it has.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let deadline = arguments::timeout("timeout", timeout)?.and_then(|timeout| Instant::now().checked_add(timeout));
        let slice = Duration::from_millis(limits::SIGNAL_CHECK_MS);
        loop {
            py.check_signals()?;
            let left = deadline.map_or(slice, |deadline| deadline.saturating_duration_since(Instant::now()).min(slice));
            if py.detach(|| self.server.wait(left)) {
                return self.tell_failure(py).map(|()| true);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(false);
            }
        }
    }

    /// Stop it: clients are told, threads ended, the socket removed. May be called again.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.server.stop());
        self.tell_failure(py)
    }
}

impl ServerCore {
    /// Raises if it has ended though nobody stopped it.
    fn tell_failure(&self, py: Python<'_>) -> PyResult<()> {
        let message = self.server.failure().map(|words| format!("the server has ended: {words}"));
        message.map_or(Ok(()), |message| Err(errors::family(py, "ServerFailed", message)))
    }
}

/// The folder of names, or `None` where there is none; raises what connecting to a name would.
#[pyfunction]
#[pyo3(signature = (trust_user=None))]
pub fn folder_of_names(py: Python<'_>, trust_user: Option<&Bound<'_, PyAny>>) -> PyResult<Option<OsString>> {
    let trust = convert::trust(py, trust_user)?;
    let folder = ringtable::client::folder_of_names(&trust).map_err(|error| errors::client(py, error))?;
    Ok(folder.map(Into::into))
}

/// The address that is meant where none is given: `$RINGTABLE_URL`, else the name "default".
#[pyfunction]
pub fn default_address() -> OsString {
    ringtable::address::default_address()
}

/// The path of the socket that a server of this name has, also where there is none; a path stays as it is.
#[pyfunction]
pub fn socket_path(name: &Bound<'_, PyAny>) -> PyResult<OsString> {
    match ringtable::address::socket_path(convert::address(name)?) {
        Ok(path) => Ok(path.as_path().into()),
        Err(error) => Err(errors::family(name.py(), "InvalidOption", error.to_string())),
    }
}
