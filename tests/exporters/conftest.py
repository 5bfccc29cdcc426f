"""An export shared by the tests."""

import pytest

from nas.commands.export import export_trial
from nas.exporters.formats import FORMATS


@pytest.fixture(scope="session")
def exported(study_folder, tmp_path_factory):
    """The best trial of the study in every format. Read only."""
    output = tmp_path_factory.mktemp("exported") / "model"
    return export_trial(results=study_folder, output=output, formats=FORMATS)
