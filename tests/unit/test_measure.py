"""Each counter of ``make measure`` on packages small enough to count by hand."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest

from tests import measure
from tests.measure import Figure, Package


def write(folder: Path, files: dict[str, str]) -> Package:
    for name, source in {"__init__.py": "", **files}.items():
        path = folder / "pkg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(source))
    return Package(folder / "pkg")


def walked(package: Package, start: str, *, types: bool = False) -> list[str]:
    return [module.name for module in package.walk(start, types=types)]


class TestWalk:
    def test_imports_count_wherever_they_stand(self, tmp_path: Path) -> None:
        package = write(
            tmp_path,
            {
                "a.py": """
                    import os
                    import pkg.b
                    def f():
                        from pkg import c
                        class K:
                            def m(self):
                                try:
                                    from pkg.d import name
                                except ImportError: pass
                    """,
                "b.py": "from pkg.e import x",
                "c.py": "",
                "d.py": "name = 1",
                "e.py": "x = 1",
                "unrelated.py": "from pkg import a",
            },
        )
        assert walked(package, "a") == ["a", "b", "c", "d", "e"]

    @pytest.mark.parametrize("test", ["TYPE_CHECKING", "typing.TYPE_CHECKING", "t.TYPE_CHECKING"])
    def test_imports_for_types_are_counted_apart(self, tmp_path: Path, test: str) -> None:
        source = f"""
            if {test}:
                from pkg import b
            else:
                from pkg import c
            if not_for_types:
                from pkg import d
            """
        package = write(tmp_path, {"a.py": source, "b.py": "", "c.py": "", "d.py": ""})
        assert walked(package, "a") == ["a", "c", "d"]
        assert walked(package, "a", types=True) == ["a", "b", "c", "d"]

    def test_an_init_counts_only_with_more_than_a_docstring(self, tmp_path: Path) -> None:
        package = write(
            tmp_path,
            {
                "__init__.py": '"""The package."""\n__version__ = "1"\n',
                "label/__init__.py": '"""A folder."""\n',
                "label/a.py": "from pkg.full import x",
                "full/__init__.py": "from pkg.other import x",
                "empty/__init__.py": "",
                "other.py": "x = 1",
            },
        )
        assert walked(package, "label.a") == ["", "full", "label.a", "other"]

    def test_names_that_only_begin_alike_are_outside(self, tmp_path: Path) -> None:
        assert walked(write(tmp_path, {"a.py": "import pkgother.b", "b.py": ""}), "a") == ["a"]

    def test_a_relative_import_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="relative import in line 2"):
            write(tmp_path, {"a.py": "\nfrom . import b", "b.py": ""})

    def test_lines_are_those_of_the_files_with_api_apart(self, tmp_path: Path) -> None:
        files = {
            "a.py": "from pkg.api import x\n\n# end\n",
            "api/__init__.py": "",
            "api/x.py": "\n" * 7,
            "apiary.py": "\n",
        }
        package = write(tmp_path, files)
        plain = package.walk("a", types=False)
        found = measure.walk_figures("A", plain, [*plain, package.modules["apiary"]])
        assert found == {
            "A: modules outside api/": Figure(1, 2),
            "A: lines outside api/": Figure(3, 4),
            "A: modules in api/": Figure(1, 1),
            "A: lines in api/": Figure(7, 7),
        }


class TestCircles:
    def test_types_and_detours_included(self, tmp_path: Path) -> None:
        package = write(
            tmp_path,
            {
                "a.py": "from pkg import b",
                "b.py": "def f():\n    from pkg import c",
                "c.py": "if TYPE_CHECKING:\n    from pkg import a",
                "d.py": "from pkg import a",
                "sandbox/x.py": "from pkg.sandbox import y",
                "sandbox/y.py": "from pkg.sandbox import x",
            },
        )
        assert package.circles() == [("a", "b", "c"), ("sandbox.x", "sandbox.y")]

    def test_none(self, tmp_path: Path) -> None:
        assert (
            write(tmp_path, {"a.py": "from pkg import b, c", "b.py": "from pkg import c", "c.py": ""}).circles() == []
        )

    def test_that_an_init_re_exports_is_no_circle_but_importing_from_it_is(self, tmp_path: Path) -> None:
        init = "from pkg.f.a import x"
        assert write(tmp_path / "1", {"f/__init__.py": init, "f/a.py": "x = 1"}).circles() == []
        circle = write(tmp_path / "2", {"f/__init__.py": init, "f/a.py": "from pkg.f import y"}).circles()
        assert circle == [("f", "f.a")]


def test_exceptions_are_told_by_what_they_derive_from(tmp_path: Path) -> None:
    package = write(
        tmp_path,
        {
            "a.py": """
                import airflow
                class Lost(LookupError): ...
                class Twice(Lost, Mixin): ...
                class Refused(airflow.AirflowFailException): ...
                class Interrupted(KeyboardInterrupt): ...
                class Mixin: ...
                class ErrorReport(dict): ...
                """,
            "b.py": "from pkg.a import Twice as T\nclass Last(T): ...\ndef f():\n    class Hidden(Exception): ...",
        },
    )
    assert package.exceptions == {"a.Lost", "a.Twice", "a.Refused", "a.Interrupted", "b.Last", "b.Hidden"}


class TestHolders:
    @pytest.mark.parametrize(
        "source",
        [
            "class Held:\n    run_id: int",
            "class Held:\n    run_ids: list[int] = []",
            "class Held:\n    _run_id: int | None = None",
            "class Held:\n    def __init__(self, number): self.run_id = number",
            "class Held:\n    def __init__(self, run_id): self.agent, self._run_id = 1, run_id",
            "class Held:\n    def later(self):\n        if 1: self.run_id: int = 2",
            "class Held:\n    run: Run",
            "class Held:\n    run: 'Run | None'",
            "class Held:\n    runs: dict[str, list[Run]]",
            "class Held:\n    def __init__(self, run: Run): self._kept = run",
            "class Held:\n    def __init__(self, *, run: Run | None): self._kept: object = 1; self._run = run",
            "class Held:\n    def start(self): self.current = Run()",
            "class Held(Run): ...",
            "import pkg.a\nclass Held:\n    run: pkg.a.Run",
            "from pkg import a as runs\nclass Held:\n    run: runs.Run",
            "class Inner:\n    run: Run\nclass Held:\n    inner: Inner",
        ],
    )
    def test_a_field_that_is_or_holds_a_run_id(self, tmp_path: Path, source: str) -> None:
        assert "b.Held" in holders(tmp_path, source)

    @pytest.mark.parametrize(
        "source",
        [
            "class Held:\n    agent_id: int",
            "class Held:\n    def f(self, run_id): return run_id",
            "class Held:\n    @property\n    def run_id(self): return self.other.run_id",
            "class Held:\n    tell: Callable[[Run], None]",
            "class Held:\n    kind: type[Run]",
            "class Held:\n    kind: Annotated[int, 'the Run']",
            "class Held:\n    def f(self, other): other.run_id = 1",
            "class Run:\n    number: int\nclass Held:\n    run: Run",  # another class of that name
            "class Held(Exception):\n    def __init__(self, run_id): self.run_id = run_id",
        ],
    )
    def test_what_is_no_holder(self, tmp_path: Path, source: str) -> None:
        assert "b.Held" not in holders(tmp_path, source)

    def test_only_those_on_the_walk_count_and_not_those_that_are_excepted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(measure, "NOT_COUNTED", {"b.Event"})
        monkeypatch.setitem(measure.WALKS, measure.MAIN_WALK, "operator")
        package = write(
            tmp_path,
            {
                "operator.py": "from pkg import b",
                "b.py": "class Event:\n    run_id: int\nclass Record:\n    run_id: int\n",
                "elsewhere.py": "class Other:\n    run_id: int\n",
            },
        )
        assert measure.holders_on_walk(package) == ["b.Record"]


def holders(folder: Path, source: str) -> set[str]:
    files = {"a.py": "class Run:\n    id: int", "b.py": f"from pkg.a import Run\n{source}"}
    return write(folder, files).holders({"a.Run"})


def test_lengths_of_functions_leave_out_decorators(tmp_path: Path) -> None:
    source = """
        @decorated
        def one(): ...
        async def three(
            x,
        ): ...
        class K:
            def five(self):
                def one(): ...
                a = 1

                return a
        """
    [tree] = [m.tree for m in write(tmp_path, {"a.py": source}).modules.values() if m.name]
    assert sorted(measure.function_lengths(tree)) == [1, 1, 3, 5]


@pytest.mark.parametrize(("lengths", "expected"), [([], 0), ([4], 4), (list(range(1, 101)), 95), (list(range(20)), 18)])
def test_percentile(lengths: list[int], expected: int) -> None:
    assert measure.percentile(lengths, 95) == expected


def test_comments_are_lines_of_their_own_and_no_strings() -> None:
    source = '# one\nx = 1  # beside\nif x:\n    # two\n    s = """\n# text\n"""\n'
    assert measure.comment_lines(source) == 2


