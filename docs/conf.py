"""Settings of the documentation site, which ``make docs`` builds with Sphinx.

The source folder is the root of the repository, so that a link between two files is the same on the site and on GitHub.
Nothing is downloaded: names of other packages are shown without a link.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE / "site"))
# The notebook runs in a process of its own, and beside other work: one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from dmmc.core.version import VERSION  # noqa: E402

project = "dmmc"
author = "The dmmc authors"
copyright = author
release = version = VERSION

extensions = ["sphinx.ext.autodoc", "sphinx.ext.viewcode", "myst_nb", "reference"]
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "docs/**"]
exclude_patterns = ["build", "dist", "dmmc", "examples", "tests", "runs", "quickstart", ".*", "docs/site"]
nitpicky = True  # a reference that leads nowhere is a warning, and "make docs" makes warnings errors
# Of other packages, and imported for types only
nitpick_ignore = [("py:class", name) for name in ("ArrayLike", "NDArray", "Figure", "Markup", "Path")]

# Markdown, as GitHub reads it
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
highlight_language = "text"

# The notebook is executed at every build, in a folder that is removed afterwards.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_merge_streams = True

# Docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_mock_imports = [name for name in ("jax", "bijx", "blackjax", "pyerrors", "triton") if find_spec(name) is None]
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90

# Pages
html_theme = "furo"
html_title = f"dmmc {VERSION}"
html_static_path = ["site/static"]
html_css_files = ["wide.css"]
html_extra_path = ["site/extra"]
html_copy_source = False
html_show_sphinx = False
