# %% [markdown]
# # How good are the captions?
#
# This notebook captions a split of a data set with two systems, scores the captions against human references,
# and tests whether the systems differ. The scores (BLEU, ROUGE-L and CIDEr-D) equal those of the official
# Java-based scorer to six decimals.
#
# | section | question |
# |---|---|
# | 1, 2 | Which systems, which data, which captions? |
# | 3 | What are the scores, and how uncertain are they? |
# | 4 | Do the captions depend on the image? |
# | 5 | Which captions are good, and which are wrong? |
# | 6 | Which search settings give the best scores? |
# | 7 | Is one system better than the other? |
#
# **Time:** one to two minutes on one CPU core with the drawn images, most of it for training two small models. The
# 1,000 photos of Flickr8k take much longer.
# **Install:** `pip install ".[notebooks,train,offline-weights]"`.
#
# By default the data are 48 *drawn* images from the repository, so the scores say nothing about photos. To
# evaluate the default model on the 1,000 dev photos of Flickr8k, set `FLICKR8K` in the next cell.

# %% tags=["parameters"]
import os
from pathlib import Path

FLICKR8K = os.environ.get("FLICKR8K")  # directory of Flickr8k.token.txt; None: drawn images
WORK = Path("runs")  # directory for captions, features and small models

# %%
import textwrap

import matplotlib.pyplot as plt
import pandas as pd
from PIL import Image

from captioning import (
    BeamSearch,
    Captioner,
    DecoderConfig,
    EncoderConfig,
    Greedy,
    RunConfig,
    TrainingConfig,
    compare,
    train,
)
from captioning.evaluation.evaluate import EvaluationConfig, evaluate
from captioning.evaluation.search_sweep import sweep
from captioning.metrics import measure_diversity, score_shuffled

