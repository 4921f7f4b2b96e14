-- Returns the JSON of the task after the fields that are not NULL are updated, or no row. It is updated
-- only if its JSON equals :expected (NULL matches any).
UPDATE task
SET name = coalesce(:name, name),
    done = coalesce(:done, done)
WHERE id = :id
  AND (:expected IS NULL OR json = :expected)
RETURNING json
