"""A candidate: one network with one recipe."""

import hashlib
import json
from dataclasses import dataclass

from nas.architecture.architecture import Architecture
from nas.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a trial trains."""

    architecture: Architecture
    recipe: Recipe

    def fingerprint(self) -> str:
        """16 hexadecimal digits, equal for the same network with the same recipe."""
        text = self.architecture.fingerprint() + json.dumps(self.recipe.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
