"""The user's object: a model that takes images and gives sentences."""

import math
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import UInt8
from torch import Tensor

from captioning.checkpoint.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from captioning.checkpoint.hub import model_directory
from captioning.decoding import (
    BeamSearch,
    EnsembleState,
    Hypothesis,
    SearchMethod,
    ensemble,
    search,
)
from captioning.errors import ConfigError, DataError, ImageError
from captioning.images.decode import ImageSource, read_image
from captioning.images.loader import ImageLoader
from captioning.images.worker_pool import ImageRef
from captioning.inference.results import Caption, CaptionResult
from captioning.nn.model import check_device
from captioning.sources.find import SourceConfig, find_images
from captioning.text.vocabulary import join_words

if TYPE_CHECKING:  # with it come the scorer and training, which few need
    from captioning.reranking.consensus import Consensus, ConsensusConfig

DEFAULT_MODEL = Path(__file__).parent.parent / "models" / "default"


class Captioner:
    """Captions images with one model.

    Args:
        checkpoint: The model, as :func:`captioning.load_checkpoint` gives it.
        others: Further models that choose each word together with it
            (:func:`captioning.decoding.ensemble`): better captions, each at the cost of its model.
            NgramReranker are the first one's.
        seed: Seed of sampling. An image's sampled captions depend on it and on the image alone,
            not on the images captioned beside or before it.
        consensus: Captioned images by which the captions of an image's beam are ranked
            (:meth:`with_consensus`).

    Raises:
        ConfigError: The models have other words or take other pixels than the first.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        others: Sequence[Checkpoint] = (),
        seed: int = 0,
        consensus: "Consensus | None" = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.others = tuple(others)
        self.seed = seed
        self.consensus = consensus
        for number, other in enumerate(others, 2):
            _check_member(checkpoint, other, number)
        self._at_once = sys.maxsize  # images; less after the device's memory has run out
        self._step = ensemble([each.model.decoder.step for each in (checkpoint, *others)])

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *others: str | Path,
        device: str = "cpu",
        seed: int = 0,
    ) -> "Captioner":
        """Load a model, or several that choose each word together.

        Args:
            model: A model directory, the id of one on the Hugging Face hub (``owner/name``), or
                None for the model that comes with this package.
            others: Further models, with the same words and the same pixels.
            device: Where it works: ``cpu``, ``cuda``, ``mps``.
            seed: Seed of sampling.

        Raises:
            CheckpointError: There is no such model, or it is damaged.
            ConfigError: There is no such device here, or the models do not go together.
        """
        check_device(device)
        first, *rest = (
            load_checkpoint(model_directory(name), device=device)
            for name in (DEFAULT_MODEL if model is None else model, *others)
        )
        return cls(first, others=rest, seed=seed)

    def with_consensus(
        self,
        *data: str,
        split: str = "train",
        cache: str | Path = "features",
        workers: int = 2,
        options: "ConsensusConfig | None" = None,
        watch: Callable[[int, int], None] = lambda done, total: None,
    ) -> "Captioner":
        """Return a captioner that asks captioned images which caption of a beam is best.

        Captions of diverse beams and of samples are ranked by them too. :meth:`save_pretrained`
        writes the model alone.

        Args:
            data: Data sets of captioned images, as :func:`captioning.read_captions` names them:
                those that the model was trained on, say.
            split: Their split.
            cache: Directory in which the images' vectors are kept for the next time.
            workers: Processes that read images.
            options: How much they count.
            watch: Told how many images of a data set have been looked at, of how many.

        Raises:
            DataError: The images cannot be used.
            ConfigError: No data set was named.
        """
        from captioning.reranking.consensus import Consensus

        consensus = Consensus.from_data(
            self.checkpoint.model.encoder,
            data,
            split=split,
            cache=cache,
            workers=workers,
            options=options,
            watch=watch,
        )
        return Captioner(self.checkpoint, others=self.others, seed=self.seed, consensus=consensus)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the model as one directory.

        Raises:
            ConfigError: There are several models.
        """
        if self.others:
            raise ConfigError("Several models are no one directory. Save each by itself.")
        save_checkpoint(self.checkpoint, directory)

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Upload the model to the Hugging Face hub and return its address there."""
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "model")
            # A model that was there may have phrases, and this one none: they are of another v.
            return str(
                api.upload_folder(
                    repo_id=repo_id,
                    folder_path=Path(folder) / "model",
                    delete_patterns=["*.safetensors"],
                )
            )

    @property
    def device(self) -> torch.device:
        """Where the model works."""
        return self.checkpoint.model.decoder.embedding.weight.device

    def check_search(self, how: SearchMethod) -> None:
        """Look at a search before it is begun.

        Raises:
            ConfigError: It counts phrases and the model has learned none, or it finds one caption
                where neighbours choose among several.
        """
        counts = isinstance(how, SearchMethod) and how.reranks  # search refuses what is none
        if counts and self.checkpoint.reranker is None:
            raise ConfigError(
                "The search has a rerank_weight, and this model has learned no phrases. Set it to "
                "0, or use a model that was trained with them."
            )
        if self.consensus is not None:
            self.consensus.widened(how)

    def caption(self, image: ImageSource, *, search: SearchMethod | None = None) -> Caption:
        """Return the best caption of one image.

        Args:
            image: A path, the bytes of a file, an open file, or a Pillow image.
            search: How to search; None for the model's own way.

        Raises:
            ImageError: The image cannot be read.
        """
        return self.captions(image, search=search)[0]

    def captions(
        self, image: ImageSource, *, search: SearchMethod | None = None
    ) -> tuple[Caption, ...]:
        """Return all captions that the search gives for one image, best first.

        Raises:
            ImageError: The image cannot be read.
        """
        return self._describe(self.pixels(image).unsqueeze(0), search)[0]

    def caption_batch(
        self,
        images: Iterable[ImageSource],
        *,
        search: SearchMethod | None = None,
        batch_size: int = 16,
    ) -> list[CaptionResult]:
        """Return a result for each image, in order; a damaged one gives its error.

        Args:
            images: Paths, bytes, open files, Pillow images or arrays, mixed as you like.
            search: How to search; None for the model's own way.
            batch_size: Images that go through the network together; it changes no caption.

        Raises:
            ConfigError: ``batch_size`` is below 1, or ``images`` is one image or name.
        """
        _refuse_single(images)
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it is at least 1.")
        results: list[CaptionResult] = []
        remaining = iter(images)
        while some := list(islice(remaining, batch_size)):
            names = [_name(image, len(results) + n) for n, image in enumerate(some)]
            items = [_tried(self.pixels, image) for image in some]
            read = [pixels for pixels, _ in items if pixels is not None]
            found = iter(self._describe(torch.stack(read), search) if read else ())
            for name, (_, error) in zip(names, items, strict=True):
                results.append(CaptionResult(name, () if error else next(found), error))
        return results

    def caption_folder(
        self,
        folder: str | Path,
        *,
        recursive: bool = False,
        follow_links: bool = False,
        search: SearchMethod | None = None,
        batch_size: int = 16,
        workers: int = 2,
    ) -> Iterator[CaptionResult]:
        """Yield a result for each image of a folder, by name; see :meth:`stream`.

        Links that lead out of the folder give an error each unless ``follow_links``.

        Raises:
            DataError: There is no such folder.
        """
        if not Path(folder).is_dir():
            raise DataError(f"{folder} is no folder. Use caption for one image.")
        images = find_images([os.fspath(folder)], SourceConfig(recursive, False, follow_links))
        return self.stream(images, search=search, batch_size=batch_size, workers=workers)

    def stream(
        self,
        sources: Iterable[str | Path | ImageRef],
        *,
        search: SearchMethod | None = None,
        batch_size: int = 16,
        workers: int = 2,
        allow_truncated: bool = False,
        time_limit: float = 60.0,
    ) -> Iterator[CaptionResult]:
        """Yield a result for each file, in order; a damaged one gives its error and no caption.

        Neither the paths nor the images are ever all in memory.

        Args:
            sources: Paths of images.
            search: How to search; None for the model's own way.
            batch_size: Images that go through the network together; it changes no caption.
            workers: Processes that read and resize images; 0 reads them in this one.
            allow_truncated: Caption what is there of a file that was cut short.
            time_limit: Seconds after which a worker gives an image up.
        """
        _refuse_single(sources)
        reader = self.reader(batch_size, workers, allow_truncated, time_limit)
        for batch in self.batches(reader, sources, search=search):
            yield from batch

    def reader(
        self,
        batch_size: int = 16,
        workers: int = 2,
        allow_truncated: bool = False,
        time_limit: float = 60.0,
        thumbnail: int = 0,
    ) -> ImageLoader:
        """Return what reads images as this model sees them; see :class:`ImageLoader`.

        Raises:
            ConfigError: A number is out of its range.
        """
        return ImageLoader(
            self.checkpoint.model.encoder.preprocessing,
            batch_size,
            workers,
            allow_truncated,
            time_limit,
            thumbnail,
        )

    def batches(
        self,
        reader: ImageLoader,
        sources: Iterable[str | Path | ImageRef],
        *,
        search: SearchMethod | None = None,
    ) -> Iterator[tuple[CaptionResult, ...]]:
        """Yield the results of as many images at a time as the reader has in a batch."""
        for batch in reader.batches(
            each if isinstance(each, ImageRef) else os.fsdecode(each) for each in sources
        ):
            found = iter(self._describe(batch.pixels, search))
            yield tuple(
                CaptionResult(image.name, () if error else next(found), error, small)
                for image, error, small in zip(
                    batch.images, batch.errors, batch.thumbnails, strict=True
                )
            )

    def pixels(self, image: ImageSource) -> UInt8[Tensor, "3 S S"]:
        """Return an image as the model sees it.

        Raises:
            ImageError: The image cannot be read.
        """
        preprocessing = self.checkpoint.model.encoder.preprocessing
        return preprocessing.pixels(read_image(image, shrink_to=preprocessing.size))

    def _describe(
        self, pixels: UInt8[Tensor, "B 3 S S"], how: SearchMethod | None
    ) -> Sequence[tuple[Caption, ...]]:
        """Caption images, as many at once as the device has memory for."""
        found: list[tuple[Caption, ...]] = []
        while len(found) < len(pixels):
            some = pixels[len(found) : len(found) + min(self._at_once, len(pixels))]
            try:
                found += self._describe_at_once(some, how)
            except RuntimeError as error:
                if len(some) == 1 or "out of memory" not in str(error):
                    raise
                self._at_once = len(some) // 2
            if self._at_once < len(pixels) and torch.cuda.is_available():
                torch.cuda.empty_cache()
        return found

    @torch.inference_mode()
    def _describe_at_once(
        self, pixels: UInt8[Tensor, "B 3 S S"], how: SearchMethod | None
    ) -> Sequence[tuple[Caption, ...]]:
        how = self.checkpoint.search if how is None else how
        self.check_search(how)
        vocabulary, reranker = self.checkpoint.vocabulary, self.checkpoint.reranker
        pixels_there = pixels.to(self.device)
        models = [each.model for each in (self.checkpoint, *self.others)]
        seen = [model.encoder(pixels_there) for model in models]
        states = [model.decoder.start(each) for model, each in zip(models, seen, strict=True)]
        found = search(
            self._step,
            EnsembleState(tuple(states)),
            how if self.consensus is None else self.consensus.widened(how),
            bos=vocabulary.bos,
            eos=vocabulary.eos,
            banned=(vocabulary.pad, vocabulary.bos, vocabulary.unk),
            generator=torch.Generator().manual_seed(self.seed),
            keys=torch.tensor([zlib.crc32(image.numpy().tobytes()) for image in pixels]),
            agreement=None if reranker is None else reranker.prepare(seen[0].vector),
        )
        if self.consensus is not None:
            found = [
                self.consensus.ranked(v, each, [vocabulary.decode(one.tokens) for one in each])
                for v, each in zip(seen[0].vector.cpu(), found, strict=True)
            ]
            if isinstance(how, BeamSearch):
                found = [each[: how.n] for each in found]
        return [tuple(self._caption(hypothesis) for hypothesis in each) for each in found]

    def _caption(self, found: Hypothesis) -> Caption:
        words = self.checkpoint.vocabulary.decode(found.tokens)
        return Caption(
            text=join_words(words),
            words=tuple(words),
            log_prob=found.log_prob if math.isfinite(found.log_prob) else -math.inf,
            finished=found.finished,
            word_log_probs=found.token_log_probs[: len(words)],
        )


def _refuse_single(images: object) -> None:
    if isinstance(images, str | bytes | os.PathLike):
        raise ConfigError(
            f"{images!r:.80} is one image or folder, and a list of images was expected. Use "
            "caption for an image and caption_folder for a folder."
        )


def _name(image: ImageSource, number: int) -> str:
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {number}"


def _tried(
    pixels: Callable[[ImageSource], Tensor], image: ImageSource
) -> tuple[Tensor | None, str]:
    try:
        return pixels(image), ""
    except ImageError as error:
        return None, str(error)


def _check_member(first: Checkpoint, other: Checkpoint, number: int) -> None:
    """Refuse a model that cannot choose words together with the first."""
    if other.vocabulary != first.vocabulary:
        raise ConfigError(
            f"Model {number} has {len(other.vocabulary)} words and the first "
            f"{len(first.vocabulary)}, or the same in another order. Models choose words together "
            "only when their vocabularies are equal: start their runs from one model."
        )
    wanted, found = (each.model.encoder.preprocessing for each in (first, other))
    if found != wanted:
        raise ConfigError(f"Model {number} takes pixels as {found}, the first as {wanted}.")
    there, here = (each.model.decoder.embedding.weight.device for each in (first, other))
    if there != here:
        raise ConfigError(f"Model {number} is on {here}, the first on {there}. Load both on one.")
