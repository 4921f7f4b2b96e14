-- The new task; with a key that is already used the task it made, or nothing if that was another request.
-- Without a key both are '', for Python's sqlite3 takes longer to bind None.
INSERT INTO task (name, done, key, request)
VALUES (:name, :done, nullif(:key, ''), nullif(:request, ''))
ON CONFLICT (key) WHERE key IS NOT NULL
DO UPDATE SET key = excluded.key WHERE request = excluded.request
RETURNING json
