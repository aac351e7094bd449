"""Write the generated parts of the documentation: docs/catalog.md, the edited lines in docs/migration.md, the captions
and costs in docs/regularizers.md, the numbers in docs/schedules.md, the rules and trainings in docs/diagnosis.md.

python tools/update_docs.py
"""

import difflib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diagnosis_runs
import update_readme

import keras_optreg as kor
from keras_optreg.optimizers import RuleOptimizer, Scalar, Shaped

ROOT = update_readme.ROOT
CATALOG = ROOT / "docs" / "catalog.md"
MIGRATION = ROOT / "docs" / "migration.md"
REGULARIZERS = ROOT / "docs" / "regularizers.md"
SCHEDULES = ROOT / "docs" / "schedules.md"
DIAGNOSIS = ROOT / "docs" / "diagnosis.md"
PICTURES = ROOT / "docs" / "images" / "regularizers"
COSTS = ROOT / "benchmarks" / "results" / "penalty_cost.jsonl"
PAIRS = ROOT / "tests" / "migration"
INTRODUCTION = """# Catalogue

Everything in keras_optreg, from its docstrings; `python tools/update_docs.py` writes this page. Names of other
libraries: [migration.md](migration.md).
"""
LEGEND = """*Slots* are the numbers that an optimizer keeps for each weight, with its default arguments: Adam's 2 are
twice the memory of the weights. *Proximal* says whether `penalties=` may act by a proximal map, which gives exact
zeros; a `.coupled()` penalty acts under every optimizer. *Elementwise*: each scalar of a weight is updated alone,
without the norm of the whole. All take the shared arguments that `SGD` lists, besides their own."""


# ------------------------------------------------------------------ what a docstring and a signature say


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _paragraph(thing: Any, start: str) -> str:
    """The paragraph of the docstring that begins with `start`, without it; empty when there is none."""
    found = re.search(rf"^{start}\s+(.*?)(?=\n\s*\n|\Z)", inspect.getdoc(thing) or "", flags=re.S | re.M)
    return _cell(found[1]) if found else ""


def _when(thing: Any) -> str:
    text = _paragraph(thing, "When to use it:")
    return text[:1].upper() + text[1:]


def _reference(thing: Any) -> str:
    """The docstring's reference, with links to arXiv."""
    return _linked(_paragraph(thing, "Reference:"))


def _reference_of_rule(cls: Any) -> str:
    """The docstring's reference, or what follows the first sentence of its module."""
    first = (sys.modules[cls.__module__].__doc__ or "").strip().splitlines()
    named = re.match(r".*?[^.]\. (.*\b\d{4}\b.*)$", first[0]) if first else None
    return _reference(cls) or _linked(_cell(named[1]) if named else "")


