"""A run on a Ray cluster: inputs are listed once, and actors caption their partitions.

Ray Data starts the actors, gives them partitions, and repeats partitions whose node died. Its
object store holds only numbers of partitions and counts: an actor reads the images itself, a few
batches ahead of the model, and writes the rows of a partition as one file. A partition that is
captioned twice gives the same file.
"""

import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from typing import Any

from captioning import __version__
from captioning.bulk.cluster.actors import ModelSpec, PartitionActor, RunSpec
from captioning.bulk.cluster.config import ClusterConfig
from captioning.bulk.cluster.entries import Entry, divide
from captioning.bulk.cluster.selection import DigestRegistry, hash_captioned_names
from captioning.bulk.cluster.storage import OutputFolder
from captioning.decoding import search_to_json
from captioning.errors import CaptioningError, ConfigError, OutputError
from captioning.messages import describe_differences

_OBJECT_STORE = 200 << 20  # bytes; it holds no images
_QUEUED_PARTITIONS = 2  # per actor, so that it does not wait for the next one
_MAX_RETRIES = 5  # of a partition whose actor or node died; without it Ray never gives up
_PARTITIONS_AT_ONCE = 20_000  # each takes some kilobytes of the driver
_START_AGAIN = "Use --overwrite to start again, or another -o."


def import_ray() -> Any:
    """Return the ray package with its data module.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import ray.data
    except ImportError:
        raise ConfigError(
            'captioning on a cluster needs Ray. Run `pip install "ray[data]"`.'
        ) from None
    return ray


@contextmanager
def connect_to_ray(config: ClusterConfig) -> Iterator[Any]:
    """Connect to a cluster, or start Ray on this machine; yield the ray package.

    A connection of the caller is used and stays open. Ray prints the death of nodes on standard
    output, which is for results; until the end of the context it is standard error.

    Raises:
        ConfigError: There is no cluster at the address, or an actor does not fit this machine.
    """
    ray = import_ray()
    with redirect_stdout(sys.stderr):
        if ray.is_initialized():
            yield ray
            return
        address = config.ray_address or os.environ.get("RAY_ADDRESS")
        _init_ray(ray, address)
        try:
            if address is None:
                _check_resources(ray.cluster_resources(), config)
            yield ray
        finally:
            ray.shutdown()


def _init_ray(ray: Any, address: str | None) -> None:
    options: dict[str, Any] = {"address": address}
    if address is None:
        options = {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE,
        }
    try:
        with _without_native_messages():
            ray.init(**options, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        place = f"connect to Ray at {address}" if address else "start Ray"
        raise ConfigError(f"cannot {place}: {reason}. Check --ray-address.") from error


@contextmanager
def _without_native_messages() -> Iterator[None]:
    """Keep Ray's C++ library, which does not use ``sys.stderr``, from writing to the terminal."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its setting is announced once
    stderr, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nothing)


def _check_resources(available: Mapping[str, float], config: ClusterConfig) -> None:
    for name, wanted in (("CPU", config.cpus_per_actor), ("GPU", config.gpus_per_actor)):
        if wanted > available.get(name, 0):
            flag = f"--{name.lower()}s-per-actor"
            raise ConfigError(
                f"{flag} is {wanted:g}, but this machine has {available.get(name, 0):g} {name}s. "
                f"Use a smaller {flag}, or --ray-address for a cluster."
            )


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


def open_run(folder: OutputFolder, settings: dict[str, Any], *, overwrite: bool) -> int | None:
    """Check the output folder of a run.

    Args:
        folder: The folder.
        settings: Everything that decides the rows, as values that JSON can store.
        overwrite: Delete the rows of an earlier run.

    Returns:
        The number of partitions; None if the inputs are not listed yet.

    Raises:
        ConfigError: The folder belongs to a run with other settings, or has other files.
        OutputError: It cannot be used.
    """
    settings = _plain(settings)
    if overwrite:
        folder.clear()
    run = folder.read_run()
    if run is None:
        if not folder.is_empty():
            raise ConfigError(
                f"the folder '{folder.url}' is not empty and is not the output of a run on Ray. "
                "Use another -o."
            )
        folder.write_run({"settings": settings})
        return None
    if run.get("settings") != settings:
        differences = describe_differences(run.get("settings", {}), settings)
        raise ConfigError(
            f"cannot resume the run in '{folder.url}', because its settings differ: "
            f"{differences}. Use the same settings to resume. {_START_AGAIN}"
        )
    return run.get("partitions")


