"""Mutation check: `python -m tests.mutation [FILE...]` changes one comparison, condition or limit at a time, in a copy,
and runs the tests that guard the file. A change that no test notices is printed. The last line is the score.

Kept small on purpose: it needs no configuration, and a run over the three guards takes a quarter of an hour.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = {
    "migrate/verify/": [
        "tests/unit/verify/test_names.py",
        "tests/unit/verify/test_verify.py",
        "tests/contract/test_image_target.py",
    ],
    "migrate/compose/chain.py": ["tests/unit/compose/test_chain.py"],
    "migrate/blobio/limits.py": ["tests/unit/blobio/test_limits.py"],
}
_OPPOSITE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    what: str
    source: str


def iter_mutants(file: str) -> Iterator[Mutant]:
    tree = ast.parse((ROOT / file).read_text())
    for number, _ in enumerate(ast.walk(tree)):
        copied = copy.deepcopy(tree)
        node = list(ast.walk(copied))[number]
        for what in _mutate(node):
            yield Mutant(file, getattr(node, "lineno", 0), what, ast.unparse(copied))


def _mutate(node: ast.AST) -> Iterator[str]:
    """Changes `node` in place, and back when the caller has taken the change."""
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            node.ops[place] = _OPPOSITE[type(operator)]()
            yield f"{type(operator).__name__} → {type(node.ops[place]).__name__} in {ast.unparse(node)}"
            node.ops[place] = operator
    elif isinstance(node, ast.BoolOp):
        original = node.op
        node.op = ast.Or() if isinstance(original, ast.And) else ast.And()
        yield f"{type(original).__name__} → {type(node.op).__name__} in {ast.unparse(node)}"
        node.op = original
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        operand = node.operand
        node.operand = ast.UnaryOp(ast.Not(), operand)
        yield f"not dropped: {ast.unparse(operand)}"
        node.operand = operand
    elif isinstance(node, ast.Constant) and type(node.value) is int and node.value > 2:
        node.value += 1
        yield f"{node.value - 1} → {node.value}"
        node.value -= 1


def guards(file: str) -> list[str]:
    return next(tests for prefix, tests in TESTS.items() if file.startswith(prefix))


def is_noticed(mutant: Mutant, workplace: Path) -> bool:
    """Runs the guarding tests in a forked process, where the copy stands for the package."""
    target = workplace / mutant.file
    original = target.read_text()
    target.write_text(mutant.source)
    pid = os.fork()
    if pid == 0:
        _run_tests(workplace, guards(mutant.file))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    target.write_text(original)
    return status != 0


def _run_tests(workplace: Path, tests: list[str]) -> None:
    import resource

    code = 1
    with contextlib.suppress(BaseException):
        os.chdir(workplace)
        resource.setrlimit(resource.RLIMIT_CPU, (120, 120))  # a mutant may run for ever, which counts as noticed
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "migrate")]:
            del sys.modules[name]
        sys.path = [str(workplace), *(path for path in sys.path if path not in ("", str(ROOT)))]
        import pytest

        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
    os._exit(min(code, 100))


def main(arguments: list[str]) -> int:
    import pytest  # noqa: F401  loaded once, before the forks

    files = arguments or sorted(
        str(path.relative_to(ROOT))
        for prefix in TESTS
        for path in ([ROOT / prefix] if prefix.endswith(".py") else (ROOT / prefix).glob("*.py"))
    )
    tried, missed = 0, 0
    with tempfile.TemporaryDirectory(prefix="migrate-mutation-") as directory:
        workplace = Path(directory)
        for name in ("migrate", "tests", "docs"):
            shutil.copytree(ROOT / name, workplace / name, ignore=shutil.ignore_patterns("__pycache__", "corpus"))
        shutil.copy(ROOT / "pyproject.toml", workplace)
        for file in files:
            unchanged = Mutant(file, 0, "nothing", (ROOT / file).read_text())
            if is_noticed(unchanged, workplace):
                print(f"{file}: its tests fail as it is; nothing can be learnt")
                continue
            for mutant in iter_mutants(file):
                tried += 1
                if not is_noticed(mutant, workplace):
                    missed += 1
                    print(f"{mutant.file}:{mutant.line}: nobody noticed: {mutant.what}", flush=True)
    print(f"{tried - missed} of {tried} changes noticed ({100 * (tried - missed) / max(tried, 1):.0f} %)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
