"""The data sets that `python -m trainer.data prepare --source` accepts.

A new one is a new module here and its entry in this table.
"""

from __future__ import annotations

from trainer.data.corpora.redial import REDIAL
from trainer.data.corpora.synthetic import SYNTHETIC
from trainer.data.corpus import Corpus

CORPORA: dict[str, Corpus] = {corpus.name: corpus for corpus in (REDIAL, SYNTHETIC)}
