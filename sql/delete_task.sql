-- Nothing; deletes the task, if its ETag is one of those in match (*: any).
DELETE FROM task
WHERE id = :id
  AND CAST(id AS TEXT) = :id
  AND (:match = '*' OR instr(:match, etag(json)))
