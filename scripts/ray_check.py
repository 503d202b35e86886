"""Check captioning on Ray: speed, exactly one row per image, restarts, and memory of the driver.

    python scripts/ray_check.py speed --images FOLDER --limit 2000
    python scripts/ray_check.py nodes --count 20000     # two simulated nodes, one killed halfway
    python scripts/ray_check.py kills --runs 10         # killed at random moments, started again
    python scripts/ray_check.py memory                  # of the driver, 10,000 to 1,000,000 names
    python scripts/ray_check.py bucket --count 200      # from and to an S3 server on this machine
    python scripts/ray_check.py large --count 60        # 20 megapixels in a dataset of Ray

Each check prints one JSON object per measurement. The speed is only meaningful on an idle machine.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

OBJECT_STORE = 100 << 20  # bytes
CAPTION = [sys.executable, "-m", "captioning", "caption"]
EXACT = ["--precision", "float32"]


def make_images(folder: Path, count: int, size: tuple[int, int] = (96, 72)) -> None:
    """Write different small JPEG files."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        noise = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
        noise.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")


def run(words: list[object], threads: int = 1) -> dict[str, Any]:
    """Run ``captioning caption --json`` and return its summary."""
    ran = subprocess.run(
        [*CAPTION, *map(str, words), "--json"],
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        check=False,
    )
    assert ran.returncode in (0, 1), ran.returncode
    return json.loads(ran.stdout)


def read_captions(output: Path) -> dict[str, str]:
    """Return the captions by name of the image; check that no image has two rows."""
    rows = pd.read_parquet(output) if output.is_dir() else pd.read_json(output, lines=True)
    names = rows["file_name"].map(lambda name: Path(name).name)
    assert names.is_unique, "an image has two rows"
    return dict(zip(names, rows["text"], strict=True))


