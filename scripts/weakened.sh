#!/usr/bin/env bash
# Shows that the models would notice: for each patch in scripts/weakened, which takes one ordering or check away, it
# applies it to a copy of the sources, runs the model that the patch names, and requires that this fails.
#
#   scripts/weakened.sh              all patches
#   scripts/weakened.sh NAME...      those, as in `doorbell-sleeper-fence`
#
# Each patch begins with `model: PATH` (what scripts/loom.sh is given) and says what goes wrong. A failure counts only
# if it is one of the model's own, which begin with "forbidden", or a deadlock: a patch that does not apply or does not
# build shows nothing, and neither does a model that ran out of branches. Prints a line a patch; the status is 1 if
# anything was not noticed. Takes some minutes: it builds the engine anew for each patch.
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
cp -R Cargo.toml Cargo.lock crates scripts "$copy"

if [ $# -eq 0 ]; then
    for patch in scripts/weakened/*.patch; do
        name=${patch##*/}
        set -- "$@" "${name%.patch}"
    done
fi

# Says what became of the patch at hand.
verdict() {
    log=$LOOM_TARGET_DIR/weakened-logs/$1.log
    if ! "$copy/scripts/loom.sh" --no-run >"$log" 2>&1; then
        echo "does not build: see $log"
    elif "$copy/scripts/loom.sh" "$2" >"$log" 2>&1; then
        echo "NOT NOTICED"
    elif seen=$(grep -m 1 -o -E 'forbidden: .*|deadlock; ' "$log"); then
        echo "noticed (${seen%; })"
    else
        echo "fails for another reason: see $log"
    fi
}

unnoticed=0
for name in "$@"; do
    patch=$root/scripts/weakened/$name.patch
    model=$(sed -n 's/^model: //p' "$patch")
    printf '%-28s %-62s ' "$name" "$model"
    if git -C "$copy" apply "$patch"; then
        said=$(verdict "$name" "$model")
        git -C "$copy" apply --reverse "$patch"
    else
        said="does not apply"
    fi
    echo "$said"
    [[ $said == noticed* ]] || unnoticed=$((unnoticed + 1))
done

if [ "$unnoticed" -gt 0 ]; then
    echo "$unnoticed of $# weakened versions went unnoticed" >&2
    exit 1
fi
echo "all $# weakened versions are noticed"
