//! Descriptors that a forked child must not keep, and that no program may take for its own.
//!
//! A client is alive exactly as long as its socket (I1), so a child that inherits the socket would keep its parent's
//! place after the parent's death; and a child of a process that runs a server would keep the server's sockets open,
//! and the lanes of other clients. `O_CLOEXEC` covers `exec`; this module covers `fork` alone.
//!
//! # Design
//!
//! Every descriptor of ours is a [`Descriptor`], **born known**: it is made and listed in one step, and closed and
//! forgotten in one step. A step is what is done [`undisturbed`]: no fork of this process falls in between, since a
//! `pthread_atfork` handler waits until no thread is inside of one. The child's handler closes all that is listed and
//! counts up [`generation`]. Handles remember the generation they were made in; a handle that finds another one is a
//! leftover of the parent, must not be used, and lets go of nothing when dropped. Mappings are made undisturbed, too,
//! and are told in the same step not to be inherited (`segment`).
//!
//! Threads that make and close descriptors do not wait for each other, only for a fork; and a fork waits for them, but
//! not for ever ([`FORK_WAIT`]): the kernel may take its time to close a file that a client has passed. It has given
//! the descriptor's number back before that, so that a child has nothing of it.
//!
//! # Numbers below 3
//!
//! A program may be started without standard input, output or error. What is opened next gets such a number, and what
//! is written there by anybody who takes it for standard error would land in a lane, or in the table. So a descriptor
//! below 3 is moved up when it is made; the number is free again then, as it was.
//!
//! # Not covered
//!
//! Children made by a raw `clone` system call that bypasses the C library.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// For how long a fork waits for those who make or close descriptors: far longer than that takes.
const FORK_WAIT: Duration = Duration::from_secs(1);

/// The lowest number of a descriptor of ours: those below belong to standard input, output and error.
const NUMBER_MIN: RawFd = 3;

static GENERATION: AtomicU64 = AtomicU64::new(0);

/// A number that differs between a process and its forked children: a relaxed load, cheap enough for every call.
///
/// Relaxed: only the fork itself changes it, and in the child there is just the forking thread at that moment.
#[inline]
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

static FORKS: AtomicU64 = AtomicU64::new(0);

/// How often this process has forked, as far as its own handles go: since the first of them was made.
///
/// Relaxed: whoever asks about a handle has it from a thread that had it before or after the fork, and not meanwhile.
pub fn forks() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

/// Who forks, in the highest bit, and how many threads are inside of a step that no fork may cut in two.
static STEPS: AtomicU32 = AtomicU32::new(0);

const FORKING: u32 = 1 << 31;

/// The proof that no fork falls into what is being done.
pub struct Undisturbed(());

impl Drop for Undisturbed {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `before_fork`, so that a child has what was done in this step.
        STEPS.fetch_sub(1, Ordering::Release);
    }
}

/// Does something into which no fork of this process falls. It must not wait for anything, nor call this again.
pub fn undisturbed<R>(step: impl FnOnce(&Undisturbed) -> R) -> R {
    install();
    // Acquire: pairs with the Release in `after_fork_in_parent`.
    while STEPS.fetch_update(Ordering::Acquire, Ordering::Relaxed, |all| (all < FORKING).then_some(all + 1)).is_err() {
        std::thread::yield_now();
    }
    step(&Undisturbed(()))
}

/// The descriptors to close in a child, a bit a number, under a lock that a fork handler may hold across the fork
/// (`std`'s mutex has no way to unlock from another function than the one that holds the guard).
struct Registry {
    locked: AtomicBool,
    numbers: std::cell::UnsafeCell<Vec<u64>>,
}

#[allow(unsafe_code)]
// SAFETY: `numbers` is touched only between `acquire` and `release`.
unsafe impl Sync for Registry {}

static REGISTRY: Registry =
    Registry { locked: AtomicBool::new(false), numbers: std::cell::UnsafeCell::new(Vec::new()) };

impl Registry {
    fn acquire(&self) {
        // Acquire: pairs with the Release in `release`, so that we see the list as the last holder left it.
        while self.locked.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
    }

    fn release(&self) {
        // Release: pairs with the Acquire in `acquire`.
        self.locked.store(false, Ordering::Release);
    }

