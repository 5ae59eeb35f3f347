"""What this client costs against its peers (`bench`), and what it survives (`soak`)."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))  # for the servers of the tests
