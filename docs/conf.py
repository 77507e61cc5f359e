"""The documentation site: `make docs` builds it without a network, with warnings as errors."""

import re
from importlib import metadata
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

import faal_lab as fl

project = "faal_lab"
author = "the faal_lab contributors"
copyright = f"2026, {author}"
release = version = metadata.version("faal-lab")

extensions = [
    "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton", "sphinx_design",
]  # fmt: skip
myst_enable_extensions = ["amsmath", "attrs_block", "colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
exclude_patterns = ["_build", "site", "plugin"]
html_extra_path = ["site"]  # copied as it is: explorer/
nitpicky = False  # types of torch and plotly have no page here

autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "sphinx_book_theme"
html_context = {"default_mode": "auto"}
html_title = "faal_lab"
html_static_path = ["_static"]
html_css_files = ["faal.css"]
html_theme_options = {
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
html_show_sourcelink = False
html_math_renderer = "mathml"


def _inline(translator, node: nodes.math) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block(translator, node: nodes.math_block) -> None:
    text = re.sub(r"(\\(?:max|min|sup|inf))_", r"\1\\limits_", node.astext())  # the converter puts them beside, as in a line
    translator.body.append(f'<div class="math">{convert(text, display="block")}</div>')
    raise nodes.SkipNode


# Files outside this folder -> the page that includes them. The links stay right for those who read the files as they are.
_PAGES = {
    "results/digits-leaderboard/README.md": "/leaderboard.md",
    "results/balance/README.md": "/balance-results.md",
    "results/digits-releases/README.md": "/digits-releases.md",
    "results/digits-longtail/README.md": "/digits-longtail.md",
    "results/cifar10-narrow/README.md": "/cifar10-tables.md",
    "results/cifar10-narrow/": "/cards/",
    "CONTRIBUTING.md": "/contributing.md",
    "CHANGELOG.md": "/changelog.md",
    "SECURITY.md": "/security.md",
}


def _inside(app: Sphinx, page: str, source: list[str]) -> None:
    """Lead links to files outside this folder to their page."""
    for file, place in _PAGES.items():
        source[0] = re.sub(rf"\]\((?:\.\./)+{re.escape(file)}(?=[\w-]*(?:\.md)?[)#])", f"]({place}", source[0])


def _play(app: Sphinx, failed: Exception | None) -> None:
    """Put a page beside the front page that plays a recorded run."""
    if failed is None and app.builder.format == "html":
        recorded = Path(__file__).parents[1] / "notebooks" / "recorded" / "faal-steered"
        fl.open_run(recorded).export("replay", Path(app.outdir) / "replay.html", force=True, say=lambda _: None)


def setup(app: Sphinx) -> None:
    """Write formulas as MathML, which browsers draw by themselves: no script, no network."""
    app.connect("build-finished", _play)
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("source-read", _inside)
