//! The only place where atomics, fences and locks are imported: `std`'s, or those of a model checker.
//!
//! `cfg(loom)` is for any model checker: capacities shrink, and what makes system calls is left out. With
//! `cfg(shuttle)` besides, that is shuttle, whose atomics are all sequentially consistent; else it is loom.
//!
//! Rings and table work on slices of [`AtomicU64`], never on a mapping, so that the same code runs over shared
//! memory, over the heap (tests, fuzzers) and under the model checker, whose atomics cannot overlay mapped bytes.
//!
//! What shared memory may hold is 64-bit words and nothing else: a torn plain read would be undefined behaviour even
//! if it were thrown away afterwards, so payloads too are copied word by word with relaxed loads, or, where they are
//! large, by an instruction that amounts to relaxed loads and stores.

#[cfg(not(loom))]
pub use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering, fence},
};

#[cfg(all(test, not(loom)))]
pub use recording::AtomicU64;
#[cfg(not(any(test, loom)))]
pub use std::sync::atomic::AtomicU64;

#[cfg(all(loom, not(shuttle)))]
pub use loom::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering, fence},
};

#[cfg(shuttle)]
pub use shuttle::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering, fence},
};

/// `std`'s under model checkers too, which have none: what is made once has to be made before it matters who made it.
pub use std::sync::OnceLock;

/// Tells the processor that this is a spin-wait (and a model checker, that another thread has to run).
#[inline]
pub fn spin_loop() {
    #[cfg(not(loom))]
    std::hint::spin_loop();
    #[cfg(all(loom, not(shuttle)))]
    loom::thread::yield_now();
    #[cfg(shuttle)]
    shuttle::thread::yield_now();
}

#[cfg(all(test, not(loom)))]
thread_local! {
    /// How often this thread has given way: who has nobody to wait for should not.
    pub static YIELDS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Gives the rest of this thread's time slice to another one.
#[inline]
pub fn yield_now() {
    #[cfg(all(test, not(loom)))]
    YIELDS.set(YIELDS.get() + 1);
    #[cfg(not(loom))]
    std::thread::yield_now();
    #[cfg(all(loom, not(shuttle)))]
    loom::thread::yield_now();
    #[cfg(shuttle)]
    shuttle::thread::yield_now();
}

/// Recording what a thread stores, in its order: all that a process leaves that dies behind one of its stores is what
/// was there before it began, and what those have changed that come before.
#[cfg(all(test, not(loom)))]
pub mod recording {
    use std::cell::RefCell;
    use std::ops::{Deref, Range};
    use std::sync::atomic::{self, Ordering};

    thread_local! {
        /// Addresses and values.
        static RECORDED: RefCell<Option<Vec<(usize, u64)>>> = const { RefCell::new(None) };
    }

    /// Begins to record what this thread stores, anew.
    pub fn begin() {
        RECORDED.set(Some(Vec::new()));
    }

    /// What was stored in these words since, by their index.
    pub fn stored(words: &[AtomicU64]) -> Vec<(usize, u64)> {
        let Range { start, end } = words.as_ptr_range();
        let place = |address| (start.addr()..end.addr()).contains(&address).then(|| (address - start.addr()) / 8);
        RECORDED.with_borrow(|recorded| {
            let all = recorded.iter().flatten();
            all.filter_map(|&(address, value)| Some((place(address)?, value))).collect()
        })
    }

    /// Ends it.
    pub fn end() {
        RECORDED.set(None);
    }

    pub(super) fn is_on() -> bool {
        RECORDED.with_borrow(Option::is_some)
    }

    /// A word whose stores are recorded.
    #[derive(Debug, Default)]
    #[repr(transparent)]
    pub struct AtomicU64(atomic::AtomicU64);

    impl Deref for AtomicU64 {
        type Target = atomic::AtomicU64;

        fn deref(&self) -> &Self::Target {
            &self.0
        }
    }

    #[allow(missing_docs)] // they are those of `std`
    impl AtomicU64 {
        pub const fn new(value: u64) -> Self {
            Self(atomic::AtomicU64::new(value))
        }

        fn note(&self, value: u64) {
            RECORDED.with_borrow_mut(|recorded| {
                if let Some(recorded) = recorded {
                    recorded.push((std::ptr::from_ref(self).addr(), value));
                }
            });
        }

        pub fn store(&self, value: u64, order: Ordering) {
            self.note(value);
            self.0.store(value, order);
        }

        pub fn swap(&self, value: u64, order: Ordering) -> u64 {
            self.note(value);
            self.0.swap(value, order)
        }

        pub fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
            let before = self.0.fetch_add(value, order);
            self.note(before.wrapping_add(value));
            before
        }

        pub fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
            let before = self.0.fetch_sub(value, order);
            self.note(before.wrapping_sub(value));
            before
        }

        pub fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
            let before = self.0.fetch_max(value, order);
            self.note(before.max(value));
            before
        }

        pub fn compare_exchange(&self, old: u64, new: u64, good: Ordering, bad: Ordering) -> Result<u64, u64> {
            self.0.compare_exchange(old, new, good, bad).inspect(|_| self.note(new))
        }
    }
}

