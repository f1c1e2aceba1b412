"""The paper's Tables 5 and 6 (KGSF backbone), by our names of arms and metrics.

Source: ConKD, EMNLP 2023.
"""

from __future__ import annotations

from collections.abc import Mapping

_METRICS = ("f1_at_1", "f1_at_10", "f1_at_50", "rec_ratio", "dist_2", "dist_3", "dist_4")
_ROWS = {
    "vanilla": (0.012, 0.062, 0.155, 0.337, 0.100, 0.176, 0.246, 7.538),
    "plus_D": (0.017, 0.063, 0.165, 0.334, 0.100, 0.172, 0.241, 7.071),
    "plus_R": (0.019, 0.066, 0.146, 0.293, 0.066, 0.115, 0.164, 12.331),
    "plus_D_R": (0.020, 0.093, 0.200, 0.313, 0.097, 0.166, 0.232, 6.349),
    "plus_D_R_ST": (0.023, 0.111, 0.253, 0.499, 0.138, 0.249, 0.344, 8.886),
    "lambda_0_5": (0.021, 0.105, 0.245, 0.471, 0.121, 0.219, 0.306, 9.211),
}
# Tables 2 and 3.
_SOFT = (0.023, 0.108, 0.248, 0.479, 0.132, 0.236, 0.326, 8.689)

PAPER: Mapping[str, Mapping[str, float]] = {
    name: dict(zip((*_METRICS, "perplexity"), row, strict=True))
    for name, row in {**_ROWS, "soft": _SOFT}.items()
}
"""Arm -> metric -> the paper's score."""
PAPER_ORDER = ("plus_D_R_ST", "lambda_0_5", "plus_D_R", "plus_R", "plus_D", "vanilla")
"""Arms of Table 5 by F1@10, the best first."""
