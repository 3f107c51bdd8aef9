import sys
from importlib.resources import files
from pathlib import Path

import probmf

sys.path.insert(0, str(Path(__file__).parent))

project = "probmf"
author = "The probmf contributors"
copyright = "The probmf contributors"
version = release = probmf.__version__

extensions = [
    "mathml",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
nitpicky = False

html_theme = "furo"
html_math_renderer = "mathml"
html_css_files = ["mathml.css"]
# Not every system has a font for mathematics, so that of ziamath goes with the pages.
html_static_path = ["mathml.css", str(files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf")]
html_title = "probmf"

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False

# The copy button leaves prompts and output where they are.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
