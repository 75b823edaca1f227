//! `Profiler`: where this process spends its CPU time, as stacks with counts.
//!
//! # Design
//!
//! The kernel's profiling timer (`ITIMER_PROF`) sends SIGPROF to whichever thread uses the CPU, in proportion to what
//! it uses. The handler notes the addresses on that thread's stack; names are looked up when the profile is over. A
//! thread that sleeps is never noted, and what the kernel does for a thread counts for the function that called it.
//!
//! A signal may come at any instruction, so the handler takes no lock, allocates nothing and makes no system call: it
//! walks the stack and writes into memory that was made and touched before. Walking is the delicate part. We let the
//! compiler's own unwinder do it (libgcc's `_Unwind_Backtrace`), since it needs no frame pointers, which would cost
//! every function a register. It reads tables alone, and finds them without a lock since glibc 2.35. Before that it
//! took the loader's lock, which is recursive and held by nobody who waits for a handler: slower, but no deadlock
//! either. What it sets up on its first use, it sets up before the timer starts (`Profiler::new`).
//!
//! The usual crate for this (`pprof`) leaves out samples: those that find its lock taken, and, if one follows its
//! advice against deadlocks, those whose innermost frame lies in the C library or in the kernel's clock. That would
//! bend the very shares that we want to know. What we need of it is little more than the handler below.
//!
//! # Not promised
//!
//! More samples than the kernel's clock ticks: 100 to 1,000 times a second for each processor, whatever is asked for.

use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use pyo3::prelude::*;

use crate::errors;

/// Most samples a second that can be asked for.
const HZ_MAX: u32 = 10_000;
/// Most frames of a stack, from the innermost one.
const DEPTH_MAX: usize = 128;
/// Words for all samples: 32 MiB, some minutes of two processors.
const WORDS: usize = 1 << 22;

/// Samples one after another, each a depth and as many addresses, the innermost first. They are return addresses: of an
/// instruction that was interrupted, the address behind its first byte.
struct Samples {
    words: Vec<AtomicUsize>,
    used: AtomicUsize,
    /// Those that found no room.
    lost: AtomicUsize,
}

/// Where handlers write, or null.
static SAMPLES: AtomicPtr<Samples> = AtomicPtr::new(std::ptr::null_mut());
/// Handlers that may be using `SAMPLES`.
static HANDLERS: AtomicUsize = AtomicUsize::new(0);

/// A function and its source file; without a name, the file that is mapped there. Functions that are inlined come
/// without the path of their module, which their file tells.
type Frame = (String, String);
/// Stacks, the outermost frame first, with how often each was seen.
type Stacks = Vec<(Vec<Frame>, usize)>;

/// A running profile of this process, until it is stopped; there can be one at a time.
#[pyclass(frozen, module = "ringtable._ringtable")]
pub struct Profiler {
    samples: Mutex<Option<*mut Samples>>,
}

#[allow(unsafe_code)]
// SAFETY: the pointer owns what it points at, and what is shared with handlers are atomics.
unsafe impl Send for Profiler {}
#[allow(unsafe_code)]
// SAFETY: the same; the pointer itself is behind a mutex.
unsafe impl Sync for Profiler {}

