-- Returns the JSON of the task after all its fields are replaced, or no row. It is replaced only if its
-- JSON equals :expected (NULL matches any).
UPDATE task
SET name = :name,
    done = :done
WHERE id = :id
  AND (:expected IS NULL OR json = :expected)
RETURNING json
