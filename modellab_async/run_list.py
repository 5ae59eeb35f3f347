"""What `Runs.get_many` returns.

A separate module, since it needs both models and `frames`, which imports the models.
"""

from collections.abc import Iterable
from typing import Any, Final, SupportsIndex, overload

from modellab_async.models import Run
from modellab_async.notebook import render

_ROWS_SHOWN: Final = 100
_RUNS_SHOWN: Final = 3


class RunList(list[Run]):
    """A list of runs that a notebook shows as a table, and that becomes an Arrow table."""

    def to_table(self, columns: Iterable[str] | None = None) -> Any:
        """The runs as a `pyarrow.Table`.

        Args:
            columns: as in `modellab_async.frames.to_table`, which has further options.

        Raises:
            MissingExtraError: if pyarrow is not installed.
            ValueError: for an unknown column.
        """
        from modellab_async import frames  # noqa: PLC0415 - only tables need it

        return frames.to_table(self, columns=columns)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Run: ...

    @overload
    def __getitem__(self, index: slice) -> "RunList": ...

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        selected: Any = super().__getitem__(index)
        return RunList(selected) if isinstance(index, slice) else selected

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, handler: Any) -> Any:
        return handler.generate_schema(list[Run])

    def __repr__(self) -> str:
        shown = [repr(run) for run in list.__getitem__(self, slice(_RUNS_SHOWN))]
        more = [f"... {len(self) - _RUNS_SHOWN} more"] if len(self) > _RUNS_SHOWN else []
        return f"RunList([{', '.join(shown + more)}])"

    def _repr_html_(self) -> str | None:
        return render("runs", runs=self, longest=_ROWS_SHOWN)
