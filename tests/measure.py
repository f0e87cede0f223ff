"""Measure how much of the package a reader meets: ``make measure`` prints it, ``make measure CHECK=1`` holds the goals.

The source is read as text, so that nothing the package does when it is imported can change a figure.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import io
import json
import math
import statistics
import sys
import tokenize
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PACKAGE = Path(__file__).parents[1] / "airflow_provider_sequentum"

WALKS = {
    "StartAgentRunOperator": "operators.agent_run",
    "AgentBuilderOperator": "operators.agent_builder",
    "StartSpaceRunsOperator": "operators.space_run",
    "AgentRunSensor": "sensors.agent_run",
    "RunFilesToObjectStorageOperator": "transfers.run_files",
}
MAIN_WALK = "StartAgentRunOperator"

ID_FIELDS = {"run_id", "run_ids"}
# The service's record of a run: there the run id is called "id".
ID_UNDER_ANOTHER_NAME = {"api.runs.Run"}
# Annotations that name a class without holding an instance of it.
NOT_HOLDING = {"Call", "Callable", "ClassVar", "Literal", "type"}

# Classes that hold a run id and are not counted. Exceptions never count; the others are named here one by one.
NOT_COUNTED = {
    # What users construct. A trigger's attributes are the arguments that Airflow serializes for it.
    "operators.agent_run.StartAgentRunOperator",
    "triggers.agent_run.AgentRunTrigger",
    # The event on the wire between triggerer and worker.
    "runs.wait.RunEvent",
    # Answers of endpoints that no wait passes through: bills and statistics mention runs.
    "api.analytics.FailedRunDetail",
    "api.analytics._EndedRun",
    "api.analytics.RunDiagnostics",
    "api.analytics.RunsSummary",
    "api.billing.RunCost",
}

SHORT_MODULE = 60
GOALS = {
    f"{MAIN_WALK}: modules outside api/": 25,
    f"{MAIN_WALK}: lines outside api/": 4_500,
    "holders of the run id": 5,
    "exception classes": 35,
    "circles of modules": 0,
    "lines": 13_000,
}


@dataclass(frozen=True)
class Figure:
    """A measure: its value, its value if imports for types only count too, and the names behind the number."""

    value: float
    with_types: float | None = None
    unit: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Module:
    """One file, read as text. Names leave out the package's own: ``api.runs``, and ``""`` for its ``__init__``."""

    name: str
    source: str
    is_package: bool

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def lines(self) -> int:
        return len(self.source.splitlines())

    @property
    def is_label(self) -> bool:
        """Whether this is an ``__init__`` with a docstring at most: the label of a folder, nothing to read."""
        return self.is_package and not self.tree.body[ast.get_docstring(self.tree) is not None :]


