-- The JSON of a task. The id is compared as text, so that " 1", "+1" or "01" are not ids.
SELECT json
FROM task
WHERE id = :id
  AND CAST(id AS TEXT) = :id
