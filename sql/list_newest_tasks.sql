-- Returns the same row as list_tasks, for the next :size tasks before the id :after (NULL: from the
-- newest one), in descending order. 9223372036854775808 is 2^63, which is greater than every id.
SELECT
    count(*),
    min(id),
    group_concat(json, '
')
FROM (
    SELECT id, iif(:q IS NULL OR instr(lower(name), lower(:q)), json, NULL) AS json
    FROM task
    WHERE id < ifnull(:after, 9223372036854775808)
    ORDER BY id DESC
    LIMIT :size
)
