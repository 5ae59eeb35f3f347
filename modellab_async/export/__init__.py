"""Runs to JSON lines, CSV or Parquet, so that nothing is lost, or there twice, after a kill.

Example:
    ```python
    from modellab_async import RunFilter
    from modellab_async.export import export_runs

    exported = await export_runs(lab, filter=RunFilter(project_id=2387), path="runs.parquet")
    ```

``plan`` says what an export is, ``part`` and ``spool`` keep it on disk while it is under way,
``gather`` fetches, ``text`` and ``parquet`` write, and ``work`` puts them together.
"""

from modellab_async.export.plan import Format
from modellab_async.export.work import OVERLAP, Exported, export_runs

__all__ = ["OVERLAP", "Exported", "Format", "export_runs"]
