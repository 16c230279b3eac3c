"""Rules for imports: floors, the few files that may import Ray or MLflow, and the modules a command loads.

The last tests show that each of these guards can fail.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Higher imports lower, never back. A new module belongs on the lowest floor that its imports allow and its
# purpose fits; `name.*` stands for a package and all that it holds.
FLOORS = {
    "capsnet": [
        "config choosing sections dataset_sections model_sections presets schema mistakes printable wording "
        "validation yamlfile yamltext yamlwords routing em randomness reference reference_em files geometry "
        "images layers pairing mat5 notices agreement kernel native convolution patience group private "
        "caches cpus guard locks streams layout folder_files dataset_files preflight",
        "capsules decoders losses datasets idx downloads pickled binary_matrix mnist framed_mnist affnist "
        "multi_mnist cifar10 svhn smallnorb folder augmentation affine distortion network",
        "models capsule_network matrix_network efficient_network cnn initialization objective",
        "evaluation checkpoint saving snapshot state history execution schedules stopping optimizers "
        "overwriting",
        "training learner stepping graphs batches pace triton_kernel triton_agreement",
        "tensorboard progressbar",
        "keeper figures.*",
        "cli __main__ commands.* interrupts exits",
    ],
    "runner": [
        "spec loading overrides paths place private source code_cache guest protocol tags versions wording "
        "loopback redaction",
        "states rows filters configuration changes moves room spread placement record system_metrics "
        "run_files held objects growing remote_checkpoint object_storage storage uploading workplace "
        "settings ownership",
        "store database tables queries schema sqlite postgres postgres_errors opening clock sources "
        "migrations.*",
        "worker attempt follower keeper orders output_log backlog log_copy publisher tracking relocation "
        "model_artifact capsnet_pyfunc",
        "cluster resources",
        "scheduler crew scheduler_actor publisher_actor attendance endings launch service local_ray "
        "ray_environment",
        "cli __main__ commands.* comparison homes output exits notes narration following views editing git "
        "present stages ui ui_child ui_record web_gate web_proxy web_server run_tied tensorboard_server",
    ],
}

# The only modules that may import a library; None: no module at all.
ONLY = {
    "ray": {"runner.cluster"},
    "mlflow": {"runner.tracking", "runner.model_artifact"},
    "sqlalchemy": {
        "runner.store",
        "runner.database",
        "runner.tables",
        "runner.queries",
        "runner.sources",
        "runner.schema",
        "runner.sqlite",
        "runner.postgres",
        "runner.opening",
        "runner.migrations",
    },
    "psycopg": {"runner.postgres"},
    "aiohttp": {"runner.web_proxy"},
    "starlette": {"runner.web_gate", "runner.web_proxy", "runner.web_server", "runner.ui"},
    "uvicorn": {"runner.web_server"},
    "fsspec": {"runner.objects"},
    "alembic": {"runner.schema", "runner.migrations"},
    "typer": {"runner.cli", "runner.output", "runner.commands"},
}
OPTIONAL = {"tensorboard", "sklearn", "scipy", "matplotlib", "rich", "torchvision", "torch.utils.tensorboard"}


@dataclass(frozen=True)
class Import:
    """One imported name, and whether importing its file runs it."""

    importer: str
    name: str
    at_once: bool

    def of(self, module: str) -> bool:
        return self.name == module or self.name.startswith(module + ".")


def modules(package: Path) -> dict[str, Path]:
    """Return every module of a package with its file."""
    return {
        ".".join(file.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): file
        for file in sorted(package.rglob("*.py"))
    }


def imports(module: str, file: Path) -> Iterator[Import]:
    """Yield all imports of a file, also those inside functions and those for type checkers."""
    tree = ast.parse(file.read_text())
    later = {id(inner) for node in ast.walk(tree) if is_later(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively; absolute imports are the habit here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (Import(module, name, id(node) not in later) for name in names)


def is_later(node: ast.AST) -> bool:
    """Return whether the code below a node does not run on import."""
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
        isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    )


def all_imports(package: Path) -> list[Import]:
    return [found for module, file in modules(package).items() for found in imports(module, file)]


def floor_of(module: str, floors: list[str]) -> int | None:
    """Return the number of a module's floor; the package itself is below all, at -1."""
    name = module.partition(".")[2]
    if not name:
        return -1
    names = (name, f"{name.partition('.')[0]}.*")
    return next((number for number, floor in enumerate(floors) if set(names) & set(floor.split())), None)


def climbs(package: Path, floors: list[str]) -> list[str]:
    """List imports of a higher floor, and modules without a floor."""
    known = modules(package)
    wrong = [f"{module} has no floor" for module in known if floor_of(module, floors) is None]
    for found in all_imports(package):
        target = found.name if found.name in known else found.name.rpartition(".")[0]
        if target not in known:
            continue
        above, below = floor_of(found.importer, floors), floor_of(target, floors)
        if above is not None and below is not None and below > above:
            wrong.append(f"{found.importer} (floor {above}) imports {target} (floor {below})")
    return wrong


