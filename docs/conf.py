"""The documentation site: Sphinx over the Markdown pages of this folder.

    sphinx-build -W --keep-going -b html docs site

What can be generated is generated while it builds: see `_ext/generated.py`. Nothing is asked of any other host, neither
by the build nor by the pages.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("_ext")))

from sources import link_of

from domyn_swarm import __version__

project = "domyn-swarm"
author = "the authors of domyn-swarm"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.linkcode", "sphinx_copybutton"]
extensions += ["generated", "names", "sources"]  # of _ext
exclude_patterns = ["_ext", "examples"]
nitpicky = True

myst_enable_extensions = ["attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are run by their tests, and shown as they were stored
nb_ipywidgets_js = {}  # comes from another host
suppress_warnings = ["mystnb.unknown_mime_type"]  # graphs are Mermaid beside SVG, for notebooks without Graphviz

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
default_role = "name"  # what docstrings have between single backticks
linkcode_resolve = link_of
smartquotes = False  # flags keep their dashes

html_theme = "furo"
html_title = "domyn-swarm"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "native"
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"
