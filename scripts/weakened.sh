#!/usr/bin/env bash
# Shows that the detectors detect: for each patch in scripts/weakened, which takes an ordering, a check or a step away,
# it applies it to a copy of the sources, runs the test that the patch names, and requires that this fails.
#
#   scripts/weakened.sh              all patches
#   scripts/weakened.sh KIND         those of a kind: model, rust, pytest or run
#   scripts/weakened.sh NAME...      those, as in `doorbell-sleeper-fence`
#
# Each patch begins with the test that has to fail, and says what goes wrong:
#
#   model: PATH              a model, as scripts/loom.sh is given it
#   rust: PATH               a test of the engine, as `cargo test --package ringtable` is given it
#   pytest: FILE::TEST       a Python test; the extension is built from the copy
#   run: COMMAND             anything else, run in the copy with its Python first on the PATH
#
# A failure counts only if it is the detector's own: a model has to say "forbidden" or find a deadlock, a command has to
# say "forbidden", and a test has to fail, not to be missing. A patch that does not apply or does not build shows
# nothing. Prints a line a patch; the status is 1 if anything was not noticed. All of them take more than half an hour:
# the engine is built anew for each.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

target=${LOOM_TARGET_DIR:-$root/target-loom}
mkdir -p "$target/weakened-logs"
LOOM_TARGET_DIR=$(cd "$target" && pwd)
export LOOM_TARGET_DIR
# Always the same place, so that cargo builds the rest only once.
copy=$LOOM_TARGET_DIR/weakened
# `git apply` works there even if it lies within a repository, in which it would look for the paths otherwise.
export GIT_CEILING_DIRECTORIES=$LOOM_TARGET_DIR

trap 'rm -rf "$copy"' EXIT
rm -rf "$copy"
mkdir "$copy"
cp -R Cargo.toml Cargo.lock Makefile README.md crates docs pyproject.toml python scripts tests "$copy"
for folder in benches fuzz proof; do
    [ ! -d "$folder" ] || cp -R "$folder" "$copy"
done

named=("$@")
case "${1:-}" in
'' | model | rust | pytest | run)
    named=()
    for patch in scripts/weakened/*.patch; do
        if grep -q "^${1:-[a-z]*}: " "$patch"; then
            name=${patch##*/}
            named+=("${name%.patch}")
        fi
    done
    ;;
esac

# Only what a patch changes is compiled anew.
export CARGO_INCREMENTAL=1

# The Rust tests and the extension as patched. Without what only makes the build longer.
built() {
    (
        cd "$copy"
        export CARGO_TARGET_DIR=$LOOM_TARGET_DIR/weakened-target CARGO_PROFILE_RELEASE_LTO=off
        export CARGO_PROFILE_RELEASE_CODEGEN_UNITS=64 CARGO_PROFILE_RELEASE_OPT_LEVEL=1
        export PYO3_PYTHON=$root/.venv/bin/python
        "$@"
    )
}

# Runs a program with the copy's package and tests instead of ours.
in_copy() {
    (
        cd "$copy"
        export PATH=$root/.venv/bin:$PATH PYTHONPATH=$copy/python:$copy/tests:$copy
        "$@"
    )
}

built_extension() {
    built cargo build --quiet --release --package ringtable-python &&
        cp "$LOOM_TARGET_DIR/weakened-target/release/lib_ringtable.so" "$(echo "$copy"/python/ringtable/_ringtable.*.so)"
}

# Says what became of the patch at hand: its name, the kind of its test, and the test.
verdict() {
    log=$LOOM_TARGET_DIR/weakened-logs/$1.log
    case $2 in
    model)
        build=("$copy/scripts/loom.sh" --no-run)
        run=("$copy/scripts/loom.sh" "$3")
        failure='forbidden: .*|deadlock; '
        ;;
    rust)
        build=(built cargo test --quiet --package ringtable --lib --no-run)
        run=(built timeout 300 cargo test --quiet --package ringtable --lib -- "$3")
        failure='test result: FAILED.*'
        ;;
    pytest)
        build=(built_extension)
        run=(in_copy timeout 300 python -m pytest -q -x -p no:cacheprovider "$3")
        failure='^(FAILED|ERROR) [^ ]*::.*'
        ;;
    run)
        build=(built_extension)
        run=(in_copy timeout 300 sh -c "$3")
        failure='forbidden: .*'
        ;;
    esac
    if ! "${build[@]}" >"$log" 2>&1; then
        echo "does not build: see $log"
    elif "${run[@]}" >"$log" 2>&1; then
        echo "NOT NOTICED"
    elif seen=$(grep -m 1 -o -E "$failure" "$log"); then
        echo "noticed ($(cut -c 1-100 <<<"${seen%; }"))"
    else
        echo "fails for another reason: see $log"
    fi
}

unnoticed=0
for name in "${named[@]}"; do
    patch=$root/scripts/weakened/$name.patch
    kind=$(sed -n '1s/^\([a-z]*\): .*/\1/p' "$patch")
    test=$(sed -n '1s/^[a-z]*: //p' "$patch")
    printf '%-28s %-62s ' "$name" "$test"
    if git -C "$copy" apply "$patch"; then
        said=$(verdict "$name" "$kind" "$test")
        git -C "$copy" apply --reverse "$patch"
    else
        said="does not apply"
    fi
    echo "$said"
    [[ $said == noticed* ]] || unnoticed=$((unnoticed + 1))
done

if [ "$unnoticed" -gt 0 ]; then
    echo "$unnoticed of ${#named[@]} weakened versions went unnoticed" >&2
    exit 1
fi
echo "all ${#named[@]} weakened versions are noticed"
