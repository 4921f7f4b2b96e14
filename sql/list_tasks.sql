-- The tasks after an id, in order, joined by commas, and how many: all, or those with this done; all, or those whose
-- name contains q. Two branches, of which one is empty, so that each can walk its own index. group_concat() keeps the
-- order, for each subquery has a LIMIT. instr() and lower() see past a NUL, LIKE does not.
SELECT coalesce(group_concat(tasks), ''), sum(number)
FROM (
    SELECT group_concat(json) AS tasks, count(*) AS number
    FROM (
        SELECT json
        FROM task
        WHERE :done IS NULL
          AND id > :after
          AND (:q IS NULL OR instr(lower(name), lower(:q)))
        ORDER BY id
        LIMIT :rows
    )
    UNION ALL
    SELECT group_concat(json), count(*)
    FROM (
        SELECT json
        FROM task
        WHERE done = :done
          AND id > :after
          AND (:q IS NULL OR instr(lower(name), lower(:q)))
        ORDER BY id
        LIMIT :rows
    )
)
