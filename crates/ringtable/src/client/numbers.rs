//! The numbers of the commands that calls send, and other things that a process makes once.

use crate::command;
use crate::shm::fork;

/// The number of each command that a method of the client sends.
pub(super) struct Numbers {
    pub get: u16,
    pub set: u16,
    pub del: u16,
    pub incrby: u16,
    pub pexpire: u16,
    pub pttl: u16,
    pub dbsize: u16,
    pub flushall: u16,
    pub scan: u16,
    pub ring_bucket: u16,
    pub ring_pins: u16,
    pub ring_durable: u16,
    pub ring_entry: u16,
    pub ring_getv: u16,
    pub ring_delv: u16,
    pub ring_incr: u16,
    pub ring_lease: u16,
    pub ring_unlease: u16,
    pub ring_handover: u16,
    pub ring_wait: u16,
    pub ring_unwait: u16,
    pub getdel: u16,
    pub getex: u16,
    pub persist: u16,
    pub touch: u16,
    pub incrbyfloat: u16,
    pub ring_delprefix: u16,
    pub ring_lock: u16,
    pub ring_unlock: u16,
    pub ring_extend: u16,
    pub ring_locked: u16,
    pub ring_await: u16,
    pub ring_barrier: u16,
    pub ring_limit: u16,
}

pub(super) const NUMBERS: Numbers = Numbers {
    get: command::number("GET"),
    set: command::number("SET"),
    del: command::number("DEL"),
    incrby: command::number("INCRBY"),
    pexpire: command::number("PEXPIRE"),
    pttl: command::number("PTTL"),
    dbsize: command::number("DBSIZE"),
    flushall: command::number("FLUSHALL"),
    scan: command::number("SCAN"),
    ring_bucket: command::number("RING.BUCKET"),
    ring_pins: command::number("RING.PINS"),
    ring_durable: command::number("RING.DURABLE"),
    ring_entry: command::number("RING.ENTRY"),
    ring_getv: command::number("RING.GETV"),
    ring_delv: command::number("RING.DELV"),
    ring_incr: command::number("RING.INCR"),
    ring_lease: command::number("RING.LEASE"),
    ring_unlease: command::number("RING.UNLEASE"),
    ring_handover: command::number("RING.HANDOVER"),
    ring_wait: command::number("RING.WAIT"),
    ring_unwait: command::number("RING.UNWAIT"),
    getdel: command::number("GETDEL"),
    getex: command::number("GETEX"),
    persist: command::number("PERSIST"),
    touch: command::number("TOUCH"),
    incrbyfloat: command::number("INCRBYFLOAT"),
    ring_delprefix: command::number("RING.DELPREFIX"),
    ring_lock: command::number("RING.LOCK"),
    ring_unlock: command::number("RING.UNLOCK"),
    ring_extend: command::number("RING.EXTEND"),
    ring_locked: command::number("RING.LOCKED"),
    ring_await: command::number("RING.AWAIT"),
    ring_barrier: command::number("RING.BARRIER"),
    ring_limit: command::number("RING.LIMIT"),
};

/// Does now what the first call would do otherwise. A child that is forked while another thread is at it would wait for
/// that thread, which it does not have.
pub fn prepare() {
    fork::install();
}
