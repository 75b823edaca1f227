//! When changes that are logged are synced.

/// When changes are synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fsync {
    /// Before a write is answered.
    Always,
    /// Once a second.
    #[default]
    EverySecond,
    /// When the system likes.
    No,
}

impl Fsync {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Always, Self::EverySecond, Self::No];

    /// Its name, as Redis has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::EverySecond => "everysec",
            Self::No => "no",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }
}
