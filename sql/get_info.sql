-- The name of this implementation.
SELECT '"starlette"'
