"""Software bills of materials, as CycloneDX: one inside the wheel, and one of a lock file as a release artifact.

The build of a wheel calls ``SbomBuildHook``, and the file is in ``.dist-info/sboms/`` then (PEP 770). It lists what the
wheel bundles and which versions of other packages it accepts, because these are all that a wheel can know.
``python sbom.py requirements/airflow-3.3.txt FILE`` writes the other one: the versions that the tests ran with.

Both depend on nothing but their input: there is no time and no random number in them, so a build can be repeated.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

Json = dict[str, Any]

NAME = "airflow-provider-sequentum"
DATA = "airflow_provider_sequentum/sandbox/data"
"""The data sets that the wheel bundles; their sources and licences are in ``SOURCES.md`` beside them."""
DATA_LICENCE = "CC0-1.0"
EXTRAS_PROPERTY = f"{NAME}:extras"
MARKER_PROPERTY = f"{NAME}:marker"

_LOCKED = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[^ ;\\]+)(?: ; (?P<marker>[^\\]+?))? *\\?")
_VIA = re.compile(r"    #(?: via| {2}) (?P<parent>[a-z0-9-]+)")


class SbomBuildHook(BuildHookInterface[Any]):
    """Add the wheel's bill of materials while hatchling builds it."""

    def initialize(self, version: str, build_data: Json) -> None:
        """Write the file and name it to the builder."""
        metadata = self.metadata.core
        bom = wheel_bom(Path(self.root), self.metadata.version, metadata.dependencies, metadata.optional_dependencies)
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / f"{NAME}.cdx.json"
        path.write_text(as_json(bom), encoding="utf-8")
        build_data["sbom_files"].append(str(path))

    def finalize(self, version: str, build_data: Json, artifact_path: str) -> None:
        """Remove the file, which is in the wheel now."""
        self._folder.cleanup()


def wheel_bom(root: Path, version: str, required: Iterable[str], extras: Mapping[str, Iterable[str]]) -> Json:
    """What a wheel contains and accepts.

    :param root: folder of the source.
    :param version: version of the provider.
    :param required: the declared dependencies.
    :param extras: the declared dependencies of each extra.
    :raises ValueError: a declared range cannot be written as a range of versions.
    """
    components: dict[str, Json] = {}
    for extra, requirements in [("", required), *extras.items()]:
        for text in requirements:
            component = _accepted(Requirement(text), extra)
            known = components.setdefault(component["bom-ref"], component)
            if known is not component and extra:
                known["properties"].append({"name": EXTRAS_PROPERTY, "value": extra})
    provider = _provider(version)
    provider["components"] = [_data_set(path) for path in sorted((root / DATA).glob("*.csv"))]
    found = [components[reference] for reference in sorted(components)]
    depends_on = [component["bom-ref"] for component in found if component["scope"] == "required"]
    return _bom(provider, found, {provider["bom-ref"]: depends_on})


def lock_bom(lock: str, version: str) -> Json:
    """The packages of a lock file, and which needs which.

    :param lock: text of a file that ``make lock`` wrote.
    :param version: version of the provider.
    :raises ValueError: the text has no locked package.
    """
    provider = _provider(version)
    components: list[Json] = []
    children: dict[str, list[str]] = {}
    for line in lock.splitlines():
        if locked := _LOCKED.fullmatch(line):
            components.append(_locked(**locked.groupdict()))
        elif components and (via := _VIA.match(line)):
            children.setdefault(via["parent"], []).append(components[-1]["bom-ref"])
    if not components:
        raise ValueError("there is no locked package in the text")
    depends_on = {component["bom-ref"]: children.get(component["name"], []) for component in components}
    return _bom(provider, components, {provider["bom-ref"]: children.get(NAME, []), **depends_on})


def as_json(bom: Json) -> str:
    """Return the text of a bill of materials."""
    return json.dumps(bom, indent=2) + "\n"


def _bom(subject: Json, components: list[Json], depends_on: Mapping[str, list[str]]) -> Json:
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "version": 1,
        "metadata": {"component": subject},
        "components": components,
        "dependencies": [{"ref": parent, "dependsOn": sorted(set(refs))} for parent, refs in depends_on.items()],
    }


def _provider(version: str) -> Json:
    return {
        "type": "library",
        "bom-ref": NAME,
        "name": NAME,
        "version": version,
        "purl": f"pkg:pypi/{NAME}@{version}",
        "licenses": [{"expression": "Apache-2.0"}],
    }


def _data_set(path: Path) -> Json:
    return {
        "type": "data",
        "bom-ref": f"{DATA}/{path.name}",
        "name": f"{DATA}/{path.name}",
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}],
        "licenses": [{"license": {"id": DATA_LICENCE}}],
    }


def _accepted(requirement: Requirement, extra: str) -> Json:
    name = canonicalize_name(requirement.name)
    component = {
        "type": "library",
        "bom-ref": f"{name} {requirement.specifier}",
        "name": name,
        "purl": f"pkg:pypi/{name}",
        "versionRange": _vers(requirement.specifier),
        "isExternal": True,
        "scope": "optional" if extra else "required",
    }
    return {**component, "properties": [{"name": EXTRAS_PROPERTY, "value": extra}]} if extra else component


def _vers(specifiers: SpecifierSet) -> str:
    """Write a range as the vers specification does: ``>=0.27,<1`` is ``vers:pypi/>=0.27|<1``."""
    if any(part.operator not in (">=", ">", "<=", "<") for part in specifiers) or not list(specifiers):
        raise ValueError(f"cannot write {str(specifiers)!r} as a range: only >=, >, <= and < are known")
    bounds = sorted(specifiers, key=lambda part: Version(part.version))
    return "vers:pypi/" + "|".join(f"{part.operator}{part.version}" for part in bounds)


def _locked(name: str, version: str, marker: str | None) -> Json:
    purl = f"pkg:pypi/{name}@{version}"
    component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return {**component, "properties": [{"name": MARKER_PROPERTY, "value": marker}]} if marker else component


def _main(lock: str, target: str) -> None:
    from airflow_provider_sequentum import __version__

    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(as_json(lock_bom(Path(lock).read_text(encoding="utf-8"), __version__)), encoding="utf-8")


if __name__ == "__main__":
    _main(*sys.argv[1:])
