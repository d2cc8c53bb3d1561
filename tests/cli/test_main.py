"""Dispatch, exit codes, and what is not loaded."""

import os
import subprocess
import sys
from types import ModuleType

import pytest

import dtag_fast
from dtag_fast.cli.main import VERBS, main


def test_help_loads_neither_torch_nor_gymnasium():
    program = (
        "import sys; from dtag_fast.cli.main import main; code = main(['--help']); "
        "assert not {'torch', 'gymnasium', 'tyro', 'rich', 'numpy'} & set(sys.modules), sys.modules.keys(); "
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_a_reader_that_has_gone_is_no_error(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-m", "dtag_fast.cli.main", *arguments]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(writer)
    assert done.returncode == 1 and done.stderr == ""


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_explains_itself(verb, capsys):
    assert main([verb, "--help"]) == 0
    assert f"dtag {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "code"), [([], 2), (["help"], 0), (["--version"], 0), (["fly"], 2), (["doctor", "--fly"], 2)]
)
def test_exit_codes(argv, code, capsys):
    assert main(argv) == code
    out, err = capsys.readouterr()
    if argv == ["--version"]:
        assert out.strip() == f"dtag_fast {dtag_fast.__version__}"
    if argv == ["fly"]:
        assert err.startswith("dtag: unknown verb 'fly'") and "evaluate" in err


@pytest.fixture
def failing(monkeypatch):
    """failing(error): makes `dtag doctor` raise it."""

    def install(error):
        module = ModuleType("dtag_fast.cli.doctor")

        def raise_it(argv):
            raise error

        module.main = raise_it
        monkeypatch.setitem(sys.modules, "dtag_fast.cli.doctor", module)

    return install


def test_user_errors_become_one_line(failing, capsys, monkeypatch):
    failing(FileNotFoundError("dataset: no\nsuch thing"))
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == "dtag doctor: dataset: no such thing\n"
    monkeypatch.setenv("DTAG_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        main(["doctor"])


def test_bugs_keep_their_traceback(failing):
    failing(KeyError("bug"))
    with pytest.raises(KeyError):
        main(["doctor"])


def test_an_interrupt_is_quiet(failing, capsys):
    failing(KeyboardInterrupt())
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == ""


def test_doctor_names_versions_backends_and_datasets(dtag):
    code, out, _ = dtag("doctor")
    assert code == 0
    for text in ("torch", "backend", "Minari root", "test/pendulum-v0", dtag_fast.__version__):
        assert text in out


def test_doctor_tells_what_is_missing(dtag, monkeypatch):
    from dtag_fast.cli import doctor

    monkeypatch.setattr(doctor, "REQUIRED", (*doctor.REQUIRED, "no-such-package"))
    code, out, _ = dtag("doctor")
    assert code == 1 and "pip install no-such-package" in out


def test_a_broken_pipe_of_the_verb_itself_is_not_silent(failing, monkeypatch):
    reader, writer = os.pipe()
    failing(BrokenPipeError(32, "to a worker"))
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        with pytest.raises(BrokenPipeError, match="to a worker"):
            main(["doctor"])
    os.close(reader)
