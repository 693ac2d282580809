"""MkDocs hooks: pages from files outside of ``docs/``, and the reference of commands and keys.

The reference is read from ``conf/*.yaml`` (defaults, comments) and ``emotion_lab/config/keys.py``
(allowed values, roles). Nothing that is generated here is written into the repository.
"""

from __future__ import annotations

import html
import posixpath
import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from emotion_lab.cli import help as cli_help  # noqa: E402
from emotion_lab.config import fields, keys, schema  # noqa: E402
from emotion_lab.config.compose import CONF, options  # noqa: E402

#: Page of the site -> its file in the repository, for files outside of docs/.
SOURCES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "model_card.md": "emotion_lab/weights/README.md",
    "LICENSE.txt": "LICENSE",
    "CITATION.cff": "CITATION.cff",
    **{
        f"notebooks/{path.stem}.md": f"notebooks/{path.name}"
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
    },
}
PAGES = {source: page for page, source in SOURCES.items()}
HEADER = "| key | default | description | allowed | role |\n|---|---|---|---|---|"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the generated pages, and the pages of ``docs/`` that the navigation does not list."""
    nav: dict[str, list[Any]] = {title: item for part in config.nav for title, item in part.items()}
    listed = str(config.nav)
    docs = Path(config.docs_dir)
    nav["How to"] += [
        page.name for page in sorted(docs.glob("*.md")) if f"'{page.name}'" not in listed
    ]
    nav["Tutorials"].append({"Notebooks": [page for page in SOURCES if "notebooks/" in page]})
    nav["Reference"] += [
        {"Commands": [f"reference/commands/{entry}.md" for entry in keys.ENTRIES]},
        {"Config groups": [f"reference/config/{name}.md" for name in _group_names()]},
    ]
    if (ROOT / SOURCES["model_card.md"]).exists():
        nav["Results"].append({"Model card": "model_card.md"})
    config.watch += [str(ROOT / name) for name in ("conf", "emotion_lab", "notebooks", "README.md")]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files of ``docs/``."""
    pages = {page: _read(ROOT / source) for page, source in SOURCES.items() if _exists(source)}
    pages |= {f"reference/commands/{entry}.md": command_page(entry) for entry in keys.ENTRIES}
    pages |= {f"reference/config/{name}.md": group_page(name) for name in _group_names()}
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Point the relative links of a page to the pages of the site."""
    uri = page.file.src_uri
    return site_links(markdown, uri, SOURCES.get(uri, f"docs/{uri}"))


def on_page_content(content: str, **_: Any) -> str:
    """Show the references of docstrings, ``:func:`load```, as code."""
    return re.sub(r":(?:func|class|meth|attr|data|mod):(<code>)[~.]?", r"\1", content)


def site_links(markdown: str, page: str, source: str) -> str:
    """Return the text of ``page`` with links that are relative to the file ``source`` replaced."""

    def replace(match: re.Match[str]) -> str:
        target = posixpath.normpath(PurePosixPath(source).parent / match[1])
        to = PAGES.get(target) or target.removeprefix("docs/")
        return f"]({posixpath.relpath(to, posixpath.dirname(page) or '.')}"

    return re.sub(r"\]\((?!\w+:|#|/)([^)\s#]+)", replace, markdown)


def _exists(source: str) -> bool:
    return (ROOT / source).exists()


def _read(path: Path) -> str:
    """Return a text file; a notebook as Markdown, without its outputs."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = nbformat.reads(text, as_version=4).cells
    return "\n\n".join(
        cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```"
        for cell in cells
    )


def _group_names() -> list[str]:
    """Return the config groups: the directories of ``conf/``."""
    folders = {path.parent for path in CONF.rglob("*.yaml")} - {CONF}
    return sorted(folder.relative_to(CONF).as_posix() for folder in folders)


def _of_help(name: str) -> Any:
    """Return a function of ``--help``, public or private."""
    return getattr(cli_help, name, None) or getattr(cli_help, f"_{name}")


def command_page(entry: str) -> str:
    """Return the reference page of an entry point as Markdown."""
    path = CONF / f"{entry}.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    header = [line.lstrip("#") for line in lines[: _first(lines, "defaults")] if line[:1] == "#"]
    text = [f"# {entry}", header[0].strip(), "", *(f" {line}" for line in header[1:]), ""]
    groups = _of_help("groups")(entry)
    if groups:
        text += ["## Config groups", "", "| group | choices |", "|---|---|"]
        text += [
            f"| [`{group}=`](../config/{group}.md) | "
            + ", ".join(f"`{name}`" for name in _of_help("choices")(entry, group))
            + " |"
            for group in groups
        ]
    text += ["", "## Keys", "", HEADER, *_rows(cli_help._keys(path), keys.ENTRIES[entry], "", {})]
    return "\n".join(text)


def _first(lines: list[str], start: str) -> int:
    """Return the index of the first line that begins with ``start``, else the number of lines."""
    return next((i for i, line in enumerate(lines) if line.startswith(start)), len(lines))


def group_page(group: str) -> str:
    """Return the reference page of a config group as Markdown."""
    text = [f"# {group}", "", f"Choose with `{group}=<name>`."]
    plain = group not in keys.GROUPS  # experiments and launchers set keys of other groups
    shared: dict[str, str] = {}
    for name in ["base", *options(group)]:
        path = CONF / group / f"{name}.yaml"
        if not path.exists():
            continue
        title = "Keys of every choice" if name == "base" else f"{name}"
        text += ["", f"## {title}", ""]
        if name != "base":
            text += [_cell(_of_help("summary")(path)), ""]
        if plain:
            text += ["```yaml", path.read_text(encoding="utf-8").rstrip(), "```"]
            continue
        section = keys.CHOICES.get((group, name), keys.GROUPS[group])
        rows = _rows(cli_help._keys(path), section, f"{group}.", shared)
        text += [HEADER, *rows] if rows else []
    return "\n".join(text)


def _rows(
    lines: list[str], section: type[fields.Section], prefix: str, shared: dict[str, str]
) -> list[str]:
    """Return the table rows of yaml lines, ``key: default # description``.

    ``shared`` collects the descriptions; a later line of the same key without one takes it.
    """
    declared = {key: (role, field) for key, role, field in schema.walk(section)}
    rows = []
    for line in lines:
        key, rest = line.split(":", 1)
        default, _, comment = rest.partition(" #")
        description = shared[key] = comment.strip() or shared.get(key, "")
        role, field = declared.get(key, (section.role, None))
        allowed = (field.description or fields.describe(field.annotation)) if field else ""
        if role is fields.Role.LOCATION:
            allowed = allowed.replace("text", "a path", 1)
        code = [f"`{text}`" if text else "" for text in (f"{prefix}{key}", default.strip())]
        rows.append(
            "| " + " | ".join([*code, _cell(description), _cell(allowed), role.value]) + " |"
        )
    return rows


def _cell(text: str) -> str:
    """Return text that is safe in a cell of a Markdown table."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("*", "\\*")
