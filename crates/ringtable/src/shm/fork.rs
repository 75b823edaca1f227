//! What a forked child must not keep.
//!
//! A client is alive exactly as long as its socket (I1), so a child that inherits the socket would keep its parent's
//! place after the parent's death; and a child of a process that runs a server would keep the server's sockets open.
//! `O_CLOEXEC` covers `exec`; this module covers `fork` alone.
//!
//! Design: every such descriptor is a [`Descriptor`], listed in one registry. A `pthread_atfork` handler takes the
//! registry's lock before the fork (so no other thread is halfway through a change), and in the child closes all that
//! is listed and counts up [`generation`]. Handles remember the generation they were made in; a handle that finds
//! another one is a leftover of the parent, must not be used, and lets go of nothing when dropped.
//!
//! Not covered: children made by a raw `clone` system call that bypasses the C library.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static GENERATION: AtomicU64 = AtomicU64::new(0);

/// A number that differs between a process and its forked children: a relaxed load, cheap enough for every call.
///
/// Relaxed: only the fork itself changes it, and in the child there is just the forking thread at that moment.
#[inline]
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// The descriptors to close in a child, under a lock that a fork handler may hold across the fork
/// (`std`'s mutex has no way to unlock from another function than the one that holds the guard).
struct Registry {
    locked: AtomicBool,
    descriptors: std::cell::UnsafeCell<Vec<RawFd>>,
}

#[allow(unsafe_code)]
// SAFETY: `descriptors` is touched only between `acquire` and `release`.
unsafe impl Sync for Registry {}

static REGISTRY: Registry =
    Registry { locked: AtomicBool::new(false), descriptors: std::cell::UnsafeCell::new(Vec::new()) };

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

    fn with<R>(&self, change: impl FnOnce(&mut Vec<RawFd>) -> R) -> R {
        install();
        self.acquire();
        #[allow(unsafe_code)]
        // SAFETY: we hold the lock, and `change` cannot get at the registry again.
        let result = change(unsafe { &mut *self.descriptors.get() });
        self.release();
        result
    }
}

extern "C" fn before_fork() {
    REGISTRY.acquire();
}

extern "C" fn after_fork_in_parent() {
    REGISTRY.release();
}

extern "C" fn after_fork_in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    #[allow(unsafe_code)]
    // SAFETY: the forking thread took the lock in `before_fork` and is the only thread of the child. Closing and
    // clearing neither allocate nor free, so this is sound even if another thread held the allocator's lock.
    unsafe {
        let descriptors = &mut *REGISTRY.descriptors.get();
        for &descriptor in descriptors.iter() {
            rustix::io::close(descriptor);
        }
        descriptors.clear();
    }
    REGISTRY.release();
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

/// A descriptor that forked children do not keep.
#[derive(Debug)]
pub struct Descriptor {
    fd: RawFd,
    generation: u64,
}

impl Descriptor {
    /// Makes a descriptor while no thread of this process can fork: no child ever gets it, not even one that is forked
    /// in the middle of this. `make` must not wait for anything.
    pub fn make<E>(make: impl FnOnce() -> Result<OwnedFd, E>) -> Result<Self, E> {
        REGISTRY.with(|descriptors| {
            let fd = make()?.into_raw_fd();
            descriptors.push(fd);
            Ok(Self { fd, generation: generation() })
        })
    }

    /// The number of the descriptor, for messages and for other processes' `/proc`.
    pub fn number(&self) -> RawFd {
        self.fd
    }
}

impl From<OwnedFd> for Descriptor {
    fn from(fd: OwnedFd) -> Self {
        let Ok(descriptor) = Self::make(|| Ok::<_, std::convert::Infallible>(fd));
        descriptor
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
        if self.generation != generation() {
            return; // the fork handler has closed it; the number may be somebody else's by now
        }
        REGISTRY.with(|descriptors| {
            if let Some(index) = descriptors.iter().position(|&fd| fd == self.fd) {
                descriptors.swap_remove(index);
            }
        });
        #[allow(unsafe_code)]
        // SAFETY: the descriptor is ours, was not closed, and is not used after this.
        unsafe {
            rustix::io::close(self.fd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_descriptor_is_closed_and_forgotten() {
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let near = Descriptor::from(OwnedFd::from(near));
        let number = near.number();
        drop(near);
        assert!(REGISTRY.with(|descriptors| !descriptors.contains(&number)));
        let mut end = [0; 1];
        assert_eq!(std::io::Read::read(&mut &far, &mut end).unwrap(), 0, "the other end sees the close");
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
            Ok::<_, std::io::Error>(near.into())
        });
        assert_eq!(forking.join().unwrap(), 0);
        assert_eq!(made.unwrap().number(), number);
    }
}
