//! Signals are for the program around the server: its threads block them.

/// Blocks all signals in this thread: all but SIGPROF, the tick of a
/// profiler: it has to come to the thread that it counts. It breaks off nothing that matters, since each system call of
/// these threads that waits may be interrupted: the loop around it looks again.
pub(super) fn block_signals() {
    #[allow(unsafe_code)]
    // SAFETY: all calls get a valid pointer to a signal set of this frame.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigdelset(&mut all, libc::SIGPROF);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
    }
}
