//! Time, and the processor we run on: calls that the kernel answers without being entered (vDSO).

use rustix::time::{ClockId, clock_gettime};

fn read(id: ClockId) -> u64 {
    let time = clock_gettime(id);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Monotonic time in nanoseconds, about 20 ns to read.
#[inline]
pub fn monotonic_ns() -> u64 {
    read(ClockId::Monotonic)
}

/// Processor time of this thread in nanoseconds, a system call.
pub fn thread_cpu_ns() -> u64 {
    read(ClockId::ThreadCPUTime)
}

/// Monotonic time in milliseconds as of the last timer tick (up to 10 ms ago), about 5 ns to read.
#[inline]
pub fn coarse_ms() -> u64 {
    read(ClockId::MonotonicCoarse) / 1_000_000
}

/// Wall-clock time in milliseconds since 1970, as in the expiry of an entry.
#[inline]
pub fn wall_ms() -> u64 {
    read(ClockId::Realtime) / 1_000_000
}

/// The processor this thread runs on; it may have moved by the time the caller looks.
#[inline]
pub fn current_cpu() -> u64 {
    rustix::thread::sched_getcpu() as u64
}

/// How many processors this process may use: its affinity and its control group's quota, at least 1.
pub fn usable_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
