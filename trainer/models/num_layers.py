"""Whether a dialogue teacher has layers enough for several devices, by its config alone."""

from __future__ import annotations

from pathlib import Path

from trainer.common.errors import InputError
from trainer.common.text_files import read_json_object
from trainer.models.frozen import CONFIG_NAME, REMEDY

# Families of Hugging Face name it differently.
NAMES = ("num_hidden_layers", "n_layer", "num_layers")
OWN_PREFIX = "conkd-"


def check_layers_for(folder: Path, num_devices: int) -> None:
    """Raise InputError unless each device can have a layer of the model in a folder.

    Whether each gets one is decided by sizes, when the model is read (spreading.py).
    """
    config = read_json_object(folder / CONFIG_NAME, remedy=REMEDY)
    model_type = config.get("model_type")
    if str(model_type).startswith(OWN_PREFIX):
        raise InputError(
            f"a dialogue teacher on {num_devices} GPUs must be a causal language model of Hugging "
            f"Face, got a {model_type} in {folder}. Give its replicas one GPU."
        )
    layers = next((config[name] for name in NAMES if name in config), num_devices)
    if isinstance(layers, int) and layers < num_devices:
        raise InputError(
            f"a dialogue teacher on {num_devices} GPUs must have as many layers, got {layers} in "
            f"{folder}. Give its replicas fewer GPUs (--num-gpus)."
        )
