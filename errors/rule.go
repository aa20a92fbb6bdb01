package errors

import (
	stderrors "errors"
	"fmt"
	"reflect"

	"github.com/rpcweft/weft/core"
)

// Rule gives an error of your own a code, for [Options]. RuleIs, RuleAs, RuleAsFunc
// and RuleFunc make one.
type Rule struct {
	convert func(error) *Error
}

// RuleIs gives errors in which [Is] finds target the code and the message, which the
// peer may read. It panics if target is nil or coded (rules are not asked about coded errors), and if the code is
// OK or out of range.
func RuleIs(target error, code Code, message string) Rule {
	if target == nil || core.FindCoded(target, nil) != nil {
		panic(fmt.Sprintf("errors: RuleIs wants a target without a code, got %v", target))
	}
	e := Newf(code, "%s", message)
	return Rule{func(err error) *Error {
		if !stderrors.Is(err, target) {
			return nil
		}
		return e
	}}
}

// RuleAs gives errors in which [As] finds a T the code and the message, which the
// peer may read. It panics as [RuleIs] does.
func RuleAs[T error](code Code, message string) Rule {
	e := Newf(code, "%s", message)
	return RuleAsFunc(func(T) *Error { return e })
}

// RuleAsFunc asks convert about errors in which [As] finds a T, with that T. Nil
// means that the rule does not match. It panics if convert is nil or T is coded.
func RuleAsFunc[T error](convert func(T) *Error) Rule {
	t := reflect.TypeFor[T]()
	if convert == nil || t.Implements(reflect.TypeFor[core.CodedError]()) {
		panic(fmt.Sprintf("errors: a rule for %v wants a type without a code and a function that is not nil", t))
	}
	return Rule{func(err error) *Error {
		if found, ok := stderrors.AsType[T](err); ok {
			return convert(found)
		}
		return nil
	}}
}

// RuleFunc asks convert about each error that has no code. Nil means that the rule
// does not match. It is called by many goroutines at once. It panics if convert is nil.
func RuleFunc(convert func(error) *Error) Rule {
	if convert == nil {
		panic("errors: RuleFunc of a nil function")
	}
	return Rule{convert}
}
