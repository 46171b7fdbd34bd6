"""How Sphinx builds the documentation: ``sphinx-build -W --keep-going -b html docs html``."""

import rnnx

project = "rnnx"
author = "the rnnx developers"
copyright = author
version = release = rnnx.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"rnnx {release}"

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

# `name` in a docstring is a name: a link where it is documented, code where it is not.
default_role = "py:obj"
# The PyTorch backend is documented where PyTorch is not installed, too.
autodoc_mock_imports = ["keras", "tensorflow", "torch"]
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
maximum_signature_line_length = 100
