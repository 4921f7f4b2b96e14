-- Returns one row: the number of the next :size tasks after the id :after (NULL: from the first one),
-- the id of the last of them, and the JSON of those whose name contains :q (NULL: all), one per line.
-- The lines are in the order of the subquery, because LIMIT makes SQLite run that first. (SQLite does
-- not promise it; tests/test_list.py would show another order.) instr() and lower() look at whole names;
-- LIKE would stop at a NUL character. The separator is a literal newline, because SQLite would call
-- char(10) for every row, which takes a quarter longer.
SELECT
    count(*),
    max(id),
    group_concat(json, '
')
FROM (
    SELECT id, iif(:q IS NULL OR instr(lower(name), lower(:q)), json, NULL) AS json
    FROM task
    WHERE id > ifnull(:after, 0)
    ORDER BY id
    LIMIT :size
)
