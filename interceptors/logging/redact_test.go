package logging_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/interceptors/logging"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/rpctest"
)

// account is a message with all kinds of fields, some of which no log may show:
//
//	message Account {
//		string name = 1;
//		string password = 2 [debug_redact = true];
//		Account parent = 3;
//		repeated Account children = 4;
//		map<string, Account> friends = 5;
//		map<string, string> codes = 6 [debug_redact = true];
//		bytes photo = 7;
//		repeated string tags = 8;
//		Kind kind = 9;
//		int64 number = 10;
//		google.protobuf.Any extra = 11;
//		string pin = 12;
//		double weight = 13;
//		repeated bytes keys = 14 [debug_redact = true];
//		Account hidden = 15 [debug_redact = true];
//	}
//	enum Kind { NONE = 0; OPEN = 1; SECRET_HUNTER2 = 2 [debug_redact = true]; }
var account = func() protoreflect.MessageDescriptor {
	type fdp = descriptorpb.FieldDescriptorProto
	const own = ".weft.logtest.Account"
	optional, repeated := descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL, descriptorpb.FieldDescriptorProto_LABEL_REPEATED
	str, msg, byt := descriptorpb.FieldDescriptorProto_TYPE_STRING, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, descriptorpb.FieldDescriptorProto_TYPE_BYTES
	field := func(number int32, name string, label descriptorpb.FieldDescriptorProto_Label, typ descriptorpb.FieldDescriptorProto_Type, typeName string, redact bool) *fdp {
		f := &fdp{Name: &name, Number: &number, Label: &label, Type: &typ}
		if typeName != "" {
			f.TypeName = &typeName
		}
		if redact {
			f.Options = &descriptorpb.FieldOptions{DebugRedact: new(true)}
		}
		return f
	}
	entry := func(name string, value *fdp) *descriptorpb.DescriptorProto {
		return &descriptorpb.DescriptorProto{
			Name: &name, Options: &descriptorpb.MessageOptions{MapEntry: new(true)},
			Field: []*fdp{field(1, "key", optional, str, "", false), value},
		}
	}
	file := &descriptorpb.FileDescriptorProto{
		Name: new("weft/logtest.proto"), Package: new("weft.logtest"), Syntax: new("proto3"),
		Dependency: []string{"google/protobuf/any.proto"},
		EnumType: []*descriptorpb.EnumDescriptorProto{{Name: new("Kind"), Value: []*descriptorpb.EnumValueDescriptorProto{
			{Name: new("NONE"), Number: new(int32(0))},
			{Name: new("OPEN"), Number: new(int32(1))},
			{Name: new("SECRET_HUNTER2"), Number: new(int32(2)), Options: &descriptorpb.EnumValueOptions{DebugRedact: new(true)}},
		}}},
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: new("Account"),
			Field: []*fdp{
				field(1, "name", optional, str, "", false),
				field(2, "password", optional, str, "", true),
				field(3, "parent", optional, msg, own, false),
				field(4, "children", repeated, msg, own, false),
				field(5, "friends", repeated, msg, own+".FriendsEntry", false),
				field(6, "codes", repeated, msg, own+".CodesEntry", true),
				field(7, "photo", optional, byt, "", false),
				field(8, "tags", repeated, str, "", false),
				field(9, "kind", optional, descriptorpb.FieldDescriptorProto_TYPE_ENUM, ".weft.logtest.Kind", false),
				field(10, "number", optional, descriptorpb.FieldDescriptorProto_TYPE_INT64, "", false),
				field(11, "extra", optional, msg, ".google.protobuf.Any", false),
				field(12, "pin", optional, str, "", false),
				field(13, "weight", optional, descriptorpb.FieldDescriptorProto_TYPE_DOUBLE, "", false),
				field(14, "keys", repeated, byt, "", true),
				field(15, "hidden", optional, msg, own, true),
			},
			NestedType: []*descriptorpb.DescriptorProto{
				entry("FriendsEntry", field(2, "value", optional, msg, own, false)),
				entry("CodesEntry", field(2, "value", optional, str, "", false)),
			},
		}},
	}
	made, err := protodesc.NewFile(file, protoregistry.GlobalFiles)
	if err != nil {
		panic(err)
	}
	if err := protoregistry.GlobalFiles.RegisterFile(made); err != nil {
		panic(err)
	}
	descriptor := made.Messages().Get(0)
	if err := protoregistry.GlobalTypes.RegisterMessage(dynamicpb.NewMessageType(descriptor)); err != nil {
		panic(err)
	}
	return descriptor
}()

