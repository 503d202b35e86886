"""One Ray cluster for all tests, and a stand-in that runs actors in this process."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from caption_runs import run_command

from captioning.bulk.cluster import connection
from captioning.bulk.cluster import run as cluster_run
from captioning.bulk.cluster.actors import PartitionActor, parse_counts
from captioning.bulk.cluster.selection import DigestRegistry, hash_captioned_names
from captioning.images.loader import ImageLoader

OBJECT_STORE = 80 << 20  # bytes; the smallest that Ray accepts is 75 MB
RAY_SETTINGS = {
    "RAY_AUTH_MODE": "disabled",  # no token in the home folder
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # The machine may be busy, and Ray gives actors the lowest priority.
    "RAY_agent_register_timeout_ms": "200000",
    "RAY_worker_niceness": "0",
}


class Bucket:
    """A bucket on an S3 server, through the client of Amazon."""

    def __init__(self, endpoint, name):
        import boto3

        self.url = f"s3://{name}"
        self._name = name
        self._client = boto3.client("s3", endpoint_url=endpoint)
        self._client.create_bucket(Bucket=name)

    def put(self, name, content):
        self._client.put_object(Bucket=self._name, Key=name, Body=content)

    def get(self, name):
        return self._client.get_object(Bucket=self._name, Key=name)["Body"].read()

    def delete(self, name):
        self._client.delete_object(Bucket=self._name, Key=name)

    def names(self):
        found = self._client.list_objects_v2(Bucket=self._name).get("Contents", ())
        return [each["Key"] for each in found]


@pytest.fixture(scope="session")
def s3_endpoint():
    """An S3 server of moto on this machine, which all processes use that start later."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint, request):
    """An empty bucket."""
    name = request.node.name.replace("_", "-")[:60].strip("-")
    return Bucket(s3_endpoint, name)


@pytest.fixture(scope="session")
def cluster(_own_cache, s3_endpoint):
    """A cluster whose head has one CPU, and to which this process is connected."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in RAY_SETTINGS.items():
            patch.setenv(name, value)
        import ray
        from ray.cluster_utils import Cluster

        node = {"num_cpus": 1, "object_store_memory": OBJECT_STORE}
        quiet = {"include_dashboard": False, "include_log_monitor": False}
        cluster = Cluster(initialize_head=True, head_node_args=node | quiet)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def caption(model, capsys):
    """Run ``captioning caption --engine ray`` in this process."""

    def run(*words):
        flags = ("--engine", "ray", "--model", model, "--workers", "0")
        code = run_command("caption", *words, *flags)
        return SimpleNamespace(code=code, **capsys.readouterr()._asdict())

    return run


@pytest.fixture
def in_process(monkeypatch):
    """Let one actor in this process caption the partitions; return their numbers as they end."""
    numbers, pools, open_pool = [], [], ImageLoader.open_pool

    def open_listed_pool(loader):
        pools.append(open_pool(loader))
        return pools[-1]

    def caption_partitions(ray, spec, config, todo, done):
        names = config.skip_rows_of
        actor = PartitionActor(
            spec,
            (lambda: hash_captioned_names(names)) if names else None,
            DigestRegistry(spec.folder, done).claim if config.skip_duplicates else None,
        )
        for number in todo:
            (counts,) = actor({"partition": [number]})["counts"]
            numbers.append(number)
            yield parse_counts(counts)

    @contextmanager
    def connect_to_ray(config):
        yield None

    monkeypatch.setattr(ImageLoader, "open_pool", open_listed_pool)
    monkeypatch.setattr(cluster_run, "caption_partitions", caption_partitions)
    monkeypatch.setattr(connection, "connect_to_ray", connect_to_ray)
    yield numbers
    for pool in pools:  # else they end with the process of the actor
        pool.close()
