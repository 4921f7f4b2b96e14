-- Nothing; deletes the task, if its ETag is one of those in match (NULL: any).
DELETE FROM task
WHERE id = CAST(:id AS INTEGER)
  AND CAST(id AS TEXT) = :id
  AND (:match IS NULL OR instr(:match, etag(json)))
