"""Names of files at a destination."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_provider_sequentum.api.file_names import safe_file_names

MANIFEST_NAME = "_sequentum_manifest.json"
UNFINISHED_SUFFIX = ".unfinished"


def landing_names(names: Sequence[str | None]) -> list[str]:
    """Return a safe name for each of the server's, none of which is the manifest's or an unfinished file's."""
    harmless = [f"{name}_" if name and name.lower().endswith(UNFINISHED_SUFFIX) else name for name in names]
    return safe_file_names([MANIFEST_NAME, *harmless])[1:]
