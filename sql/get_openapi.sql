-- The OpenAPI 3.1 document of this server below the path :root, as JSON; with :token 1 it says that requests need one.
-- Operations have traits: a parameter, error or header is for the operations with its trait. What is NULL is left out.
WITH
route (n, path, method, id, traits, body, schema, summary, holds) AS (
    VALUES
    (1, '/', 'get', 'get_root', 'any token', NULL, 'Greeting', 'Greet', 'The greeting'),
    (2, '/info', 'get', 'get_info', 'any token', NULL, 'Implementation', 'Name the implementation', 'The name'),
    (3, '/tasks', 'get', 'list_tasks', 'any token query list cached', NULL, 'Tasks',
        'List tasks, by id: all, if nothing limits them', 'The tasks'),
    (4, '/tasks', 'post', 'create_task', 'any token body create write tag', 'NewTask', 'Task',
        'Create a task', 'The task; if the Idempotency-Key was used before, the one it made, as it is now'),
    (5, '/tasks', 'delete', 'delete_tasks', 'any token query bulk write', NULL, 'Count',
        'Delete the tasks that are done, or those that are not', 'How many were deleted'),
    (6, '/tasks/{id}', 'get', 'get_task', 'any token task cached tag', NULL, 'Task', 'Get a task', 'The task'),
    (7, '/tasks/{id}', 'put', 'replace_task', 'any token task body match write tag', 'NewTask', 'Task',
        'Replace a task', 'The task as it is now'),
    (8, '/tasks/{id}', 'patch', 'update_task', 'any token task body merge match write tag', 'TaskPatch', 'Task',
        'Change some members of a task (merge patch, RFC 7396)', 'The task as it is now'),
    (9, '/tasks/{id}', 'delete', 'delete_task', 'any token task match write', NULL, 'One',
        'Delete a task', 'How many were deleted'),
    (10, '/healthz', 'get', 'get_health', 'any fresh', NULL, 'Health', 'Check that tasks can be read', 'They can'),
    (11, '/openapi.json', 'get', 'get_openapi', 'any', NULL, 'OpenAPI', 'Describe the API to programs', 'This'),
    (12, '/docs', 'get', 'get_docs', 'any', NULL, 'Page', 'Describe the API to people', 'A page of HTML')
),
parameter (n, trait, place, name, required, schema, example, meaning) AS (
    VALUES
    (1, 'task', 'path', 'id', 'true', 'Id', 1, 'The id of the task'),
    (2, 'bulk', 'query', 'done', 'true', 'QueryDone', 'true',
        'Which: those that are done, or not. Beside it q, limit and after are refused'),
    (3, 'list', 'query', 'done', 'false', 'QueryDone', 'false', 'Only those that are done, or not'),
    (4, 'list', 'query', 'q', 'false', 'Text', 'milk',
        'Only those whose name contains this; ASCII letters match in either case'),
    (5, 'list', 'query', 'limit', 'false', 'Limit', 100, 'At most this many, 1 to 1000; Link is then the next page'),
    (6, 'list', 'query', 'after', 'false', 'After', 0, 'Only those with a greater id'),
    (7, 'cached', 'header', 'If-None-Match', 'false', 'Text', '"9c1c27a2b8f5a3ee1ad2bc40"',
        'The ETags that the client has, or *: if one is current the answer is 304'),
    (8, 'match', 'header', 'If-Match', 'false', 'Text', '"9c1c27a2b8f5a3ee1ad2bc40"',
        'Only if the current ETag is one of these, or with * any'),
    (9, 'create', 'header', 'Idempotency-Key', 'false', 'Key', '5f0c2a9e',
        'A name for this request, 1 to 255 visible ASCII characters: repeated, it creates nothing more')
),
error (status, trait, schema, detail, cause) AS (
    VALUES
    (304, 'cached', NULL, NULL, 'If-None-Match holds the current ETag'),
    (400, 'body', 'Error', '"There was an error parsing the body"', 'The body is not UTF-8, or cannot be read'),
    (401, 'token', 'Error', '"Not authenticated"', 'The token is missing or wrong'),
    (404, 'task', 'Error', '"Task not found"', 'There is no such task'),
    (408, 'body', 'Error', '"No more of the body came for 10 s"', 'The body stopped half-way'),
    (412, 'match', 'Error', '"The task has changed: its ETag is not in If-Match"', 'If-Match lacks the current ETag'),
    (413, 'body', 'Error', '"The body is larger than 1048576 bytes"', 'The body is larger than 1 MiB'),
    (415, 'body', 'Error', '"Send the body with Content-Type: application/json (curl: --json)"', 'The body is no JSON'),
    (422, 'body', 'HTTPValidationError', '[{"type":"string_type","loc":["body","name"],'
        || '"msg":"Input should be a valid string","input":5}]', 'The body or a header is not as described'),
    (422, 'query', 'HTTPValidationError', '[{"type":"bool_parsing","loc":["query","done"],"msg":'
        || '"Input should be a valid boolean, unable to interpret input","input":"maybe"}]',
        'A parameter is not as described'),
    (500, 'any', 'Error', '"Internal Server Error"', 'A fault of the server, which it has logged'),
    (503, 'any', 'Error', '"The database can''t be used now"', 'The database is busy or fails, or the server stops'),
    (507, 'write', 'Error', '"The disk is full"', 'The disk is full')
),
header (status, trait, name, required, schema, meaning) AS (
    VALUES
    (200, 'tag', 'ETag', 'true', 'ETag', 'Changes with the task'),
    (200, 'tag', 'Cache-Control', 'true', 'NoCache', 'To be kept, but asked for again with If-None-Match'),
    (200, 'create', 'Location', 'true', 'Text', 'The path of the task'),
    (200, 'list', 'ETag', 'false', 'ETag', 'Changes with the tasks; on a list short enough for one piece'),
    (200, 'list', 'Cache-Control', 'false', 'NoCache', 'Beside an ETag'),
    (200, 'list', 'Link', 'false', 'Link', 'The next page, if limit leaves more'),
    (200, 'fresh', 'Cache-Control', 'true', 'NoStore', 'Not to be kept'),
    (304, 'cached', 'ETag', 'true', 'ETag', 'The current one'),
    (304, 'cached', 'Cache-Control', 'true', 'NoCache', 'To be kept, but asked for again'),
    (304, 'list', 'Link', 'false', 'Link', 'The next page, if limit leaves more'),
    (401, 'token', 'WWW-Authenticate', 'true', 'Scheme', 'What to send: Authorization: Bearer and the token'),
    (503, 'any', 'Retry-After', 'true', 'Seconds', 'When to try again'),
    (503, 'any', 'Cache-Control', 'true', 'NoStore', 'Not to be kept')
),
schema (name, json) AS (
    VALUES
    ('Task', '{"type":"object","required":["name","done","id"],"properties":{"name":{"type":"string"},'
        || '"done":{"type":"boolean"},"id":{"$ref":"#/components/schemas/Id"}},'
        || '"examples":[{"name":"Buy milk","done":false,"id":1}]}'),
    ('NewTask', '{"type":"object","required":["name","done"],"properties":{"name":{"type":"string"},'
        || '"done":{"$ref":"#/components/schemas/Done"}},"examples":[{"name":"Buy milk","done":false}]}'),
    ('TaskPatch', '{"type":"object","properties":{"name":{"type":"string"},'
        || '"done":{"$ref":"#/components/schemas/Done"}},"examples":[{"done":true}]}'),
    ('Tasks', '{"type":"array","items":{"$ref":"#/components/schemas/Task"}}'),
    ('Done', '{"anyOf":[{"type":"boolean"},{"type":"number","enum":[0,1]},{"$ref":"#/components/schemas/Word"}]}'),
    ('QueryDone', '{"anyOf":[{"type":"boolean"},{"$ref":"#/components/schemas/Word"}]}'),
    ('Word', '{"type":"string","description":"true t yes y on 1, or false f no n off 0, in any case","pattern":'
        || '"^([Tt]([Rr][Uu][Ee])?|[Yy]([Ee][Ss])?|[Oo][Nn]|1|[Ff]([Aa][Ll][Ss][Ee])?|[Nn][Oo]?|[Oo][Ff][Ff]|0)$"}'),
    ('Id', '{"type":"integer","minimum":1}'), ('Limit', '{"type":"integer","minimum":1,"maximum":1000}'),
    ('After', '{"type":"integer","minimum":0,"maximum":9223372036854775807}'),
    ('Key', '{"type":"string","pattern":"^(\"[!-~]{1,255}\"|[!#-~][!-~]{0,254})$"}'), ('Text', '{"type":"string"}'),
    ('ETag', '{"type":"string","pattern":"^\"[!#-~]+\"$"}'),
    ('Link', '{"type":"string","pattern":"^<.+>; rel=\"next\"$"}'), ('NoCache', '{"type":"string","const":"no-cache"}'),
    ('NoStore', '{"type":"string","const":"no-store"}'), ('Scheme', '{"type":"string","const":"Bearer"}'),
    ('Seconds', '{"type":"integer","minimum":1}'), ('Count', '{"type":"integer","minimum":0}'),
    ('One', '{"type":"integer","const":1}'), ('Greeting', '{"type":"string","const":"Hello, world!"}'),
    ('Implementation', '{"type":"string","const":"starlette"}'),
    ('Health', '{"type":"object","required":["status"],"properties":{"status":{"type":"string","const":"ok"}}}'),
    ('OpenAPI', '{"type":"object"}'), ('Page', '{"type":"string"}'),
    ('Error', '{"type":"object","required":["detail"],"properties":{"detail":{"type":"string"}}}'),
    ('HTTPValidationError', '{"type":"object","required":["detail"],"properties":{"detail":{"type":"array",'
        || '"minItems":1,"items":{"$ref":"#/components/schemas/ValidationError"}}}}'),
    ('ValidationError', '{"type":"object","required":["type","loc","msg","input"],"properties":{'
        || '"type":{"type":"string"},"loc":{"type":"array","items":{"anyOf":[{"type":"string"},{"type":"integer"}]}},'
        || '"msg":{"type":"string"},"input":{},"ctx":{"type":"object"}}}')
),
answer (n, traits, status, meaning, schema, example) AS (
    SELECT n, traits, 200, holds, schema, NULL
    FROM route
    UNION ALL
    SELECT n, traits, status, cause, error.schema, json_object('detail', json(detail))
    FROM route JOIN error ON instr(traits, trait)
    WHERE :token OR trait <> 'token'
),
response (n, status, json) AS (
    SELECT n, status, json_object(
        'description', meaning,
        'headers', (
            SELECT json_group_object(name, json_object('description', header.meaning, 'required', json(required),
                'schema', json_object('$ref', '#/components/schemas/' || schema)))
            FROM (SELECT * FROM header WHERE header.status = answer.status AND instr(traits, trait) ORDER BY name)
                AS header),
        'content', json(iif(schema IS NULL, NULL, json_object(
            iif(schema = 'Page', 'text/html', 'application/json'),
            json_object('schema', json_object('$ref', '#/components/schemas/' || schema), 'example', json(example))))))
    FROM answer
),
operation (n, path, method, json) AS (
    SELECT n, path, method, json_object(
        'operationId', id,
        'summary', summary,
        'parameters', (
            SELECT json_group_array(json_object('name', name, 'in', place, 'description', meaning,
                'required', json(required), 'schema', json_object('$ref', '#/components/schemas/' || schema),
                'example', example))
            FROM (SELECT * FROM parameter WHERE instr(traits, trait) ORDER BY n)),
        'requestBody', json(iif(body IS NULL, NULL, json_object('required', json('true'), 'content', json_object(
            'application/json', json_object('schema', json_object('$ref', '#/components/schemas/' || body)),
            'application/merge-patch+json', json(iif(instr(traits, 'merge'),
                json_object('schema', json_object('$ref', '#/components/schemas/' || body)), NULL)))))),
        'responses', (
            SELECT json_group_object(status, json(json))
            FROM (SELECT status, json FROM response WHERE response.n = route.n ORDER BY status)),
        'security', json(iif(:token AND instr(traits, 'token'), '[{"bearer":[]}]', NULL)))
    FROM route
)
SELECT json_patch('{}', json_object(
    'openapi', '3.1.0',
    'info', json_object('title', 'todo', 'version', '1.0.0', 'description', 'A todo list over HTTP'),
    'servers', json(iif(:root = '', NULL, json_array(json_object('url', :root)))),
    'paths', (
        SELECT json_group_object(path, (
            SELECT json_group_object(method, json(json))
            FROM (SELECT method, json FROM operation WHERE operation.path = paths.path ORDER BY n)))
        FROM (SELECT path FROM route GROUP BY path ORDER BY min(n)) AS paths),
    'components', json_object(
        'schemas', (SELECT json_group_object(name, json(json)) FROM schema),
        'securitySchemes', json(iif(:token, '{"bearer":{"type":"http","scheme":"bearer"}}', NULL)))))
