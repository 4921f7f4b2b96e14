-- Returns no row; the row count is 1 if the task was deleted. It is deleted only if its JSON equals
-- :expected (NULL matches any).
DELETE FROM task
WHERE id = :id
  AND (:expected IS NULL OR json = :expected)