def test_shares_of_the_text(tmp_path: Path) -> None:
    package = write(tmp_path, {"a.py": "import os\nfrom b import (\n    c,\n)\n\n# why\nx = 1\ny = 2\n\n\n"})
    found = measure.text_figures([package.modules["a"]])
    assert found["import lines"] == Figure(57.1, unit=" %")  # 4 of 7 that are not blank
    assert found["comment lines (no goal)"] == Figure(10.0, unit=" %")  # 1 of 10


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(measure, "WALKS", {measure.MAIN_WALK: "operator"})
    write(
        tmp_path,
        {
            "operator.py": "from pkg.api import runs\n" + "x = 1\n" * 59,
            "short.py": "if TYPE_CHECKING:\n    from pkg import operator\nclass Lost(Exception): ...\n",
            "api/runs.py": "class Run:\n    id: int\n",
            "sandbox/x.py": "class Hidden(Exception): ...\n" * 100,
        },
    )
    return tmp_path / "pkg"


def test_figures_of_a_package_leave_out_the_sandbox(small: Path) -> None:
    found = measure.figures(Package(small))
    assert found["exception classes"] == Figure(1, names=("short.Lost",))
    assert found["holders of the run id"] == Figure(1, names=("api.runs.Run",))
    assert found["modules under 60 lines"] == Figure(2, names=("api.runs", "short"))
    assert (found["modules"].value, found["lines"].value) == (4, 65)
    assert found[f"{measure.MAIN_WALK}: lines outside api/"] == Figure(60, 60)


