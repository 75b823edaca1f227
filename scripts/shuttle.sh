#!/usr/bin/env bash
# Checks the models that are too large for loom with shuttle: some of the interleavings of their threads, at random.
# `crates/ringtable/src/*/shuttle_*.rs` say what is allowed and what is forbidden.
#
#   scripts/shuttle.sh                        all models
#   scripts/shuttle.sh MODEL                  those whose path contains MODEL, as in `table::shuttle_heap`
#   scripts/shuttle.sh --no-run               none: only build them
#   SHUTTLE_RUNS=N scripts/shuttle.sh         N runs of each model, instead of a few thousand
#   SHUTTLE_SEED=N scripts/shuttle.sh MODEL   the runs that come from that seed; it is printed by each model that fails
#   SHUTTLE_SCHEDULE=S scripts/shuttle.sh MODEL   one run, with the schedule that was printed by a model that failed
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# As in `scripts/loom.sh`: capacities shrink, and the atomics are shuttle's instead of loom's.
export CARGO_TARGET_DIR="${LOOM_TARGET_DIR:-$PWD/target-loom}/shuttle"
export RUSTFLAGS="--cfg loom --cfg shuttle ${RUSTFLAGS:-}"
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG=0
export CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true
export SHUTTLE_RUNS="${SHUTTLE_RUNS:-4000}"
# The stack of a model's failure shows shuttle's inside.
export RUST_BACKTRACE=0

test=(cargo test --quiet --package ringtable --lib --release)
if [ "${1:-}" = --no-run ]; then
    exec "${test[@]}" --no-run
fi
exec "${test[@]}" -- "${1:-shuttle_}"
