-- Returns the JSON of the task, or no row.
SELECT json
FROM task
WHERE id = :id