def _plain(settings: Any) -> Any:
    """Return settings as JSON gives them back."""
    return json.loads(json.dumps(settings))


def write_plan(
    folder: OutputFolder, settings: dict[str, Any], entries: Iterable[Entry], size: int
) -> int:
    """Write the inputs of all partitions, and return the number of partitions.

    Memory holds one partition at a time.
    """
    count = 0
    for count, partition in enumerate(divide(entries, size), 1):
        folder.write_inputs(count - 1, (entry.to_json() for entry in partition))
    folder.write_run({"settings": _plain(settings), "partitions": count})
    return count


def caption_partitions(
    ray: Any, spec: RunSpec, config: ClusterConfig, todo: Sequence[int], done: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Caption partitions and yield the counts of each when its rows are written.

    Args:
        ray: The connected ray package.
        spec: What the actors do.
        config: Number of actors, and what is skipped.
        todo: Numbers of the partitions.
        done: Numbers of the complete partitions.

    Raises:
        CaptioningError: An actor cannot load the model, or cannot write.
    """
    options: dict[str, Any] = {"spec": spec}
    if config.skip_rows_of:
        captioned = ray.put(hash_captioned_names(config.skip_rows_of))
        options["earlier"] = partial(ray.get, captioned)
    if config.skip_duplicates:
        registry = _start_registry(ray, spec.folder, done)
        options["claim"] = partial(_claim_remotely, ray.get, registry)
    with _quiet(ray):
        for start in range(0, len(todo), _PARTITIONS_AT_ONCE):
            some = todo[start : start + _PARTITIONS_AT_ONCE]
            partitions = ray.data.from_items(
                [{"partition": number} for number in some], override_num_blocks=len(some)
            )
            counts = partitions.map_batches(
                PartitionActor,
                batch_size=1,
                fn_constructor_kwargs=options,
                **actor_options(ray, config, len(some)),
            )
            try:
                for row in counts.iter_rows():
                    yield json.loads(row["counts"])
            except Exception as error:
                raise _find_cause(error) from error


def _start_registry(ray: Any, folder: OutputFolder, done: Sequence[int]) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On the node of the driver: if that dies, the run ends anyway.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, scheduling_strategy=here)(DigestRegistry)
    return actor.remote(folder, list(done))


def _claim_remotely(
    get: Any, registry: Any, partition: int, images: Sequence[tuple[bytes, str]]
) -> list[tuple[int, str]]:
    return get(registry.claim.remote(partition, images))


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
        "max_task_retries": _MAX_RETRIES,
    }
    if config.gpus_per_actor:
        options["num_gpus"] = config.gpus_per_actor
    return options


def _find_cause(error: BaseException) -> CaptioningError:
    """Return the error of this package behind an error of Ray, or one with Ray's reason."""
    seen: list[BaseException] = []
    remaining: list[Any] = [error]
    while remaining:
        each = remaining.pop()
        if isinstance(each, CaptioningError):
            return each
        if isinstance(each, BaseException) and each not in seen:
            seen.append(each)
            remaining += [each.__cause__, each.__context__, getattr(each, "cause", None)]
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = f"Ray has ended the run: {lines[-1].strip().rstrip('.')}."
    return OutputError(f"{reason} Run the same command to resume; Ray's logs have the details.")


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Keep Ray Data from writing its own progress to the terminal."""
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = before[0]
        logger.setLevel(before[1])