class Package:
    """A package's modules and what they import of each other."""

    def __init__(self, folder: Path) -> None:
        self.root = folder.name
        self.modules: dict[str, Module] = {}
        for path in sorted(folder.rglob("*.py")):
            is_package = path.name == "__init__.py"
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join(parts[:-1] if is_package else parts)
            self.modules[name] = Module(name, path.read_text(encoding="utf-8"), is_package)
        self._imports = {types: self._read_imports(types=types) for types in (False, True)}

    def _read_imports(self, *, types: bool) -> dict[str, set[str]]:
        return {
            name: {
                imported
                for node in nodes(module.tree, types=types)
                for _, dotted in imported_names(node)
                if (imported := self._module_of(dotted)) is not None and imported != name
            }
            for name, module in self.modules.items()
        }

    def _module_of(self, dotted: str) -> str | None:
        """Return the module that a dotted name is or lies in, ``None`` for one outside the package."""
        if not f"{dotted}.".startswith(f"{self.root}."):
            return None
        inner = dotted[len(self.root) + 1 :]
        while inner not in self.modules:
            inner = inner.rpartition(".")[0]
        return inner

    def walk(self, start: str, *, types: bool) -> list[Module]:
        """Return the modules that importing one brings in, itself included. The ``__init__`` above each runs too."""
        imports = self._imports[types]
        seen = reach({start}, lambda name: imports[name] | ({*parents(name)} & self.modules.keys()))
        return [self.modules[name] for name in sorted(seen) if not self.modules[name].is_label]

    def circles(self) -> list[tuple[str, ...]]:
        """
        Return the groups of modules that import each other, imports for types included.

        That a module also runs the ``__init__`` above it is left out: each ``__init__`` that re-exports names would
        be a circle with what it re-exports.
        """
        imports = self._imports[True]
        reached = {name: reach(imports[name], imports.__getitem__) for name in self.modules}
        return sorted(
            {
                tuple(sorted(other for other in reached[name] if name in reached[other]))
                for name in self.modules
                if name in reached[name]
            }
        )

    @cached_property
    def classes(self) -> dict[str, Class]:
        """The classes by module and name."""
        return {
            f"{name}.{node.name}": Class(node, scope)
            for name, module in self.modules.items()
            for scope in [self._scope(module)]
            for node in ast.walk(module.tree)
            if isinstance(node, ast.ClassDef)
        }

    def _scope(self, module: Module) -> dict[str, str]:
        """Return what the names in a module stand for, as names inside the package."""
        names = {
            local: dotted[len(self.root) + 1 :]
            for node in ast.walk(module.tree)
            for local, dotted in imported_names(node)
            if dotted.startswith(f"{self.root}.")
        }
        own = (node.name for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef))
        return names | {name: f"{module.name}.{name}" for name in own}

    @cached_property
    def exceptions(self) -> set[str]:
        """The classes that can be raised, told by what they derive from."""
        found = {name for name, described in self.classes.items() if any(map(is_exception, described.bases))}
        return grow(
            found, lambda known: {name for name, described in self.classes.items() if known & {*described.bases}}
        )

    def holders(self, known: Iterable[str]) -> set[str]:
        """
        Return the classes that hold a run id: in a field of that name, or in a field whose type is such a class.

        :param known: Classes whose run id has another name.
        """
        candidates = {name: described for name, described in self.classes.items() if name not in self.exceptions}
        found = {name for name, described in candidates.items() if ID_FIELDS & {*described.fields}}
        return grow(
            found | ({*known} & candidates.keys()),
            lambda holders: {name for name, described in candidates.items() if described.refers_to & holders},
        )


@dataclass(frozen=True)
class Class:
    """A class as its source shows it."""

    node: ast.ClassDef
    scope: dict[str, str]

    @cached_property
    def bases(self) -> list[str]:
        return [self._resolve(name) for base in self.node.bases for name in type_names(base)]

    @cached_property
    def fields(self) -> dict[str, set[str]]:
        """The attributes of an instance, without leading underscores, and the classes that their types name."""
        found: dict[str, set[str]] = {}
        for name, annotation in instance_fields(self.node):
            types = type_names(annotation) if annotation is not None else []
            found.setdefault(name.lstrip("_"), set()).update(map(self._resolve, types))
        return found

    @cached_property
    def refers_to(self) -> set[str]:
        """What an instance holds instances of; it is also an instance of its bases."""
        return {*self.bases}.union(*self.fields.values())

    def _resolve(self, name: str) -> str:
        """Return what a name stands for: ``runs.Run`` is ``api.runs.Run`` where ``runs`` is ``api.runs``."""
        known, rest = name, ""
        while known and known not in self.scope:
            known, _, last = known.rpartition(".")
            rest = f".{last}{rest}"
        return f"{self.scope[known]}{rest}" if known else name


def instance_fields(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr | None]]:
    """Yield name and type of what a class declares in its body or assigns to ``self`` anywhere."""
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id, statement.annotation
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = statement.args
            parameters = {
                argument.arg: argument.annotation
                for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            }
            for target, value, annotation in assignments(statement):
                if (
                    isinstance(target, ast.Attribute)
                    and isinstance(target.value, ast.Name)
                    and target.value.id == "self"
                ):
                    yield target.attr, annotation or type_of(value, parameters)


def assignments(function: ast.AST) -> Iterator[tuple[ast.expr, ast.expr | None, ast.expr | None]]:
    """Yield target, value and annotation of each assignment; ``a, b = c, d`` is two."""
    for node in ast.walk(function):
        if isinstance(node, ast.AnnAssign):
            yield node.target, node.value, node.annotation
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    yield from ((left, right, None) for left, right in zip(target.elts, node.value.elts, strict=False))
                else:
                    yield target, node.value, None


def type_of(value: ast.expr | None, parameters: dict[str, ast.expr | None]) -> ast.expr | None:
    """Return the type of a value where it can be seen: a parameter with an annotation, or ``Type(...)``."""
    if isinstance(value, ast.Name):
        return parameters.get(value.id)
    return value.func if isinstance(value, ast.Call) else None


