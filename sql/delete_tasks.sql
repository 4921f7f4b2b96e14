-- Returns no row; the row count is the number of tasks that were deleted, which had this :done.
DELETE FROM task
WHERE done = :done