#[pymethods]
impl Profiler {
    /// Start sampling, `hz` times a second of CPU time.
    #[new]
    fn new(py: Python<'_>, hz: u32) -> PyResult<Self> {
        if !(1..=HZ_MAX).contains(&hz) {
            let message = format!("hz is {hz}; allowed are 1 to {HZ_MAX} samples a second");
            return Err(errors::family(py, "InvalidOption", message));
        }
        // Zeroes are written, not only promised, so that no handler touches a page for the first time.
        let words = std::iter::repeat_with(AtomicUsize::default).take(WORDS).collect();
        let samples = Box::into_raw(Box::new(Samples { words, used: 0.into(), lost: 0.into() }));
        // SeqCst: pairs with the load in `handle`, see `finish`.
        if SAMPLES.compare_exchange(std::ptr::null_mut(), samples, Ordering::SeqCst, Ordering::Relaxed).is_err() {
            #[allow(unsafe_code)]
            // SAFETY: made above, and seen by nobody.
            drop(unsafe { Box::from_raw(samples) });
            return Err(errors::family(py, "Error", "a profiler runs in this process already"));
        }
        // Owned from here on: an error below stops what was begun.
        let profiler = Self { samples: Mutex::new(Some(samples)) };
        // The unwinder reads its tables, and the loader binds its names, now and not inside a handler.
        note(0, |_| {});
        install_handler().and_then(|()| set_timer(1_000_000 / i64::from(hz)))?;
        Ok(profiler)
    }

    /// Whether functions have names here: there are line tables, in the module or in a file beside it.
    #[staticmethod]
    fn can_name() -> bool {
        let inside = handle as *const () as usize + 1;
        // The names that a linker keeps come without a file.
        names_of(inside).iter().any(|(name, file)| !name.is_empty() && file.ends_with(".rs"))
    }

    /// Stop; return the stacks with how often each was seen, and how many samples found no room.
    ///
    /// A stack is a list of functions with their source files, the outermost first; an unknown function is "", with the
    /// file that is mapped there. A second call returns nothing.
    fn stop(&self, py: Python<'_>) -> (Stacks, usize) {
        py.detach(|| self.finish().map_or_else(Default::default, |samples| samples.named()))
    }
}

