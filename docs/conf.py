"""How the documentation is built: ``nox -s docs``, without any network."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from modellab_async import __version__  # after the path is set

project = "modellab_async"
author = "The modellab_async authors"
copyright = author  # noqa: A001  # Sphinx's own name
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docstrings",
    "help_pages",
]
exclude_patterns = ["_build", "_ext", "**/_*.md"]  # the last are included by other pages

html_theme = "furo"
html_title = "modellab_async"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_display_short_literal_types = True
maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# Every reference to a name of this package must lead somewhere. Names of Python and of other
# libraries would need their inventories, and these the network.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!modellab_async).*"),
    (r"py:class", r"modellab_async\..*\.(T|M|T_co|_\w+)"),
    (r"py:class", r"modellab_async\.simulator\.responses\.Response"),
    (r"py:class", r"modellab_async\.calls\.Caller"),  # which the client passes to its resources
]
suppress_warnings = ["config.cache"]