    fn with<R>(&self, use_: impl FnOnce(&mut Vec<u64>) -> R) -> R {
        self.acquire();
        #[allow(unsafe_code)]
        // SAFETY: we hold the lock, and `use_` cannot get at the registry again.
        let result = use_(unsafe { &mut *self.numbers.get() });
        self.release();
        result
    }

    /// Lists a descriptor; `false` if there is no memory for that.
    fn add(&self, fd: RawFd) -> bool {
        let (word, bit) = place(fd);
        self.with(|numbers| {
            let missing = (word + 1).saturating_sub(numbers.len());
            if numbers.try_reserve(missing).is_err() {
                return false;
            }
            numbers.resize(numbers.len() + missing, 0);
            numbers[word] |= bit;
            true
        })
    }

    fn remove(&self, fd: RawFd) {
        let (word, bit) = place(fd);
        self.with(|numbers| numbers[word] &= !bit);
    }
}

/// Where the bit of a descriptor is.
fn place(fd: RawFd) -> (usize, u64) {
    (fd as usize / 64, 1 << (fd % 64))
}

extern "C" fn before_fork() {
    // Acquire: pairs with the Release in `after_fork_in_parent` of another thread's fork.
    while STEPS.fetch_or(FORKING, Ordering::Acquire) & FORKING != 0 {
        std::thread::yield_now();
    }
    let begun = Instant::now();
    // Acquire: pairs with the Release at the end of each step.
    while STEPS.load(Ordering::Acquire) != FORKING && begun.elapsed() < FORK_WAIT {
        std::thread::yield_now();
    }
    REGISTRY.acquire();
}

extern "C" fn after_fork_in_parent() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    REGISTRY.release();
    // Release: pairs with the Acquire in `undisturbed` and `before_fork`.
    STEPS.fetch_and(!FORKING, Ordering::Release);
}

extern "C" fn after_fork_in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    #[allow(unsafe_code)]
    // SAFETY: the forking thread took the lock in `before_fork` and is the only thread of the child. Closing and
    // clearing neither allocate nor free, so this is sound even if another thread held the allocator's lock.
    unsafe {
        let numbers = &mut *REGISTRY.numbers.get();
        for (index, word) in numbers.iter_mut().enumerate() {
            while *word != 0 {
                rustix::io::close((index * 64) as RawFd + word.trailing_zeros() as RawFd);
                *word &= *word - 1;
            }
        }
    }
    REGISTRY.release();
    // Relaxed: there is no other thread, nor any that is inside of a step.
    STEPS.store(0, Ordering::Relaxed);
}

/// Makes this process, as far as handles of ours go, one that was just forked: all descriptors are closed, and what is
/// there counts as a parent's leftovers. No other thread may use any of them.
pub fn begin_anew() {
    before_fork();
    after_fork_in_child();
}

/// Sets up what happens at a fork, if nobody has.
pub fn install() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        #[allow(unsafe_code)]
        // SAFETY: the three handlers are functions that live as long as the program. Failure (out of memory) leaves
        // forks unprotected, which only delays the server's notice of a dead parent.
        unsafe {
            libc::pthread_atfork(Some(before_fork), Some(after_fork_in_parent), Some(after_fork_in_child));
        }
    });
}

/// A descriptor that forked children do not keep, and whose number nobody takes for that of standard error.
#[derive(Debug)]
pub struct Descriptor {
    fd: RawFd,
    generation: u64,
}

impl Descriptor {
    /// Makes a descriptor that no child ever gets, not even one that is forked in the middle of this. `make` must not
    /// wait for anything.
    ///
    /// # Errors
    /// Those of `make`; `MFILE` if its number has to be another one, and there is none; `NOMEM`.
    pub fn make(make: impl FnOnce() -> rustix::io::Result<OwnedFd>) -> rustix::io::Result<Self> {
        undisturbed(|step| Self::adopt(make()?, step))
    }

    /// Takes over a descriptor that was made in the same step.
    ///
    /// # Errors
    /// `MFILE` if its number has to be another one, and there is none; `NOMEM`.
    pub fn adopt(mut fd: OwnedFd, _: &Undisturbed) -> rustix::io::Result<Self> {
        if fd.as_raw_fd() < NUMBER_MIN {
            fd = rustix::io::fcntl_dupfd_cloexec(&fd, NUMBER_MIN)?;
        }
        if !REGISTRY.add(fd.as_raw_fd()) {
            return Err(Errno::NOMEM);
        }
        Ok(Self { fd: fd.into_raw_fd(), generation: generation() })
    }

