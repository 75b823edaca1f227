//! Size classes: how large slots are, and how many pages a slab of them has.
//!
//! They go in steps of 8 bytes up to 256 bytes and in steps of 12.5 % up to 256 KiB: the finer steps at the small end
//! are what keeps an entry of 16 + 100 bytes within its 40 bytes of overhead.

use crate::table::layout::PAGE_WORDS;

/// Largest slot of a size class, in words; anything above is an extent of whole pages.
pub const CLASS_WORDS_MAX: usize = 4 * PAGE_WORDS;
/// Up to here classes go in steps of one word.
const FINE_WORDS_MAX: usize = 32;
/// Smallest slot, in words: the header of an entry.
const FINE_WORDS_MIN: usize = 2;
const FINE_CLASSES: usize = FINE_WORDS_MAX - FINE_WORDS_MIN + 1;
const STEPS: usize = 8;
/// Number of size classes.
pub const CLASSES: usize = FINE_CLASSES
    + if CLASS_WORDS_MAX > FINE_WORDS_MAX { STEPS * (CLASS_WORDS_MAX / FINE_WORDS_MAX).ilog2() as usize } else { 0 };
/// Most slots that go from the heap to a cache, or back, at once.
pub const BATCH: usize = if cfg!(loom) { 1 } else { 32 };
/// Most bytes that go to a cache at once, if that is fewer slots.
const BATCH_WORDS: usize = 32 << 7;
/// Most pages of a slab.
const SLAB_PAGES_MAX: usize = 16;

/// The class whose slots are the smallest that hold `words`.
pub(super) fn class_of(words: usize) -> usize {
    if words <= FINE_WORDS_MAX {
        return words.saturating_sub(FINE_WORDS_MIN);
    }
    let octave = (words - 1).ilog2() as usize;
    let step = (1 << octave) / STEPS;
    let steps = (words - (1 << octave)).div_ceil(step);
    FINE_CLASSES + (octave - FINE_WORDS_MAX.ilog2() as usize) * STEPS + steps - 1
}

/// The size class that serves `words` words; [`CLASSES`] for an extent.
#[inline]
pub fn kind_of(words: usize) -> usize {
    if words > CLASS_WORDS_MAX { CLASSES } else { class_of(words) }
}

/// Words that an entry of `words` words takes: those of its slot, or of its pages.
pub fn taken_words(words: usize) -> usize {
    if words > CLASS_WORDS_MAX { words.next_multiple_of(PAGE_WORDS) } else { class_words(class_of(words)) }
}

/// What a size class looks like.
#[derive(Clone, Copy)]
struct Class {
    /// Words of a slot.
    words: usize,
    /// Pages of a slab: the fewest whose unused tail is at most a sixteenth.
    pages: usize,
    /// Slots of a slab.
    slots: u32,
}

impl Class {
    const fn new(class: usize) -> Self {
        let words = if class < FINE_CLASSES {
            class + FINE_WORDS_MIN
        } else {
            let (octave, step) = ((class - FINE_CLASSES) / STEPS, (class - FINE_CLASSES) % STEPS);
            let base = FINE_WORDS_MAX << octave;
            base + (step + 1) * base / STEPS
        };
        let mut pages = 1;
        while pages < SLAB_PAGES_MAX
            && (pages * PAGE_WORDS < words || (pages * PAGE_WORDS) % words * 16 > pages * PAGE_WORDS)
        {
            pages += 1;
        }
        Self { words, pages, slots: (pages * PAGE_WORDS / words) as u32 }
    }
}

/// All classes, worked out when this is compiled: freeing a slot should not need a division or a search.
static CLASS: [Class; CLASSES] = {
    let mut classes = [Class::new(0); CLASSES];
    let mut class = 1;
    while class < CLASSES {
        classes[class] = Class::new(class);
        class += 1;
    }
    classes
};

/// Words of a slot of a class.
#[inline]
pub(super) fn class_words(class: usize) -> usize {
    CLASS[class].words
}

/// Pages of a slab.
#[inline]
pub(super) fn slab_pages(class: usize) -> usize {
    CLASS[class].pages
}

/// Slots of a slab.
#[inline]
pub(super) fn slab_slots(class: usize) -> u32 {
    CLASS[class].slots
}

/// How many slots a cache takes or gives at once.
pub(super) fn batch(class: usize) -> usize {
    (BATCH_WORDS / class_words(class)).clamp(1, BATCH)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_what_they_should_and_waste_little() {
        for words in 1..=CLASS_WORDS_MAX {
            let class = class_of(words);
            assert!(class < CLASSES);
            assert!(class_words(class) >= words);
            assert!(class == 0 || class_words(class - 1) < words, "{words} words would fit a smaller class");
        }
        for class in 0..CLASSES {
            assert!(slab_slots(class) >= 1);
            let used = slab_slots(class) as usize * class_words(class);
            assert!(used * 100 >= slab_pages(class) * PAGE_WORDS * 92, "class {class}");
        }
    }
}
