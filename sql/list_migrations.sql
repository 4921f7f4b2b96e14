-- The migrations that this file has had.
SELECT migration_id
FROM _yoyo_migration