def report(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def check_speed(args: argparse.Namespace, folder: Path) -> None:
    """Compare rates without the start of the model, which Ray's rate does not include either.

    The run with one actor has one core, that with two actors has two (on Linux).
    """
    inputs = [args.images, "-r", *EXACT, *args.model]
    seconds = [
        run([*inputs, "--limit", count, "-o", folder / f"plain{count}.jsonl"], threads=2)["seconds"]
        for count in (1, args.limit)
    ]
    rates = {"plain": round((args.limit - 1) / (seconds[1] - seconds[0]), 2)}
    inputs += ["--limit", args.limit]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    for actors in (1, 2):
        if cores:
            os.sched_setaffinity(0, cores[:actors])  # also of Ray and the readers, for one actor
        flags = ["--min-actors", actors, "--max-actors", actors, "--partition-size", 200]
        flags += ["--workers", 1, "--engine", "ray", "-o", folder / f"ray{actors}"]
        rates[f"ray, {actors}"] = run([*inputs, *flags])["images_per_second"]
    ratios = {name: round(rates["ray, 2"] / rates[name], 2) for name in ("ray, 1", "plain")}
    report(check="speed", images_per_second=rates, two_actors_to=ratios)


def check_nodes(args: argparse.Namespace, folder: Path) -> None:
    """Kill one of two nodes when half of the partitions are complete."""
    import ray
    from ray.cluster_utils import Cluster

    images, output = folder / "images", folder / "out"
    make_images(images, args.count)
    run([images, "-o", folder / "plain.jsonl", *EXACT, *args.model])
    node = {"num_cpus": 1, "object_store_memory": OBJECT_STORE}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    second = cluster.add_node(**node)
    size = max(1, args.count // 40)
    flags = ["--engine", "ray", "--partition-size", size, "--min-actors", 2, "--max-actors", 2]
    flags += ["--ray-address", cluster.address, "--workers", 1, "-o", output, *args.model]
    process = subprocess.Popen([*CAPTION, *map(str, [images, *flags])])
    wait_for_partitions(process, output, 20)
    cluster.remove_node(second, allow_graceful=False)
    code = process.wait()
    ray.shutdown()
    cluster.shutdown()
    found, expected = read_captions(output), read_captions(folder / "plain.jsonl")
    report(check="nodes", code=code, rows=len(found), equal=found == expected)


def check_kills(args: argparse.Namespace, folder: Path) -> None:
    """Kill the command at random moments and start it again, until it comes to its end."""
    images = folder / "images"
    make_images(images, args.count)
    run([images, "-o", folder / "plain.jsonl", *EXACT, *args.model])
    expected = read_captions(folder / "plain.jsonl")
    random.seed(0)
    for number in range(args.runs):
        output, starts, killed = folder / f"out{number}", 0, True
        flags = ["--engine", "ray", "--partition-size", 20, "--workers", 1, "-o", output]
        while killed:
            process = subprocess.Popen([*CAPTION, *map(str, [images, *flags, *args.model])])
            wait_for_partitions(process, output, random.randint(0, 8))
            try:
                process.wait(random.uniform(0, args.seconds))
                killed = False
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            starts += 1
        found = read_captions(output)
        equal = found == expected
        report(check="kills", run=number, kills=starts - 1, rows=len(found), equal=equal)


def wait_for_partitions(process: subprocess.Popen[bytes], output: Path, count: int) -> None:
    """Wait until a run has completed some more partitions, or has come to its end."""
    before = len(list(output.glob("part-*")))
    while process.poll() is None and len(list(output.glob("part-*"))) < before + count:
        time.sleep(0.1)


def check_memory(args: argparse.Namespace, folder: Path) -> None:
    """Measure the driver with lists of files that do not exist: every row has an error."""
    import psutil
    import pyarrow.dataset

    for count in (10_000, 100_000, 1_000_000):
        names, output = folder / f"{count}.txt", folder / f"out{count}"
        names.write_text("".join(f"/missing/folder/image-{n}.jpg\n" for n in range(count)))
        flags = ["--engine", "ray", "--workers", 0, "--max-actors", 1, "-o", output, *args.model]
        started, peaks = time.monotonic(), {"listing": 0.0, "captioning": 0.0}
        with names.open("rb") as file:
            process = subprocess.Popen([*CAPTION, "-", *map(str, flags)], stdin=file)
        driver = psutil.Process(process.pid)
        while process.poll() is None:
            listed = (output / ".captioning/run.json").exists()
            phase = "captioning" if listed else "listing"
            peaks[phase] = max(peaks[phase], driver.memory_info().rss / (1 << 20))
            time.sleep(0.1)
        report(
            check="memory",
            names=count,
            rows=pyarrow.dataset.dataset(output).count_rows(),
            peak_mb={phase: round(peak) for phase, peak in peaks.items()},
            seconds=round(time.monotonic() - started),
        )
        shutil.rmtree(output)


def check_bucket(args: argparse.Namespace, folder: Path) -> None:
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    make_images(folder / "images", args.count)
    system = s3fs.S3FileSystem()
    system.mkdir("bucket")
    system.put(f"{folder}/images/", "bucket/images/", recursive=True)
    run([folder / "images", "-o", folder / "plain.jsonl", *EXACT, *args.model])
    flags = ["--engine", "ray", "--partition-size", 50, "--workers", 1, "-o", "s3://bucket/out"]
    run(["s3://bucket/images", *flags, *args.model])
    system.invalidate_cache()
    system.get("bucket/out/", f"{folder}/out/", recursive=True)
    server.stop()
    found, expected = read_captions(folder / "out"), read_captions(folder / "plain.jsonl")
    report(check="bucket", rows=len(found), equal=found == expected)


def check_large(args: argparse.Namespace, folder: Path) -> None:
    """Send more bytes of large images through the object store than it holds."""
    import ray

    import captioning

    make_images(folder / "images", args.count, (5472, 3648))
    for path in (folder / "images").iterdir():  # noise, so that the files are large
        with path.open("ab") as file:
            file.write(os.urandom(6 << 20))
    ray.init(address="local", object_store_memory=OBJECT_STORE, include_dashboard=False)
    rows = ray.data.read_binary_files(str(folder / "images"), include_paths=True)
    captioned = captioning.caption_dataset(rows, *args.model[1:], workers=1)
    rows_found = captioned.take_all()
    stats = ray._private.internal_api.memory_summary(stats_only=True)
    failed = sum(row["error"] is not None for row in rows_found)
    report(check="large", rows=len(rows_found), failed=failed, object_store=stats.splitlines())
    ray.shutdown()


def main() -> None:
    """Run one check."""
    checks = {
        name.removeprefix("check_"): function
        for name, function in globals().items()
        if name.startswith("check_")
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("check", choices=checks)
    parser.add_argument("--images", help="folder of photos for the check of the speed")
    parser.add_argument("--limit", type=int, default=2000, help="photos of the check of the speed")
    parser.add_argument("--count", type=int, default=400, help="images that are drawn")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5, help="longest wait before a kill")
    parser.add_argument("--model", default=None)
    args = parser.parse_args()
    args.model = ["--model", args.model] if args.model else []
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    folder = Path(tempfile.mkdtemp(prefix="ray-check-"))
    try:
        checks[args.check](args, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
