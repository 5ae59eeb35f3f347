"""Runs in a DuckDB database of your own: one file, brought up to date by `sync`, read in SQL.

Needs the extra ``tables``.

Example:
    ```python
    from modellab_async import RunFilter
    from modellab_async.store import open_store, sync

    with open_store("runs.duckdb") as store:
        await sync(lab, store, filter=RunFilter(project_id=2387))
        print(store.connection.sql("SELECT status, count(*) FROM runs GROUP BY status"))
    ```

``database`` holds the file and its schema, ``syncing`` fetches into it.
"""

from modellab_async.store.database import SCHEMA_VERSION, Failure, Store, Sync, open_store
from modellab_async.store.syncing import OVERLAP, sync

__all__ = ["OVERLAP", "SCHEMA_VERSION", "Failure", "Store", "Sync", "open_store", "sync"]
