package backup

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/go-logr/logr"
)

// memoryLimit is where Go collects garbage more eagerly. The container may use 128 MiB.
const memoryLimit = 96 << 20

// LimitMemory has Go collect garbage before the container has none left.
func LimitMemory() { debug.SetMemoryLimit(memoryLimit) }

// Main does the task in the environment, and writes its Result to the termination message.
func Main(log logr.Logger) error {
	LimitMemory()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var task Task
	if err := json.Unmarshal([]byte(os.Getenv(TaskVariable)), &task); err != nil {
		return fmt.Errorf("%s has no task: %w", TaskVariable, err)
	}
	log = log.WithValues("action", task.Action, "backup", task.Name)
	result, err := Run(ctx, &task, &DefaultFiles, log)
	text, encodingErr := json.Marshal(result)
	if encodingErr != nil {
		return encodingErr
	}
	if writing := os.WriteFile(TerminationLog, text, 0o600); writing != nil {
		log.Error(writing, "The termination message cannot be written")
	}
	if err != nil {
		return fmt.Errorf("%s: %s", result.Reason, result.Message)
	}
	log.Info("Done", "result", result)
	return nil
}
