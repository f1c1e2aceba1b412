"""What a replica checks before it serves."""

from __future__ import annotations

import pytest

from teacher_server.fleet.deployment import ReplicaOptions, check_weights
from trainer.common.errors import InputError


def test_replacement_with_a_folder_that_was_exported_anew_does_not_start() -> None:
    options = ReplicaOptions(kind="dialogue", folder="build/dialogue", weights_digest="aa")
    check_weights(options, "aa")
    with pytest.raises(InputError, match=r"build/dialogue must be the one .* aa, got bb\. Put"):
        check_weights(options, "bb")
