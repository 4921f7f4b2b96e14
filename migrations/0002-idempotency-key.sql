-- The Idempotency-Key that a task was created with, and a digest of what that request asked for. Both
-- are deleted with the task.
-- depends: 0001-task

ALTER TABLE task ADD COLUMN key TEXT;

ALTER TABLE task ADD COLUMN request TEXT;

CREATE UNIQUE INDEX task_key ON task (key) WHERE key IS NOT NULL;