def type_names(annotation: ast.expr) -> list[str]:
    """Return the dotted names in a type, those within brackets too."""
    match annotation:
        case ast.Name(id=name):
            return [name]
        case ast.Attribute():
            return [ast.unparse(annotation)]
        case ast.Constant(value=str(text)):
            return quoted_type_names(text)
        case ast.Subscript(value=outer, slice=inner):
            names = type_names(outer)
            return names if NOT_HOLDING & {name.rpartition(".")[2] for name in names} else names + type_names(inner)
        case ast.BinOp(left=left, right=right):
            return type_names(left) + type_names(right)
        case _:
            elements = getattr(annotation, "elts", [])
            return [name for element in elements for name in type_names(element)]


def quoted_type_names(text: str) -> list[str]:
    """Return the names in a type that is quoted, because what it names is defined further down."""
    try:
        return type_names(ast.parse(text, mode="eval").body)
    except SyntaxError:  # Annotated holds other texts too
        return []


def is_exception(name: str) -> bool:
    builtin = getattr(builtins, name, None)
    if isinstance(builtin, type):
        return issubclass(builtin, BaseException)
    return name.endswith(("Exception", "Error"))


def nodes(tree: ast.AST, *, types: bool) -> Iterator[ast.AST]:
    """Yield all nodes below one; those under ``if TYPE_CHECKING`` only with ``types``."""
    for child in ast.iter_child_nodes(tree):
        if not types and isinstance(child, ast.If) and is_type_checking(child.test):
            child = ast.Module(child.orelse, [])  # noqa: PLW2901
        yield child
        yield from nodes(child, types=types)


def is_type_checking(test: ast.expr) -> bool:
    return any(name.rpartition(".")[2] == "TYPE_CHECKING" for name in type_names(test))


