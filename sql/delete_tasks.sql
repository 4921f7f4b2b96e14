-- No row, but the count tells: deletes the tasks with this done.
DELETE FROM task
WHERE done = :done
