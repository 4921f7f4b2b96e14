-- Nothing; deletes the task, if its ETag is one of those in match (NULL: any).
DELETE FROM task
WHERE id = :id
  AND CAST(id AS TEXT) = :id
  AND (:match IS NULL OR instr(:match, etag(json)))
