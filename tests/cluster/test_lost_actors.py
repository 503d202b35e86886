"""What a run does when Ray loses actors, with a stand-in for Ray that raises Ray's errors."""

import json
from types import SimpleNamespace

import pytest
import ray.data
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    RayTaskError,
)

from captioning.bulk.cluster.config import ClusterConfig
from captioning.bulk.cluster.run import caption_partitions
from captioning.bulk.cluster.storage import OutputFolder, Plan
from captioning.errors import CheckpointError, OutputError

pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray

UNAVAILABLE = ActorUnavailableError("The actor is unavailable: UnavailableError", None)


class StandInRay:
    """Ends each start of the actors, after some partitions, with an error.

    Args:
        ends: Number of complete partitions and error of each start; None for no error.
    """

    exceptions = ray.exceptions

    def __init__(self, ends):
        self.starts, self._ends = [], iter(ends)
        self.data = SimpleNamespace(
            DataContext=ray.data.DataContext,
            ActorPoolStrategy=ray.data.ActorPoolStrategy,
            from_items=self._start,
        )

    def _start(self, items, override_num_blocks):
        self.starts.append([item["partition"] for item in items])
        rows = SimpleNamespace(iter_rows=lambda: self._rows(*next(self._ends)))
        return SimpleNamespace(map_batches=lambda *_, **options: rows)

    def _rows(self, count, error):
        for partition in self.starts[-1][:count]:
            yield {"counts": json.dumps({"partition": partition})}
        if error is not None:
            raise error


@pytest.fixture
def caption_with(tmp_path):
    """Caption five partitions; return the numbers of those that were completed."""

    def run(stand_in):
        folder = OutputFolder(str(tmp_path))
        folder.write_plan(Plan({}, 5, ".captioning/inputs-1", "", ""))
        spec = SimpleNamespace(folder=folder)
        counts = caption_partitions(stand_in, spec, ClusterConfig(), range(5), ())
        return [each["partition"] for each in counts]

    return run


def test_unavailable_actor_twice_completes_every_partition_once(caption_with):
    stand_in = StandInRay([(1, UNAVAILABLE), (0, UNAVAILABLE), (5, None)])
    assert sorted(caption_with(stand_in)) == [0, 1, 2, 3, 4]
    assert [len(numbers) for numbers in stand_in.starts] == [5, 4, 4]


def test_lost_actors_with_progress_in_between_never_end_a_run(caption_with):
    lost = [(1, error) for error in (UNAVAILABLE, NodeDiedError("dead"), ActorDiedError())]
    assert sorted(caption_with(StandInRay([*lost, (1, UNAVAILABLE), (5, None)]))) == [0, 1, 2, 3, 4]


def test_partition_that_kills_its_actors_ends_run_by_its_name(caption_with, tmp_path):
    stand_in = StandInRay([(4, UNAVAILABLE), *[(0, UNAVAILABLE)] * 9])
    with pytest.raises(OutputError) as caught:
        caption_with(stand_in)
    message = str(caught.value)
    assert "no partition was completed in between" in message
    assert (
        f"Incomplete partitions: 4; their inputs are in '{tmp_path}/.captioning/inputs-1'"
        in message
    )
    assert [len(numbers) for numbers in stand_in.starts] == [5, 1, 1]


@pytest.mark.parametrize("error", [CheckpointError("no weights"), ValueError("a bug")])
def test_error_inside_a_task_ends_run_at_once(caption_with, error):
    stand_in = StandInRay([(0, RayTaskError("f", "Traceback\nno weights", error)), (5, None)])
    with pytest.raises((CheckpointError, OutputError), match="no weights"):
        caption_with(stand_in)
    assert len(stand_in.starts) == 1


def test_long_reason_of_ray_is_cut_to_its_first_sentences(caption_with):
    users = "\n".join(f"{pid} 0.5 ray::MapWorker" for pid in range(1000))
    reason = "The actor died.\n\tactor_id: ffff\nIts node has died.\n\tmemory is low: 1 GB\n"
    error = OutOfMemoryError(f"{reason}  File 'a.py'\n\x1b[36mProcesses:\n{users}")
    with pytest.raises(OutputError) as caught:
        caption_with(StandInRay([(0, error)] * 3))
    message = str(caught.value)
    assert (
        "The last reason: The actor died. Its node has died. memory is low: 1 GB Processes: 0 0.5"
        in message
    )
    assert len(message) < 900


def test_long_error_of_a_task_is_cut(caption_with):
    with pytest.raises(OutputError) as caught:
        caption_with(StandInRay([(0, RayTaskError("f", "Traceback\n" + "x" * 9000, ValueError()))]))
    assert "Ray has ended the run: xxx" in str(caught.value)
    assert len(str(caught.value)) < 500
