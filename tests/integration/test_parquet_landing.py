"""Files with records landed as Parquet, against the sandbox over HTTP: to a local folder and to S3."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_sequentum.api.files import RunFile
from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.exceptions import (
    RunFilesUnavailable,
    RunRecordsUnreadable,
    SequentumRequestRefused,
)
from airflow_provider_sequentum.operators.run_changes import RunChangesOperator
from airflow_provider_sequentum.operators.run_records import CheckRunRecordsOperator
from airflow_provider_sequentum.records.reading import read_records
from airflow_provider_sequentum.sandbox import Sandbox
from airflow_provider_sequentum.sandbox.agents import ExtraFile
from airflow_provider_sequentum.transfers.landing import MANIFEST_NAME, LandingFolder
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator
from airflow_provider_sequentum.transfers.run_files_transfer import RunFilesTransfer
from tests.support.landing import FakeTaskInstance, finished_run, s3_server

PRODUCTS = "sku,region,price,sold,note\n00123,EU,9.50,2024-01-05,\n00124,US,12,2024-01-06,\n00125,EU,0.99,2024-01-06,\n"


def check_again(files: list[str]) -> CheckRunRecordsOperator:
    return CheckRunRecordsOperator(task_id="again", agent_id=1, run_id=1, files=files)


class Shop:
    """An agent whose file with records is another one in each run."""

    def __init__(self, sandbox: Sandbox, root: Path) -> None:
        self.sandbox, self.root = sandbox, root
        self.agents: dict[int, int] = {}

    def run(self, *files: ExtraFile) -> int:
        """Return a run that delivered files; each run is one of an agent of its own."""
        agent_id = self.sandbox.add_agent("Shop", extra_files=list(files)).id
        run_id = finished_run(self.sandbox, agent_id)
        self.agents[run_id] = agent_id
        return run_id

    def folder(self, run_id: int) -> Path:
        return self.root / f"run-{run_id}"

    def land(self, run_id: int, **options: Any) -> list[str]:
        """Land the files of a run as Parquet and return their paths."""
        self.ti = FakeTaskInstance()
        defaults = {
            "destination": self.folder(run_id).as_uri(),
            "file_format": "parquet",
            "file_patterns": "*products*",
            "schema_file": (self.root / "types.json").as_uri(),
        }
        operator = RunFilesToObjectStorageOperator(
            task_id="land", agent_id=self.agents[run_id], run_id=run_id, **{**defaults, **options}
        )
        return operator.execute({"ti": self.ti})  # type: ignore[typeddict-item]

    def land_text(self, text: str, name: str = "products.csv", **options: Any) -> list[str]:
        return self.land(self.run(ExtraFile(name=name, content=text)), **options)

    def manifest(self, run_id: int) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder(run_id) / MANIFEST_NAME).read_bytes())
        return content


@pytest.fixture
def shop(sandbox: Sandbox, tmp_path: Path) -> Shop:
    return Shop(sandbox, tmp_path / "lake")


def records(path: str) -> list[dict[str, Any]]:
    return list(read_records(io.BytesIO(ObjectStoragePath(path).read_bytes()), path))


def types(path: str) -> dict[str, str]:
    file = io.BytesIO(ObjectStoragePath(path).read_bytes())
    return {column.name: str(column.type) for column in pq.ParquetFile(file).schema_arrow}


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_records_land_with_types_and_the_manifest_names_their_source(
    shop: Shop, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    notes = ExtraFile(name="products.txt", content="how the products were found")
    run_id = shop.run(ExtraFile(name="products.csv", content=PRODUCTS), notes)
    paths = shop.land(run_id)
    assert [Path(path).name for path in paths] == ["products.parquet", "products.txt"]
    assert types(paths[0]) == {
        "sku": "string",
        "region": "string",
        "price": "double",
        "sold": "date32[day]",
        "note": "string",
    }
    assert [record["sku"] for record in records(paths[0])] == ["00123", "00124", "00125"]
    assert ObjectStoragePath(paths[1]).read_text() == "how the products were found", "no file with records"
    entry, as_it_is = shop.manifest(run_id)["files"]
    content = Path(shop.folder(run_id) / "products.parquet").read_bytes()
    assert (entry["size"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert (entry["records"], entry["original_name"]) == (3, "products.csv")
    assert entry["source_sha256"] == hashlib.sha256(PRODUCTS.encode()).hexdigest()
    assert entry["source_size"] == len(PRODUCTS)
    assert as_it_is["source_sha256"] is None
    assert shop.manifest(run_id)["is_complete"]
    assert shop.ti.pushed["transfer"]["fetched"] == 2
    logged = " ".join((capsys.readouterr().out + caplog.text).split())
    assert "Converting: 'products.csv' as products.parquet" in logged
    assert "another name" not in logged
    assert f"Landed 2 files in file://{shop.folder(run_id)}." in logged, "records were not counted in all of them"


class TestTypesOverRuns:
    def test_a_column_keeps_its_type(self, shop: Shop) -> None:
        """Empty today, ids that all look like numbers today, whole prices today: nothing changes in the table."""
        first = types(shop.land_text("id,price,stock\n007,9.5,3\n008,10.0,4\n")[0])
        landed = ""
        for text in (
            "id,price,stock\n7,,\n",
            "id,price,stock\n12,9,0\n",
            "id,price,stock\n",
            "stock,id,price\n1,2,3\n",
        ):
            landed = shop.land_text(text)[0]
            assert types(landed) == first == {"id": "string", "price": "double", "stock": "int64"}
        assert records(landed) == [{"stock": 1, "id": "2", "price": 3.0}]

    @pytest.mark.parametrize(
        ("values", "bad"),
        [("5\nabc", "'abc' in record 2"), ("4.5", "'4.5' in record 1"), ("1\n2\n007", "'007' in record 3")],
    )
    def test_a_value_that_the_type_does_not_hold_publishes_nothing(self, shop: Shop, values: str, bad: str) -> None:
        shop.land_text("stock\n3\n")
        before = (shop.root / "types.json").read_bytes()
        run_id = shop.run(
            ExtraFile(name="products a.csv", content="stock\n1\n"),
            ExtraFile(name="products b.csv", content=f"stock\n{values}\n"),
        )
        with pytest.raises(RunRecordsUnreadable, match=f"{bad}, but its column 'stock' is of type integer"):
            shop.land(run_id)
        assert below(shop.folder(run_id)) == set()
        assert (shop.root / "types.json").read_bytes() == before

    def test_what_is_declared_wins_and_is_kept(self, shop: Shop) -> None:
        shop.land_text("stock,price\n3,1\n")
        declared = {"stock": "string", "price": "decimal(10,2)"}
        text = "stock,price\nabc,19.99\n"
        assert records(shop.land_text(text, record_schema=declared)[0])[0]["stock"] == "abc"
        assert types(shop.land_text("stock,price\n5,1.5\n")[0]) == {"stock": "string", "price": "decimal128(10, 2)"}
        with pytest.raises(RunRecordsUnreadable, match=r"'19\.999' in record 1"):
            shop.land_text("stock,price\nabc,19.999\n", record_schema=declared)

    def test_a_retry_compares_with_the_runs_before_its_own(self, shop: Shop) -> None:
        """What its first attempt made of a new column binds later runs, and not the retry."""
        shop.land_text("id\n1\n")
        run_id = shop.run(ExtraFile(name="products.csv", content="id,new\n1,2\n"))
        assert types(shop.land(run_id, record_schema={"new": "string", "id": "string"})[0])["new"] == "string"
        assert types(shop.land_text("new,id\n3,4\n")[0]) == {"new": "string", "id": "string"}
        assert types(shop.land(run_id)[0]) == {"id": "int64", "new": "int64"}

    @pytest.mark.parametrize("moment", ["_publish", "_verify"])
    @pytest.mark.parametrize(
        ("own", "other", "together"),
        [
            ("sku,price\nA,1\n", "sku,price\nB,2.5\n", {"sku": "string", "price": "double"}),
            ("sku,a\nA,1\n", "sku,b\nB,x\n", {"sku": "string", "a": "int64", "b": "string"}),
            ("sku,a\nA,1\n", "sku,a\nB,2\n", {"sku": "string", "a": "int64"}),
            ("sku\nA\n", "sku,b\nB,2\n", {"sku": "string", "b": "int64"}),
        ],
    )
    def test_runs_that_land_at_the_same_time_make_one_table(
        self,
        shop: Shop,
        monkeypatch: pytest.MonkeyPatch,
        moment: str,
        own: str,
        other: str,
        together: dict[str, str],
    ) -> None:
        """Each has read the types before the other wrote its own, as the first runs of mapped tasks do."""
        run_id, other_id = (shop.run(ExtraFile(name="products.csv", content=text)) for text in (own, other))
        step = getattr(RunFilesTransfer, moment)
        said = "another run gave the column 'price' the type number, not integer"
        raising = pytest.raises(RunFilesUnavailable, match=said)

        def after_the_other(self: RunFilesTransfer, *arguments: Any, **options: Any) -> Any:
            patch.undo()
            (shop.root / "types.json").unlink(missing_ok=True)  # it was not there yet when the other read it
            shop.land(other_id)
            return step(self, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(RunFilesTransfer, moment, after_the_other)
            with raising if "2.5" in other else nullcontext():
                shop.land(run_id)
        if "2.5" in other:
            manifest = shop.folder(run_id) / MANIFEST_NAME
            assert manifest.exists() is (moment == "_verify"), "nothing is published"
            assert not manifest.exists() or not shop.manifest(run_id)["is_complete"]
        landed = shop.land(run_id)
        table = [
            *landed,
            *shop.land(other_id),
            *shop.land_text(",".join(together) + "\n" + "0," * (len(together) - 1) + "0\n"),
        ]
        for path in table:
            assert types(path) == {column: together[column] for column in types(path)}
        assert set(types(table[-1])) == set(together)

    @pytest.mark.parametrize("name", ["types.txt", "Types.TXT", "a/types.txt", "types.csv"])
    def test_no_file_takes_the_name_of_types_that_lie_in_the_same_folder(self, shop: Shop, name: str) -> None:
        types_name = "types.parquet" if name.endswith(".csv") else "types.txt"
        run_id = shop.run(
            ExtraFile(name="products.csv", content=PRODUCTS), ExtraFile(name=name, content="sku,price\nA,1\n")
        )
        for place in (str, Path.as_uri):
            options = {"schema_file": place(shop.folder(run_id) / types_name), "file_patterns": ["*"]}
            landed = {Path(path).name for path in shop.land(run_id, **options)}
            assert "products.parquet" in landed
            assert types_name not in {each.lower() for each in landed}
            assert "columns" in json.loads((shop.folder(run_id) / types_name).read_bytes())
            for file in shop.manifest(run_id)["files"]:
                content = (shop.folder(run_id) / file["name"]).read_bytes()
                assert hashlib.sha256(content).hexdigest() == file["sha256"]

    def test_types_cannot_be_kept_in_the_manifest(self, shop: Shop) -> None:
        run_id = shop.run(ExtraFile(name="products.csv", content=PRODUCTS))
        with pytest.raises(SequentumRequestRefused, match="manifest"):
            shop.land(run_id, schema_file=str(shop.folder(run_id) / MANIFEST_NAME))
        assert not shop.folder(run_id).exists()

    def test_types_lie_above_the_folders_of_runs_by_default(self, shop: Shop) -> None:
        run_id = shop.run(ExtraFile(name="products.csv", content="shelf\n1\n"))
        shop.land(run_id, schema_file=None, file_patterns=None)
        [file] = [path for path in shop.root.iterdir() if path.is_file()]
        assert file.name == f"_sequentum_schema_agent-{shop.agents[run_id]}.json"
        assert json.loads(file.read_bytes())["columns"]["shelf"] == "integer"

    def test_two_tables_of_a_run_do_not_share_the_default_file(self, shop: Shop) -> None:
        run_id = shop.run(
            ExtraFile(name="products.csv", content=PRODUCTS), ExtraFile(name="stock.csv", content="sku\n5\n")
        )
        for table in ("products*", "stock*"):
            with pytest.raises(SequentumRequestRefused, match=r"^file_patterns .* requires schema_file: tables that"):
                shop.land(run_id, schema_file=None, file_patterns=table)
        assert not shop.root.exists()

    def test_all_files_of_a_run_are_one_table(self, shop: Shop) -> None:
        run_id = shop.run(
            ExtraFile(name="products.csv", content="id,size\n1,5\n"),
            ExtraFile(name="products.json", content='[{"id": "A7", "size": 2.5, "tags": ["x"]}]'),
        )
        paths = shop.land(run_id)
        assert [Path(path).name for path in paths] == ["products.parquet", "products (2).parquet"]
        assert types(paths[0]) == {"id": "string", "size": "double"}
        assert types(paths[1]) == {"id": "string", "size": "double", "tags": "string"}
        assert records(paths[1]) == [{"id": "A7", "size": 2.5, "tags": '["x"]'}]

    def test_text_is_read_as_it_is_said_to_be_written(self, shop: Shop) -> None:
        run_id = shop.run(ExtraFile(name="products.csv", content="id;name\n1;a b\n"))
        [path] = shop.land(run_id, delimiter=";", encoding="cp1252")
        assert records(path) == [{"id": 1, "name": "a b"}]
        assert shop.land(run_id, delimiter=";", encoding="cp1252") == [path]
        assert shop.ti.pushed["transfer"]["fetched"] == 0
        shop.land(run_id, delimiter=",")
        assert shop.ti.pushed["transfer"]["fetched"] == 1, "read in another way, it is another table"

    @pytest.mark.parametrize("content", ["", "{", '{"format": 1}', '{"agent_id":1,"run_id":1,"columns":{"a":"money"}}'])
    def test_a_damaged_file_of_types_is_refused(self, shop: Shop, content: str) -> None:
        run_id = shop.run(ExtraFile(name="products.csv", content="id\n1\n"))
        shop.root.mkdir()
        (shop.root / "types.json").write_text(content)
        with pytest.raises(SequentumRequestRefused, match="is not a valid file with column types"):
            shop.land(run_id)
        assert below(shop.folder(run_id)) == set()


HOSTILE = [
    "../../x",
    "a/b",
    "",
    "a%2Fb",
    "__HIVE_DEFAULT_PARTITION__",
    ".",
    "..",
    "é ü",
    "C:\\x",
    "a=b",
    "#?*",
    "\u202e",
]


class TestPartitions:
    def test_hostile_values_stay_in_their_folder_and_come_back(self, shop: Shop) -> None:
        lines = [{"n": number, "region": value} for number, value in enumerate(HOSTILE)]
        lines.append({"n": 100, "region": None})
        text = "\n".join(map(json.dumps, lines))
        run_id = shop.run(ExtraFile(name="products.ndjson", content=text))
        paths = shop.land(run_id, partition_by="region")
        folder = shop.folder(run_id)
        assert {path.parent.parent for path in folder.rglob("*.parquet")} == {folder}
        assert {path.name for path in folder.iterdir()} - {MANIFEST_NAME} == {
            f"region={name}"
            for name in [
                *(quote(value, safe="") for value in HOSTILE if value not in ("", "__HIVE_DEFAULT_PARTITION__")),
                "__HIVE_DEFAULT_PARTITION__",
                "%5F_HIVE_DEFAULT_PARTITION__",
            ]
        }
        read = sorted((record for path in paths for record in records(path)), key=lambda record: record["n"])
        assert read == [{**line, "region": line["region"] or None} for line in lines]
        assert below(shop.root) == {f"run-{run_id}/{name}" for name in below(folder)} | {"types.json"}

    def test_other_readers_find_the_table(self, shop: Shop) -> None:
        run_id = shop.run(ExtraFile(name="products.csv", content=PRODUCTS))
        shop.land(run_id, partition_by=["region", "sold"])
        folder = shop.folder(run_id)
        expected = {("EU", "2024-01-05", 9.5), ("EU", "2024-01-06", 0.99), ("US", "2024-01-06", 12.0)}
        query = (
            f"SELECT region, sold::VARCHAR, price FROM read_parquet('{folder}/*/*/*.parquet', hive_partitioning=true)"
        )
        assert set(duckdb.execute(query).fetchall()) == expected
        table = ds.dataset(
            sorted(map(str, folder.rglob("*.parquet"))), partitioning="hive", partition_base_dir=str(folder)
        )
        rows = table.to_table().to_pylist()
        assert {(row["region"], row["sold"], row["price"]) for row in rows} == expected

    def test_the_operators_read_what_was_landed(self, shop: Shop) -> None:
        """The columns of partitions are there for the check and for the comparison."""
        text = PRODUCTS.replace("EU", "E/U")
        first, second = (
            shop.land_text(each, partition_by="region", record_schema={"price": "decimal(10,2)"})
            for each in (text, text.replace(",12,", ",13,").replace("00125,E/U", "00125,US"))
        )
        rules = [
            {"rule": "allowed", "column": "region", "values": ["E/U", "US"]},
            {"rule": "unique", "columns": ["sku"]},
            {"rule": "range", "column": "price", "minimum": 1, "on_breach": "quarantine"},
        ]
        ti = FakeTaskInstance()
        check = CheckRunRecordsOperator(
            task_id="check",
            agent_id=1,
            run_id=1,
            files=first,
            contract={"rules": rules, "columns": {"region": "string"}},
        )
        passed = check.execute({"ti": ti})  # type: ignore[typeddict-item]
        assert [path.replace("/checked/", "/") for path in passed] == first
        assert [(row["sku"], row["region"]) for path in passed for row in records(path)] == [
            ("00123", "E/U"),
            ("00124", "US"),
        ]
        [bad] = ti.pushed["records_check"]["quarantined"]
        assert [row["sku"] for row in records(bad)] == ["00125"]
        # What passed is given to the next operator.
        assert check_again(passed).execute({"ti": FakeTaskInstance()}) == passed  # type: ignore[typeddict-item]
        for files, counts in ((first, (3, 0, 0)), (second, (0, 2, 0))):
            operator = RunChangesOperator(
                task_id="changes", files=files, key="sku", pointer=(shop.root / "pointer.json").as_uri()
            )
            summary = operator.execute({"ti": FakeTaskInstance()})  # type: ignore[typeddict-item]
            assert tuple(summary[name] for name in ("added", "changed", "removed")) == counts

    @pytest.mark.parametrize(
        ("text", "options", "says"),
        [
            ("id,size\n1,2.5\n", {"partition_by": "size"}, "of type number: a partition column must have"),
            ("id\n1\n", {"partition_by": "region"}, r"has no column 'region' to partition by; it has \['id'\]"),
            ("id\n1\n", {"partition_by": "id"}, "has only partition columns"),
            ("id,x\n" + "".join(f"{n},1\n" for n in range(1001)), {"partition_by": "id"}, "more than 1,000 different"),
            ("id,x\n" + "a" * 300 + ",1\n", {"partition_by": "id"}, "too long for a folder name"),
        ],
    )
    def test_what_cannot_be_divided_publishes_nothing(
        self, shop: Shop, text: str, options: dict[str, Any], says: str
    ) -> None:
        run_id = shop.run(ExtraFile(name="products.csv", content=text))
        with pytest.raises(RunRecordsUnreadable, match=says):
            shop.land(run_id, **options)
        assert below(shop.folder(run_id)) == set()


class TestRetries:
    def test_a_repeated_landing_fetches_and_writes_nothing(self, shop: Shop) -> None:
        run_id = shop.run(
            ExtraFile(name="products.csv", content=PRODUCTS), ExtraFile(name="products 2.json", content="[]")
        )
        first = shop.land(run_id, partition_by="region")
        assert [entry["original_name"] for entry in shop.manifest(run_id)["without_records"]] == ["products 2.json"]
        before = {path: path.stat().st_mtime_ns for path in shop.folder(run_id).rglob("*.parquet")}
        assert shop.land(run_id, partition_by="region") == first
        assert shop.ti.pushed["transfer"]["fetched"] == 0
        assert {path: path.stat().st_mtime_ns for path in shop.folder(run_id).rglob("*.parquet")} == before

    def test_another_form_replaces_the_one_before(self, shop: Shop) -> None:
        """Left there, a table over the folder would have the records twice."""
        run_id = shop.run(ExtraFile(name="products.csv", content=PRODUCTS))
        forms: list[dict[str, Any]] = [
            {"file_format": None, "schema_file": None},
            {"partition_by": "region"},
            {"partition_by": "sold"},
            {},
            {"file_format": None, "schema_file": None},
        ]
        for form in forms:
            paths = shop.land(run_id, **form)
            folder = str(shop.folder(run_id))
            names = {path.removeprefix("file://").removeprefix(f"{folder}/") for path in paths}
            assert below(shop.folder(run_id)) == {*names, MANIFEST_NAME}

    @pytest.mark.parametrize("partition_by", [None, "region"])
    def test_two_tables_of_a_run_may_land_in_one_folder(self, shop: Shop, partition_by: str | None) -> None:
        run_id = shop.run(
            ExtraFile(name="products.csv", content=PRODUCTS),
            ExtraFile(name="stock.csv", content="sku,region,pieces\n00123,EU,5\n"),
        )
        tables: dict[str, list[str]] = {}
        for name in ("products", "stock", "products"):
            options: dict[str, Any] = {"file_patterns": f"{name}*", "partition_by": partition_by}
            tables[name] = shop.land(run_id, schema_file=(shop.root / f"{name}.json").as_uri(), **options)
        assert {name: sum(len(records(path)) for path in paths) for name, paths in tables.items()} == {
            "products": 3,
            "stock": 1,
        }

    def test_a_damaged_file_is_published_again(self, shop: Shop) -> None:
        run_id = shop.run(ExtraFile(name="products.csv", content=PRODUCTS))
        [path] = shop.land(run_id)
        content = ObjectStoragePath(path).read_bytes()
        ObjectStoragePath(path).write_bytes(b"x" * len(content))
        assert shop.land(run_id) == [path]
        assert shop.ti.pushed["transfer"]["fetched"] == 1
        assert ObjectStoragePath(path).read_bytes() == content

    @pytest.mark.parametrize("name", ["write", "remove", "sizes_below"])
    def test_killed_at_any_step_the_manifest_never_names_what_is_not_there(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        run_id = shop.run(
            ExtraFile(name="products.csv", content=PRODUCTS), ExtraFile(name="products.txt", content="notes")
        )
        shop.land(run_id, partition_by="sold")
        step = getattr(LandingFolder, name)
        for last in itertools.count(1):
            steps = itertools.count(1)

            def killed(self: LandingFolder, *args: Any, steps: Any = steps, last: int = last) -> Any:
                if next(steps) == last:
                    raise KeyboardInterrupt
                return step(self, *args)

            with monkeypatch.context() as patch:
                patch.setattr(LandingFolder, name, killed)
                try:
                    shop.land(run_id, partition_by="region", max_parallel_files=1)
                except KeyboardInterrupt:
                    self.check(shop, run_id)
                    continue
            break
        assert last > 1
        self.check(shop, run_id)
        names = {entry["name"] for entry in shop.manifest(run_id)["files"]}
        assert names == {"region=EU/products.parquet", "region=US/products.parquet", "products.txt"}
        assert below(shop.folder(run_id)) == {*names, MANIFEST_NAME}

    def check(self, shop: Shop, run_id: int) -> None:
        manifest, folder = shop.manifest(run_id), shop.folder(run_id)
        assert below(folder) - {entry["name"] for entry in manifest["files"]} == {MANIFEST_NAME}
        for entry in manifest["files"] if manifest["is_complete"] else []:
            assert hashlib.sha256((folder / entry["name"]).read_bytes()).hexdigest() == entry["sha256"]

    def test_files_are_removed_from_the_service_when_their_records_are_landed(
        self, sandbox: Sandbox, shop: Shop
    ) -> None:
        agent_id = sandbox.add_agent("Regions", records=[{"region": "EU", "n": 1}, {"region": "US", "n": 2}]).id
        run_id = finished_run(sandbox, agent_id)
        shop.agents[run_id] = agent_id
        options = {"partition_by": "region", "remove_method": "RemoveAllFiles", "file_patterns": "*"}
        paths = shop.land(run_id, **options)
        assert len(sandbox.ledger.of_kind("delete")) == 1
        assert shop.land(run_id, **options) == paths
        assert shop.ti.pushed["transfer"]["records"] == 2


class TestRefusals:
    def test_a_library_that_is_not_installed_is_named_before_anything_is_asked(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = shop.run(ExtraFile(name="products.xlsx", content="x"))
        before = len(shop.sandbox.ledger.requests)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "pyarrow", None)
            with pytest.raises(SequentumRequestRefused, match=r"pip install 'airflow-provider-sequentum\[arrow\]'"):
                shop.land(run_id)
        assert len(shop.sandbox.ledger.requests) == before
        monkeypatch.setitem(sys.modules, "openpyxl", None)
        with pytest.raises(SequentumRequestRefused, match=r"airflow-provider-sequentum\[excel\]"):
            shop.land(run_id)
        assert not [entry for entry in shop.sandbox.ledger.requests if entry.path.endswith("/download")]

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"file_format": "orc"}, "file_format must be 'parquet', not 'orc'"),
            ({"file_format": None, "partition_by": "a"}, "partition_by requires file_format"),
            ({"partition_by": ["a", "a"]}, "partition_by must name each column once"),
            ({"record_schema": {"a": "money"}}, r"record_schema: \['a'\] must be one of string, integer"),
            ({"record_schema": {"a": "decimal(50,2)"}}, "at most 38 digits"),
            ({"record_schema": ["a"]}, "record_schema must be a JSON object"),
        ],
    )
    def test_a_wrong_parameter_is_refused(self, options: dict[str, Any], says: str) -> None:
        given = {"destination": "/lake", "file_format": "parquet", "agent_id": 7, "run_id": 42, **options}
        with pytest.raises(SequentumRequestRefused, match=says):
            RunFilesToObjectStorageOperator(task_id="land", **given).execute({})

    def test_files_without_records(self, shop: Shop) -> None:
        """A list without objects has the columns of the table; a file without a byte becomes none."""
        run_id = shop.run(
            ExtraFile(name="products.csv", content=PRODUCTS),
            ExtraFile(name="products.tsv", content=""),
            ExtraFile(name="products.json", content="[]"),
        )
        full, empty = shop.land(run_id)
        assert (records(empty), types(empty)) == ([], types(full))
        assert [entry["original_name"] for entry in shop.manifest(run_id)["without_records"]] == ["products.tsv"]

    @pytest.mark.parametrize(
        ("listed_size", "says"), [(None, "1 record, but all .* are empty: 'output.csv'"), (6, "lists 6 bytes .* none")]
    )
    def test_records_in_a_file_that_is_empty_yet(
        self, sandbox: Sandbox, shop: Shop, monkeypatch: pytest.MonkeyPatch, listed_size: int | None, says: str
    ) -> None:
        agent_id = sandbox.add_agent("Empty", records=[{"a": 1}]).id
        run_id = finished_run(sandbox, agent_id)
        shop.agents[run_id] = agent_id
        listed = RunFilesTransfer._listed

        def with_size(self: RunFilesTransfer) -> Page[RunFile]:
            return Page([file.model_copy(update={"file_size": listed_size}) for file in listed(self)])

        monkeypatch.setattr(RunFilesTransfer, "_listed", with_size)
        sandbox.fail_next("GET /storage/{agent_id}/{run_id}/{file_id}", "empty")
        with pytest.raises(RunFilesUnavailable, match=says):
            shop.land(run_id, file_patterns="*")
        assert below(shop.folder(run_id)) == set()
        assert records(shop.land(run_id, file_patterns="*")[0]) == [{"a": 1}]


def test_landing_in_s3(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as (connection, client):
        monkeypatch.setenv("AIRFLOW_CONN_S3_PARQUET", connection)
        client.create_bucket(Bucket="lake")
        run_id = shop.run(ExtraFile(name="products.csv", content=PRODUCTS.replace("EU", "E/U")))
        root = "s3://s3_parquet@lake/products"
        options = {"destination": f"{root}/run-1", "schema_file": f"{root}/types.json", "partition_by": "region"}
        paths = shop.land(run_id, **options)
        keys = {entry["Key"] for entry in client.list_objects_v2(Bucket="lake")["Contents"]}
        assert keys == {
            "products/types.json",
            f"products/run-1/{MANIFEST_NAME}",
            "products/run-1/region=E%2FU/products.parquet",
            "products/run-1/region=US/products.parquet",
        }
        assert sorted(record["sku"] for path in paths for record in records(path)) == ["00123", "00124", "00125"]
        assert shop.land(run_id, **options) == paths
        assert shop.ti.pushed["transfer"]["fetched"] == 0
