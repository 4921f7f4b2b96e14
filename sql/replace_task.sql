-- The JSON of the task with a new name and done, if it was still the one expected (NULL: any).
UPDATE task
SET name = :name,
    done = :done
WHERE id = :id
  AND (:expected IS NULL OR json = :expected)
RETURNING json
