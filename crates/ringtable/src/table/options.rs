//! The options that a table is made with.

/// What a new table is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Buckets to begin with.
    pub buckets: u64,
    /// Seed of the hash.
    pub seed: u64,
    /// Worker threads that will write.
    pub workers: usize,
    /// Nanoseconds for which clients may spin.
    pub spin_ns: u64,
    /// What happens when memory is short.
    pub eviction: Eviction,
}

/// What happens when memory is short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eviction {
    /// The write is refused.
    #[default]
    Never,
    /// Any entry may go, in the order of [`super::sieve`].
    AllkeysSieve,
    /// Entries with an expiry go, those first that expire soonest, of a sample.
    VolatileTtl,
}

impl Eviction {
    /// All of them, in the order of their numbers in the figures.
    pub const ALL: [Self; 3] = [Self::Never, Self::AllkeysSieve, Self::VolatileTtl];

    /// What users call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Never => "noeviction",
            Self::AllkeysSieve => "allkeys-sieve",
            Self::VolatileTtl => "volatile-ttl",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|eviction| eviction.name() == name)
    }
}
