-- The documentation, a page of HTML that needs nothing but this server, made from the OpenAPI document in :openapi.
-- That is escaped as a whole: in JSON & < > are only ever inside strings, and so are \\ (first made \u005c) and \".
-- printf() writes NULL as nothing: an operation without body, token or required query has NULL there.
WITH
document (json) AS (
    SELECT replace(replace(replace(replace(replace(
        :openapi, '&', '&amp;'), '<', '&lt;'), '>', '&gt;'), '\\', '\u005c'), '\"', '&quot;')
),
operation (n, method, path, summary, token, body, parameters, responses) AS (
    SELECT paths.id + methods.id, upper(methods.key), paths.key, methods.value ->> 'summary',
        iif(methods.value ->> 'security' IS NULL, NULL, ' -H "Authorization: Bearer $TODO_TOKEN"'),
        replace(document.json ->> (replace(replace(
            methods.value ->> '$.requestBody.content."application/json".schema."$ref"', '#', '$'), '/', '.')
            || '.examples[0]'), '&quot;', '\&quot;'),
        methods.value -> 'parameters', methods.value -> 'responses'
    FROM document, json_each(document.json, '$.paths') AS paths, json_each(paths.value) AS methods
),
parameter (operation, n, name, place, meaning, required, example) AS (
    SELECT operation.n, id, value ->> 'name', value ->> 'in', value ->> 'description',
        iif(value ->> 'required', ' required', ''), value ->> 'example'
    FROM operation, json_each(parameters)
),
answer (operation, status, meaning, headers) AS (
    SELECT operation.n, answers.key, answers.value ->> 'description', (
            SELECT ' <small>' || group_concat(headers.key, ', ') || '</small>'
            FROM json_each(answers.value, '$.headers') AS headers)
    FROM operation, json_each(responses) AS answers
),
url (operation, url) AS (
    SELECT operation.n, 'http://127.0.0.1:8000' || coalesce(replace(path, '{' || name || '}', example), path)
    FROM operation LEFT JOIN parameter ON parameter.operation = operation.n AND place = 'path'
),
query (operation, query) AS (
    SELECT operation, '?' || group_concat(name || '=' || example, '&amp;')
    FROM parameter
    WHERE place = 'query' AND required <> ''
    GROUP BY operation
),
section (n, html) AS (
    SELECT operation.n, printf('
<details>
<summary><h2><b class="%s">%s</b> <code>%s</code></h2> <span>%s</span></summary>
<form data-method="%s" data-path="%s">%s%s
<pre tabindex="0">curl%s%s <code>%s%s</code></pre>
<button>Send</button>
<output></output>
</form>
<h3>Answers</h3>
<dl>%s
</dl>
</details>', method, method, path, summary, method, path, (
            SELECT group_concat(printf('
<label><b>%s</b> <small>%s%s</small>
<input name="%s" data-in="%s" placeholder="%s"%s autocomplete="off">
<small>%s</small></label>', name, place, replace(required, ' ', ', '), name, place, example, required, meaning), '')
            FROM (SELECT * FROM parameter WHERE parameter.operation = operation.n ORDER BY n)),
        '
<label><b>body</b> <small>JSON</small>
<textarea name="body" rows="2" spellcheck="false">' || body || '</textarea></label>',
        iif(method = 'GET', '', ' -X ' || method), token, '--json ''' || body || ''' ',
        coalesce('''' || url || query || '''', url), (
            SELECT group_concat(printf('
<dt>%s</dt> <dd>%s%s</dd>', status, meaning, headers), '')
            FROM (SELECT * FROM answer WHERE answer.operation = operation.n ORDER BY status)))
    FROM operation JOIN url ON url.operation = operation.n LEFT JOIN query ON query.operation = operation.n
)
SELECT printf('<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>%s</title>', json ->> '$.info.title') || '
<style>
:root { color-scheme: light dark; --line: #8886; --shade: #8882 }
* { box-sizing: border-box }
body { max-width: 50rem; margin: auto; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1, h2, h3, p, dl, dd { margin: 0 }
h2, h3 { font-size: 1rem }
h2 { min-width: 15rem }
small { opacity: .75 }
code, pre, input, textarea, output { font: .9rem/1.5 ui-monospace, monospace }
header { display: grid; gap: .75rem; margin: 1rem 0 1.5rem }
details { margin: .5rem 0; border: 1px solid var(--line); border-radius: .5rem }
summary { display: flex; flex-wrap: wrap; gap: 0 1rem; padding: .6rem .75rem; border-radius: .5rem; cursor: pointer }
summary span { flex: 1 18rem }
summary:hover { background: var(--shade) }
h2 b { display: inline-block; width: 4.5rem; margin-right: .5rem; border-radius: .25rem; background: #57606a;
    color: #fff; font-size: .75rem; line-height: 1.7; text-align: center }
.GET { background: #1f6fb5 }
.POST { background: #22783c }
.PUT, .PATCH { background: #8f5a00 }
.DELETE { background: #b3302b }
form, dl { padding: .75rem }
form { display: grid; gap: .75rem; border-top: 1px solid var(--line) }
h3 { padding: .75rem .75rem 0; border-top: 1px solid var(--line) }
label { display: block; max-width: 36rem }
input, textarea { display: block; width: 100%; padding: .4rem .6rem; border: 1px solid #888; border-radius: .25rem }
input::placeholder { color: inherit; opacity: .6 }
pre, output { margin: 0; padding: .6rem .75rem; border-radius: .25rem; background: var(--shade); white-space: pre-wrap }
pre { user-select: all }
output { border-left: .25rem solid #1f6fb5; max-height: 30rem; overflow: auto }
output:empty { display: none }
button { justify-self: start; padding: .4rem 1.5rem; border: 0; border-radius: .25rem; background: #1f6fb5; color: #fff;
    font: inherit; cursor: pointer }
:focus-visible { outline: 2px solid #4a9be0; outline-offset: 2px }
dl { display: grid; grid-template-columns: 3rem 1fr }
dd small { display: block }
</style>
<header>
' || printf('<h1>%s</h1>
<p>%s, version %s. The same for programs: <a href="openapi.json">openapi.json</a></p>
<label><b>Token</b> <small>%s</small>
<input id="token" type="password" autocomplete="off"></label>',
        json ->> '$.info.title', json ->> '$.info.description', json ->> '$.info.version',
        iif(json -> '$.components.securitySchemes' IS NULL, 'this server needs none', 'sent as Authorization: Bearer'))
    || '
</header>
<main>' || (SELECT group_concat(html, '') FROM (SELECT html FROM section ORDER BY n)) || '
</main>
<script>
// The request that a form asks for. In its curl line, what is required and not filled in is as in the example.
function ask(form, example) {
    let path = form.dataset.path, query = new URLSearchParams(), headers = {}, body = form.elements.body?.value
    for (const { name, value, required, placeholder, dataset } of form.querySelectorAll("input")) {
        const text = value || (example && required ? placeholder : "")
        if (dataset.in == "path") path = path.replace(`{${name}}`, encodeURIComponent(text))
        else if (text && dataset.in == "query") query.set(name, text)
        else if (text) headers[name] = text
    }
    const search = query.toString() && `?${query}`
    return { url: new URL(`.${path}${search}`, location), method: form.dataset.method, headers, body }
}

function curl(form) {
    const quote = text => /[^\w:/.-]/.test(text) ? `\x27${text.replaceAll("\x27", "\x27\\\x27\x27")}\x27` : text
    const { url, headers, body } = ask(form, true)
    const words = Object.entries(headers).map(field => `-H ${quote(field.join(": "))}`)
    if (body !== undefined) words.push("--json " + quote(body))
    form.querySelector("code").textContent = [...words, quote(url.href)].join(" ")
}

async function send(form) {
    const { url, ...request } = ask(form), output = form.querySelector("output")
    const token = document.querySelector("#token").value
    if (request.body !== undefined) request.headers["Content-Type"] = "application/json"
    if (token) request.headers.Authorization = `Bearer ${token}`
    output.textContent = "…"
    try {
        const answer = await fetch(url, { ...request, cache: "no-store" }), body = await answer.text()
        const headers = [...answer.headers].map(field => field.join(": "))
        output.textContent = [`${answer.status} ${answer.statusText}`, ...headers, "", body.slice(0, 1e5)].join("\n")
    } catch (error) {
        output.textContent = error
    }
}

for (const form of document.forms) {
    curl(form)
    form.oninput = () => curl(form)
    form.onsubmit = event => { event.preventDefault(); send(form) }
}
</script>
'
FROM document
