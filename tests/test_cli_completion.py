"""Completion: the protocol that shells speak, and the shells themselves where installed."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from conftest import posix
from shells import Shell, finish, with_command
from test_cli import invoke

pytestmark = posix

SHELLS = ("bash", "zsh", "fish")

# Each script completes one line as its shell would when Tab is pressed after it.
ASK = {
    "bash": """
source "$HOME/.bash_completions/modellab.sh"
COMP_LINE={line}; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=({line_words})
[[ $COMP_LINE == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
$(complete -p modellab | sed -E 's/.*-F ([^ ]+).*/\\1/') modellab
printf '%s\\n' "${{COMPREPLY[@]}}"
""",
    "zsh": """
compdef() {{ : }}
_arguments() {{ print -r -- "$@" }}
_files() {{ print files }}
source "$HOME/.zfunc/_modellab"
words=({line_words}); [[ {line} == *" " ]] && words+=("")
CURRENT=$#words
_modellab_completion
""",
    "fish": "complete --do-complete {line}",
}


def asked(kind: str, line: str) -> dict[str, str]:
    """The environment by which a shell asks for the completion of a line."""
    words = line.split(" ")
    return {
        "bash": {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[kind] | {"_MODELLAB_COMPLETE": f"complete_{kind}"}


LINES = [
    ("modellab ", ["runs", "projects", "artifacts", "doctor", "demo", "simulate"]),
    ("modellab runs co", ["compare"]),
    ("modellab runs list --stat", ["--status"]),
    ("modellab runs list --status com", ["completed"]),
    ("modellab runs list --sort up", ["updated_at"]),
    ("modellab runs list --sort ", ["updated_at", "-created_at"]),
    ("modellab projects list --sort ", ["name", "-updated_at"]),
    ("modellab runs list --columns na", ["name"]),
    ("modellab runs list --columns id,metr", ["id,metrics."]),
    ("modellab projects list --site us1", ["us1", "us1-fed"]),
    ("modellab runs compare 1 2 --statistic m", ["max", "mean", "min"]),
]


@pytest.mark.parametrize("kind", SHELLS)
@pytest.mark.parametrize(("line", "expected"), LINES)
async def test_the_protocol(kind: str, line: str, expected: list[str]) -> None:
    """Commands, options and the values that are known come back in each shell's own form."""
    result = await invoke(env=asked(kind, line))
    stdout = result.stdout

    assert (result.exit_code, result.stderr) == (0, "")
    form = {"bash": "{}\n", "zsh": '"{}"', "fish": "{}"}[kind]
    for word in expected:
        assert form.format(word) in f"{stdout}\n"
    assert "simulate" not in stdout or "simulate" in expected


@pytest.mark.parametrize("kind", SHELLS)
async def test_a_real_shell(shell: Shell, tmp_path: Path, kind: str) -> None:
    """After ``--install-completion``, the shell itself completes a command and a value."""
    program = shutil.which(kind)
    if program is None:
        pytest.skip(f"{kind} is not installed")
    home = with_command(tmp_path)
    plain = {"bash": "--norc", "zsh": "-f", "fish": "--no-config"}[kind]
    # It asks which shell it was called by: the shell must stay, not become the program.
    install = "modellab --install-completion; true"
    code, stdout, _ = await finish(await shell.run(program, plain, "-c", install, env=home))
    assert code == 0
    assert f"{kind} completion installed" in stdout

    for line, word in (("modellab do", "doctor"), ("modellab runs list --status com", "completed")):
        script = ASK[kind].format(line=shlex.quote(line), line_words=line)
        path = tmp_path / "ask"
        path.write_text(script)
        if kind == "fish":
            installed = tmp_path / ".config/fish/completions/modellab.fish"
            path.write_text(f"source {installed}\n{script}")
        process = await shell.run(program, plain, path, env=home)
        code, stdout, stderr = await finish(process)
        assert stderr == ""
        assert word in stdout
        assert "simulate" not in stdout
