-- Returns one row about the next :size tasks after the id :after (NULL: from the first one): how many
-- they are, the id of the last one, and the JSON of those whose name contains :q (NULL: all of them),
-- a line for each.
-- The order of the lines is that of the subquery, because LIMIT makes SQLite run it first. instr() and
-- lower() compare whole names; LIKE would stop at a NUL character.
SELECT count(*), max(id), group_concat(json, char(10))
FROM (
    SELECT id, iif(:q IS NULL OR instr(lower(name), lower(:q)), json, NULL) AS json
    FROM task
    WHERE id > ifnull(:after, 0)
    ORDER BY id
    LIMIT :size
)
