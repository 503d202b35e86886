"""A run on a Ray cluster: inputs are listed once, and actors caption their partitions.

Ray Data starts the actors, gives them partitions, and repeats partitions whose node died. Its
object store holds only numbers of partitions and counts: an actor reads the images itself, a few
batches ahead of the model, and writes the rows of a partition as one file. A partition that is
captioned twice gives the same file.
"""

import json
import logging
import os
import random
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from captioning import __version__
from captioning.bulk.cluster.actors import ModelSpec, PartitionActor, RunSpec, parse_counts
from captioning.bulk.cluster.config import ClusterConfig
from captioning.bulk.cluster.connection import quiet_ray_data
from captioning.bulk.cluster.entries import Entry, divide
from captioning.bulk.cluster.selection import DigestRegistry, hash_captioned_names
from captioning.bulk.cluster.storage import OutputFolder, Plan
from captioning.bulk.cluster.tables import KeptTypes
from captioning.decoding import search_to_json
from captioning.errors import CaptioningError, ConfigError, OutputError
from captioning.json_data import shorten
from captioning.messages import describe_differences

_QUEUED_PARTITIONS = 2  # per actor, so that it does not wait for the next one
_MAX_RESTARTS = 3  # of one actor by Ray; without it a partition that kills its actor never ends
_MAX_LOSSES = 3  # of actors that Ray does not restart, without a complete partition in between
_LISTED_PARTITIONS = 10
_PARTITIONS_AT_ONCE = 20_000  # each takes some kilobytes of the driver
_DETAILS = re.compile(r"^(\x1b\[\d+m)*(  |\t\w+: ).*|\x1b\[\d+m", re.MULTILINE)
"""Colors, frames of a traceback, and ids in Ray's reason for the loss of an actor."""
_LOGGER = logging.getLogger(__name__)
_START_AGAIN = "Use --overwrite to start again, or another -o."


def describe_maker(model: ModelSpec) -> dict[str, Any]:
    """Return what made the captions: version, model and search."""
    return {
        "version": __version__,
        "model": model.name,
        "weights": model.fingerprint,
        "search": search_to_json(model.search),
        "seed": model.seed,
        "precision": model.backend.precision,
    }


def open_run(folder: OutputFolder, settings: dict[str, Any], *, overwrite: bool) -> Plan | None:
    """Check the output folder of a run.

    Args:
        folder: The folder.
        settings: Everything that decides the rows, as values that JSON can store.
        overwrite: Delete the rows of an earlier run.

    Returns:
        The plan; None if the inputs are not listed yet.

    Raises:
        ConfigError: The folder belongs to a run with other settings, or has other files.
        OutputError: It cannot be used.
    """
    settings = _plain(settings)
    if overwrite:
        folder.clear()
    plan = folder.read_plan()
    if plan is None:
        if not folder.is_empty():
            raise ConfigError(
                f"the folder '{folder.url}' is not empty and is not the output of a run on Ray. "
                "Use another -o."
            )
        return None
    if plan.settings != settings:
        differences = describe_differences(plan.settings, settings)
        raise ConfigError(
            f"cannot resume the run in '{folder.url}', because its settings differ: "
            f"{differences}. Use the same settings to resume. {_START_AGAIN}"
        )
    return plan


def _plain(settings: Any) -> Any:
    """Return settings as JSON gives them back."""
    return json.loads(json.dumps(settings))


def write_plan(
    folder: OutputFolder,
    settings: dict[str, Any],
    entries: Iterable[Entry],
    size: int,
    kept: KeptTypes,
) -> Plan:
    """Write the inputs of all partitions, and return the plan.

    If another command has written a plan in the meantime, that plan is returned. Memory holds one
    partition at a time.

    Args:
        folder: The output folder.
        settings: See :func:`open_run`.
        entries: The inputs.
        size: Images per partition.
        kept: Types of the kept columns, which are known when the inputs are listed.

    Raises:
        ConfigError: The run of the other command has other settings.
        OutputError: The folder cannot be used.
    """
    count, inputs = 0, folder.new_inputs()
    for count, partition in enumerate(divide(entries, size), 1):
        folder.write_inputs(inputs, count - 1, (entry.to_json() for entry in partition))
    plan = open_run(folder, settings, overwrite=False)
    if plan is None:
        plan = Plan(_plain(settings), count, inputs, os.getcwd(), kept.to_text())  # noqa: PTH109
        folder.write_plan(plan)
        plan = folder.plan  # of the last command, if two end at once
    return plan


