"""Programs that search for what users fear most: `python -m proof.NAME --help`."""

import sys
from pathlib import Path

# They share processes, raw connections and deadlines with the tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
