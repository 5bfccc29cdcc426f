"""Options that a search rejects, and settings that do not match those of the study."""

import itertools
from pathlib import Path
from random import Random

import pytest
from support.searches import options, outcome

from nas.commands.events import TrialStarted
from nas.commands.search import search
from nas.commands.trials import trials
from nas.errors import ConstraintError, InfeasibleError, NasError, StudyError
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"epochs": 3}, "epochs is 2 in the study, 3 now"),
        ({"space": "mnist"}, "space is tiny in the study, mnist now"),
        ({"seed": 3}, "seed is 0 in the study, 3 now"),
        (
            {"max_params": 800},
            "constraints is params<=900 and receptive_field>=10 in the study, params<=800 and receptive_field>=10 now",
        ),
    ],
)
def test_search_with_other_settings_is_rejected(tmp_path, tiny_space, change, difference):
    begun = options(tmp_path, tiny_space, trials=1)
    search(**begun)
    with pytest.raises(StudyError) as caught:
        search(**{**begun, **change})
    assert str(caught.value).startswith(f"study 'search': {difference}")
    assert str(caught.value).endswith("; repeat the settings of its first search, or give another `study`")
    assert search(**{**begun, **change, "study": "other"}).study == "other"


def test_study_rejects_other_dataset_and_defaults_to_its_own(tmp_path, tiny_space, mnist_root):
    begun = options(tmp_path, tiny_space, trials=1)
    search(**begun)
    with pytest.raises(StudyError, match=r"^study .search.: dataset is digits in the study, mnist now; repeat"):
        search(**{**begun, "dataset": "mnist"})
    # The default is the dataset of the study, even where MNIST is available.
    assert search(**{**begun, "dataset": None}).tally.num_trained == 1


def test_infeasible_limits_raise_error_with_survey(tmp_path, tiny_space):
    with pytest.raises(InfeasibleError) as caught:
        search(**options(tmp_path, tiny_space, max_params=30))
    lines = str(caught.value).splitlines()
    assert lines[0] == "fewer than 1 in 10,000 candidates of the search space keep the limits"
    assert lines[1] == "space tiny: 0 of 10,000 random draws keep the limits (0.00%)"
    assert any(
        line.startswith("  params<=30: kept by 0.00% of all draws; it excludes the most; params<=") for line in lines
    )
    assert any(line.startswith("smallest network found that keeps receptive_field>=10: ") for line in lines)
    assert not (tmp_path / "results").exists()


def test_contradictory_limits_are_rejected(tmp_path, tiny_space):
    with pytest.raises(ConstraintError, match=r"^limits contradict: params>=1000 and params<=900$"):
        search(**options(tmp_path, tiny_space, constraints=["params>=1000"]))


@pytest.mark.parametrize("name", ["epochs", "trials", "workers"])
def test_counts_below_one_are_rejected(tmp_path, tiny_space, name):
    with pytest.raises(NasError, match=f"^`{name}=0`: expected an integer of at least 1$"):
        search(**options(tmp_path, tiny_space, **{name: 0}))


def test_unwritable_artifacts_folder_is_rejected_before_training(tmp_path, tiny_space):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "artifacts").write_text("mine")
    with pytest.raises(StudyError, match=r"/artifacts: File exists$"):
        search(**options(tmp_path, tiny_space))
    assert not trials(results=tmp_path / "results")


def test_changed_space_file_is_rejected(tmp_path, tiny_space):
    given = options(tmp_path, tiny_space, trials=1)
    search(**given)
    path = Path(tiny_space)
    path.write_text(path.read_text().replace("high = 5", "high = 6"))
    with pytest.raises(StudyError, match=r"^study 'search': space tiny has changed; repeat the settings"):
        search(**given)


def test_image_folder_changed_during_search_is_rejected_by_next_search(tmp_path, tiny_space):
    """A running search keeps the images that it loaded; the next search detects the change."""
    from PIL import Image

    folder, rng = tmp_path / "images", Random(0)
    for part, name, number in itertools.product(("train", "test"), ("a", "b"), range(12)):
        path = folder / part / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("L", (28, 28), rng.randbytes(28 * 28)).save(path)

    def touch(event):
        if isinstance(event, TrialStarted):
            Image.frombytes("L", (28, 28), rng.randbytes(28 * 28)).save(folder / "train" / "a" / "3.png")

    given = options(tmp_path, tiny_space, dataset=f"folder:{folder}", trials=1, epochs=1)
    assert search(**given, on_event=touch).tally.num_trained == 1
    before = outcome(trials(results=tmp_path / "results"))
    with pytest.raises(StudyError, match=r"^study 'search': dataset folder:.*/images has changed; repeat the settings"):
        search(**{**given, "trials": 2})
    assert outcome(trials(results=tmp_path / "results")) == before


def test_damaged_or_missing_weights_error_names_file_and_trial(tmp_path, tiny_space):
    search(**options(tmp_path, tiny_space, trials=1, epochs=1))
    records = StudyRecords.open(StudyRef(tmp_path / "results"))
    (trial,) = records.best(1)
    name = records.study.trials[trial.number].system_attrs["nas:weights"]
    artifact = tmp_path / "results" / "artifacts" / name
    for content in (b"", b"x", artifact.read_bytes()[:-100]):
        artifact.write_bytes(content)
        with pytest.raises(StudyError) as caught:
            records.weights(trial.number)
        text = f"{artifact}: the weights of trial {trial.number} cannot be read: the file is damaged ("
        assert str(caught.value).startswith(text)
    artifact.unlink()
    text = f"{artifact}: the weights of trial {trial.number} cannot be read: the file is missing"
    with pytest.raises(StudyError, match=f"^{text}$"):
        records.weights(trial.number)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"pruner": "median", "objective": "accuracy,params"},
            "`pruner='median'`: expected none with two objectives, since pruners compare accuracies only",
        ),
        ({"pruner": "soon"}, "`pruner='soon'`: expected one of none, median, asha, hyperband"),
        ({"sampler": "tea"}, "`sampler='tea'`: expected one of elite, evolution, tpe, gp, nsga2, random"),
        (
            {"objective": "params"},
            "`objective='params'`: expected accuracy, or accuracy,COST with COST one of params, macs,"
            " peak_activation_bytes, weight_bytes",
        ),
        (
            {"objective": "accuracy,params,macs"},
            "`objective='accuracy,params,macs'`: expected accuracy, or accuracy,COST with COST one of params, macs,"
            " peak_activation_bytes, weight_bytes",
        ),
    ],
    ids=str,
)
def test_invalid_option_is_rejected_before_study_is_created(tmp_path, tiny_space, change, text):
    with pytest.raises(NasError) as caught:
        search(**options(tmp_path, tiny_space, **change))
    assert str(caught.value) == text
    assert not (tmp_path / "results").exists()


def test_search_with_other_sampler_is_rejected(tmp_path, tiny_space):
    given = options(tmp_path, tiny_space, trials=1)
    search(**given)
    with pytest.raises(StudyError, match="sampler is elite in the study, random now"):
        search(**given, sampler="random")
    assert search(**given, sampler="elite").tally.num_trained == 1


def test_study_without_stored_sampler_settings_resumes(tmp_path, tiny_space):
    given = options(tmp_path, tiny_space, trials=1, sampler="tpe")
    search(**given)
    study = StudyRecords.open(StudyRef(tmp_path / "results")).study
    settings = study.user_attrs["settings"]
    old = {name: value for name, value in settings.items() if name not in ("objectives", "sampler", "pruner")}
    study.set_user_attr("settings", old)
    assert search(**{**given, "sampler": None, "trials": 2}).tally.num_trained == 2
