//! Sealed memfd segments and their mappings.
//!
//! A segment is an anonymous file of fixed size. It is sealed against resizing, so that nobody who has a descriptor
//! of it can make anybody else fault by truncating it (I2). What kind of access a client gets is decided by the
//! descriptor that is passed: [`Segment::read_only`] opens a second one that can neither be mapped for writing nor be
//! written to, and the file's mode (0400) keeps other users from opening it again with more rights.
//!
//! A mapping is not inherited by forked children, unless it is said to be: see [`super::fork`].

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::fork::{self, Descriptor};
use crate::sync::{AtomicU64, Memory};

/// A sealed memfd. The descriptor allows writing: it never leaves the process, except for lanes, which are the
/// client's.
#[derive(Debug)]
pub struct Segment {
    fd: Descriptor,
    size: usize,
}

impl Segment {
    /// Makes a segment of `size` bytes of zeroes (no memory is used until it is touched).
    ///
    /// `name` is what `/proc/self/maps` shows. Mode 0400: another user who is handed any descriptor of the file cannot
    /// open it again for writing.
    pub fn create(name: &str, size: usize) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = Descriptor::make(|| match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
            Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags), // before Linux 6.3
            other => other,
        })?;
        rustix::fs::ftruncate(&fd, size as u64)?;
        rustix::fs::fchmod(&fd, Mode::RUSR)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
        Ok(Self { fd, size })
    }

    /// Takes a segment that another process passed, after checking that nobody can shrink it under our mapping.
    pub fn from_foreign(fd: Descriptor) -> io::Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(&fd)?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(io::Error::other("the segment is not sealed against resizing"));
        }
        let size = rustix::fs::fstat(&fd)?.st_size;
        let size = usize::try_from(size).map_err(io::Error::other)?;
        if size == 0 || size % 4096 != 0 {
            return Err(io::Error::other(format!("the segment has {size} bytes, not a multiple of 4096")));
        }
        Ok(Self { fd, size })
    }

    /// Seals the seals; with `strict`, also against any further writable mapping or write by anyone, root included.
    ///
    /// Mappings that exist stay writable. The kernel refuses to punch holes, too, with `strict`: to us, who could give
    /// memory back no more, and to a client, who could have us wait for the pages behind our own mapping.
    pub fn seal(&self, strict: bool) -> io::Result<()> {
        let mut seals = SealFlags::SEAL;
        if strict {
            seals |= SealFlags::FUTURE_WRITE;
        }
        Ok(rustix::fs::fcntl_add_seals(&self.fd, seals)?)
    }

    /// Whether it has a strict seal. The kernel says so without waiting for whoever may be changing the file.
    pub fn is_strictly_sealed(&self) -> bool {
        rustix::fs::fcntl_get_seals(&self.fd).is_ok_and(|seals| seals.contains(SealFlags::FUTURE_WRITE))
    }

    /// A second descriptor of the same file, opened read-only: what a client gets of the table.
    pub fn read_only(&self) -> io::Result<Descriptor> {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        Ok(Descriptor::make(|| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))?)
    }

    /// Bytes of memory that the kernel has really given to the segment.
    pub fn resident(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.fd)?.st_blocks as u64 * 512)
    }

    /// Gives the memory behind a range of bytes back to the kernel: it reads as zeroes from then on.
    ///
    /// # Errors
    /// Not with a strict seal.
    pub fn punch(&self, offset: u64, size: u64) -> io::Result<()> {
        use rustix::fs::FallocateFlags;
        Ok(rustix::fs::fallocate(&self.fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, size)?)
    }

    /// Size in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The descriptor itself, to pass on.
    pub fn descriptor(&self) -> impl AsFd + '_ {
        self.fd.as_fd()
    }

    /// The descriptor alone.
    pub fn into_descriptor(self) -> Descriptor {
        self.fd
    }

    /// Maps all of it for reading and writing.
    pub fn map_writable(&self) -> io::Result<Mapping> {
        Mapping::new(&self.fd, self.size, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// Maps all of it for reading. Only loads may be done on the words, and only relaxed ones (with fences behind
    /// them): that is what the Rust memory model allows on read-only memory.
    pub fn map_read_only(&self) -> io::Result<Mapping> {
        Mapping::new(&self.fd, self.size, ProtFlags::READ)
    }
}

/// A shared mapping of a whole segment, as atomic words.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<AtomicU64>,
    size: usize,
    /// What its memory may be used for.
    protection: ProtFlags,
    generation: u64,
}

#[allow(unsafe_code)]
// SAFETY: the mapping is memory that is valid until `drop`, accessed only through atomics.
unsafe impl Send for Mapping {}
#[allow(unsafe_code)]
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: impl AsFd, size: usize, protection: ProtFlags) -> io::Result<Self> {
        // A forked child has no use for it, as long as nobody has said so: it would keep the memory, and could write to
        // another client's lane.
        fork::undisturbed(|_| {
            #[allow(unsafe_code)]
            // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
            let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), size, protection, MapFlags::SHARED, fd, 0)? };
            let generation = fork::generation();
            let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
            // From here on its drop undoes what was done.
            let mapping = Self { start, size, protection, generation };
            #[allow(unsafe_code)]
            // SAFETY: the range is the mapping just made, in which nothing changes for this process.
            unsafe {
                rustix::mm::madvise(mapping.start.as_ptr().cast(), size, Advice::LinuxDontFork)?;
                // A dump of this process would hold everybody's values.
                rustix::mm::madvise(mapping.start.as_ptr().cast(), size, Advice::LinuxDontDump)?;
            }
            Ok(mapping)
        })
    }
}

