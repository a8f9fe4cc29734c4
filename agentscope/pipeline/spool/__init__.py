"""The spool: a durable queue on disk, in SQLite files."""
