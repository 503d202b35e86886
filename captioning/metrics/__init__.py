"""Scores of captions, equal to the official ones and without Java.

scores = score(candidates, references)       # {id: caption}, {id: [caption, ...]}
print(scores.table(scores.intervals()))
print(compare(ours, theirs, references).table())
"""

from captioning.metrics.bleu import BleuCounts
from captioning.metrics.cider import DocumentFrequency
from captioning.metrics.comparison import Comparison, Difference, compare
from captioning.metrics.diversity import Diversity, diversity, shuffled
from captioning.metrics.java import check_java
from captioning.metrics.resampling import Interval
from captioning.metrics.results import read_references, read_results, restrict, write_results
from captioning.metrics.reward import CiderReward
from captioning.metrics.rouge import rouge_l
from captioning.metrics.scores import Scores, score

__all__ = [
    "BleuCounts",
    "CiderReward",
    "Comparison",
    "Difference",
    "Diversity",
    "DocumentFrequency",
    "Interval",
    "Scores",
    "check_java",
    "compare",
    "diversity",
    "read_references",
    "read_results",
    "restrict",
    "rouge_l",
    "score",
    "shuffled",
    "write_results",
]
