# %% [markdown]
# # Train on your captions
#
# You have images, and a table with a caption for each. This notebook trains a captioner on such a table, scores it
# on images that it has not seen, and captions new images with it.
#
# | section | shows |
# |---|---|
# | 1, 2 | a table of captions, and the check of such data |
# | 3 | training, and how the loss and the score change |
# | 4 | scores on images that were held out |
# | 5 | captions of these images, and the regions that the model attended to |
# | 6 | the commands for real photos |
#
# **Time:** about one minute on one CPU core. No network connection is needed.
# **Install:** `pip install ".[notebooks,train,offline-weights]"`.
#
# By default the data are 48 *drawn* images from the repository: boxes, balls, stars and tents on simple backgrounds.
# The scores say nothing about photos. To train on your own images, set `TABLE` and `IMAGES`.

# %% tags=["parameters"]
TABLE = None  # your CSV file with the columns image and caption; None: drawn images
IMAGES = None  # the folder of the images

# %%
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from captioning import (
    Captioner,
    DecoderConfig,
    EncoderConfig,
    EvaluationConfig,
    RunConfig,
    TrainingConfig,
    draw_word_maps,
    evaluate,
    explain,
    read_image,
    train,
)

plt.rcParams.update({"figure.dpi": 90, "axes.spines.top": False, "axes.spines.right": False})
pd.set_option("display.max_colwidth", None)

# %% [markdown]
# ## 1. The table
#
# A row has the name of an image and one caption. Several captions of one image are several rows; they teach the
# model that there is more than one way to say it. JSON lines, COCO files and others are read as well.

# %%
if TABLE is None:
    rows = []
    for path in sorted(Path("../data/tiny/annotations").iterdir()):
        content = json.loads(path.read_text())
        names = {image["id"]: image["file_name"] for image in content["images"]}
        rows += [(names[each["image_id"]], each["caption"]) for each in content["annotations"]]
    TABLE, IMAGES = "captions.csv", "../data/tiny/images"
    drawn = pd.DataFrame(rows, columns=["image", "caption"]).sort_values("image", kind="stable")
    drawn.groupby("image").head(2).to_csv(TABLE, index=False)  # two of five captions
table = pd.read_csv(TABLE)
print(f"{len(table)} captions of {table.image.nunique()} images")
table.head()

# %%
figure, axes = plt.subplots(1, 4, figsize=(10, 3), layout="constrained")
for axis, (name, rows) in zip(axes, table.groupby("image"), strict=False):
    axis.imshow(read_image(Path(IMAGES) / name))
    axis.axis("off")
    axis.set_title(textwrap.fill(rows.caption.iloc[0], 32), fontsize=9)

# %% [markdown]
# ## 2. Check the data
#
# A data set has a name, `FORMAT:FILE@IMAGES`. `captioning data check` finds missing and damaged images, suspicious
# captions and duplicates before any time is spent on training. Here it finds nothing wrong.

# %%
DATA = f"csv:{TABLE}@{IMAGES}"
command = ["captioning", "data", "check", "--data", DATA, "--workers", "0"]
plain = {**os.environ, "FORCE_COLOR": ""}  # no codes for bold text
done = subprocess.run(
    [sys.executable, "-m", *command], capture_output=True, text=True, env=plain, check=False
)
print(done.stdout.strip())

# %% [markdown]
# ## 3. Train
#
# A CNN that was trained on ImageNet turns each image into features, once. Only the decoder is trained here. A fifth
# of the images is held out: they decide which epoch is the best, and the model never sees their captions.

# %%
run = RunConfig(
    data=(DATA,),
    output=Path("runs/mine"),
    val_fraction=0.2,
    encoder=EncoderConfig("timm:tf_efficientnet_lite0", image_size=128),
    decoder=DecoderConfig(
        core="attention", embedding_size=128, hidden_size=128, attention_size=64, dropout=0.3
    ),
    training=TrainingConfig(
        epochs=30, batch_size=8, warmup_steps=10, learning_rate=0.003, patience=0
    ),
    min_count=1,
    workers=0,
)
result = train(run)

# %% [markdown]
# The loss on the training captions falls. After each epoch, the model captions the held-out images, and CIDEr
# compares these captions with yours. The model of the best epoch is kept.

# %%
log = pd.read_csv("runs/mine/log.csv")
figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
loss = log[log.split == "train"].groupby("epoch").loss.mean()
cider = 100 * log[log.split == "val"].set_index("epoch").CIDEr
for axis, values, title in (
    (axes[0], loss, "loss per word, training captions"),
    (axes[1], cider, "CIDEr, held-out images"),
):
    axis.plot(values)
    axis.set(xlabel="epoch", title=title, ylim=(0, None))

# %% [markdown]
# ## 4. Scores
#
# `evaluate` captions the held-out images and compares the captions with yours. With so few images, the 95 %
# intervals are wide. `notebooks/evaluate.ipynb` explains the scores.

# %%
captioner = Captioner.from_pretrained(result.model_dir, precision="float32")
evaluation = evaluate(
    captioner, DATA, split="val", config=EvaluationConfig(val_fraction=0.2, workers=0)
)
print(evaluation.scores.table(evaluation.scores.intervals()))

# %% [markdown]
# ## 5. Captions
#
# The captions of held-out images, and where the model looked while it wrote one of them. It was trained on 38 images
# only: the places are right, but things, numbers and colors are often wrong.

# %%
images = evaluation.split.images[:4]
figure, axes = plt.subplots(1, len(images), figsize=(10, 3), squeeze=False, layout="constrained")
for axis, image in zip(axes.flat, images, strict=True):
    axis.imshow(read_image(image.path))
    axis.axis("off")
    axis.set_title(textwrap.fill(evaluation.captions[image.image_id], 32), fontsize=9)

# %%
explanation = explain(captioner, images[0].path)
draw_word_maps(explanation)

# %% [markdown]
# ## 6. Real photos
#
# With a few hundred photos or more, continue from the packaged model instead of starting from nothing: it knows
# thousands of words already. `--extend-vocabulary` adds those that it does not know and that occur at least five
# times in your captions (`--min-count`). In a clone of the repository:
#
# ```bash
# captioning train --data csv:captions.csv@photos --val-fraction 0.1 --output runs/mine \
#     --init-from captioning/models/default --extend-vocabulary
# captioning caption holiday/ --model runs/mine/model -o captions.csv
# captioning explain photo.jpg --model runs/mine/model -o photo.html
# ```
#
# A run that is stopped continues with the same command. `docs/training.md` describes the next stages: fine-tuning
# of the CNN, and training on the score itself.
