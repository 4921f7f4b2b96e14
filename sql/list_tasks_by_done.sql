-- Returns the same row as list_tasks, for the next :size tasks with this :done.
SELECT
    count(*),
    max(id),
    group_concat(json, '
')
FROM (
    SELECT id, iif(:q IS NULL OR instr(lower(name), lower(:q)), json, NULL) AS json
    FROM task
    WHERE done = :done
      AND id > ifnull(:after, 0)
    ORDER BY id
    LIMIT :size
)
