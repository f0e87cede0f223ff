"""
The documentation site: ``make docs`` builds it, and every warning is an error.

Pages are Markdown (MyST), the API reference is read from the docstrings, the diagrams are drawn from the tables of the
code by ``diagrams.py``.
"""

from __future__ import annotations

import os
import pkgutil
import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]

# Importing Airflow writes its configuration: not into the home folder of whoever builds the site.
os.environ["AIRFLOW_HOME"] = str(ROOT / "build" / "docs-airflow")
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")

import airflow_provider_sequentum
from airflow_provider_sequentum.api.parsing import ApiModel

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# Sphinx would import modules with typing.TYPE_CHECKING switched on, which pydantic's models don't survive.
for module in pkgutil.walk_packages(airflow_provider_sequentum.__path__, "airflow_provider_sequentum."):
    import_module(module.name)

project = "Airflow provider for Sequentum Cloud"
author = "Sequentum"
release = version = airflow_provider_sequentum.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_*", "examples"]

myst_enable_extensions = ["attrs_block", "colon_fence"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_default_options = {"members": True, "member-order": "bysource", "exclude-members": "model_config"}
autodoc_preserve_defaults = True
# What a reader wants to know of an annotation, without the validators that make it so.
autodoc_type_aliases = {
    "ApiTime": "pendulum.DateTime",
    "ApiId": "int",
    "ApiRunStatus": "RunStatus",
}
autodoc_typehints_format = "short"
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

# References into this package are checked. Those to Airflow, pydantic and the standard library would need their
# inventories from the network at every build.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!airflow_provider_sequentum\.).*"),
    (r"py:.*", r".*\.[EMT]"),  # type variables
    (r"py:class", r".*\.(parse_time|parse_run_status)"),  # validators in annotations
    (r"py:class", r"airflow_provider_sequentum\.api\.pipeline\.Pipeline"),
    (r"py:class", r"airflow_provider_sequentum\.sandbox\.(agents\.Version|run_plan\.RunStatus|state\.Space)"),
]
# "type" in an annotation is the builtin, although models have a field of that name.
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = "Sequentum Cloud for Airflow"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_search_scorer = str(ROOT / "docs" / "search_scorer.js")
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
copybutton_exclude = ".linenos, .gp, .go"

# ``make docs-linkcheck`` asks every external address.
linkcheck_timeout = 20
linkcheck_ignore = [r"http://127\.0\.0\.1.*", r"https://shop\.example.*"]


def readable_signature(
    _app: Sphinx, _what: str, _name: str, described: object, _options: object, signature: str | None, returns: str
) -> tuple[str | None, str]:
    """Write a signature as a person sets it.

    The API's models have none: they are read from answers and not made by hand, and their fields are listed below them.
    A choice is shown as its values, since a template for it is a text anyway, and the default of ``deferrable`` as what
    Airflow has without a setting.
    """
    if isinstance(described, type) and issubclass(described, ApiModel):
        return "", returns
    if signature is not None:
        signature = re.sub(r"(Literal\[[^]]*\]) \| str\b", r"\1", signature)
        signature = re.sub(r"conf\.getboolean\(.operators., .default_deferrable., fallback=(\w+)\)", r"\1", signature)
    return signature, returns


def add_templated_fields(
    _app: Sphinx, what: str, _name: str, described: object, _options: object, lines: list[str]
) -> None:
    """Add to the description of an operator which of its parameters are template fields."""
    if what == "class" and (fields := vars(described).get("template_fields")):
        lines += ["", "Templated: " + ", ".join(f"``{field}``" for field in fields) + ".", ""]


def setup(app: Sphinx) -> None:
    """Connect what this file defines."""
    app.connect("autodoc-process-signature", readable_signature)
    app.connect("autodoc-process-docstring", add_templated_fields)
