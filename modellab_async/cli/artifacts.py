"""``modellab artifacts``: the files of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import attrs
import typer

from modellab_async.cli.common import Lab, Out, command, new_group
from modellab_async.cli.output import counted, note, write_line
from modellab_async.cli.render import byte_size, file_table
from modellab_async.display import clean

if TYPE_CHECKING:
    from modellab_async import ModelLabClient, RunFile
    from modellab_async.cli.output import Show

app: typer.Typer = new_group(
    "artifacts", "The files of runs.", "modellab artifacts download 70158 out/"
)

RunId = Annotated[str, typer.Argument(metavar="ID", help="The run's id.")]


@command(
    app,
    "modellab artifacts list 70158",
    "modellab artifacts list 70158 model/",
    name="list",
)
async def list_files(
    lab: Lab,
    run_id: RunId,
    path: Annotated[
        str | None, typer.Argument(help="A directory of the run; the top one by default.")
    ] = None,
    *,
    out: Out,
) -> None:
    """List the files of a run, one directory at a time; directories end in a slash."""
    listing = await lab.runs.artifacts(run_id, path)
    with out.items(file_table, _file_json) as add:
        for file in listing.files:
            add(file)
    if not listing.files:
        out.remark("No files.")


@command(
    app,
    "modellab artifacts download 70158 out/",
    "modellab artifacts download 70158 out/ --file model/weights.bin",
)
async def download(
    lab: Lab,
    run_id: RunId,
    directory: Annotated[
        Path,
        typer.Argument(
            help="Directory for the files; created if it does not exist.", file_okay=False
        ),
    ],
    *,
    file: Annotated[
        str | None,
        typer.Option("--file", metavar="PATH", help="One file of the run, under its own name."),
    ] = None,
    out: Out,
) -> None:
    """Download every file of a run, several at once, under their paths.

    A file is called `NAME.part` until it is whole; a download that broke off resumes from that.
    """
    with out.progress(lab, None, unit="bytes") as advance:
        if file is None:
            paths = await lab.artifacts.download_run(run_id, directory, on_progress=advance)
        else:
            paths = [await _download_file(lab, run_id, file, directory, advance)]
    sizes = [path.stat().st_size for path in paths]
    if out.as_json:
        for path, size in zip(paths, sizes, strict=True):
            write_line(json.dumps({"path": str(path), "file_size": size}))
    else:
        note(f"{counted(len(paths), 'file')}, {byte_size(sum(sizes))}, in {clean(str(directory))}")


def _file_json(file: RunFile) -> str:
    return json.dumps(attrs.asdict(file))


async def _download_file(
    lab: ModelLabClient, run_id: str, file: str, directory: Path, advance: Show
) -> Path:
    run = await lab.runs.get(run_id)
    listing = await lab.runs.artifacts(run_id)
    artifact_path = f"{listing.path_in_project}/{file}"
    return await lab.artifacts.download(
        run.project_id, artifact_path, f"{directory}/", on_progress=advance
    )