/// Locks a mutex whose holder may have panicked: what our locks guard is valid between any two statements.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}

/// Memory as a slice of atomic words: a mapping of a shared segment, or words on the heap.
pub trait Memory: Send + Sync {
    /// All words of it, in order. The slice is the same at every call.
    fn words(&self) -> &[AtomicU64];
}

impl Memory for Box<[AtomicU64]> {
    fn words(&self) -> &[AtomicU64] {
        self
    }
}

impl<M: Memory + ?Sized> Memory for Arc<M> {
    fn words(&self) -> &[AtomicU64] {
        (**self).words()
    }
}

/// `count` words of zeroes on the heap.
pub fn heap_words(count: usize) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// Copies `out.len()` bytes out of `words`, by relaxed loads.
///
/// Relaxed: the caller decides afterwards, by a version or a position it loads behind an acquire fence, whether
/// what was copied is to be believed.
///
/// # Panics
/// If `words` holds fewer bytes than `out`: callers check lengths first.
#[inline]
pub fn copy_out(words: &[AtomicU64], out: &mut [std::mem::MaybeUninit<u8>]) {
    let words = &words[..out.len().div_ceil(8)];
    let (from, to) = (words.as_ptr().cast::<u8>(), out.as_mut_ptr().cast::<u8>());
    #[allow(unsafe_code)]
    // SAFETY: the words hold at least as many bytes as `out`, which is ours alone. The loads race with nobody that does
    // not use atomics or this function's counterpart.
    if unsafe { string_move(from, to, out.len()) } {
        return;
    }
    let whole = out.len() / 8;
    let (chunks, rest) = out.as_chunks_mut::<8>();
    for (chunk, word) in chunks.iter_mut().zip(words) {
        *chunk = word.load(Ordering::Relaxed).to_ne_bytes().map(std::mem::MaybeUninit::new);
    }
    if !rest.is_empty() {
        let last = words[whole].load(Ordering::Relaxed).to_ne_bytes();
        for (byte, value) in rest.iter_mut().zip(last) {
            byte.write(value);
        }
    }
}

/// From how many bytes on the processor's own string move is quicker than a loop over words.
#[cfg(all(target_arch = "x86_64", not(any(loom, miri))))]
const STRING_MOVE_SIZE_MIN: usize = 2 << 10;

/// Copies `size` bytes at once, if there are many and the processor has an instruction for that. Returns whether it
/// has done so.
///
/// The compiler makes no wide loads or stores of atomic ones, so a loop over words stays at 8 bytes a step. To the
/// language this instruction is a loop of relaxed loads and stores of single bytes: assembly may do whatever a program
/// could do, and that is what a program could do to memory that others access atomically.
///
/// # Safety
/// `from` is valid for reads and `to` for writes of `size` bytes, they do not overlap, and whoever accesses either
/// meanwhile does so by atomics or by this function.
#[inline]
#[allow(unsafe_code)]
unsafe fn string_move(from: *const u8, to: *mut u8, size: usize) -> bool {
    #[cfg(all(test, not(loom)))]
    if recording::is_on() {
        return false;
    }
    #[cfg(all(target_arch = "x86_64", not(any(loom, miri))))]
    if size >= STRING_MOVE_SIZE_MIN {
        // SAFETY: as this function's; the direction flag is clear, as everywhere between instructions of Rust's.
        unsafe {
            std::arch::asm!(
                "rep movsb",
                inout("rcx") size => _,
                inout("rsi") from => _,
                inout("rdi") to => _,
                options(nostack, preserves_flags)
            );
        }
        return true;
    }
    let _ = (from, to, size);
    false
}

/// Bytes that hold something already, as a place for [`copy_out`] to write to.
pub fn as_uninit(bytes: &mut [u8]) -> &mut [std::mem::MaybeUninit<u8>] {
    #[allow(unsafe_code)]
    // SAFETY: `MaybeUninit<u8>` has the layout of `u8`, and nothing in this crate writes uninitialised bytes.
    unsafe {
        std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len())
    }
}