    /// Another descriptor of the same file.
    ///
    /// # Errors
    /// `MFILE` if there is none to be had.
    pub fn duplicate(&self) -> rustix::io::Result<Self> {
        Self::copy(self)
    }

    /// A descriptor of the same file as one that is somebody else's.
    ///
    /// # Errors
    /// `MFILE` if there is none to be had.
    pub fn copy(of: impl AsFd) -> rustix::io::Result<Self> {
        Self::make(|| rustix::io::fcntl_dupfd_cloexec(of, NUMBER_MIN))
    }

    /// Lets it out of this module's hands: children keep it from now on, unless somebody closes it.
    pub fn release(self) -> OwnedFd {
        undisturbed(|_| {
            let descriptor = std::mem::ManuallyDrop::new(self);
            if descriptor.generation == generation() {
                REGISTRY.remove(descriptor.fd);
            }
            #[allow(unsafe_code)]
            // SAFETY: the descriptor is ours, is listed no more, and nobody closes it here. In a forked child it is
            // closed already, as for every other use of it.
            unsafe {
                OwnedFd::from_raw_fd(descriptor.fd)
            }
        })
    }

    /// The number of the descriptor, for messages and for other processes' `/proc`.
    pub fn number(&self) -> RawFd {
        self.fd
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        #[allow(unsafe_code)]
        // SAFETY: we own the descriptor and close it only in `drop`; in a forked child it is closed, and then calls
        // on it fail (or, at worst, act on another descriptor of the same number, as our callers check first).
        unsafe {
            BorrowedFd::borrow_raw(self.fd)
        }
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        undisturbed(|_| {
            if self.generation != generation() {
                return; // the fork handler has closed it; the number may be somebody else's by now
            }
            REGISTRY.remove(self.fd);
            #[allow(unsafe_code)]
            // SAFETY: the descriptor is ours, was not closed, and is not used after this.
            unsafe {
                rustix::io::close(self.fd);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_descriptor_is_closed_and_forgotten() {
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let near = Descriptor::make(|| Ok(near.into())).unwrap();
        let (word, bit) = place(near.number());
        assert!(REGISTRY.with(|numbers| numbers[word] & bit != 0));
        drop(near);
        assert!(REGISTRY.with(|numbers| numbers[word] & bit == 0));
        let mut end = [0; 1];
        assert_eq!(std::io::Read::read(&mut &far, &mut end).unwrap(), 0, "the other end sees the close");
    }

    #[test]
    fn a_released_descriptor_outlives_its_handle() {
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let near = Descriptor::make(|| Ok(near.into())).unwrap();
        let (word, bit) = place(near.number());
        let released = near.release();
        assert!(REGISTRY.with(|numbers| numbers[word] & bit == 0));
        std::io::Write::write_all(&mut &std::os::unix::net::UnixStream::from(released), b"!").unwrap();
        let mut said = [0; 2];
        assert_eq!(std::io::Read::read(&mut &far, &mut said).unwrap(), 1, "it was open until now");
    }

    #[test]
    fn no_child_gets_a_descriptor_that_is_being_made() {
        let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
        let number = near.as_raw_fd();
        let (making, begun) = std::sync::mpsc::channel();
        let forking = std::thread::spawn(move || {
            begun.recv().unwrap();
            let mut status = -1;
            #[allow(unsafe_code)]
            // SAFETY: the child does nothing but to look whether it has the descriptor, and ends.
            unsafe {
                let pid = libc::fork();
                if pid == 0 {
                    libc::_exit(i32::from(libc::fcntl(number, libc::F_GETFD) != -1));
                }
                libc::waitpid(pid, &raw mut status, 0);
            }
            status
        });
        let made = Descriptor::make(|| {
            making.send(()).unwrap();
            // Time for the other thread to fork, if it could.
            std::thread::sleep(std::time::Duration::from_millis(50));
            Ok(near.into())
        });
        assert_eq!(forking.join().unwrap(), 0);
        assert_eq!(made.unwrap().number(), number);
    }
}