// newAccount fills each field, to a depth; all secrets have hunter2 in them.
func newAccount(depth int) *dynamicpb.Message {
	m := dynamicpb.NewMessage(account)
	set := func(name string, v any) {
		m.Set(account.Fields().ByName(protoreflect.Name(name)), protoreflect.ValueOf(v))
	}
	mutable := func(name string) protoreflect.Value {
		return m.Mutable(account.Fields().ByName(protoreflect.Name(name)))
	}
	set("name", "ann")
	set("password", "hunter2")
	set("pin", "hunter2")
	set("kind", protoreflect.EnumNumber(2))
	set("number", int64(7))
	set("weight", math.NaN())
	set("photo", []byte("\x00\x01"))
	mutable("tags").List().Append(protoreflect.ValueOf("a"))
	mutable("codes").Map().Set(protoreflect.ValueOf("hunter2").MapKey(), protoreflect.ValueOf("hunter2"))
	mutable("keys").List().Append(protoreflect.ValueOf([]byte("hunter2")))
	m.SetUnknown(protoreflect.RawFields("\xa2\x06\x07hunter2"))
	if depth > 0 {
		set("parent", newAccount(depth-1).ProtoReflect())
		set("hidden", newAccount(depth-1).ProtoReflect())
		mutable("children").List().Append(protoreflect.ValueOf(newAccount(depth - 1).ProtoReflect()))
		mutable("friends").Map().Set(protoreflect.ValueOf("bob").MapKey(), protoreflect.ValueOf(newAccount(depth-1).ProtoReflect()))
		packed, err := anypb.New(newAccount(depth - 1))
		if err != nil {
			panic(err)
		}
		set("extra", packed.ProtoReflect())
	}
	return m
}