def caption_partitions(
    ray: Any, spec: RunSpec, config: ClusterConfig, todo: Sequence[int], done: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Caption partitions and yield the counts of each when its rows are written.

    Ray restarts actors that died. If it cannot, all actors are started again for the partitions
    that are not complete.

    Args:
        ray: The connected ray package.
        spec: What the actors do.
        config: Number of actors, and what is skipped.
        todo: Indices of the partitions.
        done: Indices of the complete partitions.

    Raises:
        CaptioningError: An actor cannot load the model, or cannot write; or actors were lost
            again and again, and no partition was completed in between.
    """
    options: dict[str, Any] = {"spec": spec}
    if config.skip_rows_of:
        captioned = ray.put(hash_captioned_names(config.skip_rows_of))
        options["earlier"] = partial(ray.get, captioned)
    if config.skip_duplicates:
        registry = _start_registry(ray, spec.folder, done)
        # An actor asks the registry which of its images no other actor has captioned (claimed).
        options["claim"] = partial(_claim_remotely, ray.get, registry)
    remaining, losses = dict.fromkeys(todo), 0
    with quiet_ray_data(ray):
        while remaining:
            try:
                for counts in _caption_at_once(ray, options, config, [*remaining]):
                    del remaining[counts["partition"]]
                    losses = 0
                    yield counts
            except CaptioningError:
                raise
            except Exception as error:
                losses += 1
                reason = _require_lost_actor(ray, error)
                if losses == _MAX_LOSSES:
                    raise _explain_losses(spec.folder, [*remaining], reason) from error
                _LOGGER.warning("Ray lost an actor: %s Starting the actors again.", reason)
                # Partitions that may have killed their actor do not come first again.
                order = [*remaining]
                random.Random(losses).shuffle(order)
                remaining = dict.fromkeys(order)


def _caption_at_once(
    ray: Any, options: dict[str, Any], config: ClusterConfig, numbers: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Start actors and yield the counts of the first partitions, which fit the driver's memory."""
    some = numbers[:_PARTITIONS_AT_ONCE]
    partitions = ray.data.from_items(
        [{"partition": number} for number in some], override_num_blocks=len(some)
    )
    with allow_max_restarts():
        counts = partitions.map_batches(
            PartitionActor,
            batch_size=1,
            fn_constructor_kwargs=options,
            **actor_options(ray, config, len(some)),
        )
    for row in counts.iter_rows():
        yield parse_counts(row["counts"])


def _start_registry(ray: Any, folder: OutputFolder, done: Sequence[int]) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On the node of the driver: if that dies, the run ends anyway.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # A claim can be repeated: it is stored once.
    actor = ray.remote(num_cpus=0, scheduling_strategy=here, max_task_retries=-1)(DigestRegistry)
    return actor.remote(folder, list(done))


def _claim_remotely(
    get: Any, registry: Any, partition: int, images: Sequence[tuple[bytes, str]]
) -> list[tuple[int, str]]:
    return get(registry.claim.remote(partition, images))


@contextmanager
def allow_max_restarts() -> Iterator[None]:
    """Ignore that Ray 2.60 deprecates max_restarts, which has no other way yet."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        yield


def actor_options(ray: Any, config: ClusterConfig, tasks: int | None = None) -> dict[str, Any]:
    """Return the options of ``map_batches`` for the actors.

    Args:
        ray: The ray package.
        config: Number and resources of the actors.
        tasks: Number of tasks, which is the largest useful number of actors; None if unknown.
    """
    most = min(filter(None, (config.max_actors, tasks)), default=None)
    smallest = config.min_actors if most is None else min(config.min_actors, most)
    options: dict[str, Any] = {
        "compute": ray.data.ActorPoolStrategy(
            min_size=smallest,
            max_size=most,
            max_tasks_in_flight_per_actor=_QUEUED_PARTITIONS,
        ),
        "num_cpus": config.cpus_per_actor,
        "max_restarts": _MAX_RESTARTS,  # of an actor; without it Ray never gives up
    }
    if config.gpus_per_actor:
        options["num_gpus"] = config.gpus_per_actor
    return options


def _require_lost_actor(ray: Any, error: BaseException) -> str:
    """Return Ray's reason for the loss of an actor, its process or its node.

    Raises:
        CaptioningError: The error has another cause, or is one of this package.
    """
    chain = _list_causes(error)
    if own := next((each for each in chain if isinstance(each, CaptioningError)), None):
        raise own from error
    names = ("RayActorError", "NodeDiedError", "ObjectLostError", "OutOfMemoryError")
    kinds = tuple(getattr(ray.exceptions, name) for name in (*names, "WorkerCrashedError"))
    if lost := next((each for each in chain if isinstance(each, kinds)), None):
        return _make_sentence(_DETAILS.sub("", str(lost)))
    lines = str(error).strip().splitlines() or [type(error).__name__]
    raise OutputError(
        f"Ray has ended the run: {_make_sentence(lines[-1])} Run the same command to resume; "
        "Ray's logs have the details."
    ) from error


def _make_sentence(text: str) -> str:
    return shorten(f"{' '.join(text.split()).rstrip('.')}.")


def _list_causes(error: BaseException) -> list[BaseException]:
    """Return an error of Ray and those behind it."""
    causes: list[BaseException] = []
    remaining: list[Any] = [error]
    while remaining:
        each = remaining.pop()
        if isinstance(each, BaseException) and each not in causes:
            causes.append(each)
            remaining += [each.__cause__, each.__context__, getattr(each, "cause", None)]
    return causes


def _explain_losses(folder: OutputFolder, numbers: Sequence[int], reason: str) -> OutputError:
    listed = ", ".join(map(str, sorted(numbers)[:_LISTED_PARTITIONS]))
    others = f" and {more:,} more" if (more := len(numbers) - _LISTED_PARTITIONS) > 0 else ""
    return OutputError(
        f"Ray lost actors {_MAX_LOSSES} times in a row, and no partition was completed in between. "
        f"The last reason: {reason} Incomplete partitions: {listed}{others}; their inputs are in "
        f"'{folder.url}/{folder.plan.inputs}'. Check these inputs and the memory of the machines. "
        "To resume, run the same command."
    )
