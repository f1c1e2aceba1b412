"""The names of the paper's two kinds of teachers, and of the types that they compute in.

Torch-free, for commands that load no model.
"""

DIALOGUE, RECOMMENDATION = "dialogue", "recommendation"
FLOAT32, BF16, FP16 = "float32", "bf16", "fp16"
