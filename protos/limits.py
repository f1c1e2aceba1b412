"""What one message may hold: servers refuse more, and clients split what would be more."""

MAX_MESSAGE_BYTES = 64 << 20
"""Either way, gRPC's framing apart."""
MAX_REQUEST_BYTES = 4 << 20
"""Three columns of ids at their longest take less."""
MAX_EXAMPLES = 1024
MAX_INPUT_IDS = 1 << 18
"""Ids of all examples of a request, in each column."""
MAX_ROWS = 1 << 15
MAX_REPLY_ENTRIES = 1 << 22
"""Of all rows of a reply. 59 MB uncompressed and at worst, which fits into a message."""
MAX_DRAWS = 1 << 21
"""Of all rows of a request: each draw is a float64, in several copies."""
