"""One file of the spool: the events of one session that are not acknowledged yet, in SQLite.

`sqlite3` is imported with the first file. One thread at a time may call; it holds `threads.disk()`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from agentscope.events import Event, Session

from .codec import Damaged, unpack

if TYPE_CHECKING:
    from sqlite3 import Connection

APPLICATION_ID = 0x41675370
VERSION = 1
PAGE = 4096
MOST_WAL = 4 << 20
"""Bytes that the write-ahead log may take before it is moved into the file."""
_BUSY = 1.0
"""Seconds to wait for another program, such as a backup. The owner's lock keeps out other processes of this package."""
_CHECKED_IN_FULL = 64 << 20  # bytes; the check of a longer file takes longer than events may wait
_CORRUPT = (11, 26)  # SQLITE_CORRUPT, SQLITE_NOTADB; Python 3.10 has no names for them

_TABLES = (
    (
        "CREATE TABLE about (id TEXT NOT NULL, event_prefix TEXT NOT NULL, "
        "destination TEXT NOT NULL, key_mark TEXT NOT NULL, refused INTEGER NOT NULL)"
    ),
    "CREATE TABLE events (seq INTEGER PRIMARY KEY, data BLOB NOT NULL)",
)

# sqlite3 gives up the interpreter's lock for each step, that is for each row, and in a program that computes it may take 5 ms to
# have it back: so everything is written in few statements, and read in one step.
_AT_ONCE = 499  # rows; SQLite may allow a statement as few as 999 variables
# A damaged record may well claim to be a text, which would have to be UTF-8: so it is cast, and read as hexadecimal digits.
_READ = """
SELECT group_concat(seq || ' ' || hex(data)) FROM (
  SELECT seq, data, sum(length(data)) OVER (ORDER BY seq) AS total FROM (
    SELECT seq, CAST(data AS BLOB) AS data FROM events WHERE seq>? AND seq<=? ORDER BY seq LIMIT ?
  )
) WHERE total - length(data) < ?
"""


class Origin(NamedTuple):
    """The session and destination of a file."""

    session: Session
    destination: str
    """Kind of exporter and URL, such as `AgentScopeExporter http://localhost:8000`."""
    key_mark: str
    """A hash that differs between keys and does not reveal the key."""
    refused: bool = False
    """The backend has refused the key. A process with another key may deliver these events."""


class Unusable(Exception):
    """The file holds nothing that this version can read: made by another program, or a newer version, or never finished."""

    def __init__(self, sentence: str, foreign: bool) -> None:
        super().__init__(sentence)
        self.foreign = foreign
        """The file must be kept, since another program may use it."""


class Corrupt(Exception):
    """The file is broken."""


