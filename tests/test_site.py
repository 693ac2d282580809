"""The documentation site: strict build, offline pages, generated reference."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from emotion_lab.config import compose, keys
from tests.conftest import ROOT

pytest.importorskip("material", reason='mkdocs is missing: pip install "emotion_lab[docs]"')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Build the site; ``strict`` raises on the first warning."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    out = tmp_path_factory.mktemp("site")
    levels = {name: logging.getLogger(name).level for name in ("mkdocs", "mkdocs.plugins")}
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(out), strict=True))
    yield out
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_nothing_is_loaded_from_the_network(site: Path) -> None:
    pages = [*site.rglob("*.html")]
    loaded = [
        match
        for page in pages
        for match in re.findall(
            r"<(?:script|link|img|iframe)[^>]*=\"?(?:https?:)?//[^>]*>", text(page)
        )
    ]
    styles = [
        file.name for file in site.rglob("*.css") if re.search(r"url\(\"?https?:", text(file))
    ]
    assert len(pages) > 40 and loaded == [] and styles == []


def test_every_command_group_and_key_has_a_row(site: Path) -> None:
    reference = site / "reference"
    for entry in keys.ENTRIES:
        page = text(reference / "commands" / f"{entry}.html")
        assert f"python -m emotion_lab.{entry}" in page
        config = yaml.safe_load(text(compose.CONF / f"{entry}.yaml"))
        for key in config.keys() - {"defaults", "hydra"}:
            assert f"<code>{key}</code>" in page or f"<code>{key}." in page, (entry, key)
    for group in keys.GROUPS:
        page = text(reference / "config" / f"{group}.html")
        for choice in compose.options(group):
            assert f'id="{choice}"' in page, (group, choice)
    model = text(reference / "config" / "model.html")
    row = re.search(r"<code>model.layer_decay</code></td>(.*?)</tr>", model, re.S)
    assert row is not None
    assert re.findall(r"<td>(.*?)</td>", row[1]) == [
        "<code>1.0</code>",
        "learning rate factor from each stage to the previous one",
        "a number above 0 to 1",
        "identity",
    ]


def test_home_is_the_readme_with_links_into_the_site(site: Path) -> None:
    home = text(site / "index.html")
    assert 'href="contributing.html"' in home and 'href="docs/' not in home
    assert 'src="docs/' not in home
