//! Taking back much at once, as when all entries are deleted.

use super::allocator::Heap;
use super::classes::slab_slots;
use super::pages::{Kind, Page};
use crate::sync::{AtomicU64, lock};
use crate::table::layout::PAGE_WORDS;

impl Heap {
    /// Condemns all slabs there are: they hand out no slot any more, and go when the last one has come back.
    pub fn condemn_all(&self, segment: &[AtomicU64]) {
        let mut inner = lock(&self.inner);
        for slab in 0..inner.pages.len() as u32 {
            let Page { kind, first, class, .. } = inner.pages[slab as usize];
            if kind == Kind::Slab && first == slab {
                if inner.pages[slab as usize].listed != 0 {
                    inner.unlist(usize::from(class), slab);
                }
                let page = &mut inner.pages[slab as usize];
                page.kind = Kind::Condemned;
                if page.free == slab_slots(usize::from(class)) {
                    inner.give_run(segment, slab);
                }
            }
        }
        drop(inner);
        self.note_slack();
        self.recall();
    }

    /// Takes back many slots and extents at once, by the words they begin at, without touching their memory where that
    /// can be avoided.
    pub fn free_all(&self, segment: &[AtomicU64], starts: impl Iterator<Item = u64>) {
        let mut inner = lock(&self.inner);
        for start in starts {
            let first = inner.pages[start as usize / PAGE_WORDS].first;
            let page = inner.pages[first as usize];
            match page.kind {
                Kind::Extent => inner.give_run(segment, first),
                _ => inner.give_slots(segment, usize::from(page.class), std::iter::once(start)),
            }
        }
        self.note_slack();
    }
}
