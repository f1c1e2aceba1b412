"""Limits of one message: servers refuse larger ones, and clients split their requests."""

import re

KIND_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}", re.ASCII)
"""What a kind of teacher may be called: it becomes a part of options and of metrics."""

RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
"""What a run may be called in its requests: it becomes a label of metrics."""

MAX_MESSAGE_BYTES = 64 << 20
"""In either direction, without gRPC's framing."""
MAX_REQUEST_BYTES = 4 << 20
"""Enough for three columns of ids of the largest size."""
MAX_EXAMPLES = 1024
MAX_INPUT_IDS = 1 << 18
"""Ids of all examples of a request, in each column."""
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.25, 20.0
"""Of a request, as our teachers take it and our loss keeps its digits; both are float32 numbers."""
MAX_ROWS = 1 << 15
MAX_REPLY_ENTRIES = 1 << 22
"""Of all rows of a reply. At most 59 MB uncompressed, which fits into a message."""
MAX_DRAWS = 1 << 21
"""Of all rows of a request: each draw is a float64, in several copies."""
