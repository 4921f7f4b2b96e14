-- The JSON of the task with what is not NULL changed, if it was still the one expected (NULL: any).
UPDATE task
SET name = coalesce(:name, name),
    done = coalesce(:done, done)
WHERE id = :id
  AND (:expected IS NULL OR json = :expected)
RETURNING json
