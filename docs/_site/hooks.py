"""What mkdocs does beyond the pages that are there: generated reference, files from outside docs/, optional pages."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

from reference import cli_page, configuration_page  # beside this file, which is no package

ROOT = Path(__file__).parents[2]
# pages that stand elsewhere in the repository
_OUTSIDE = {"SECURITY.md": "security.md", "CHANGELOG.md": "changelog.md", "config.toml": "reference/configuration.md"}
# shown in the navigation where they are: section, title
_OPTIONAL = {
    "page.md": ("How to", "The live page"),
}
_LINK = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+|docs/)([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """Put optional pages into the navigation."""
    sections = {title: entries for item in config.nav for title, entries in item.items()}
    for name, (section, title) in _OPTIONAL.items():
        if (ROOT / "docs" / name).exists():
            sections[section].append({title: name})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages and those from outside docs/."""
    made = {"reference/configuration.md": configuration_page(ROOT / "config.toml"), "reference/cli.md": cli_page()}
    for source, page in _OUTSIDE.items():
        if page not in made:
            made[page] = (ROOT / source).read_text(encoding="utf-8")
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:  # noqa: ARG001  # mkdocs passes them
    """Point links that leave docs/ to the page that stands for the file, or leave only their text."""
    up = "../" * page.file.src_uri.count("/")

    def mend(found: re.Match[str]) -> str:
        text, lead, target, anchor = found.groups()
        if lead != "docs/" and page.file.src_uri.count("/") >= lead.count("../"):
            return found.group(0)  # it stays inside docs/
        if lead == "docs/":
            return f"[{text}]({up}{target}{anchor or ''})"
        if target in _OUTSIDE:
            return f"[{text}]({up}{_OUTSIDE[target]}{anchor or ''})"
        return text

    return _LINK.sub(mend, markdown)
