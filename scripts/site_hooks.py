"""Hooks of mkdocs: pages that are made when the site is built, and links that differ between repository and site."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from site_pages import configuration_page, notebook_page
from site_reference import module_pages


def on_config(config: Any) -> Any:
    """Add the pages of modules to the navigation."""
    (reference,) = (section["Reference"] for section in config.nav if "Reference" in section)
    further = [{package: f"reference/modules/{package}.md"} for package in module_pages()]
    reference.append({"Further modules": further})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the page of all configuration values, and one for each notebook and each package."""
    files.append(File.generated(config, "configuration_values.md", content=configuration_page()))
    for path in sorted(Path(config.docs_dir, "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook_page(path)))
    for package, content in module_pages().items():
        files.append(File.generated(config, f"reference/modules/{package}.md", content=content))
    return files


# Links of the repository, and the pages of the site that stand for what they lead to.
_LINKS = (
    (r"\]\(results/?\)", "](results.md)"),
    (r"\]\(\.\./experiments/?\)", "](configuration_values.md)"),
    (r"\.ipynb\)", ".md)"),
)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to folders and notebooks to the pages that are made of them."""
    if page.file.src_uri.startswith("notebooks/"):
        return markdown
    for link, other in _LINKS:
        markdown = re.sub(link, other, markdown)
    return markdown