class SpoolFile:
    """An open file. Errors of SQLite are raised as they are, except `Corrupt`."""

    def __init__(self, path: str, connection: Connection, origin: Origin) -> None:
        self.path = path
        self.origin = origin
        self.damaged = 0
        """Damaged records that were left out."""
        self._connection = connection

    @classmethod
    def create(cls, path: str, origin: Origin) -> SpoolFile:
        """Make a file that is not there yet, readable by its owner alone."""
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        connection = _connect(path)
        try:
            connection.execute(f"PRAGMA page_size={PAGE}")
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            _prepare(connection)
            connection.execute("BEGIN IMMEDIATE")
            for statement in _TABLES:
                connection.execute(statement)
            (session_id, prefix), destination, mark, refused = origin
            connection.execute(
                "INSERT INTO about VALUES (?, ?, ?, ?, ?)", (session_id, prefix, destination, mark, refused)
            )
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            remove(path)
            raise
        return cls(path, connection, origin)

    @classmethod
    def open(cls, path: str) -> SpoolFile:
        """Open an existing file. Raises `Unusable` or `Corrupt`."""
        if not os.path.exists(path):  # SQLite would make one
            raise Unusable("there is none", foreign=False)
        connection = _connect(path)
        try:
            origin = _read_origin(connection)
            _prepare(connection)
        except BaseException as error:
            connection.close()
            if is_corrupt(error):
                raise Corrupt from error
            raise
        return cls(path, connection, origin)

    def check(self) -> None:
        """Check the whole file, unless it is large. Raises `Corrupt`."""
        try:
            if os.path.getsize(self.path) <= _CHECKED_IN_FULL and not _is_sound(self._connection):
                raise Corrupt
        except Exception as error:
            if is_corrupt(error):
                raise Corrupt from error
            raise

    def write(self, rows: Sequence[tuple[int, bytes]], gone: Iterable[int]) -> None:
        """Add `(seq, packed)` events and remove events by `seq`, in one transaction."""
        db = self._connection
        db.execute("BEGIN IMMEDIATE")
        try:
            numbers = ",".join(map(str, gone))
            if numbers:
                db.execute(f"DELETE FROM events WHERE seq IN ({numbers})")  # noqa: S608 - numbers of our own
            for start in range(0, len(rows), _AT_ONCE):
                part = rows[start : start + _AT_ONCE]
                places = ",".join(["(?,?)"] * len(part))
                db.execute(
                    f"INSERT OR IGNORE INTO events VALUES {places}",  # noqa: S608 - question marks
                    [value for row in part for value in row],
                )
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def read(self, after: int, upto: int, most: int, most_bytes: int) -> list[Event]:
        """Return the events with `after < seq <= upto`, in order. Damaged ones are left out and removed. Raises `Corrupt`."""
        from sqlite3 import DatabaseError

        events: list[Event] = []
        damaged: list[int] = []
        try:
            found = self._connection.execute(_READ, (after, upto, most, most_bytes)).fetchone()[0]
        except DatabaseError as error:
            if is_corrupt(error):
                raise Corrupt from error
            raise
        for row in found.split(",") if found else ():
            seq, _, data = row.partition(" ")
            try:
                events.append(unpack(int(seq), bytes.fromhex(data)))
            except Damaged:
                damaged.append(int(seq))
        events.sort(key=lambda event: event.seq)
        if damaged:
            before = self._connection.total_changes
            self.write((), damaged)
            if self._connection.total_changes - before != len(damaged):
                raise Corrupt  # they would be found again and again
            self.damaged += len(damaged)
        return events

    def count(self) -> int:
        """Return the number of events in the file."""
        number: int = self._connection.execute("SELECT count(*) FROM events").fetchone()[0]
        return number

    def limit(self, pages: int, log: int) -> int:
        """Limit the file to `pages` pages, and its write-ahead log to `log` bytes. Returns the number of pages in use.

        Beyond the limit SQLite reports a full disk.
        """
        self._connection.execute(f"PRAGMA wal_autocheckpoint={max(log // PAGE, 1)}").fetchall()
        self._connection.execute(f"PRAGMA max_page_count={max(pages, 1)}")
        return int(self._connection.execute("PRAGMA page_count").fetchone()[0]) - int(
            self._connection.execute("PRAGMA freelist_count").fetchone()[0]
        )

    def note_refused(self) -> None:
        """Record that the key was refused, so that a process with another key may deliver the events."""
        self._connection.execute("UPDATE about SET refused=1")

    def shrink(self) -> None:
        """Return free pages to the file system."""
        # It gives back a page a step, and `execute` makes but one step of what has no columns.
        self._connection.executescript("PRAGMA incremental_vacuum")
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        self._connection.close()


def is_corrupt(error: BaseException) -> bool:
    """Return whether this error of SQLite means that the file is broken."""
    from sqlite3 import DatabaseError

    if isinstance(error, Corrupt):
        return True
    if not isinstance(error, DatabaseError):
        return False
    code: Any = getattr(error, "sqlite_errorcode", None)  # Python 3.11 and newer
    if code is not None and code & 0xFF in _CORRUPT:
        return True
    return "malformed" in str(error) or "not a database" in str(error) or "not decode" in str(error)


def is_full(error: BaseException) -> bool:
    """Return whether this error of SQLite means that its own limit or the disk is full."""
    code: Any = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF == 13 if code is not None else "is full" in str(error)


def parts(path: str) -> tuple[str, ...]:
    """Return the paths of all files of a database. The journal exists only while the database is created."""
    return path, f"{path}-wal", f"{path}-shm", f"{path}-journal"


def remove(path: str) -> None:
    """Delete a database and its files. A file that cannot be deleted stays."""
    for part in parts(path):
        try:
            os.unlink(part)
        except OSError:
            continue


def _connect(path: str) -> Connection:
    from sqlite3 import connect

    return connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)


def _is_sound(connection: Connection) -> bool:
    sound: bool = connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
    return sound


def _prepare(connection: Connection) -> None:
    connection.execute("PRAGMA journal_mode=WAL").fetchall()
    # Every commit is on the disk itself: there are few a second, and a power cut then loses no more than SIGKILL does.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA journal_size_limit={MOST_WAL}")
    connection.execute(f"PRAGMA wal_autocheckpoint={MOST_WAL // PAGE}")


def _read_origin(connection: Connection) -> Origin:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        if application == APPLICATION_ID:  # which came with the tables
            raise Corrupt
        if connection.execute("PRAGMA page_count").fetchone()[0] <= 2:
            raise Unusable("its owner was killed before it had made it", foreign=False)
    if application != APPLICATION_ID:
        raise Unusable("it is of another application", foreign=True)
    if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
        raise Unusable("it was written by another version of agentscope", foreign=True)
    # Compared exactly, since SQLite would read other columns if a word of the schema is damaged.
    if tuple(sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master ORDER BY name")) != _TABLES:
        raise Corrupt
    row = connection.execute("SELECT * FROM about").fetchone()
    if row is None or [type(value) for value in row] != [str, str, str, str, int]:
        raise Corrupt
    session_id, prefix, destination, mark, refused = row
    return Origin(Session(session_id, prefix), destination, mark, bool(refused))
