"""How Sphinx makes the site, ``python -m sphinx -W -b html docs build/html``; nothing is fetched, no example is run.

With the environment variable `PYXEM_DL_NOTEBOOKS=force` the notebooks are run, and their output is shown.
"""

import os
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import api_pages  # noqa: E402
import pyxem.signals  # noqa: E402, F401  (puts the methods on the classes)

import pyxem_dl  # noqa: E402

URLS = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]

project = "pyxem_dl"
author = "The pyxem_dl developers"
copyright = author  # noqa: A001
version = release = pyxem_dl.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
root_doc = "index"
exclude_patterns = ["_build", "examples/*.ipynb"]  # those are downloads

# Examples: pages from their cells, with the pictures that docs/make_gallery.py has kept
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "examples",
    "plot_gallery": False,
    "within_subsection_order": "FileNameSortKey",
    "min_reported_time": 1e9,
    "remove_config_comments": True,
    "show_signature": False,
    "write_computation_times": False,
    "download_all_examples": False,
}

# Notebooks: run where PYXEM_DL_NOTEBOOKS=force asks for it, each in a folder of its own
nb_execution_mode = os.environ.get("PYXEM_DL_NOTEBOOKS", "off")
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300  # s, for each cell
nb_output_stderr = "remove"  # of other packages; what a cell prints is kept
nb_merge_streams = True

# Markdown: anchors of headings as on GitHub; the glossary's definitions
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]

# Docstrings
autosummary_generate = False
toc_object_entries_show_parents = "hide"  # beside the page there is no room for CLASS.METHOD
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 100
numpydoc_show_class_members = False
default_role = "code"

html_theme = "pydata_sphinx_theme"
html_title = f"pyxem_dl {release}"
html_baseurl = URLS["Documentation"] + "/"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_sidebars = {"install": []}  # a page without others beside it
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "show_nav_level": 1,
    "navbar_align": "left",
    "github_url": URLS["Source"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}


def setup(app):
    """Write the made pages before Sphinx looks for pages, and turn links that leave `docs/`."""
    app.connect("builder-inited", lambda app: api_pages.write(HERE), priority=100)
    app.connect("source-read", _finish)


def _finish(app, page, source):
    folder, _, name = page.rpartition("/")
    if not folder:  # a page that is written by hand
        source[0] = api_pages.with_site_links(source[0], "docs", "")
    elif folder == "examples":
        source[0] = api_pages.with_pictures(source[0], name)
