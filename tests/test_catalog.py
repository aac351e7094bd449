"""docs/catalog.md is the generated one, and nothing that users are offered is missing from it."""

import re
from pathlib import Path

import keras_optreg as kor

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "catalog.md").read_text(encoding="utf-8")


def cells_of(name):
    [line] = [line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |")]
    return line.strip("| ").split(" | ")


def test_the_page_is_the_generated_one(docs_tool):
    assert docs_tool.catalog() == TEXT, "run: python tools/update_docs.py"


def test_everything_public_is_in_it_once(docs_tool):
    families = (kor.optimizers, kor.regularizers, kor.schedules, kor.callbacks, kor.select)
    offered = {name for family in families for name in family.__all__ if callable(getattr(family, name))}
    listed = re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.M)
    assert sorted(listed) == sorted(
        (offered | set(kor.optimizers.gradient_transforms.__all__)) - docs_tool.update_readme.FOR_AUTHORS
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
