DROP INDEX task_done;

DROP TABLE task;
