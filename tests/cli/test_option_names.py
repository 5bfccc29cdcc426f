"""Error messages name a Python argument in the library and an option on the command line."""

import shlex
import shutil
import socket
import subprocess
from types import SimpleNamespace

import pytest
import typer
from hypothesis import example, given
from hypothesis import strategies as st

import nas as package
from nas.cli.main import app
from nas.cli.option_names import with_option_names
from nas.errors import NasError, argument_text

pytestmark = pytest.mark.usefixtures("one_thread")

COMMANDS = typer.main.get_command(app).commands

COUNT = "expected an integer of at least 1"
FRACTION = "expected a number above 0 and at most 1, such as 0.994"
NO_DEVICE = "not available on this machine, expected "
NO_URL = "expected a database URL such as sqlite:///results/studies.db"
DATASETS = "expected one of mnist, fashion-mnist, kmnist, emnist-digits, cifar10, digits, folder:PATH"
ON_DIGITS = {"dataset": "digits"}
SEARCH = ["search", "--dataset", "digits"]
TRAIN = ["train", "mnist-3928"]


def train(**given):
    network = package.Architecture.load("mnist-3928")
    return package.train(network, package.Recipe(), **given)


def train_seeds(**given):
    network = package.Architecture.load("mnist-3928")
    return package.train_seeds(network, package.Recipe(), **given)


NO_INTEGER, NO_NUMBER = "expected an integer, such as 12 or 8k", "expected a number, such as 0.5"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["search", "--max-params", "8kb"], f"--max-params 8kb: {NO_INTEGER}"),
        (["search", "--max-macs", "1.0005k"], f"--max-macs 1.0005k: {NO_INTEGER}"),
        (["search", "--epochs", ""], f"--epochs '': {NO_INTEGER}"),
        (["search", "--trials", "inf"], f"--trials inf: {NO_INTEGER}"),
        (["search", "--minutes", "soon"], f"--minutes soon: {NO_NUMBER}"),
        (["confirm", "--target", "99.4%"], f"--target 99.4%: {NO_NUMBER}"),
        (["dashboard", "--port", "a b"], f"--port 'a b': {NO_INTEGER}"),
        (["space", "--draws", "99"], "--draws 99: expected an integer of at least 100"),
        (["train", "mnist-3928", "--seeds", "0"], "--seeds 0: expected an integer of at least 1"),
    ],
    ids=str,
)
def test_invalid_number_is_reported_on_one_line(nas, words, text):
    assert nas(*words) == (2, "", f"error: {text}\n")


def test_every_number_option_reports_its_own_name(nas):
    num = 0
    for name, command in COMMANDS.items():
        for param in command.params:
            if param.param_type_name == "option" and param.type_descriptor.annotation in (int, float):
                rest = NO_INTEGER if param.type_descriptor.annotation is int else NO_NUMBER
                file = ["mnist-3928"] * (name == "train")
                assert nas(name, *file, param.opts[0], "x") == (2, "", f"error: {param.opts[0]} x: {rest}\n")
                num += 1
    assert num > 20


def test_limits_accept_k_and_m_for_thousands_and_millions(nas):
    short = nas("space", "--draws", "100", "--max-params", "8k", "--max-macs", "1.5M", "--json")
    assert short[0] == 0
    assert short == nas("space", "--draws", "100", "--max-params", "8000", "--max-macs", "1500000", "--json")


def limits(**given):
    return package.limits((1, 28, 28), **given)


