-- The tasks, each with the JSON that clients receive. AUTOINCREMENT makes SQLite never reuse an id.
-- A name has at most 1,000 characters. The CHECK counts bytes, because length() stops at a NUL.
--
-- Files that were created before this migration had the CHECK and STORED are still in use: their names
-- may be longer, and their json is VIRTUAL. A migration that rebuilds the table must accept them.

CREATE TABLE task (
    id    INTEGER  PRIMARY KEY AUTOINCREMENT CHECK (id > 0),
    name  TEXT     NOT NULL CHECK (length(CAST(name AS BLOB)) <= 4000),
    done  INTEGER  NOT NULL CHECK (done IN (0, 1)),
    json  TEXT     NOT NULL GENERATED ALWAYS AS (
        json_object('name', name, 'done', json(iif(done, 'true', 'false')), 'id', id)
    ) STORED
) STRICT;

CREATE INDEX task_done ON task (done);
