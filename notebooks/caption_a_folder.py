# %% [markdown]
# # Caption a folder of photos
#
# This notebook captions a folder with the model that comes with the package, and looks inside the model: which regions it
# attended to, which words it considered, and which captions it dropped.
#
# | section | shows |
# |---|---|
# | 1, 2 | the captions of a folder, also if a file is damaged |
# | 3 | a table of captions on disk |
# | 4 | other captions of the same photo: the n best, random ones, and with a given word |
# | 5 | why the model wrote a caption |
#
# **Time:** about half a minute on one CPU core. No network connection is needed.
# **Install:** `pip install ".[notebooks,samples]"`.
#
# By default the photos are seven samples that are free to share, and one file that is cut off, as if its download
# had been interrupted.
# To caption your own photos, set `FOLDER`.

# %% tags=["parameters"]
FOLDER = None  # your folder of photos; None: sample photos

# %%
import math
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib_inline.backend_inline import set_matplotlib_formats

from captioning import (
    BeamSearch,
    Captioner,
    Sampling,
    draw_beam,
    draw_next_words,
    draw_word_maps,
    explain,
    read_image,
)
from captioning.cli.samples import write_samples

set_matplotlib_formats("jpeg")  # photos are too large as PNG
plt.rcParams["figure.dpi"] = 90
pd.set_option("display.max_colwidth", None)
folder = Path(FOLDER or "photos")
if not FOLDER:
    write_samples(folder)
    (folder / "cut.jpg").write_bytes((folder / "temple.jpg").read_bytes()[:20_000])
    print((folder / "SOURCES.txt").read_text())

# %% [markdown]
# ## 1. The model
#
# `from_pretrained()` without a name loads the packaged model. With the directory of a model that you trained, it
# loads that one.

# %%
captioner = Captioner.from_pretrained(precision="float32")
captioner

# %% [markdown]
# ## 2. Captions
#
# `caption_folder` yields a result for each image as soon as it is captioned. A file that cannot be read has an
# `error` and does not affect the others. The model was trained on about 10,000 photos, most of them of people and dogs
# outdoors, and it is often wrong about other things.

# %%
results = list(captioner.caption_folder(folder, workers=0))
captioned = [result for result in results if result.ok]
rows = math.ceil(len(captioned) / 4)
figure, axes = plt.subplots(rows, 4, figsize=(12, 2.9 * rows), squeeze=False, layout="constrained")
for axis in axes.flat:
    axis.axis("off")
for axis, result in zip(axes.flat, captioned, strict=False):
    axis.imshow(read_image(result.source, shrink_to=320))
    axis.set_title(result.text, fontsize=9, wrap=True)

# %%
for result in results:
    if not result.ok:
        print(result.error)

# %% [markdown]
# ## 3. A file of captions
#
# The command line does the same for many images: in batches, with several processes, and so that an interrupted
# run continues where it stopped. The ending of `-o` chooses the format (`.csv`, `.jsonl`, `.json`, `.parquet`,
# `.html`); `--format embed` writes the captions into the photos.

# %%
command = ["captioning", "caption", str(folder), "-o", "captions.csv", "--precision", "float32"]
print(*command)
done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
print(f"exit code {done.returncode}: 0 is success, 1 means that some images failed")
pd.read_csv("captions.csv")

# %% [markdown]
# ## 4. Other captions
#
# A result has the log-probability of its caption. Beam search also returns the next best captions, which are often
# similar. Sampling draws captions at random; a lower temperature makes them more careful.

# %%
photo = captioned[0].source


def show_captions(search):
    captions = captioner.caption(photo, search=search).captions
    rows = [(each.text, round(each.log_prob, 2)) for each in captions]
    return pd.DataFrame(rows, columns=["caption", "log-probability"])


show_captions(BeamSearch(width=5, n=5))

# %%
show_captions(Sampling(n=5, temperature=0.7))

# %% [markdown]
# `required_words` and `forbidden_words` set what a caption contains.

# %%
show_captions(BeamSearch(width=5, required_words=("woman",), forbidden_words=("man",)))

# %% [markdown]
# ## 5. Why this caption?
#
# `explain` captions an image and keeps what led to the caption. The first figure shows where the model looked
# (soft attention) while it chose each word: the brighter a part, the larger its weight.

# %%
explanation = explain(captioner, photo)
draw_word_maps(explanation)

# %% [markdown]
# At each word, the model gives a probability to every word of its vocabulary. The chosen word is dark. It is not
# always the most probable one, because beam search ranks whole captions.

# %%
draw_next_words(explanation)

# %% [markdown]
# Beam search keeps several beginnings of captions at each step. The best caption is blue, and each caption ends in
# its rank and score. Gray branches were dropped. A narrower beam is easier to read than the model's own:

# %%
draw_beam(explain(captioner, photo, search=BeamSearch(width=3)))

# %% [markdown]
# `captioning explain photo.jpg -o photo.html` writes all of this as a page to click through.