@pytest.mark.parametrize(
    ("function", "given", "python", "words", "typed", "rest"),
    [
        (package.search, {"epochs": 0}, "`epochs=0`", ["search", "--epochs", 0], "--epochs 0", COUNT),
        (package.search, {"trials": 0}, "`trials=0`", ["search", "--trials", 0], "--trials 0", COUNT),
        (package.search, {"workers": -1}, "`workers=-1`", ["search", "--workers", -1], "--workers -1", COUNT),
        (
            package.search,
            {"keep_discards": -1},
            "`keep_discards=-1`",
            ["search", "--keep-discards", -1],
            "--keep-discards -1",
            "expected an integer of at least 0",
        ),
        (
            package.search,
            {"minutes": 0.0},
            "`minutes=0.0`",
            ["search", "--minutes", 0],
            "--minutes 0.0",
            "expected a number above 0",
        ),
        (
            package.search,
            {**ON_DIGITS, "sampler": "tea"},
            "`sampler='tea'`",
            [*SEARCH, "--sampler", "tea"],
            "--sampler tea",
            "expected one of elite, evolution, tpe, gp, nsga2, random",
        ),
        (
            package.search,
            {**ON_DIGITS, "pruner": "so on"},
            "`pruner='so on'`",
            [*SEARCH, "--pruner", "so on"],
            "--pruner 'so on'",
            "expected one of none, median, asha, hyperband",
        ),
        (
            package.search,
            {**ON_DIGITS, "objective": "accuracy, accuracy"},
            "`objective='accuracy, accuracy'`",
            [*SEARCH, "--objective", "accuracy, accuracy"],
            "--objective 'accuracy, accuracy'",
            "expected accuracy, or accuracy,COST with COST one of params, macs, peak_activation_bytes, weight_bytes",
        ),
        (
            package.search,
            {"dataset": "größe"},
            "`dataset='größe'`",
            ["search", "--dataset", "größe"],
            "--dataset 'größe'",
            DATASETS,
        ),
        (
            package.search,
            {**ON_DIGITS, "study": "a\n`b`"},
            r"`study='a\n\x60b\x60'`",
            [*SEARCH, "--study", "a\n`b`"],
            r"--study $'a\n`b`'",
            "expected at most 100 printable characters without /",
        ),
        (package.search, {"storage": "it's"}, '`storage="it\'s"`', ["search", "--storage", "it's"], None, NO_URL),
        (
            package.search,
            {**ON_DIGITS, "max_macs": 0},
            "`max_macs=0`",
            [*SEARCH, "--max-macs", 0],
            "--max-macs 0",
            COUNT,
        ),
        (limits, {"max_params": 0}, "`max_params=0`", ["space", "--max-params", 0], "--max-params 0", COUNT),
        (
            limits,
            {"min_receptive_field": -3},
            "`min_receptive_field=-3`",
            ["space", "--min-receptive-field", -3],
            "--min-receptive-field -3",
            COUNT,
        ),
        (package.confirm, {"top": 0}, "`top=0`", ["confirm", "--top", 0], "--top 0", COUNT),
        (
            package.confirm,
            {"seeds": 1},
            "`seeds=1`",
            ["confirm", "--seeds", 1],
            "--seeds 1",
            "expected an integer of at least 2",
        ),
        (package.confirm, {"target": 2.0}, "`target=2.0`", ["confirm", "--target", 2], "--target 2.0", FRACTION),
        (
            package.confirm,
            {"device": "tpu"},
            "`device='tpu'`",
            ["confirm", "--device", "tpu"],
            "--device tpu",
            NO_DEVICE,
        ),
        (train, {"device": "tpu"}, "`device='tpu'`", [*TRAIN, "--device", "tpu"], "--device tpu", NO_DEVICE),
        (train, {"dataset": ""}, "`dataset=''`", [*TRAIN, "--dataset", ""], "--dataset ''", DATASETS),
        (
            train,
            {"seed": 2**64},
            f"`seed={2**64}`",
            [*TRAIN, "--seed", 2**64],
            f"--seed {2**64}",
            "expected an integer from 0 to 2**64 - 1",
        ),
        (
            train_seeds,
            {"seeds": 2, "first_seed": 2**64 - 1},
            f"`first_seed={2**64 - 1}`",
            [*TRAIN, "--seeds", 2, "--seed", 2**64 - 1],
            f"--seed {2**64 - 1}",
            "expected an integer from 0 to 2**64 - 2",
        ),
        (
            train_seeds,
            {"seeds": 2, "target": 0.0},
            "`target=0.0`",
            [*TRAIN, "--seeds", 2, "--target", 0],
            "--target 0.0",
            FRACTION,
        ),
        (package.export_trial, {"storage": "x"}, "`storage='x'`", ["export", "--storage", "x"], None, NO_URL),
        (package.trials, {"storage": "x"}, "`storage='x'`", ["trials", "--storage", "x"], None, NO_URL),
        (package.serve_dashboard, {"storage": "x"}, "`storage='x'`", ["dashboard", "--storage", "x"], None, NO_URL),
        (
            package.serve_dashboard,
            {"host": "0.0.0.0", "allow_hosts": ["a b:80"]},
            "`allow_hosts=['a b:80']`",
            ["dashboard", "--host", "0.0.0.0", "--allow-host", "a b:80"],
            "--allow-host 'a b:80'",
            "expected a host name or an address, without a port",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_error_names_argument_in_python_and_option_on_command_line(
    nas, tmp_path, monkeypatch, function, given, python, words, typed, rest
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NasError) as caught:
        function(**given)
    told = f"{python}: {rest}"
    typed = typed or shlex.join(map(str, words[1:]))
    status, out, err = nas(*words)
    assert (status, out) == (2, "")
    if rest is NO_DEVICE:  # the devices in the message depend on the machine
        assert str(caught.value).startswith(told)
        assert err.startswith(f"error: {typed}: {rest}")
        assert err.count("\n") == 1
    else:
        assert str(caught.value) == told
        assert err == f"error: {typed}: {rest}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "python", "words", "typed"),
    [
        (
            {"gpus_per_trial": 0.5},
            "`gpus_per_trial=0.5`: only for a Ray cluster; give `ray`, too",
            ["--gpus-per-trial", 0.5],
            "--gpus-per-trial 0.5: only for a Ray cluster; give --ray, too",
        ),
        (
            {"ray": "local", "device": "cuda:1"},
            "`device='cuda:1'`: expected one of auto, cpu, cuda with `ray`, since Ray picks the GPU",
            ["--ray", "local", "--device", "cuda:1"],
            "--device cuda:1: expected one of auto, cpu, cuda with --ray, since Ray picks the GPU",
        ),
        (
            {"ray": "local", "device": "cpu", "gpus_per_trial": 1.0},
            "`gpus_per_trial=1.0`: expected 0 with `device='cpu'`",
            ["--ray", "local", "--device", "cpu", "--gpus-per-trial", 1],
            "--gpus-per-trial 1.0: expected 0 with --device cpu",
        ),
        (
            {"ray": "ray://head:10001"},
            "`ray='ray://head:10001'`: Ray's client cannot stream results; search on a machine of the cluster with"
            " `ray='auto'` (docs/cluster.md), or submit the search with `ray job submit`",
            ["--ray", "ray://head:10001"],
            "--ray ray://head:10001: Ray's client cannot stream results; search on a machine of the cluster with"
            " --ray auto (docs/cluster.md), or submit the search with `ray job submit`",
        ),
    ],
    ids=str,
)
def test_advice_names_argument_in_python_and_option_on_command_line(nas, given, python, words, typed):
    with pytest.raises(NasError) as caught:
        package.search(**given)
    assert str(caught.value) == python
    assert nas("search", *words) == (2, "", f"error: {typed}\n")


def test_start_from_folder_without_architecture_files_is_rejected(nas, tmp_path):
    folder = tmp_path / "no `networks`"
    folder.mkdir()
    rest = "no architecture file (*.json) found in this folder"
    with pytest.raises(NasError) as caught:
        package.search(dataset="digits", start_from=[folder], results=tmp_path / "results")
    python = str(folder).replace("`", r"\x60")
    assert str(caught.value) == f"`start_from=['{python}']`: {rest}"
    words = [*SEARCH, "--start-from", folder, "--results", tmp_path / "results"]
    assert nas(*words) == (2, "", f"error: --start-from '{folder}': {rest}\n")


def test_report_with_unknown_file_extension_is_rejected(nas, tmp_path):
    expected = "ending is .pdf, expected one of .htm, .html, .csv, .parquet, .json, or no ending; or give"
    with pytest.raises(NasError) as caught:
        package.report(output=tmp_path / "x.pdf")
    assert str(caught.value) == f"`output='{tmp_path / 'x.pdf'}'`: {expected} `format`, too"
    status, out, err = nas("report", "--output", tmp_path / "x.pdf")
    assert (status, out, err) == (2, "", f"error: --output {tmp_path / 'x.pdf'}: {expected} --format, too\n")


def test_missing_database_error_suggests_search_or_other_location(nas, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NasError) as caught:
        package.trials()
    text = "results/studies.db: no database found; run `{}` first, or name another one with"
    assert str(caught.value) == f"{text.format('nas.search()')} `results` or `storage`"
    assert nas("trials") == (2, "", f"error: {text.format('nas search')} --results or --storage\n")
    told = nas("trials", "--results", "my results", "--study", "mine")
    command = "nas search --results 'my results' --study mine"
    assert told == (2, "", f"error: my {text.format(command)} --results or --storage\n")


def test_error_for_deeply_nested_setting_is_shortened(nas):
    status, out, err = nas(*TRAIN, "--set", f"rotation={'[' * 100_000}")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: --set 'rotation=[[[[")
    assert err.endswith("[[[[': expected a number from 0 to 180\n")
    assert len(err) < 400


def test_dashboard_rejects_port_in_use(nas, study_folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(NasError) as caught:
            package.serve_dashboard(results=study_folder, port=port)
        assert str(caught.value) == f"`port={port}`: Address already in use; `port=0` takes a free one"
        text = f"error: --port {port}: Address already in use; --port 0 takes a free one\n"
        assert nas("dashboard", "--results", study_folder, "--port", port) == (2, "", text)


def dashes(text, command="search"):
    return with_option_names(text, SimpleNamespace(command=COMMANDS[command]))


@pytest.mark.parametrize(
    ("python", "typed"),
    [
        ("`exact=True`", "--exact"),
        ("`portfolio=False`", "--no-portfolio"),
        ("`constraints=['a', 'b c']`", "--constraint a --constraint 'b c'"),
        ("`start_from=[]`", "--start-from"),
        ("`minutes=nan`", "--minutes nan"),
        ("give `ray`, too", "give --ray, too"),
        ("(`ray`)", "(--ray)"),
        ("`first_seed=3`", "--seed 3"),
        ("`nas search` makes one", "`nas search` makes one"),
        ("run `nas.confirm()` first", "run `nas confirm` first"),
        ("run `nas.confirm(results='a b', study='c')` first", "run `nas confirm --results 'a b' --study c` first"),
        ('`nas.search(study="it\'s")`', """`nas search --study 'it'"'"'s'`"""),
        (r"`nas.confirm(study='a\nb')`", r"`nas confirm --study $'a\nb'`"),
        (r"`nas.confirm(study='\x')`", r"`nas.confirm(study='\x')`"),
        ("`max_lag=3`: expected", "`max_lag=3`: expected"),
        ("a`ray`b: No such file or directory", "a`ray`b: No such file or directory"),
        ("`", "`"),
        ("``", "``"),
        ("`ray", "`ray"),
        ("`ray=`", "`ray=`"),
        ("", ""),
    ],
)
def test_arguments_of_command_in_message_become_options(python, typed):
    assert dashes(python) == typed


def test_argument_maps_to_option_of_given_command():
    assert dashes("`seed=3`", "train") == "--seed 3"
    assert dashes("`seed=3`", "report") == "`seed=3`"
    assert dashes("`set='a=b'`", "train") == "--set a=b"
    assert dashes("`format='pdf'`", "report") == "--format pdf"
    assert dashes("`formats=['int8', 'c']`", "export") == "--format int8 --format c"
    assert dashes("`file='x'`", "cost") == "`file='x'`"  # an argument of the command, not an option


ODD = ["", "-", "a b", "it's", '"', "`ls`", "$HOME", "\\", "\\'", "a\nb", "\x1b[31m'\\", "é", "\u2028", "\U0010ffff"]


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60))
@example("`sampler='tea'`")
@example("x` `y")
def test_any_value_becomes_one_shell_word_on_one_line(value):
    text = dashes(f"{argument_text('study', value)}: expected another")
    assert text.isprintable()
    assert text.startswith("--study ")
    word = text.removeprefix("--study ").removesuffix(": expected another")
    if value.isprintable():
        assert shlex.split(word) == [value]
    else:
        assert word.startswith("$'")
        assert word.endswith("'")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_reads_quoted_value_back():
    words = [dashes(argument_text("study", value)).removeprefix("--study ") for value in ODD]
    script = "printf '%s\\0' " + " ".join(words)
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    assert done.stdout.decode().split("\0") == [*ODD, ""]


def test_non_utf8_byte_is_shown_as_shell_escape():
    assert dashes(argument_text("study", "a\udcff")) == r"--study $'a\xff'"