/// Copies `bytes` into `words` by relaxed stores, filling up the last word with zeroes.
///
/// Relaxed: the words are not reachable yet; what makes them reachable (a slot, a position) is a Release.
///
/// # Panics
/// If `words` holds fewer bytes than `bytes`: callers check lengths first.
#[inline]
pub fn copy_in(bytes: &[u8], words: &[AtomicU64]) {
    let words = &words[..bytes.len().div_ceil(8)];
    let (chunks, rest) = bytes.as_chunks::<8>();
    #[allow(unsafe_code)]
    // SAFETY: the words hold at least as many bytes as the chunks, and may be written to through a shared reference,
    // as atomics. For who else accesses them, see `copy_out`.
    let moved = unsafe {
        let to = words.as_ptr().cast::<u8>().cast_mut();
        string_move(chunks.as_flattened().as_ptr(), to, chunks.as_flattened().len())
    };
    let chunks_left = if moved { &[] } else { chunks };
    for (chunk, word) in chunks_left.iter().zip(words) {
        word.store(u64::from_ne_bytes(*chunk), Ordering::Relaxed);
    }
    if !rest.is_empty() {
        words[chunks.len()].store(last_word(rest), Ordering::Relaxed);
    }
}

/// Copies whole words from one shared memory to another, relaxed for the reasons of [`copy_out`] and [`copy_in`].
///
/// # Panics
/// If there are not as many of either.
#[inline]
pub fn copy_words(from: &[AtomicU64], to: &[AtomicU64]) {
    assert!(from.len() == to.len(), "{} words into {}", from.len(), to.len());
    #[allow(unsafe_code)]
    // SAFETY: both have that size, and may be written to through shared references, as atomics. No caller's overlap:
    // a ring is no entry, and two allocations are apart. For who else accesses them, see `copy_out`.
    let moved = unsafe { string_move(from.as_ptr().cast(), to.as_ptr().cast::<u8>().cast_mut(), 8 * from.len()) };
    if !moved {
        for (from, to) in from.iter().zip(to) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// Whether `words` hold exactly `bytes`, the last word filled up with zeroes. Relaxed for the reason of [`copy_out`].
///
/// # Panics
/// If `words` holds fewer bytes than `bytes`: callers check lengths first.
#[inline]
pub fn equal(words: &[AtomicU64], bytes: &[u8]) -> bool {
    let words = &words[..bytes.len().div_ceil(8)];
    let (chunks, rest) = bytes.as_chunks::<8>();
    for (chunk, word) in chunks.iter().zip(words) {
        if word.load(Ordering::Relaxed) != u64::from_ne_bytes(*chunk) {
            return false;
        }
    }
    rest.is_empty() || words[chunks.len()].load(Ordering::Relaxed) == last_word(rest)
}

/// Whether two rows of words hold the same. Relaxed for the reason of [`copy_out`].
pub fn equal_words(one: &[AtomicU64], other: &[AtomicU64]) -> bool {
    let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
    one.iter().map(load).eq(other.iter().map(load))
}

/// Fewer than eight bytes as a word, filled up with zeroes.
#[inline]
fn last_word(rest: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..rest.len()].copy_from_slice(rest);
    u64::from_ne_bytes(word)
}

/// Tells the processor that a word will be read soon, so that several cache misses overlap.
#[inline]
pub fn prefetch<T>(word: &T) {
    #[cfg(all(target_arch = "x86_64", not(any(loom, miri))))]
    #[allow(unsafe_code)]
    // SAFETY: a prefetch is a hint; it reads nothing and cannot fault, and the address is a valid reference anyway.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(word).cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, miri)))))]
    let _ = word;
}

/// Running models: all interleavings of a model's threads, and all values that each of their loads may see.
///
/// What is forbidden is for the model to assert; begin those messages with "forbidden", `scripts/weakened.sh` looks for
/// it. What is allowed is returned as an outcome, so that a test can show that it does happen: a model in which the two
/// threads never meet forbids everything in vain.
#[cfg(all(test, loom, not(shuttle)))]
pub mod model {
    use std::collections::BTreeSet;
    use std::sync::mpsc;

    /// Every outcome that `model` has, of all its runs.
    pub fn outcomes<O: Ord + Send + 'static>(model: impl Fn() -> O + Send + Sync + 'static) -> BTreeSet<O> {
        run(None, model)
    }

    /// The same for a larger model, of those runs only that take the processor from a running thread at most
    /// `LOOM_MAX_PREEMPTIONS` times: see `scripts/loom.sh`.
    pub fn bounded_outcomes<O: Ord + Send + 'static>(model: impl Fn() -> O + Send + Sync + 'static) -> BTreeSet<O> {
        let bound = std::env::var("LOOM_MAX_PREEMPTIONS").ok().and_then(|bound| bound.parse().ok());
        run(Some(bound.expect("LOOM_MAX_PREEMPTIONS is a number: run the models with scripts/loom.sh")), model)
    }

    fn run<O: Ord + Send + 'static>(
        preemptions_max: Option<usize>,
        model: impl Fn() -> O + Send + Sync + 'static,
    ) -> BTreeSet<O> {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = preemptions_max;
        // What is done before the threads begin counts too.
        builder.max_branches = 10_000;
        // A channel of `std`, since what one run leaves for the next ones must not be an object of the model.
        let (sender, outcomes) = mpsc::channel();
        builder.check(move || {
            let outcome = model();
            sender.send(outcome).expect("the receiver outlives the model");
        });
        outcomes.into_iter().collect()
    }
}