def circles(package: Path) -> list[str]:
    """List modules that import themselves through others, also by imports inside functions."""
    known = modules(package)
    reached: dict[str, set[str]] = {module: set() for module in known}
    for found in all_imports(package):
        target = found.name if found.name in known else found.name.rpartition(".")[0]
        if target in known and target != package.name:
            reached[found.importer].add(target)
    for _ in known:
        reached = {module: below.union(*(reached[m] for m in below)) for module, below in reached.items()}
    return [module for module, below in reached.items() if module in below]


def trespasses(package: Path, only: dict[str, set[str]]) -> list[str]:
    """List imports of a library by a module that is not allowed to import it."""
    return [
        f"{found.importer} imports {found.name}"
        for found in all_imports(package)
        for library, allowed in only.items()
        if found.of(library)
        and not any(found.importer == m or found.importer.startswith(m + ".") for m in allowed)
    ]


def loaded_by(module: str) -> set[str]:
    """Return the names of all modules that a fresh Python has loaded after `import module`."""
    code = f"import sys, json, {module}; print(json.dumps(list(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(run.stdout))


@pytest.mark.parametrize("package", FLOORS)
def test_higher_floors_import_lower_ones_and_never_back(package):
    assert climbs(ROOT / package, FLOORS[package]) == []


@pytest.mark.parametrize("package", FLOORS)
def test_no_modules_import_each_other_in_a_circle(package):
    assert circles(ROOT / package) == []


@pytest.mark.parametrize("package", FLOORS)
def test_every_name_on_a_floor_is_a_module(package):
    there = {module.partition(".")[2] for module in modules(ROOT / package)}
    named = {name.removesuffix(".*") for floor in FLOORS[package] for name in floor.split()}
    assert named <= there


def test_capsnet_works_alone():
    nobody = {library: set[str]() for library in ("ray", "mlflow", "runner", "sqlalchemy", "typer")}
    assert trespasses(ROOT / "capsnet", nobody) == []


def test_what_capsnet_needs_now_and_then_is_imported_inside_functions():
    assert [
        found for found in all_imports(ROOT / "capsnet") if found.at_once and any(map(found.of, OPTIONAL))
    ] == []


def test_pictures_are_drawn_without_state_that_others_share():
    shared = {library: set[str]() for library in ("matplotlib.pyplot", "matplotlib.pylab", "pylab")}
    assert trespasses(ROOT / "capsnet", shared) == []


def test_few_modules_of_the_runner_know_ray_mlflow_or_the_database():
    assert trespasses(ROOT / "runner", ONLY) == []


@pytest.mark.parametrize(
    "module",
    ["capsnet.config", "capsnet.preflight", "runner.loading", "runner.cli", "runner.store", "runner.paths"],
)
def test_what_a_command_needs_to_start_is_light(module):
    heavy = {"torch", "torchvision", "numpy", "ray", "mlflow", "sklearn", "tensorboard", "scipy", "pandas"}
    assert loaded_by(module) & heavy == set()


def test_reading_a_configuration_needs_no_database():
    assert loaded_by("runner.loading") & {"sqlalchemy", "typer", "rich", "difflib", "asyncio"} == set()


def test_training_starts_without_what_it_may_never_need():
    assert (
        loaded_by("capsnet.training") & {"torchvision", "sklearn", "tensorboard", "mlflow", "ray", "runner"}
        == set()
    )


@pytest.fixture
def house(tmp_path):
    """A small package that breaks every rule."""
    package = tmp_path / "house"
    package.mkdir()
    files = {
        "__init__": "",
        "cellar": "def f():\n    from house.roof import g\n",
        "roof": "import ray.actor\nimport house.cellar\nfrom house import cellar\n",
        "shed": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import scipy\nimport rich\n",
    }
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    return package


def test_the_guard_of_the_floors_can_fail(house):
    assert climbs(house, ["cellar", "roof"]) == [
        "house.shed has no floor",
        "house.cellar (floor 0) imports house.roof (floor 1)",
    ]
    assert climbs(house, ["cellar roof shed.*"]) == []


def test_the_guard_against_circles_can_fail(house):
    assert circles(house) == ["house.cellar", "house.roof"]


def test_the_guard_of_the_libraries_can_fail(house):
    assert trespasses(house, {"ray": set(), "scipy": {"house.shed"}}) == ["house.roof imports ray.actor"]
    assert trespasses(house, {"ray": {"house.roof"}}) == []


def test_the_guard_of_late_imports_can_fail(house):
    early = [found.name for found in all_imports(house) if found.at_once and found.importer == "house.shed"]
    assert early == ["typing.TYPE_CHECKING", "rich"]


def test_the_guard_of_light_imports_can_fail():
    assert "numpy" in loaded_by("capsnet.idx")
