"""The database file: its tables, its versions, and the quarantine of a broken file."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agentscope.errors import ConfigurationError
from agentscope.server.storage.base import Incompatible

from .append import write_row

logger = logging.getLogger("agentscope.server")

APPLICATION_ID = 0x41675363
SCHEMA_VERSION = 5
WAL_LIMIT = 64 << 20
"""Bytes. A longer write-ahead log is checkpointed and truncated."""

PAGE_SIZE = 16384
"""Bytes. Several events share a page; at SQLite's default of 4096 most events fill one alone."""

BUSY_TIMEOUT_MS = 2000
_CHECKED_IN_FULL = 64 << 20  # bytes; the check of a longer file would delay the start too long
_CORRUPT = (11, 26)  # SQLITE_CORRUPT, SQLITE_NOTADB; Python 3.10 has no names for them

# `events` is the log. `runs` and `steps` are folds of it, for lists and totals. A row of `runs` says the project of its events,
# steps and sessions. `began` is `RunCursor.began`. `tags` is a list as JSON, of the tags that are shown; `more_tags` has the
# others. `run_sessions` has the sessions that sent events of a run, with `own` for events of the run itself. `sessions` has the
# moment at which a session that promised heartbeats counts as silent. `folds` has the registers of the runs (with an empty step)
# and steps with many events, up to the event with the key `upto`. `tombstones` has the ids of deleted runs, and `deleted` the
# keys of those whose events are still to be removed. `last_removed` has the highest key of those of which nothing is left.
# `upgrade` has one row while the rows of an earlier version are made anew:
# the last one that is done. Of the columns of a run `summed` is the number of rows of steps that it was told from, and
# `unsummed` that of the rows that were written since.
_TABLES = """
CREATE TABLE IF NOT EXISTS runs (
  key INTEGER PRIMARY KEY, project TEXT NOT NULL DEFAULT 'default', id TEXT NOT NULL, agent_name TEXT NOT NULL,
  status TEXT NOT NULL, external_id TEXT, user_id TEXT, conversation_id TEXT, source TEXT, failed INTEGER NOT NULL,
  started_at TEXT, ended_at TEXT, first_at TEXT NOT NULL, began TEXT NOT NULL, touched_at REAL NOT NULL, tokens INTEGER,
  tags TEXT, more_tags TEXT, environment TEXT, release TEXT, settles TEXT, rootless INTEGER, agents TEXT, step_count INTEGER,
  failed_steps INTEGER, usage TEXT, cost REAL, summed INTEGER, unsummed INTEGER, last_at TEXT NOT NULL DEFAULT '',
  root TEXT, copy TEXT, UNIQUE (project, id)
);
CREATE INDEX IF NOT EXISTS runs_by_time ON runs (project, began DESC, key DESC);
CREATE INDEX IF NOT EXISTS runs_by_touch ON runs (touched_at);
CREATE INDEX IF NOT EXISTS runs_unsummed ON runs (touched_at) WHERE unsummed > 0;
CREATE TABLE IF NOT EXISTS steps (
  run INTEGER NOT NULL, id TEXT NOT NULL, name TEXT, type TEXT, status TEXT, failed INTEGER NOT NULL, parent TEXT, source TEXT,
  began TEXT, started_at TEXT, ended_at TEXT, tokens INTEGER, usage TEXT, cost REAL, model TEXT, root INTEGER,
  PRIMARY KEY (run, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS steps_of_agents ON steps (run, name) WHERE type = 'agent';
CREATE INDEX IF NOT EXISTS steps_by_start ON steps (run, began);
CREATE INDEX IF NOT EXISTS steps_that_tell ON steps (run, began) WHERE (root OR type='agent');
CREATE INDEX IF NOT EXISTS steps_failed ON steps (run, began) WHERE failed;
CREATE INDEX IF NOT EXISTS steps_by_model ON steps (model, run) WHERE model IS NOT NULL;
CREATE TABLE IF NOT EXISTS events (
  key INTEGER PRIMARY KEY, project TEXT NOT NULL DEFAULT 'default', id TEXT NOT NULL, run INTEGER NOT NULL, step_id TEXT,
  session_id TEXT NOT NULL, received_at REAL NOT NULL, body TEXT NOT NULL, UNIQUE (project, id, session_id)
);
CREATE INDEX IF NOT EXISTS events_by_step ON events (run, step_id);
CREATE TABLE IF NOT EXISTS sessions (
  project TEXT NOT NULL DEFAULT 'default', id TEXT NOT NULL, silent_at REAL NOT NULL, PRIMARY KEY (project, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS run_sessions (
  run INTEGER NOT NULL, session TEXT NOT NULL, own INTEGER NOT NULL, PRIMARY KEY (run, session)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
  key INTEGER PRIMARY KEY, project TEXT NOT NULL DEFAULT 'default', session_id TEXT NOT NULL DEFAULT '', id TEXT NOT NULL,
  received_at REAL NOT NULL, duplicates INTEGER NOT NULL, conflicts INTEGER NOT NULL, UNIQUE (project, session_id, id)
);
CREATE INDEX IF NOT EXISTS batches_by_time ON batches (received_at);
CREATE TABLE IF NOT EXISTS dropped (batch INTEGER NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS dropped_by_batch ON dropped (batch);
CREATE TABLE IF NOT EXISTS folds (
  run INTEGER NOT NULL, step TEXT NOT NULL, upto INTEGER NOT NULL, registers TEXT NOT NULL, PRIMARY KEY (run, step)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tombstones (
  project TEXT NOT NULL, run_id TEXT NOT NULL, deleted_at REAL NOT NULL, PRIMARY KEY (project, run_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tombstones_by_time ON tombstones (deleted_at);
CREATE TABLE IF NOT EXISTS deleted (run INTEGER PRIMARY KEY, project TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS last_removed (one INTEGER PRIMARY KEY CHECK (one = 1), run INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS upgrade (run INTEGER NOT NULL, step TEXT);
"""
_DEFINITIONS = [definition for definition in _TABLES.split(";") if definition.strip()]
# The columns that files of earlier versions lack, beside `project`.
_ADDED = (
    *("runs tokens INTEGER", "runs tags TEXT", "runs more_tags TEXT", "runs environment TEXT", "runs release TEXT"),
    *(
        "runs settles TEXT",
        "runs rootless INTEGER",
        "runs agents TEXT",
        "runs step_count INTEGER",
        "runs failed_steps INTEGER",
    ),
    *("runs usage TEXT", "runs cost REAL", "runs summed INTEGER", "runs unsummed INTEGER", "runs root TEXT"),
    "runs copy TEXT",
    *(
        "steps model TEXT",
        "steps cost REAL",
        "steps name TEXT",
        "steps type TEXT",
        "steps status TEXT",
        "steps parent TEXT",
    ),
    *("steps source TEXT", "steps began TEXT", "steps started_at TEXT", "steps ended_at TEXT", "steps usage TEXT"),
    *("steps root INTEGER",),
)
# The tables whose keys have the project since version 4. SQLite cannot change a key, so that they are made anew.
_REKEYED = ("runs", "events", "sessions", "batches", "dropped")
_REKEYED_INDEXES = ("runs_by_time", "runs_by_touch", "events_by_step", "batches_by_time")
# A run cannot have begun after the last event of it came.
_PLACE_RUNS = """
UPDATE runs SET last_at=strftime('%Y-%m-%dT%H:%M:%f', touched_at, 'unixepoch') || '000Z',
  began=min(began, strftime('%Y-%m-%dT%H:%M:%f', touched_at, 'unixepoch') || '000Z')
"""
_MOVED_EVENTS = 2000  # of one transaction
_REMADE_ROWS = 100  # of one transaction
_REMADE_SECONDS = 0.05  # of one transaction, in which nothing else is written
_UPGRADE_SECONDS = 1.0  # of the start; the writer upgrades the rest between batches


