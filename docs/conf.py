"""Configuration of the documentation site: `make docs` builds it, and a warning is an error."""

import re
from importlib.metadata import version as version_of
from typing import Any

from sphinx.application import Sphinx

project = "Framemill"
author = "Framemill contributors"
version = release = version_of("framemill")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

html_theme = "pydata_sphinx_theme"
html_title = "Framemill"
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
}
html_show_sourcelink = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True

default_role = "code"  # docstrings put names between single backticks, as Markdown does
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True


def _table_as_rst(rows: list[str], indent: str) -> list[str]:
    """Return the rows of a Markdown table, the second of which is its rule, as a `list-table` of reStructuredText."""
    lines = [f"{indent}.. list-table::", f"{indent}   :header-rows: 1", ""]
    cells = [re.split(r"(?<!\\)\|", row.strip())[1:-1] for row in (rows[0], *rows[2:])]
    for row in cells:
        for index in range(len(cells[0])):
            lines.append(f"{indent}   {' ' if index else '*'} - {row[index].strip() if index < len(row) else ''}")
    return [*lines, ""]


def markdown_tables_as_rst(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Replace the Markdown tables of one docstring, in place; append the json fields of a module of samples."""
    if what == "module" and hasattr(obj, "FIELDS"):
        rows = [
            f"| {field.name} | {field.type} | {field.meaning}{field.unit and f', {field.unit}'} |"
            for field in obj.FIELDS
        ]
        lines += ["", "| field of the json | type | meaning |", "|---|---|---|", *rows]
    converted: list[str] = []
    table: list[str] = []
    for line in (*lines, ""):
        if line.lstrip().startswith("|"):
            table.append(line)
            continue
        if table:
            converted += _table_as_rst(table, table[0][: len(table[0]) - len(table[0].lstrip())])
            table = []
        converted.append(line)
    lines[:] = converted


def setup(app: Sphinx) -> None:
    """Register what this file adds to Sphinx."""
    app.connect("autodoc-process-docstring", markdown_tables_as_rst)
