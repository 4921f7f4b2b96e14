-- Tasks, each with the JSON that clients see. AUTOINCREMENT: an id is never given twice.
-- A name has 1,000 characters at most. Its bytes are checked, for length() stops at a NUL.

CREATE TABLE task (
    id    INTEGER  PRIMARY KEY AUTOINCREMENT CHECK (id > 0),
    name  TEXT     NOT NULL CHECK (length(CAST(name AS BLOB)) <= 4000),
    done  INTEGER  NOT NULL CHECK (done IN (0, 1)),
    json  TEXT     NOT NULL GENERATED ALWAYS AS (
        json_object('name', name, 'done', json(iif(done, 'true', 'false')), 'id', id)
    ) STORED
) STRICT;

CREATE INDEX task_done ON task (done);
