-- Nothing. Deletes the tasks with this done.
DELETE FROM task
WHERE done = :done
