"""What this client costs against its peers, and the scripts that measure it.

Each script runs by its path or as a module: ``python -m benchmarks.single`` finds its neighbours
through the line below, as ``python benchmarks/single.py`` does by itself.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
