"""A conversion as a whole: what is asked for, what is there already, what is made of the rest."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import TYPE_CHECKING, Final

from obd.convert.build import Build, Watch
from obd.convert.crew import Crew
from obd.convert.plan import ImagePlan, chosen_entries, plan_image
from obd.convert.publish import Finished, Wanted, publish, unchanged
from obd.convert.work import Work
from obd.errors import ObdError
from obd.oci.descriptor import Descriptor
from obd.oci.limits import MAX_MANIFEST_BYTES
from obd.oci.manifest import Index, Manifest, parse_manifest

if TYPE_CHECKING:
    from obd.convert.options import LayerResult, Options, Result
    from obd.convert.record import Made
    from obd.convert.target import Target
    from obd.oci.protocols import ImageSource

    Layers = list[tuple[Made, LayerResult]]

_TICK_S: Final = 0.1


def convert(source: ImageSource, target: Target, options: Options, watch: Watch) -> Result:
    """Makes an overlaybd image of an image of files.

    The destination's tag changes last, when all that it names is there. Raises `OSError`.
    """
    wanted = _wanted(source, options)
    if options.reuse and (found := unchanged(target.destination, wanted, options)) is not None:
        return found
    plans = [_plan(source, entry) for entry in wanted.entries]
    with Work(options.work) as work:
        kind = _kind(options)
        with Crew(options.threads) as crew:
            builds = [
                kind(str(number), plan, source, target, work, crew, options, watch)
                for number, plan in enumerate(plans)
            ]
            running = [crew.submit(crew.images, build.run) for build in builds]
            try:
                _wait(running, watch)
            except BaseException:
                # Else those who read wait for a registry that does not answer.
                source.close()
                raise
            layers = [each.result() for each in running]
        finished = [
            Finished(plan, build.vsize_bytes, tuple(build.notes), tuple(made), build.trees)
            for plan, build, made in zip(plans, builds, layers, strict=True)
        ]
        result = publish(source, target.destination, wanted, finished, options)
        work.done()
    return result


def _wait(running: Iterable[Future[Layers]], watch: Watch) -> None:
    """Returns when all is done; raises what the first that failed has raised."""
    waiting = set(running)
    while waiting:
        ended, waiting = wait(waiting, timeout=_TICK_S, return_when=FIRST_EXCEPTION)
        for each in ended:
            each.result()
        watch.tick()


def _kind(options: Options) -> type[Build]:
    if not options.turbo:
        return Build
    from obd.convert.turbo import TurboBuild

    return TurboBuild


def _wanted(source: ImageSource, options: Options) -> Wanted:
    root, data = source.root()
    document = parse_manifest(data, root.media_type)
    if not isinstance(document, Index):
        return Wanted(root, None, (root,), several=False)
    entries = chosen_entries(document, options.platforms, options.all_platforms)
    return Wanted(root, document, entries, several=options.all_platforms or len(entries) > 1)


def _plan(source: ImageSource, entry: Descriptor) -> ImagePlan:
    manifest = parse_manifest(source.manifest(entry), entry.media_type)
    if not isinstance(manifest, Manifest):
        raise ObdError("unsupported", f"{entry.digest}: an index in an index")
    if manifest.config.size > MAX_MANIFEST_BYTES:
        what = f"a configuration of {manifest.config.size} bytes, more than {MAX_MANIFEST_BYTES}"
        raise ObdError("limit", f"{manifest.config.digest}: {what}")
    with source.blob(manifest.config) as stream:
        config = stream.read()
    return plan_image(entry, manifest, config)
