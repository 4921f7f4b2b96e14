-- Returns the id and the JSON of the new task. If the key was used before by the same request, of the
-- task that it created then. If it was used by another request, returns no row.
INSERT INTO task (name, done, key, request)
VALUES (:name, :done, :key, :digest)
ON CONFLICT (key) WHERE key IS NOT NULL
DO UPDATE SET key = excluded.key WHERE request = excluded.request
RETURNING id, json
