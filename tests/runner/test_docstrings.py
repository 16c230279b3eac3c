"""Docstrings begin with a verb or a concrete noun: no first word that leaves open what is described.

The last test shows that this guard can fail.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ["capsnet", "runner", "bench", "docs", "tests"]
FORBIDDEN = re.compile(r"(What|That|Those|These|Whoever|One that|As)\b")
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring in a file, also of nested functions and classes."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)) is not None:
            yield node.body[0].lineno, text


def offenders(folder: Path) -> list[str]:
    """Return `file:line: first line` of each docstring below a folder with a forbidden beginning."""
    return [
        f"{file.relative_to(folder.parent)}:{line}: {text.splitlines()[0]}"
        for file in sorted(folder.rglob("*.py"))
        for line, text in sorted(docstrings(file))
        if FORBIDDEN.match(text)
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_docstrings_begin_with_a_verb_or_a_concrete_noun(folder):
    assert (ROOT / folder).is_dir()
    found = offenders(ROOT / folder)
    assert not found, "begin with a verb or a concrete noun:\n" + "\n".join(found)


def test_the_guard_of_docstrings_can_fail(tmp_path):
    riddles = tmp_path / "riddles"
    (riddles / "deeper").mkdir(parents=True)
    (riddles / "deeper" / "inner.py").write_text('"""What there is.\n\nAnd more.\n"""\n')
    (riddles / "outer.py").write_text(
        '"""Whatever begins with other words passes."""\n'
        "class Box:\n"
        '    """These are its contents."""\n'
        "    async def open(self):\n"
        '        """\n'
        "        One that opens it.\n"
        '        """\n'
        "        def lid():\n"
        '            """As above."""\n'
        "def assign():\n"
        '    """Assign what is left; one that begins like this passes."""\n'
        "def silent():\n"
        '    return "That is no docstring."\n'
    )
    assert offenders(riddles) == [
        "riddles/deeper/inner.py:1: What there is.",
        "riddles/outer.py:3: These are its contents.",
        "riddles/outer.py:5: One that opens it.",
        "riddles/outer.py:9: As above.",
    ]
