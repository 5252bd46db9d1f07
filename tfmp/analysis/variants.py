"""What an analysis tries: a role of a layer, in a candidate's precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tfmp import recipes
from tfmp.analysis.candidates import Candidate
from tfmp.analysis.subjects import Subject
from tfmp.analysis.tallies import Key

WHOLE = "layer"  # beside the roles: all of them at once, as it would run
ROLES = (WHOLE, *recipes.ROLES)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One thing to lower.

    Attributes:
        subject: the layer.
        candidate: the precision.
        role: of the layer's tensors, or `"layer"`.
    """

    subject: Subject
    candidate: Candidate
    role: str

    @property
    def key(self) -> Key:
        """The names of layer, role and candidate."""
        return self.subject.path, self.role, self.candidate.name


def every(
    subjects: Sequence[Subject],
    candidates: Sequence[Candidate],
    roles: Sequence[str],
) -> list[Variant]:
    """Returns all that there is to try, layer by layer."""
    return [
        Variant(subject, candidate, role)
        for subject in subjects
        for candidate in candidates
        if subject.takes(candidate)
        for role in roles
        if role == WHOLE or subject.has_roles
    ]
