"""docs/catalog.md and docs/migration.md are the generated ones, complete, and their links lead somewhere."""

import importlib
import re
import sys
from pathlib import Path

import pytest

import keras_optreg as kor

ROOT = Path(__file__).parents[1]
CATALOG, MIGRATION = ((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("catalog.md", "migration.md"))


@pytest.fixture
def tool(monkeypatch):
    """tools/update_docs.py, which imports its neighbour."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    yield importlib.import_module("update_docs")
    for module in ("update_docs", "update_readme"):
        sys.modules.pop(module, None)


def cells_of(name):
    [line] = [line for line in CATALOG.splitlines() if line.startswith(f"| `{name}` |")]
    return line.strip("| ").split(" | ")


def test_the_pages_are_the_generated_ones(tool):
    assert tool.catalog() == CATALOG, "run: python tools/update_docs.py"
    assert tool.migration(MIGRATION) == MIGRATION, "run: python tools/update_docs.py"


def test_a_script_moves_here_in_three_lines(tool):
    assert len(tool.pairs()) == 10
    for before, after in tool.pairs().values():
        lines = tool.edited_lines(before, after)
        removed, added = (sum(line.startswith(sign) for line in lines) for sign in "-+")
        assert 0 < max(removed, added) <= 3, lines
        assert "keras_optreg" not in before.read_text(encoding="utf-8")
        assert "tensorflow_addons" not in after.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [CATALOG, MIGRATION], ids=["catalog", "migration"])
def test_links_exist(page):
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", page) if "://" not in target]
    assert targets
    for target in targets:
        assert (ROOT / "docs" / target).exists(), target


def test_everything_public_is_in_it_once(tool):
    families = (kor.optimizers, kor.regularizers, kor.constraints, kor.schedules, kor.callbacks, kor.select)
    offered = {name for family in families for name in family.__all__ if callable(getattr(family, name))}
    listed = re.findall(r"^\| `(\w+)` \|", CATALOG, flags=re.M)
    assert sorted(listed) == sorted(
        (offered | set(kor.optimizers.gradient_transforms.__all__)) - tool.update_readme.FOR_AUTHORS
    )


def test_columns_say_what_the_classes_do():
    when, slots, proximal, elementwise, arguments, reference = cells_of("Adam")[2:]
    assert (slots, proximal, elementwise) == ("2 (3 with `amsgrad`)", "yes", "yes")
    assert "`beta_1=0.9`" in arguments
    assert "weight_decay" not in arguments
    assert reference.endswith("[arXiv:1412.6980](https://arxiv.org/abs/1412.6980)")
    assert when.startswith("The default for most networks.")
    assert cells_of("SGD")[3] == "0 (1 with `momentum`)"
    assert cells_of("NovoGrad")[3:6] == ["1 + 1 number a tensor", "yes", "no"]
    assert cells_of("MADGRAD")[3:6] == ["3", "no", "yes"]
    assert cells_of("matching")[2] == "`regex`"
