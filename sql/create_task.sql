-- The id and the JSON of the new task. With a key that was used before: of the task that it created,
-- or nothing if the request was another one.
INSERT INTO task (name, done, key, request)
VALUES (:name, :done, :key, :request)
ON CONFLICT (key) WHERE key IS NOT NULL
DO UPDATE SET key = excluded.key WHERE request = excluded.request
RETURNING id, json
