//! Forked processes that are killed wherever they are, for tests of what they leave in shared memory.

use crate::sync::yield_now;

/// Lets a forked process do `work`, which has no end, until there is enough of it, and kills it then.
pub fn killed_at(work: impl FnOnce(), is_enough: impl Fn() -> bool) {
    #[allow(unsafe_code)]
    // SAFETY: the child works with what it has a copy of, and the C library's memory can be used there. It never
    // returns from here, whatever happens.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            #[allow(unsafe_code)]
            // SAFETY: it takes no memory. The child does not outlive this thread.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            }
            work();
        }));
        #[allow(unsafe_code)]
        // SAFETY: nothing is left to do.
        unsafe {
            libc::_exit(1);
        }
    }
    let mut status = 0;
    #[allow(unsafe_code)]
    // SAFETY: it is our child, and `status` is ours.
    let killed = unsafe {
        while !is_enough() && libc::waitpid(child, &raw mut status, libc::WNOHANG) == 0 {
            yield_now();
        }
        libc::kill(child, libc::SIGKILL) == 0 && libc::waitpid(child, &raw mut status, 0) == child
    };
    assert!(killed && libc::WIFSIGNALED(status), "it has ended by itself");
}
