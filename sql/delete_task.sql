-- No row, but the count tells: deletes the task, if its JSON is still the one expected (NULL: any).
DELETE FROM task
WHERE id = :id
  AND (:expected IS NULL OR json = :expected)
