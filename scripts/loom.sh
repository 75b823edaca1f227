#!/usr/bin/env bash
# Checks the models of the rings, the doorbell and the table with loom: all runs of their threads, and all values that
# each of their loads may see. `crates/ringtable/src/*/loom_*.rs` say what is allowed and what is forbidden.
#
#   scripts/loom.sh            all models
#   scripts/loom.sh MODEL      those whose path contains MODEL, as in `table::loom_table::a_walk`
#   scripts/loom.sh --no-run   none: only build them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# All atomics of the engine become loom's, capacities shrink (`cfg(loom)`), and what makes system calls is left out: so
# it is another build, and has a folder of its own.
export CARGO_TARGET_DIR="${LOOM_TARGET_DIR:-$PWD/target-loom}"
export RUSTFLAGS="--cfg loom ${RUSTFLAGS:-}"
# Release, since there are many runs; without what only makes the build longer, and on all processors.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
# The small models are exhausted. In the larger ones a running thread loses the processor at most so often: all that the
# weakened versions allow (`scripts/weakened.sh`) happens with 3 at most, and 4 would take five times as long.
export LOOM_MAX_PREEMPTIONS=3
# The stack of a model's failure shows loom's inside.
export RUST_BACKTRACE=${RUST_BACKTRACE:-0}

test=(cargo test --quiet --package ringtable --lib --release)
if [ "${1:-}" = --no-run ]; then
    exec "${test[@]}" --no-run
fi
exec "${test[@]}" -- "${1:-loom_}"
