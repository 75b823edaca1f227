//! Words with nothing before and behind them: who touches a byte beside them is ended by the kernel, also in code that
//! the compiler does not check.

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use crate::sync::{AtomicU64, Memory};

const PAGE_SIZE: usize = 4_096;

/// So many words, all zeroes at first, between two pages that nobody may touch.
pub struct Guarded {
    start: *mut u8,
    size: usize,
}

impl Guarded {
    /// `words` words: whole pages of memory.
    pub fn new(words: usize) -> Self {
        let size = words * 8;
        assert!(size.is_multiple_of(PAGE_SIZE), "{size} bytes are no whole pages");
        #[allow(unsafe_code)]
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory, and the range that is
        // opened lies within it.
        let start = unsafe {
            let all = size + 2 * PAGE_SIZE;
            let start = mmap_anonymous(std::ptr::null_mut(), all, ProtFlags::empty(), MapFlags::PRIVATE);
            let start = start.expect("there is memory").cast::<u8>().add(PAGE_SIZE);
            mprotect(start.cast(), size, MprotectFlags::READ | MprotectFlags::WRITE).expect("the range is ours");
            start
        };
        Self { start, size }
    }
}

impl Memory for Guarded {
    fn words(&self) -> &[AtomicU64] {
        #[allow(unsafe_code)]
        // SAFETY: the range is mapped for reading and writing as long as `self` lives, and accessed as atomics.
        unsafe {
            std::slice::from_raw_parts(self.start.cast(), self.size / 8)
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        #[allow(unsafe_code)]
        // SAFETY: the mapping is ours, with a page on either side, and no reference to it outlives `self`.
        unsafe {
            let _ = munmap(self.start.sub(PAGE_SIZE).cast(), self.size + 2 * PAGE_SIZE);
        }
    }
}

#[allow(unsafe_code)]
// SAFETY: memory that is valid until `drop`, and accessed through atomics alone.
unsafe impl Send for Guarded {}
#[allow(unsafe_code)]
// SAFETY: as above.
unsafe impl Sync for Guarded {}
