"""Draw the pictures of README.md and docs/: those named, or all that are older than the code that draws them.

    python docs/pictures.py                       # what is stale, if anything
    python docs/pictures.py rotate reconstruct    # these two; trains their network first: minutes on a CPU
    python docs/pictures.py rotate --network out/mnist_small    # of a network that was trained before
    python docs/pictures.py --check               # says what is stale and draws nothing

Each picture carries a digest of the code that drew it, and a test compares that with the code that stands.
The digest leaves out what draws nothing: comments, docstrings, imports. kernels.png and roofline.png show
times, which stay true of their day and machine: their digest is of the function that draws, not of what it
is given. mlflow.png shows MLflow's own page: it has no digest, and is taken anew with a new MLflow.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

ROOT = Path(__file__).resolve().parents[1]
FIGURES = "capsnet.figures"  # the package whose modules draw; what they import from it draws with them
DIGEST, COMMAND = "Source-Digest", "Drawn-By"  # as the PNG's texts are called
TRAINING = "python -m capsnet train {root}/experiments/mnist_small.yaml --set threads=1"
NETWORK = "out/mnist_small"  # what that leaves


@dataclass(frozen=True)
class Picture:
    """A picture, the commands that draw it, and the code that decides how it looks.

    In commands {picture} is its file, {network} the trained network, {home} an empty RUNNER_HOME, in which
    they run.
    """

    name: str
    commands: tuple[str, ...]
    drawn_by: str | None = None  # a module, or module:function for that function alone

    def file(self, root: Path = ROOT) -> Path:
        return root / "docs" / f"{self.name}.png"


PICTURES = [
    Picture(
        "reconstruct",
        ("python -m capsnet reconstruct {network} --output {picture}",),
        "capsnet.figures.reconstruct",
    ),
    Picture("rotate", ("python -m capsnet rotate {network} --output {picture}",), "capsnet.figures.rotate"),
    Picture(
        "kernels",
        ("python bench/kernels.py --precision bfloat16 --mode compiled --output {picture}",),
        "bench.kernels:draw",
    ),
    Picture("roofline", ("python bench/roofline.py --output {picture}",), "bench.roofline:draw"),
    Picture(
        "mlflow",
        (
            "python -m runner submit experiments/quickstart.yaml --wait",
            "python -m runner submit experiments/quickstart.yaml --wait --set route_iters=1 --name 1iter",
            "python docs/screenshot.py {home} {picture}",
            "python -m runner down",
        ),
    ),
]


def digest(drawn_by: str, root: Path = ROOT) -> str:
    """A digest of the code that `drawn_by` names, and of the modules of capsnet.figures that it imports."""
    module, _, function = drawn_by.partition(":")
    modules = [module] if function else _with_imports(module, root)
    parts = sorted(essence(_tree(name, root, function)) for name in modules)
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def _tree(module: str, root: Path, function: str = "") -> ast.AST:
    tree = ast.parse((root / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    if not function:
        return tree
    return next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function)


def _with_imports(module: str, root: Path) -> set[str]:
    found, waiting = set[str](), [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imported(_tree(name, root), root)
    return found


def _imported(tree: ast.AST, root: Path) -> Iterator[str]:
    """The modules of the package that a module imports, at whatever time."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(FIGURES):
            continue
        names = (
            [f"{FIGURES}.{alias.name}" for alias in node.names] if node.module == FIGURES else [node.module]
        )
        yield from (name for name in names if name and (root / f"{name.replace('.', '/')}.py").exists())


def essence(node: object) -> str:
    """Code as text, without positions, comments, docstrings and imports.

    The same in all versions of Python, which differ in the fields that are empty.
    """
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
        return f"{type(node).__name__}({', '.join(f'{name}={essence(value)}' for name, value in fields)})"
    if isinstance(node, list):
        return f"[{', '.join(essence(one) for one in node if not _does_nothing(one))}]"
    return repr(node)


