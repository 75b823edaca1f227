//! The signal mask of the threads that the engine starts: signals are for the program around them.

/// Blocks all signals in this thread but SIGPROF, the tick of a profiler, which has to come to the thread that it
/// counts. It breaks off nothing that matters: the loop around each system call that waits looks again.
pub fn block_signals() {
    #[allow(unsafe_code)]
    // SAFETY: all calls get a valid pointer to a signal set of this frame.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigdelset(&mut all, libc::SIGPROF);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
    }
}
