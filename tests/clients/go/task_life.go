// Take a task through its life with the client that openapi-generator has made, and print what
// the client returns.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"

	"example.test/life/openapi"
)

func main() {
	configuration := openapi.NewConfiguration()
	configuration.Servers[0].URL = os.Args[1]
	tasks := openapi.NewAPIClient(configuration).TasksAPI
	ctx := context.Background()

	task, response, err := tasks.CreateTask(ctx).
		TaskInput(*openapi.NewTaskInput("Buy milk", false)).
		IdempotencyKey("key").
		Execute()
	show("create", response, task, err)

	_, response, err = tasks.CreateTask(ctx).
		TaskInput(*openapi.NewTaskInput("Buy bread", false)).
		IdempotencyKey("key").
		Execute()
	showInvalid("create with a used key", response, err)

	task, response, err = tasks.GetTask(ctx, task.Id).Execute()
	show("get", response, task, err)
	etag := response.Header.Get("ETag")

	_, response, _ = tasks.GetTask(ctx, task.Id).IfNoneMatch(etag).Execute()
	fmt.Println("get what is known:", response.StatusCode)

	patch := openapi.NewTaskPatch()
	patch.SetDone(true)
	task, response, err = tasks.UpdateTask(ctx, task.Id).TaskPatch(*patch).IfMatch(etag).Execute()
	show("update", response, task, err)

	_, response, err = tasks.UpdateTask(ctx, task.Id).TaskPatch(*patch).IfMatch(etag).Execute()
	showError("update with the old ETag", response, err)

	_, response, err = tasks.ListTasks(ctx).Limit(0).Execute()
	showInvalid("list", response, err)

	list, response, err := tasks.ListTasks(ctx).Done(true).Sort("-id").After(9).Execute()
	show("list", response, list, err)

	count, response, err := tasks.DeleteTask(ctx, task.Id).Execute()
	show("delete", response, count, err)

	_, response, err = tasks.GetTask(ctx, task.Id).Execute()
	showError("get", response, err)
}

func show(action string, response *http.Response, value any, err error) {
	if err != nil {
		fmt.Printf("%s: %v\n", action, err)
		return
	}
	switch value := value.(type) {
	case *openapi.Task:
		fmt.Printf("%s: %d %+v\n", action, response.StatusCode, *value)
	default:
		fmt.Printf("%s: %d %+v\n", action, response.StatusCode, value)
	}
}

func showError(action string, response *http.Response, err error) {
	var failure *openapi.GenericOpenAPIError
	if !errors.As(err, &failure) {
		fmt.Printf("%s: %v\n", action, err)
		return
	}
	detail, isDetail := failure.Model().(openapi.ErrorDetail)
	if !isDetail {
		fmt.Printf("%s: %v\n", action, err)
		return
	}
	fmt.Printf("%s: %d %s\n", action, response.StatusCode, detail.Detail)
}

func showInvalid(action string, response *http.Response, err error) {
	var failure *openapi.GenericOpenAPIError
	if !errors.As(err, &failure) {
		fmt.Printf("%s: %v\n", action, err)
		return
	}
	invalid, isInvalid := failure.Model().(openapi.HTTPValidationError)
	if !isInvalid {
		fmt.Printf("%s: %v\n", action, err)
		return
	}
	for _, entry := range invalid.Detail {
		loc := fmt.Sprintf("%s, %s", *entry.Loc[0].String, *entry.Loc[1].String)
		fmt.Printf("%s: %d %s in %s %v\n", action, response.StatusCode, entry.Type, loc, entry.Ctx)
	}
}
