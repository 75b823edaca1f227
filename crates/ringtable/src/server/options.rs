//! The options of a server, their defaults, and the check against their limits.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::error::Error;
use super::fsync::Fsync;
use super::topology::Topology;
use crate::command::Setting;
use crate::limits;
use crate::shm::clock::usable_cpus;
use crate::table::Eviction;

/// How to run a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the table, path of its socket, or `unix://` URL.
    pub address: OsString,
    /// A loopback address to listen at besides; port 0 lets the kernel choose.
    pub tcp: Option<SocketAddr>,
    /// The same for UDP.
    pub udp: Option<SocketAddr>,
    /// The mode of its socket: 0600, 0660 or 0666.
    pub mode: u32,
    /// The group that the socket is given to; `None` leaves it the group that files of this process have.
    pub group: Option<u32>,
    /// Buckets to begin with.
    pub buckets: u64,
    /// Worker threads.
    pub workers: usize,
    /// Size of the table segment in bytes.
    pub max_memory: u64,
    /// What happens when it is full.
    pub eviction: Eviction,
    /// Bytes of entries that are never evicted, at most; `None` for a part of the table.
    pub unevictable_max: Option<u64>,
    /// Most clients at a time.
    pub clients_max: usize,
    /// Which queues lie between clients and workers.
    pub topology: Topology,
    /// Slots of either ring of a classic topology; a power of two.
    pub ring_slots: usize,
    /// Bytes of such a slot; a power of two.
    pub slot_size: usize,
    /// Milliseconds for which a client may keep the others from getting replies, in a classic topology.
    pub slow_consumer_timeout_ms: u64,
    /// Nanoseconds for which either side may spin; `None` measures what a wake-up costs.
    pub spin_ns: Option<u64>,
    /// Milliseconds after which the server ends by itself once it has no client any more, or has had none since its
    /// start; `None` for never.
    pub linger_ms: Option<u64>,
    /// Seal the table against any further write or writable mapping, at the price of not giving memory back.
    pub strict_seal: bool,
    /// The folder in which the table is kept on the disk; `None` for nowhere.
    pub data: Option<PathBuf>,
    /// Milliseconds from one snapshot to the next one, if something was written; `None` or 0 for none but at the end,
    /// and when it is asked for.
    pub snapshot_every_ms: Option<u64>,
    /// How many snapshots are kept.
    pub snapshots_kept: usize,
    /// Whether changes are logged there, too.
    pub log: bool,
    /// When that is synced.
    pub fsync: Fsync,
    /// Whether writes go on if it cannot be written.
    pub keeps_serving: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: "default".into(),
            tcp: None,
            udp: None,
            mode: 0o600,
            group: None,
            buckets: limits::BUCKETS_DEFAULT,
            workers: usable_cpus().min(limits::WORKERS_MAX),
            max_memory: limits::MAX_MEMORY_DEFAULT,
            eviction: Eviction::default(),
            unevictable_max: None,
            clients_max: limits::CLIENTS_MAX_DEFAULT,
            topology: Topology::default(),
            ring_slots: limits::RING_SLOTS_DEFAULT,
            slot_size: limits::RING_SLOT_SIZE_DEFAULT,
            slow_consumer_timeout_ms: limits::SLOW_CONSUMER_TIMEOUT_MS_DEFAULT,
            spin_ns: None,
            linger_ms: None,
            strict_seal: false,
            data: None,
            snapshot_every_ms: Some(limits::SNAPSHOT_EVERY_MS_DEFAULT),
            snapshots_kept: limits::SNAPSHOTS_KEPT_DEFAULT,
            log: false,
            fsync: Fsync::default(),
            keeps_serving: false,
        }
    }
}

impl Options {
    /// All of them by name, for who asks how a server was started.
    pub(super) fn settings(&self) -> Vec<(&'static str, Setting)> {
        let number = |number: Option<u64>| number.map_or(Setting::Open, Setting::Number);
        let text = |text: Option<String>| text.map_or(Setting::Open, Setting::Text);
        vec![
            ("buckets", number(Some(self.buckets))),
            ("workers", number(Some(self.workers as u64))),
            ("max_memory", number(Some(self.max_memory))),
            ("eviction", text(Some(self.eviction.name().to_owned()))),
            ("max_unevictable", number(self.unevictable_max)),
            ("max_clients", number(Some(self.clients_max as u64))),
            ("spin_ns", number(self.spin_ns)),
            ("strict_seal", number(Some(self.strict_seal.into()))),
            ("tcp", text(self.tcp.map(|address| address.to_string()))),
            ("udp", text(self.udp.map(|address| address.to_string()))),
            ("mode", number(Some(self.mode.into()))),
            ("group", number(self.group.map(u64::from))),
            ("topology", text(Some(self.topology.name().to_owned()))),
            ("ring_slots", number(Some(self.ring_slots as u64))),
            ("slot_size", number(Some(self.slot_size as u64))),
            ("slow_consumer_timeout_ms", number(Some(self.slow_consumer_timeout_ms))),
            ("linger_ms", number(self.linger_ms)),
            ("data", text(self.data.as_ref().map(|path| path.display().to_string()))),
            ("snapshot_every_ms", number(self.snapshot_every_ms)),
            ("snapshots_kept", number(Some(self.snapshots_kept as u64))),
            ("log", number(Some(self.log.into()))),
            ("fsync", text(Some(self.fsync.name().to_owned()))),
            ("on_disk_error", text(Some(if self.keeps_serving { "keep-serving" } else { "refuse" }.to_owned()))),
        ]
    }