impl Mapping {
    /// Maps all of a segment for reading and writing, for a process that is forked from this one later, see
    /// [`Self::take_over`]. This one does nothing with it.
    ///
    /// # Errors
    /// Those of the system; if it is no segment of so many bytes.
    pub fn to_be_inherited(segment: impl AsFd, size: usize) -> io::Result<Self> {
        let found = rustix::fs::fstat(&segment)?.st_size;
        if usize::try_from(found) != Ok(size) || size == 0 {
            return Err(io::Error::other(format!("the segment has {found} bytes, not {size}")));
        }
        let mapping = Self::new(segment, size, ProtFlags::READ | ProtFlags::WRITE)?;
        mapping.inherit()?;
        Ok(mapping)
    }

    /// Takes over a mapping that was made by [`Self::to_be_inherited`] before this process was forked, and that is its
    /// own from now on.
    ///
    /// # Errors
    /// Those of the system.
    pub fn take_over(mut self) -> io::Result<Self> {
        fork::undisturbed(|_| {
            self.generation = fork::generation();
            #[allow(unsafe_code)]
            // SAFETY: the range is the mapping, in which nothing changes for this process.
            unsafe {
                rustix::mm::madvise(self.start.as_ptr().cast(), self.size, Advice::LinuxDontFork)?;
            }
            Ok(self)
        })
    }

    /// Leaves a mapping to another copy of this library in this process, and returns where it begins: see
    /// [`Self::found`].
    pub fn leave(self) -> usize {
        std::mem::ManuallyDrop::new(self).start()
    }

    /// Where it begins.
    pub fn start(&self) -> usize {
        self.start.as_ptr() as usize
    }

    /// Its bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// A mapping that another copy of this library has left.
    ///
    /// # Errors
    /// If there is none that begins on a page and has whole words.
    ///
    /// # Safety
    /// It is mapped there for reading and writing, has so many bytes, and is nobody else's in this process.
    #[allow(unsafe_code)]
    pub unsafe fn found(start: usize, size: usize) -> io::Result<Self> {
        let place = NonNull::new(start as *mut AtomicU64);
        let place = place.filter(|_| start.is_multiple_of(rustix::param::page_size()) && size.is_multiple_of(8));
        let start = place.ok_or_else(|| io::Error::other(format!("no mapping begins at {start:#x}")))?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        Ok(Self { start, size, protection, generation: fork::generation() })
    }

    /// Has the kernel give all of the memory now, so that no access waits for it later. Without support for that (Linux
    /// before 5.14) it is given as it is touched.
    pub fn populate(&self) {
        #[allow(unsafe_code)]
        // SAFETY: the range is ours; the advice changes no byte of it.
        unsafe {
            let _ = rustix::mm::madvise(self.start.as_ptr().cast(), self.size, Advice::LinuxPopulateWrite);
        }
    }

    /// Which of `count` ranges of `size` bytes, the first one beginning at byte `offset`, have memory behind them that
    /// the kernel has given, to us or to others. None if the kernel does not say.
    pub fn resident(&self, offset: usize, size: usize, count: usize) -> Vec<usize> {
        let page_size = rustix::param::page_size();
        assert!(size.is_multiple_of(page_size) && offset + size * count <= self.size, "ranges of the mapping");
        let mut pages = vec![0_u8; size * count / page_size];
        #[allow(unsafe_code)]
        // SAFETY: the range lies in ours, and there is a byte for each of its pages.
        let result = unsafe {
            libc::mincore(self.start.as_ptr().cast::<u8>().add(offset).cast(), size * count, pages.as_mut_ptr())
        };
        if result != 0 {
            return Vec::new();
        }
        let ranges = pages.chunks(size / page_size).enumerate();
        ranges.filter(|(_, pages)| pages.iter().any(|page| page & 1 != 0)).map(|(nth, _)| nth).collect()
    }

    /// Lets children that are forked from now on keep the mapping, for what may point into it.
    ///
    /// It stays theirs until they end: `drop` and [`Self::let_go`] do nothing there.
    pub fn inherit(&self) -> io::Result<()> {
        #[allow(unsafe_code)]
        // SAFETY: the range is ours; the advice changes nothing for this process.
        unsafe {
            Ok(rustix::mm::madvise(self.start.as_ptr().cast(), self.size, Advice::LinuxDoFork)?)
        }
    }