def _does_nothing(node: object) -> bool:
    """Return whether it is an import or, on a line of its own, a text."""
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_text or isinstance(node, ast.Import | ast.ImportFrom)


def staleness(picture: Picture, root: Path = ROOT) -> str | None:
    """The reason to draw a picture anew, with the command that does it; None where there is none."""
    file = picture.file(root)
    how = f"python docs/pictures.py {picture.name}"
    if not file.exists():
        return f"docs/{file.name} is missing: {how}"
    if picture.drawn_by is None or stamp_of(file) == digest(picture.drawn_by, root):
        return None
    return f"docs/{file.name} is older than the code that draws it: {how}"


def stamp_of(file: Path) -> str | None:
    """The digest that a picture carries."""
    with Image.open(file) as image:
        return image.info.get(DIGEST)


def stamp(picture: Picture, root: Path = ROOT) -> None:
    """Write into the picture which code has drawn it, and by which command; its pixels stay."""
    if picture.drawn_by is None:
        return
    texts = PngInfo()
    texts.add_text(DIGEST, digest(picture.drawn_by, root))
    texts.add_text(COMMAND, f"python docs/pictures.py {picture.name}")
    file = picture.file(root)
    with Image.open(file) as image:
        image.save(file, pnginfo=texts, dpi=image.info.get("dpi"), optimize=True)


def draw(picture: Picture, network: str, root: Path = ROOT) -> None:
    """Carry out the picture's commands. Raises CalledProcessError where one fails."""
    with tempfile.TemporaryDirectory() as home:
        places = {"picture": str(picture.file(root)), "network": network, "home": home}
        quoted = {name: shlex.quote(place) for name, place in places.items()}
        for command in picture.commands:
            # A Ray of its own, which the last command ends.
            _run(command.format(**quoted), root, {"RUNNER_HOME": home, "RUNNER_RAY_DIR": f"{home}/ray"})
    stamp(picture, root)


def trained(folder: Path) -> str:
    """Train the network whose pictures these are, in an empty folder; where it is."""
    data = os.environ.get("CAPSNET_DATA", str(ROOT / "data"))
    _run(TRAINING.format(root=shlex.quote(str(ROOT))), folder, {"CAPSNET_DATA": data})
    return str(folder / NETWORK)


def _run(command: str, folder: Path, environment: dict[str, str]) -> None:
    print(command, flush=True)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | environment | {"PYTHONPATH": os.pathsep.join(paths)}
    words = shlex.split(command)
    subprocess.run([sys.executable, *words[1:]], cwd=folder, env=environment, check=True)


def arguments(names: Sequence[str], words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(names)}; default: those that are stale"
    )
    parser.add_argument("--network", metavar="FOLDER", help="a trained network, instead of training one")
    parser.add_argument("--check", action="store_true", help="draw nothing; exit code 1 if any is stale")
    given = parser.parse_args(words)
    if unknown := sorted(set(given.names) - set(names)):
        parser.error(f"there is no picture {', '.join(unknown)}: choose from {', '.join(names)}")
    return given


def main(words: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Draw what `words` ask for; the exit code."""
    given = arguments([picture.name for picture in PICTURES], words)
    reasons = {picture.name: staleness(picture, root) for picture in PICTURES}
    if given.check:
        for reason in filter(None, reasons.values()):
            print(reason)
        return int(any(reasons.values()))
    chosen = [p for p in PICTURES if (p.name in given.names if given.names else reasons[p.name])]
    if not chosen:
        print("no picture is older than the code that draws it")
    with tempfile.TemporaryDirectory() as folder:
        network = str(Path(given.network).resolve()) if given.network else ""
        for picture in chosen:
            try:
                if not network and any("{network}" in command for command in picture.commands):
                    network = trained(Path(folder))
                draw(picture, network, root)
            except subprocess.CalledProcessError as error:
                print(f"docs/{picture.name}.png: a command failed ({error.returncode})", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
