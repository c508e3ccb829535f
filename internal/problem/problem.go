// Package problem tells what a user has to fix from errors that pass by themselves.
package problem

import (
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Error is something that a user has to fix: the spec, or an object that it names.
type Error struct {
	// Condition is the type of the condition that tells of it, and Reason one of its
	// reasons.
	Condition, Reason string
	// Message names the field or the object, and says what is wrong with it.
	Message string
	// Generated says that an object is missing which the operator makes. There is
	// something to fix only if it was there before.
	Generated bool
}

func (e *Error) Error() string { return e.Message }

// New returns an *Error.
func New(condition, reason, format string, args ...any) error {
	return &Error{Condition: condition, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// In returns the *Error that err is or wraps, or nil.
func In(err error) *Error {
	var problem *Error
	errors.As(err, &problem)
	return problem
}

// Refused says that the API server refuses an object, as a quota or a webhook does. That of a webhook without a reason
// is a bad request.
func Refused(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)
}
