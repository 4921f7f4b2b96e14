-- Returns the id and the JSON of the new task. If the key has been used before: of the task that it
-- created then, or no row if that was another request.
INSERT INTO task (name, done, key, request)
VALUES (:name, :done, :key, :request)
ON CONFLICT (key) WHERE key IS NOT NULL
DO UPDATE SET key = excluded.key WHERE request = excluded.request
RETURNING id, json
