"""The README is true: its code runs, its tables are the generated ones, its links lead somewhere."""

import importlib.util
import re
from pathlib import Path

import keras
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)


def _small_network(weights, classes):
    assert weights is None
    layers = [
        keras.Input((8, 8, 3)),
        keras.layers.Conv2D(4, 3, name="conv"),
        keras.layers.Flatten(),
        keras.layers.Dense(classes, activation="softmax", name="head"),
    ]
    return keras.Sequential(layers)


def test_the_example_of_the_first_screen_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # The same lines with a network of two layers in MobileNet's place, on 20 small images for two epochs.
    monkeypatch.setattr(keras.applications, "MobileNetV3Small", _small_network)
    code = CODE[0].replace("epochs=50", "epochs=2")
    assert code.count("epochs=2") == 1
    rng = np.random.default_rng(0)
    names = {"x": rng.uniform(size=(20, 8, 8, 3)).astype("float32"), "y": rng.integers(10, size=20)}
    exec(compile(code, "README.md", "exec"), names)
    assert len(names["model"].losses) == 2
    assert list((tmp_path / "logs/run1").rglob("events.out.tfevents.*"))
    assert "conv/kernel" in capsys.readouterr().out


@pytest.mark.parametrize("code", CODE[1:])
def test_the_other_examples_run(code):
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    for optimizer in [thing for thing in names.values() if isinstance(thing, keras.optimizers.Optimizer)]:
        config = optimizer.get_config()
        assert optimizer.from_config(config).get_config() == config
    if "monitor" in names:
        assert [type(each).__name__ for each in names["monitor"].writers] == ["CSVWriter"]


def test_tables_are_the_generated_ones():
    spec = importlib.util.spec_from_file_location("update_readme", ROOT / "tools" / "update_readme.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.render(TEXT) == TEXT, "run: python tools/update_readme.py"


def test_links_and_pictures_exist():
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in target]
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


def test_install_line_and_the_two_commands_are_in_the_first_screen():
    first_screen = "\n".join(TEXT.splitlines()[:40])
    for line in ('pip install "keras-optreg[cpu]"', "make demo", "make test"):
        assert line in first_screen
