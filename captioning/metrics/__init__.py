"""Caption metrics: BLEU, ROUGE-L and CIDEr-D without Java, METEOR and SPICE with Java.

The scores equal those of pycocoevalcap.

scores = score(candidates, references)       # {id: caption}, {id: [caption, ...]}
print(scores.table(scores.intervals()))
print(compare(ours, theirs, references).table())
"""

from captioning.metrics.bleu import BleuCounts
from captioning.metrics.cider import DocumentFrequency
from captioning.metrics.comparison import Comparison, Difference, compare
from captioning.metrics.diversity import Diversity, measure_diversity, score_shuffled
from captioning.metrics.java import check_java
from captioning.metrics.resampling import Interval
from captioning.metrics.reward import CiderReward
from captioning.metrics.rouge import compute_rouge_l
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
    "compute_rouge_l",
    "measure_diversity",
    "score",
    "score_shuffled",
]
