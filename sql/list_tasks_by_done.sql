-- The next tasks with this done after an id, as list_tasks has them.
SELECT id, iif(:q IS NULL OR instr(lower(name), lower(:q)), json, NULL)
FROM task
WHERE done = :done
  AND id > :after
ORDER BY id
LIMIT :size