class Corrupt(Exception):
    """The file is not a whole SQLite database."""


def open_writer(path: Path) -> sqlite3.Connection:
    """Open the database for the writer thread. A missing file is made with mode 0600, a broken one is renamed and replaced.

    Raises `ConfigurationError` for a file that is no database or that of another application, `Incompatible` for one of a
    newer version, `OSError` or `sqlite3.OperationalError` where no file can be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and not _may_be_ours(path):
        raise ConfigurationError(f"{path} is not a database; give another path, or move it away.")
    try:
        return _open(path)
    except Corrupt as problem:
        quarantine(path, str(problem))
        return _open(path)


def _may_be_ours(path: Path) -> bool:
    """Return whether a file is a database, though perhaps a damaged one, and not a file that was named by mistake.

    SQLite itself takes any file shorter than 512 bytes for an empty database, and overwrites it.
    """
    with path.open("rb") as file:
        header = file.read(100)
    # https://sqlite.org/fileformat.html section 1.3: the first bytes of a file, and the application id at byte 68. A disk
    # that loses a page leaves zeros.
    beginning = header[:16]
    whole = b"SQLite format 3\0".startswith(beginning) or not any(beginning)
    named = header[68:72] == APPLICATION_ID.to_bytes(4, "big")
    return whole or named or path.with_name(f"{path.name}-wal").exists()


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Write what is executed in a block, or none of it after an exception."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a read-only connection for one short read."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    return connection


def is_corrupt(problem: BaseException) -> bool:
    """Return whether an error of SQLite means that the file itself is broken."""
    if not isinstance(problem, sqlite3.DatabaseError) or isinstance(problem, sqlite3.IntegrityError):
        return False
    code = getattr(problem, "sqlite_errorcode", None)  # Python 3.11 and newer
    if code is not None:
        return code & 0xFF in _CORRUPT
    return "malformed" in str(problem) or "not a database" in str(problem)


def quarantine(path: Path, problem: str) -> Path:
    """Rename a broken database and its -wal and -shm files, and log it as an error. Returns the new path."""
    number = 1
    while (target := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(target.with_name(target.name + suffix))
    logger.error("The database %s is broken (%s). It is now %s; a fresh one is used.", path, problem, target)
    return target


def _open(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        _check(connection, path)
        _keep_from_others(path)
        connection.execute(f"PRAGMA page_size={PAGE_SIZE}")
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA journal_size_limit={WAL_LIMIT}")
        _upgrade_tables(connection)
        _move_events(connection, path)
        end = time.monotonic() + _UPGRADE_SECONDS
        while upgrade_rows(connection) and time.monotonic() < end:
            pass
    except BaseException as problem:
        connection.close()
        if is_corrupt(problem):
            raise Corrupt(str(problem)) from problem
        raise
    return connection


def _keep_from_others(path: Path) -> None:
    """Take the rights of other users from the database and the files beside it. Raises `ConfigurationError` if that fails.

    SQLite gives a -wal and -shm file that it makes the mode of the database.
    """
    if os.name != "posix":
        return
    for part in (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal"))):
        with suppress(FileNotFoundError):
            if not part.stat().st_mode & 0o077:
                continue
            with suppress(PermissionError):
                part.chmod(0o600)
            if part.stat().st_mode & 0o077:
                raise ConfigurationError(
                    f"{part} is open to other users, and its mode cannot be set to 0600; give another path."
                )
            logger.warning("%s was open to other users of this machine; its mode is now 0600.", part)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not tables:
        return
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise ConfigurationError(f"{path} is a database of another application; give another path.")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise Incompatible(f"{path} was written by a newer version of agentscope (schema {version}).")
    if path.stat().st_size <= _CHECKED_IN_FULL:
        verify(connection)


def _upgrade_tables(connection: sqlite3.Connection) -> None:
    """Make the tables that are missing, and bring those of an earlier version into their present form.

    The events of a version before 4 are left in `old_events`, for `_move_events`.
    """
    # One transaction, since another process may upgrade the file at the same time, or this one may be killed.
    with transaction(connection):
        before = {table: columns for table in (*_REKEYED, "steps") if (columns := _columns(connection, table))}
        if "llm" in before.get("steps", ()):  # since version 5 the type itself; all rows are made anew below
            _replace_steps(connection, before.pop("steps"))
        rekeyed = [table for table in _REKEYED if table in before and not {"project", "batch"} & {*before[table]}]
        for index in _REKEYED_INDEXES if rekeyed else ():
            connection.execute(f"DROP INDEX IF EXISTS {index}")
        for table in rekeyed:
            connection.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
        missing = [added.split() for added in _ADDED if added.split()[0] in before]
        missing = [added for added in missing if added[1] not in before[added[0]]]
        for table, column, type_ in missing:
            if table not in rekeyed:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {type_}")
        for definition in _DEFINITIONS:
            connection.execute(definition)
        for table in rekeyed:
            if table in ("runs", "sessions", "batches"):
                names = ", ".join(before[table])
                connection.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM old_{table}")  # noqa: S608 - our names
        if "runs" in rekeyed:
            connection.execute(_PLACE_RUNS)
        if "dropped" in rekeyed:
            old = "SELECT key, reason, count FROM old_dropped JOIN batches ON batches.id = batch_id"
            connection.execute(f"INSERT INTO dropped {old}")
        for table in rekeyed:
            if table != "events":
                connection.execute(f"DROP TABLE old_{table}")
        if missing:
            connection.execute("DELETE FROM upgrade")
            connection.execute("INSERT INTO upgrade VALUES (0, '')")
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def _replace_steps(connection: sqlite3.Connection, columns: list[str]) -> None:
    """Replace the table of steps by one without its column `llm`."""
    connection.execute("DROP INDEX IF EXISTS steps_by_model")
    connection.execute("ALTER TABLE steps RENAME TO old_steps")
    for definition in _DEFINITIONS:
        if "EXISTS steps " in definition:
            connection.execute(definition)
    kept = ", ".join(name for name in columns if name != "llm")
    connection.execute(f"INSERT INTO steps ({kept}) SELECT {kept} FROM old_steps")  # noqa: S608 - our names
    connection.execute("DROP TABLE old_steps")


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]


def _move_events(connection: sqlite3.Connection, path: Path) -> None:
    """Move the events of a version before 4, in portions: each frees the room that the next one needs."""
    names = ("key", "id", "run", "step_id", "session_id", "received_at", "body")
    portion = "SELECT key FROM old_events ORDER BY key LIMIT ?"
    moved = 0
    while _columns(connection, "old_events"):
        with transaction(connection):
            if not _columns(connection, "old_events"):  # another process has finished it
                return
            last = connection.execute(f"SELECT max(key) FROM ({portion})", (_MOVED_EVENTS,)).fetchone()[0]  # noqa: S608 - a constant
            if last is None:
                connection.execute("DROP TABLE old_events")
                return
            if not moved:
                logger.info("The events in %s are brought into the form of this version.", path)
            columns = ", ".join(names)
            of_portion = f"SELECT {columns} FROM old_events WHERE key <= ?"  # noqa: S608 - our names
            moved += connection.execute(f"INSERT INTO events ({columns}) {of_portion}", (last,)).rowcount
            connection.execute("DELETE FROM old_events WHERE key <= ?", (last,))


def upgrade_rows(connection: sqlite3.Connection) -> bool:
    """Make a portion of the rows of an earlier version anew, from their events. Returns True if more are left."""
    if connection.execute("SELECT 1 FROM upgrade").fetchone() is None:
        return False
    with transaction(connection):
        position = connection.execute("SELECT run, step FROM upgrade").fetchone()
        if position is None:  # another process has finished it
            return False
        run, step = position
        if step is None:  # first the steps, then the runs, which are told from them
            sql = "SELECT key, NULL FROM runs WHERE key>? ORDER BY key LIMIT ?"
            items = connection.execute(sql, (run, _REMADE_ROWS)).fetchall()
        else:
            sql = "SELECT run, id FROM steps WHERE (run, id) > (?, ?) ORDER BY run, id LIMIT ?"
            items = connection.execute(sql, (run, step, _REMADE_ROWS)).fetchall()
        end = time.monotonic() + _REMADE_SECONDS
        for item in items:
            try:
                write_row(connection, *item)
            except sqlite3.Error:
                raise
            except Exception as problem:  # a damaged event leaves the row as it was
                logger.warning("A row of an earlier version was not made anew: %s", type(problem).__name__)
            connection.execute("UPDATE upgrade SET run=?, step=?", item)
            if time.monotonic() > end:
                break
        if not items:
            connection.execute("DELETE FROM upgrade" if step is None else "UPDATE upgrade SET run=0, step=NULL")
    return bool(items) or step is not None


def verify(connection: sqlite3.Connection) -> None:
    """Check the whole file. Raises `Corrupt` for a broken one."""
    answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if answer != "ok":
        raise Corrupt(answer)