    /// Lets go of the shared memory while others may still be reading it: from now on all words are zero.
    ///
    /// The range stays mapped (to nothing) until the mapping is dropped, so that no reader faults; every reader of a
    /// segment checks what it finds, and finds nothing in zeroes.
    pub fn let_go(&self) -> io::Result<()> {
        if self.generation != fork::generation() {
            return Ok(()); // not inherited, or in use by what the parent left behind
        }
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        #[allow(unsafe_code)]
        // SAFETY: the range is ours, and stays readable memory of words; what changes is what they hold, as they may at
        // any time. The kernel replaces the mapping in one step, so no access falls in between.
        unsafe {
            rustix::mm::mmap_anonymous(self.start.as_ptr().cast(), self.size, self.protection, flags)?;
        }
        Ok(())
    }
}

impl Memory for Mapping {
    #[inline]
    fn words(&self) -> &[AtomicU64] {
        #[allow(unsafe_code)]
        // SAFETY: the mapping is page-aligned, `size` bytes long, readable, sealed against shrinking, and lives as long
        // as `self`. Other processes change it at any time, hence atomics. Handles of a parent process, whose mapping
        // a forked child may not have, are recognised by their generation before they get here.
        unsafe {
            std::slice::from_raw_parts(self.start.as_ptr(), self.size / 8)
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.generation != fork::generation() {
            return; // not inherited (then the range may be somebody else's by now), or in use: see `inherit`
        }
        #[allow(unsafe_code)]
        // SAFETY: the range is ours, and no reference to it outlives `self`.
        unsafe {
            let _ = rustix::mm::munmap(self.start.as_ptr().cast(), self.size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Ordering;

    #[test]
    fn two_mappings_share_words_and_nobody_can_resize() {
        let segment = Segment::create("ringtable-test", 4096).unwrap();
        let writable = segment.map_writable().unwrap();
        segment.seal(false).unwrap();
        let read_only = Segment::from_foreign(segment.read_only().unwrap()).unwrap().map_read_only().unwrap();
        writable.words()[7].store(42, Ordering::Relaxed);
        assert_eq!(read_only.words()[7].load(Ordering::Relaxed), 42);
        assert!(rustix::fs::ftruncate(&segment.fd, 0).is_err());
        assert!(rustix::fs::ftruncate(&segment.fd, 8192).is_err());
    }

    #[test]
    fn populated_memory_is_there_before_it_is_touched() {
        let segment = Segment::create("ringtable-test", 64 << 10).unwrap();
        let mapping = segment.map_writable().unwrap();
        assert_eq!(segment.resident().unwrap(), 0);
        mapping.populate();
        assert_eq!(segment.resident().unwrap(), 64 << 10);
    }

    #[test]
    fn a_mapping_that_was_let_go_is_all_zeroes() {
        let segment = Segment::create("ringtable-test", 8192).unwrap();
        segment.map_writable().unwrap().words()[1000].store(42, Ordering::Relaxed);
        let mapping = segment.map_read_only().unwrap();
        assert_eq!(mapping.words()[1000].load(Ordering::Relaxed), 42);
        mapping.let_go().unwrap();
        assert!(mapping.words().iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn the_read_only_descriptor_cannot_write() {
        let segment = Segment::create("ringtable-test", 4096).unwrap();
        segment.seal(false).unwrap();
        let fd = segment.read_only().unwrap();
        assert!(rustix::io::pwrite(&fd, b"x", 0).is_err());
        assert!(Mapping::new(&fd, 4096, ProtFlags::READ | ProtFlags::WRITE).is_err());
    }

    #[test]
    fn memory_is_given_back_unless_the_seal_is_strict() {
        let segment = Segment::create("ringtable-test", 1 << 20).unwrap();
        let mapping = segment.map_writable().unwrap();
        segment.seal(false).unwrap();
        mapping.words().iter().for_each(|word| word.store(1, Ordering::Relaxed));
        assert_eq!(segment.resident().unwrap(), 1 << 20);
        segment.punch(64 << 10, 512 << 10).unwrap();
        assert_eq!(segment.resident().unwrap(), 512 << 10);
        assert_eq!(mapping.words()[8 << 10].load(Ordering::Relaxed), 0);
        let strict = Segment::create("ringtable-test", 1 << 20).unwrap();
        strict.seal(true).unwrap();
        assert!(strict.punch(0, 4_096).is_err());
    }

    #[test]
    fn a_strict_seal_binds_even_the_owner() {
        let segment = Segment::create("ringtable-test", 4096).unwrap();
        let before = segment.map_writable().unwrap();
        assert!(!segment.is_strictly_sealed());
        segment.seal(true).unwrap();
        assert!(segment.is_strictly_sealed());
        assert!(segment.map_writable().is_err());
        assert!(rustix::io::pwrite(&segment.fd, b"x", 0).is_err());
        before.words()[0].store(1, Ordering::Relaxed);
    }

    #[test]
    fn an_unsealed_segment_is_refused() {
        let fd = Descriptor::make(|| rustix::fs::memfd_create("ringtable-test", MemfdFlags::CLOEXEC)).unwrap();
        rustix::fs::ftruncate(&fd, 4096).unwrap();
        assert!(Segment::from_foreign(fd).is_err());
    }
}