/// Running models that are too large for all their interleavings: some of them, at random.
///
/// All accesses are sequentially consistent here, whatever they say: an ordering that is too weak is for loom to find.
/// What is forbidden is for the model to assert; begin those messages with "forbidden". So is any panic of the engine.
#[cfg(all(test, shuttle))]
pub mod model {
    use shuttle::rand::{RngCore, thread_rng};
    use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
    use shuttle::{Config, MaxSteps, Runner};

    /// Counts what happens in all runs of a model. No object of it.
    #[derive(Debug)]
    pub struct Count(std::sync::atomic::AtomicU64);

    impl Count {
        /// Nothing yet.
        pub const fn new() -> Self {
            Self(std::sync::atomic::AtomicU64::new(0))
        }

        /// Adds `count`.
        pub fn add(&self, count: u64) {
            self.0.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
        }

        /// Whether there was any.
        pub fn any(&self) -> bool {
            self.0.load(std::sync::atomic::Ordering::Relaxed) > 0
        }
    }

    /// Times that a thread loses the processor at most, beyond what it does by itself, in a run of the second kind.
    const DEPTH: usize = 4;
    /// A run that takes more steps goes round in circles.
    const STEPS_MAX: usize = 200_000;

    fn number(name: &str) -> Option<u64> {
        let text = std::env::var(name).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text}, which is not a number")))
    }

    /// Runs `model` often, each time with another random generator of its own: half of the runs let any thread go on at
    /// each step; in the others threads have priorities, which change a few times (probabilistic concurrency testing,
    /// S. Burckhardt et al., ASPLOS 2010). `scripts/shuttle.sh` says how often, from which seed, or which schedule.
    pub fn explore(model: impl Fn(&mut fastrand::Rng) + Copy + Send + Sync + 'static) {
        // Replayed alone: what happens in other runs does not happen then.
        if let Ok(schedule) = std::env::var("SHUTTLE_SCHEDULE") {
            let mut scheduler = ReplayScheduler::new_from_encoded(schedule.trim());
            scheduler.set_allow_incomplete();
            return run(scheduler, model);
        }
        let runs =
            number("SHUTTLE_RUNS").expect("SHUTTLE_RUNS is set: run the models with scripts/shuttle.sh") as usize;
        let seed = number("SHUTTLE_SEED").unwrap_or_else(|| fastrand::u64(..));
        println!("SHUTTLE_SEED={seed}");
        run(RandomScheduler::new_from_seed(seed, runs.div_ceil(2)), model);
        run(PctScheduler::new_from_seed(seed, DEPTH, runs / 2), model);
    }

    fn run(scheduler: impl Scheduler + 'static, model: impl Fn(&mut fastrand::Rng) + Copy + Send + Sync + 'static) {
        let mut config = Config::new();
        config.silence_warnings = true;
        config.stack_size = 256 << 10;
        config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
        let runs = std::panic::AssertUnwindSafe(|| {
            Runner::new(scheduler, config).run(move || {
                // Part of the schedule: a replay has the same.
                let seed = thread_rng().next_u64();
                // What the engine itself draws at random.
                fastrand::seed(seed);
                model(&mut fastrand::Rng::with_seed(seed));
            });
        });
        if let Err(panic) = std::panic::catch_unwind(runs) {
            eprintln!("forbidden: a panic, be it of the model or of the engine: see above");
            std::panic::resume_unwind(panic);
        }
    }
}
