"""The model card: the README of a model directory."""

from collections.abc import Mapping
from dataclasses import asdict

from captioning.checkpoint.checkpoint import Checkpoint
from captioning.checkpoint.model_info import TrainingInfo
from captioning.decoding import search_to_json
from captioning.nn.encoder import Encoder
from captioning.nn.external_encoder import ExternalEncoder

_NO_LICENSE = "The author of this model has not stated its license."


def format_card(checkpoint: Checkpoint) -> str:
    """Return the model card, in the Markdown that model hubs read."""
    info = checkpoint.info
    search = search_to_json(checkpoint.search)
    signature = {"signature": info.signature} if info.scores and info.signature else {}
    scores = {**info.scores, **signature}
    return "\n".join(
        [
            "---",
            *([f"license: {info.license}"] if info.license else []),
            "library_name: captioning",
            "pipeline_tag: image-to-text",
            "---",
            "",
            f"# {info.name}",
            "",
            _architecture(checkpoint),
            "",
            "```python",
            *_usage(checkpoint),
            "```",
            "",
            *_section("Training", _describe_training(info.training)),
            *_section("Search", {name: value for name, value in search.items() if value != []}),
            *_section("Scores", scores),
            *([] if info.license else ["## License", "", _NO_LICENSE, ""]),
            "## Limits",
            "",
            "\n\n".join(info.limits),
            "",
        ]
    )


def format_export_card(checkpoint: Checkpoint) -> str:
    """Return the README of an exported model."""
    info = checkpoint.info
    license_text = f"License: {info.license}." if info.license else _NO_LICENSE
    return "\n".join(
        [
            f"# {info.name}",
            "",
            "Exported by `captioning export`. docs/export.md has the inputs and "
            "outputs of the graphs, and an example.",
            "",
            license_text,
            "",
            *("## Limits", "", "\n\n".join(info.limits), ""),
        ]
    )


def _usage(checkpoint: Checkpoint) -> list[str]:
    load = 'captioner = Captioner.from_pretrained("path/to/this/directory")'
    if isinstance(checkpoint.model.encoder, ExternalEncoder):
        return [
            "from captioning import Captioner, caption_regions",
            "",
            load,
            "# regions: one array (number of regions, "
            f"{checkpoint.model.encoder.feature_size}) per image",
            "print(caption_regions(captioner, regions)[0].text)",
        ]
    return [
        "from captioning import Captioner",
        "",
        load,
        'print(captioner.caption("photo.jpg").text)',
    ]


def _describe_encoder(encoder: Encoder) -> str:
    if isinstance(encoder, ExternalEncoder):
        return (
            "Encoder: none. The model reads external features, "
            f"{encoder.feature_size} values per region."
        )
    return f"Encoder: `{encoder.config.name}` at {encoder.preprocessing.size} pixels."


def _architecture(checkpoint: Checkpoint) -> str:
    decoder = checkpoint.model.decoder.config
    ngrams = len(checkpoint.reranker or ())
    layers = f"{decoder.layers} layers of " if decoder.layers > 1 else ""
    attention = " with soft attention over the grid" if decoder.uses_grid else ""
    concepts = f" and {decoder.concepts} concepts per image" if decoder.concepts else ""
    reranking = (
        f" Hypotheses are reranked by {ngrams} n-grams, predicted from the image by linear "
        "regression."
    )
    return (
        f"{_describe_encoder(checkpoint.model.encoder)} Decoder: {layers}`{decoder.cell}` "
        f"cells{attention}{concepts}; image injection: `{decoder.injection}`. "
        f"Vocabulary: {len(checkpoint.vocabulary)} words.{reranking if ngrams else ''}"
    )


def _section(title: str, facts: Mapping[str, object]) -> list[str]:
    """Return the lines of a section; none if there are no facts."""
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    return [f"## {title}", "", *lines, ""] if lines else []


def _describe_training(training: TrainingInfo | None) -> dict[str, object]:
    facts = asdict(training) if training else {"runs": ()}
    runs = {f"run {number}": run for number, run in enumerate(facts.pop("runs"), 1)}
    return {**facts, **runs}
