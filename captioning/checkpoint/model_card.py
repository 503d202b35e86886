"""The model card: the README of a model directory."""

from captioning.checkpoint.checkpoint import Checkpoint
from captioning.checkpoint.model_info import ModelInfo, TrainingInfo
from captioning.decoding import search_to_json


def write_card(checkpoint: Checkpoint) -> str:
    """Return the model card, in the Markdown that model hubs read."""
    info = checkpoint.info
    search = search_to_json(checkpoint.search)
    return "\n".join(
        [
            "---",
            "license: apache-2.0",
            "library_name: captioning",
            "pipeline_tag: image-to-text",
            "---",
            "",
            f"# {info.name}",
            "",
            _architecture(checkpoint),
            "",
            "```python",
            "from captioning import Captioner",
            "",
            'captioner = Captioner.from_pretrained("path/to/this/directory")',
            'print(captioner.caption("photo.jpg").text)',
            "```",
            "",
            *_training(info.training),
            "## Search",
            "",
            *(f"- {name}: {value}" for name, value in search.items() if value != []),
            "",
            *_scores(info),
            "## Limits",
            "",
            "\n\n".join(info.limits),
            "",
        ]
    )


def _architecture(checkpoint: Checkpoint) -> str:
    encoder, decoder = checkpoint.model.encoder, checkpoint.model.decoder.config
    ngrams = len(checkpoint.reranker or ())
    layers = f"{decoder.layers} layers of " if decoder.layers > 1 else ""
    attention = " with soft attention over the grid" if decoder.uses_grid else ""
    reranking = (
        f" Hypotheses are reranked by {ngrams} n-grams, predicted from the image by linear "
        "regression."
    )
    return (
        f"Encoder: `{encoder.config.name}` at {encoder.preprocessing.size} pixels. Decoder: "
        f"{layers}`{decoder.cell}` cells{attention}; image injection: `{decoder.injection}`. "
        f"Vocabulary: {len(checkpoint.vocabulary)} words.{reranking if ngrams else ''}"
    )


def _training(training: TrainingInfo | None) -> list[str]:
    if training is None:
        return []
    return [
        "## Training",
        "",
        f"- data: {training.data}",
        f"- epochs: {training.epochs}",
        f"- seed: {training.seed}",
        f"- torch: {training.torch}",
        *(f"- run {number}: {run}" for number, run in enumerate(training.runs, 1)),
        "",
    ]


def _scores(info: ModelInfo) -> list[str]:
    if not info.scores:
        return []
    return [
        "## Scores",
        "",
        *(f"- {name}: {value}" for name, value in info.scores.items()),
        *([f"- signature: {info.signature}"] if info.signature else []),
        "",
    ]
