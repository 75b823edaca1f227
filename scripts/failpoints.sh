#!/usr/bin/env bash
# Builds the package with failpoints, and runs the tests that kill and stop processes at each of them.
#
#   scripts/failpoints.sh                  all of them
#   scripts/failpoints.sh --build          only builds; prints the folder to put on PYTHONPATH
#   scripts/failpoints.sh --run COMMAND    runs that instead, with the package on PYTHONPATH
#   scripts/failpoints.sh -k lane          what follows is pytest's
#
# The build is in target (or what FAILPOINTS_TARGET_DIR names) beside the others, and is no part of the package that
# `make install` builds. It needs the virtual environment that `make install` makes, or one on the PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=${FAILPOINTS_TARGET_DIR:-$PWD/target}
python=$PWD/.venv/bin/python
[ -x "$python" ] || python=$(command -v python)
package=$target/failpoints-package/ringtable
mkdir -p "$package"

# As maturin does it: the module finds Python's symbols in the program that loads it.
PYO3_PYTHON=$python PYO3_BUILD_EXTENSION_MODULE=1 cargo build --quiet --package ringtable-python --profile failpoints \
    --features failpoints --target-dir "$target"
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
# The package as it lies there, with another module.
cp -R python/ringtable/. "$package"
rm -f "$package"/_ringtable.*.so
cp "$target/failpoints/lib_ringtable.so" "$package/_ringtable$suffix"

if [ "${1-}" = --build ]; then
    echo "$target/failpoints-package"
    exit
fi
export PYTHONPATH=$target/failpoints-package${PYTHONPATH:+:$PYTHONPATH}
if [ "${1-}" = --run ]; then
    shift
    exec "$@"
fi
exec "$python" -m pytest tests/test_failpoints*.py "$@"
