//! What was found in a table that was taken over: what a death has left half done, and what is damaged.

use std::fmt;

/// What a server leaves that dies in the middle of a change. Nothing is lost by any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// A bucket that was locked.
    Locked,
    /// A slot of an entry that a split had put into another bucket already.
    Moved,
    /// An overflow bucket that had become empty.
    Empty,
    /// An expiry whose code was not in the slot yet.
    Code,
    /// A record of an event that was begun.
    Event,
}

/// What no server leaves, wherever it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A word of the header.
    Header,
    /// A word of the page map.
    PageMap,
    /// The version of a bucket.
    Version,
    /// A slot: it points to where no entry can begin, or belongs to another bucket.
    Slot,
    /// A link to an overflow bucket.
    Link,
    /// An entry: its sizes, its key or its version.
    Entry,
    /// A second entry of a key, or a second slot of an entry.
    Twice,
    /// The expiry code of a slot.
    Code,
    /// The ring of events.
    Events,
}

impl Repair {
    const NAMES: [&str; 5] =
        ["locked buckets", "slots moved", "empty overflow buckets", "expiry codes", "events begun"];
}

impl Damage {
    const NAMES: [&str; 9] = [
        "words of the header",
        "words of the page map",
        "versions of buckets",
        "slots",
        "links",
        "entries",
        "entries that were there twice",
        "expiry codes",
        "rings of events",
    ];
}

/// What was found, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Entries that are there.
    pub entries: u64,
    repairs: [u64; Repair::NAMES.len()],
    damage: [u64; Damage::NAMES.len()],
}

impl Report {
    pub(in crate::table) fn repair(&mut self, what: Repair) {
        self.repairs[what as usize] += 1;
    }

    pub(in crate::table) fn damage(&mut self, what: Damage) {
        self.add_damage(what, 1);
    }

    pub(in crate::table) fn add_damage(&mut self, what: Damage, count: u64) {
        self.damage[what as usize] += count;
    }

    /// Adds what was found later, when so many entries have gone.
    pub(in crate::table) fn add(&mut self, later: &Self, gone: u64) {
        let Self { repairs, damage, .. } = later;
        self.entries -= gone;
        self.repairs.iter_mut().zip(repairs).for_each(|(count, more)| *count += more);
        self.damage.iter_mut().zip(damage).for_each(|(count, more)| *count += more);
    }

    /// How often something was half done.
    pub fn repaired(&self, what: Repair) -> u64 {
        self.repairs[what as usize]
    }

    /// How often something was damaged.
    pub fn damaged(&self, what: Damage) -> u64 {
        self.damage[what as usize]
    }

    /// How much is damaged, of all kinds.
    pub fn all_damage(&self) -> u64 {
        self.damage.iter().sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} entries", self.entries)?;
        let counts = |counts: &[u64], names: &[&'static str]| {
            let found = counts.iter().zip(names).filter(|(count, _)| **count > 0);
            found.map(|(count, name)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
        };
        for (what, list) in
            [("repaired", counts(&self.repairs, &Repair::NAMES)), ("damaged", counts(&self.damage, &Damage::NAMES))]
        {
            if !list.is_empty() {
                write!(formatter, "; {what}: {list}")?;
            }
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_has_names() {
        let mut report = Report { entries: 7, ..Report::default() };
        assert_eq!(report.to_string(), "7 entries");
        report.repair(Repair::Locked);
        report.add_damage(Damage::PageMap, 2);
        report.damage(Damage::Events);
        assert_eq!(
            report.to_string(),
            "7 entries; repaired: 1 locked buckets; damaged: 2 words of the page map, 1 rings of events"
        );
        assert_eq!((report.repaired(Repair::Event), report.damaged(Damage::PageMap), report.all_damage()), (0, 2, 3));
    }
}
