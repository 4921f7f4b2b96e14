-- Returns the same row as list_newest_tasks, for the next :size tasks with this :done.
SELECT
    count(*),
    min(id),
    group_concat(json, '
')
FROM (
    SELECT id, iif(:q IS NULL OR instr(lower(name), lower(:q)), json, NULL) AS json
    FROM task
    WHERE done = :done
      AND id < ifnull(:after, 9223372036854775808)
    ORDER BY id DESC
    LIMIT :size
)
