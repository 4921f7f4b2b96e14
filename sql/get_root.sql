-- The greeting.
SELECT '"Hello, world!"'