    /// Checks what a server under a keeper cannot be.
    ///
    /// # Errors
    /// The option that is not possible then, and why.
    pub(super) fn check_kept(&self) -> Result<(), Error> {
        if self.strict_seal {
            let why = "with it nobody, not even the next server, gets a writable view of the table";
            return Err(Error::Kept { option: "--strict-seal", why });
        }
        if self.topology != Topology::Lanes {
            return Err(Error::Kept { option: "--topology", why: "only lanes outlive their server" });
        }
        Ok(())
    }

    /// Checks each option against its limits.
    ///
    /// # Errors
    /// The first one that is out of range, with what is allowed.
    pub(super) fn check(&self) -> Result<(), Error> {
        let options = self;
        let within = |option, value: u64, least, most, unit| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(Error::Option { option, value, least, most, unit })
            }
        };
        for (option, address) in [("--tcp", options.tcp), ("--udp", options.udp)] {
            if let Some(address) = address.filter(|address| !address.ip().is_loopback()) {
                return Err(Error::NotLoopback { option, address });
            }
        }
        if ![0o600, 0o660, 0o666].contains(&options.mode) {
            return Err(Error::Mode(options.mode));
        }
        within("--buckets", options.buckets, 1, limits::BUCKETS_MAX, "buckets")?;
        within("--workers", options.workers as u64, 1, limits::WORKERS_MAX as u64, "threads")?;
        within("--max-memory", options.max_memory, limits::MAX_MEMORY_MIN, limits::MAX_MEMORY_MAX, "bytes")?;
        within("--max-unevictable", options.unevictable_max.unwrap_or(1), 1, options.max_memory, "bytes")?;
        within("--max-clients", options.clients_max as u64, 1, 1 << 20, "clients")?;
        let power_of_two = |option, value: u64, unit| {
            if value.is_power_of_two() { Ok(()) } else { Err(Error::NoPowerOfTwo { option, value, unit }) }
        };
        let (slots, slot_size) = (options.ring_slots as u64, options.slot_size as u64);
        within("--ring-slots", slots, limits::RING_SLOTS_MIN as u64, limits::RING_SLOTS_MAX as u64, "slots")?;
        power_of_two("--ring-slots", slots, "slots")?;
        within(
            "--slot-size",
            slot_size,
            limits::RING_SLOT_SIZE_MIN as u64,
            limits::RING_SLOT_SIZE_MAX as u64,
            "bytes",
        )?;
        power_of_two("--slot-size", slot_size, "bytes")?;
        let ring_size = limits::RING_SIZE_MAX as u64;
        within("--ring-slots times --slot-size", slots * slot_size, 1, ring_size, "bytes")?;
        let (least, most) = (limits::SLOW_CONSUMER_TIMEOUT_MS_MIN, limits::SLOW_CONSUMER_TIMEOUT_MS_MAX);
        within("--slow-consumer-timeout", options.slow_consumer_timeout_ms, least, most, "milliseconds")?;
        let linger_ms = options.linger_ms.unwrap_or(limits::LINGER_MS_MIN);
        within("--linger", linger_ms, limits::LINGER_MS_MIN, limits::LINGER_MS_MAX, "milliseconds")?;
        let defaults = Self::default();
        let needs = |option, is_given: bool, has: bool, needed| {
            if is_given && !has { Err(Error::Needs { option, needed }) } else { Ok(()) }
        };
        let has_folder = options.data.is_some();
        needs("--log", options.log, has_folder, "a folder: --data FOLDER")?;
        let is_every_given = options.snapshot_every_ms != defaults.snapshot_every_ms;
        needs("--snapshot-every", is_every_given, has_folder, "a folder: --data FOLDER")?;
        let is_kept_given = options.snapshots_kept != defaults.snapshots_kept;
        needs("--snapshots-kept", is_kept_given, has_folder, "a folder: --data FOLDER")?;
        needs("--fsync", options.fsync != defaults.fsync, options.log, "a log: --log")?;
        needs("--on-disk-error", options.keeps_serving, options.log, "a log: --log")?;
        if options.log
            && options.fsync == Fsync::Always
            && (options.udp.is_some() || options.topology != Topology::Lanes)
        {
            return Err(Error::NotAlways);
        }
        let every_ms = options.snapshot_every_ms.unwrap_or(0);
        within("--snapshot-every", every_ms, 0, limits::SNAPSHOT_EVERY_MS_MAX, "milliseconds")?;
        let kept = options.snapshots_kept as u64;
        within("--snapshots-kept", kept, 1, limits::SNAPSHOTS_KEPT_MAX, "snapshots")?;
        if options.topology != Topology::Lanes {
            let option = "--max-clients, with rings that clients share,";
            within(option, options.clients_max as u64, 1, limits::RING_MEMBERS_MAX as u64, "clients")?;
        }
        within("--spin-us", options.spin_ns.unwrap_or(0) / 1_000, 0, limits::SPIN_NS_MAX / 1_000, "microseconds")
    }
}
