"""Captions as a step of a Ray Data pipeline."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioning.bulk.cluster.actors import LoadedModel, ModelSpec
from captioning.bulk.cluster.config import ClusterConfig
from captioning.bulk.cluster.connection import import_ray
from captioning.bulk.cluster.rows import kept_name, make_record
from captioning.bulk.cluster.run import actor_options, allow_max_restarts, describe_maker
from captioning.bulk.cluster.selection import InputImage
from captioning.bulk.cluster.tables import check_columns, find_image_column, image_of_value
from captioning.bulk.resume import fingerprint
from captioning.bulk.rows import RelativeNames, row_of_result
from captioning.bulk.writers.tables import import_pyarrow
from captioning.decoding import SearchMethod
from captioning.errors import ConfigError, ImageError
from captioning.images.arrays import image_from_array
from captioning.images.image_ref import ImageRef
from captioning.inference.backend_config import BackendConfig
from captioning.inference.captioner import Captioner

if TYPE_CHECKING:
    from ray.data import Dataset


def caption_dataset(
    dataset: "Dataset",
    model: str | Path | None = None,
    *,
    search: SearchMethod | None = None,
    precision: str = "float32",
    batch_size: int = 64,
    workers: int = 2,
    cluster: ClusterConfig | None = None,
) -> "Dataset":
    """Return a Ray dataset with captions; Ray computes it when its rows are used.

        rows = ray.data.read_images("s3://bucket/photos", include_paths=True)
        caption_dataset(rows).write_parquet("s3://bucket/captions")

    The columns ``text``, ``log_prob``, ``error`` and ``captioner`` (version, model and search, as
    JSON) are added, and with several captions per image ``captions`` and ``log_probs``. The column
    with the images is left out, unless it has paths or URLs. A column of the dataset with one of
    these names gets the prefix ``input_``. An image that cannot be read has an ``error`` and no
    ``text``.

    Args:
        dataset: Rows with images: bytes of files, paths, URLs, arrays ``(height, width, 3)``, or
            records with ``bytes`` and ``path``.
        model: Model directory, or id on the Hugging Face hub; None for the packaged model.
        search: The search; None for the model's default.
        precision: ``float32``, ``bfloat16`` or ``int8``; the last two are not the same on all
            processors.
        batch_size: Images per batch of the model.
        workers: Processes of an actor that decode images.
        cluster: Number of actors, CPUs and GPUs of an actor, column with the images, and columns
            to keep (default: all).

    Raises:
        ConfigError: Ray is not installed, the model does not support the search, or a field of
            ``cluster`` has no effect here.
        CheckpointError: The model cannot be loaded.
    """
    ray, cluster = import_ray(), cluster or ClusterConfig()
    _check_cluster(cluster)
    name = None if model is None else str(Path(model).resolve() if Path(model).exists() else model)
    captioner = Captioner.from_pretrained(name, device="cpu", precision=precision)
    search = search or captioner.checkpoint.search
    captioner.check_search(search)
    spec = ModelSpec(
        name,
        fingerprint([captioner.checkpoint], captioner.backend),
        search,
        BackendConfig(precision=captioner.backend.precision),
        captioner.checkpoint.info.name,
        device="cuda" if cluster.gpus_per_actor else "cpu",
        threads=cluster.threads,
        batch_size=batch_size,
        workers=workers,
        min_side=cluster.min_side,
    )
    with allow_max_restarts():
        return dataset.map_batches(
            _BatchActor,
            batch_size=None,  # blocks: Ray bounds their bytes, so large images make them short
            batch_format="pyarrow",
            fn_constructor_kwargs={
                "spec": spec,
                "image_column": cluster.image_column,
                "keep": cluster.keep_columns or None,
            },
            **actor_options(ray, cluster),
        )


def _check_cluster(cluster: ClusterConfig) -> None:
    default = ClusterConfig()
    for name in ("ray_address", "partition_size", "skip_rows_of", "skip_duplicates"):
        if getattr(cluster, name) != getattr(default, name):
            raise ConfigError(
                f"caption_dataset does not use {name}. Connect with ray.init, and choose rows with "
                "methods of the dataset."
            )


class _BatchActor:
    """Captions batches of rows. Ray creates it in a process of its own."""

    def __init__(
        self, spec: ModelSpec, image_column: str | None, keep: Sequence[str] | None
    ) -> None:
        self._model = LoadedModel(spec)
        self._image_column, self._keep = image_column, keep
        self._lists = spec.search.captions_per_image > 1
        self._made_by = json.dumps(describe_maker(spec))

    def __call__(self, table: Any) -> Any:
        """Return a table with the captions of a table's images."""
        pyarrow = import_pyarrow()
        column = find_image_column(table.column_names, self._image_column, "the dataset")
        check_columns(table.column_names, self._keep or (), "the dataset")
        images = self._find_images(table, column)
        records = [
            make_record(row_of_result(result, RelativeNames(None)), {}, lists=self._lists)
            for _, result in self._model.caption(images)
        ]
        text, number = pyarrow.string(), pyarrow.float64()
        types = {"text": text, "log_prob": number}
        if self._lists:
            types |= {"captions": pyarrow.list_(text), "log_probs": pyarrow.list_(number)}
        types["error"] = text
        is_name = pyarrow.types.is_string(table.schema.field(column).type)
        kept = [
            name
            for name in table.column_names
            if (name in self._keep if self._keep else name != column or is_name)
        ]
        arrays = {kept_name(name) if name != "file_name" else name: table[name] for name in kept}
        for name, kind in types.items():
            arrays[name] = pyarrow.array([each.get(name) for each in records], kind)
        arrays["captioner"] = pyarrow.array([self._made_by] * len(records), text)
        return pyarrow.table(arrays)

    def _find_images(self, table: Any, column: str) -> Iterator[InputImage]:
        names = table["path"].to_pylist() if "path" in table.column_names else None
        values = table[column]
        for number in range(len(table)):
            name = str(names[number]) if names else f"row {number}"
            value = values[number].as_py()
            yield InputImage(_to_image(value, name), {})


def _to_image(value: Any, name: str) -> ImageRef:
    """Return the image that a value stands for; an array as a PNG file."""
    if not hasattr(value, "shape"):
        return image_of_value(value, name, "", 60.0)
    try:
        buffer = io.BytesIO()
        image_from_array(value).save(buffer, "PNG", compress_level=0)
    except ImageError as error:
        return ImageRef(name, error=str(error))
    return ImageRef(name, buffer.getvalue())
