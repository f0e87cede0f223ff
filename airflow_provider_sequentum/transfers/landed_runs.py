"""The runs that are landed below a folder, according to their manifests, and the check of their files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api.files import DELIVERED
from airflow_provider_sequentum.runs.files import named
from airflow_provider_sequentum.transfers.landing import MANIFEST_NAME, LandingFolder
from airflow_provider_sequentum.transfers.manifest import Manifest

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_sequentum.api.files import RunFile


@dataclass(frozen=True, slots=True)
class LandedRun:
    """A run that has a manifest.

    :param folder: the folder that contains its files.
    :param manifest: the manifest in this folder.
    """

    folder: LandingFolder
    manifest: Manifest

    def why_not(self, listed: Iterable[RunFile]) -> str | None:
        """Return why the run's delivered files are not all landed; ``None`` if all are present and unchanged.

        Every landed file is read, because a file that is deleted from the service cannot be fetched again.

        :param listed: the files of the run that the service lists.
        """
        if not self.manifest.is_complete:
            return f"The manifest in {self.folder.path} is not complete: the transfer has not finished"
        for file in listed:
            if file.kind == DELIVERED and not self.manifest.has(file):
                return f"The manifest in {self.folder.path} does not have {named(file)} as the service lists it"
        sizes = self.folder.sizes_below()
        for entry in self.manifest.files:
            if sizes.get(entry.name) != entry.size:
                return f"{self.folder.path / entry.name} is missing, or its size differs from the manifest"
        for entry in self.manifest.files:
            if self.folder.measure(entry.name).sha256 != entry.sha256:
                return f"{self.folder.path / entry.name} differs from the file that was landed"
        return None


def find_landed_runs(folders: Sequence[ObjectStoragePath], agent_id: int) -> dict[int, list[LandedRun]]:
    """Return the runs of an agent that have manifests in or below the folders, by run id."""
    found: dict[int, list[LandedRun]] = defaultdict(list)
    for folder in folders:
        for path in sorted(LandingFolder(folder).sizes_below()):
            below, _, name = path.rpartition("/")
            if name != MANIFEST_NAME:
                continue
            landing = LandingFolder(folder / below if below else folder)
            manifest = Manifest.parse(landing.read(MANIFEST_NAME))
            if manifest is not None and manifest.agent_id == agent_id:
                found[manifest.run_id].append(LandedRun(landing, manifest))
    return dict(found)