// payloads logs messages by both handlers and returns the text.
func payloads(t testing.TB, opts *logging.Payload, messages ...any) string {
	var out bytes.Buffer
	for _, handler := range []slog.Handler{
		slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}), slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}),
	} {
		i := must(slog.New(handler), &logging.Options{Payload: opts})
		if err := rpctest.Call(rpctest.Fake{Shape: core.ShapeBidiStream, Requests: messages}).Run(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

// Peers log requests whole.
func TestFieldsMarkedInTheSchemaAreRedactedWhereverTheyAre(t *testing.T) {
	text := payloads(t, &logging.Payload{Redact: []string{"weft.logtest.Account.pin"}, MaxBytes: 1 << 20}, newAccount(3))
	if i := strings.Index(strings.ToLower(text), "hunter2"); i >= 0 {
		t.Errorf("the log shows a secret: %.300s", text[max(0, i-200):])
	}
	for _, want := range []string{
		"message.name=ann", "message.password=[REDACTED]", "message.parent.parent.password=[REDACTED]", "message.kind=[REDACTED]", "message.codes=[REDACTED]",
		"message.friends.bob.extra.password=[REDACTED]", "message.hidden=[REDACTED]", `"number":7`, `message.photo="AAE="`, `"weight":"NaN"`, "message.tags=[a]",
		`"children":[{`, `"@type":"type.googleapis.com/weft.logtest.Account"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not in %s", want, text)
		}
	}
	if text := payloads(t, &logging.Payload{MaxBytes: 1 << 20}, newAccount(0)); !strings.Contains(text, "message.pin=hunter2") {
		t.Errorf("the list of one log is that of all: %s", text)
	}
	if text := payloads(t, &logging.Payload{Redact: []string{"weft.logtest.Account.FriendsEntry.value"}, MaxBytes: 1 << 20}, newAccount(1)); !strings.Contains(text, "message.friends.bob=[REDACTED]") {
		t.Errorf("the value of a map is not redacted: %s", text)
	}
}

func TestAFieldCanBeRedactedOnOnePathAlone(t *testing.T) {
	for path, hidden := range map[string]string{
		"weft.logtest.Account.parent.parent.pin":     "message.parent.parent.pin",
		"weft.logtest.Account.parent.friends.pin":    "message.parent.friends.bob.pin",
		"weft.logtest.Account.friends.parent.parent": "message.friends.bob.parent.parent",
	} {
		text := payloads(t, &logging.Payload{Redact: []string{path, "weft.logtest.Account.children", "weft.logtest.Account.extra"}, MaxBytes: 1 << 20}, newAccount(3))
		if !strings.Contains(text, " "+hidden+"=[REDACTED]") || !strings.Contains(text, " message.pin=hunter2") || !strings.Contains(text, " message.parent.pin=hunter2") {
			t.Errorf("%s: %s", path, text)
		}
		// A path begins wherever its message is.
		if path == "weft.logtest.Account.parent.parent.pin" && !strings.Contains(text, " message.friends.bob.parent.parent.pin=[REDACTED]") {
			t.Errorf("%s further inside: %s", path, text)
		}
	}
	text := payloads(t, &logging.Payload{Redact: []string{"weft.logtest.Account.children.pin"}, MaxBytes: 1 << 20}, newAccount(1))
	if strings.Count(text, "pin:hunter2") > 0 || !strings.Contains(text, `"pin":"[REDACTED]"`) || !strings.Contains(text, "message.pin=hunter2") {
		t.Errorf("in a list: %s", text)
	}
}

// An Any is shown by what is in it, and has fields all the same.
func TestTheFieldsOfAnAnyCanBeRedacted(t *testing.T) {
	inner := newAccount(0)
	packed, err := anypb.New(inner)
	if err != nil {
		t.Fatal(err)
	}
	whole := newAccount(2)
	for _, redact := range []string{"google.protobuf.Any.value", "google.protobuf.Any.type_url"} {
		if text := payloads(t, &logging.Payload{Redact: []string{redact}}, packed); !strings.Contains(text, "[REDACTED]") ||
			strings.Contains(text, "hunter2") != strings.Contains(text, "@type=[REDACTED]") {
			t.Errorf("%s: %s", redact, text)
		}
	}
	for _, redact := range []string{"weft.logtest.Account.extra.value", "weft.logtest.Account.friends.extra.value"} {
		text := payloads(t, &logging.Payload{Redact: []string{redact}, MaxBytes: 1 << 20}, whole)
		hidden := strings.TrimSuffix(strings.TrimPrefix(strings.ReplaceAll(redact, "friends", "friends.bob"), "weft.logtest.Account"), ".value")
		if !strings.Contains(text, " message"+hidden+".value=[REDACTED]") || strings.Contains(text, " message"+hidden+".pin") {
			t.Errorf("%s: %s", redact, text)
		}
	}
}

// So it is in a message of a type that was made at run time, and unmarshaled.
func TestAnAnyWithoutAGoTypeIsLookedInto(t *testing.T) {
	packed, err := anypb.New(newAccount(0))
	if err != nil {
		t.Fatal(err)
	}
	wire, err := proto.Marshal(packed)
	if err != nil {
		t.Fatal(err)
	}
	dynamic := dynamicpb.NewMessage(packed.ProtoReflect().Descriptor())
	if err := proto.Unmarshal(wire, dynamic); err != nil {
		t.Fatal(err)
	}
	if text := payloads(t, &logging.Payload{}, dynamic); !strings.Contains(text, "message.password=[REDACTED]") {
		t.Error(text)
	}
}

func TestWhatAnAnyHoldsIsUnknownUntilItIsKnown(t *testing.T) {
	for _, packed := range []*anypb.Any{
		{TypeUrl: "type.googleapis.com/weft.logtest.Nobody", Value: []byte("hunter2")},
		{TypeUrl: "type.googleapis.com/weft.logtest.Account", Value: []byte("hunter2")},
		{Value: []byte("hunter2")},
	} {
		if text := payloads(t, &logging.Payload{}, packed); strings.Contains(text, "hunter2") || !strings.Contains(text, "[7 bytes]") {
			t.Error(text)
		}
	}
	if text := payloads(t, &logging.Payload{}, &struct{ password string }{"hunter2"}, (*dummyv1.DummyRequest)(nil), nil); strings.Contains(text, "hunter2") {
		t.Errorf("what is not a protobuf message is shown: %s", text)
	}
}

func TestAMessageIsCutAtItsBound(t *testing.T) {
	big := strings.Repeat("ü", 1<<20)
	list := &structpb.ListValue{}
	deep := structpb.NewStringValue("x")
	for range 100000 {
		list.Values = append(list.Values, structpb.NewStringValue("abc"))
	}
	for range 5000 {
		deep = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{deep}})
	}
	wide := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for i := range 100000 {
		wide.Fields[fmt.Sprint(i)] = structpb.NewBoolValue(true)
	}
	binary := dynamicpb.NewMessage(account)
	binary.Set(account.Fields().ByName("photo"), protoreflect.ValueOf(make([]byte, 1<<20)))
	for name, msg := range map[string]any{
		"text": &dummyv1.DummyRequest{Input: big}, "list": list, "deep": deep, "wide": wide, "bytes": binary,
	} {
		text := payloads(t, &logging.Payload{MaxBytes: 500}, msg)
		if len(text) > 8000 || !strings.Contains(text, "bytes]") && !strings.Contains(text, "[TRUNCATED]") {
			t.Errorf("%s: %d bytes: %.200s", name, len(text), text)
		}
	}
	for limit := 1; limit < 2000; limit += 3 { // wherever the bound falls
		if text := payloads(t, &logging.Payload{MaxBytes: limit}, newAccount(2)); len(text) > 6000+20*limit {
			t.Errorf("a bound of %d: %d bytes", limit, len(text))
		}
	}
	// The same bytes within the bound are whole.
	if text := payloads(t, &logging.Payload{}, &dummyv1.DummyRequest{Input: "hello"}); !strings.Contains(text, "message.input=hello") {
		t.Error(text)
	}
}

func TestPayloadsAreLoggedOnEveryStack(t *testing.T) {
	log := newCapture()
	opts := &logging.Options{Payload: &logging.Payload{Level: slog.LevelInfo, Redact: []string{"weft.dummy.v1.DummyResponse.output"}}}
	rpctest.Run(t, &rpctest.Options{Server: []core.Interceptor{must(slog.New(log), opts)}}, func(t *testing.T, c *rpctest.Client) {
		if res := c.Call(t.Context(), "x"); res.Err != nil {
			t.Fatal(res)
		}
		for _, want := range []string{"number=1 message.input=x", "number=1 message.output=[REDACTED]", "msg=rpc "} {
			if record := log.next(t); !strings.Contains(record, want) {
				t.Errorf("%s is not in %s", want, record)
			}
		}
	})
}

// Whatever a message is, its log has a bound and shows no field that is marked.
func FuzzPayload(f *testing.F) {
	for depth := range 3 {
		raw, err := proto.Marshal(newAccount(depth))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, 100*depth)
	}
	f.Fuzz(func(t *testing.T, raw []byte, limit int) {
		m := dynamicpb.NewMessage(account)
		if proto.Unmarshal(raw, m) != nil {
			return
		}
		field := account.Fields().ByName("password")
		m.Set(field, protoreflect.ValueOf("h-u-n-t-e-r-2"))
		text := payloads(t, &logging.Payload{MaxBytes: 1 + max(0, limit%10000)}, m)
		if strings.Contains(text, "h-u-n-t-e-r-2") || len(text) > 4000+100*max(0, limit%10000) {
			t.Errorf("%d bytes: %.300s", len(text), text)
		}
	})
}

func ExamplePayload() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: timeless}))
	log, err := logging.New(logger, &logging.Options{
		Payload: &logging.Payload{Redact: []string{"weft.dummy.v1.DummyResponse.output"}},
		Sample:  func(context.Context, *core.Call, core.Code, time.Duration) bool { return false }, // the messages alone
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	call := rpctest.Call(rpctest.Fake{
		Requests:  []any{&dummyv1.DummyRequest{Input: "hello"}},
		Responses: []any{&dummyv1.DummyResponse{Output: "my secret"}},
	})
	_ = call.Run(context.Background(), log)
	// Output:
	// level=DEBUG msg="rpc request" rpc.method=weft.dummy.v1.DummyService/Execute side=server number=1 message.input=hello
	// level=DEBUG msg="rpc response" rpc.method=weft.dummy.v1.DummyService/Execute side=server number=1 message.output=[REDACTED]
}
