-- Tasks, each with the JSON that clients see. AUTOINCREMENT: an id is never given twice.

CREATE TABLE IF NOT EXISTS task (
    id    INTEGER  PRIMARY KEY AUTOINCREMENT CHECK (id > 0),
    name  TEXT     NOT NULL,
    done  INTEGER  NOT NULL CHECK (done IN (0, 1)),
    json  TEXT     NOT NULL GENERATED ALWAYS AS (
        json_object('name', name, 'done', json(iif(done, 'true', 'false')), 'id', id)
    ) STORED
) STRICT;

CREATE INDEX IF NOT EXISTS task_done ON task (done);

-- Fails, and so undoes all this, if there was a table of that name, but another program's.
UPDATE task SET name = name WHERE json IS NULL;