def _linked(text: str) -> str:
    return re.sub(r"arXiv[: ](\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text.rstrip("."))


def _default(value: Any) -> str:
    return value.__name__ if inspect.isclass(value) or inspect.isfunction(value) else repr(value)


def _arguments(thing: Any) -> str:
    """Own arguments with their defaults; those that all optimizers share stand behind `**options` and are left out."""
    parameters = inspect.signature(thing.__init__ if isinstance(thing, type) else thing).parameters.values()
    shown = [
        f"`{p.name}`" if p.default is p.empty else f"`{p.name}={_default(p.default)}`"
        for p in parameters
        if p.name != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    return _cell(", ".join(shown))


# ------------------------------------------------------------------ optimizers


def _made(cls: type[RuleOptimizer], **arguments: Any) -> RuleOptimizer:
    """An optimizer with its defaults; those that insist on a penalty get one."""
    try:
        return cls(**arguments)  # type: ignore[call-arg]
    except ValueError:
        return cls(penalties=kor.regularizers.L1(0.0), **arguments)  # type: ignore[call-arg]


def _counted(optimizer: RuleOptimizer) -> str:
    """How many slots a weight has; another kind than one number for each number of the weight is named."""
    kinds = [None if isinstance(start, int | float | str) else type(start) for start in optimizer.slots.values()]
    others = [kind for kind in dict.fromkeys(kinds) if kind is not None]
    names: dict[type, str] = {Scalar: "number a tensor", Shaped: "square matrices"}
    more = [f"{kinds.count(kind)} {names.get(kind, f'`{kind.__name__}`')}" for kind in others]
    return " + ".join([*([str(kinds.count(None))] if None in kinds or not more else []), *more])


def _slots(cls: type[RuleOptimizer]) -> str:
    """The count with the default arguments, and with each argument that changes it."""
    plain = _counted(_made(cls))
    changed = []
    for p in inspect.signature(cls.__init__).parameters.values():
        is_off = p.default is False or (isinstance(p.default, float) and p.default == 0)
        if is_off:
            count = _counted(_made(cls, **{p.name: True if p.default is False else 0.5}))
            changed += [f"{count} with `{p.name}`"] if count != plain else []
    return f"{plain} ({', '.join(changed)})" if changed else plain


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _rules(things: dict[str, Any]) -> str:
    header = ("name", "what it is", "when to use it", "slots", "proximal", "elementwise", "own arguments", "reference")
    rows = [
        (
            f"`{name}`",
            update_readme.summary(cls),
            _when(cls),
            _slots(cls),
            _yes(_made(cls).has_metric),
            _yes(cls.elementwise),
            _arguments(cls),
            _reference_of_rule(cls),
        )
        for name, cls in things.items()
    ]
    return _table(header, rows)


# ------------------------------------------------------------------ pages


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table without the columns that no row fills."""
    filled = [i for i in range(len(header)) if any(row[i] for row in rows)]
    lines = [[each[i] for i in filled] for each in (header, ("---",) * len(header), *rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _components(things: dict[str, Any]) -> str:
    header = ("name", "what it is", "when to use it", "arguments", "reference")
    rows = [
        (f"`{name}`", update_readme.summary(each), _when(each), _arguments(each), _reference_of_rule(each))
        for name, each in things.items()
    ]
    return _table(header, rows)


def public(module: Any) -> dict[str, Any]:
    """All classes and functions a family offers to users: classes first, each kind in the order of the alphabet.

    What a family within it offers, too, such as the probes among the callbacks, stands there alone.
    """
    within = [m for m, _ in update_readme.FAMILIES.values() if m.__name__.startswith(module.__name__ + ".")]
    elsewhere = {*update_readme.FOR_AUTHORS, *(name for m in within for name in m.__all__)}
    offered = {name: getattr(module, name) for name in module.__all__ if name not in elsewhere}
    callables = {name: each for name, each in offered.items() if callable(each)}
    return dict(sorted(callables.items(), key=lambda item: (not isinstance(item[1], type), item[0].lower())))


def catalog() -> str:
    return "\n\n".join([INTRODUCTION.rstrip(), *_sections()]) + "\n"


def _sections() -> Iterator[str]:
    for family, (module, _) in update_readme.FAMILIES.items():
        things = public(module)
        rules = {n: each for n, each in things.items() if isinstance(each, type) and issubclass(each, RuleOptimizer)}
        rest = {n: each for n, each in things.items() if n not in rules}
        yield f"## {family[0].upper()}{family[1:]}"
        if rules:
            yield LEGEND
            yield _rules(rules)
        if rules and rest:
            yield "Around them:"
        if rest:
            yield _components(rest)


def edited_lines(before: Path, after: Path) -> list[str]:
    """The lines that leave the first file, with `-`, and those that come into the second, with `+`."""
    old, new = (path.read_text(encoding="utf-8").splitlines() for path in (before, after))
    return [line for line in difflib.unified_diff(old, new, n=0, lineterm="") if re.match(r"[-+](?![-+]{2} )", line)]


def pairs() -> dict[str, tuple[Path, Path]]:
    """The scripts before and after they moved here, by their common name."""
    before = sorted(PAIRS.glob("*_before.py"))
    return {p.name.removesuffix("_before.py"): (p, p.with_name(p.name.replace("_before", "_after"))) for p in before}


def migration(text: str) -> str:
    """The page with the edited lines of every pair, as the files have them."""
    blocks = {name: "\n".join(["```diff", *edited_lines(*pair), "```"]) for name, pair in pairs().items()}
    return update_readme.fill(text, blocks, "docs/migration.md")


def regularizers(text: str) -> str:
    """The page with each picture, the sentence that was drawn with it, and the last run of the benchmark."""
    captions = json.loads((PICTURES / "numbers.json").read_text(encoding="utf-8"))["captions"]
    parts = {name: f"![{name}](images/{PICTURES.name}/{name}.png)\n\n{each}" for name, each in captions.items()}
    return update_readme.fill(text, {**parts, "costs": _costs()}, "docs/regularizers.md")


def _costs() -> str:
    run = json.loads(COSTS.read_text(encoding="utf-8").splitlines()[-1])
    loss, step, alone = (run[key] for key in ("in_loss", "in_update_training_step", "in_update_optimizer_step"))

    def shown(quantiles: list[float], digits: int) -> str:
        middle, low, high = (f"{q:.{digits}f}" for q in quantiles)
        return f"{middle} ({low} to {high})"

    in_loss = [
        (f"`{name}`", shown(row["keras_adds_ms"], 1), shown(row["ours_adds_ms"], 1), shown(row["ratio"], 2))
        for name, row in loss["penalties"].items()
    ]
    in_update = [
        (f"`{name}`", shown(row["adds_percent"], 0), shown(alone["penalties"][name]["adds_percent"], 0))
        for name, row in step["penalties"].items()
    ]
    return "\n".join(
        [
            "In the loss: milliseconds that a penalty adds to a training step of "
            f"{shown(loss['plain_ms'], 1)} ms, with Keras's SGD.",
            "",
            _table(("", "Keras's adds", "ours adds", "ours / Keras's"), in_loss),
            "",
            f"In the update: per cent that it adds to a training step of {shown(step['plain_ms'], 1)} ms with our "
            f"Adam, and to Adam's own part of it, {shown(alone['plain_ms'], 1)} ms.",
            "",
            _table(("", "training step, %", "Adam alone, %"), in_update),
            "",
            f"Medians of the differences within a round, with quartiles, over {run['rounds']} rounds; a network "
            f"784-2048-2048-10, batches of 32; Keras {run['keras']}, TensorFlow "
            f"{run.get('tensorflow-cpu', run.get('tensorflow'))}, {run['cores']} cores, load {run['load_before']} to "
            f"{run['load_after']}.",
        ]
    )


def examples(text: str) -> dict[str, str]:
    """By the names of their pictures, the examples of docs/schedules.md that have one: the code above it."""
    found = re.findall(r"```python\n([^`]*)```\n\n<!-- (\w+) -->", text)
    return {name: code for code, name in found}


def curves(code: str) -> dict[str, Any]:
    """The schedules that an example makes, by the names it gives them."""
    names: dict[str, Any] = {}
    exec("from keras_optreg.schedules import *", names)
    before = set(names)
    exec(compile(code, SCHEDULES.name, "exec"), names)
    return {name: made for name, made in names.items() if name not in before}


def schedules(text: str) -> str:
    """The page with each picture and the numbers at five steps of it."""
    steps = range(0, 1001, 250)
    parts = {}
    for name, code in examples(text).items():
        rows = [(f"`{n}`", *(f"{float(made(t)):.3g}" for t in steps)) for n, made in curves(code).items()]
        parts[name] = f"![{name}](images/schedules/{name}.png)\n\n{_table(('step', *map(str, steps)), rows)}"
    return update_readme.fill(text, parts, "docs/schedules.md")


# ------------------------------------------------------------------ docs/diagnosis.md


def diagnosis(text: str) -> str:
    """The page, with its table of rules and what the recorded trainings show."""
    rules = ["| fault | is named where | source |", "|---|---|---|"]
    for rule in kor.diagnosis.RULES:
        rules.append(f"| {rule.name} | {_cell(inspect.getdoc(rule) or '')} | {_cell(rule.source)} |")
    runs = {name: [kor.diagnose(run) for run in those] for name, those in diagnosis_runs.recorded().items()}
    sections = []
    for fault, trainings in diagnosis_runs.FAULTS.items():
        sections.append(f"### {fault[:1].upper()}{fault[1:]}\n")
        for make in trainings:
            first = next(finding for finding in runs[make.__name__][0] if finding.name == fault)
            found = sum(fault in each for each in runs[make.__name__])
            others = sorted({finding.name for each in runs[make.__name__] for finding in each} - {fault})
            beside = f"; beside it in some: {', '.join(others)}" if others else ""
            picture = f"images/diagnosis/{make.__name__}.png"
            sections += [
                f"{make.__doc__}\n",
                *([f"![{fault}]({picture})\n"] if (ROOT / "docs" / picture).exists() else []),
                f"> {first.evidence}\n>\n> What helps: {first.remedy}\n",
                f"Found in {found} of {len(runs[make.__name__])}{beside}.\n",
            ]
    healthy = ["| training | faults found, in runs |", "|---|---|"]
    for make in diagnosis_runs.HEALTHY:
        those = runs[make.__name__]
        healthy.append(f"| {make.__doc__} | {sum(bool(each.findings) for each in those)} of {len(those)} |")
    parts = {"rules": rules, "trainings": sections, "healthy": healthy}
    return update_readme.fill(text, {name: "\n".join(lines) for name, lines in parts.items()}, "docs/diagnosis.md")


def main() -> None:
    DIAGNOSIS.write_text(diagnosis(DIAGNOSIS.read_text(encoding="utf-8")), encoding="utf-8")
    SCHEDULES.write_text(schedules(SCHEDULES.read_text(encoding="utf-8")), encoding="utf-8")
    REGULARIZERS.write_text(regularizers(REGULARIZERS.read_text(encoding="utf-8")), encoding="utf-8")
    CATALOG.write_text(catalog(), encoding="utf-8")
    MIGRATION.write_text(migration(MIGRATION.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