impl Profiler {
    fn finish(&self) -> Option<Box<Samples>> {
        let samples = self.samples.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()?;
        let _ = set_timer(0);
        // A signal may still be on its way, so the handler stays installed: the default action would end the process.
        // SeqCst, as all four accesses: a handler announces itself, then looks for the samples; we take them away, then
        // look for handlers. Either it finds nothing, or we find it. The loads also acquire what handlers have written.
        SAMPLES.store(std::ptr::null_mut(), Ordering::SeqCst);
        while HANDLERS.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
        #[allow(unsafe_code)]
        // SAFETY: made by `Box::into_raw` in `new`, taken once, and no handler has it any more.
        Some(unsafe { Box::from_raw(samples) })
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Samples {
    /// Notes one stack. Called in a signal handler.
    fn add(&self, stack: &[usize]) {
        // Relaxed: a handler's words are its own from here on, and `finish` waits for the handler.
        let start = self.used.fetch_add(1 + stack.len(), Ordering::Relaxed);
        let Some(words) = self.words.get(start..start.saturating_add(1 + stack.len())) else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        for (word, value) in words.iter().zip(std::iter::once(&stack.len()).chain(stack)) {
            word.store(*value, Ordering::Relaxed);
        }
    }

    /// The stacks with names, and the number of samples lost.
    fn named(self) -> (Stacks, usize) {
        let words: Vec<usize> = self.words.into_iter().map(AtomicUsize::into_inner).collect();
        let mut counts: HashMap<&[usize], usize> = HashMap::new();
        let mut rest = &words[..];
        // A sample without frames there is none: a zero is where the samples end.
        while let Some((&depth @ 1.., behind)) = rest.split_first() {
            let (stack, behind) = behind.split_at(depth.min(behind.len()));
            *counts.entry(stack).or_default() += 1;
            rest = behind;
        }
        let mut names: HashMap<usize, Vec<Frame>> = HashMap::new();
        let mut stacks: HashMap<Vec<Frame>, usize> = HashMap::new();
        for (addresses, count) in counts {
            let mut stack = Vec::new();
            for &address in addresses {
                stack.extend_from_slice(names.entry(address).or_insert_with(|| names_of(address)));
            }
            stack.reverse();
            *stacks.entry(stack).or_default() += count;
        }
        (stacks.into_iter().collect(), self.lost.into_inner())
    }
}

/// The functions at a return address, the innermost first: several where some are inlined.
fn names_of(address: usize) -> Vec<Frame> {
    let mut names = Vec::new();
    backtrace::resolve(address as *mut c_void, |symbol| {
        if let Some(name) = symbol.name() {
            let file = symbol.filename().map(|path| path.display().to_string());
            // The alternate form leaves out the hash.
            names.push((format!("{name:#}"), file.unwrap_or_default()));
        }
    });
    if names.is_empty() {
        names.push((String::new(), mapped_file(address).unwrap_or_default()));
    }
    names
}

/// The path of the file that is mapped at an address.
fn mapped_file(address: usize) -> Option<String> {
    #[allow(unsafe_code)]
    // SAFETY: `dladdr` gets any address and a structure to fill, in which null is allowed; the name that it fills in
    // belongs to the loader and lives as long as the file is mapped, as it is while its code is on stacks.
    let path = unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(address as *const c_void, &mut info) == 0 || info.dli_fname.is_null() {
            return None;
        }
        CStr::from_ptr(info.dli_fname)
    };
    Some(path.to_string_lossy().into_owned())
}

/// The signal handler.
extern "C" fn handle(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SeqCst, both: see `finish`.
    HANDLERS.fetch_add(1, Ordering::SeqCst);
    let samples = SAMPLES.load(Ordering::SeqCst);
    #[allow(unsafe_code)]
    // SAFETY: not null, and not freed before this handler has left `HANDLERS`.
    if let Some(samples) = unsafe { samples.as_ref() } {
        note(interrupted_at(context), |stack| samples.add(stack));
    }
    // Release: pairs with the load in `finish`, which then owns what we wrote.
    HANDLERS.fetch_sub(1, Ordering::Release);
}

/// Hands over the addresses on the stack from the frame that was interrupted at `interrupted` on.
#[inline(never)]
fn note(interrupted: usize, add: impl FnOnce(&[usize])) {
    let mut stack = [0; DEPTH_MAX];
    let mut depth = 0;
    #[allow(unsafe_code)]
    // SAFETY: what has to be synchronised are lookups of names, which the unwinder alone does not do.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            let address = frame.ip().addr();
            // The handler's own frames come first; behind the outermost function there is a frame without address.
            if address != 0 && (depth > 0 || address == interrupted) {
                stack[depth] = address;
                depth += 1;
            }
            depth < DEPTH_MAX
        });
    }
    // The innermost frame, also where the unwinder could not get there.
    stack[0] = interrupted + 1;
    add(&stack[..depth.max(1)]);
}

/// The address of the instruction that the signal interrupted.
fn interrupted_at(context: *mut c_void) -> usize {
    let context: *const libc::ucontext_t = context.cast();
    #[allow(unsafe_code)]
    // SAFETY: the kernel passes a valid context to handlers with SA_SIGINFO.
    let machine = unsafe { &(*context).uc_mcontext };
    #[cfg(target_arch = "x86_64")]
    let address = machine.gregs[libc::REG_RIP as usize];
    #[cfg(target_arch = "aarch64")]
    let address = machine.pc;
    #[cfg(target_arch = "riscv64")]
    let address = machine.__gregs[libc::REG_PC];
    address as usize
}

fn install_handler() -> std::io::Result<()> {
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = handle;
    #[allow(unsafe_code)]
    // SAFETY: the structure is valid when zeroed and then filled, and the handler does only what a handler may.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(libc::SIGPROF, &action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Lets SIGPROF come each time this process has used so many microseconds of CPU time; with 0, never.
fn set_timer(interval_us: i64) -> std::io::Result<()> {
    let interval = libc::timeval { tv_sec: interval_us / 1_000_000, tv_usec: interval_us % 1_000_000 };
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    #[allow(unsafe_code)]
    // SAFETY: it reads one structure, and may be told not to write one.
    let result = unsafe { libc::setitimer(libc::ITIMER_PROF, &timer, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
