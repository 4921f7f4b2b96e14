-- That all is well, once the task table has been read.
SELECT '{"status":"ok"}'
FROM (SELECT count(*) FROM (SELECT json FROM task LIMIT 1))
