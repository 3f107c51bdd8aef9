import functools
import hashlib
import operator
import os
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import jax.typing
from sphinx.application import Sphinx

import probmf

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

project = "probmf"
author = "The probmf contributors"
copyright = "The probmf contributors"
version = release = probmf.__version__

extensions = [
    "mathml",
    "myst_nb",
    "pages",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "*.py", "jupyter"]
nitpicky = False

html_theme = "furo"
html_math_renderer = "mathml"
html_css_files = ["pages.css"]
# Not every system has a font for mathematics, so that of ziamath goes with the pages.
html_static_path = ["pages.css", str(files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf")]
html_title = "probmf"

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3

nb_custom_formats = {
    ".md": ["pages.read", {}],
    ".py": ["jupytext.reads", {"fmt": "py:percent"}],
}
# Outputs are those of the pages' code and of the package's, and are kept for both.
_code = [*DOCS.parent.glob("probmf/**/*.py*"), *DOCS.glob("jupyter/kernels/*/*")]
_digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_code))).hexdigest()
nb_execution_mode = "cache"
nb_execution_cache_path = str(DOCS / "_build" / "outputs" / _digest[:16])
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
# What a page writes to the standard error is a warning of the build.
nb_output_stderr = "warn"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
os.environ["JUPYTER_PATH"] = str(DOCS / "jupyter")

autodoc_member_order = "bysource"
# Defaults as they are written, not as they print: no addresses of functions.
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False

# The copy button leaves prompts and output where they are.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

_arrays = get_args(jax.typing.ArrayLike)
#: Stands in signatures for the eight types that JAX means by it.
ArrayLike = type("ArrayLike", (), {"__module__": "jax.typing"})


def name_arrays(app: Sphinx, obj: Any, bound_method: bool) -> None:
    """Show `ArrayLike` by its name: a key is no Array | ndarray | bool | number | ..."""
    hints = getattr(obj, "__annotations__", {})
    for name, hint in hints.items():
        if set(_arrays) <= set(get_args(hint)):
            others = [each for each in get_args(hint) if each not in _arrays]
            hints[name] = functools.reduce(operator.or_, others, ArrayLike)


def setup(app: Sphinx) -> None:
    """Register it."""
    app.connect("autodoc-before-process-signature", name_arrays)
