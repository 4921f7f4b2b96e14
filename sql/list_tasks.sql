-- The next tasks after an id, each with its JSON, or NULL if its name does not contain q (NULL: any).
-- instr() and lower() see past a NUL; LIKE does not.
SELECT id, iif(:q IS NULL OR instr(lower(name), lower(:q)), json, NULL)
FROM task
WHERE id > :after
ORDER BY id
LIMIT :size
