"""What hangs on a client: thin methods, each a `Call` handed to the one ``perform``.

Every method raises `InvalidIdError` for a bad id before any request, and any other of this
package's errors for what the server or the way to it did.
"""

from modellab_async.resources.artifacts import Artifacts
from modellab_async.resources.projects import Projects
from modellab_async.resources.runs import Runs

__all__ = ["Artifacts", "Projects", "Runs"]
