"""The teachers whose targets a cache has, for runs that no replica is listed for."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from protos import teacher_pb2
from trainer.kinds.asked import AskedTeacher
from trainer.target_cache.store import TargetCache
from trainer.teacher_client.handshake import name_of

logger = logging.getLogger(__name__)


def teachers_in_cache(
    cache: TargetCache,
    teachers: Mapping[str, AskedTeacher],
    compressions: Mapping[str, teacher_pb2.Compression],
    *,
    temperature: float,
    vocabulary: str,
    graph: str,
    settled: Mapping[str, str],
) -> dict[str, teacher_pb2.Description]:
    """Of each name the settled teacher, or the one whose targets a cache has; none of several.

    Args:
        cache: what was received before.
        teachers: that are asked, by name.
        compressions: how the rows of each are asked for.
        temperature: at which they are asked for.
        vocabulary: digest of the student's.
        graph: digest of the student's.
        settled: name -> `name_of` the one teacher that fits; of others any.
    """
    found = {}
    for name, compression in compressions.items():
        kind = teachers[name].kind_name
        groups = [
            group
            for group in cache.known(
                kind, compression, temperature=temperature, vocabulary=vocabulary, graph=graph
            )
            if teachers[name].is_it(kind, group.description.weights_digest)
            and settled.get(name) in (None, name_of(group.description))
        ]
        if len(groups) == 1:
            found[name] = groups[0].description
        elif groups:
            # Only a replica can say which of them is meant.
            names = ", ".join(sorted(name_of(group.description) for group in groups))
            logger.warning(
                "%s has targets of %d %s teachers: %s. Start the one that is meant, or keep a "
                "folder for each.",
                *(cache.folder, len(groups), name, names),
            )
    return found
