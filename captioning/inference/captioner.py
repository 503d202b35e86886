"""The captioner: images in, captions out."""

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

import torch
from jaxtyping import UInt8
from torch import Tensor

from captioning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from captioning.checkpoint.hub import model_directory, upload_directory
from captioning.decoding import SearchMethod
from captioning.errors import ConfigError
from captioning.images.image_inputs import ImageSource
from captioning.images.image_ref import ImageRef
from captioning.images.loader import ImageLoader
from captioning.inference import image_batches
from captioning.inference.backend_config import PLAIN, BackendConfig, ResolvedBackend
from captioning.inference.display import name_source, table_html
from captioning.inference.generation import CaptionGenerator
from captioning.inference.results import CaptionResult
from captioning.nn.device import resolve_device
from captioning.sources.find import SourceConfig

if TYPE_CHECKING:  # the scorer that consensus reranking needs takes a second to import
    from captioning.reranking.consensus import Consensus, ConsensusConfig

DEFAULT_MODEL = Path(__file__).parent.parent / "models" / "default"
"""Directory of the model that comes with the package."""


class Captioner:
    """Generates captions for images.

    For example::

        captioner = Captioner.from_pretrained()
        print(captioner("photo.jpg").text)

    Args:
        checkpoint: The model.
        others: Further models of an ensemble (:func:`captioning.decoding.ensemble.ensemble`), which
            averages their word probabilities. N-gram reranking is that of the first model.
        seed: Seed of sampling. Sampled captions depend on the seed and the image only.
        consensus: Captioned images for consensus reranking (:meth:`with_consensus`).
        backend: Library and precision that run the models. Default: torch in float32.

    Raises:
        ConfigError: The models do not fit together, or the backend cannot run them.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        others: Sequence[Checkpoint] = (),
        seed: int = 0,
        consensus: "Consensus | None" = None,
        backend: BackendConfig = PLAIN,
    ) -> None:
        self.checkpoint = checkpoint
        self.others = tuple(others)
        self.seed = seed
        self.consensus = consensus
        self.generator = CaptionGenerator(
            (checkpoint, *self.others), seed=seed, consensus=consensus, backend=backend
        )

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *others: str | Path,
        device: str = "auto",
        seed: int = 0,
        backend: str = "auto",
        precision: str = "auto",
    ) -> "Captioner":
        """Load a model, or the models of an ensemble.

        Args:
            model: Directory, or hub id (``owner/name@revision``); None for the packaged model.
            others: Further models of an ensemble, with the same vocabulary and preprocessing.
            device: ``cpu``, ``cuda``, ``mps``, or ``auto`` (CUDA, then MPS, then the CPU).
            seed: Seed of sampling.
            backend: ``torch``, ``openvino`` or ``auto``; see :class:`BackendConfig`.
            precision: ``float32``, ``bfloat16``, ``int8`` or ``auto``, likewise.

        Raises:
            CheckpointError: A model does not exist or is damaged.
            ConfigError: The device or backend is not available, or the models do not fit together.
        """
        torch_device = resolve_device(device)
        first, *rest = (
            load_checkpoint(model_directory(name), device=torch_device)
            for name in (DEFAULT_MODEL if model is None else model, *others)
        )
        config = BackendConfig(backend, precision)  # type: ignore[arg-type]
        return cls(first, others=rest, seed=seed, backend=config)

    def with_consensus(
        self,
        *data: str,
        cache: str | Path = "features",
        workers: int = 2,
        config: "ConsensusConfig | None" = None,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> "Captioner":
        """Return a captioner that reranks captions by the captions of similar images.

        The captions found by beam search, diverse beam search or sampling are reranked.
        :meth:`save_pretrained` does not write the consensus data.

        Args:
            data: Captioned data sets, as for :func:`captioning.read_captions`.
            cache: Directory of the images' feature vectors, kept for later calls.
            workers: Processes that read images.
            config: Settings of the reranking.
            on_progress: Called with the images of a data set done so far, and their total.

        Raises:
            DataError: The data sets cannot be used.
            ConfigError: No data set was given.
        """
        from captioning.reranking.consensus import Consensus

        consensus = Consensus.from_data(
            self.checkpoint.model.encoder,
            data,
            tokenizer=self.checkpoint.vocabulary.tokenizer.name,
            cache=cache,
            workers=workers,
            config=config,
            on_progress=on_progress,
        )
        reranking = copy.copy(self)
        reranking.consensus = consensus
        reranking.generator = self.generator.with_consensus(consensus)
        return reranking

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the model as one directory.

        Raises:
            ConfigError: The captioner is an ensemble.
            OutputError: The directory cannot be written.
        """
        if self.others:
            raise ConfigError(
                f"cannot save an ensemble of {1 + len(self.others)} models. Save each separately."
            )
        save_checkpoint(self.checkpoint, directory)

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Upload the model to the Hugging Face hub and return its address there."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "model")
            return upload_directory(Path(folder) / "model", repo_id, private=private)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.generator.device

    @property
    def backend(self) -> ResolvedBackend:
        """The library and the precision that run the model."""
        return self.generator.backend

    def check_search(self, search: SearchMethod) -> None:
        """Check that the model supports a search.

        Raises:
            ConfigError: The model has no n-gram reranker, or the search returns too few captions.
        """
        self.generator.check_search(search)

    def caption(self, image: ImageSource, *, search: SearchMethod | None = None) -> CaptionResult:
        """Caption one image.

        Args:
            image: Path, URL, bytes of a file, open binary file, Pillow image, array ``(height,
                width, 3)`` or tensor ``(3, height, width)`` of uint8 or of 0 to 1, in the order
                red, green, blue (OpenCV: ``image[:, :, ::-1]``); or a row of ``datasets``.
            search: The search, such as ``BeamSearch(width=5)``; None for the model's default.

        Raises:
            ImageError: The image cannot be read.
        """
        pixels, preview = image_batches.read_pixels(image, self.generator.preprocessing)
        captions = self.generator.generate(pixels.unsqueeze(0), search)[0]
        return CaptionResult(name_source(image, "image"), captions, thumbnail=preview)

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, images: ImageSource, *, search: SearchMethod | None = None, batch_size: int = 64
    ) -> CaptionResult: ...
    @overload
    def __call__(
        self,
        images: Iterable[ImageSource],
        *,
        search: SearchMethod | None = None,
        batch_size: int = 64,
    ) -> list[CaptionResult]: ...
    def __call__(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        search: SearchMethod | None = None,
        batch_size: int = 64,
    ) -> CaptionResult | list[CaptionResult]:
        """Caption one image, or a list of images.

        Args:
            images: One image, as for :meth:`caption`, or several of any kind: a list, an iterator,
                a table's column, or an array or tensor of four dimensions.
            search: The search; None for the model's default.
            batch_size: Images per batch. It does not change the captions.

        Returns:
            A result, or a list of results in the order of the images. In a list, an image that
            cannot be read has a result with an ``error``.

        Raises:
            ImageError: A single image cannot be read.
            ConfigError: ``batch_size`` is below 1.
        """
        several = image_batches.iterate_images(images)
        if several is None:
            return self.caption(images, search=search)  # type: ignore[arg-type]
        return image_batches.caption_in_memory(
            self.generator, several, search=search, batch_size=batch_size
        )

    def caption_folder(
        self,
        folder: str | Path,
        *,
        recursive: bool = False,
        follow_links: bool = False,
        exclude: str | Sequence[str] = (),
        search: SearchMethod | None = None,
        batch_size: int = 64,
        workers: int = 2,
    ) -> Iterator[CaptionResult]:
        """Caption the images of a folder, in natural order of their names.

        Args:
            folder: The folder.
            recursive: Include its subfolders.
            follow_links: Follow links that lead out of the folder; otherwise each is an error.
            exclude: Patterns of files and folders to leave out, with the syntax of ``.gitignore``.
            search: The search; None for the model's default.
            batch_size: Images per batch. It does not change the captions.
            workers: Processes that read images; 0 reads them in this process.

        Yields:
            A result for each image; one that cannot be read has an ``error``.

        Raises:
            DataError: The folder does not exist.
        """
        options = SourceConfig(recursive, False, follow_links, exclude=exclude)
        images = image_batches.find_in_folder(folder, options)
        return self.caption_files(images, search=search, batch_size=batch_size, workers=workers)

    def caption_files(
        self,
        paths: Iterable[str | Path | ImageRef],
        *,
        search: SearchMethod | None = None,
        batch_size: int = 64,
        workers: int = 2,
    ) -> Iterator[CaptionResult]:
        """Caption image files, in order; paths and images are read as they are needed.

        Args:
            paths: Paths of image files.
            search: The search; None for the model's default.
            batch_size: Images per batch. It does not change the captions.
            workers: Processes that read images; 0 reads them in this process.

        Yields:
            A result for each file; one that cannot be read has an ``error``.
        """
        loader = ImageLoader(self.generator.preprocessing, batch_size=batch_size, workers=workers)
        for batch in self.caption_batches(paths, loader, search=search):
            yield from batch

    def caption_batches(
        self,
        images: Iterable[str | Path | ImageRef],
        loader: ImageLoader,
        *,
        search: SearchMethod | None = None,
    ) -> Iterator[tuple[CaptionResult, ...]]:
        """Caption images of a loader and yield the results of one batch at a time.

        Args:
            images: Paths, or references to images that are not files.
            loader: Reads the images, with the preprocessing of this model.
            search: The search; None for the model's default.
        """
        return image_batches.caption_loaded(self.generator, images, loader, search=search)

    def read_pixels(self, image: ImageSource) -> UInt8[Tensor, "3 S S"]:
        """Return an image as the encoder expects it; see :meth:`caption` for kinds and errors."""
        return image_batches.read_pixels(image, self.generator.preprocessing)[0]

    def __repr__(self) -> str:
        facts = (f"{name}: {fact}" for name, fact in self.generator.describe().items())
        return f"Captioner({', '.join(facts)})"

    def _repr_html_(self) -> str:
        """Return the parts of the model as an HTML table."""
        return table_html("Captioner", self.generator.describe())
