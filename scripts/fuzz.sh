#!/usr/bin/env bash
# Searches for inputs that the engine does not survive, guided by coverage (libFuzzer), with stable Rust alone.
#
#   scripts/fuzz.sh                    all targets, FUZZ_SECONDS (20) each, two at a time
#   scripts/fuzz.sh TARGET...          those: the names are those of the folders in fuzz/corpus
#   scripts/fuzz.sh --build            build only
#   scripts/fuzz.sh --merge TARGET...  take what a longer search has found into fuzz/corpus, as few files as will do
#
# A target is a function in `crates/ringtable/src/fuzzing` (or in `server/fuzzing`); `cargo test` runs each on what
# fuzz/corpus holds for it. Inputs that reach something new go to target-fuzz/corpus, and an input that does harm to
# target-fuzz/found: copy it into fuzz/corpus/TARGET, where it is a test from then on, and mend what it shows.
#
# Prints a line a target: how many inputs were run, how fast, and how much of the code they reach. The status is 1 if
# any did harm: ended the program, took more than 10 s, or more than FUZZ_MEMORY_MB (1024) of memory. FUZZ_SEED seeds
# the search (0 for one of its own); it depends on time, so what it found can be replayed, and not its way there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=${FUZZ_SECONDS:-20}
jobs=${FUZZ_JOBS:-2}
memory=${FUZZ_MEMORY_MB:-1024}
seed=${FUZZ_SEED:-0}
target=${FUZZ_TARGET_DIR:-$PWD/target-fuzz}
mkdir -p "$target"
target=$(cd "$target" && pwd)

command -v c++ >/dev/null || {
    echo "libFuzzer is compiled with a C++ compiler, and there is none here (Debian: apt install g++)" >&2
    exit 1
}

# What cargo-fuzz sets, but for the address sanitizer, which stable Rust has not: the targets keep memory between pages
# that nobody may touch instead. Assertions and checks for overflow are on (fuzz/Cargo.toml).
coverage=(-C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4
    -C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table
    -C llvm-args=-sanitizer-coverage-trace-compares)
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="--cfg fuzzing -C codegen-units=1 ${coverage[*]}" CARGO_TARGET_DIR=$target \
    cargo build --quiet --locked --release --manifest-path fuzz/Cargo.toml --target "$host"
program=$target/$host/release/ringtable-fuzz
[ "${1:-}" != --build ] || exit 0

merge=
if [ "${1:-}" = --merge ]; then
    merge=yes
    shift
fi
if [ $# -eq 0 ]; then
    for folder in fuzz/corpus/*/; do
        set -- "$@" "$(basename "$folder")"
    done
fi

# One search, and its line. In a process of its own, so that two go on at a time.
search() {
    name=$1
    known=fuzz/corpus/$name
    fresh=$target/corpus/$name
    found=$target/found/$name
    log=$target/$name.log
    mkdir -p "$fresh" "$found" "$known"
    export RINGTABLE_FUZZ_TARGET=$name
    limits=(-rss_limit_mb="$memory" -timeout=10 -max_len=4096)
    if [ -n "$merge" ]; then
        "$program" -set_cover_merge=1 "${limits[@]}" "$known" "$fresh" >"$log" 2>&1 || { tail -n 20 "$log" >&2; return 1; }
        echo "$name: $(find "$known" -type f | wc -l) files, $(du -sb "$known" | cut -f1) bytes"
        return
    fi
    status=0
    "$program" "${limits[@]}" -max_total_time="$seconds" -seed="$seed" -print_final_stats=1 -use_value_profile=1 \
        -artifact_prefix="$found/" "$fresh" "$known" >"$log" 2>&1 || status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    cover=$(grep -o 'cov: [0-9]*' "$log" | tail -n 1 | cut -d' ' -f2)
    printf '%-10s %9s runs %7s a second %6s places reached\n' "$name" "${runs:-?}" "${rate:-?}" "${cover:-?}"
    if [ "$status" -ne 0 ]; then
        echo "forbidden: $name does not survive an input: see $log"
        grep -E -m 3 'panicked at|ERROR: libFuzzer|Test unit written' "$log" || true
        return 1
    fi
}

failed=0
running=0
for name in "$@"; do
    if [ "$running" -ge "$jobs" ]; then
        wait -n || failed=1
        running=$((running - 1))
    fi
    search "$name" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n || failed=1
    running=$((running - 1))
done
exit "$failed"
