"""What this client costs against its peers, and what it survives: scripts that measure both.

The modules import each other by bare names, so that ``worker.py`` runs as a script beside another
checkout of the package; the lines below let ``python -m benchmarks.bench`` find them, and the
servers of the tests.
"""

import sys
from pathlib import Path

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE), str(_HERE.parent / "tests")]
