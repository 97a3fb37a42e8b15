"""An index with converted images beside their originals: each reader takes the one that it understands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from obd.convert.documents import SOURCE, artifact_type, made_of
from obd.oci.descriptor import Descriptor
from obd.oci.manifest import Index
from obd.oci.media import OCI_INDEX

if TYPE_CHECKING:
    from obd.convert.options import Options


def index_beside(
    there: Index | None, originals: Sequence[Descriptor], made: Mapping[str, Descriptor], options: Options
) -> Index:
    """The index `there` with these originals, and with `made`: the new image for the digest of each.

    What there was of other images stays; earlier conversions of these of the same kind do not. Originals
    come first: who knows nothing of overlaybd takes the first that is for its platform.
    """
    kind = artifact_type(options)
    old = [
        entry
        for entry in (there.manifests if there else ())
        if entry.artifact_type != kind or entry.annotations.get(SOURCE) not in made
    ]
    known = {entry.digest for entry in old}
    added = [entry for entry in originals if entry.digest not in known]
    # Those that are for readers of overlaybd come after all that are not.
    plain = [entry for entry in (*old, *added) if SOURCE not in entry.annotations]
    converted = [entry for entry in old if SOURCE in entry.annotations]
    platforms = {entry.digest: entry.platform for entry in (*old, *originals)}
    for digest, new in made.items():
        said = made_of(digest, options)
        converted.append(replace(new, annotations=said, artifact_type=kind, platform=platforms.get(digest)))
    return Index(
        (*plain, *converted),
        there.annotations if there else {},
        OCI_INDEX,
    )


def beside(there: Index, original: Descriptor, options: Options) -> Descriptor | None:
    """The conversion of an original, both in the index, if it was made in the same way."""
    wanted = made_of(original.digest, options)
    if all(entry.digest != original.digest for entry in there.manifests):
        return None
    for entry in there.manifests:
        if entry.artifact_type == artifact_type(options) and wanted.items() <= entry.annotations.items():
            return entry
    return None
