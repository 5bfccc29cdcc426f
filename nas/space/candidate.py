"""Candidate: one network with one recipe."""

import hashlib
import json
from dataclasses import dataclass

from nas.architecture.architecture import Architecture
from nas.recipe import Recipe

NEWER_RECIPE_FIELDS = ("flip",)
"""Fields of the recipe that are newer than the first studies; fingerprints leave them out if they are off."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a trial trains.

    Attributes:
        architecture: the network.
        recipe: how it is trained.
    """

    architecture: Architecture
    recipe: Recipe

    def fingerprint(self) -> str:
        """Returns 16 hexadecimal digits, equal for the same network with the same recipe."""
        # Newer fields are left out if they are off, so that candidates of older studies keep their fingerprints.
        recipe = {
            name: value for name, value in self.recipe.to_json().items() if value or name not in NEWER_RECIPE_FIELDS
        }
        text = self.architecture.fingerprint() + json.dumps(recipe, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
