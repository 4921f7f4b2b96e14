-- Returns the JSON of any task, or no row if there are none. It fails if the table cannot be read.
SELECT json
FROM task
LIMIT 1
