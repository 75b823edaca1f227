//! Runs one target of `ringtable::fuzzing` under libFuzzer, the one that `RINGTABLE_FUZZ_TARGET` names: see
//! `scripts/fuzz.sh`.

#![no_main]

use std::sync::OnceLock;

use ringtable::fuzzing::{self, TARGETS, Target};

static TARGET: OnceLock<&Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("RINGTABLE_FUZZ_TARGET").unwrap_or_default();
        let target = fuzzing::find(&name).unwrap_or_else(|| {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            panic!("RINGTABLE_FUZZ_TARGET is '{name}': there are {}", names.join(", "))
        });
        TARGET.get_or_init(|| target);
    },
    |input: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.run)(input);
        }
    }
);
