"""The layers of the design, read from the imports: what may know what, and what must not be loaded."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "keras_optreg"
FILES = sorted(PACKAGE.rglob("*.py"))

# Everyone may import these; they import nothing of the package but each other.
GROUND = {"bounds", "introspection", "live_numbers", "projections", "saving", "select", "table", "typing"}
FAMILIES = {"optimizers", "regularizers", "constraints", "schedules", "callbacks", "diagnosis"}
# Within a family: the machine, its parts and the mathematics that components share.
SHARED = {
    "optimizers.rule_optimizer",
    "optimizers.compiled_step",
    "optimizers.update_order",
    "optimizers.options",
    "optimizers.checkpoint",
    "optimizers.saved_arguments",
    "optimizers.scheduled_rate",
    "optimizers.slots",
    "optimizers.weight_decay",
    "optimizers.weight_plan",
    "optimizers.moments",
    "optimizers.matrices",
    "optimizers.averaged",
    "optimizers.schedule_free",
    "optimizers.wrapper",
    "optimizers.gradient_transforms",
    "optimizers.live_arguments",
    "regularizers.penalty_regularizer",
    "regularizers.piecewise",
    "regularizers.layer_choice",
    "regularizers.group_norm",
    "regularizers.matrices",
    "regularizers.one_pass",
    "regularizers.channelwise",
    "regularizers.dead_units",
    "regularizers.owners",
    "regularizers.rebuilding",
    "regularizers.saved_form",
    "regularizers.scales",
    "regularizers.views",
    "constraints.constraint",
    "schedules.function_schedule",
    "schedules.shapes",
    "callbacks.direction",
    "callbacks.monitor",
    "callbacks.run_description",
    "callbacks.actions.action",
    "callbacks.actions.evaluation",
    "callbacks.actions.live_parameter",
    "callbacks.actions.monitored",
    "callbacks.actions.rates",
    "callbacks.actions.scheduled",
    "callbacks.actions.swapped_weights",
    "callbacks.actions.trainable",
    "callbacks.criteria.criterion",
    "callbacks.criteria.patience",
    "callbacks.probes.probe",
    "callbacks.probes.gradient_tap",
    "callbacks.probes.replicas",
    "callbacks.writers.writer",
    "diagnosis.recorded",
    "diagnosis.rule",
}
# Files above the components of their family, with what lifts them there.
ABOVE = {
    "optimizers.proximal": "the rules of SGD and Adagrad under the names of the methods with a proximal map",
    "regularizers.attach": "composes two penalties on one weight into a Sum",
    "regularizers.attach_activity": "attaches, and makes traced functions anew as attach does",
    "regularizers.to_keras": "knows which of our penalties Keras has too",
    "schedules.combinators": "makes schedules of schedules; a warmup is a line joined to another",
    "callbacks.tensorboard": "a preset: the probes and the writer that belong together",
    "diagnosis.diagnose": "has the list of all rules",
}
# Imports between components that are right all the same.
ALLOWED = {
    ("callbacks.probes.gradient_tap", "callbacks.probes.weights"): "one norm for weights and gradients",
}
PRIVATE_KERAS = {
    "check",  # Keras's global seed generator
    "saving",  # Keras's serializer imports TensorFlow under other backends
}
NEVER_AT_IMPORT = {"tensorflow", "torch", "jax", "tensorboard", "tensorboardX", "matplotlib", "sklearn", "optuna"}
FORBIDDEN_NAMES = {"utils", "helpers", "common", "base", "misc"}


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


def is_package(module: str) -> bool:
    return MODULES[module].name == "__init__.py"


def own_imports(file: Path) -> set[str]:
    """Modules of the package that the file imports anywhere, as `family.module`, but for those in type checks only."""
    found = set()
    for node in ast.walk(_without_type_checking(ast.parse(file.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide the layers"
            names = [node.module or ""]
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.removeprefix("keras_optreg.") for name in names if name.startswith("keras_optreg.")}
    return found & set(MODULES)


def _without_type_checking(tree: ast.Module) -> ast.Module:
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test))]
    return tree


def family_of(module: str) -> str:
    return module.split(".")[0]


COMPONENTS = sorted(
    module
    for module in MODULES
    if family_of(module) in FAMILIES and not is_package(module) and module not in SHARED and module not in ABOVE
)


def test_the_tables_above_name_files_that_exist():
    planned = {"optimizers.matrices", "optimizers.gradient_transforms", "regularizers.views"}
    assert (SHARED | set(ABOVE) | GROUND) - planned <= set(MODULES)
    assert {module for pair in ALLOWED for module in pair} <= set(MODULES)


@pytest.mark.parametrize("module", sorted(GROUND))
def test_the_ground_imports_only_the_ground(module):
    assert own_imports(MODULES[module]) <= GROUND


@pytest.mark.parametrize("module", [m for m in MODULES if family_of(m) in FAMILIES])
def test_a_family_imports_only_itself_and_the_ground(module):
    outside = {m for m in own_imports(MODULES[module]) if family_of(m) != family_of(module)}
    assert outside <= GROUND


@pytest.mark.parametrize("module", COMPONENTS)
def test_a_component_imports_no_other_component_and_nothing_above(module):
    within = {m for m in own_imports(MODULES[module]) if family_of(m) in FAMILIES and not is_package(m)}
    assert within <= SHARED


@pytest.mark.parametrize("module", sorted(SHARED & set(MODULES)))
def test_the_machines_know_no_component(module):
    components = {m for m in own_imports(MODULES[module]) if m in COMPONENTS or m in ABOVE}
    assert components <= {target for source, target in ALLOWED if source == module}


def test_probes_and_writers_do_not_know_each_other():
    for module, file in MODULES.items():
        imported = own_imports(file)
        if module.startswith("callbacks.probes"):
            assert not {m for m in imported if m.startswith(("callbacks.writers", "callbacks.monitor"))}, module
        if module.startswith("callbacks.writers"):
            assert not {m for m in imported if m.startswith(("callbacks.probes", "callbacks.monitor"))}, module


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module or "keras_optreg")
def test_backends_and_optional_packages_are_imported_where_they_are_used(module):
    tree = _without_type_checking(ast.parse(MODULES[module].read_text(encoding="utf-8")))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in inside:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not {name.split(".")[0] for name in names} & NEVER_AT_IMPORT


def test_private_parts_of_keras_are_touched_only_where_no_public_way_exists():
    users = {module for module, file in MODULES.items() if "keras.src" in file.read_text(encoding="utf-8")}
    assert users == PRIVATE_KERAS


def _lines_of_code(file: Path) -> int:
    """Lines that hold more than a docstring, a comment or nothing."""
    text = file.read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    prose = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    lines = enumerate(text.splitlines(), start=1)
    return sum(number not in prose and bool(line.split("#")[0].strip()) for number, line in lines)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module or "keras_optreg")
def test_a_file_is_named_for_its_one_idea_and_stays_small(module):
    assert not set(module.split(".")) & FORBIDDEN_NAMES
    assert _lines_of_code(MODULES[module]) <= 350