def imported_names(node: ast.AST) -> list[tuple[str, str]]:
    """Return what an import statement binds: the local name and the dotted name it stands for."""
    if isinstance(node, ast.Import):
        return [(alias.asname or alias.name, alias.name) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        if node.level:
            raise ValueError(f"A relative import in line {node.lineno}: the house has none, and they are not measured.")
        return [(alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names]
    return []


def parents(name: str) -> list[str]:
    """Return the packages that a module lies in, the root included."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(len(parts))]


def reach(start: Iterable[str], following: Callable[[str], set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = {*start}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting |= following(name) - seen
    return seen


def grow(found: set[str], add: Callable[[set[str]], set[str]]) -> set[str]:
    """Add to a set until nothing more follows from it."""
    while more := add(found) - found:
        found = found | more
    return found


def figures(package: Package) -> dict[str, Figure]:
    """Return every measure by its name. All but the walks and the circles leave out the sandbox."""
    modules = [module for module in package.modules.values() if not is_below(module.name, "sandbox")]
    found: dict[str, Figure] = {}
    for title, start in WALKS.items():
        found |= walk_figures(title, package.walk(start, types=False), package.walk(start, types=True))
    circles = package.circles()
    raised = sorted(name for name in package.exceptions if not is_below(name, "sandbox"))
    short = sorted(m.name for m in modules if m.lines < SHORT_MODULE and not m.is_package)
    found |= {
        "holders of the run id": named(holders_on_walk(package)),
        "exception classes": named(raised),
        "circles of modules": Figure(len(circles), names=tuple(", ".join(circle) for circle in circles)),
        "modules": Figure(len(modules)),
        "lines": Figure(sum(module.lines for module in modules)),
        f"modules under {SHORT_MODULE} lines": named(short),
    }
    return found | text_figures(modules)


def walk_figures(title: str, plain: list[Module], with_types: list[Module]) -> dict[str, Figure]:
    found = {}
    for part, in_api in (("outside api/", False), ("in api/", True)):
        met, met_with_types = (
            [module for module in modules if is_below(module.name, "api") is in_api] for modules in (plain, with_types)
        )
        found[f"{title}: modules {part}"] = Figure(len(met), len(met_with_types))
        found[f"{title}: lines {part}"] = Figure(sum(m.lines for m in met), sum(m.lines for m in met_with_types))
    return found


def holders_on_walk(package: Package) -> list[str]:
    """Return the classes that hold a run id among the modules of the main walk, without those that are not counted."""
    met = {module.name for module in package.walk(WALKS[MAIN_WALK], types=False)}
    holders = package.holders(ID_UNDER_ANOTHER_NAME) - NOT_COUNTED
    return sorted(name for name in holders if name.rpartition(".")[0] in met)


def text_figures(modules: list[Module]) -> dict[str, Figure]:
    """Return what the text of modules looks like. Import lines are a share of the lines that are not blank."""
    lengths = sorted(length for module in modules for length in function_lengths(module.tree))
    filled = sum(bool(line.strip()) for module in modules for line in module.source.splitlines())
    imports = sum(import_lines(module.tree) for module in modules)
    comments = sum(comment_lines(module.source) for module in modules)
    return {
        "lines of a function, median": Figure(statistics.median_low(lengths or [0])),
        "lines of a function, 95 % have at most": Figure(percentile(lengths, 95)),
        "lines of a function, longest": Figure(max(lengths, default=0)),
        "import lines": Figure(share(imports, filled), unit=" %"),
        "comment lines (no goal)": Figure(share(comments, sum(module.lines for module in modules)), unit=" %"),
    }


def function_lengths(tree: ast.AST) -> list[int]:
    """Return the lines of each function from its ``def`` on, decorators left out."""
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [lines_of(node) for node in functions]


def import_lines(tree: ast.AST) -> int:
    return sum(lines_of(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def lines_of(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def comment_lines(source: str) -> int:
    """Return how many lines are a comment and nothing else."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return sum(token.type == tokenize.COMMENT and token.line.lstrip().startswith("#") for token in tokens)


def percentile(ordered: list[int], percent: int) -> int:
    """Return the least value that so many per cent of the values do not exceed."""
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else 0


def share(part: int, whole: int) -> float:
    return round(100 * part / whole, 1) if whole else 0.0


def is_below(name: str, folder: str) -> bool:
    return f"{name}.".startswith(f"{folder}.")


def named(names: Iterable[str]) -> Figure:
    names = tuple(names)
    return Figure(len(names), names=names)


def missed_goals(now: dict[str, Figure]) -> list[str]:
    return [
        f"{name}: {shown(now[name])}, the goal is {goal:,} at most"
        for name, goal in GOALS.items()
        if now[name].value > goal
    ]


def table(now: dict[str, Figure], before: dict[str, Figure] | None = None) -> str:
    """Return the figures as a Markdown table, beside earlier ones if there are any. In brackets: types included."""
    columns = ["measure", *(["before"] if before is not None else []), "now", "goal"]
    rows = [columns, ["---", *["---:"] * (len(columns) - 1)]]
    for name, figure in now.items():
        earlier = [shown(before.get(name))] if before is not None else []
        rows.append([name, *earlier, shown(figure), f"{GOALS[name]:,}" if name in GOALS else ""])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def shown(figure: Figure | None) -> str:
    if figure is None:
        return ""
    text = f"{figure.value:,}{figure.unit}"
    return text if figure.with_types in (None, figure.value) else f"{text} ({figure.with_types:,})"


def read_figures(path: Path) -> dict[str, Figure]:
    saved = json.loads(path.read_text(encoding="utf-8"))
    return {name: Figure(**{**fields, "names": tuple(fields["names"])}) for name, fields in saved.items()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make measure", description=__doc__)
    parser.add_argument("--package", type=Path, default=PACKAGE, help="folder of the package (default: the provider)")
    parser.add_argument("--beside", type=Path, help="print the figures of this file beside today's")
    parser.add_argument("--json", type=Path, help="save the figures in this file")
    parser.add_argument("--names", action="store_true", help="list what the numbers count")
    parser.add_argument("--check", action="store_true", help="exit 1 if a goal is missed")
    chosen = parser.parse_args(arguments)

    now = figures(Package(chosen.package))
    print(table(now, read_figures(chosen.beside) if chosen.beside else None))
    for name in now if chosen.names else ["holders of the run id", "circles of modules"]:
        if now[name].names:
            print(f"\n{name}:", *(f"- {entry}" for entry in now[name].names), sep="\n")
    if chosen.json:
        saved = {name: asdict(figure) for name, figure in now.items()}
        chosen.json.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
    missed = missed_goals(now) if chosen.check else []
    for goal in missed:
        print(f"Missed: {goal}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
