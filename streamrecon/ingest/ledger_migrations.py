"""How a ledger of an earlier version becomes one of this, and what lets readers take it for one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from streamrecon.ingest.ledger_chain import CHAIN, link_all

# A content is a list of images: which files hold it, and which particle each of its images is. ``before`` is the
# content that lay under a name before it was written anew; ``copy_of`` the file that had the images first.
CONTENTS = """
CREATE TABLE contents (number INTEGER PRIMARY KEY, first BLOB, sample BLOB NOT NULL, sections INTEGER NOT NULL);
CREATE INDEX contents_first ON contents (first) WHERE first IS NOT NULL;
CREATE TABLE files (name TEXT PRIMARY KEY, content INTEGER NOT NULL, before INTEGER, copy_of TEXT) WITHOUT ROWID;
CREATE INDEX files_content ON files (content);
CREATE TABLE places (
    content INTEGER NOT NULL, section INTEGER NOT NULL,
    particle INTEGER NOT NULL REFERENCES particles (id) ON DELETE CASCADE, image BLOB,
    PRIMARY KEY (content, section)
) WITHOUT ROWID;
CREATE INDEX places_particle ON places (particle);
CREATE INDEX places_image ON places (image) WHERE image IS NOT NULL;
"""
# from each version to the next
MIGRATIONS = {
    "1": """
ALTER TABLE quarantine ADD COLUMN dismissed_at REAL;
CREATE TABLE requests (id INTEGER PRIMARY KEY, path TEXT NOT NULL, identity TEXT NOT NULL, at REAL NOT NULL);
""",
    # what a stack holds, and where those lie that were renamed; name NULL: nowhere, another took its place
    "2": """
CREATE TABLE contents (
    stack TEXT NOT NULL, first BLOB NOT NULL, sample BLOB NOT NULL, sections INTEGER NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (stack, first)
) WITHOUT ROWID;
CREATE INDEX contents_first ON contents (first, number);
CREATE INDEX contents_number ON contents (number);
CREATE TABLE places (stack TEXT PRIMARY KEY, name TEXT UNIQUE) WITHOUT ROWID;
""",
    # a stack that version 3 has not looked at has a content of no sections: whatever it holds, it is that
    "3": f"""
DROP INDEX contents_first;
DROP INDEX contents_number;
ALTER TABLE contents RENAME TO held;
ALTER TABLE places RENAME TO lay;
{CONTENTS.strip()}
INSERT INTO contents SELECT number, first, sample, sections FROM held AS h
    WHERE number = (SELECT max(number) FROM held WHERE stack = h.stack);
INSERT OR IGNORE INTO files (name, content) SELECT coalesce(lay.name, h.stack), h.number
    FROM contents JOIN held AS h USING (number) LEFT JOIN lay USING (stack)
    WHERE lay.stack IS NULL OR lay.name NOT NULL;
INSERT OR IGNORE INTO files (name, content)
    SELECT stack, (SELECT coalesce(max(number), 0) FROM contents) + row_number() OVER ()
    FROM (SELECT DISTINCT stack FROM particles WHERE stack NOT IN (SELECT stack FROM held));
INSERT INTO contents SELECT content, NULL, x'', 0 FROM files WHERE content NOT IN (SELECT number FROM contents);
INSERT INTO places (content, section, particle) SELECT coalesce(latest.number, files.content), stack_index, id
    FROM particles LEFT JOIN (SELECT stack, max(number) AS number FROM held GROUP BY stack) AS latest USING (stack)
    LEFT JOIN files ON files.name = particles.stack
    WHERE coalesce(latest.number, files.content) NOT NULL;
DROP TABLE held;
DROP TABLE lay;
""",
    "4": CHAIN,
}
# what a script cannot say, after it
FILLS: dict[str, Callable[[sqlite3.Connection], None]] = {"4": link_all}
# what lets a reader, who may not migrate, take an older ledger for a new one
_NO_FILES = "CREATE TEMP TABLE files (name TEXT, content INTEGER, before INTEGER, copy_of TEXT);\n"
VIEWS = {
    "1": f"""
CREATE TEMP VIEW quarantine AS SELECT *, NULL AS dismissed_at FROM main.quarantine;
CREATE TEMP TABLE requests (id INTEGER, path TEXT, identity TEXT, at REAL);
{_NO_FILES}""",
    "2": _NO_FILES,
    "3": _NO_FILES,
    "4": "",
}
