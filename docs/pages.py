"""Pages whose python blocks are executed when the docs are built, and followed by their outputs."""

import logging
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jupyter_cache import get_cache
from myst_nb.core.execute import create_client
from myst_nb.core.read import create_nb_reader
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.logging import getLogger

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Each kernel takes up to a gigabyte of memory.
MAX_KERNELS = 4


def read(text: str) -> NotebookNode:
    """A page as a notebook.

    Args:
        text: The page, whose fenced python blocks are the cells of code.

    Returns:
        The notebook, with the line of each cell. A page without code needs no kernel.
    """
    cells, lines, end = [], [], 0
    for block in BLOCK.finditer(text):
        cells += [new_markdown_cell(text[end : block.start()]), new_code_cell(block[1].rstrip())]
        lines += [text.count("\n", 0, place) for place in (end, block.start(1))]
        end = block.end()
    if not cells:
        return new_notebook(
            cells=[new_markdown_cell(text)],
            metadata={"source_map": [0], "mystnb": {"execution_mode": "off"}},
        )
    return new_notebook(
        cells=[*cells, new_markdown_cell(text[end:])],
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3"},
            "source_map": [*lines, text.count("\n", 0, end)],
        },
    )


def execute(app: Sphinx, env: BuildEnvironment, names: list[str]) -> None:
    """Execute pages side by side, so that reading them finds their outputs in the cache."""
    get_cache(env.mystnb_config.execution_cache_path).list_cache_records()  # makes its tables
    logging.getLogger("traitlets").setLevel(logging.WARNING)

    def one(name: str) -> None:
        path = env.doc2path(name)
        text = Path(path).read_text(encoding="utf-8")
        reader = create_nb_reader(str(path), env.myst_config, env.mystnb_config, text)
        notebook = reader.read(text) if reader else None
        if notebook and any(cell.cell_type == "code" for cell in notebook.cells):
            with create_client(notebook, str(path), env.mystnb_config, getLogger(f"pages-{name}")):
                pass

    with ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_KERNELS)) as pool:
        list(pool.map(one, names))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the execution."""
    app.connect("env-before-read-docs", execute)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
