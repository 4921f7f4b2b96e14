-- Of the next :size tasks after an id: how many they are, the last one's id, and the JSON of those
-- whose name contains :q (NULL: any), a line each. group_concat() keeps their order, for a LIMIT
-- makes SQLite finish the subquery first. instr() and lower() see past a NUL, LIKE does not.
SELECT count(*), max(id), group_concat(json, char(10))
FROM (
    SELECT id, iif(:q IS NULL OR instr(lower(name), lower(:q)), json, NULL) AS json
    FROM task
    WHERE id > :after
    ORDER BY id
    LIMIT :size
)
