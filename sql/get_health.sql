-- A task, if there is one: reading it shows that the table can be read.
SELECT json
FROM task
LIMIT 1
