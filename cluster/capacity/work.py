"""What a response costs in tokens, rows and bytes, and what a core does in a second: as measured.

Figures are those of redial-mini in docs/benchmarks.md and docs/results/, by the benchmark named.
"""

from __future__ import annotations

# `wire`: 8,668 supervised positions of 640 responses.
ROWS_PER_RESPONSE = 8_668 / 640
# `step`: input tokens for each supervised position, one forward per dialogue, and per response.
TOKENS_PER_ROW = 2.60
TOKENS_PER_ROW_ALONE = 7.62
# `wire`: requests, rows of both kinds and headers, and the run id.
BYTES_PER_ROW = 122.6
# `wire`: of these the dialogue teacher's part, with 64 entries a row.
DIALOGUE_BYTES_PER_ROW = 17.3 + 81.2 + 0.3
# `wire`: a recommendation row for six responses of ten, by the hard gate.
RECOMMENDATIONS_PER_RESPONSE = 384 / 640
# docs/results/teachers.md: examples a second that one core scores, cuts and compresses.
RECOMMENDATIONS_PER_S = 2_800.0
# `wire`: rows a second that one thread encodes, and decodes.
ENCODED_PER_S = 422_000.0
DECODED_PER_S = 719_000.0
# `service`: CPU seconds of one exchange, in the server and in the client.
EXCHANGE_S = 83e-6
# How often the cut of a row goes over the vocabulary in float32: product, logsumexp, item mass, and
# the choice of the largest, which reads and writes.
PASSES_OF_CUT = 5
