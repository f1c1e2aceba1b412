"""The names of the paper's two kinds of teachers; torch-free, for commands that load no model."""

DIALOGUE, RECOMMENDATION = "dialogue", "recommendation"
