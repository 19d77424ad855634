"""Sphinx configuration: the guide, the IR reference generated from ir/ops.def, the Python API."""
import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "..", "client"))
sys.path.insert(0, here)
project = "Thunder"
copyright = "the Thunder developers"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
exclude_patterns = ["build", "examples"]
html_theme = "alabaster"
html_theme_options = {"description": "a distributed training runtime for PyTorch programs", "page_width": "1100px"}
suppress_warnings = ["image.not_readable"]


def setup(app):
    import reference
    reference.write(os.path.join(here, "..", "ir", "ops.def"), os.path.join(here, "ir-reference.rst"))