BLUE, ORANGE, GREEN, RED = "#0072b2", "#e69f00", "#009e73", "#d55e00"  # Okabe & Ito (2008)
plt.rcParams.update({"figure.dpi": 100, "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## 1. Two systems
#
# - **With photos:** the default model with its own beam search, and the same model with greedy search.
# - **With drawn images:** two small models that are trained here. One attends to the grid of CNN features; the
#   other gets the image as one vector.


# %%
def train_small_model(name, core):
    """Train on the drawn images. If the model exists, nothing is trained again."""
    config = RunConfig(
        data=(DATA,),
        output=WORK / name,
        encoder=EncoderConfig("timm:tf_efficientnet_lite0", image_size=128),
        decoder=DecoderConfig(
            core=core, embedding_size=64, hidden_size=64, attention_size=64, dropout=0.2
        ),
        training=TrainingConfig(
            epochs=50, batch_size=16, warmup_steps=10, learning_rate=0.01, patience=15
        ),
        min_count=1,
        workers=0,
    )
    return Captioner.from_pretrained(train(config).model_dir, precision="float32")


if FLICKR8K:
    DATA = f"flickr8k:{FLICKR8K}"
    model = Captioner.from_pretrained(precision="float32")
    names, models = ("beam search", "greedy"), (model, model)
    searches = (model.checkpoint.search, Greedy())
else:
    DATA = "coco:../data/tiny"
    names = ("attention", "one vector")
    models = (train_small_model("attention", "attention"), train_small_model("vector", "stack"))
    searches = tuple(model.checkpoint.search for model in models)
for name, search in zip(names, searches, strict=True):
    print(f"{name}: {type(search).__name__}, width {getattr(search, 'width', 1)}")

# %% [markdown]
# ## 2. Caption a split
#
# `evaluate` reads the split and captions every image. The model never sees a reference caption. (Some trainers
# report a "BLEU" for which the model reads the references word by word; it is much higher.) The captions are
# saved as a COCO results file before they are scored.

# %%
WORK.mkdir(exist_ok=True)
evaluations = [
    evaluate(
        model,
        DATA,
        search=search,
        config=EvaluationConfig(output=WORK / f"{name}.json", workers=0),
    )
    for name, model, search in zip(names, models, searches, strict=True)
]
first, second = evaluations
images = {image.image_id: image for image in first.split.images}
print(f"{len(first.captions)} captions, {len(first.errors)} unreadable images")

# %% [markdown]
# ## 3. Scores and their uncertainty
#
# The interval is a 95 % bootstrap interval: 1,000 samples of the images are drawn with replacement and scored,
# and the interval holds the middle 95 % of these scores. With eight images it is wide. With 1,000 photos it is
# about ±1.4 for BLEU-4.

# %%
intervals = first.scores.intervals()
print(first.scores.table(intervals))

# %% [markdown]
# The last line is the *signature*: all settings of the scorer. Compare two scores only if these are equal.
# The signature of an evaluation also names the data, the split and the search. Of these, only what you compare
# may differ, such as the search in section 6:

# %%
print(first.signature.replace("|", "\n"))

# %%
LABELS = {
    **{f"bleu_{n}": f"BLEU-{n}" for n in range(1, 5)},
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr-D",
}
values = {LABELS[name]: 100 * value for name, value in first.scores.values.items()}
errors = [
    [100 * (first.scores.values[name] - intervals[name].low) for name in LABELS],
    [100 * (intervals[name].high - first.scores.values[name]) for name in LABELS],
]

figure, axes = plt.subplots(figsize=(7, 2.8))
axes.barh(list(values), list(values.values()), xerr=errors, color=BLUE, ecolor="#222222", capsize=3)
axes.invert_yaxis()
axes.set_xlabel("score times 100, with 95 % bootstrap interval")
axes.set_title(f"Scores of {names[0]!r}, {len(first.captions)} images")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## 4. Do the captions depend on the image?
#
# If all images are similar, a model reaches a high BLEU without using the image. Two checks:
#
# - How diverse are the captions?
# - **Shuffled-image baseline:** what are the scores when each caption is given to another image? If the model
#   uses the image, they are much lower.

# %%
print(measure_diversity(first.captions, training=first.train_captions).table())
shuffled = score_shuffled(first.captions, first.references)
pd.DataFrame(
    {
        "own image": first.scores.values,
        "another image (shuffled)": shuffled.values,
    }
).mul(100).round(2).rename(index=LABELS)

# %% [markdown]
# ## 5. Scores of single images
#
# The corpus score hides the spread. It is the mean of the CIDEr-D of each image. The document frequencies come
# from the references of all images:

# %%
per_image = first.scores.per_image.sort_values("cider", ascending=False)
figure, axes = plt.subplots(figsize=(7, 2.8))
axes.hist(per_image["cider"], bins="auto", color=BLUE, edgecolor="white")
axes.axvline(per_image["cider"].mean(), color=RED, linestyle="--", label="mean (corpus score)")
axes.set(xlabel="CIDEr-D of one image", ylabel="number of images")
axes.set_title(f"CIDEr-D of each image, {names[0]!r}")
axes.yaxis.get_major_locator().set_params(integer=True)
axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
figure.tight_layout()
plt.show()


# %%
def show_captions(rows, title):
    """Draw images with their caption, its CIDEr-D, and one reference."""
    figure, panels = plt.subplots(1, len(rows), figsize=(3.1 * len(rows), 4.6))
    for axes, (image, row) in zip(panels, rows.iterrows(), strict=True):
        with Image.open(images[image].path) as pixels:
            axes.imshow(pixels.convert("RGB"))
        axes.axis("off")
        lines = textwrap.wrap(f"Caption: {row['caption']}", 34)
        lines += textwrap.wrap(f"Reference: {first.references[image][0]}", 34)
        axes.set_title("\n".join([f"CIDEr-D {row['cider']:.2f}", *lines]), fontsize=9, loc="left")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    figure.tight_layout(rect=(0, 0, 1, 0.96))
    plt.show()


show_captions(per_image.head(4), "Images with the highest CIDEr-D")

# %%
show_captions(per_image.tail(4), "Images with the lowest CIDEr-D")

# %% [markdown]
# ## 6. Search settings
#
# A wider beam finds captions with a higher probability, but they are not always better. The length penalty
# counteracts the preference of beam search for short captions. Choose both on the validation split.
# `captioning train` does this after its last epoch. `sweep` encodes every image once and tries all settings:

# %%
WIDTHS = (1, 2, 3, 5, 8)
PENALTIES = {0.0: (BLUE, "o", "-"), 0.5: (ORANGE, "s", "--"), 1.0: (GREEN, "^", ":")}
tried = [BeamSearch(width=w, length_penalty=p) for p in PENALTIES for w in WIDTHS]
swept = sweep(models[0], DATA, split="val", searches=tried, cache=WORK / "features", workers=0)

figure, panels = plt.subplots(1, 2, figsize=(9, 3.2))
for axes, name in zip(panels, ("bleu_4", "cider"), strict=True):
    for penalty, (color, marker, line) in PENALTIES.items():
        found = [swept[BeamSearch(width=w, length_penalty=penalty)] for w in WIDTHS]
        style = {"color": color, "marker": marker, "linestyle": line}
        scores = [100 * scores.values[name] for scores in found]
        axes.plot(WIDTHS, scores, label=f"length penalty {penalty:g}", **style)
    axes.set(xlabel="beam width", ylabel=f"{LABELS[name]}, times 100", xticks=WIDTHS)
    axes.set_title(f"{LABELS[name]} of {names[0]!r}")
panels[1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
figure.tight_layout()
plt.show()

# %%
best = max(swept, key=lambda search: swept[search].cider)
print(f"Best CIDEr-D: beam width {best.width}, length penalty {best.length_penalty:g}")

# %% [markdown]
# ## 7. Is one system better?
#
# Both systems captioned the same images, so the difference is tested in pairs.
#
# - The interval and the first p-value come from a paired bootstrap over the images.
# - The second p-value comes from a randomization test, which swaps the two captions of an image at random.
#
# A p-value of 0.3 means: if both systems were equally good, a difference this large would occur in three of ten
# samples of images. With eight images, even large differences are not significant.

# %%
print(f"A = {names[0]}, B = {names[1]}\n")
print(compare(first.captions, second.captions, first.references).table())

# %% [markdown]
# ## At the command line
#
# ```bash
# captioning evaluate --data flickr8k:DIR --split val -o captions.json
# captioning score captions.json flickr8k:DIR
# captioning compare a.json b.json flickr8k:DIR
# ```
