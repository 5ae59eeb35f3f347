"""What this client costs against its peers, and what it survives: scripts that measure both.

The modules import each other by bare names, so that ``worker.py`` runs as a script beside another
checkout of the package; the line below lets ``python -m benchmarks.bench`` find them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