def test_the_check_fails_above_a_goal_and_names_it(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--package", str(small), "--check"]
    assert measure.main(arguments) == 0
    monkeypatch.setitem(measure.GOALS, "lines", 65)
    assert measure.main(arguments) == 0
    monkeypatch.setitem(measure.GOALS, "lines", 64)
    monkeypatch.setitem(measure.GOALS, "exception classes", 0)
    assert measure.main(arguments) == 1
    assert measure.main(arguments[:-1]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "Missed: exception classes: 1, the goal is 0 at most",
        "Missed: lines: 65, the goal is 64 at most",
    ]


def test_figures_are_saved_and_printed_beside_later_ones(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "before.json"
    assert measure.main(["--package", str(small), "--json", str(saved)]) == 0
    assert measure.read_figures(saved) == measure.figures(Package(small))
    assert json.loads(saved.read_text())["lines"]["value"] == 65
    (small / "short.py").unlink()
    capsys.readouterr()
    assert measure.main(["--package", str(small), "--beside", str(saved)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "| measure | before | now | goal |"
    assert "| lines | 65 | 62 | 13,000 |" in printed
    assert "| exception classes | 1 | 0 | 35 |" in printed


def test_a_table_shows_what_imports_for_types_add() -> None:
    assert measure.table({"x": Figure(1200, 1300.0), "y": Figure(2, 2), "z": Figure(0.5, unit=" %")}).splitlines()[
        2:
    ] == [
        "| x | 1,200 (1,300.0) |  |",
        "| y | 2 |  |",
        "| z | 0.5 % |  |",
    ]


def test_the_names_of_the_lists_are_those_of_the_package() -> None:
    package = Package(measure.PACKAGE)
    assert {*measure.WALKS.values()} <= package.modules.keys()
    assert package.classes.keys() >= measure.NOT_COUNTED | measure.ID_UNDER_ANOTHER_NAME
    assert measure.GOALS.keys() <= measure.figures(package).keys()
