"""The console command: list of commands, version, unknown names, completion."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import emotion_lab
from emotion_lab.cli import app, help, main
from emotion_lab.cli.completion import SHELLS, script, words
from emotion_lab.config import compose


def called(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["emotion-lab", *arguments])
    main.main()


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_lists_every_command(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called(*arguments, monkeypatch=monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    package = Path(emotion_lab.__file__).parent
    for name in help.commands():
        assert any(line.startswith(f"  {name} ") and line.endswith(".") for line in lines)
        assert (package / f"{name}.py").is_file()
    assert max(map(len, lines)) <= 90


@pytest.mark.parametrize("run", [main.main, lambda: app.run("train", lambda cfg: None)])
def test_version_is_that_of_this_package(
    run: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["emotion-lab", "--version"])
    run()  # type: ignore[operator]
    assert capsys.readouterr().out == f"emotion_lab {emotion_lab.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian",), "Unknown command 'trian'. Did you mean 'train'? Available: audit, "),
        (("completion",), "Unknown shell ''. Available: bash, fish, zsh."),
        (("completion", "csh"), "Unknown shell 'csh'."),
        (("live", "-m", "source=a,b"), "live runs one job: remove -m."),
        (("predict", "-m", "source=a,b"), "predict runs one job: remove -m."),
    ],
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        called(*arguments, monkeypatch=monkeypatch)
    text = capsys.readouterr().err
    assert stopped.value.code == 2 and text.startswith(f"error: {message}")
    assert text.count("\n") == 1


def test_a_command_runs_as_main(tmp_path: Path) -> None:
    """Processes of further devices start ``__main__`` again, with its arguments."""
    code = (
        "import sys, lightning\n"
        "from emotion_lab.cli import app, main\n"
        "def show(*args): spec = sys.modules['__main__'].__spec__; print(spec.name, sys.argv[1:])\n"
        "app.run = show\n"
        "sys.argv = ['emotion-lab', 'train', 'trainer=ddp']\n"
        "main.main()\n"
    ).replace("import sys, lightning", "import sys")
    completed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert completed.stdout == "emotion_lab.train ['trainer=ddp']\n", completed.stderr


@pytest.mark.parametrize("name", help.commands())
def test_help_offers_sweeps_where_they_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    help.show(name)
    assert ("Sweep with -m" in capsys.readouterr().out) == compose.has_sweeps(name)
    assert compose.has_sweeps(name) == (
        name not in ("live", "neutral", "predict", "shard", "sweep")
    )


@pytest.mark.parametrize("name", help.commands())
def test_every_key_is_completed(name: str) -> None:
    known = {*compose.leaves(compose.precheck(name, []))}
    leaves = {key for key in known if not any(other.startswith(f"{key}.") for other in known)}
    leaves -= {key for key in leaves if key.startswith(("hydra", "logger")) or key.endswith("name")}
    assert leaves <= {word.partition("=")[0] for word in words(name)}


def test_groups_are_completed_with_their_choices() -> None:
    assert {"model=senet", "optim.lr=", "seed=", "--help"} <= {*words("train")}
    assert {"sweep.trials=", "sweep=optuna", "model=senet"} <= {*words("sweep")}


def test_keys_with_few_values_are_completed_with_them() -> None:
    assert {"split=val", "tta=flip", "report=true", "data.limit="} <= {*words("evaluate")}
    assert {"smoothing.space=logit", "classify.when=auto", "web.port="} <= {*words("live")}
    assert not {"split=", "report=", "smoothing.space="} & {*words("evaluate"), *words("live")}
    # Names, or something else.
    assert {"trainer.channels_last=auto", "trainer.devices="} <= {*words("train")}


#: Calls the completion as bash does: the words of a line are broken at "=", too.
BASH = """
complete() { :; }
compopt() { :; }
eval "$1"
COMP_LINE="$2"; COMP_POINT=${#2}
COMP_WORDS=($3); COMP_CWORD=$4; COMP_WORDBREAKS=" ="
_emotion_lab
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash_script() -> str:
    return script("bash")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("line", "broken", "index", "found"),
    [
        ("emotion-lab tr", "emotion-lab tr", 1, ["train"]),
        ("emotion-lab train model=se", "emotion-lab train model = se", 4, ["senet"]),
        (
            "emotion-lab train seed=1 optim.l",
            "emotion-lab train seed = 1 optim.l",
            5,
            ["optim.lr="],
        ),
        ("emotion-lab live ckpt=", "emotion-lab live ckpt =", 3, [""]),  # then file names
    ],
)
def test_bash_completion(
    line: str, broken: str, index: int, found: list[str], bash_script: str
) -> None:
    command = ["bash", "-c", BASH, "bash", bash_script, line, broken, str(index)]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert completed.stdout.split("\n")[:-1] == found, completed.stderr


#: Shell -> program that prints what is offered for the words $2, $3, ... of a line.
OFFERED = {
    "fish": "source $argv[1]; complete -C (string join ' ' -- $argv[2..])",
    # As zsh does at the first completion: the file, in a folder of $fpath, is run.
    "zsh": (
        "compadd() { print -rl -- ${@[(r)--,-1]} }\n"
        "compset() { return 1 }\n"
        "fpath=(${1:h}); autoload -Uz _emotion-lab; words=(${@[2,-1]}); CURRENT=$#words\n"
        "_emotion-lab"
    ),
}


@pytest.mark.parametrize("shell", OFFERED)
def test_fish_and_zsh_completion(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    file = tmp_path / "_emotion-lab"
    file.write_text(script(shell))

    def offered(*words: str) -> list[str]:
        command = [program, "-c", OFFERED[shell], *([shell] if shell == "zsh" else []), str(file)]
        environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
        done = subprocess.run(
            [*command, *words], cwd=tmp_path, capture_output=True, text=True, env=environment
        )
        assert done.stderr == ""
        # fish offers what the last word begins, zsh leaves that to compadd.
        return [word for word in done.stdout.split() if word.startswith(words[-1])]

    assert offered("emotion-lab", "tr") == ["train"]
    models = [f"model={name}" for name in compose.options("model")]
    assert sorted(offered("emotion-lab", "train", "model=")) == models
    assert offered("emotion-lab", "train", "seed=1", "optim.l") == ["optim.lr="]
    assert offered("emotion-lab", "completion", "fi") == ["fish"]
    if shell == "fish":
        assert offered("emotion-lab", "train", "data.path=_e") == ["data.path=_emotion-lab"]


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_are_complete(shell: str) -> None:
    text = script(shell)
    assert "@CASES@" not in text and "@COMMANDS@" not in text
    assert "model=senet" in text and "optim.lr=" in text
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=text, text=True, check=True, timeout=20)
