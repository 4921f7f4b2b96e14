-- The task with what is not NULL changed, if its ETag is one of those in match (*: any).
UPDATE task
SET name = coalesce(:name, name),
    done = coalesce(:done, done)
WHERE id = :id
  AND CAST(id AS TEXT) = :id
  AND (:match = '*' OR instr(:match, etag(json)))
RETURNING json
