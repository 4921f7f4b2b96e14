// Fastify with JSON schemas, and better-sqlite3.
//
//     npm install fastify@5 better-sqlite3@12
//     node fastify_app.js
//
// Each write is a commit of its own, synced to disk before the response is sent.

const Database = require("better-sqlite3")
const fastify = require("fastify")

const database = new Database(process.env.TODO_DB ?? "fastify.db")
database.pragma("journal_mode = WAL")
database.pragma("synchronous = FULL")
database.exec(`
  CREATE TABLE IF NOT EXISTS task
    (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, done INTEGER NOT NULL);
  CREATE INDEX IF NOT EXISTS task_done ON task (done);
`)

const insertTask = database.prepare(
  "INSERT INTO task (name, done) VALUES (?, ?) RETURNING name, done, id")
const selectTasks = database.prepare("SELECT name, done, id FROM task ORDER BY id LIMIT ?")
const selectTask = database.prepare("SELECT name, done, id FROM task WHERE id = ?")
const updateTask = database.prepare(
  "UPDATE task SET name = ?, done = ? WHERE id = ? RETURNING name, done, id")

const fields = { name: { type: "string" }, done: { type: "boolean" } }
const body = { type: "object", required: ["name", "done"], properties: fields }
const task = { type: "object", properties: { ...fields, id: { type: "integer" } } }
const tasks = { type: "array", items: task }
const params = { type: "object", properties: { id: { type: "integer", minimum: 1 } } }
const querystring = {
  type: "object",
  properties: { limit: { type: "integer", minimum: 1, maximum: 1000 } },
}

const app = fastify()

function respond(reply, row) {
  return row ?? reply.code(404).send({ detail: "Task not found" })
}

app.post("/tasks", { schema: { body, response: { 200: task } } }, async (request) => {
  return insertTask.get(request.body.name, Number(request.body.done))
})

app.get("/tasks", { schema: { querystring, response: { 200: tasks } } }, async (request) => {
  return selectTasks.all(request.query.limit ?? -1) // -1: all
})

app.get("/tasks/:id", { schema: { params, response: { 200: task } } }, async (request, reply) => {
  return respond(reply, selectTask.get(request.params.id))
})

app.put("/tasks/:id", { schema: { params, body, response: { 200: task } } },
  async (request, reply) => {
    const { name, done } = request.body
    return respond(reply, updateTask.get(name, Number(done), request.params.id))
  })

app.listen({ port: Number(process.env.PORT ?? 0), host: "127.0.0.1" }, (error, address) => {
  if (error) throw error
  console.error(`Fastify running on ${address}`)
})
